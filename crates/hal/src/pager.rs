//! Where data comes from and goes to.
//!
//! Requests to a [`Pager`] are tokens: each is completed exactly once, and
//! dropping one completes it with an error, so a faulty pager cannot leave a page
//! busy for ever. A pager that answers later, or from another process, detaches the
//! request ([`PageIn::detach`]) and answers by offset, with the calls of
//! [`ObjectControl`](crate::ObjectControl).

use core::num::NonZeroU64;

use crate::addr::{PAGE_SIZE, Pfn};
use crate::control::{Attributes, ControlId};
use crate::page_out::PageOut;
use crate::pmap::PageNo;
use crate::pmap9::MemAttr;
use crate::prot::Prot;

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
    /// As [`PageInSink::complete`]; the accesses `lock` are not allowed to the pages that
    /// have their contents, until the pager says otherwise.
    fn complete_locked(&self, pages: &[PageNo], got: usize, how: Result<Supply, PagerError>, lock: Prot) {
        debug_assert!(lock.is_empty(), "this sink has no page locks");
        self.complete(pages, got, how);
    }
    /// The pages, the first at byte `offset`, wait in the core from here on, until they are
    /// answered by offset. `false`: nobody could answer for them, since they are no memory
    /// object's.
    fn detach(&self, _object: ControlId, _offset: u64, _pages: &[PageNo]) -> bool {
        false
    }
}

/// A run of busy, absent pages that wait for data.
#[must_use]
pub struct PageIn<'a> {
    sink: &'a dyn PageInSink,
    pages: [Option<PageNo>; MAX_CLUSTER],
    len: usize,
    offset: u64,
    object: Option<ControlId>,
    access: Prot,
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
        let len = pages.len().min(MAX_CLUSTER);
        PageIn { sink, pages: list, len, offset, object: None, access: Prot::R, done: false }
    }
    /// For a memory object, and what at least is wanted of the page that faulted.
    pub fn of_object(mut self, object: Option<ControlId>, access: Prot) -> Self {
        (self.object, self.access) = (object, access);
        self
    }
    /// The memory object whose pages these are, or a copy's of it. `None`: the object is one
    /// without control calls.
    pub fn object(&self) -> Option<ControlId> {
        self.object
    }
    /// The access that waits for the page that faulted.
    pub fn access(&self) -> Prot {
        self.access
    }
    /// Number of pages wanted; the one that faulted is among them.
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
        self.finish(got.min(self.len), Ok(how), Prot::NONE);
    }
    /// As [`PageIn::supplied`]; the accesses `lock` are not allowed yet (E06). Only for a
    /// memory object ([`PageIn::object`]): the lock of another is ignored.
    pub fn supplied_locked(mut self, got: usize, how: Supply, lock: Prot) {
        let lock = if self.object.is_some() { lock } else { Prot::NONE };
        self.finish(got.min(self.len), Ok(how), lock);
    }
    /// There is no data for any of the pages: what was not written is zero (E09).
    pub fn unavailable(mut self) {
        self.finish(self.len, Ok(Supply::Clean), Prot::NONE);
    }
    /// The answer comes later, by offset ([`ObjectControl`](crate::ObjectControl)), for the
    /// pages one by one. What was written so far is lost.
    ///
    /// # Errors
    /// The request: it is of no memory object, and is to be answered now.
    pub fn detach(mut self) -> Result<(), Self> {
        let mut list = [PageNo(core::num::NonZeroU32::MIN); MAX_CLUSTER];
        let list = self.list(&mut list);
        match self.object {
            Some(object) if self.sink.detach(object, self.offset, list) => {
                self.done = true;
                Ok(())
            }
            _ => Err(self),
        }
    }
    /// The first `got` pages are filled, the next failed.
    pub fn failed(mut self, got: usize, why: PagerError) {
        self.finish(got.min(self.len), Err(why), Prot::NONE);
    }
    fn list<'b>(&self, list: &'b mut [PageNo; MAX_CLUSTER]) -> &'b [PageNo] {
        for (to, from) in list.iter_mut().zip(self.pages.iter().flatten()) {
            *to = *from;
        }
        &list[..self.len]
    }
    fn finish(&mut self, got: usize, how: Result<Supply, PagerError>, lock: Prot) {
        if core::mem::replace(&mut self.done, true) {
            return;
        }
        let mut list = [PageNo(core::num::NonZeroU32::MIN); MAX_CLUSTER];
        let list = self.list(&mut list);
        if lock.is_empty() {
            self.sink.complete(list, got, how);
        } else {
            self.sink.complete_locked(list, got, how, lock);
        }
    }
}

impl Drop for PageIn<'_> {
    fn drop(&mut self) {
        self.finish(0, Err(PagerError::Io), Prot::NONE);
    }
}

/// Does a pager have data at an offset?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HasPage {
    /// It does not know before it is asked for it.
    Unknown,
    /// No: an absent page is zero, or beyond the end.
    No,
    /// Yes, and in one request with it so many pages before and after it.
    Yes {
        /// Pages before.
        before: u32,
        /// Pages after.
        after: u32,
    },
}

/// Frames of a device, one behind the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceFrames {
    /// The first.
    pub first: Pfn,
    /// How many.
    pub pages: u64,
    /// How they are cached.
    pub attr: MemAttr,
}

impl DeviceFrames {
    /// The first `n` of them at most, from the `at`-th on. `None`: there are not so many.
    pub fn part(self, at: u64, n: u64) -> Option<Self> {
        let left = self.pages.checked_sub(at).filter(|left| *left != 0)?;
        Some(DeviceFrames { first: self.first.add(at), pages: left.min(n), ..self })
    }
}

/// A source of data for objects (a file, a device, a server).
///
/// Called with no VM lock held; the pages of a request are busy. Only the first two are
/// needed; the others tell a pager of memory objects what the core does with them. A call
/// about a memory object may be made when the object has just ended: a pager that does not
/// know the control any more ignores it.
pub trait Pager: Sync {
    /// Completes `req` now or later, from any thread (E05 `memory_object_data_request`, G05,
    /// G06).
    fn page_in(&self, req: PageIn<'_>);
    /// Writes one page back at byte `offset`.
    ///
    /// # Errors
    /// [`PagerError`]; the page stays modified.
    fn page_out(&self, offset: u64, data: &[u8; PAGE_SIZE as usize]) -> Result<(), PagerError>;
    /// Writes a run of pages back (E11 `memory_object_data_return`, G07). Each page gets its
    /// own result ([`PageOut::done`]); without one it stays modified. One that is
    /// [`PagerError::Beyond`] the end is clean, as nobody will read it, unless copies have it.
    fn page_out_run(&self, run: &mut PageOut<'_>) {
        let mut page = [0; PAGE_SIZE as usize];
        for i in 0..run.pages() {
            run.read(i, 0, &mut page);
            let result = self.page_out(run.offset_of(i), &page);
            run.done(i, result);
        }
    }
    /// Is there data at byte `offset` (G08)?
    fn has_page(&self, _offset: u64) -> HasPage {
        HasPage::Unknown
    }
    /// The frames that byte `offset` of a device's memory and what follows are in (G14
    /// `d_mmap`, G16): they are mapped as they are. Only for objects of devices.
    ///
    /// => the map is locked: it waits for nothing, and calls nobody of the VM.
    ///
    /// # Errors
    /// [`PagerError`].
    fn frames(&self, _offset: u64, _access: Prot) -> Result<DeviceFrames, PagerError> {
        Err(PagerError::Gone)
    }
    /// The first use of a memory object (E01): `bytes` may be mapped. What is given makes it
    /// ready; with `None` faults wait until
    /// [`ObjectControl::ready`](crate::ObjectControl::ready).
    fn init(&self, _object: ControlId, _bytes: u64) -> Option<Attributes> {
        Some(Attributes::default())
    }
    /// A page in memory is locked against an access that a fault wants (E14
    /// `memory_object_data_unlock`): answered by a lock request with a smaller lock. Told once
    /// for an access, and again after the lock was changed.
    fn data_unlock(&self, _object: ControlId, _offset: u64, _bytes: u64, _access: Prot) {}
    /// A range was written back on behalf of `msync` (E23 `memory_object_synchronize`); returns
    /// when the pager has it where it shall be.
    ///
    /// # Errors
    /// What msync reports.
    fn synchronize(&self, _object: ControlId, _offset: u64, _bytes: u64) -> Result<(), PagerError> {
        Ok(())
    }
    /// The memory object has users again (E24 `memory_object_map`).
    fn map(&self, _object: ControlId) {}
    /// It has none any more (E24 `memory_object_last_unmap`).
    fn last_unmap(&self, _object: ControlId) {}
    /// A copy was made of the range, with [`CopyStrategy::Call`](crate::CopyStrategy::Call)
    /// (E21 `memory_object_copy`): before the data there changes by other means than this
    /// object, the pager gets the pages into memory or locks them.
    fn copied(&self, _object: ControlId, _offset: u64, _bytes: u64) {}
    /// The core is done with the memory object (E03 `memory_object_terminate`): no more calls
    /// for this control.
    fn terminated(&self, _object: ControlId) {}
    /// Nothing uses the pager any more.
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

/// Pages that go out together, read one at a time: no buffer for all of them is needed.
pub trait PageRun {
    /// Number of pages, at least 1 and at most [`MAX_RUN`].
    fn pages(&self) -> usize;
    /// Copies page `i`. It may be asked for more than once, and stays the same.
    fn read(&self, i: usize, to: &mut [u8; PAGE_SIZE as usize]);
}

/// Largest number of pages in a [`PageRun`].
pub const MAX_RUN: usize = 32;

/// Told of each page of a run that was read: its index, and its contents.
pub type EachPage<'a> = dyn FnMut(usize, Result<&[u8; PAGE_SIZE as usize], SwapError>) + 'a;

/// Where anonymous pages go (the default pager).
///
/// Called with no VM lock held.
pub trait Swap: Sync {
    /// Keeps a copy of `data`.
    ///
    /// # Errors
    /// [`SwapError::Full`].
    fn put(&self, data: &[u8; PAGE_SIZE as usize]) -> Result<SwapSlot, SwapError>;
    /// Keeps copies of pages that are likely to be wanted together again (S07). `slots[i]`
    /// becomes the slot of page `i`, or nothing if there was no room for it. Returns how
    /// many were kept.
    ///
    /// => `slots` has a place for every page.
    fn put_run(&self, run: &dyn PageRun, slots: &mut [Option<SwapSlot>]) -> usize {
        let mut page = [0; PAGE_SIZE as usize];
        let mut kept = 0;
        for (i, slot) in slots.iter_mut().enumerate().take(run.pages()) {
            run.read(i, &mut page);
            *slot = self.put(&page).ok();
            kept += usize::from(slot.is_some());
        }
        kept
    }
    /// Reads a copy back; the slot stays.
    ///
    /// # Errors
    /// [`SwapError::Lost`].
    fn get(&self, slot: SwapSlot, data: &mut [u8; PAGE_SIZE as usize]) -> Result<(), SwapError>;
    /// Reads several copies back (S06): `each` is called once for every index into `slots`,
    /// in any order. The first slot is the one that somebody waits for.
    fn get_run(&self, slots: &[SwapSlot], each: &mut EachPage<'_>) {
        let mut page = [0; PAGE_SIZE as usize];
        for (i, slot) in slots.iter().enumerate() {
            match self.get(*slot, &mut page) {
                Ok(()) => each(i, Ok(&page)),
                Err(e) => each(i, Err(e)),
            }
        }
    }
    /// Whether reading the slot may mean waiting for a device or another machine: who must
    /// not wait gives it to somebody who may.
    fn is_slow(&self, _slot: SwapSlot) -> bool {
        false
    }
    /// The contents are no longer wanted.
    fn free(&self, slot: SwapSlot);
}
