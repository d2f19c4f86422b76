//! `vm_map_page_query`, `mach_vm_page_range_query` (U25).

use machvm_hal::{MaySleep, RawAddr, RawSize, Va, VaRange};

use super::Task;
use super::raw::{Span, span};
use crate::platform::Platform;

bitflags::bitflags! {
    /// `VM_PAGE_QUERY_*`.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Disposition: u32 {
        /// In memory.
        const PRESENT = 1;
        /// Never here: a structure without a frame.
        const FICTITIOUS = 2;
        /// Used since the daemon last looked.
        const REF = 4;
        /// Modified.
        const DIRTY = 8;
        /// On swap.
        const PAGED_OUT = 0x10;
        /// Shared with a copy until it is written.
        const COPIED = 0x20;
        /// Never here: read ahead and not used.
        const SPECULATIVE = 0x40;
        /// A pager is behind it.
        const EXTERNAL = 0x80;
    }
}

/// Why pages were not described.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageQueryError {
    /// Address and size do not fit together (`KERN_INVALID_ARGUMENT`).
    Wraps(u64),
}

impl<P: Platform> Task<'_, '_, P> {
    /// What is known of the page at `addr`, and how many entries and handles name its
    /// object (U25). Where nothing is mapped: nothing, 0.
    ///
    /// => no lock is held. The answer is of some moment during the call.
    pub fn vm_page_query(&self, addr: RawAddr, may: &mut MaySleep) -> (Disposition, u32) {
        let va = Va::containing(addr);
        let none = (Disposition::empty(), 0);
        let in_space = va.get().checked_add(machvm_hal::PAGE_SIZE).is_some();
        let Some(f) = self.map.facts_at(va, VaRange::page(va), may).filter(|_| in_space) else { return none };
        let mut d = Disposition::empty();
        d.set(Disposition::PRESENT, f.pages.resident != 0);
        d.set(Disposition::REF, f.pages.referenced != 0);
        d.set(Disposition::DIRTY, f.pages.dirty != 0);
        d.set(Disposition::PAGED_OUT, f.pages.swapped != 0);
        d.set(Disposition::COPIED, f.pages.copied != 0);
        d.set(Disposition::EXTERNAL, f.external);
        (d, f.references)
    }

    /// The dispositions of as many pages of the range, from its first on, as `out` has
    /// room for; gives how many (U25).
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// [`PageQueryError`].
    pub fn vm_page_range_query(
        &self,
        addr: RawAddr,
        size: RawSize,
        out: &mut [Disposition],
        may: &mut MaySleep,
    ) -> Result<usize, PageQueryError> {
        let range = match span(addr, size, self.how.overflow) {
            Span::Nothing => return Ok(0),
            Span::Wraps => return Err(PageQueryError::Wraps(addr.0)),
            Span::Pages(r) => r,
        };
        let mut n = 0;
        for (va, to) in range.iter().zip(out) {
            *to = self.vm_page_query(RawAddr(va.get()), may).0;
            n += 1;
        }
        Ok(n)
    }
}
