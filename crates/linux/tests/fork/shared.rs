//! Memory that processes share.

use crate::{PAGE, await_byte, fork, load, pipe, store, world};
use machvm_linux::Inherit;
use std::io::Write;

#[test]
fn m61_shared_memory_is_seen_both_ways() {
    const PAGES: usize = 600;
    let w = world(None);
    let t = &w.task;
    let a = t.allocate(PAGES * PAGE).expect("memory");
    t.inherit(a, PAGES * PAGE, Inherit::Share).expect("set");
    // A half was never touched before the fork.
    (0..PAGES / 2).for_each(|i| store(t, a + i * PAGE, i as u64));
    let ((mut r1, mut w1), (mut r2, mut w2)) = (pipe(), pipe());
    let child = fork(|| {
        assert!((0..PAGES / 2).all(|i| load(t, a + i * PAGE) == i as u64));
        assert!((PAGES / 2..PAGES).all(|i| load(t, a + i * PAGE) == 0));
        (0..PAGES).for_each(|i| store(t, a + i * PAGE, 1000 + i as u64));
        w2.write_all(b"x").expect("pipe");
        await_byte(&mut r1);
        assert!((0..PAGES).all(|i| load(t, a + i * PAGE) == 5000 + i as u64), "the parent's stores");
    });
    await_byte(&mut r2);
    assert!((0..PAGES).all(|i| load(t, a + i * PAGE) == 1000 + i as u64), "the child's stores");
    (0..PAGES).for_each(|i| store(t, a + i * PAGE, 5000 + i as u64));
    w1.write_all(b"x").expect("pipe");
    child.well();
}

#[test]
fn m61_grandchildren_share_too() {
    let w = world(None);
    let t = &w.task;
    let a = t.allocate(4 * PAGE).expect("memory");
    t.inherit(a, 4 * PAGE, Inherit::Share).expect("set");
    store(t, a, 1);
    let child = fork(|| {
        store(t, a + PAGE, 2);
        let b = t.allocate(PAGE).expect("memory");
        t.inherit(b, PAGE, Inherit::Share).expect("set");
        fork(|| {
            assert_eq!((load(t, a), load(t, a + PAGE)), (1, 2));
            store(t, a + 2 * PAGE, 3);
            store(t, b, 4);
        })
        .well();
        assert_eq!(load(t, b), 4, "shared by the child and its child");
        // Unmapped here, it stays with the others.
        t.deallocate(a, 4 * PAGE).expect("deallocate");
    });
    child.well();
    assert_eq!([0, 1, 2, 3].map(|i| load(t, a + i * PAGE)), [1, 2, 3, 0]);
}

/// A second range, and another task, that share the memory go on doing so.
#[test]
fn who_shares_the_memory_in_the_parent_goes_on() {
    let w = world(None);
    let t = &w.task;
    let a = t.allocate(4 * PAGE).expect("memory");
    t.inherit(a, 4 * PAGE, Inherit::Share).expect("set");
    store(t, a, 1);
    let other = t.fork().expect("a task that shares it");
    fork(|| store(t, a + PAGE, 2)).well();
    assert_eq!((load(&other, a), load(&other, a + PAGE)), (1, 2));
    store(&other, a + 2 * PAGE, 3);
    fork(|| {
        assert_eq!(load(t, a + 2 * PAGE), 3);
        store(t, a + 3 * PAGE, 4);
    })
    .well();
    assert_eq!((load(t, a + 2 * PAGE), load(&other, a + 3 * PAGE)), (3, 4));
}

/// What was shared is then inherited as a copy: the child's is its own.
#[test]
fn m61_shared_memory_can_be_copied_later() {
    let w = world(None);
    let t = &w.task;
    let a = t.allocate(64 * PAGE).expect("memory");
    t.inherit(a, 64 * PAGE, Inherit::Share).expect("set");
    (0..32).for_each(|i| store(t, a + i * PAGE, i as u64 + 1));
    fork(|| store(t, a, 77)).well();
    assert_eq!(load(t, a), 77);
    t.inherit(a, 64 * PAGE, Inherit::Copy).expect("set");
    let (mut r1, mut w1) = pipe();
    let child = fork(|| {
        await_byte(&mut r1);
        assert_eq!(load(t, a), 77, "as it was at the fork");
        assert!((1..32).all(|i| load(t, a + i * PAGE) == i as u64 + 1));
        assert!((32..64).all(|i| load(t, a + i * PAGE) == 0));
        (0..64).for_each(|i| store(t, a + i * PAGE, 9));
    });
    (0..64).for_each(|i| store(t, a + i * PAGE, 5));
    w1.write_all(b"x").expect("pipe");
    child.well();
    assert!((0..64).all(|i| load(t, a + i * PAGE) == 5));
}

/// Memory that was allocated beside it stays private, in one object or not.
#[test]
fn neighbours_of_shared_memory_are_private() {
    let w = world(None);
    let t = &w.task;
    let a = t.allocate(30 * PAGE).expect("memory");
    (0..30).for_each(|i| store(t, a + i * PAGE, i as u64));
    t.inherit(a + 10 * PAGE, 10 * PAGE, Inherit::Share).expect("set");
    for round in 0..3 {
        let base = 100 * round;
        fork(|| (0..30).for_each(|i| store(t, a + i * PAGE, base + 50 + i as u64))).well();
        for i in 0..30u64 {
            let want = if (10..20).contains(&i) { base + 50 + i } else { i };
            assert_eq!(load(t, a + i as usize * PAGE), want, "page {i} in round {round}");
        }
    }
}

/// Copies of shared memory are copies.
#[test]
fn copies_of_shared_memory_do_not_follow_it() {
    let w = world(None);
    let t = &w.task;
    let a = t.allocate(8 * PAGE).expect("memory");
    t.inherit(a, 8 * PAGE, Inherit::Share).expect("set");
    (0..8).for_each(|i| store(t, a + i * PAGE, 1));
    fork(|| ()).well();
    let b = t.allocate(8 * PAGE).expect("memory");
    t.copy(a, 8 * PAGE, t, b).expect("copy");
    assert_eq!(load(t, b), 1);
    store(t, b, 3);
    fork(|| assert_eq!((load(t, a), load(t, b)), (1, 3))).well();
    store(t, a + PAGE, 4);
    assert_eq!(load(t, b + PAGE), 1);
    // The copy can be shared in turn: what was read of it and what was not.
    t.inherit(b, 8 * PAGE, Inherit::Share).expect("set");
    fork(|| {
        assert_eq!([0, 1, 7].map(|i| load(t, b + i * PAGE)), [3, 1, 1]);
        store(t, b + 7 * PAGE, 9);
    })
    .well();
    assert_eq!((load(t, b + 7 * PAGE), load(t, a + 7 * PAGE)), (9, 1));
    // And copied once more by a child.
    t.inherit(b, 8 * PAGE, Inherit::Copy).expect("set");
    fork(|| assert_eq!([0, 1, 7].map(|i| load(t, b + i * PAGE)), [3, 1, 9])).well();
}

/// madvise(2), MADV_DONTNEED: what lies beside shared memory is zero afterwards, whoever
/// shared it first; what is shared stays. A child's copies are its own.
#[test]
fn d17_neighbours_of_shared_memory_are_dropped() {
    let w = world(None);
    let t = &w.task;
    for shared_before in [false, true] {
        let a = t.allocate(30 * PAGE).expect("memory");
        (0..30).for_each(|i| store(t, a + i * PAGE, i as u64 + 1));
        t.inherit(a + 10 * PAGE, 10 * PAGE, Inherit::Share).expect("set");
        let other = shared_before.then(|| t.fork().expect("a task that shares it"));
        let drop_all = || t.madvise(a, 30 * PAGE, libc::MADV_DONTNEED).expect("advice");
        let expect = || {
            for i in 0..30u64 {
                let want = if (10..20).contains(&i) { i + 1 } else { 0 };
                assert_eq!(load(t, a + i as usize * PAGE), want, "page {i}, {shared_before}");
            }
        };
        fork(|| {
            drop_all();
            expect();
        })
        .well();
        for i in 0..30 {
            assert_eq!(load(t, a + i * PAGE), i as u64 + 1, "the child's own is dropped only");
        }
        drop_all();
        expect();
        t.inherit(a + 10 * PAGE, 10 * PAGE, Inherit::Copy).expect("set");
        fork(|| {
            drop_all();
            assert!((0..30).all(|i| load(t, a + i * PAGE) == 0));
        })
        .well();
        expect();
        if let Some(other) = other {
            assert!((0..30).all(|i| load(&other, a + i * PAGE) == i as u64 + 1));
        }
        t.deallocate(a, 30 * PAGE).expect("memory");
    }
}
