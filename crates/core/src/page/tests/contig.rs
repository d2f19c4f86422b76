use std::vec::Vec;

use super::{Memory, Rng, std, with_seeds};
use crate::page::contig::Contig;
use crate::page::reserv::RUN;
use machvm_hal::Pfn;

fn want(m: &Memory, frames: u64) -> Contig {
    Contig { low: Pfn(m.first), high: Pfn(m.first + m.frames), ..Contig::anywhere(frames) }
}

/// Every frame in use, then free what `free` says.
fn scattered(first: u64, frames: u64, free: impl Fn(u64) -> bool) -> Memory {
    let m = Memory::new(first, frames);
    (0..frames).for_each(|_| {
        m.lock().take_any().expect("a frame");
    });
    (first..first + frames).filter(|f| free(*f)).for_each(|f| m.lock().put(f));
    m
}

#[test]
fn y04_aligned_and_within_limits() {
    let m = Memory::new(0x100, 4000);
    let c = Contig { align: 256, ..want(&m, 100) };
    let at = m.contig(&c).expect("a run");
    assert_eq!(at % 256, 0);
    let low = m.contig(&Contig { low: Pfn(1001), ..want(&m, 7) }).expect("a run");
    assert!(low >= 1001);
    let high = m.contig(&Contig { high: Pfn(0x180), ..want(&m, 60) }).expect("a run");
    assert!(high + 60 <= 0x180);
    assert_eq!(m.contig(&Contig { high: Pfn(0x110), ..want(&m, 17) }), None, "does not fit below");
    m.check(0);
    for (start, n) in [(at, 100), (low, 7), (high, 60)] {
        assert_eq!(m.lock().free_system(start, n), Ok(()));
    }
    m.check(0);
    assert_eq!(m.lock().pool.buddy.free_frames(), 4000);
}

#[test]
fn y04_no_boundary_inside() {
    let m = scattered(0, 1024, |f| (50..90).contains(&f) || (200..286).contains(&f));
    let c = Contig { boundary: 64, ..want(&m, 30) };
    let all: Vec<u64> = core::iter::from_fn(|| m.contig(&c)).collect();
    // Not 50..80 and 60..90, which cross 64, nor anything around 256.
    assert!(all.iter().all(|at| at / 64 == (at + 29) / 64 && *at >= 200), "{all:?}");
    assert!(all.len() == 2, "one on each side of 256: {all:?}");
    assert_eq!(m.contig(&want(&m, 30)), Some(50), "without a boundary");
    m.check(1024 - 40 - 86);
}

#[test]
fn y04_what_makes_no_sense() {
    let c = Contig::anywhere(4);
    assert!(c.is_sane());
    for bad in [
        Contig { frames: 0, ..c },
        Contig { low: Pfn(9), high: Pfn(9), ..c },
        Contig { low: Pfn(9), high: Pfn(8), ..c },
        Contig { align: 0, ..c },
        Contig { align: 3, ..c },
        Contig { boundary: 6, ..c },
        Contig { boundary: 2, ..c },
    ] {
        assert!(!bad.is_sane(), "{bad:?}");
    }
}

#[test]
fn y04_none_although_enough_is_free() {
    let m = scattered(5, 3000, |f| f % 3 != 0);
    assert_eq!(m.lock().pool.unused(), 2000);
    assert_eq!(m.contig(&want(&m, 3)), None);
    m.check(1000);
    assert!(m.contig(&want(&m, 2)).is_some());
    m.check(1000);
}

#[test]
fn y04_a_run_across_blocks() {
    // 700 frames that no single block holds.
    let m = scattered(0, 3000, |f| (1300..2000).contains(&f));
    assert_eq!(m.contig(&want(&m, 700)), Some(1300));
    m.check(2300);
}

#[test]
fn y04_the_search_goes_on_beyond_its_budget() {
    let m = scattered(0, 20_000, |f| f % 2 == 0 || f > 19_900);
    assert_eq!(m.contig(&Contig { align: 4, ..want(&m, 70) }), Some(19_900));
}

#[test]
fn r05_reservations_in_the_way_are_broken() {
    let m = Memory::new(0, 3 * RUN);
    let o = m.object();
    let frames: Vec<u64> = (0..3).map(|w| m.near(o, w * RUN + w * 100).expect("a frame")).collect();
    assert_eq!(m.lock().pool.buddy.free_frames(), 0);
    let at = m.contig(&Contig { low: Pfn(RUN), ..want(&m, 400) }).expect("set aside, not in use");
    assert!(frames.iter().all(|f| !(at..at + 400).contains(f)));
    assert_eq!(m.lock().pool.reserv_stats().broken, 1, "only where it lies");
    m.check(3);
    assert_eq!(m.lock().free_system(at, 401), Err(at + 400), "one too many");
    assert_eq!(m.lock().free_system(at, 400), Ok(()));
    assert_eq!(m.lock().free_system(at, 1), Err(at), "given back twice");
    m.check(3);
}

/// Against the definition, one place after the other.
fn random(mut rng: Rng) {
    let (first, frames) = (rng.below(700), 300 + rng.below(2500));
    let density = rng.pick(&[2, 5, 40, 300]);
    let m = Memory::new(first, frames);
    let mut used: Vec<u64> = core::iter::from_fn(|| m.lock().take_any()).collect();
    used.retain(|f| {
        let keep = rng.one_in(density);
        if !keep {
            m.lock().put(*f);
        }
        keep
    });
    let objects = [m.object(), m.object()];
    for _ in 0..rng.below(60) {
        if m.lock().pool.unused() != 0 {
            let place = rng.below(4 * RUN);
            used.extend(m.near(rng.pick(&objects), place));
        }
    }
    for _ in 0..20 {
        let most = rng.pick(&[4, 40, 900]).min(frames);
        let n = 1 + rng.below(most);
        let (low, high) = (first + rng.below(frames), first + rng.below(frames + 1));
        let c = Contig {
            frames: n,
            low: Pfn(if rng.one_in(2) { low } else { first }),
            high: Pfn(if rng.one_in(2) { high } else { first + frames }),
            align: 1 << rng.below(8),
            boundary: if rng.one_in(2) { 0 } else { n.next_power_of_two() << rng.below(3) },
        };
        if !c.is_sane() {
            continue;
        }
        let mut free = std::vec![false; (first + frames) as usize];
        m.unused().iter().for_each(|f| free[*f as usize] = true);
        let fits = |at: u64| {
            at.is_multiple_of(c.align)
                && at >= c.low.0
                && at + n <= c.high.0
                && (c.boundary == 0 || at / c.boundary == (at + n - 1) / c.boundary)
                && free[at as usize..(at + n) as usize].iter().all(|f| *f)
        };
        let possible = (first..first + frames).any(fits);
        match m.contig(&c) {
            Some(at) => {
                assert!(fits(at), "{c:?} at {at:#x}");
                m.check(used.len() as u64);
                if rng.one_in(2) {
                    assert_eq!(m.lock().free_system(at, n), Ok(()));
                }
            }
            None => assert!(!possible, "{c:?} has a place"),
        }
        m.check(used.len() as u64);
    }
}

#[test]
fn y04_random_against_the_definition() {
    with_seeds(60, random);
}
