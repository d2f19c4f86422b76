//! Faults of every kind in everything that keeps pages: a page comes back as it was, or there is
//! an error that has a cause; every other page is right; nothing hangs and nothing is left over.
//!
//! `MACHVM_SEED=n` replays a run; `MACHVM_LONG` makes more and longer ones.
#![cfg(target_os = "linux")]

#[path = "chaos/block.rs"]
mod block;
#[path = "chaos/world.rs"]
mod world;

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use block::{ChaosBlock, Kind};
use machvm_hal::{MAX_RUN, PAGE_SIZE, Swap, SwapSlot};
use machvm_pagers::{Codec, OffError, Tiers};
use world::{Named, World, page, pool};

const PAGE: usize = PAGE_SIZE as usize;

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

fn long() -> bool {
    std::env::var_os("MACHVM_LONG").is_some()
}

/// Runs `test` with some seeds, or with the one that is to be replayed.
fn seeds(few: u64, many: u64, test: impl Fn(u64)) {
    let one = std::env::var("MACHVM_SEED").ok().and_then(|s| s.parse().ok());
    let all = one.map_or(1..1 + if long() { many } else { few }, |s| s..s + 1);
    for seed in all {
        println!("MACHVM_SEED={seed}");
        test(seed);
    }
}

/// Ends the tests if this one hangs; until it is dropped.
struct Deadline(#[expect(dead_code, reason = "its end is the sign")] std::sync::mpsc::Sender<()>);
impl Deadline {
    fn new(what: &'static str) -> Deadline {
        let (alive, dead) = std::sync::mpsc::channel();
        let patience = Duration::from_secs(if long() { 3600 } else { 300 });
        std::thread::spawn(move || {
            if dead.recv_timeout(patience) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                eprintln!("{what} hangs");
                std::process::abort();
            }
        });
        Deadline(alive)
    }
}

fn small(seed: u64) -> World {
    World::new(seed, [400, 300], vec![pool(Codec::Lz4, 1 << 20), pool(Codec::Zstd(1), 1 << 20)])
}

/// Faults of some kinds, chosen by the seed, at rates chosen by the seed.
#[test]
fn z80_z81_faults_of_all_kinds_cost_their_own_pages_only() {
    let _deadline = Deadline::new("faults of all kinds");
    seeds(6, 300, |seed| {
        let mut r = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut w = small(seed);
        for kind in Kind::ALL {
            if r.below(3) == 0 {
                w.set(kind, 2 + r.below(60) as u32);
            }
        }
        for _ in 0..if long() { 4000 } else { 700 } {
            w.step(&mut r);
        }
        w.get_all();
        w.nothing_is_left();
    });
}

/// Each kind alone. What the device says that it did not do costs nothing at all.
#[test]
fn s08_a_fault_that_the_device_tells_of_costs_nothing() {
    let _deadline = Deadline::new("a fault alone");
    for kind in Kind::ALL {
        seeds(1, 20, |seed| {
            let mut r = Random(seed * 2 + 1);
            // No pools: all goes to the devices.
            let mut w = World::new(seed, [800, 800], vec![]);
            w.set(kind, 8);
            for _ in 0..400 {
                w.step(&mut r);
            }
            assert_ne!(w.happened(kind), 0, "{kind:?} never happened");
            w.calm();
            let gone = w.get_all();
            if kind.is_told() {
                assert_eq!((gone, w.failed), (0, 0), "{kind:?}");
            } else if !matches!(kind, Kind::ReadError | Kind::Flip) {
                // (Those are over when one looks again.)
                assert_ne!(gone as u64 + w.failed, 0, "{kind:?} was not seen");
            }
            w.nothing_is_left();
        });
    }
}

/// preadv(2) may always give less than was asked for.
#[test]
fn s06_a_device_that_reads_in_small_pieces_is_read_in_the_end() {
    let _deadline = Deadline::new("a read in pieces");
    let mut w = World::new(1, [200, 200], vec![]);
    assert_eq!(w.put(32) + w.put(32), 64);
    w.tiers.drain().expect("written");
    for longest in [4096, 6000, 4095, 512, 1] {
        w.blocks.iter().for_each(|b| b.set_longest_read(longest));
        assert_eq!(w.get_all(), 0, "at most {longest} bytes in a read");
    }
    w.nothing_is_left();
}

/// A server that is killed and started again with what it had: errors meanwhile, nothing lost, and
/// what comes meanwhile goes elsewhere or stays where it was.
#[test]
fn z82_a_server_that_goes_and_comes_back_costs_nothing() {
    let _deadline = Deadline::new("a server that goes and comes back");
    seeds(3, 50, |seed| {
        let mut r = Random(seed * 2 + 1);
        let mut w = small(seed);
        for _ in 0..12 {
            for _ in 0..40 {
                w.step(&mut r);
            }
            let away = r.below(2);
            w.blocks[away].set_away(true);
            for _ in 0..30 {
                w.step(&mut r);
            }
            w.blocks[away].set_away(false);
            assert_eq!(w.get_all(), 0, "all is there again");
        }
        w.nothing_is_left();
    });
}

/// A dead device is found out: it is not tried with every page for as long as it has blocks.
#[test]
fn z80_a_device_that_refuses_all_writes_is_left_alone() {
    let _deadline = Deadline::new("a dead device");
    let mut w = World::new(1, [100_000, 40], vec![pool(Codec::Lz4, 2 << 20)]);
    w.blocks[0].set(Kind::WriteError, 1);
    let mut refused = 0;
    while refused < 20 {
        refused += usize::from(w.put(MAX_RUN) == 0);
        w.moving(Tiers::settle);
    }
    let rounds = w.settled();
    let tried = w.blocks[0].happened(Kind::WriteError);
    assert!(rounds < 100 && tried < 2000, "{rounds} rounds and {tried} writes that failed");
    assert!(w.kept() > 500, "what was taken is kept: {}", w.kept());
    assert_eq!(w.get_all(), 0);
    // It works again, and is used again.
    w.calm();
    let before = w.tiers.tiers().iter().map(|t| t.stats.pages).sum::<u64>();
    for _ in 0..2000 {
        w.put(MAX_RUN);
        w.moving(Tiers::settle);
    }
    let after = w.tiers.tiers().iter().map(|t| t.stats.pages).sum::<u64>();
    assert!(after > before + 10_000, "{before} pages, then {after}");
    assert_eq!(w.get_all(), 0);
}

/// A server that is away for a moment does not cost the room that it has: what cannot be written
/// is not tried on one part of it after the other.
#[test]
fn z80_an_outage_does_not_use_up_the_device() {
    let _deadline = Deadline::new("an outage");
    for stuck in [1, 2, 15, 40] {
        let mut w = World::new(stuck, [20_000, 40], vec![]);
        assert_eq!(w.put(32), 32);
        w.blocks.iter().for_each(|b| b.set_away(true));
        for _ in 0..stuck {
            w.put(32);
        }
        for _ in 0..200 {
            w.settled();
            w.put(1);
        }
        let lost: u64 = w.tiers.tiers().iter().map(|t| t.stats.retired).sum();
        assert!(lost < 1200, "{lost} of 20000 blocks were given up after {stuck} clusters");
        w.blocks.iter().for_each(|b| b.set_away(false));
        assert_eq!(w.get_all(), 0);
        w.nothing_is_left();
    }
}

/// A full device is taken out of use under load, with faults that lose nothing: refused while
/// there is no room, done when there is (S09).
#[test]
fn s09_swapoff_of_a_full_device_under_load_with_faults() {
    let _deadline = Deadline::new("swapoff under load");
    const PAGES: u64 = 1500;
    seeds(2, 20, |seed| {
        let tiers = Tiers::new();
        let blocks = [ChaosBlock::new(PAGES, seed), ChaosBlock::new(2 * PAGES, seed + 1)];
        for (kind, rate) in
            [(Kind::ShortWrite, 5), (Kind::Late, 2), (Kind::WriteError, 50), (Kind::ShortRead, 9)]
        {
            blocks.iter().for_each(|b| b.set(kind, rate));
        }
        tiers.on(blocks[0].disk("old", true), 0).expect("on");
        let (ended, reads) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|s| {
            for thread in 0..3u64 {
                let (tiers, ended, reads) = (&tiers, &ended, &reads);
                s.spawn(move || under_load(tiers, seed, thread, ended, reads));
            }
            let full = || tiers.stats().full > 50;
            let more = |n: u64| {
                let before = reads.load(Relaxed);
                while reads.load(Relaxed) < before + n {
                    std::thread::yield_now();
                }
            };
            while !full() {
                std::thread::yield_now();
            }
            let refused = tiers.off("old");
            assert!(matches!(refused, Err(OffError::NoRoom { .. })), "{refused:?}");
            more(200);
            for turn in 0..6 {
                let (old, new) = if turn % 2 == 0 { ("old", "new") } else { ("new", "old") };
                let size = if turn % 2 == 0 { &blocks[1] } else { &ChaosBlock::new(3 * PAGES, seed + turn) };
                tiers.on(size.disk(new, turn % 4 < 2), 0).expect("on");
                more(100);
                tiers.off(old).expect("the other has room");
            }
            ended.store(true, Relaxed);
        });
        assert_eq!((tiers.stats().slots, tiers.stats().lost), (0, 0));
        let damaged: u64 = tiers.tiers().iter().map(|t| t.stats.damaged).sum();
        assert_eq!(damaged, 0, "nothing was damaged, and nothing is said to be");
    });
}

/// Pages of one thread: all right, all the time.
fn under_load(tiers: &Tiers, seed: u64, thread: u64, ended: &AtomicBool, reads: &AtomicU64) {
    let mut r = Random((seed << 8 | thread) * 2 + 1);
    let mut kept: Vec<(SwapSlot, u64)> = Vec::new();
    let mut next = (thread + 1) << 40;
    while !ended.load(Relaxed) {
        let names: Vec<u64> = (next..next + 16).collect();
        next += 16;
        let mut slots = [None; 16];
        tiers.put_run(&Named(&names), &mut slots);
        kept.extend(slots.iter().zip(&names).filter_map(|(s, n)| s.map(|s| (s, *n))));
        for _ in 0..8.min(kept.len()) {
            let i = r.below(kept.len());
            let mut bytes = [0; PAGE];
            assert_eq!(tiers.get(kept[i].0, &mut bytes), Ok(()), "seed {seed}");
            assert!(bytes == page(kept[i].1), "seed {seed}: wrong bytes");
            reads.fetch_add(1, Relaxed);
        }
        // Together more than the first device holds.
        while kept.len() > 600 {
            tiers.free(kept.swap_remove(r.below(kept.len())).0);
        }
    }
    kept.iter().for_each(|(slot, _)| tiers.free(*slot));
}
