//! Memory that is never paged out (G15 `phys_pager_allocate`, G09).

use machvm::map::{Holes, Wiring};
use machvm_hal::{PhysMem, Placement};

use super::*;

/// A task that maps `n` pages of such memory; and the object, which the mapping keeps.
fn unpaged<'a>(vm: &'a Vm<Machine>, n: u64) -> (Task<'a>, Object, Pindex) {
    let (o, first) = vm.object_unpaged(n).expect("memory");
    let t = Task::new(vm);
    let a = Attributes::new(Prot::RW);
    t.map.insert(pages(0, n), Backing::Shared(o, first), &a, &mut may()).expect("insert");
    (t, o, first)
}

#[test]
fn g15_it_is_zero_and_stays() {
    machines(64, |vm| {
        let (t, o, _) = unpaged(vm, 20);
        for p in 0..20 {
            assert!(page(&t, p).iter().all(|b| *b == 0));
            t.store_word(at(p), p + 1).expect("store");
        }
        check_quiet(vm, [&t]);
        while vm.pageout(100, &mut may()) != 0 {}
        let s = vm.statistics();
        assert_eq!((s.swapouts, vm.vm_object_info(o, &mut may()).resident), (0, 20));
        // Others go for it.
        let other = Task::new(vm);
        let a = Attributes::new(Prot::RW);
        other.map.insert(pages(0, 100), Backing::Anonymous, &a, &mut may()).expect("insert");
        (0..100).for_each(|p| other.store_word(at(p), p).expect("store"));
        (0..100).for_each(|p| assert_eq!(other.load_word(at(p)), Ok(p)));
        (0..20).for_each(|p| assert_eq!(t.load_word(at(p)), Ok(p + 1)));
        assert_eq!(vm.vm_object_info(o, &mut may()).resident, 20);
        check_quiet(vm, [&t, &other]);
        // Wiring it and letting it go changes nothing.
        t.map.wire(pages(0, 5), Wiring::User, Holes::Refuse, &mut may()).expect("wire");
        t.map.unwire(pages(0, 5), Wiring::User, Holes::Refuse, &mut may()).expect("unwire");
        while vm.pageout(100, &mut may()) != 0 {}
        assert_eq!(vm.vm_object_info(o, &mut may()).resident, 20);
        check_quiet(vm, [&t, &other]);
    });
}

/// Populating makes the pages before anybody asks for them, and they stay as well.
#[test]
fn g09_g15_it_can_be_populated() {
    machines(64, |vm| {
        let (t, o, first) = unpaged(vm, 30);
        vm.vm_object_populate(o, first, 25, &mut may()).expect("memory");
        assert_eq!(vm.vm_object_info(o, &mut may()).resident, 25);
        while vm.pageout(100, &mut may()) != 0 {}
        assert_eq!(vm.vm_object_info(o, &mut may()).resident, 25);
        (0..30).for_each(|p| assert_eq!(t.load_word(at(p)), Ok(0)));
        check_quiet(vm, [&t]);
        t.map.delete(pages(0, 30), &mut may()).expect("delete");
        assert_eq!(vm.live()[0], 0, "its pages are free");
    });
}

/// phys_pager_populate: where there is memory, the superpage around a fault is filled at once.
#[test]
fn g09_a_fault_fills_the_superpage() {
    machines(2048, |vm| {
        let (t, o, _) = unpaged(vm, 1024);
        t.store_word(at(700), 9).expect("store");
        let sparse = matches!(vm.mem().placement(), Placement::Sparse { .. });
        let resident = vm.vm_object_info(o, &mut may()).resident;
        assert_eq!(resident, if sparse { 1 } else { 512 });
        let faults = vm.statistics().faults;
        if !sparse {
            (512..1024).for_each(|p| assert_eq!(t.load_word(at(p)), Ok(9 * u64::from(p == 700))));
            assert_eq!(vm.vm_object_info(o, &mut may()).resident, 512);
            assert!(vm.statistics().faults - faults < 512);
        }
        check_quiet(vm, [&t]);
    });
}

/// A child's copy is memory like any other; dropped contents are zero again.
#[test]
fn g15_copies_are_ordinary_memory() {
    machines(64, |vm| {
        let (t, o, first) = unpaged(vm, 8);
        (0..8).for_each(|p| t.store_word(at(p), p + 1).expect("store"));
        let child = Task { map: t.map.fork(vm.platform().pmap(), &mut may()).expect("fork") };
        t.store_word(at(3), 77).expect("store");
        child.store_word(at(4), 88).expect("store");
        for p in 0..8 {
            assert_eq!(t.load_word(at(p)), Ok(if p == 3 { 77 } else { p + 1 }));
            assert_eq!(child.load_word(at(p)), Ok(if p == 4 { 88 } else { p + 1 }));
        }
        check_quiet(vm, [&t, &child]);
        drop(child);
        let left = vm.vm_object_page_remove(o, first, 8, Default::default(), &mut may());
        assert_eq!(left, Ok(8), "they stay");
        t.map.madvise(pages(0, 8), machvm::map::Advise::DontNeed, &mut may()).expect("dontneed");
        check_quiet(vm, [&t]);
    });
}

/// No memory is an error, not a page that is half there.
#[test]
fn g15_too_much_of_it_is_no_memory() {
    machines(32, |vm| {
        let (t, _, _) = unpaged(vm, 64);
        let stopped = (0..64).find(|p| t.store_word(at(*p), 1).is_err()).expect("32 frames");
        assert!((16..=32).contains(&stopped), "{stopped}");
        (0..stopped).for_each(|p| assert_eq!(t.load_word(at(p)), Ok(1)));
        check_quiet(vm, [&t]);
    });
}
