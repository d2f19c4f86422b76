//! Swap in memory: the compressed pool.
//!
//! A page that repeats one 8-byte word becomes a slot that contains the word. Any
//! other is compressed (LZ4, or zstd for pages that are wanted rarely) on the caller's
//! stack, and then copied into a shard; a page that hardly shrinks is kept as it is.
//!
//! Shards are not chosen by a hash: a put takes the first one whose lock is free, so a
//! single thread fills one shard densely and threads that collide spread out. The
//! locks are leaves, held for one or two copies of at most a page. Regions are taken
//! from the source and given back with no lock held.
//!
//! What the pool does not do: write anything to a disk, or keep an order of age.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use lz4_flex::block::get_maximum_output_size;
use machvm_hal::{PAGE_SIZE, Swap, SwapError, SwapSlot};
use machvm_sync::{Rank, Spin};

use crate::chain::Kind;
use crate::codec::{Codec, Packer};
use crate::frames::{PER_REGION, REGION};
use crate::region::{Heap, RegionSource};
use crate::shard::{InsertError, Shard};
use crate::slot::{self, Meaning, Name};
use crate::stats::PoolStats;
use crate::sum::{checksum, repeated_word};

const PAGE: usize = PAGE_SIZE as usize;

/// A page that LZ4 cannot bring below this is kept as it is: reading it back is then
/// a copy, which is worth an eighth of a page.
const WORTH_IT: usize = PAGE - PAGE / 8;

/// A shard below this size would consist mostly of half-filled ends of chains.
const SMALLEST_SHARD: u64 = 16 << 20;

/// The compressed pool (`--swap lz4[:MAX]`).
pub struct Pool<S: RegionSource = Heap> {
    shards: Box<[Spin<Shard<S::Region>>]>,
    source: S,
    packer: Packer,
    /// Are pages kept that hardly shrink?
    keeps_raw: bool,
    max: u64,
    #[cfg(test)]
    base: u64,
    /// Memory held: the base, and every region with its place in the tables.
    held: AtomicU64,
    held_peak: AtomicU64,
    filled: AtomicU64,
    filled_puts: AtomicU64,
    filled_gets: AtomicU64,
    filled_frees: AtomicU64,
    full: AtomicU64,
    bad_slots: AtomicU64,
    damaged: AtomicU64,
}

/// What a region costs: itself, its place in the shard's list, and in the directory of
/// handles a place for each of its frames.
const fn region_cost<R>() -> u64 {
    (REGION + size_of::<R>() + PER_REGION * size_of::<u32>()) as u64
}

#[cfg(feature = "std")]
impl Pool<Heap> {
    /// A pool of at most `max` bytes (`None`: [`Pool::LARGEST`]) from the global
    /// allocator, with one shard per processor.
    pub fn new(max: Option<u64>) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Pool::with_source(Heap, max, threads)
    }
}

impl<S: RegionSource> Pool<S> {
    /// Largest pool.
    pub const LARGEST: u64 = 256 << 30;
    /// The pool grows by this many bytes: with less than this and a little for its
    /// tables, only pages that repeat one word can be kept.
    pub const STEP: usize = REGION;

    /// A pool of at most `max` bytes from `source`, for about `threads` threads at once.
    ///
    /// Tables are reserved here, in address space: later calls ask nobody but `source`
    /// for memory.
    pub fn with_source(source: S, max: Option<u64>, threads: usize) -> Self {
        Pool::with_codec(Codec::Lz4, source, max, threads)
    }

    /// As [`Pool::with_source`], with a choice of how pages are compressed. Contexts of
    /// zstd, about 1 MiB for each thread, are made here and do not count.
    pub fn with_codec(codec: Codec, source: S, max: Option<u64>, threads: usize) -> Self {
        let max = max.unwrap_or(Self::LARGEST).min(Self::LARGEST);
        let regions = (max / REGION as u64) as usize;
        let sensible = (max / SMALLEST_SHARD).max(1).min(slot::MAX_SHARDS as u64) as usize;
        let count = threads.clamp(1, sensible);
        let shards: Box<[_]> = (0..count).map(|_| Spin::new(Rank::Leaf, Shard::new(regions))).collect();
        let base = (size_of::<Self>() + size_of_val(&*shards)) as u64;
        Pool {
            shards,
            source,
            packer: Packer::new(codec, threads),
            keeps_raw: true,
            max,
            #[cfg(test)]
            base,
            held: AtomicU64::new(base),
            held_peak: AtomicU64::new(base),
            filled: AtomicU64::new(0),
            filled_puts: AtomicU64::new(0),
            filled_gets: AtomicU64::new(0),
            filled_frees: AtomicU64::new(0),
            full: AtomicU64::new(0),
            bad_slots: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
        }
    }

    /// Refuses pages that hardly shrink: for memory that would be taken from the very pages
    /// that go out, keeping them gains nothing.
    #[must_use]
    pub fn without_raw(self) -> Self {
        Pool { keeps_raw: false, ..self }
    }

    /// How pages are compressed.
    pub fn codec(&self) -> Codec {
        self.packer.codec()
    }

    /// The figures of the moment. Takes the shards' locks in turn.
    pub fn stats(&self) -> PoolStats {
        let filled = self.filled.load(Relaxed);
        let filled_puts = self.filled_puts.load(Relaxed);
        let mut s = PoolStats {
            pages: filled,
            same_filled: filled,
            pool_bytes: self.held.load(Relaxed),
            pool_bytes_peak: self.held_peak.load(Relaxed),
            max_bytes: self.max,
            puts: filled_puts,
            put_same_filled: filled_puts,
            gets: self.filled_gets.load(Relaxed),
            frees: self.filled_frees.load(Relaxed),
            full: self.full.load(Relaxed),
            bad_slots: self.bad_slots.load(Relaxed),
            damaged: self.damaged.load(Relaxed),
            ..PoolStats::default()
        };
        for shard in &self.shards {
            let t = shard.lock().tally;
            s.pages += t.pages;
            s.same_filled += t.words;
            s.raw += t.raw;
            s.stored_bytes += t.bytes;
            s.puts += t.puts;
            s.put_same_filled += t.put_words;
            s.put_raw += t.put_raw;
            s.put_bytes += t.put_bytes;
            s.gets += t.gets;
            s.frees += t.frees;
            s.damaged += t.damaged;
        }
        s
    }

    /// As [`Swap::put`]; the checksum covers `owner` too, so that the page opens for nobody
    /// else. (A page that repeats one word is in its slot, and has no checksum.) Needs about
    /// 16 KiB of stack.
    ///
    /// # Errors
    /// As `put`.
    pub fn put_for(&self, owner: u64, data: &[u8; PAGE]) -> Result<SwapSlot, SwapError> {
        if let Some(word) = repeated_word(data) {
            let Some(slot) = slot::filled(u64::from_le(word)) else {
                return self.store(owner, Kind::Word, &word.to_ne_bytes());
            };
            self.filled.fetch_add(1, Relaxed);
            self.filled_puts.fetch_add(1, Relaxed);
            return Ok(slot);
        }
        let mut packed = [0; get_maximum_output_size(PAGE)];
        match self.packer.pack(data, &mut packed) {
            Some((kind, len)) if len <= WORTH_IT => self.store(owner, kind, &packed[..len]),
            _ if self.keeps_raw => self.store(owner, Kind::Raw, data),
            _ => {
                self.full.fetch_add(1, Relaxed);
                Err(SwapError::Full)
            }
        }
    }

    /// As [`Swap::get`], of a page that was put for `owner`. On error, `data` holds anything.
    ///
    /// # Errors
    /// As `get`: the page of another is lost.
    pub fn get_for(&self, owner: u64, slot: SwapSlot, data: &mut [u8; PAGE]) -> Result<(), SwapError> {
        match slot::meaning(slot) {
            Some(Meaning::Stored(shard, name)) => self.load(owner, shard, name, data),
            Some(Meaning::Filled(word)) => {
                fill(data, word.to_le_bytes());
                self.filled_gets.fetch_add(1, Relaxed);
                Ok(())
            }
            None => {
                self.bad_slots.fetch_add(1, Relaxed);
                Err(SwapError::Lost)
            }
        }
    }

    /// Another region within the bound.
    fn take_region(&self) -> Option<S::Region> {
        let cost = region_cost::<S::Region>();
        let fits = |held: u64| held.checked_add(cost).filter(|sum| *sum <= self.max);
        let before = self.held.fetch_update(Relaxed, Relaxed, fits).ok()?;
        let region = self.source.take(REGION);
        let whole = region.filter(|r| r.as_ref().len() >= REGION);
        if whole.is_some() {
            self.held_peak.fetch_max(before + cost, Relaxed);
        } else {
            self.held.fetch_sub(cost, Relaxed);
        }
        whole
    }
    fn drop_region(&self, region: S::Region) {
        drop(region);
        self.held.fetch_sub(region_cost::<S::Region>(), Relaxed);
    }

    /// Stores `bytes` in the first shard whose lock is free, or else in one with room.
    fn store(&self, owner: u64, kind: Kind, bytes: &[u8]) -> Result<SwapSlot, SwapError> {
        let sum = checksum(bytes, seed(owner, kind));
        let idle = self.shards.iter().position(|s| s.try_lock().is_some()).unwrap_or(0);
        for turn in 0..self.shards.len() {
            let index = (idle + turn) % self.shards.len();
            if let Some(name) = self.store_in(index, kind, bytes, sum) {
                return slot::stored(index, name).ok_or(SwapError::Full);
            }
        }
        self.full.fetch_add(1, Relaxed);
        Err(SwapError::Full)
    }
    fn store_in(&self, index: usize, kind: Kind, bytes: &[u8], sum: u64) -> Option<Name> {
        let shard = &self.shards[index];
        {
            let mut locked = shard.lock();
            match locked.insert(kind, bytes, sum) {
                Ok(name) => return Some(name),
                Err(InsertError::NoNames) => return None,
                Err(InsertError::NoFrames) if !locked.may_add() => return None,
                Err(InsertError::NoFrames) => {}
            }
        }
        let region = self.take_region()?;
        let (left_over, name) = {
            let mut locked = shard.lock();
            let left_over = locked.add(region).err();
            (left_over, locked.insert(kind, bytes, sum).ok())
        };
        if let Some(region) = left_over {
            self.drop_region(region);
        }
        name
    }

    /// Checks every shard and the account of memory.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        let mut regions = 0;
        for shard in &self.shards {
            let locked = shard.lock();
            locked.check();
            regions += locked.regions() as u64;
        }
        assert_eq!(self.held.load(Relaxed), self.base + regions * region_cost::<S::Region>());
    }
    /// Damages byte `at` of a stored page's data.
    #[cfg(test)]
    pub(crate) fn flip(&self, slot: SwapSlot, at: usize, bits: u8) {
        let Some(Meaning::Stored(shard, name)) = slot::meaning(slot) else {
            panic!("{slot:?} is not stored")
        };
        self.shards[shard].lock().flip(name, at, bits);
    }

    fn load(&self, owner: u64, index: usize, name: Name, page: &mut [u8; PAGE]) -> Result<(), SwapError> {
        let mut packed = [0; WORTH_IT];
        let found = self.shards.get(index).and_then(|shard| {
            // Copied under the lock, checked and unpacked without it.
            shard.lock().look(name, |kind, sum, [first, second]| {
                let len = first.len() + second.len();
                let to: &mut [u8] = if kind == Kind::Raw { page } else { &mut packed };
                let to = to.get_mut(..len)?;
                to[..first.len()].copy_from_slice(first);
                to[first.len()..].copy_from_slice(second);
                Some((kind, sum, len))
            })
        });
        let Some(copied) = found else {
            self.bad_slots.fetch_add(1, Relaxed);
            return Err(SwapError::Lost);
        };
        let right = copied.is_some_and(|(kind, sum, len)| {
            let bytes: &[u8] = if kind == Kind::Raw { &page[..len] } else { &packed[..len] };
            checksum(bytes, seed(owner, kind)) == sum && self.unpack(kind, len, &packed, page)
        });
        if right {
            return Ok(());
        }
        self.damaged.fetch_add(1, Relaxed);
        Err(SwapError::Lost)
    }

    /// Makes the page from what was stored. `false`: it does not make a page.
    fn unpack(&self, kind: Kind, len: usize, packed: &[u8; WORTH_IT], page: &mut [u8; PAGE]) -> bool {
        match kind {
            Kind::Lz4 | Kind::Zstd => self.packer.unpack(kind, &packed[..len], page),
            Kind::Raw => len == PAGE,
            Kind::Word => {
                let (words, _) = packed.as_chunks::<8>();
                fill(page, words[0]);
                len == 8
            }
        }
    }
}

/// What the checksum starts with. Odd, the factor maps no two owners to one seed.
fn seed(owner: u64, kind: Kind) -> u64 {
    owner.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ kind as u64
}

fn fill(page: &mut [u8; PAGE], word: [u8; 8]) {
    page.as_chunks_mut::<8>().0.fill(word);
}

impl<S: RegionSource> Swap for Pool<S> {
    fn put(&self, data: &[u8; PAGE]) -> Result<SwapSlot, SwapError> {
        self.put_for(0, data)
    }

    /// On error, `data` holds anything.
    fn get(&self, slot: SwapSlot, data: &mut [u8; PAGE]) -> Result<(), SwapError> {
        self.get_for(0, slot, data)
    }

    /// A slot that is not in use is counted and ignored. (Slots of pages that repeat
    /// one word have no identity: only more frees than puts are noticed.)
    fn free(&self, slot: SwapSlot) {
        let good = match slot::meaning(slot) {
            Some(Meaning::Stored(shard, name)) => self.shards.get(shard).is_some_and(|shard| {
                let (removed, spare) = {
                    let mut locked = shard.lock();
                    (locked.remove(name), locked.trim())
                };
                if let Some(region) = spare {
                    self.drop_region(region);
                }
                removed
            }),
            Some(Meaning::Filled(_)) => {
                let freed = self.filled.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1)).is_ok();
                self.filled_frees.fetch_add(u64::from(freed), Relaxed);
                freed
            }
            None => false,
        };
        self.bad_slots.fetch_add(u64::from(!good), Relaxed);
    }
}

impl<S: RegionSource> core::fmt::Debug for Pool<S> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Pool").field("shards", &self.shards.len()).field("stats", &self.stats()).finish()
    }
}
