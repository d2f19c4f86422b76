//! Anonymous memory paged to an external pager (the default pager of E22).
//!
//! One kernel-made object of the pager holds all pages. Which of its pages are taken, and the
//! checksum of each, stay here: what comes back is compared with what was given, so a pager
//! that lost its data, or mixes it up, costs errors and never wrong contents.
//!
//! Pages are not encrypted: the pager is a process of the same machine that was asked to keep
//! them, and protects what it writes anywhere.

use std::num::NonZeroU64;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::{fmt, io};

use machvm_hal::{EachPage, MAX_CLUSTER, PAGE_SIZE, PageRun, Prot, Swap, SwapError, SwapSlot};

use super::client::{Client, Options, count, lock};
use super::object::Object;
use super::wire::{DIRTY, INITIALIZE};
use crate::slot::SLOT_BITS;
use crate::sum::checksum;

const PAGE: usize = PAGE_SIZE as usize;
/// Bits of a slot for the page of the object; the rest is the generation.
const PLACE_BITS: u32 = 32;
const GENERATIONS: u32 = (1 << (SLOT_BITS - PLACE_BITS)) - 1;

/// Figures of an [`ExternalSwap`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SwapStats {
    /// Pages that are there now.
    pub pages: u64,
    /// Pages that there is room for.
    pub capacity: u64,
    /// Pages ever stored.
    pub puts: u64,
    /// Pages ever read back.
    pub gets: u64,
    /// Pages refused: no room, or the pager did not take them.
    pub refused: u64,
    /// Pages that the pager could not give back.
    pub errors: u64,
    /// Pages that were not what was stored.
    pub damaged: u64,
}

/// Swap at a pager.
pub struct ExternalSwap {
    client: Client,
    object: Arc<Object>,
    places: Mutex<Places>,
    puts: AtomicU64,
    gets: AtomicU64,
    refused: AtomicU64,
    errors: AtomicU64,
    damaged: AtomicU64,
}

impl fmt::Debug for ExternalSwap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExternalSwap({:?}, {:?})", self.client, self.stats())
    }
}

/// The page of the object is in use. Beside it: the generation of its last contents.
const TAKEN: u32 = 1 << 31;

/// What is known of the pages of the object. Zero at first, so that only what was used takes
/// memory.
struct Places {
    state: Vec<u32>,
    sums: Vec<u64>,
    /// Where the search goes on.
    next: usize,
    taken: usize,
}

impl Places {
    /// A run of free pages, at most `n`, which is taken. `None`: there is none.
    fn take(&mut self, n: usize) -> Option<(usize, usize)> {
        let all = self.state.len();
        if self.taken == all {
            return None;
        }
        let free = |s: &u32| s & TAKEN == 0;
        let first = (self.next..all).chain(0..self.next).find(|i| free(&self.state[*i]))?;
        let run = self.state[first..].iter().take(n).take_while(|s| free(s)).count();
        for s in &mut self.state[first..first + run] {
            // 0 is nobody's, so that no slot is 0.
            *s = TAKEN | (*s % GENERATIONS + 1);
        }
        self.next = (first + run) % all;
        self.taken += run;
        Some((first, run))
    }
    fn give(&mut self, place: usize) {
        self.state[place] &= !TAKEN;
        self.taken -= 1;
    }
    /// The page that is kept under that slot.
    fn find(&self, slot: SwapSlot) -> Option<usize> {
        let place = usize::try_from(slot.0.get() & ((1 << PLACE_BITS) - 1)).ok()?;
        let state = u64::from(*self.state.get(place)?);
        (state == u64::from(TAKEN) | slot.0.get() >> PLACE_BITS).then_some(place)
    }
    fn slot(&self, place: usize) -> Option<SwapSlot> {
        let generation = u64::from(self.state.get(place)? & !TAKEN);
        NonZeroU64::new(generation << PLACE_BITS | place as u64).map(SwapSlot)
    }
}

/// The checksum covers whose contents they are.
fn sum_of(page: &[u8; PAGE], slot: SwapSlot) -> u64 {
    checksum(page, slot.0.get())
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
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let client = Client::connect(path, options)?;
        let pages = max / PAGE_SIZE;
        let object = client.create(pages * PAGE_SIZE).map_err(io::Error::other)?;
        let places =
            Places { state: vec![0; pages as usize], sums: vec![0; pages as usize], next: 0, taken: 0 };
        Ok(ExternalSwap {
            client,
            object,
            places: Mutex::new(places),
            puts: AtomicU64::new(0),
            gets: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
        })
    }

    /// The connection.
    pub fn client(&self) -> &Client {
        &self.client
    }
    /// The figures of the moment.
    pub fn stats(&self) -> SwapStats {
        let (pages, capacity) = {
            let places = lock(&self.places);
            (places.taken as u64, places.state.len() as u64)
        };
        SwapStats {
            pages,
            capacity,
            puts: self.puts.load(Relaxed),
            gets: self.gets.load(Relaxed),
            refused: self.refused.load(Relaxed),
            errors: self.errors.load(Relaxed),
            damaged: self.damaged.load(Relaxed),
        }
    }

    /// Stores pages `[at, at + n)` of a run in pages of the object from `first` on.
    fn store(
        &self,
        run: &dyn PageRun,
        at: usize,
        (first, n): (usize, usize),
        slots: &mut [Option<SwapSlot>],
    ) -> bool {
        let mut sums = [0; MAX_CLUSTER];
        let mut names = [None; MAX_CLUSTER];
        {
            let places = lock(&self.places);
            names.iter_mut().enumerate().take(n).for_each(|(i, name)| *name = places.slot(first + i));
        }
        let fill = &mut |put: &mut dyn FnMut(u64, &[u8]) -> io::Result<()>| {
            let mut page = [0; PAGE];
            for i in 0..n {
                run.read(at + i, &mut page);
                if let Some(slot) = names[i] {
                    sums[i] = sum_of(&page, slot);
                }
                put((i * PAGE) as u64, &page)?;
            }
            Ok(())
        };
        let (offset, size) = ((first * PAGE) as u64, (n * PAGE) as u64);
        let stored = self.object.give_back(offset, size, DIRTY | INITIALIZE, fill).is_ok();
        let mut places = lock(&self.places);
        for i in 0..n {
            if stored {
                places.sums[first + i] = sums[i];
                slots[at + i] = names[i];
            } else {
                places.give(first + i);
            }
        }
        stored
    }
}

struct One<'a>(&'a [u8; PAGE]);
impl PageRun for One<'_> {
    fn pages(&self) -> usize {
        1
    }
    fn read(&self, _: usize, to: &mut [u8; PAGE]) {
        *to = *self.0;
    }
}

impl Swap for ExternalSwap {
    fn put(&self, data: &[u8; PAGE]) -> Result<SwapSlot, SwapError> {
        let mut slot = [None];
        self.put_run(&One(data), &mut slot);
        slot[0].ok_or(SwapError::Full)
    }

    fn put_run(&self, run: &dyn PageRun, slots: &mut [Option<SwapSlot>]) -> usize {
        let pages = run.pages().min(slots.len());
        let (mut at, mut kept) = (0, 0);
        while at < pages {
            let Some(place) = lock(&self.places).take((pages - at).min(MAX_CLUSTER)) else { break };
            if !self.store(run, at, place, slots) {
                // It may be gone: the others would wait as long.
                break;
            }
            at += place.1;
            kept += place.1;
        }
        self.puts.fetch_add(kept as u64, Relaxed);
        self.refused.fetch_add((pages - kept) as u64, Relaxed);
        kept
    }

    fn get(&self, slot: SwapSlot, data: &mut [u8; PAGE]) -> Result<(), SwapError> {
        let mut result = Err(SwapError::Lost);
        self.get_run(&[slot], &mut |_, got| {
            result = got.map(|page| *data = *page);
        });
        result
    }

    fn get_run(&self, slots: &[SwapSlot], each: &mut EachPage<'_>) {
        let mut first = 0;
        while first < slots.len() {
            first += self.get_together(slots, first, each);
        }
    }

    fn is_slow(&self, _slot: SwapSlot) -> bool {
        true
    }

    fn free(&self, slot: SwapSlot) {
        let mut places = lock(&self.places);
        if let Some(place) = places.find(slot) {
            places.give(place);
        }
    }
}

impl ExternalSwap {
    /// Reads slots from `first` on that lie next to each other in the object, in one request.
    /// Gives how many.
    fn get_together(&self, slots: &[SwapSlot], first: usize, each: &mut EachPage<'_>) -> usize {
        let mut sums = [0; MAX_CLUSTER];
        let (mut n, mut place) = (0, 0);
        {
            let places = lock(&self.places);
            for slot in slots[first..].iter().take(MAX_CLUSTER) {
                match places.find(*slot) {
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
            each(first, Err(SwapError::Lost));
            return 1;
        }
        let mut told = 0;
        let take = &mut |_: u64, data: &[u8]| {
            for page in data.as_chunks::<PAGE>().0 {
                let i = first + told;
                let right = sum_of(page, slots[i]) == sums[told];
                told += 1;
                count(if right { &self.gets } else { &self.damaged });
                each(i, if right { Ok(page) } else { Err(SwapError::Lost) });
            }
        };
        let (offset, size) = ((place * PAGE) as u64, (n * PAGE) as u64);
        let got = self.object.request(offset, size, Prot::R, take);
        if got.is_err() || told == 0 {
            // An error, or it knows nothing of pages that it was given.
            count(&self.errors);
            for i in told..n {
                each(first + i, Err(SwapError::Lost));
            }
            return n;
        }
        told
    }
}
