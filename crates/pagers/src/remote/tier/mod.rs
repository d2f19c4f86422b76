//! Swap on an engine.
//!
//! ```text
//!   put:  pool (compressed) -> the cluster that is being filled -> queue     ... writers -> server
//!   get:  in the pool? from there : read its cluster; the pool gets the other pages too
//! ```
//! What is not written yet is bounded: who puts more waits for the writers. While the server
//! does not answer they go on trying; after [`Patience::whole`](super::Patience::whole) further pages
//! are refused, and those that wait are offered to other tiers, but what was taken is kept.
//!
//! Unlike other tiers this one allocates on the way of a request, as what is below it does.

mod record;
mod state;
#[cfg(test)]
mod tests;
mod work;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use machvm_hal::{PageRun, Swap};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;

use super::cluster::{MOST_PAGES, unpack};
use super::engine::{Engine, EngineError};
use super::place::RemotePlace;
use super::seal::{self, Key};
use crate::tier::{PAGE, PageBytes, PageId, Place, Speed, Tier, TierError, TierStats};
use crate::{Heap, Pool};
use record::Record;
use state::{Found, State};

/// How a [`RemoteTier`] works.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TierOptions {
    /// Bytes of pages that it takes.
    pub max: u64,
    /// Pages of a cluster, 1 to 64.
    pub cluster: usize,
    /// Bytes of memory for compressed pages: those that are not written yet, and others
    /// that may be wanted again.
    pub cache: u64,
    /// Nothing readable leaves the machine.
    pub encrypt: bool,
    /// Clusters that are written at a time.
    pub writers: usize,
    /// For so long the server is not asked again for a cluster that it did not have: each of its
    /// pages is wanted for itself, and with its neighbours.
    pub again: Duration,
}

impl Default for TierOptions {
    fn default() -> Self {
        TierOptions {
            max: Self::MAX,
            cluster: 16,
            cache: 32 << 20,
            encrypt: true,
            writers: 4,
            again: Duration::from_secs(1),
        }
    }
}

impl TierOptions {
    /// Bytes of pages unless something else is said.
    pub const MAX: u64 = 4 << 30;
    /// The most.
    pub const LARGEST: u64 = 256 << 30;
    /// The smallest cache.
    pub const LEAST_CACHE: u64 = 1 << 20;

    fn check(&self) -> Result<(), String> {
        let no = |what: &str| Err(format!("cannot page to a server so: {what}"));
        match () {
            () if !(PAGE as u64..=Self::LARGEST).contains(&self.max) => no("from one page to 256 GiB"),
            () if !(1..=MOST_PAGES).contains(&self.cluster) => no("a cluster has 1 to 64 pages"),
            () if self.cache < Self::LEAST_CACHE => no("the cache has at least 1 MiB"),
            () if !(1..=64).contains(&self.writers) => no("from 1 to 64 writers"),
            () => Ok(()),
        }
    }
}

/// How often a cluster is read that is not what was written: it may have been damaged on its
/// way.
const READS: u32 = 3;
/// How long a request waits that comes when all is over.
const AFTER_THE_END: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Counts {
    puts: AtomicU64,
    gets: AtomicU64,
    frees: AtomicU64,
    full: AtomicU64,
    writes: AtomicU64,
    reads: AtomicU64,
    write_errors: AtomicU64,
    read_errors: AtomicU64,
    damaged: AtomicU64,
}

/// Swap on an engine; see the module text. An [`Arc`] of it is a [`Tier`].
pub struct RemoteTier {
    shared: Arc<Shared>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    name: String,
    kind: &'static str,
    options: TierOptions,
    engine: Arc<Engine>,
    record: Record,
    pool: Pool,
    /// Dirty pages that there may be.
    dirty: u64,
    state: Mutex<State>,
    /// A cluster was written, read, or could not be.
    changed: Condvar,
    /// A permit for each cluster that is queued.
    queued: Semaphore,
    /// There is something to delete.
    died: Notify,
    counts: Counts,
}

fn count(n: &AtomicU64) {
    n.fetch_add(1, Relaxed);
}

fn io(e: &EngineError) -> TierError {
    use rustix::io::Errno;
    TierError::Io(match e {
        EngineError::Refused(_) => Errno::ACCESS.raw_os_error(),
        EngineError::Away(_) => Errno::TIMEDOUT.raw_os_error(),
        EngineError::Missing | EngineError::Changed => Errno::IO.raw_os_error(),
    })
}

impl RemoteTier {
    /// Swap below `place` on an engine that was opened there. What dead runs of this machine
    /// left there is deleted in the background.
    ///
    /// # Errors
    /// Why it cannot be used, in a sentence.
    pub fn open(place: &RemotePlace, engine: Arc<Engine>, options: TierOptions) -> Result<Self, String> {
        options.check()?;
        let cannot = |e: EngineError| format!("cannot page to {}: {e}", place.name());
        let (record, dead) = engine.wait(Record::open(&engine, &place.url)).map_err(cannot)?;
        for one in dead {
            drop(engine.handle().spawn(one.clean_up(Arc::clone(&engine))));
        }
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let shared = Arc::new(Shared {
            name: place.name().to_owned(),
            kind: place.kind(),
            pool: Pool::with_source(Heap, Some(options.cache), threads),
            // The rest of the pool is for what does not compress, and for reads.
            dirty: (options.cache / 2 / PAGE as u64).max(2 * options.cluster as u64),
            state: Mutex::new(State::new(options.cluster, options.max / PAGE as u64)),
            options,
            engine,
            record,
            changed: Condvar::new(),
            queued: Semaphore::new(0),
            died: Notify::new(),
            counts: Counts::default(),
        });
        let tasks = Mutex::new(work::start(&shared));
        Ok(RemoteTier { shared, tasks })
    }

    /// The engine below.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.shared.engine
    }

    /// Deletes everything, waiting at most so long for the server: the run ends. Whoever asks
    /// for a page later waits.
    pub fn end(&self, patience: Duration) {
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        if !tasks.is_empty() {
            self.shared.end(tasks, patience);
        }
    }
}

impl Drop for RemoteTier {
    fn drop(&mut self) {
        self.end(Duration::from_secs(10));
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn wait<'a>(&self, state: MutexGuard<'a, State>, longest: Duration) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, longest).unwrap_or_else(PoisonError::into_inner).0
    }
    fn is_away(&self, state: &State) -> bool {
        state.refused || self.engine.is_away()
    }

    /// Keeps one page; waits for the writers if they are behind.
    fn put(&self, page: &PageBytes, id: PageId) -> Result<Place, TierError> {
        let begun = Instant::now();
        let mut state = self.state();
        loop {
            if state.pages >= state.capacity || state.closed {
                return Err(TierError::Full);
            }
            let some = state.has_cluster();
            if !some && state.deleting == 0 {
                return Err(TierError::Full);
            }
            if some && state.dirty < self.dirty {
                let mut kept = self.pool.put(page);
                while kept.is_err() && state.evict(&self.pool) {
                    kept = self.pool.put(page);
                }
                if let Ok(slot) = kept {
                    let added = state.add(id, slot, self.options.encrypt);
                    drop(state);
                    let Some((place, queued)) = added else {
                        self.pool.free(slot);
                        return Err(TierError::Full);
                    };
                    self.queued.add_permits(usize::from(queued));
                    return Ok(Place(place));
                }
            }
            if some && !state.is_busy() {
                // Nothing would ever make room but the cluster that is being filled.
                if !state.close_filling() {
                    return Err(TierError::Full);
                }
                self.queued.add_permits(1);
            }
            if self.is_away(&state) || begun.elapsed() > self.engine.patience().whole {
                return Err(TierError::Full);
            }
            state = self.wait(state, Duration::from_millis(100));
        }
    }

    fn get(&self, id: PageId, place: Place, page: &mut PageBytes) -> Result<(), TierError> {
        let begun = Instant::now();
        let mut state = self.state();
        loop {
            if state.closed {
                // The process is about to end; an error now would be its last word.
                drop(state);
                std::thread::sleep(AFTER_THE_END);
                return Err(TierError::Io(5));
            }
            match state.find(id, place.0, &self.pool, page) {
                Found::Nothing => return Err(TierError::Lost),
                Found::Here => return Ok(()),
                Found::There { reading: true, .. } if begun.elapsed() < self.engine.patience().whole => {
                    state = self.wait(state, Duration::from_millis(100));
                }
                Found::There { cluster, .. } if state.was_lost(cluster, self.options.again) => {
                    return Err(TierError::Lost);
                }
                Found::There { cluster, number, key, .. } => {
                    state.clusters[cluster as usize].reading = true;
                    drop(state);
                    let k = place.0 as usize % self.options.cluster;
                    let got = self.read((cluster, number), key.as_ref(), k, page);
                    let c = &mut self.state().clusters[cluster as usize];
                    if c.number == number {
                        c.reading = false;
                        c.lost = (got == Err(TierError::Lost)).then(Instant::now);
                    }
                    self.changed.notify_all();
                    return got;
                }
            }
        }
    }

    /// Reads a cluster: `page` becomes its page `k`, and the pool gets the others.
    fn read(
        &self,
        (cluster, number): (u32, u64),
        key: Option<&Key>,
        k: usize,
        page: &mut PageBytes,
    ) -> Result<(), TierError> {
        let name = record::key(self.record.run, number);
        for _ in 0..READS {
            count(&self.counts.reads);
            let mut blob = match self.engine.wait(self.engine.read(&name)) {
                Ok(blob) => blob,
                Err(EngineError::Missing) => {
                    // The server lost it, or it was freed just now.
                    count(&self.counts.read_errors);
                    return Err(TierError::Lost);
                }
                Err(e) => {
                    count(&self.counts.read_errors);
                    return Err(io(&e));
                }
            };
            let Some(body) = seal::open(key, number.into(), &self.record.run.to_le_bytes(), &mut blob) else {
                continue;
            };
            let mut found = false;
            let whole = unpack(body, self.options.cluster, |i, data| {
                if i == k {
                    *page = *data;
                    found = true;
                }
                self.state().keep((cluster, number), i, data, &self.pool);
            });
            if whole && found {
                return Ok(());
            }
        }
        count(&self.counts.damaged);
        Err(TierError::Lost)
    }
}

impl Tier for Arc<RemoteTier> {
    fn name(&self) -> &str {
        &self.shared.name
    }
    fn kind(&self) -> &'static str {
        self.shared.kind
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
        let mut page = [0; PAGE];
        for (i, (id, place)) in ids.iter().zip(places).enumerate() {
            run.read(i, &mut page);
            match self.shared.put(&page, *id) {
                Ok(at) => *place = Some(at),
                Err(e) => {
                    self.shared.counts.full.fetch_add((ids.len() - i) as u64, Relaxed);
                    return Err(e);
                }
            }
            count(&self.shared.counts.puts);
        }
        Ok(())
    }

    fn get(&self, id: PageId, place: Place, page: &mut PageBytes) -> Result<(), TierError> {
        self.shared.get(id, place, page)?;
        count(&self.shared.counts.gets);
        Ok(())
    }

    fn free(&self, id: PageId, place: Place) {
        let (was_there, died) = self.shared.state().forget(id, place.0, &self.shared.pool);
        self.shared.counts.frees.fetch_add(u64::from(was_there), Relaxed);
        if died {
            self.shared.died.notify_one();
        }
    }

    fn drain(&self) -> Result<(), TierError> {
        let mut state = self.shared.state();
        if state.close_filling() {
            self.shared.queued.add_permits(1);
        }
        while state.is_busy() {
            if self.shared.is_away(&state) || state.closed {
                return Err(TierError::Io(rustix::io::Errno::TIMEDOUT.raw_os_error()));
            }
            state = self.shared.wait(state, Duration::from_millis(100));
        }
        Ok(())
    }

    fn stranded(&self, ids: &mut [PageId]) -> usize {
        let mut state = self.shared.state();
        let away = self.shared.is_away(&state);
        state.stranded(ids, away)
    }

    fn close(&self) {
        self.end(Duration::from_secs(10));
    }

    fn stats(&self) -> TierStats {
        let s = &self.shared;
        let get = |n: &AtomicU64| n.load(Relaxed);
        let pool = s.pool.stats().pool_bytes;
        let state = s.state();
        TierStats {
            pages: state.pages,
            capacity: state.capacity,
            bytes: state.in_use() as u64 * (state.n * PAGE) as u64,
            memory: pool + state.bytes(),
            puts: get(&s.counts.puts),
            gets: get(&s.counts.gets),
            frees: get(&s.counts.frees),
            full: get(&s.counts.full),
            writes: get(&s.counts.writes),
            reads: get(&s.counts.reads),
            errors: [get(&s.counts.write_errors), get(&s.counts.read_errors)],
            damaged: get(&s.counts.damaged),
            retired: 0,
            in_flight: state.dirty,
        }
    }
}
