//! Runs of pages on their way back to their pager.

use crate::addr::PAGE_SIZE;
use crate::control::ControlId;
use crate::pager::{MAX_CLUSTER, PagerError};
use crate::pmap::PageNo;

/// The core's side of a run: reads the busy pages.
pub trait PageOutSource: Sync {
    /// Reads from `off` on in a busy page of the run.
    fn read(&self, page: PageNo, off: usize, buf: &mut [u8]);
}

#[derive(Clone, Copy)]
struct Slot {
    page: PageNo,
    dirty: bool,
    result: Result<(), PagerError>,
}

/// Consecutive pages, busy and not writable by anybody, that their pager is to have
/// (`memory_object_data_return`).
pub struct PageOut<'a> {
    source: &'a dyn PageOutSource,
    slots: [Option<Slot>; MAX_CLUSTER],
    len: usize,
    offset: u64,
    object: Option<ControlId>,
    kernel_copy: bool,
}

impl core::fmt::Debug for PageOut<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "PageOut({} pages at byte {:#x})", self.len, self.offset)
    }
}

impl<'a> PageOut<'a> {
    /// A run that begins at byte `offset`, without pages. `kernel_copy`: the core keeps them.
    pub fn new(
        source: &'a dyn PageOutSource,
        object: Option<ControlId>,
        offset: u64,
        kernel_copy: bool,
    ) -> Self {
        PageOut { source, slots: [None; MAX_CLUSTER], len: 0, offset, object, kernel_copy }
    }
    /// The next page; `dirty`: it differs from what the pager gave. `false`: the run is full.
    pub fn push(&mut self, page: PageNo, dirty: bool) -> bool {
        let Some(slot) = self.slots.get_mut(self.len) else { return false };
        *slot = Some(Slot { page, dirty, result: Err(PagerError::Io) });
        self.len += 1;
        true
    }
    /// Number of pages.
    pub fn pages(&self) -> usize {
        self.len
    }
    /// Where the first page belongs, in bytes of the pager's data.
    pub fn offset(&self) -> u64 {
        self.offset
    }
    /// Where page `n` belongs.
    pub fn offset_of(&self, n: usize) -> u64 {
        self.offset.wrapping_add(n as u64 * PAGE_SIZE)
    }
    /// The memory object, if it is one.
    pub fn object(&self) -> Option<ControlId> {
        self.object
    }
    /// Was page `n` modified? If not, it is precious.
    pub fn is_dirty(&self, n: usize) -> bool {
        self.slot(n).is_some_and(|s| s.dirty)
    }
    /// Does the core keep the pages? A hint.
    pub fn kernel_copy(&self) -> bool {
        self.kernel_copy
    }
    /// Reads page `n` from byte `off` on; what reaches beyond the page is left alone.
    pub fn read(&self, n: usize, off: usize, buf: &mut [u8]) {
        let len = (PAGE_SIZE as usize).saturating_sub(off).min(buf.len());
        if let (Some(slot), true) = (self.slot(n), len != 0) {
            self.source.read(slot.page, off, &mut buf[..len]);
        }
    }
    /// How page `n` went: `Ok`, the pager has it.
    pub fn done(&mut self, n: usize, result: Result<(), PagerError>) {
        if let Some(slot) = self.slots[..self.len].get_mut(n).and_then(Option::as_mut) {
            slot.result = result;
        }
    }
    /// The pages with how they went; an error where nothing was said.
    pub fn results(&self) -> impl Iterator<Item = (PageNo, Result<(), PagerError>)> {
        self.slots[..self.len].iter().flatten().map(|s| (s.page, s.result))
    }
    fn slot(&self, n: usize) -> Option<&Slot> {
        self.slots.get(n)?.as_ref()
    }
}
