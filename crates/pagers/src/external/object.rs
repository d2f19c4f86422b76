//! Memory objects whose data an external pager has.

use std::io;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

use machvm_hal::{
    Attributes, ControlId, CopyStrategy, MAX_CLUSTER, PAGE_MASK, PAGE_SIZE, PageIn, PageOut, Pager,
    PagerError, Prot, Supply,
};

use super::client::{CallError, Inner, Kernel, count};
use super::convert::{pager_error, rights, rights_number, strategy, strategy_number};
use super::open::OpenError;
use super::ring::Ring;
use super::wire::{self, DIRTY, KERNEL_COPY, Kind, Message, PRECIOUS, Status};

const PAGE: usize = PAGE_SIZE as usize;
/// What is copied at once from the shared memory: on the stack, perhaps of a signal handler.
const CHUNK: usize = 4 * PAGE;

/// Writes bytes at a place of a request's slot.
type Put<'a> = &'a mut dyn FnMut(u64, &[u8]) -> io::Result<()>;
/// Puts all the data of a request.
pub(super) type Fill<'a> = &'a mut dyn FnMut(Put<'_>) -> io::Result<()>;

/// What has happened to an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// Pages that the pager supplied.
    pub pages_in: u64,
    /// Pages that it said it has nothing for.
    pub unavailable: u64,
    /// Pages that it took back.
    pub pages_out: u64,
    /// Requests that ended with an error.
    pub errors: u64,
    /// The byte at which the last of them was.
    pub last_error: Option<u64>,
}

/// A memory object of an external pager: a [`Pager`] for one object of a `Vm`.
pub struct Object {
    inner: Arc<Inner>,
    number: u64,
    /// Empty: made by the kernel.
    name: Box<[u8]>,
    ready: AtomicBool,
    dead: AtomicBool,
    /// Nothing of the core uses it any more.
    released: AtomicBool,
    size: AtomicU64,
    /// Rights, copy strategy, may it be cached.
    rights: AtomicU32,
    strategy: AtomicU32,
    may_cache: AtomicBool,
    /// The core's name for it; 0: none now.
    control: AtomicU64,
    pages_in: AtomicU64,
    unavailable: AtomicU64,
    pages_out: AtomicU64,
    errors: AtomicU64,
    /// One more than the page of the last error.
    last_error: AtomicU64,
}

impl core::fmt::Debug for Object {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Object({} {:?})", self.number, String::from_utf8_lossy(&self.name))
    }
}

impl Object {
    pub(super) fn new(inner: &Arc<Inner>, name: &[u8]) -> Arc<Object> {
        Arc::new(Object {
            inner: Arc::clone(inner),
            number: inner.new_object_number(),
            name: name.into(),
            ready: AtomicBool::new(false),
            dead: AtomicBool::new(false),
            released: AtomicBool::new(false),
            size: AtomicU64::new(0),
            rights: AtomicU32::new(0),
            strategy: AtomicU32::new(strategy_number(CopyStrategy::default())),
            may_cache: AtomicBool::new(false),
            control: AtomicU64::new(0),
            pages_in: AtomicU64::new(0),
            unavailable: AtomicU64::new(0),
            pages_out: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            last_error: AtomicU64::new(0),
        })
    }

    /// Its number on the wire.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }
    /// Its name; empty for memory that the kernel made.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        &self.name
    }
    /// Bytes that the pager said it has.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size.load(Acquire)
    }
    /// Rights that the pager gives.
    #[must_use]
    pub fn rights(&self) -> Prot {
        rights(self.rights.load(Relaxed))
    }
    /// It is ready, and was not destroyed.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.ready.load(Acquire) && !self.dead.load(Acquire)
    }
    /// What has happened to it.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        let get = |n: &AtomicU64| n.load(Relaxed);
        Traffic {
            pages_in: get(&self.pages_in),
            unavailable: get(&self.unavailable),
            pages_out: get(&self.pages_out),
            errors: get(&self.errors),
            last_error: get(&self.last_error).checked_sub(1).map(|page| page * PAGE_SIZE),
        }
    }
    /// What the pager said of it.
    #[must_use]
    pub fn attributes(&self) -> Attributes {
        let copy = strategy(self.strategy.load(Relaxed)).unwrap_or_default();
        Attributes { may_cache: self.may_cache.load(Relaxed), copy }
    }
    /// Where its pager is.
    #[must_use]
    pub fn pager(&self) -> &std::path::Path {
        &self.inner.path
    }

    /// The memory system that it is an object of.
    pub(super) fn kernel(&self) -> Option<&Kernel> {
        self.inner.kernel.get()
    }
    pub(super) fn control(&self) -> Option<ControlId> {
        NonZeroU64::new(self.control.load(Acquire)).map(ControlId)
    }
    pub(super) fn is_released(&self) -> bool {
        self.released.load(Acquire)
    }
    pub(super) fn set_attributes(&self, how: Attributes) {
        self.strategy.store(strategy_number(how.copy), Relaxed);
        self.may_cache.store(how.may_cache, Relaxed);
    }
    /// The pager has it no more.
    pub(super) fn die(&self) {
        self.dead.store(true, Release);
    }
    /// The message that makes the pager know a kernel-made object.
    pub(super) fn create_message(&self) -> Message {
        Message { size: self.size(), ..Message::about(Kind::Create, self.number) }
    }
    /// The message that makes the pager know a named one; its name is to be at `place`.
    pub(super) fn init_message(&self, id: u64, place: u64) -> Message {
        let size = self.name.len() as u64;
        Message { id, size, place, ..Message::about(Kind::Init, self.number) }
    }
    /// Memory of the kernel's own, ready at once.
    pub(super) fn is_kernels(&self, size: u64) {
        self.size.store(size, Relaxed);
        self.rights.store(rights_number(Prot::RW), Relaxed);
        self.ready.store(true, Release);
    }
    /// What `Ready` says. `false`: nonsense.
    pub(super) fn take_attributes(&self, m: &Message) -> bool {
        let Some(copy) = strategy(m.how) else { return false };
        if m.size > i64::MAX as u64 {
            return false;
        }
        self.set_attributes(Attributes { may_cache: m.flags & wire::MAY_CACHE != 0, copy });
        self.rights.store(m.access, Relaxed);
        self.size.store(m.size, Relaxed);
        self.ready.store(true, Release);
        true
    }

    pub(super) fn start(&self) -> Result<Message, OpenError> {
        let send = &mut |ring: &Ring, place| ring.write(place, &self.name);
        let answer = self.inner.call(&self.init_message(0, 0), true, send, &mut |_, _| Ok(()));
        answer.map_err(|e| match e {
            CallError::Gone => OpenError::Gone,
            CallError::Timeout => OpenError::Timeout,
            CallError::Misfit | CallError::Ring => OpenError::Nonsense,
        })
    }

    fn failed(&self, offset: u64) {
        count(&self.errors);
        self.last_error.store(offset / PAGE_SIZE + 1, Relaxed);
    }

    /// Asks for `size` bytes, at most a cluster. `take` gets each piece with its offset in
    /// the answer. Gives how many bytes were answered, whether they are precious, and the lock.
    ///
    /// # Errors
    /// [`PagerError`].
    pub(super) fn request(
        &self,
        offset: u64,
        size: u64,
        access: Prot,
        take: &mut dyn FnMut(u64, &[u8]),
    ) -> Result<(u64, Supply, Prot), PagerError> {
        let result = self.ask(offset, size, access, take);
        if result.is_err() {
            self.failed(offset);
        }
        result
    }

    fn ask(
        &self,
        offset: u64,
        size: u64,
        access: Prot,
        take: &mut dyn FnMut(u64, &[u8]),
    ) -> Result<(u64, Supply, Prot), PagerError> {
        if !self.is_usable() {
            return Err(PagerError::Gone);
        }
        if offset & PAGE_MASK != 0 || offset.checked_add(size).is_none() {
            return Err(PagerError::Beyond);
        }
        let access = rights_number(access);
        let m = Message { offset, size, access, ..Message::about(Kind::DataRequest, self.number) };
        let receive = &mut |ring: &Ring, answer: &Message| {
            if answer.kind == Kind::DataSupply { copy_out(ring, answer, take) } else { Ok(()) }
        };
        let answer = self.inner.call(&m, true, &mut |_, _| Ok(()), receive);
        let answer = answer.map_err(CallError::pager_error)?;
        let pages = answer.size / PAGE_SIZE;
        match answer.kind {
            Kind::DataSupply => {
                self.pages_in.fetch_add(pages, Relaxed);
                let precious = answer.flags & PRECIOUS != 0;
                let how = if precious { Supply::Precious } else { Supply::Clean };
                Ok((answer.size, how, rights(answer.access)))
            }
            Kind::DataUnavailable => {
                self.unavailable.fetch_add(pages, Relaxed);
                Ok((answer.size, Supply::Clean, Prot::NONE))
            }
            _ => Err(pager_error(answer.status())),
        }
    }

    /// Gives `size` bytes back, at most a cluster; `data` writes them at the place it is told.
    ///
    /// # Errors
    /// [`PagerError`].
    pub(super) fn give_back(
        &self,
        offset: u64,
        size: u64,
        flags: u16,
        data: Fill<'_>,
    ) -> Result<(), PagerError> {
        let result = self.give(offset, size, flags, data);
        match result {
            Ok(()) => {
                self.pages_out.fetch_add(size / PAGE_SIZE, Relaxed);
            }
            Err(_) => self.failed(offset),
        }
        result
    }

    fn give(&self, offset: u64, size: u64, flags: u16, data: Fill<'_>) -> Result<(), PagerError> {
        if !self.is_usable() {
            return Err(PagerError::Gone);
        }
        if offset & PAGE_MASK != 0 || offset.checked_add(size).is_none() {
            return Err(PagerError::Beyond);
        }
        let m = Message { offset, size, flags, ..Message::about(Kind::DataReturn, self.number) };
        let send = &mut |ring: &Ring, place| data(&mut |at, bytes| ring.write(place + at, bytes));
        let answer = self.inner.call(&m, true, send, &mut |_, _| Ok(()));
        match answer.map_err(CallError::pager_error)?.status() {
            Status::Success => Ok(()),
            status => Err(pager_error(status)),
        }
    }
}

/// The data of a supply, in pieces.
fn copy_out(ring: &Ring, answer: &Message, take: &mut dyn FnMut(u64, &[u8])) -> io::Result<()> {
    if answer.size <= PAGE_SIZE {
        return copy_pieces::<PAGE>(ring, answer, take);
    }
    copy_pieces::<CHUNK>(ring, answer, take)
}

#[inline(never)]
fn copy_pieces<const N: usize>(ring: &Ring, m: &Message, take: &mut dyn FnMut(u64, &[u8])) -> io::Result<()> {
    let mut buf = [0; N];
    let mut at = 0;
    while at < m.size {
        let n = (m.size - at).min(N as u64) as usize;
        ring.read(m.place + at, &mut buf[..n])?;
        take(at, &buf[..n]);
        at += n as u64;
    }
    Ok(())
}

/// Pages to be returned, from one on, that are alike.
fn alike(run: &PageOut<'_>, first: usize) -> usize {
    let same = |i: &usize| run.is_dirty(*i) == run.is_dirty(first);
    (first..run.pages().min(first + MAX_CLUSTER)).take_while(same).count()
}

impl Pager for Object {
    /// Waits for the pager's answer, at most until the deadline. Needs up to 20 KiB of stack,
    /// allocates nothing.
    fn page_in(&self, mut req: PageIn<'_>) {
        let (offset, size, access) = (req.offset(), req.pages() as u64 * PAGE_SIZE, req.access());
        let got = self.request(offset, size, access, &mut |at, data| req.write(at, data));
        match got {
            Ok((bytes, how, lock)) => req.supplied_locked((bytes / PAGE_SIZE) as usize, how, lock),
            Err(why) => req.failed(0, why),
        }
    }

    fn page_out(&self, offset: u64, data: &[u8; PAGE]) -> Result<(), PagerError> {
        self.give_back(offset, PAGE_SIZE, DIRTY | KERNEL_COPY, &mut |put| put(0, data))
    }

    fn page_out_run(&self, run: &mut PageOut<'_>) {
        let mut first = 0;
        while first < run.pages() {
            let n = alike(run, first);
            let keep = if run.kernel_copy() { KERNEL_COPY } else { 0 };
            let flags = keep | if run.is_dirty(first) { DIRTY } else { 0 };
            let data = &mut |put: Put<'_>| {
                let mut page = [0; PAGE];
                for i in 0..n {
                    run.read(first + i, 0, &mut page);
                    put((i * PAGE) as u64, &page)?;
                }
                Ok(())
            };
            let result = self.give_back(run.offset_of(first), (n * PAGE) as u64, flags, data);
            for i in first..first + n {
                run.done(i, result);
            }
            first += n;
        }
    }

    fn init(&self, object: ControlId, _bytes: u64) -> Option<Attributes> {
        self.released.store(false, Release);
        self.control.store(object.0.get(), Release);
        Some(self.attributes())
    }
    fn data_unlock(&self, _object: ControlId, offset: u64, bytes: u64, access: Prot) {
        let access = rights_number(access);
        self.inner.tell(&Message {
            offset,
            size: bytes,
            access,
            ..Message::about(Kind::DataUnlock, self.number)
        });
    }
    fn synchronize(&self, _object: ControlId, offset: u64, bytes: u64) -> Result<(), PagerError> {
        let size = bytes.next_multiple_of(PAGE_SIZE);
        let m = Message { offset, size, ..Message::about(Kind::Synchronize, self.number) };
        let answer = self.inner.call(&m, false, &mut |_, _| Ok(()), &mut |_, _| Ok(()));
        match answer.map_err(CallError::pager_error)?.status() {
            Status::Success => Ok(()),
            status => Err(pager_error(status)),
        }
    }
    fn map(&self, _object: ControlId) {
        let access = self.rights.load(Relaxed);
        self.inner.tell(&Message { access, ..Message::about(Kind::Map, self.number) });
    }
    fn last_unmap(&self, _object: ControlId) {
        self.inner.tell(&Message::about(Kind::LastUnmap, self.number));
    }
    fn copied(&self, _object: ControlId, offset: u64, bytes: u64) {
        self.inner.tell(&Message { offset, size: bytes, ..Message::about(Kind::Copy, self.number) });
    }
    fn terminated(&self, object: ControlId) {
        // A later use has another control already.
        let _ = self.control.compare_exchange(object.0.get(), 0, Release, Relaxed);
    }
    /// The service thread sees that nobody has it any more, and tells the pager.
    fn terminate(&self) {
        self.released.store(true, Release);
        self.inner.wake_up();
    }
}
