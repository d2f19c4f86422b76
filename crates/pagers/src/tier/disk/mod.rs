//! A tier on a file or a device.
//!
//! ```text
//!   put:  run -> blocks next to each other -> a buffer, sealed -> write begins -> return
//!   get:  still in a buffer? from there : read, with what lies next to it;  open
//! ```
//!
//! Writes are asynchronous, in a fixed number of buffers: who finds none free waits for
//! a write to end. A page is read from the buffer until the write has succeeded; if it
//! fails for good, the buffer keeps the pages (they are *stranded*) until they have moved
//! elsewhere, and the blocks are not used again. So an error of a write loses nothing
//! while memory lasts (Z80), and a device that refuses everything soon has no buffers and
//! takes no more pages. What has nowhere else to go is tried again from time to time: a
//! device that works again is used again.

mod blist;
mod block;
mod crypt;
mod source;
mod state;
#[cfg(test)]
pub(super) mod tests;

pub use block::{Block, Buffer, Done, FileBlock};
pub use source::{DiskError, Opened, Source};

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use machvm_hal::PageRun;

use super::{EachRead, PAGE, PageBytes, PageId, Place, Speed, Tier, TierError, TierStats};
use crypt::{Key, Seal, open, seal};
use state::{Found, Job, Next, State};

/// Pages written with one request.
pub(super) const CLUSTER: usize = 32;
/// Buffers for writes: 2 MiB in flight.
pub(super) const FLIGHTS: usize = 16;
/// Pages read with one request.
const AHEAD: usize = 16;
/// Buffers for reads.
const READS: usize = 8;
/// The first page says whose the file is.
const FIRST: u64 = 1;

/// See the module text.
pub struct Disk {
    opened: Opened,
    block: Box<dyn Block>,
    encrypt: bool,
    state: Mutex<State>,
    /// A buffer came free, or a page.
    changed: Condvar,
    readers: Mutex<Vec<Buffer>>,
    returned: Condvar,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    puts: AtomicU64,
    gets: AtomicU64,
    frees: AtomicU64,
    full: AtomicU64,
    reads: AtomicU64,
    writes: AtomicU64,
    read_errors: AtomicU64,
    damaged: AtomicU64,
}

fn offset(place: u64) -> u64 {
    (FIRST + place) * PAGE as u64
}

fn errno(e: &std::io::Error) -> TierError {
    TierError::Io(e.raw_os_error().unwrap_or(5))
}

fn page_of(bytes: &mut [u8], i: usize) -> Option<&mut PageBytes> {
    bytes.get_mut(i * PAGE..(i + 1) * PAGE)?.try_into().ok()
}

impl Disk {
    /// A tier on what was opened, of which `block` does the reading and writing. With
    /// `encrypt` nothing readable leaves memory.
    pub fn new(opened: Opened, block: Box<dyn Block>, encrypt: bool) -> Self {
        let state = State::new(opened.pages);
        Disk {
            opened,
            block,
            encrypt,
            state: Mutex::new(state),
            changed: Condvar::new(),
            readers: Mutex::new((0..READS).map(|_| Buffer::new(AHEAD)).collect()),
            returned: Condvar::new(),
            counts: Counts::default(),
        }
    }
    /// How it reads and writes, and whether it encrypts.
    pub fn method(&self) -> String {
        format!("{}{}", self.block.method(), if self.encrypt { ", encrypted" } else { "" })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of writes that have ended; a write that is not over goes on.
    fn reap(&self, mut wait: bool) {
        while let Some(done) = self.block.finished(wait) {
            wait = false;
            let next = self.state().ended(done.token, done.result);
            if let Next::Again(token, buffer, from) = next {
                self.write(token, &buffer, from);
            }
            self.changed.notify_all();
        }
    }
    /// Begins to write what is in a buffer, from byte `from` on.
    fn write(&self, token: usize, buffer: &Arc<Buffer>, from: usize) {
        let (mut from, mut part) = (from, self.state().part(token, from));
        while let Some((bytes, place)) = part {
            self.counts.writes.fetch_add(1, Relaxed);
            let at = offset(place) + from as u64;
            let Err(e) = self.block.begin_write(token, buffer, from..bytes, at) else { return };
            match self.state().ended(token, Err(e)) {
                Next::Again(_, _, again) => from = again,
                Next::Over => {
                    self.changed.notify_all();
                    return;
                }
            }
            part = self.state().part(token, from);
        }
    }

    /// A free buffer, and blocks for at most `most` pages.
    fn begin(&self, most: usize) -> Result<Job, TierError> {
        self.reap(false);
        loop {
            let mut state = self.state();
            if let Some(job) = state.begin(most, self.encrypt)? {
                return Ok(job);
            }
            if state.flying() == 0 {
                // Others are still filling theirs.
                drop(self.changed.wait_timeout(state, Duration::from_millis(1)));
                self.reap(false);
            } else {
                drop(state);
                self.reap(true);
            }
        }
    }

    /// A buffer to read into, returned when dropped.
    fn reader(&self) -> Reader<'_> {
        let free = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free =
            self.returned.wait_while(free, |free| free.is_empty()).unwrap_or_else(PoisonError::into_inner);
        Reader { disk: self, buffer: free.pop() }
    }

    fn read(&self, to: &mut [u8], place: u64) -> Result<(), TierError> {
        let (mut got, mut whole) = (0, 0);
        while got < to.len() {
            self.counts.reads.fetch_add(1, Relaxed);
            match self.block.read_at(&mut to[got..], offset(place) + got as u64) {
                Ok(0) => return Err(TierError::Lost), // cut off
                Ok(n) => got += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => {
                    self.counts.read_errors.fetch_add(1, Relaxed);
                    return Err(errno(&e));
                }
            }
            // O_DIRECT goes on at whole blocks only; but what gives less than a page at a time
            // would give the same for ever.
            let pages = got - got % PAGE;
            if pages > whole {
                (got, whole) = (pages, pages);
            }
        }
        Ok(())
    }

    fn opened(
        &self,
        id: PageId,
        place: u64,
        (seal, key): (&Seal, Option<&Key>),
        page: &mut PageBytes,
    ) -> bool {
        let right = open(key, (id, place), seal, page);
        self.counts.gets.fetch_add(u64::from(right), Relaxed);
        right
    }
}

/// A buffer of the disk's.
struct Reader<'a> {
    disk: &'a Disk,
    buffer: Option<Buffer>,
}

impl Reader<'_> {
    fn bytes(&mut self, pages: usize) -> &mut [u8] {
        self.buffer.as_mut().map_or(&mut [], |b| &mut b.bytes_mut()[..pages * PAGE])
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        let mut free = self.disk.readers.lock().unwrap_or_else(PoisonError::into_inner);
        free.extend(self.buffer.take());
        self.disk.returned.notify_one();
    }
}

impl Tier for Disk {
    fn name(&self) -> &str {
        &self.opened.name
    }
    fn kind(&self) -> &'static str {
        self.opened.kind
    }
    fn speed(&self) -> Speed {
        Speed::Slow
    }

    fn put_run(
        &self,
        run: &dyn PageRun,
        ids: &[PageId],
        places: &mut [Option<Place>],
    ) -> Result<(), TierError> {
        let mut at = 0;
        while at < ids.len() {
            let mut job = match self.begin((ids.len() - at).min(CLUSTER)) {
                Ok(job) => job,
                Err(e) => {
                    self.counts.full.fetch_add((ids.len() - at) as u64, Relaxed);
                    return Err(e);
                }
            };
            let mut seals = [Seal::default(); CLUSTER];
            let mut whole = true;
            for k in 0..job.pages {
                let page = Arc::get_mut(&mut job.buffer).and_then(|b| page_of(b.bytes_mut(), k));
                let sealed = page.and_then(|page| {
                    run.read(at + k, page);
                    let name = (ids[at + k], job.place + k as u64);
                    seal(job.key.as_ref(), name, job.number + k as u64, page)
                });
                whole &= sealed.is_some();
                seals[k] = sealed.unwrap_or_default();
            }
            let (token, pages, place) = (job.token, job.pages, job.place);
            let buffer = Arc::clone(&job.buffer);
            if !self.state().commit(job, &ids[at..at + pages], &seals[..pages], whole) {
                self.changed.notify_all();
                return Err(TierError::Io(5));
            }
            self.write(token, &buffer, 0);
            for k in 0..pages {
                places[at + k] = Some(Place(place + k as u64));
            }
            self.counts.puts.fetch_add(pages as u64, Relaxed);
            at += pages;
        }
        Ok(())
    }

    fn get(&self, id: PageId, place: Place, page: &mut PageBytes) -> Result<(), TierError> {
        let found = self.state().find(id, place.0, page, self.encrypt);
        let (in_buffer, seal, key) = match found {
            Found::Nothing => return Err(TierError::Lost),
            Found::InBuffer(seal, key) => (true, seal, key),
            Found::OnDisk(seal, key) => (false, seal, key),
        };
        if !in_buffer {
            let mut reader = self.reader();
            let bytes = reader.bytes(1);
            self.read(bytes, place.0)?;
            page.copy_from_slice(bytes);
        }
        if self.opened(id, place.0, (&seal, key.as_ref()), page) {
            return Ok(());
        }
        self.counts.damaged.fetch_add(1, Relaxed);
        Err(TierError::Lost)
    }

    fn get_run(&self, wanted: &[(PageId, Place)], each: &mut EachRead<'_>) {
        let mut order: [u8; machvm_hal::MAX_RUN] = core::array::from_fn(|i| i as u8);
        let order = &mut order[..wanted.len().min(machvm_hal::MAX_RUN)];
        order.sort_unstable_by_key(|i| wanted[usize::from(*i)].1.0);
        let place = |i: u8| wanted[usize::from(i)].1.0;
        for run in order.chunk_by(|a, b| place(*b) == place(*a) + 1) {
            for part in run.chunks(AHEAD) {
                self.get_part(wanted, part, each);
            }
        }
        for i in machvm_hal::MAX_RUN..wanted.len() {
            each(i, Err(TierError::Full)); // longer than any run
        }
    }

    fn free(&self, id: PageId, place: Place) {
        let freed = self.state().free(id, place.0);
        self.counts.frees.fetch_add(u64::from(freed), Relaxed);
    }

    fn drain(&self) -> Result<(), TierError> {
        loop {
            self.reap(false);
            let state = self.state();
            if state.busy() == 0 {
                return if state.stuck() == 0 { Ok(()) } else { Err(TierError::Io(5)) };
            }
            let flying = state.flying() != 0;
            drop(state);
            if flying {
                self.reap(true);
            } else {
                std::thread::sleep(Duration::from_micros(100));
            }
        }
    }

    fn stranded(&self, ids: &mut [PageId]) -> usize {
        self.reap(false);
        self.state().stranded(ids)
    }

    fn try_again(&self) {
        self.reap(false);
        let again = self.state().try_again();
        if let Some((token, buffer)) = again {
            self.write(token, &buffer, 0);
            drop(buffer);
            self.reap(false);
        }
    }

    fn stats(&self) -> TierStats {
        self.reap(false);
        let c = &self.counts;
        let get = |n: &AtomicU64| n.load(Relaxed);
        let state = self.state();
        TierStats {
            pages: state.pages(),
            capacity: self.opened.pages,
            bytes: state.pages() * PAGE as u64,
            memory: state.bytes() + ((FLIGHTS * CLUSTER + READS * AHEAD) * PAGE) as u64,
            puts: get(&c.puts),
            gets: get(&c.gets),
            frees: get(&c.frees),
            full: get(&c.full),
            writes: get(&c.writes),
            reads: get(&c.reads),
            errors: [state.write_errors(), get(&c.read_errors)],
            damaged: get(&c.damaged),
            retired: state.retired(),
            in_flight: state.in_flight(),
        }
    }
}

impl Disk {
    /// Reads places that follow one another with one request.
    fn get_part(&self, wanted: &[(PageId, Place)], part: &[u8], each: &mut EachRead<'_>) {
        let first = wanted[usize::from(part[0])].1.0;
        let mut reader = self.reader();
        let bytes = reader.bytes(part.len());
        // What the seals were before the read is what was written then.
        let mut notes: [Option<(Seal, Option<Key>)>; AHEAD] = core::array::from_fn(|_| None);
        let mut alone = part.len() == 1;
        {
            let state = self.state();
            for (note, i) in notes.iter_mut().zip(part) {
                let (id, place) = wanted[usize::from(*i)];
                match state.note(id, place.0, self.encrypt) {
                    Found::OnDisk(seal, key) => *note = Some((seal, key)),
                    Found::InBuffer(..) | Found::Nothing => alone = true,
                }
            }
        }
        if alone || self.read(bytes, first).is_err() {
            drop(reader);
            let mut page = [0; PAGE];
            for i in part {
                let (id, place) = wanted[usize::from(*i)];
                let read = self.get(id, place, &mut page);
                each(usize::from(*i), read.map(|()| &page));
            }
            return;
        }
        for (k, i) in part.iter().enumerate() {
            let (id, place) = wanted[usize::from(*i)];
            let opened = match (page_of(bytes, k), &notes[k]) {
                (Some(page), Some((seal, key))) => {
                    self.opened(id, place.0, (seal, key.as_ref()), page).then_some(&*page)
                }
                _ => None,
            };
            each(usize::from(*i), opened.ok_or(TierError::Lost));
        }
    }
}

impl Drop for Disk {
    /// Waits for writes that are under way: their buffers are the device's until then.
    fn drop(&mut self) {
        let _ = self.drain();
    }
}
