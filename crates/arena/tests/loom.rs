//! Model checks of the slab; `LOCKING.md` names these tests. Under loom chunk 0 has
//! one slot, so a second object adds a chunk.
#![cfg(loom)]

mod heap;

use heap::{Count, Heap};
use loom::sync::{Arc, atomic::AtomicU32, atomic::Ordering::Relaxed};
use loom::thread;
use machvm_arena::Slab;

/// Initialised by its maker with plain memory, which loom watches.
struct Thing(loom::cell::UnsafeCell<u32>, AtomicU32);
// SAFETY: for loom to judge: an unordered access panics, and that is the test.
unsafe impl Sync for Thing {}
impl Default for Thing {
    fn default() -> Self {
        let cell = loom::cell::UnsafeCell::new(0);
        // SAFETY: nobody else has it yet; the write is what a lookup must be ordered after.
        cell.with_mut(|p| unsafe { *p = 7 });
        Thing(cell, AtomicU32::new(0))
    }
}
impl Thing {
    fn made(&self) -> u32 {
        // SAFETY: written once, by default(); loom panics when that is not ordered.
        self.0.with(|p| unsafe { *p })
    }
}

fn slab(limit: u32) -> Arc<Slab<Thing, Heap<'static>>> {
    // One count for all schedules: nothing here looks at it.
    static COUNT: std::sync::OnceLock<Count> = std::sync::OnceLock::new();
    Arc::new(Slab::new(Heap(COUNT.get_or_init(Count::default)), limit))
}

#[test]
fn slab_growth_against_lookup() {
    loom::model(|| {
        let slab = slab(3);
        let finder = {
            let slab = slab.clone();
            thread::spawn(move || {
                for raw in [2, 1, 3, 9] {
                    if let Some(t) = slab.lookup(raw) {
                        assert_eq!(t.made(), 7, "an object is seen made or not at all");
                    }
                }
            })
        };
        slab.alloc().unwrap();
        slab.alloc().unwrap();
        finder.join().unwrap();
    });
}

#[test]
fn slab_reserve_and_commit() {
    let mut b = loom::model::Builder::new();
    b.preemption_bound = Some(3);
    b.check(|| {
        let slab = slab(3);
        let work = |slab: &Slab<Thing, Heap<'static>>| {
            let mut r = slab.reserve(1).unwrap();
            let h = r.take().unwrap();
            drop(r);
            assert_eq!(slab.get(h).1.fetch_add(1, Relaxed), 0, "two owners");
            assert_eq!(slab.get(h).1.fetch_sub(1, Relaxed), 1);
            slab.free(h);
        };
        let other = {
            let slab = slab.clone();
            thread::spawn(move || work(&slab))
        };
        work(&slab);
        other.join().unwrap();
        assert_eq!(slab.live(), 0);
        assert_eq!(slab.reserve(3).unwrap().left(), 3, "everything came back");
    });
}

#[test]
fn slab_failed_reserve_gives_back() {
    let mut b = loom::model::Builder::new();
    b.preemption_bound = Some(3);
    b.check(|| {
        let slab = slab(2);
        let other = {
            let slab = slab.clone();
            thread::spawn(move || slab.reserve(2).map(|r| r.left()).unwrap_or(0))
        };
        let mine = slab.reserve(1).map(|r| r.left()).unwrap_or(0);
        let theirs = other.join().unwrap();
        assert!(mine + theirs >= 1, "one of them fits");
        assert_eq!(slab.live(), 0);
    });
}
