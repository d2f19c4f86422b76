//! `pmap(9)` over Linux: the traits of [`machvm_hal::pmap9`], but for booting.
//!
//! A user pmap is a window of the process: address `a` of the pmap is the byte
//! [`LinuxNinePmap::host`] of it, so that every pmap has the same addresses and all of
//! them work at once. The kernel's pmap is a window too, whose addresses are the
//! process's own: what `pmap_kenter_pa` maps can be used as it is.
//!
//! Any page can be mapped anywhere: [`Pmap9::pmap_enter`] makes the one-page region
//! that the core makes for a map entry, and neighbours join when their frames do.
//!
//! Linux has reference and modified bits and does not show them. So an entry here has
//! the two bits itself: *used* is that Linux has the page, *dirty* that Linux lets it be
//! written; without, the access faults and [`Pmap9::pmap_fault`] sets the bit. Wired
//! mappings must not fault, so theirs are not cleared: their pages count as used, and
//! when writing was asked for as written.
//!
//! Unmanaged mappings are plain shared mappings of the memfd that never fault to us.
//!
//! Everything is immediate. What Linux cannot do:
//!
//! * Superpages: [`PmapMachine::superpage_shift`] has none; what the host uses below is
//!   its own business.
//! * Caching: everything is write-back, flags for other modes change nothing.
//! * CPUs: a thread is in every pmap at once, activation does nothing.
//! * Wiring against the host's own paging: `mlockall(MCL_CURRENT | MCL_FUTURE |
//!   MCL_ONFAULT)` is the embedder's to call. Without it and with swap, the host may
//!   take a wired page, and the fault says `true` to [`Pmap9::pmap_fault`].
//! * A call that makes system calls may not interrupt another one of this module
//!   (a signal handler, not even [`PmapMachine::pmap_kenter_pa`]), and takes locks of
//!   rank pmap. Questions and quick pages take none.
//!
//! The core's methods ([`machvm_hal::Pmap`]) do not know these bits: a pmap belongs to
//! one of the two.
//!
//! [`Pmap9::pmap_enter`]: machvm_hal::pmap9::Pmap9::pmap_enter
//! [`Pmap9::pmap_fault`]: machvm_hal::pmap9::Pmap9::pmap_fault
//! [`PmapMachine::superpage_shift`]: machvm_hal::pmap9::PmapMachine::superpage_shift
//! [`PmapMachine::pmap_kenter_pa`]: machvm_hal::pmap9::PmapMachine::pmap_kenter_pa

mod enter;
mod machine;
mod page;
mod plain;
mod quick;
mod space;
mod take;

use core::ops::Deref;
use std::sync::Arc;

use machvm_hal::{PAGE_MASK, PageArray, RawAddr, Va, VaRange};

use super::shadow::Entry;
use super::{LinuxPmap, LinuxPv, PmapError, Window};
use crate::phys::LinuxMem;

pub use quick::LinuxQuick;
use quick::Quick;

/// All pmaps of a process, its pages, its memory.
///
/// `A` leads to the page array, `M` to the memory.
pub struct LinuxNine<A, M> {
    pv: LinuxPv,
    pages: A,
    mem: M,
    kernel: Arc<LinuxPmap>,
    quick: Quick,
    user: u64,
}

/// One address space of a [`LinuxNine`].
pub struct LinuxNinePmap<A> {
    pm: Arc<LinuxPmap>,
    pages: A,
    /// The process's page that is page 0 here. 0: the kernel's.
    base: u64,
}

/// How many pages of addresses there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    /// In the kernel's pmap.
    pub kernel: u64,
    /// In each user pmap.
    pub user: u64,
}

impl<A, M> LinuxNine<A, M>
where
    A: Deref<Target: PageArray + Sized> + Clone + Sync,
    M: Deref<Target = LinuxMem> + Sync,
{
    /// Over the pmaps of a process. `mem` is the memory that `pv` was made for.
    ///
    /// # Errors
    /// [`PmapError`]: no room for the kernel's addresses.
    pub fn new(pv: LinuxPv, pages: A, mem: M, sizes: Sizes) -> Result<Self, PmapError> {
        let kernel = Arc::new(pv.pmap(Window::Reserve(sizes.kernel))?);
        let quick = Quick::new().map_err(PmapError::Reserve)?;
        Ok(LinuxNine { pv, pages, mem, kernel, quick, user: sizes.user })
    }
    /// The addresses of the kernel's pmap.
    pub fn kernel_space(&self) -> VaRange {
        self.kernel.window()
    }
    /// The addresses of each user pmap, in pages from 0.
    pub fn user_pages(&self) -> u64 {
        self.user
    }
    /// The pmaps as the core sees them: where faults are read and counted.
    pub fn pv(&self) -> &LinuxPv {
        &self.pv
    }
}

impl<A> LinuxNinePmap<A> {
    /// The pmap as the core sees it; its addresses are the process's.
    pub fn pmap(&self) -> &LinuxPmap {
        &self.pm
    }
    /// Where a program finds the address `at` of this pmap. `None`: it has no such
    /// address.
    pub fn host(&self, at: RawAddr) -> Option<RawAddr> {
        let va = self.place(Va::containing(at))?;
        Some(RawAddr(va.get() | at.0 & PAGE_MASK))
    }
    /// The address of this pmap that a program finds at `at`: a fault's.
    pub fn guest(&self, at: RawAddr) -> Option<RawAddr> {
        let va = Va::containing(at);
        let page = va.page().checked_sub(self.base).filter(|_| self.pm.window().contains(va))?;
        Some(RawAddr(Va::from_page(page).get() | at.0 & PAGE_MASK))
    }

    fn is_kernel(&self) -> bool {
        self.base == 0
    }
    fn place(&self, va: Va) -> Option<Va> {
        let page = va.page().checked_add(self.base)?;
        let window = self.pm.window();
        (window.start().page()..window.end().page()).contains(&page).then(|| Va::from_page(page))
    }
    /// The same for a range: what of it there is.
    fn place_range(&self, range: VaRange) -> Option<VaRange> {
        let window = self.pm.window();
        let (from, to) = (window.start().page(), window.end().page());
        let start = range.start().page().checked_add(self.base)?.max(from);
        let end = range.end().page().checked_add(self.base)?.min(to);
        let placed =
            if start < end { VaRange::between(Va::from_page(start), Va::from_page(end)) } else { None };
        debug_assert!(
            placed.is_some_and(|p| p.pages() == range.pages()),
            "{range:?} leaves the {} pages from {:#x}",
            to - from,
            from - self.base
        );
        placed
    }
}

/// What works on one pmap, with the process's addresses.
struct Ops<'a, A> {
    pm: &'a LinuxPmap,
    pages: &'a A,
}

impl<A: PageArray> Ops<'_, A> {
    /// The entry of an address, true at some moment of the call.
    fn peek(&self, va: Va) -> Option<Entry> {
        self.pm.mmu.tables.peek(self.pm.root(), self.pm.id(), va).and_then(Entry::of)
    }
    fn all(&self) -> VaRange {
        self.pm.window()
    }
}

impl<A, M> core::fmt::Debug for LinuxNine<A, M> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "LinuxNine({:?}, kernel at {:?})", self.pv, self.kernel.window())
    }
}
impl<A> core::fmt::Debug for LinuxNinePmap<A> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.pm.fmt(f)
    }
}
