//! What holds of every format.

use machvm_hal::{Pfn, Prot};

use super::{Manual, Numbers, PLAIN, each_format, flags, frames, frames_log2, pointers};
use crate::pte::{Leaf, Next, Pte};

fn leaves_come_back<F: Manual>() {
    for level in 1..=F::MAX_LEAF_LEVEL {
        for pfn in frames(F::PA_BITS - 12, frames_log2::<F>(level)) {
            for leaf in flags::<F>(level) {
                let leaf = Leaf { pfn, ..leaf };
                let raw = F::emit(Pte::Leaf(leaf), level);
                assert_eq!(
                    F::parse(raw, level),
                    Pte::Leaf(F::given_back(leaf)),
                    "{} level {level} {raw:#x}",
                    F::NAME
                );
                assert_eq!(raw & !F::leaf_bits(level), 0, "{} level {level} {raw:#x} {leaf:?}", F::NAME);
            }
        }
    }
}

/// All rights, flags, attributes, levels and a set of frames; and no bit is set that the
/// manual reserves.
#[test]
fn every_leaf_comes_back_and_sets_no_reserved_bit() {
    each_format!(leaves_come_back);
}

fn pointers_come_back<F: Manual>() {
    for level in 2..=F::LEVELS {
        for pfn in frames(F::PA_BITS - 12, frames_log2::<F>(1)) {
            for next in pointers::<F>() {
                let next = Next { pfn, ..next };
                let raw = F::emit(Pte::Next(next), level);
                assert_eq!(F::parse(raw, level), Pte::Next(next), "{} level {level} {raw:#x}", F::NAME);
                // The hardware sees nothing of a detached table, so nothing is reserved.
                if next.detached {
                    assert_eq!(raw & 1, 0, "{} level {level} {raw:#x}", F::NAME);
                } else {
                    assert_eq!(raw & !F::pointer_bits(level), 0, "{} level {level} {raw:#x}", F::NAME);
                }
            }
        }
    }
}

#[test]
fn every_table_comes_back_and_sets_no_reserved_bit() {
    each_format!(pointers_come_back);
}

fn absent_is_zero<F: Manual>() {
    for level in 1..=F::LEVELS {
        assert_eq!(F::emit(Pte::Absent, level), 0, "{}", F::NAME);
        assert_eq!(F::parse(0, level), Pte::Absent, "{}", F::NAME);
        // No format has a table below level 1 or memory above its highest leaf.
        let raw = F::emit(Pte::Next(pointers::<F>()[1]), F::LEVELS);
        assert!(!matches!(F::parse(raw, 1), Pte::Next(_)), "{} {raw:#x}", F::NAME);
    }
    for level in F::MAX_LEAF_LEVEL + 1..=F::LEVELS {
        for leaf in flags::<F>(F::MAX_LEAF_LEVEL) {
            let raw = F::emit(Pte::Leaf(leaf), F::MAX_LEAF_LEVEL);
            assert_eq!(F::parse(raw, level), Pte::Absent, "{} level {level} {raw:#x}", F::NAME);
        }
    }
}

#[test]
fn zero_is_absent_and_levels_have_what_they_can() {
    each_format!(absent_is_zero);
}

/// Whatever the word: parsing says something that the format can express, and once more
/// through the format changes nothing.
fn check_word<F: Manual>(raw: u64, level: u8, seed: u64) {
    let meaning = F::parse(raw, level);
    let again = F::emit(meaning, level);
    assert_eq!(F::parse(again, level), meaning, "{} level {level} {raw:#x} {again:#x} seed {seed}", F::NAME);
    assert_eq!(
        F::emit(F::parse(again, level), level),
        again,
        "{} level {level} {raw:#x} seed {seed}",
        F::NAME
    );
    let allowed = match meaning {
        Pte::Absent => 0,
        Pte::Leaf(_) => F::leaf_bits(level),
        Pte::Next(n) if n.detached => u64::MAX,
        Pte::Next(_) => F::pointer_bits(level),
    };
    assert_eq!(again & !allowed, 0, "{} level {level} {raw:#x} {again:#x} seed {seed}", F::NAME);
}

fn any_word<F: Manual>() {
    let (mut numbers, seed) = Numbers::seeded(0x7074_6531);
    for level in 1..=F::LEVELS {
        // Random words; half of them with few bits, half of all valid.
        for n in 0..100_000u32 {
            let mut raw = numbers.next();
            if n & 1 != 0 {
                raw &= numbers.next() & numbers.next();
            }
            check_word::<F>(raw | u64::from(n >> 1 & 1), level, seed);
        }
        // One and two bits walk through nothing, everything and entries of ours.
        let mut bases = std::vec![0, u64::MAX, 1, F::emit(Pte::Next(pointers::<F>()[0]), F::LEVELS)];
        bases.push(F::emit(Pte::Next(pointers::<F>()[1]), F::LEVELS));
        if level <= F::MAX_LEAF_LEVEL {
            bases.extend(flags::<F>(level).step_by(17).map(|l| F::emit(Pte::Leaf(l), level)));
        }
        for base in bases {
            for a in 0..64 {
                for b in a..64 {
                    check_word::<F>(base ^ (1 << a), level, seed);
                    check_word::<F>(base ^ (1 << a) ^ (1 << b), level, seed);
                }
            }
        }
    }
}

#[test]
fn any_word_parses_and_what_it_means_is_stable() {
    each_format!(any_word);
}

fn invalid_is_absent<F: Manual>() {
    let (mut numbers, seed) = Numbers::seeded(0x7074_6532);
    for level in 1..=F::LEVELS {
        for _ in 0..1_000_000 {
            // Invalid in every format; swap entries of other systems look like this.
            let raw = numbers.next() & !1;
            match F::parse(raw, level) {
                Pte::Absent => {}
                // A detached table is a word that `emit` gives, to the bit.
                Pte::Next(n) if n.detached && !F::UPPER_RIGHTS => {
                    assert_eq!(F::emit(Pte::Next(n), level), raw, "{} level {level} seed {seed}", F::NAME);
                }
                other => panic!("{} level {level} {raw:#x} is {other:?} seed {seed}", F::NAME),
            }
        }
    }
}

#[test]
fn what_is_invalid_and_not_detached_is_absent() {
    each_format!(invalid_is_absent);
}

fn steps<F: Manual>() {
    for level in 1..=F::MAX_LEAF_LEVEL {
        let size = 1u64 << frames_log2::<F>(level);
        let step = F::LEAF_STEP << (F::shift(level) - F::GRANULE_SHIFT);
        for leaf in flags::<F>(level).filter(|l| !l.contiguous) {
            let first = F::emit(Pte::Leaf(leaf), level);
            let last = F::entries(1).min(1 << (F::PA_BITS - F::shift(level))) as u64 - 1;
            for n in [1, 2, last] {
                let nth = Leaf { pfn: Pfn(n * size), ..leaf };
                assert_eq!(F::emit(Pte::Leaf(nth), level), first + n * step, "{} level {level}", F::NAME);
            }
        }
    }
    // A table filled by adding: as demotion does, from a frame of the next size up.
    let log2 = frames_log2::<F>(2);
    let mut raw = F::emit(Pte::Leaf(Leaf { pfn: Pfn(5 << log2), ..PLAIN }), 1);
    for n in 0..F::entries(1) as u64 {
        let pfn = Pfn((5 << log2) + (n << frames_log2::<F>(1)));
        assert_eq!(F::parse(raw, 1), Pte::Leaf(Leaf { pfn, ..PLAIN }), "{} entry {n}", F::NAME);
        raw += F::LEAF_STEP;
    }
}

#[test]
fn one_granule_more_adds_leaf_step() {
    each_format!(steps);
}

fn runs<F: Manual>() {
    for level in 1..=F::LEVELS {
        let entries = 1usize << F::contiguous_bits(level);
        assert!(entries <= F::entries(level), "{} level {level}", F::NAME);
        if entries == 1 {
            continue;
        }
        let base = 3 * entries as u64;
        for index in 0..entries {
            let pfn = Pfn((base + index as u64) << frames_log2::<F>(level));
            let leaf = Leaf { pfn, contiguous: true, ..PLAIN };
            let Pte::Leaf(back) = F::parse(F::emit(Pte::Leaf(leaf), level), level) else {
                panic!("{} level {level}: {leaf:?} is lost", F::NAME)
            };
            assert!(back.contiguous);
            // Where in the table the run begins does not matter: it is aligned.
            for first in [0, entries, F::entries(level) - entries] {
                assert_eq!(
                    F::own_frame(&back, first + index),
                    pfn,
                    "{} level {level} entry {index}",
                    F::NAME
                );
            }
        }
    }
    let single = Leaf { pfn: Pfn(1 << frames_log2::<F>(1)), ..PLAIN };
    assert_eq!(F::own_frame(&single, 9), single.pfn, "{}", F::NAME);
}

#[test]
fn every_entry_of_a_run_finds_its_own_frame() {
    each_format!(runs);
}

fn read_comes_along<F: Manual>() {
    let leaf = Leaf { prot: Prot::X, ..PLAIN };
    for user in [false, true] {
        let Pte::Leaf(back) = F::parse(F::emit(Pte::Leaf(Leaf { user, ..leaf }), 1), 1) else {
            panic!("{}: lost", F::NAME)
        };
        let alone = match F::NAME {
            n if n.starts_with("Sv") => true,
            n if n.starts_with("AArch64") => user,
            _ => false,
        };
        let want = if alone { Prot::X } else { Prot::X.hardware() };
        assert_eq!((back.prot, back.user), (want, user), "{}", F::NAME);
        // What the pmap enters is closed already, and stays as it is.
        let entered = Leaf { prot: Prot::X.hardware(), user, ..leaf };
        assert_eq!(F::parse(F::emit(Pte::Leaf(entered), 1), 1), Pte::Leaf(entered), "{}", F::NAME);
    }
}

#[test]
fn z94_execute_only_where_there_is_any() {
    each_format!(read_comes_along);
}

/// `emit` of what a format has not is the caller's mistake: refused in debug builds.
#[cfg(debug_assertions)]
fn refuses<F: Manual>() {
    use std::panic::catch_unwind;
    let refused = |pte: Pte, level: u8| {
        assert!(catch_unwind(|| F::emit(pte, level)).is_err(), "{} took {pte:?} at {level}", F::NAME);
    };
    let granule = 1 << frames_log2::<F>(1);
    refused(Pte::Absent, 0);
    refused(Pte::Absent, F::LEVELS + 1);
    refused(Pte::Leaf(Leaf { prot: Prot::NONE, ..PLAIN }), 1);
    refused(Pte::Leaf(Leaf { prot: Prot::W, ..PLAIN }), 1);
    refused(Pte::Leaf(Leaf { pfn: Pfn(granule), ..PLAIN }), 2);
    refused(Pte::Leaf(Leaf { pfn: Pfn(1 << (F::PA_BITS - 12)), ..PLAIN }), 1);
    refused(Pte::Next(Next { pfn: Pfn(1 << (F::PA_BITS - 12)), ..pointers::<F>()[0] }), 2);
    refused(Pte::Next(pointers::<F>()[0]), 1);
    refused(Pte::Next(Next { write: true, detached: true, pfn: Pfn(granule) }), 2);
    refused(Pte::Next(Next { write: false, detached: F::UPPER_RIGHTS, pfn: Pfn(granule) }), 2);
    if F::MAX_LEAF_LEVEL < F::LEVELS {
        refused(Pte::Leaf(PLAIN), F::MAX_LEAF_LEVEL + 1);
    }
    if F::contiguous_bits(1) == 0 {
        refused(Pte::Leaf(Leaf { contiguous: true, ..PLAIN }), 1);
    }
    if granule > 1 {
        refused(Pte::Leaf(Leaf { pfn: Pfn(1), ..PLAIN }), 1);
        refused(Pte::Next(Next { pfn: Pfn(1), ..pointers::<F>()[0] }), 2);
    }
}

#[cfg(debug_assertions)]
#[test]
fn what_a_format_has_not_is_refused() {
    each_format!(refuses);
}

#[cfg(not(debug_assertions))]
fn no_rights<F: Manual>() {
    for leaf in flags::<F>(1) {
        let raw = F::emit(Pte::Leaf(Leaf { prot: Prot::NONE, ..leaf }), 1);
        assert_eq!(F::parse(raw, 1), Pte::Absent, "{} {raw:#x}", F::NAME);
        assert_eq!(raw & 1, 0, "{} {raw:#x}", F::NAME);
    }
}

#[cfg(not(debug_assertions))]
#[test]
fn a_leaf_without_rights_is_invalid_in_release_builds() {
    each_format!(no_rights);
}
