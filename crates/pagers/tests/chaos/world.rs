//! What the core believes is in swap, compared with what is, and with what the devices did.

use std::collections::{HashMap, HashSet};

use machvm_hal::{MAX_RUN, PageRun, Swap, SwapError, SwapSlot};
use machvm_pagers::{Codec, Heap, Memory, PageBytes, Pool, Tier, Tiers};

use super::block::{ChaosBlock, Kind};
use super::{PAGE, Random};

/// A page that says who it is. Most compress somewhat, some not at all; none repeats a word.
pub(crate) fn page(name: u64) -> PageBytes {
    let mut r = Random(name.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut p = [0; PAGE];
    let noise = if name.is_multiple_of(3) { PAGE } else { 64 + 8 * r.below(200) };
    p[..noise].as_chunks_mut::<8>().0.fill_with(|| r.next().to_le_bytes());
    p[PAGE - 8..].copy_from_slice(&name.to_le_bytes());
    p
}

/// Pages by their names.
pub(crate) struct Named<'a>(pub(crate) &'a [u64]);
impl PageRun for Named<'_> {
    fn pages(&self) -> usize {
        self.0.len()
    }
    fn read(&self, i: usize, to: &mut PageBytes) {
        *to = page(self.0[i]);
    }
}

/// A compressed pool of so many bytes.
pub(crate) fn pool(codec: Codec, bytes: u64) -> Box<dyn Tier> {
    let name = if codec == Codec::Lz4 { "lz4" } else { "zstd" };
    Box::new(Memory::new(Pool::with_codec(codec, Heap, Some(bytes), 1), name))
}

/// See the module text.
pub(crate) struct World {
    pub(crate) tiers: Tiers,
    pub(crate) blocks: Vec<ChaosBlock>,
    /// Name of the page by slot.
    kept: HashMap<SwapSlot, u64>,
    next: u64,
    /// Pages that were found to be lost when they were to move, and those of them that were asked for.
    lost_in_moves: u64,
    nowhere: HashSet<SwapSlot>,
    /// Reads that failed.
    pub(crate) failed: u64,
}

impl World {
    /// Two devices behind `pools`.
    pub(crate) fn new(seed: u64, sizes: [u64; 2], pools: Vec<Box<dyn Tier>>) -> World {
        let tiers = Tiers::new();
        for (i, pool) in pools.into_iter().enumerate() {
            tiers.on(pool, 10 - i as i32).expect("on");
        }
        let blocks = vec![ChaosBlock::new(sizes[0], seed), ChaosBlock::new(sizes[1], seed ^ 0xabcd)];
        tiers.on(blocks[0].disk("sealed", true), 0).expect("on");
        tiers.on(blocks[1].disk("plain", false), 0).expect("on");
        let (kept, nowhere) = (HashMap::new(), HashSet::new());
        World { tiers, blocks, kept, next: 1, lost_in_moves: 0, nowhere, failed: 0 }
    }
    pub(crate) fn set(&self, kind: Kind, one_in: u32) {
        self.blocks.iter().for_each(|b| b.set(kind, one_in));
    }
    pub(crate) fn calm(&self) {
        self.blocks.iter().for_each(ChaosBlock::calm);
    }
    pub(crate) fn happened(&self, kind: Kind) -> u64 {
        self.blocks.iter().map(|b| b.happened(kind)).sum()
    }
    fn blamed(&self) -> u64 {
        self.blocks.iter().map(ChaosBlock::blamed).sum()
    }
    pub(crate) fn kept(&self) -> usize {
        self.kept.len()
    }

    /// Stores so many new pages; returns how many there was room for.
    pub(crate) fn put(&mut self, n: usize) -> usize {
        let names: Vec<u64> = (self.next..self.next + n as u64).collect();
        self.next += n as u64;
        let mut slots = vec![None; n];
        let kept = self.tiers.put_run(&Named(&names), &mut slots);
        assert_eq!(kept, slots.iter().flatten().count());
        for (slot, name) in slots.iter().zip(names) {
            if let Some(slot) = slot {
                assert_eq!(self.kept.insert(*slot, name), None, "{slot:?} is two pages");
            }
        }
        kept
    }
    /// One of those kept; the order of a map is not replayed, so the least above a number.
    pub(crate) fn any(&self, r: &mut Random) -> Option<SwapSlot> {
        let names = self.kept.values().copied();
        let from = r.next() % self.next;
        let name = names.min_by_key(|n| n.wrapping_sub(from))?;
        self.kept.iter().find(|(_, n)| **n == name).map(|(s, _)| *s)
    }
    /// The page, or an error that has a cause: something went wrong in this very request, or when
    /// the page was moved.
    pub(crate) fn get(&mut self, slot: SwapSlot) -> bool {
        let before = self.blamed();
        let mut bytes = [0xee; PAGE];
        let read = self.tiers.get(slot, &mut bytes);
        match read {
            Ok(()) => assert!(bytes == page(self.kept[&slot]), "wrong bytes for {slot:?}"),
            Err(SwapError::Full) => panic!("{slot:?}: no answer to a read"),
            Err(SwapError::Lost) if self.blamed() != before => self.failed += 1,
            Err(SwapError::Lost) => {
                self.nowhere.insert(slot);
                let (n, most) = (self.nowhere.len() as u64, self.lost_in_moves);
                assert!(n <= most, "{slot:?} is lost, and nothing happened to it ({n} of {most})");
            }
        }
        read.is_ok()
    }
    pub(crate) fn get_run(&mut self, slots: &[SwapSlot]) {
        let mut seen = vec![0; slots.len()];
        let mut failed = Vec::new();
        let kept = &self.kept;
        self.tiers.get_run(slots, &mut |i, read| {
            seen[i] += 1;
            match read {
                Ok(bytes) => assert!(*bytes == page(kept[&slots[i]]), "wrong bytes for {:?}", slots[i]),
                Err(_) => failed.push(slots[i]),
            }
        });
        assert!(seen.iter().all(|n| *n == 1), "each once: {seen:?}");
        // Those that failed with others have a cause of their own.
        for slot in failed {
            self.get(slot);
        }
    }
    /// All that is kept; returns how many pages there were not.
    pub(crate) fn get_all(&mut self) -> usize {
        let all: Vec<_> = self.kept.keys().copied().collect();
        all.iter().filter(|s| !self.get(**s)).count()
    }
    pub(crate) fn free(&mut self, slot: SwapSlot) {
        self.kept.remove(&slot).expect("kept");
        self.tiers.free(slot);
    }
    /// Pages move, and some may be found to be lost.
    pub(crate) fn moving<T>(&mut self, f: impl FnOnce(&Tiers) -> T) -> T {
        let (lost, blamed) = (self.tiers.stats().lost, self.blamed());
        let result = f(&self.tiers);
        let lost = self.tiers.stats().lost - lost;
        assert!(lost <= self.blamed() - blamed, "{lost} pages were lost in a move without a cause");
        self.lost_in_moves += lost;
        result
    }
    /// Nothing moves any more; how many rounds that took.
    pub(crate) fn settled(&mut self) -> usize {
        for round in 0..20_000 {
            if self.moving(Tiers::settle) == 0 {
                return round;
            }
        }
        panic!("pages move for ever: {:?}", self.tiers);
    }

    /// A step that `r` chooses.
    pub(crate) fn step(&mut self, r: &mut Random) {
        match r.below(100) {
            0..45 => drop(self.put(1 + r.below(MAX_RUN))),
            45..60 => {
                if let Some(slot) = self.any(r) {
                    self.get(slot);
                }
            }
            60..70 => {
                let slots: Vec<_> = (0..1 + r.below(8)).filter_map(|_| self.any(r)).collect();
                self.get_run(&slots);
            }
            70..90 => (0..r.below(24)).for_each(|_| self.any(r).into_iter().for_each(|s| self.free(s))),
            90..98 => drop(self.moving(Tiers::settle)),
            _ => self.off_and_on(r),
        }
    }
    fn off_and_on(&mut self, r: &mut Random) {
        let all = self.tiers.tiers();
        let chosen = &all[r.below(all.len())];
        if self.moving(|tiers| tiers.off(&chosen.name)).is_ok() {
            let again: Box<dyn Tier> = match chosen.name.as_str() {
                "lz4" => pool(Codec::Lz4, 1 << 20),
                "zstd" => pool(Codec::Zstd(1), 1 << 20),
                "sealed" => self.blocks[0].disk("sealed", true),
                _ => self.blocks[1].disk("plain", false),
            };
            self.tiers.on(again, chosen.prio).expect("on again");
        }
    }

    /// When everything works again, nothing is left over, and all room that was not given up for
    /// lost can be used.
    pub(crate) fn nothing_is_left(mut self) {
        self.calm();
        self.settled();
        let _ = self.tiers.drain();
        let all: Vec<_> = self.kept.keys().copied().collect();
        all.iter().for_each(|s| self.free(*s));
        assert_eq!(self.tiers.stats().slots, 0);
        for t in self.tiers.tiers() {
            assert_eq!((t.stats.pages, t.stats.in_flight), (0, 0), "{t:?}");
        }
        for name in ["lz4", "zstd"] {
            let _ = self.tiers.off(name);
        }
        // A device that did not work is only tried now and then.
        let mut refused = 0;
        while refused < 64 {
            refused += usize::from(self.put(MAX_RUN) == 0);
        }
        for t in self.tiers.tiers() {
            let s = t.stats;
            assert_eq!(s.pages, s.capacity - s.retired, "room was lost: {t:?}");
        }
        assert_eq!(self.get_all(), 0, "all of it is right");
    }
}
