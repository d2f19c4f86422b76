//! Anonymous memory paged to an external pager (the default pager of E22): a [`Tier`].
//!
//! One kernel-made object of the pager holds all pages. Whose contents each of its pages has,
//! and their checksum, stay here: what comes back is compared with what was given, so a pager
//! that lost its data, or mixes it up, costs errors and never wrong contents.
//!
//! Pages are not encrypted: the pager is a process of the same machine that was asked to keep
//! them, and protects what it writes anywhere.

use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::{fmt, io};

use machvm_hal::{MAX_CLUSTER, PAGE_SIZE, PageRun, PagerError, Prot};

use super::client::{Client, Options, count, lock};
use super::object::Object;
use super::wire::{DIRTY, INITIALIZE};
use crate::sum::checksum;
use crate::tier::{EachRead, PAGE, PageBytes, PageId, Place, Speed, Tier, TierError, TierStats};

/// Nobody's contents.
const FREE: u64 = 0;

/// Swap at a pager. An [`Arc`] of it is a [`Tier`].
pub struct ExternalSwap {
    name: String,
    client: Client,
    object: Arc<Object>,
    places: Mutex<Places>,
    counts: Counts,
}

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

impl fmt::Debug for ExternalSwap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExternalSwap({:?}, {} pages)", self.client, lock(&self.places).taken)
    }
}

/// What is known of the pages of the object. Zero at first, so that only what was used takes
/// memory.
struct Places {
    /// Whose contents.
    owner: Vec<u64>,
    sums: Vec<u64>,
    /// Where the search goes on: a page just given up is the last that is used again.
    next: usize,
    taken: usize,
}

impl Places {
    /// A run of free pages, at most as long as `ids`, which get them. `None`: there is none.
    fn take(&mut self, ids: &[PageId]) -> Option<(usize, usize)> {
        let all = self.owner.len();
        if self.taken == all {
            return None;
        }
        let first = (self.next..all).chain(0..self.next).find(|i| self.owner[*i] == FREE)?;
        let run = self.owner[first..].iter().take(ids.len()).take_while(|o| **o == FREE).count();
        for (owner, id) in self.owner[first..].iter_mut().zip(&ids[..run]) {
            *owner = id.0;
        }
        self.next = (first + run) % all;
        self.taken += run;
        Some((first, run))
    }
    fn give(&mut self, place: usize) {
        self.owner[place] = FREE;
        self.taken -= 1;
    }
    /// The page of the object that has those contents.
    fn find(&self, id: PageId, place: Place) -> Option<usize> {
        let at = usize::try_from(place.0).ok()?;
        (*self.owner.get(at)? == id.0 && id.0 != FREE).then_some(at)
    }
}

fn tier_error(e: PagerError) -> TierError {
    TierError::Io(match e {
        PagerError::Gone => rustix::io::Errno::PIPE.raw_os_error(),
        PagerError::Io | PagerError::Beyond => rustix::io::Errno::IO.raw_os_error(),
    })
}

impl ExternalSwap {
    /// Bytes that a pager is asked to keep unless something else is said.
    pub const DEFAULT: u64 = 4 << 30;
    /// The most that one may be asked for.
    pub const LARGEST: u64 = 256 << 30;

    /// At most `max` bytes at the pager that listens at `path`.
    ///
    /// # Errors
    /// As [`Client::connect`]; `InvalidInput`: `max` is no page, or beyond
    /// [`ExternalSwap::LARGEST`].
    pub fn connect(path: &Path, max: u64, options: Options) -> io::Result<ExternalSwap> {
        if !(PAGE_SIZE..=Self::LARGEST).contains(&max) {
            let what = "a pager is given from one page to 256 GiB";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let client = Client::connect(path, options)?;
        let pages = max / PAGE_SIZE;
        let object = client.create(pages * PAGE_SIZE).map_err(io::Error::other)?;
        let none = || vec![0; pages as usize];
        Ok(ExternalSwap {
            name: path.to_string_lossy().into_owned(),
            client,
            object,
            places: Mutex::new(Places { owner: none(), sums: none(), next: 0, taken: 0 }),
            counts: Counts::default(),
        })
    }

    /// The connection.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Stores the first pages of `ids`, which are those of the run from `at` on, in as many
    /// pages of the object from `first` on.
    fn store(&self, run: &dyn PageRun, at: usize, first: usize, ids: &[PageId]) -> Result<(), PagerError> {
        let mut sums = [0; MAX_CLUSTER];
        let fill = &mut |put: &mut dyn FnMut(u64, &[u8]) -> io::Result<()>| {
            let mut page = [0; PAGE];
            for (i, id) in ids.iter().enumerate() {
                run.read(at + i, &mut page);
                // It covers whose contents they are.
                sums[i] = checksum(&page, id.0);
                put((i * PAGE) as u64, &page)?;
            }
            Ok(())
        };
        let (offset, size) = ((first * PAGE) as u64, (ids.len() * PAGE) as u64);
        count(&self.counts.writes);
        let stored = self.object.give_back(offset, size, DIRTY | INITIALIZE, fill);
        let mut places = lock(&self.places);
        if stored.is_ok() {
            places.sums[first..first + ids.len()].copy_from_slice(&sums[..ids.len()]);
        } else {
            count(&self.counts.write_errors);
            (first..first + ids.len()).for_each(|place| places.give(place));
        }
        stored
    }

    /// Reads pages from `first` on that lie next to each other in the object, in one request.
    /// Gives how many.
    fn get_together(&self, wanted: &[(PageId, Place)], first: usize, each: &mut EachRead<'_>) -> usize {
        let mut sums = [0; MAX_CLUSTER];
        let (mut n, mut place) = (0, 0);
        {
            let places = lock(&self.places);
            for (id, at) in wanted[first..].iter().take(MAX_CLUSTER) {
                match places.find(*id, *at) {
                    Some(at) if n == 0 || at == place + n => {
                        place = if n == 0 { at } else { place };
                        sums[n] = places.sums[at];
                        n += 1;
                    }
                    _ => break,
                }
            }
        }
        if n == 0 {
            each(first, Err(TierError::Lost));
            return 1;
        }
        let mut told = 0;
        let take = &mut |_: u64, data: &[u8]| {
            for page in data.as_chunks::<PAGE>().0 {
                let i = first + told;
                let right = checksum(page, wanted[i].0.0) == sums[told];
                told += 1;
                count(if right { &self.counts.gets } else { &self.counts.damaged });
                each(i, if right { Ok(page) } else { Err(TierError::Lost) });
            }
        };
        let (offset, size) = ((place * PAGE) as u64, (n * PAGE) as u64);
        count(&self.counts.reads);
        let got = self.object.request(offset, size, Prot::R, take);
        let why = match got {
            Ok(_) if told != 0 => return told,
            // It knows nothing of pages that it was given.
            Ok(_) => TierError::Lost,
            Err(e) => tier_error(e),
        };
        count(&self.counts.read_errors);
        (told..n).for_each(|i| each(first + i, Err(why)));
        n
    }
}

impl Tier for Arc<ExternalSwap> {
    fn name(&self) -> &str {
        &self.name
    }
    fn kind(&self) -> &'static str {
        "pager"
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
            let cluster = &ids[at..ids.len().min(at + MAX_CLUSTER)];
            let Some((first, n)) = lock(&self.places).take(cluster) else {
                self.counts.full.fetch_add((ids.len() - at) as u64, Relaxed);
                return Err(TierError::Full);
            };
            // It may be gone: the others would wait as long.
            self.store(run, at, first, &cluster[..n]).map_err(tier_error)?;
            for i in 0..n {
                places[at + i] = Some(Place((first + i) as u64));
            }
            self.counts.puts.fetch_add(n as u64, Relaxed);
            at += n;
        }
        Ok(())
    }

    fn get(&self, id: PageId, place: Place, page: &mut PageBytes) -> Result<(), TierError> {
        let mut result = Err(TierError::Lost);
        self.get_together(&[(id, place)], 0, &mut |_, got| result = got.map(|data| *page = *data));
        result
    }

    fn get_run(&self, wanted: &[(PageId, Place)], each: &mut EachRead<'_>) {
        let mut first = 0;
        while first < wanted.len() {
            first += self.get_together(wanted, first, each);
        }
    }

    /// The pager is not told: what it has there is overwritten some time.
    fn free(&self, id: PageId, place: Place) {
        let mut places = lock(&self.places);
        if let Some(at) = places.find(id, place) {
            places.give(at);
            count(&self.counts.frees);
        }
    }

    fn stats(&self) -> TierStats {
        let (taken, all) = {
            let places = lock(&self.places);
            (places.taken as u64, places.owner.len() as u64)
        };
        let get = |n: &AtomicU64| n.load(Relaxed);
        let c = &self.counts;
        TierStats {
            pages: taken,
            capacity: all,
            bytes: taken * PAGE_SIZE,
            memory: all * 16,
            puts: get(&c.puts),
            gets: get(&c.gets),
            frees: get(&c.frees),
            full: get(&c.full),
            writes: get(&c.writes),
            reads: get(&c.reads),
            errors: [get(&c.write_errors), get(&c.read_errors)],
            damaged: get(&c.damaged),
            ..TierStats::default()
        }
    }
}
