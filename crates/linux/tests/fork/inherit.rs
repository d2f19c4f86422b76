//! What a child gets, by inheritance (M32, M61; `fork(2)` of issue rows U04).

use crate::{PAGE, alone, await_byte, fork, load, pipe, readable, resources, store, world};
use machvm_linux::{Error, Inherit, Prot};
use std::io::Write;

#[test]
fn m61_a_child_of_fork_inherits_as_told() {
    let w = world(None);
    let t = &w.task;
    let a = t.allocate(8 * PAGE).expect("memory");
    (0..8).for_each(|i| store(t, a + i * PAGE, 100 + i as u64));
    t.inherit(a + 2 * PAGE, PAGE, Inherit::Share).expect("set");
    t.inherit(a + 4 * PAGE, PAGE, Inherit::None).expect("set");
    t.inherit(a + 5 * PAGE, PAGE, Inherit::Zero).expect("set");
    t.protect(a + 6 * PAGE, PAGE, Prot::R).expect("set");
    let before = t.regions().expect("regions");
    let child = fork(|| {
        assert_eq!([0, 1, 2, 3, 6, 7].map(|i| load(t, a + i * PAGE)), [100, 101, 102, 103, 106, 107]);
        assert!(!readable(t, a + 4 * PAGE));
        assert_eq!(load(t, a + 5 * PAGE), 0);
        assert!(t.write(a + 6 * PAGE, b"no").is_err());
        (0..8).filter(|i| ![4, 6].contains(i)).for_each(|i| store(t, a + i * PAGE, 200 + i as u64));
        let regions = t.regions().expect("regions");
        let inherit = |i: usize| {
            let r = regions.iter().find(|r| r.start <= a + i * PAGE && a + i * PAGE < r.start + r.size);
            r.map(|r| (r.prot, r.inherit))
        };
        assert_eq!(inherit(0), Some((Prot::RW, Inherit::Copy)));
        assert_eq!(inherit(2), Some((Prot::RW, Inherit::Share)));
        assert_eq!(inherit(4), None);
        assert_eq!(inherit(5), Some((Prot::RW, Inherit::Zero)));
        assert_eq!(inherit(6), Some((Prot::R, Inherit::Copy)));
        // It goes on using the library.
        let b = t.allocate(3 * PAGE).expect("memory");
        assert_eq!(load(t, b), 0);
        store(t, b, 5);
        t.copy(b, PAGE, t, a).expect("copy");
        assert_eq!(load(t, a), 5);
        t.deallocate(b, 3 * PAGE).expect("deallocate");
        assert!(!readable(t, b));
    });
    child.well();
    assert_eq!(
        (0..8).map(|i| load(t, a + i * PAGE)).collect::<Vec<_>>(),
        [100, 101, 202, 103, 104, 105, 106, 107],
        "only the shared page changed"
    );
    assert_eq!(t.regions().expect("regions"), before);
}

#[test]
fn m61_copies_are_isolated_both_ways_at_many_pages() {
    const PAGES: usize = 3000;
    let w = world(None);
    let t = &w.task;
    let a = t.allocate(PAGES * PAGE).expect("memory");
    (0..PAGES).filter(|i| i % 3 != 0).for_each(|i| store(t, a + i * PAGE, i as u64));
    let expected = |i: usize| if i.is_multiple_of(3) { 0 } else { i as u64 };
    let ((mut r1, mut w1), (mut r2, mut w2)) = (pipe(), pipe());
    let child = fork(|| {
        // The parent writes first, then we look, then we write.
        await_byte(&mut r1);
        assert!((0..PAGES).all(|i| load(t, a + i * PAGE) == expected(i)), "the parent's stores show");
        (0..PAGES).for_each(|i| store(t, a + i * PAGE, 2_000_000 + i as u64));
        w2.write_all(b"x").expect("pipe");
        await_byte(&mut r1);
        assert!((0..PAGES).all(|i| load(t, a + i * PAGE) == 2_000_000 + i as u64));
    });
    (0..PAGES).for_each(|i| store(t, a + i * PAGE, 1_000_000 + i as u64));
    w1.write_all(b"x").expect("pipe");
    await_byte(&mut r2);
    assert!((0..PAGES).all(|i| load(t, a + i * PAGE) == 1_000_000 + i as u64), "the child's stores show");
    w1.write_all(b"x").expect("pipe");
    child.well();
}

#[test]
fn fresh_memory_is_zero_in_both() {
    let w = world(None);
    let t = &w.task;
    let a = t.allocate(400 * PAGE).expect("memory");
    (0..400).for_each(|i| store(t, a + i * PAGE, u64::MAX));
    // Frames that were used: the files must not give their old contents back.
    t.deallocate(a, 200 * PAGE).expect("deallocate");
    let fresh_is_zero = |who: &str| {
        let b = t.allocate(600 * PAGE).expect("memory");
        assert!((0..600).all(|i| load(t, b + i * PAGE) == 0), "{who}");
        (0..600).for_each(|i| store(t, b + i * PAGE, 7));
        t.deallocate(b, 600 * PAGE).expect("deallocate");
    };
    for _ in 0..3 {
        let child = fork(|| fresh_is_zero("the child"));
        fresh_is_zero("the parent");
        child.well();
    }
}

/// Each alias of one memory gets a copy of its own (XNU's `vm_map_fork` copies entries).
#[test]
fn m61_two_mappings_of_one_memory_are_two_copies() {
    use machvm::task::{Personality, RawFlags, RawInherit};
    use machvm_hal::{RawAddr, RawSize};
    let w = world(None);
    let t = &w.task;
    let a = t.allocate(2 * PAGE).expect("memory");
    store(t, a, 1);
    let b = {
        let mut inside = w.vm.inside().expect("inside");
        // SAFETY: nothing is made of it that outlives it.
        let mach = unsafe { t.mach(&Personality::XNU) };
        let (size, flags, copy) = (RawSize(2 * PAGE as u64), RawFlags(1), RawInherit(1));
        let from = RawAddr(a as u64);
        let got = mach.vm_remap(RawAddr(0), size, 0, flags, &mach, from, false, copy, inside.may());
        got.expect("remap").address as usize
    };
    store(t, b, 2);
    assert_eq!(load(t, a), 2, "the same memory");
    let child = fork(|| {
        assert_eq!((load(t, a), load(t, b)), (2, 2));
        store(t, b, 3);
        assert_eq!(load(t, a), 2, "a copy each");
        store(t, a, 4);
        assert_eq!(load(t, b), 3);
    });
    child.well();
    store(t, a, 5);
    assert_eq!(load(t, b), 5, "still the same in the parent");
}

#[test]
fn other_tasks_stay_with_the_parent() {
    let w = world(None);
    let other = w.vm.task().expect("a task");
    let a = other.allocate(PAGE).expect("memory");
    store(&other, a, 9);
    let child = fork(|| {
        assert!(matches!(other.allocate(PAGE), Err(Error::Forked)));
        assert!(matches!(other.read(a, &mut [0]), Err(Error::Forked)));
        assert!(matches!(w.task.copy(0x1_0001_0000, PAGE, &other, a), Err(Error::Forked)));
        let mine = w.vm.task().expect("tasks can be made");
        let b = mine.allocate(PAGE).expect("memory");
        store(&mine, b, 1);
        assert_eq!(load(&mine, b), 1);
        // SAFETY: nothing uses it any more; this process ends after it.
        drop(unsafe { std::ptr::read(&raw const other) });
        drop(mine);
        assert_eq!(w.vm.live(), [0; 6], "nothing of the parent's tasks is kept");
    });
    child.well();
    assert_eq!(load(&other, a), 9);
}

#[test]
fn grandchildren_of_depth_three_have_their_own() {
    let w = world(None);
    let t = &w.task;
    let a = t.allocate(50 * PAGE).expect("memory");
    fn descend(t: &machvm_linux::Task, a: usize, depth: u64) {
        (0..50).for_each(|i| store(t, a + i * PAGE, depth * 1000 + i as u64));
        if depth == 3 {
            return;
        }
        // Two children at each level.
        let children = [0, 1].map(|_| fork(|| descend(t, a, depth + 1)));
        children.into_iter().for_each(crate::Child::well);
        assert!((0..50).all(|i| load(t, a + i * PAGE) == depth * 1000 + i as u64), "level {depth}");
    }
    descend(t, a, 0);
}

#[test]
fn nothing_is_left_open_or_mapped() {
    if !alone("fork::inherit::nothing_is_left_open_or_mapped") {
        return;
    }
    let w = world(Some(8 << 20));
    let t = &w.task;
    let a = t.allocate(100 * PAGE).expect("memory");
    t.inherit(a, 10 * PAGE, Inherit::Share).expect("set");
    (0..100).for_each(|i| store(t, a + i * PAGE, 1));
    fork(|| ()).well(); // the shared file, stacks, slabs
    let before = resources();
    const FORKS: usize = 60;
    for _ in 0..FORKS {
        fork(|| {
            let mine = resources();
            assert_eq!(mine.0, before.0, "descriptors in the child");
            assert_eq!(load(t, a + 50 * PAGE), 1);
        })
        .well();
    }
    let after = resources();
    assert_eq!(before.0, after.0, "descriptors");
    // The C library may have grown its heap meanwhile.
    assert!(after.1 < before.1 + FORKS / 4, "mappings: {before:?} {after:?}");
    t.deallocate(a, 100 * PAGE).expect("deallocate");
    assert_eq!(resources().0, before.0 - 1, "the shared file is closed with its memory");
}

/// Forks while what large copies replaced waits to be freed, in the parent and in the child.
#[test]
fn m66_a_fork_while_replaced_contents_wait() {
    const PAGES: usize = 4096;
    let w = world(None);
    let t = &w.task;
    let from = t.allocate(PAGES * PAGE).expect("memory");
    let to = t.allocate(PAGES * PAGE).expect("memory");
    let fill = |at: usize, value: u64| (0..PAGES).step_by(4).for_each(|i| store(t, at + i * PAGE, value));
    let expect = |value: u64| {
        let wrong = (0..PAGES).find(|i| load(t, to + i * PAGE) != if i % 4 == 0 { value } else { 0 });
        assert_eq!(wrong, None, "pages of {value}");
    };
    for round in 1..4 {
        fill(from, round);
        fill(to, 100 + round);
        t.copy(from, PAGES * PAGE, t, to).expect("copied");
        let child = fork(|| {
            expect(round);
            for more in 1..3 {
                fill(to, 200);
                fill(from, 300 + more);
                t.copy(from, PAGES * PAGE, t, to).expect("copied");
                expect(300 + more);
            }
            t.deallocate(from, PAGES * PAGE).expect("deallocated");
            t.deallocate(to, PAGES * PAGE).expect("deallocated");
            assert_eq!(w.vm.live(), [0; 6], "something is left over in the child");
        });
        expect(round);
        child.well();
    }
    t.deallocate(from, PAGES * PAGE).expect("deallocated");
    t.deallocate(to, PAGES * PAGE).expect("deallocated");
    assert_eq!(w.vm.live(), [0; 6], "something is left over");
}

/// A child's copy of a mapped file: what the parent had stored, what the file has where nothing
/// was in memory, and stores that neither the parent nor the file sees.
#[test]
fn g13_a_child_has_a_copy_of_a_mapped_file() {
    let path = std::env::temp_dir().join(format!("machvm-forked-{}", std::process::id()));
    std::fs::write(&path, [7; 6 * PAGE]).expect("a temporary directory that can be written");
    let w = world(None);
    let t = &w.task;
    let open = std::fs::OpenOptions::new().read(true).write(true).open(&path).expect("open");
    let file = w.vm.file(open).expect("a file");
    let a = t.map_file(&file, 0, 6 * PAGE, Prot::RW, false).expect("maps");
    let sevens = u64::from_ne_bytes([7; 8]);
    store(t, a, 1);
    assert_eq!(load(t, a + PAGE), sevens);
    let child = fork(|| {
        assert_eq!([0, 1, 2, 4].map(|i| load(t, a + i * PAGE)), [1, sevens, sevens, sevens]);
        (0..6).for_each(|i| store(t, a + i * PAGE, 50 + i as u64));
        t.sync(a, 6 * PAGE).expect("nothing to write");
        assert_eq!((0..6).map(|i| load(t, a + i * PAGE)).sum::<u64>(), 6 * 50 + 15);
    });
    child.well();
    assert_eq!([0, 1, 3].map(|i| load(t, a + i * PAGE)), [1, sevens, sevens]);
    t.sync_file(&file, a, 6 * PAGE, machvm_linux::SyncHow::empty()).expect("written");
    let mut want = vec![7; 6 * PAGE];
    want[..8].copy_from_slice(&1u64.to_ne_bytes());
    assert!(std::fs::read(&path).expect("read") == want);
    std::fs::remove_file(path).expect("removed");
}
