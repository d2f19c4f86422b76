//! Several tiers against a map, with devices that fail.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};

use machvm_hal::{MAX_RUN, PageRun, Swap, SwapError, SwapSlot};

use super::disk::tests::BadBlock;
use super::*;
use crate::region::Heap;
use crate::{Codec, Pool};

/// xorshift64*: the seed is all there is to replay.
struct Random(u64);
impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 16) as usize % n
    }
}

fn seed() -> u64 {
    let seed = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |d| d.as_nanos() as u64) | 1
    });
    println!("SEED={seed}");
    seed
}

/// A page that says who it is; some repeat a word, some do not compress.
fn page(name: u64) -> PageBytes {
    let mut r = Random(name.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut p = [0; PAGE];
    match name % 4 {
        0 => p.as_chunks_mut::<8>().0.fill((name / 4 % 5).to_le_bytes()),
        1 => p.as_chunks_mut::<8>().0.fill_with(|| r.next().to_le_bytes()),
        _ => {
            let noise = 8 * (1 + r.below(200));
            p[..noise].as_chunks_mut::<8>().0.fill_with(|| r.next().to_le_bytes());
            p[PAGE - 8..].copy_from_slice(&name.to_le_bytes());
        }
    }
    p
}

struct Named<'a>(&'a [u64]);
impl PageRun for Named<'_> {
    fn pages(&self) -> usize {
        self.0.len()
    }
    fn read(&self, i: usize, to: &mut PageBytes) {
        *to = page(self.0[i]);
    }
}

struct One<'a>(&'a PageBytes);
impl PageRun for One<'_> {
    fn pages(&self) -> usize {
        1
    }
    fn read(&self, _: usize, to: &mut PageBytes) {
        *to = *self.0;
    }
}

fn pool(codec: Codec, bytes: u64) -> Box<dyn Tier> {
    let name = if codec == Codec::Lz4 { "lz4" } else { "zstd" };
    Box::new(Memory::new(Pool::with_codec(codec, Heap, Some(bytes), 1), name))
}

/// What the core believes, and what may have happened to it.
struct World {
    tiers: Tiers,
    /// Name of the page by slot.
    kept: HashMap<SwapSlot, Vec<u64>>,
    next: u64,
    lost: u64,
    may_lose: bool,
}

impl World {
    fn new(may_lose: bool) -> Self {
        World { tiers: Tiers::new(), kept: HashMap::new(), next: 1, lost: 0, may_lose }
    }
    fn put(&mut self, n: usize) -> usize {
        let names: Vec<u64> = (self.next..self.next + n as u64).collect();
        self.next += n as u64;
        let mut slots = vec![None; n];
        let kept = self.tiers.put_run(&Named(&names), &mut slots);
        assert_eq!(kept, slots.iter().flatten().count());
        for (slot, name) in slots.iter().zip(names) {
            if let Some(slot) = slot {
                self.kept.entry(*slot).or_default().push(name);
            }
        }
        kept
    }
    fn right(&mut self, slot: SwapSlot, read: Result<&PageBytes, SwapError>) {
        match read {
            Ok(bytes) => assert!(*bytes == page(self.kept[&slot][0]), "wrong bytes for {slot:?}"),
            Err(e) => {
                assert!(self.may_lose, "{slot:?}: {e:?}");
                self.lost += 1;
            }
        }
    }
    fn any(&self, r: &mut Random) -> Option<SwapSlot> {
        let n = self.kept.len();
        (n != 0).then(|| *self.kept.keys().nth(r.below(n)).expect("one of them"))
    }
    fn get(&mut self, slot: SwapSlot) {
        let mut bytes = [0xee; PAGE];
        let read = self.tiers.get(slot, &mut bytes);
        self.right(slot, read.map(|()| &bytes));
    }
    fn get_run(&mut self, slots: &[SwapSlot]) {
        let mut seen = vec![0; slots.len()];
        let mut reads = Vec::new();
        self.tiers.get_run(slots, &mut |i, read| {
            seen[i] += 1;
            reads.push((slots[i], read.copied()));
        });
        assert!(seen.iter().all(|n| *n == 1), "each once: {seen:?}");
        for (slot, read) in reads {
            self.right(slot, read.as_ref().map_err(|e| *e));
        }
    }
    fn free(&mut self, slot: SwapSlot) {
        let names = self.kept.get_mut(&slot).expect("kept");
        names.pop();
        if names.is_empty() {
            self.kept.remove(&slot);
        }
        self.tiers.free(slot);
    }
    fn free_all(&mut self) {
        while let Some(slot) = self.kept.keys().next().copied() {
            self.free(slot);
        }
        assert_eq!(self.tiers.stats().slots, 0);
        for t in self.tiers.tiers() {
            assert_eq!(t.stats.pages, 0, "{t:?}");
        }
    }
}

fn play(seed: u64, rounds: usize, may_lose: bool, bad: &dyn Fn(&BadBlock)) -> World {
    let mut r = Random(seed);
    let mut w = World::new(may_lose);
    let blocks = [BadBlock::new(400, seed), BadBlock::new(300, seed ^ 77)];
    w.tiers.on(pool(Codec::Lz4, 1 << 20), 10).expect("on");
    w.tiers.on(pool(Codec::Zstd(3), 1 << 20), 5).expect("on");
    w.tiers.on(Box::new(blocks[0].disk("one", 400, true)), 0).expect("on");
    w.tiers.on(Box::new(blocks[1].disk("two", 300, false)), 0).expect("on");
    blocks.iter().for_each(bad);
    for _ in 0..rounds {
        match r.below(100) {
            0..40 => drop(w.put(1 + r.below(MAX_RUN))),
            40..60 => w.any(&mut r).into_iter().for_each(|s| w.get(s)),
            60..70 => {
                let slots: Vec<_> = (0..1 + r.below(16)).filter_map(|_| w.any(&mut r)).collect();
                w.get_run(&slots);
            }
            70..90 => (0..r.below(40)).for_each(|_| w.any(&mut r).into_iter().for_each(|s| w.free(s))),
            90..98 => drop(w.tiers.settle()),
            _ => {
                let all = w.tiers.tiers();
                let chosen = &all[r.below(all.len())];
                if w.tiers.off(&chosen.name).is_ok() {
                    let again: Box<dyn Tier> = match chosen.name.as_str() {
                        "lz4" => pool(Codec::Lz4, 1 << 20),
                        "zstd" => pool(Codec::Zstd(3), 1 << 20),
                        "one" => Box::new(blocks[0].disk("one", 400, true)),
                        _ => Box::new(blocks[1].disk("two", 300, false)),
                    };
                    w.tiers.on(again, chosen.prio).expect("on again");
                }
            }
        }
    }
    let all: Vec<_> = w.kept.keys().copied().collect();
    all.iter().for_each(|s| w.get(*s));
    w
}

fn rounds() -> usize {
    std::env::var("ROUNDS").ok().and_then(|s| s.parse().ok()).unwrap_or(1500)
}

#[test]
fn s09_s14_behave_like_a_map_whatever_comes_and_goes() {
    let mut w = play(seed(), rounds(), false, &|_| {});
    assert!(w.tiers.stats().stored > 1000 && w.tiers.stats().moved > 0);
    w.free_all();
}

#[test]
fn s08_failing_and_short_writes_lose_nothing() {
    let mut w = play(seed(), rounds(), false, &|block| {
        block.faults.write_error.store(20, Relaxed);
        block.faults.short_write.store(3, Relaxed);
        block.faults.late.store(true, Relaxed);
    });
    w.free_all();
}

#[test]
fn damage_costs_its_own_pages_only() {
    let mut w = play(seed(), rounds(), true, &|block| {
        block.faults.torn.store(40, Relaxed);
        block.faults.flip.store(40, Relaxed);
        block.faults.read_error.store(10, Relaxed);
    });
    assert!(w.lost < w.tiers.stats().stored / 4, "{} reads failed", w.lost);
    w.free_all();
}

/// Who asks memory for a page under another page's name gets an error and no contents.
#[test]
fn s06_a_pool_gives_a_page_to_its_owner_only() {
    for codec in [Codec::Lz4, Codec::Zstd(1)] {
        let tier = pool(codec, 4 << 20);
        // One of each kind: compressed, incompressible, and a word that no slot can contain.
        let mut word = [0; PAGE];
        word.as_chunks_mut::<8>().0.fill(0x9123_4567_89ab_cdef_u64.to_le_bytes());
        for (name, contents) in [(1, page(2)), (2, page(1)), (3, word)] {
            let (id, mut place) = (PageId(name), [None]);
            tier.put_run(&One(&contents), &[id], &mut place).expect("room");
            let place = place[0].expect("it has a place");
            let (mut read, damaged) = ([0; PAGE], tier.stats().damaged);
            for other in [0, name + 1, name | 1 << 63, name << 32] {
                assert_eq!(tier.get(PageId(other), place, &mut read), Err(TierError::Lost), "as {other}");
            }
            assert_eq!(tier.stats().damaged, damaged + 4);
            assert_eq!(tier.get(id, place, &mut read), Ok(()));
            assert!(read == contents, "page {name}");
        }
    }
}

#[test]
fn s09_higher_priorities_first_and_equal_ones_in_turn() {
    let mut w = World::new(false);
    let blocks = [BadBlock::new(64, 1), BadBlock::new(64, 2), BadBlock::new(64, 3)];
    w.tiers.on(Box::new(blocks[0].disk("low", 64, true)), 1).expect("on");
    w.tiers.on(Box::new(blocks[1].disk("a", 64, true)), 5).expect("on");
    w.tiers.on(Box::new(blocks[2].disk("b", 64, true)), 5).expect("on");
    let pages =
        |w: &World| w.tiers.tiers().iter().map(|t| (t.name.clone(), t.stats.pages)).collect::<Vec<_>>();
    w.next = 1;
    let noise = |w: &mut World, n: u64| {
        // Names that are 1 modulo 4: none of them repeats a word.
        let names: Vec<u64> = (0..n).map(|i| (w.next + i) * 4 + 1).collect();
        w.next += n;
        let mut slots = vec![None; n as usize];
        w.tiers.put_run(&Named(&names), &mut slots)
    };
    for _ in 0..2 {
        assert_eq!(noise(&mut w, 32), 32);
    }
    assert_eq!(pages(&w), [("a".into(), 32), ("b".into(), 32), ("low".into(), 0)]);
    for _ in 0..4 {
        assert_eq!(noise(&mut w, 32), 32);
    }
    assert_eq!(pages(&w), [("a".into(), 64), ("b".into(), 64), ("low".into(), 64)]);
    assert_eq!(noise(&mut w, 5), 0, "full");
    let error = w.tiers.off("a").expect_err("the others are full").to_string();
    assert!(error.contains("cannot hold"), "{error}");
    assert_eq!(w.tiers.off("c"), Err(OffError::Unknown("c".into())));
    let twice = w.tiers.on(Box::new(blocks[0].disk("b", 64, true)), 0);
    assert_eq!(twice, Err(OnError::Present("b".into())));
}

/// `swapoff` of a device with something on it, while others page: check 4 of its kind.
#[test]
fn s09_swapoff_under_load() {
    let tiers = Arc::new(Tiers::new());
    let blocks = [BadBlock::new(3000, 1), BadBlock::new(3000, 2)];
    tiers.on(Box::new(blocks[0].disk("0", 3000, true)), 0).expect("on");
    let ended = AtomicBool::new(false);
    let (offs, reads) = (AtomicU64::new(0), AtomicU64::new(0));
    let wrong = Mutex::new(None);
    std::thread::scope(|s| {
        for thread in 0..2u64 {
            let (tiers, ended, reads, wrong) = (&tiers, &ended, &reads, &wrong);
            s.spawn(move || {
                let mut r = Random(thread * 2 + 12345);
                let mut kept: Vec<(SwapSlot, u64)> = Vec::new();
                let mut next = (thread + 1) << 32;
                while !ended.load(Relaxed) {
                    let names: Vec<u64> = (next..next + 16).collect();
                    next += 16;
                    let mut slots = [None; 16];
                    tiers.put_run(&Named(&names), &mut slots);
                    kept.extend(slots.iter().zip(&names).filter_map(|(s, n)| s.map(|s| (s, *n))));
                    for _ in 0..16 {
                        let i = r.below(kept.len());
                        let mut bytes = [0; PAGE];
                        let read = tiers.get(kept[i].0, &mut bytes);
                        if read.is_err() || bytes != page(kept[i].1) {
                            *wrong.lock().unwrap() = Some((kept[i], read));
                        }
                        reads.fetch_add(1, Relaxed);
                        if kept.len() > 600 {
                            tiers.free(kept.swap_remove(i).0);
                        }
                    }
                }
                kept.iter().for_each(|(slot, _)| tiers.free(*slot));
            });
        }
        for turn in 0..20 {
            let (old, new) = (turn % 2, (turn + 1) % 2);
            let name = |i: usize| i.to_string();
            tiers.on(Box::new(blocks[new].disk(&name(new), 3000, true)), 0).expect("on");
            let before = reads.load(Relaxed);
            while reads.load(Relaxed) < before + 200 {
                std::thread::yield_now();
            }
            tiers.off(&name(old)).expect("the other has room");
            offs.fetch_add(1, Relaxed);
        }
        ended.store(true, Relaxed);
    });
    assert_eq!(*wrong.lock().unwrap(), None);
    assert_eq!(tiers.stats().slots, 0);
    assert!(tiers.stats().moved > 0);
}

#[test]
fn old_pages_move_down_when_memory_is_nearly_full() {
    let mut w = World::new(false);
    let block = BadBlock::new(4000, 1);
    w.tiers.on(pool(Codec::Lz4, 2 << 20), 10).expect("on");
    w.tiers.on(Box::new(block.disk("disk", 4000, true)), 0).expect("on");
    for _ in 0..100 {
        w.put(32);
        while w.tiers.settle() != 0 {}
    }
    let all = w.tiers.tiers();
    assert!(all[1].stats.pages > 100 && w.tiers.stats().moved > 100, "{all:?}");
    assert!(all[0].stats.bytes <= 2 << 20);
    // What was stored last is in memory still.
    let newest = w.kept.iter().max_by_key(|(_, names)| names[0]).map(|(s, _)| *s).expect("some");
    assert!(!w.tiers.is_slow(newest));
    let slots: Vec<_> = w.kept.keys().copied().collect();
    slots.iter().for_each(|s| w.get(*s));
    w.free_all();
}

#[test]
fn s14_a_slot_that_is_not_in_use_is_an_error() {
    let mut w = World::new(false);
    w.tiers.on(pool(Codec::Zstd(1), 1 << 20), 0).expect("on");
    w.next = 1;
    assert_eq!(w.put(3), 3);
    let slots: Vec<_> = w.kept.keys().copied().collect();
    slots.iter().for_each(|s| w.free(*s));
    let mut bytes = [0; PAGE];
    for slot in slots {
        assert_eq!(w.tiers.get(slot, &mut bytes), Err(SwapError::Lost));
        w.tiers.free(slot);
    }
    assert_eq!(w.tiers.stats().lost, 3);
    assert!(!format!("{:?}", w.tiers).is_empty());
}

/// swap_pager_freespace: what is freed can be had again at once, wherever it was.
#[test]
fn s03_freed_room_is_room_again() {
    for kind in 0..3 {
        let mut w = World::new(false);
        let tier = match kind {
            0 => pool(Codec::Lz4, 1 << 20),
            1 => pool(Codec::Zstd(1), 1 << 20),
            _ => Box::new(BadBlock::new(100, 3).disk("disk", 100, true)),
        };
        w.tiers.on(tier, 0).expect("on");
        let mut most = None;
        for round in 0..5 {
            let mut r = Random(round + 1);
            // The same pages in each round, so that the same number fits.
            w.next = 1;
            while w.put(7) == 7 {}
            let kept = w.tiers.stats().slots;
            assert!(kept >= 100, "{kept} pages fit");
            assert!(*most.get_or_insert(kept) <= kept + kept / 8, "{kept} fit, {most:?} did before");
            while let Some(slot) = w.any(&mut r) {
                w.get(slot);
                w.free(slot);
            }
        }
        w.free_all();
    }
}
