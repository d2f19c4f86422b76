//! Holds and copy-on-write (decision 16; CVE-2020-29374 is the class of mistake).

use machvm::map::{Advise, CopyWhy, Inherit};
use machvm::task::{Personality, Task as Calls};

use crate::*;

#[test]
fn d16_fork_copies_what_is_held() {
    with(100, |vm| {
        let t = task(vm, 8);
        let mut places = list::<2>();
        let held = hold(&t, pages(2, 2), Prot::W, &mut places).expect("held");
        let child = fork(&t);
        assert_eq!(vm.statistics().eager_copies, 2, "no more than what is held");
        dma_write(&held, 0, 1);
        assert_eq!((t.load_word(at(2)), child.load_word(at(2))), (Ok(1), Ok(102)));
        let copies = vm.statistics().cow_copies;
        t.store_word(at(2), 2).expect("store");
        assert_eq!(vm.statistics().cow_copies, copies, "written in place");
        assert_eq!(dma_read(&held, 0), 2);
        child.store_word(at(3), 3).expect("store");
        assert_eq!((t.load_word(at(3)), dma_read(&held, 1)), (Ok(103), 103));
        // The rest of the window is shared as ever.
        t.store_word(at(4), 4).expect("store");
        assert_eq!(child.load_word(at(4)), Ok(104));
        check_quiet(vm, [&t, &child]);
        let grandchild = fork(&child);
        assert_eq!(vm.statistics().eager_copies, 2, "the child holds nothing");
        drop(child);
        drop(held);
        drop(fork(&t));
        assert_eq!(vm.statistics().eager_copies, 2, "nobody holds anything");
        assert_eq!((grandchild.load_word(at(2)), grandchild.load_word(at(3))), (Ok(102), Ok(3)));
        check_quiet(vm, [&t, &grandchild]);
    });
}

/// The child holds a page for reading that it shares with its parent. What the parent
/// writes afterwards is not for the child's holder.
#[test]
fn d16_a_hold_for_reading_does_not_see_what_others_write_later() {
    with(100, |vm| {
        let t = task(vm, 4);
        let child = fork(&t);
        let mut places = list::<1>();
        let held = hold(&child, pages(1, 1), Prot::R, &mut places).expect("held");
        child.map.delete(pages(0, 4), &mut may()).expect("delete");
        // The parent is the last to map its page.
        t.store_word(at(1), 666).expect("store");
        assert_eq!(dma_read(&held, 0), 101);
        drop(held);
        // The other way round, and the child writes.
        let child = fork(&t);
        let held = hold(&t, pages(2, 1), Prot::R, &mut places).expect("held");
        child.store_word(at(2), 667).expect("store");
        assert_eq!((dma_read(&held, 0), t.load_word(at(2))), (102, Ok(102)));
        // Its own process's stores are seen: that is what is held.
        t.store_word(at(2), 9).expect("store");
        assert_eq!((dma_read(&held, 0), child.load_word(at(2))), (9, Ok(667)));
        check_quiet(vm, [&t, &child]);
    });
}

#[test]
fn d16_snapshots_do_not_see_what_devices_write() {
    with(100, |vm| {
        let t = task(vm, 6);
        let mut places = list::<1>();
        let held = hold(&t, pages(1, 1), Prot::W, &mut places).expect("held");
        let copy = t.map.copyin(pages(0, 3), &mut may()).expect("copyin");
        dma_write(&held, 0, 5);
        let other = task(vm, 6);
        other.map.overwrite(va(0), copy, &mut may()).expect("overwrite");
        assert_eq!((other.load_word(at(1)), t.load_word(at(1))), (Ok(101), Ok(5)));
        // A snapshot beside what is held copies nothing.
        let before = vm.statistics().eager_copies;
        drop(t.map.copyin(pages(3, 2), &mut may()).expect("copyin"));
        assert_eq!((before, vm.statistics().eager_copies), (1, 1));
        check_quiet(vm, [&t, &other]);
        // What is held does not get other pages behind the device's back.
        let e = other.map.copy_range(pages(4, 2), &t.map, va(1), &mut may());
        assert_eq!(e.map_err(|e| (e.why, e.at)), Err((CopyWhy::Wired, va(1))));
        let calls = Calls::new(&t.map, &Personality::XNU);
        calls.vm_copy(RawAddr(at(4)), RawSize(2 * P), RawAddr(at(1)), &mut may()).expect("by bytes");
        assert_eq!(dma_read(&held, 0), 104);
        dma_write(&held, 0, 6);
        assert_eq!(t.load_word(at(1)), Ok(6));
        check_quiet(vm, [&t, &other]);
    });
}

#[test]
fn d16_shared_memory_stays_shared_while_held() {
    with(100, |vm| {
        let t = task(vm, 4);
        t.map.inherit(pages(0, 4), Inherit::Share, &mut may()).expect("inherit");
        let twin = fork(&t);
        let mut places = list::<2>();
        let held = hold(&twin, pages(1, 2), Prot::W, &mut places).expect("held");
        t.map.inherit(pages(0, 4), Inherit::Copy, &mut may()).expect("inherit");
        // Copied through one map, held through another.
        let copy = fork(&t);
        dma_write(&held, 0, 7);
        assert_eq!(
            (t.load_word(at(1)), twin.load_word(at(1)), copy.load_word(at(1))),
            (Ok(7), Ok(7), Ok(101))
        );
        t.store_word(at(2), 8).expect("store");
        assert_eq!((twin.load_word(at(2)), dma_read(&held, 1), copy.load_word(at(2))), (Ok(8), 8, Ok(102)));
        check_quiet(vm, [&t, &twin, &copy]);
    });
}

/// MADV_DONTNEED of what is held: the memory is zero, and the device has what it had.
#[test]
fn d16_d17_contents_are_dropped_while_held() {
    with(100, |vm| {
        for advise in [Advise::DontNeed, Advise::Free] {
            let t = task(vm, 8);
            let mut places = list::<3>();
            let held = hold(&t, pages(2, 3), Prot::W, &mut places).expect("held");
            assert_eq!(t.map.madvise(pages(1, 3), advise, &mut may()), Ok(None));
            check_quiet(vm, [&t]);
            dma_write(&held, 0, 1);
            (1..4).for_each(|p| assert_eq!(t.load_word(at(p)), Ok(0), "page {p}"));
            assert_eq!((dma_read(&held, 0), dma_read(&held, 1)), (1, 103));
            dma_write(&held, 2, 9);
            assert_eq!((t.load_word(at(4)), t.load_word(at(5))), (Ok(9), Ok(105)));
            t.store_word(at(2), 22).expect("store");
            let child = fork(&t);
            check_quiet(vm, [&t, &child]);
            // Held twice: at the old place and at the new.
            let mut more = list::<3>();
            let again = hold(&t, pages(2, 3), Prot::W, &mut more).expect("held");
            assert_eq!(t.map.madvise(pages(0, 8), advise, &mut may()), Ok(None));
            assert_eq!((dma_read(&held, 0), dma_read(&again, 0), t.load_word(at(2))), (1, 22, Ok(0)));
            assert_eq!(child.load_word(at(2)), Ok(22));
            check_quiet(vm, [&t, &child]);
        }
    });
}
