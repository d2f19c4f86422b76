//! Forks while other threads are in the VM.

use crate::{PAGE, fork, load, store, world};
use machvm_linux::Inherit;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

/// Three threads fault and make calls, with too little memory, during fifty forks. The
/// child sees of each page an old or a new value, never another page's, and goes on.
#[test]
fn threads_fault_during_fifty_forks() {
    const PAGES: usize = 600;
    let w = world(Some(1 << 20));
    let t = &w.task;
    let a = t.allocate(3 * PAGES * PAGE).expect("memory");
    let common = t.allocate(PAGE).expect("memory");
    t.inherit(common, PAGE, Inherit::Share).expect("set");
    let (stop, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|s| {
        for n in 0..3 {
            let (stop, rounds) = (&stop, &rounds);
            s.spawn(move || {
                let mine = a + n * PAGES * PAGE;
                let mut round = 1u64;
                while !stop.load(SeqCst) {
                    for i in 0..PAGES {
                        let at = mine + i * PAGE;
                        let old = load(t, at);
                        assert!(old == 0 || old % 10_000 == i as u64 + 1, "page {i}: {old}");
                        store(t, at, round * 10_000 + i as u64 + 1);
                    }
                    let b = t.allocate(5 * PAGE).expect("memory");
                    t.copy(mine, 5 * PAGE, t, b).expect("copy");
                    assert_eq!(load(t, b), round * 10_000 + 1);
                    t.deallocate(b, 5 * PAGE).expect("deallocate");
                    round += 1;
                    rounds.fetch_add(1, SeqCst);
                }
            });
        }
        for k in 0..50u64 {
            let child = fork(|| {
                for p in 0..3 * PAGES {
                    let value = load(t, a + p * PAGE);
                    let index = (p % PAGES) as u64 + 1;
                    assert!(value == 0 || value % 10_000 == index, "page {p}: {value}");
                    store(t, a + p * PAGE, index);
                }
                let b = t.allocate(PAGE).expect("memory");
                assert_eq!(load(t, b), 0);
                store(t, common, k);
            });
            child.well();
            assert_eq!(load(t, common), k);
        }
        let before = rounds.load(SeqCst);
        while rounds.load(SeqCst) < before + 3 {
            std::thread::yield_now();
        }
        stop.store(true, SeqCst);
    });
    assert!(rounds.load(SeqCst) > 3);
}

/// Two threads fork at once.
#[test]
fn two_threads_fork_at_once() {
    let w = world(None);
    let t = &w.task;
    let a = t.allocate(100 * PAGE).expect("memory");
    (0..100).for_each(|i| store(t, a + i * PAGE, i as u64));
    std::thread::scope(|s| {
        for n in 0..2usize {
            s.spawn(move || {
                for _ in 0..20 {
                    fork(|| {
                        assert!((0..100).all(|i| load(t, a + i * PAGE) == i as u64));
                        store(t, a + n * PAGE, 5);
                    })
                    .well();
                }
            });
        }
    });
    assert!((0..100).all(|i| load(t, a + i * PAGE) == i as u64));
}

/// A wiring is not inherited, and is still there in the parent.
#[test]
fn wired_memory_stays_wired_in_the_parent_only() {
    use machvm::task::Personality;
    use machvm_hal::{RawAddr, RawSize};
    let w = world(Some(1 << 20));
    let t = &w.task;
    let a = t.allocate(20 * PAGE).expect("memory");
    (0..20).for_each(|i| store(t, a + i * PAGE, 3));
    t.inherit(a + 10 * PAGE, 10 * PAGE, Inherit::Share).expect("set");
    let wire = |prot: u32| {
        let mut inside = w.vm.inside().expect("inside");
        // SAFETY: nothing is made of it.
        let mach = unsafe { t.mach(&Personality::XNU) };
        let range = (RawAddr(a as u64), RawSize(20 * PAGE as u64));
        mach.vm_wire(range.0, range.1, machvm::task::RawProt(prot), true, inside.may())
    };
    wire(3).expect("wired");
    fork(|| {
        assert!((0..20).all(|i| load(t, a + i * PAGE) == 3));
        t.deallocate(a, 20 * PAGE).expect("not wired here");
    })
    .well();
    // Everything else may be paged out; this not.
    w.vm.page_out(1000).expect("page-out");
    assert!((0..20).all(|i| load(t, a + i * PAGE) == 3));
    wire(0).expect("it was wired");
}
