//! Wired memory and copies (vm_fault_copy_entry).

use machvm::map::{Holes, SetProt, Wiring};

use crate::*;

#[test]
fn z48_z50_f06_fork_copies_wired_memory_at_once() {
    with(100, |vm| {
        let t = task(vm, 8);
        t.map.wire(pages(2, 4), Wiring::User, Holes::Refuse, &mut may()).expect("wire");
        (2..6).for_each(|p| assert!(writable(&t, p), "page {p}"));
        let faults = vm.statistics().faults;
        let child = fork(&t);
        assert_eq!(vm.statistics().eager_copies, 4);
        // The parent takes no fault: its pages stay mapped for writing, and are no copies.
        (2..6).for_each(|p| {
            assert!(writable(&t, p), "page {p} after the fork");
            t.store_word(at(p), p).expect("store");
        });
        assert_eq!(vm.statistics().faults, faults);
        (2..6).for_each(|p| assert_eq!(child.load_word(at(p)), Ok(100 + p)));
        check_quiet(vm, [&t, &child]);
        // The child's are not wired.
        page_all_out(vm);
        (2..6).for_each(|p| assert!(resident(&t, p) && !resident(&child, p), "page {p}"));
        child.store_word(at(3), 33).expect("store");
        t.map.unwire(pages(2, 4), Wiring::User, Holes::Refuse, &mut may()).expect("unwire");
        page_all_out(vm);
        assert_eq!(vm.live()[0], 0);
        (2..6).for_each(|p| assert_eq!(t.load_word(at(p)), Ok(p)));
        assert_eq!(child.load_word(at(3)), Ok(33));
    });
}

#[test]
fn z48_snapshots_of_wired_memory() {
    with(100, |vm| {
        let t = task(vm, 8);
        t.map.wire(pages(0, 8), Wiring::System, Holes::Refuse, &mut may()).expect("wire");
        let faults = vm.statistics().faults;
        let copy = t.map.copyin(pages(2, 2), &mut may()).expect("copyin");
        assert_eq!(vm.statistics().eager_copies, 2, "only what is copied");
        (0..8).for_each(|p| t.store_word(at(p), p).expect("store"));
        assert_eq!(vm.statistics().faults, faults);
        let other = task(vm, 8);
        other.map.overwrite(va(5), copy, &mut may()).expect("overwrite");
        (0..8).for_each(|p| {
            let want = if (5..7).contains(&p) { 97 + p } else { 100 + p };
            assert_eq!(other.load_word(at(p)), Ok(want), "page {p}");
        });
        check_quiet(vm, [&t, &other]);
    });
}

/// Private memory that may not be written is wired while a copy shares it: it is replaced
/// when it becomes writable, and not later.
#[test]
fn z49_wired_private_memory_becomes_writable() {
    with(100, |vm| {
        let t = task(vm, 6);
        let child = fork(&t);
        t.map.protect(pages(0, 6), &SetProt::prot(Prot::R), &mut may()).expect("protect");
        t.map.wire(pages(1, 4), Wiring::User, Holes::Refuse, &mut may()).expect("wire");
        t.map.protect(pages(0, 6), &SetProt::prot(Prot::RW), &mut may()).expect("protect");
        check_quiet(vm, [&t, &child]);
        let faults = vm.statistics().faults;
        (1..5).for_each(|p| {
            assert!(writable(&t, p), "page {p}");
            t.store_word(at(p), p).expect("store");
        });
        assert_eq!(vm.statistics().faults, faults, "no fault later");
        (0..6).for_each(|p| assert_eq!(child.load_word(at(p)), Ok(100 + p), "page {p}"));
        // The wiring moved with it, and only that.
        page_all_out(vm);
        (0..6).for_each(|p| {
            assert_eq!((resident(&t, p), resident(&child, p)), ((1..5).contains(&p), false), "page {p}");
        });
        // Another fork copies at once.
        let before = vm.statistics().eager_copies;
        let second = fork(&t);
        assert_eq!(vm.statistics().eager_copies - before, 4);
        (1..5).for_each(|p| assert!(writable(&t, p), "page {p}"));
        t.map.unwire(pages(1, 4), Wiring::User, Holes::Refuse, &mut may()).expect("unwire");
        page_all_out(vm);
        assert_eq!(vm.live()[0], 0);
        check_quiet(vm, [&t, &child, &second]);
    });
}
/// Wired for reading only, then copied, then writable.
#[test]
fn z49_after_a_fork_of_memory_wired_for_reading() {
    with(100, |vm| {
        let t = task(vm, 4);
        t.map.protect(pages(0, 4), &SetProt::prot(Prot::R), &mut may()).expect("protect");
        t.map.wire(pages(0, 4), Wiring::User, Holes::Refuse, &mut may()).expect("wire");
        let child = fork(&t);
        assert_eq!(vm.statistics().eager_copies, 0, "what is not written is shared (M60)");
        t.map.protect(pages(1, 2), &SetProt::prot(Prot::RW), &mut may()).expect("protect");
        let faults = vm.statistics().faults;
        t.store_word(at(1), 1).expect("store");
        t.store_word(at(2), 2).expect("store");
        assert_eq!(vm.statistics().faults, faults);
        (0..4).for_each(|p| assert_eq!(child.load_word(at(p)), Ok(100 + p)));
        drop(child);
        page_all_out(vm);
        (0..4).for_each(|p| assert!(resident(&t, p), "page {p} is wired"));
        t.map.unwire(pages(0, 4), Wiring::User, Holes::Refuse, &mut may()).expect("unwire");
        page_all_out(vm);
        assert_eq!(vm.live()[0], 0);
    });
}
