//! Where data comes from and goes to.
//!
//! Requests to a [`Pager`] are tokens: each is completed exactly once, and
//! dropping one completes it with an error, so a faulty pager cannot leave a page
//! busy for ever.

use core::num::NonZeroU64;

use crate::addr::PAGE_SIZE;
use crate::pmap::PageNo;

/// Largest number of pages in one request.
pub const MAX_CLUSTER: usize = 16;

/// Why a page could not be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PagerError {
    /// The page lies beyond the end of the data (`KERN_OUT_OF_BOUNDS`, SIGBUS).
    Beyond,
    /// No data will ever come (`KERN_MEMORY_FAILURE`).
    Gone,
    /// It could not be read this time (`KERN_MEMORY_ERROR`).
    Io,
}

/// What a completed request holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Supply {
    /// As on the backing store.
    Clean,
    /// Must be returned even if never modified (`precious`).
    Precious,
}

/// The core's side of a request.
pub trait PageInSink: Sync {
    /// Stores into a busy page of the request.
    fn fill(&self, page: PageNo, off: usize, data: &[u8]);
    /// The first `got` pages have their contents (the rest are given up); an error
    /// concerns page `got`.
    fn complete(&self, pages: &[PageNo], got: usize, how: Result<Supply, PagerError>);
}

/// A run of busy, absent pages that wait for data.
#[must_use]
pub struct PageIn<'a> {
    sink: &'a dyn PageInSink,
    pages: [Option<PageNo>; MAX_CLUSTER],
    len: usize,
    offset: u64,
    done: bool,
}

impl core::fmt::Debug for PageIn<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "PageIn({} pages at byte {:#x})", self.len, self.offset)
    }
}

impl<'a> PageIn<'a> {
    /// A request for `pages`, at most [`MAX_CLUSTER`], from byte `offset` on.
    pub fn new(sink: &'a dyn PageInSink, pages: &[PageNo], offset: u64) -> Self {
        let mut list = [None; MAX_CLUSTER];
        for (to, from) in list.iter_mut().zip(pages) {
            *to = Some(*from);
        }
        PageIn { sink, pages: list, len: pages.len().min(MAX_CLUSTER), offset, done: false }
    }
    /// Number of pages wanted; the first is the one that faulted.
    pub fn pages(&self) -> usize {
        self.len
    }
    /// Where the first page's data begins, in bytes of the pager's object.
    pub fn offset(&self) -> u64 {
        self.offset
    }
    /// Stores `data` at byte `at` of the request; what reaches beyond it is cut.
    pub fn write(&mut self, at: u64, data: &[u8]) {
        let (mut at, mut data) = (at, data);
        while !data.is_empty() {
            let (index, off) = ((at / PAGE_SIZE) as usize, (at % PAGE_SIZE) as usize);
            let Some(&Some(page)) = self.pages.get(index) else { return };
            let n = data.len().min(PAGE_SIZE as usize - off);
            self.sink.fill(page, off, &data[..n]);
            data = &data[n..];
            at += n as u64;
        }
    }
    /// The first `got` pages are filled; the rest stay absent.
    pub fn supplied(mut self, got: usize, how: Supply) {
        self.finish(got.min(self.len), Ok(how));
    }
    /// The first `got` pages are filled, the next failed.
    pub fn failed(mut self, got: usize, why: PagerError) {
        self.finish(got.min(self.len), Err(why));
    }
    fn finish(&mut self, got: usize, how: Result<Supply, PagerError>) {
        if core::mem::replace(&mut self.done, true) {
            return;
        }
        let mut list = [PageNo(core::num::NonZeroU32::MIN); MAX_CLUSTER];
        for (to, from) in list.iter_mut().zip(self.pages.iter().flatten()) {
            *to = *from;
        }
        self.sink.complete(&list[..self.len], got, how);
    }
}

impl Drop for PageIn<'_> {
    fn drop(&mut self) {
        self.finish(0, Err(PagerError::Io));
    }
}

/// A source of data for objects (a file, a device, a server).
///
/// Called with no VM lock held; the pages of a request are busy.
pub trait Pager: Sync {
    /// Completes `req` now or later, from any thread.
    fn page_in(&self, req: PageIn<'_>);
    /// Writes one page back at byte `offset`.
    ///
    /// # Errors
    /// [`PagerError`]; the page stays modified.
    fn page_out(&self, offset: u64, data: &[u8; PAGE_SIZE as usize]) -> Result<(), PagerError>;
    /// Nobody maps the object any more.
    fn terminate(&self) {}
}

/// The name of swapped-out contents.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(transparent)]
pub struct SwapSlot(pub NonZeroU64);

/// Why swap refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SwapError {
    /// No room for another page.
    Full,
    /// The stored contents cannot be read back.
    Lost,
}

/// Where anonymous pages go (the default pager).
///
/// Called with no VM lock held.
pub trait Swap: Sync {
    /// Keeps a copy of `data`.
    ///
    /// # Errors
    /// [`SwapError::Full`].
    fn put(&self, data: &[u8; PAGE_SIZE as usize]) -> Result<SwapSlot, SwapError>;
    /// Reads a copy back; the slot stays.
    ///
    /// # Errors
    /// [`SwapError::Lost`].
    fn get(&self, slot: SwapSlot, data: &mut [u8; PAGE_SIZE as usize]) -> Result<(), SwapError>;
    /// The contents are no longer wanted.
    fn free(&self, slot: SwapSlot);
}
