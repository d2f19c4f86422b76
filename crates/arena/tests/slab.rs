//! The slab on one thread and on several.
#![cfg(not(loom))]

mod heap;

use heap::{Count, Heap};
use machvm_arena::{NoMemory, Slab};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// An object that knows it was initialised, and counts its drops.
struct Thing {
    mark: u64,
    value: AtomicU64,
}
const MARK: u64 = 0x6d61_6368_766d_2121;
std::thread_local! {
    static DROPPED: Cell<usize> = const { Cell::new(0) };
}

impl Default for Thing {
    fn default() -> Self {
        Thing { mark: MARK, value: AtomicU64::new(0) }
    }
}
impl Drop for Thing {
    fn drop(&mut self) {
        assert_eq!(self.mark, MARK);
        DROPPED.set(DROPPED.get() + 1);
    }
}

#[test]
fn a_stale_handle_finds_an_initialised_object() {
    let count = Count::default();
    let slab: Slab<Thing, _> = Slab::new(Heap(&count), 1000);
    let h = slab.alloc().unwrap();
    slab.get(h).value.store(7, Relaxed);
    slab.free(h);
    assert_eq!((slab.get(h).mark, slab.get(h).value.load(Relaxed)), (MARK, 7));
    let again = slab.alloc().unwrap();
    assert_eq!(again, h, "the slot is recycled");
    let at = std::ptr::from_ref(slab.get(h));
    let more: Vec<_> = (0..500).map(|_| slab.alloc().unwrap()).collect();
    assert_eq!(std::ptr::from_ref(slab.get(h)), at, "growth moves nothing");
    assert!(more.iter().all(|m| slab.get(*m).mark == MARK));
}

#[test]
fn lookup_takes_any_number() {
    let count = Count::default();
    let slab: Slab<Thing, _> = Slab::new(Heap(&count), 1000);
    assert!([0, 1, 64, u32::MAX].iter().all(|n| slab.lookup(*n).is_none()));
    let h = slab.alloc().unwrap();
    assert!(slab.lookup(h.get()).is_some() && slab.lookup(h.get() + 1).is_none());
}

#[test]
fn the_limit_is_exact_and_recoverable() {
    let count = Count::default();
    let slab: Slab<Thing, _> = Slab::new(Heap(&count), 70);
    let all: Vec<_> = (0..70).map(|_| slab.alloc().unwrap()).collect();
    assert_eq!(slab.alloc(), Err(NoMemory));
    assert!(slab.reserve(1).is_err());
    slab.free(all[33]);
    assert_eq!(slab.alloc(), Ok(all[33]));
}

#[test]
fn reserve_returns_everything() {
    let count = Count::default();
    let slab: Slab<Thing, _> = Slab::new(Heap(&count), 100);
    let mut r = slab.reserve(10).unwrap();
    assert_eq!((r.left(), slab.live()), (10, 10));
    let kept = [r.take().unwrap(), r.take().unwrap()];
    drop(r);
    assert_eq!(slab.live(), 2);
    assert!(slab.reserve(99).is_err(), "98 are left");
    assert_eq!(slab.live(), 2, "a failed reservation takes nothing");
    let mut r = slab.reserve(98).unwrap();
    let mut seen: Vec<u32> = kept.iter().map(|h| h.get()).collect();
    while let Some(h) = r.take() {
        seen.push(h.get());
    }
    seen.sort_unstable();
    assert_eq!(seen, (1..=100).collect::<Vec<_>>(), "every object once");
    assert!(r.take().is_none());
}

#[test]
fn a_reservation_goes_back_in_front_of_what_is_free() {
    let count = Count::default();
    let slab: Slab<Thing, _> = Slab::new(Heap(&count), 10);
    let all: Vec<_> = (0..10).map(|_| slab.alloc().unwrap()).collect();
    all.iter().for_each(|h| slab.free(*h));
    drop(slab.reserve(3).unwrap());
    assert_eq!(slab.reserve(10).unwrap().left(), 10, "none was lost");
}

#[test]
fn empty_and_used_up_reservations_return_nothing() {
    let count = Count::default();
    let slab: Slab<Thing, _> = Slab::new(Heap(&count), 10);
    drop(slab.reserve(0).unwrap());
    let mut r = slab.reserve(1).unwrap();
    let h = r.take().unwrap();
    drop(r);
    assert_eq!(slab.live(), 1);
    slab.free(h);
    assert_eq!(slab.live(), 0);
}

/// The k-th chunk fails, for every k that the run needs.
#[test]
fn a_failing_source_leaves_counts_equal() {
    for k in 1.. {
        let count = Count::default();
        count.fail_at.store(k, Relaxed);
        let slab: Slab<Thing, _> = Slab::new(Heap(&count), 5000);
        let one = slab.alloc();
        let before = slab.live();
        let failed = match slab.reserve(1000) {
            Ok(r) => {
                assert_eq!(r.left(), 1000);
                false
            }
            Err(NoMemory) => true,
        };
        assert_eq!(slab.live(), before, "k = {k}");
        // Only that request fails, so the next try succeeds.
        drop(slab.reserve(1000).unwrap());
        assert_eq!(slab.live(), before, "k = {k}");
        drop(slab);
        assert_eq!(count.out.load(Relaxed), 0, "every chunk went back, k = {k}");
        if one.is_ok() && !failed {
            assert!(k > 4, "1001 objects need five chunks, so four can fail at least");
            return;
        }
    }
}

#[test]
#[should_panic(expected = "is not handed out")]
fn a_double_free_panics() {
    let count = Count::default();
    let slab: Slab<Thing, _> = Slab::new(Heap(&count), 10);
    let (a, b) = (slab.alloc().unwrap(), slab.alloc().unwrap());
    slab.free(b);
    slab.free(a);
    slab.free(a);
}

#[test]
fn a_hundred_thousand_objects() {
    struct Own(AtomicU64);
    impl Default for Own {
        fn default() -> Self {
            Own(AtomicU64::new(u64::MAX))
        }
    }
    let count = Count::default();
    let slab: Slab<Own, _> = Slab::new(Heap(&count), 100_000);
    let all: Vec<_> = (0..100_000u64)
        .map(|i| {
            let h = slab.alloc().unwrap();
            assert_eq!(slab.get(h).0.swap(i, Relaxed), u64::MAX, "two handles to one object");
            h
        })
        .collect();
    assert!(all.iter().enumerate().all(|(i, h)| slab.get(*h).0.load(Relaxed) == i as u64));
    assert_eq!(slab.alloc(), Err(NoMemory));
    assert_eq!(slab.bytes(), count.out.load(Relaxed));
    assert!(slab.touched_bytes() <= slab.bytes());
    let mut n = 0;
    slab.for_each(|h, o| {
        assert_eq!(all[o.0.load(Relaxed) as usize], h);
        n += 1;
    });
    assert_eq!(n, 100_000);
    all.iter().for_each(|h| slab.free(*h));
    assert_eq!(slab.live(), 0);
    drop(slab);
    assert_eq!(count.out.load(Relaxed), 0);
}

/// Threads allocate, reserve, look up each other's and free; nobody gets an object
/// that another one has.
#[test]
fn threads_share_a_slab() {
    #[derive(Default)]
    struct Owned(AtomicU64);
    let count = Count::default();
    let slab: Slab<Owned, _> = Slab::new(Heap(&count), 3000);
    std::thread::scope(|s| {
        for me in 1..=3u64 {
            let slab = &slab;
            s.spawn(move || {
                let mut mine = Vec::new();
                for round in 0..3000u32 {
                    if round % 3 == 2 {
                        let h = mine.swap_remove(round as usize % mine.len());
                        assert_eq!(slab.get(h).0.swap(0, Relaxed), me);
                        slab.free(h);
                    } else if let Ok(mut r) = slab.reserve(1 + round % 2) {
                        let h = r.take().unwrap();
                        assert_eq!(slab.get(h).0.swap(me, Relaxed), 0, "somebody has it");
                        mine.push(h);
                    }
                    let _ = slab.lookup(round).map(|o| assert!(o.0.load(Relaxed) <= 3));
                }
                for h in mine {
                    assert_eq!(slab.get(h).0.swap(0, Relaxed), me);
                    slab.free(h);
                }
            });
        }
    });
    assert_eq!(slab.live(), 0);
}

#[test]
fn every_object_is_dropped_once() {
    let count = Count::default();
    let before = DROPPED.get();
    let slab: Slab<Thing, _> = Slab::new(Heap(&count), 200);
    drop(slab.reserve(150).unwrap());
    drop(slab);
    assert_eq!(DROPPED.get() - before, 150);
}
