//! Rows of the inventory that concern faults, copy-on-write, wiring and page-out.

use machvm::fault::{CLUSTER, Fault, Step};
use machvm::map::{Advice, Advise, Attributes, Backing, Holes, Inherit, Wiring};
use machvm::{FaultError, Vm};
use machvm_hal::{MaySleep, PAGE_SIZE, Pmap, Prot, RawAddr, Va, VaRange};
use machvm_model::{Config, Machine, Point, Task, check_quiet};

const BASE: u64 = 0x2000;

fn may() -> MaySleep {
    MaySleep::claim()
}
fn va(page: u64) -> Va {
    Va::from_page(BASE + page)
}
fn at(page: u64) -> u64 {
    va(page).get()
}
fn pages(first: u64, n: u64) -> VaRange {
    VaRange::of_pages(va(first), n).expect("fits")
}
fn with(c: Config, test: impl Fn(&Vm<Machine>)) {
    for c in c.every_kind().map(Config::calm) {
        let vm = Vm::new(Machine::new(c)).expect("memory");
        test(&vm);
        check_quiet(&vm, []);
        assert_eq!(vm.live(), [0; 6], "left over, {c:?}");
    }
}
fn both(frames: u32, test: impl Fn(&Vm<Machine>)) {
    with(Config { frames, ..Config::default() }, test);
}
fn task(vm: &Vm<Machine>, n: u64) -> Task<'_> {
    let t = Task::new(vm);
    t.map.insert(pages(0, n), Backing::Anonymous, &Attributes::new(Prot::RW), &mut may()).expect("insert");
    t
}
fn fork<'vm>(t: &Task<'vm>) -> Task<'vm> {
    Task { map: t.map.fork(t.map.vm().platform().pmap(), &mut may()).expect("fork") }
}
fn page_all_out(vm: &Vm<Machine>) {
    while vm.pageout(1000, &mut may()) != 0 {}
}
fn resident(t: &Task<'_>, page: u64) -> bool {
    t.map.is_resident(va(page), &mut may())
}

#[test]
fn clusters_double_upwards_and_downwards() {
    both(400, |vm| {
        let t = task(vm, 100);
        let faults = |from: &mut dyn Iterator<Item = u64>| {
            let before = vm.statistics().faults;
            from.for_each(|p| t.store_word(at(p), p + 1).expect("store"));
            vm.statistics().faults - before
        };
        // 1, 2, 4, 8, 16, 16, ...: 50 pages in 6 faults.
        // Where nobody notes writes, the first to a page that was entered ahead and not taken
        // for written is a fault: the second page of the cluster of two.
        let unnoted = vm.platform().tables().is_some_and(|t| {
            let c = t.hw().config();
            !c.arch.is_x86() && !c.updates.dirty
        });
        let more = u64::from(unnoted);
        assert_eq!(faults(&mut (0..50)), 6 - u64::from(1 + 2 + 4 + 8 + 16 + 16 == 50) + 1 + more);
        let down = faults(&mut (60..100).rev());
        assert!(down <= 8 + more, "{down} faults downwards");
        (0..50).chain(60..100).for_each(|p| assert_eq!(t.load_word(at(p)), Ok(p + 1)));
        check_quiet(vm, [&t]);
    });
}

#[test]
fn clusters_stay_single_without_order() {
    both(400, |vm| {
        let t = task(vm, 200);
        (0..200).step_by(4).for_each(|p| t.store_word(at(p), 1).expect("store"));
        assert_eq!(vm.statistics().zero_fill, 50, "sparse use costs single pages");
        let t = task(vm, 200);
        t.map.madvise(pages(0, 200), Advise::Access(Advice::Random), &mut may()).expect("advise");
        let before = vm.statistics().zero_fill;
        (0..20).for_each(|p| t.store_word(at(p), 1).expect("store"));
        assert_eq!(vm.statistics().zero_fill - before, 20);
        t.map.madvise(pages(0, 200), Advise::Access(Advice::Sequential), &mut may()).expect("advise");
        let before = vm.statistics().zero_fill;
        t.store_word(at(100), 1).expect("store");
        assert_eq!(vm.statistics().zero_fill - before, CLUSTER as u64);
    });
}

#[test]
fn z92_no_clusters_when_memory_is_short() {
    both(64, |vm| {
        let t = task(vm, 200);
        (0..50).for_each(|p| t.store_word(at(p), 1).expect("store"));
        let free = 64 - vm.live()[0];
        assert!(free <= 16, "{free}");
        let before = vm.statistics().zero_fill;
        t.store_word(at(50), 1).expect("store");
        assert_eq!(vm.statistics().zero_fill - before, 1);
    });
}

#[test]
fn f03_prefault_maps_residents_for_reading_only() {
    both(400, |vm| {
        let t = task(vm, 40);
        (0..40).filter(|p| *p != 12 && *p != 25).for_each(|p| t.store_word(at(p), p).expect("store"));
        (0..40).for_each(|p| t.map.pmap().forget(vm.page_array(), va(p)));
        t.map.vm_fault_prefault(va(20), 10, 10);
        let mapped = |p| t.map.pmap().extract(t.map.vm().page_array(), va(p)).map(|(_, prot)| prot);
        // Stops at the first page on each side that was never touched; a page that came
        // with a cluster counts as resident.
        for p in 13..20 {
            assert_eq!(mapped(p), Some(Prot::R), "page {p}");
        }
        assert_eq!(mapped(20), None, "the page itself is the fault's business");
        assert_eq!(mapped(21), Some(Prot::R));
        assert_eq!((mapped(9), mapped(31)), (None, None), "no further than asked");
        let faults = vm.statistics().faults;
        assert_eq!(t.load_word(at(15)), Ok(15));
        assert_eq!(vm.statistics().faults, faults);
        // Never allocates: absent pages stay absent.
        let zeroed = vm.statistics().zero_fill;
        let other = task(vm, 10);
        other.map.vm_fault_prefault(va(5), 5, 5);
        assert_eq!(vm.statistics().zero_fill, zeroed);
        check_quiet(vm, [&t, &other]);
    });
}

#[test]
fn z90_z91_prefault_after_a_copy_maps_without_write() {
    both(400, |vm| {
        let t = task(vm, 20);
        (0..20).for_each(|p| t.store_word(at(p), p).expect("store"));
        let child = fork(&t);
        t.map.vm_fault_prefault(va(10), 5, 5);
        child.map.vm_fault_prefault(va(10), 5, 5);
        for who in [&t, &child] {
            for p in 0..20 {
                let prot = who
                    .map
                    .pmap()
                    .extract(who.map.vm().page_array(), va(p))
                    .map_or(Prot::NONE, |(_, prot)| prot);
                assert!(!prot.contains(Prot::W), "page {p} of {who:?}");
            }
        }
        check_quiet(vm, [&t, &child]);
        child.store_word(at(9), 1).expect("store");
        assert_eq!(t.load_word(at(9)), Ok(9));
    });
}

#[test]
fn z52_the_last_sharer_keeps_the_page() {
    both(400, |vm| {
        let t = task(vm, 20);
        (0..20).for_each(|p| t.store_word(at(p), p).expect("store"));
        let child = fork(&t);
        assert_eq!(child.load_word(at(40 - 39)), Ok(1));
        drop(child);
        let before = vm.statistics().cow_copies;
        (2..20).for_each(|p| t.store_word(at(p), p + 1).expect("store"));
        assert_eq!(vm.statistics().cow_copies, before, "nobody shares any more");
        assert!(vm.statistics().cow_reuse > 0, "{:?}", vm.statistics());
        (2..20).for_each(|p| assert_eq!(t.load_word(at(p)), Ok(p + 1)));
        check_quiet(vm, [&t]);
    });
}

/// Z51: two tasks share an object that a third has a copy of. When one writes, the
/// other must not go on seeing the copy's page.
#[test]
fn z51_a_copy_takes_every_old_mapping_away() {
    both(400, |vm| {
        let t = task(vm, 4);
        (0..4).for_each(|p| t.store_word(at(p), p).expect("store"));
        t.map.inherit(pages(0, 4), Inherit::Share, &mut may()).expect("inherit");
        let twin = fork(&t);
        t.map.inherit(pages(0, 4), Inherit::Copy, &mut may()).expect("inherit");
        let copy = fork(&t);
        (0..4).for_each(|p| assert_eq!(twin.load_word(at(p)), Ok(p)));
        (0..4).for_each(|p| assert_eq!(copy.load_word(at(p)), Ok(p)));
        (0..4).for_each(|p| t.store_word(at(p), 10 + p).expect("store"));
        (0..4).for_each(|p| assert_eq!(twin.load_word(at(p)), Ok(10 + p), "page {p}"));
        (0..4).for_each(|p| twin.store_word(at(p), 20 + p).expect("store"));
        (0..4).for_each(|p| assert_eq!(t.load_word(at(p)), Ok(20 + p), "page {p}"));
        (0..4).for_each(|p| assert_eq!(copy.load_word(at(p)), Ok(p), "page {p}"));
        check_quiet(vm, [&t, &twin, &copy]);
    });
}

/// In the dense placement who shares a page and does not write it keeps what it maps: when a child has copied what it
/// wrote, its parent takes no fault to read, and one for a run to write.
#[test]
fn z51_a_copy_leaves_the_other_sharers_what_they_map() {
    for c in (Config { frames: 400, ..Config::default() }).every_kind().map(Config::calm) {
        if c.sparse {
            continue;
        }
        let vm = &Vm::new(Machine::new(c)).expect("memory");
        let t = task(vm, 16);
        (0..16).for_each(|p| t.store_word(at(p), p).expect("store"));
        let child = fork(&t);
        (0..16).for_each(|p| assert_eq!(t.load_word(at(p)), Ok(p)));
        (0..16).for_each(|p| child.store_word(at(p), 10 + p).expect("store"));
        let before = vm.statistics().faults;
        (0..16).for_each(|p| assert_eq!(t.load_word(at(p)), Ok(p)));
        assert_eq!(vm.statistics().faults, before, "the parent lost what it mapped, {c:?}");
        (0..16).for_each(|p| assert_eq!(child.load_word(at(p)), Ok(10 + p)));
        check_quiet(vm, [&t, &child]);
    }
}

/// The page that a copy-on-write fault split off is paged out before the store that
/// asked for it: its contents are nowhere else.
#[test]
fn paged_out_between_the_copy_and_the_store() {
    both(400, |vm| {
        for writer in [0, 1] {
            let t = task(vm, 4);
            (0..4).for_each(|p| t.store_word(at(p), 50 + p).expect("store"));
            page_all_out(vm);
            // Clean, with copies on swap.
            (0..4).for_each(|p| assert_eq!(t.load_word(at(p)), Ok(50 + p)));
            let child = fork(&t);
            let who = [&t, &child][writer];
            let f = Fault { addr: RawAddr(at(1)), access: Prot::W };
            let before = vm.statistics().cow_copies;
            while vm.statistics().cow_copies == before {
                assert!(matches!(who.map.fault_step(&f), Ok(Step::Again)));
            }
            page_all_out(vm);
            assert_eq!((t.load_word(at(1)), child.load_word(at(1))), (Ok(51), Ok(51)), "writer {writer}");
            check_quiet(vm, [&t, &child]);
        }
    });
}

#[test]
fn z53_z54_zeroes_read_before_a_copy_stay_apart() {
    both(400, |vm| {
        let t = task(vm, 8);
        assert_eq!(t.load_word(at(1)), Ok(0));
        let child = fork(&t);
        assert_eq!((t.load_word(at(2)), child.load_word(at(3))), (Ok(0), Ok(0)));
        (1..4).for_each(|p| t.store_word(at(p), 7).expect("store"));
        (1..4).for_each(|p| assert_eq!(child.load_word(at(p)), Ok(0), "page {p}"));
        (1..4).for_each(|p| child.store_word(at(p), 9).expect("store"));
        (1..4).for_each(|p| assert_eq!(t.load_word(at(p)), Ok(7), "page {p}"));
        check_quiet(vm, [&t, &child]);
    });
}

#[test]
fn z40_z41_no_page_and_no_swap_is_kept_that_nobody_sees() {
    both(200, |vm| {
        let t = task(vm, 20);
        for n in 0..50 {
            let child = fork(&t);
            (0..20).for_each(|p| t.store_word(at(p), n * 100 + p).expect("store"));
            page_all_out(vm);
            drop(child);
            let [_, anons, leaves, inners, objects, _] = vm.live();
            assert_eq!((anons, leaves, inners, objects), (20, 1, 0, 1), "after {n} forks");
            assert_eq!(vm.platform().mem_swap().expect("swap").kept(), 20);
        }
        (0..20).for_each(|p| assert_eq!(t.load_word(at(p)), Ok(4900 + p)));
        check_quiet(vm, [&t]);
    });
}

#[test]
fn z64_a_stale_copy_on_swap_never_comes_back() {
    both(100, |vm| {
        let t = task(vm, 10);
        for n in 1..10 {
            (0..10).for_each(|p| t.store_word(at(p), n * 10 + p).expect("store"));
            page_all_out(vm);
            (0..10).for_each(|p| assert_eq!(t.load_word(at(p)), Ok(n * 10 + p)));
            // Clean, with a copy on swap: the next store must make that stale.
            t.store_word(at(3), n).expect("store");
            page_all_out(vm);
            assert_eq!(t.load_word(at(3)), Ok(n));
        }
        check_quiet(vm, [&t]);
    });
}

#[test]
fn a_clean_page_with_a_copy_on_swap_is_not_written_again() {
    both(100, |vm| {
        let t = task(vm, 10);
        (0..10).for_each(|p| t.store_word(at(p), p).expect("store"));
        page_all_out(vm);
        (0..10).for_each(|p| assert_eq!(t.load_word(at(p)), Ok(p)));
        let written = vm.statistics().swapouts;
        page_all_out(vm);
        assert_eq!(vm.statistics().swapouts, written);
        assert_eq!(vm.live()[0], 0);
    });
}

#[test]
fn z79_z80_full_swap_loses_nothing_and_does_not_spin() {
    with(Config { frames: 64, swap: Some(20), ..Config::default() }, |vm| {
        let t = task(vm, 200);
        let stored = (0..200).take_while(|p| t.store_word(at(*p), p + 1).is_ok()).count() as u64;
        assert!((64..=84).contains(&stored), "{stored} pages fit");
        assert_eq!(t.store_word(at(stored), 1), Err(FaultError::NoMemory(va(stored))));
        check_quiet(vm, [&t]);
        let e = (0..stored).map(|p| t.load_word(at(p))).collect::<Vec<_>>();
        // What is resident can be read; what is on swap may find no frame, but is there.
        for (p, r) in (0..).zip(&e) {
            assert!(matches!(r, Err(FaultError::NoMemory(_))) || *r == Ok(p + 1), "page {p}: {r:?}");
        }
        t.map.delete(pages(0, 40), &mut may()).expect("delete");
        (40..stored).for_each(|p| assert_eq!(t.load_word(at(p)), Ok(p + 1), "page {p}"));
        check_quiet(vm, [&t]);
    });
}

#[test]
fn z82_no_swap_at_all() {
    with(Config { frames: 64, swap: None, ..Config::default() }, |vm| {
        let t = task(vm, 200);
        let stored = (0..200).take_while(|p| t.store_word(at(*p), p + 1).is_ok()).count() as u64;
        assert_eq!(stored, 64);
        (0..stored).for_each(|p| assert_eq!(t.load_word(at(p)), Ok(p + 1), "page {p}"));
        check_quiet(vm, [&t]);
    });
}

#[test]
fn lost_swap_is_an_error_for_its_page_only() {
    both(100, |vm| {
        let t = task(vm, 10);
        (0..10).for_each(|p| t.store_word(at(p), p).expect("store"));
        page_all_out(vm);
        vm.platform().inject().arm(Point::SwapGet as u32, 1, false);
        assert_eq!(t.load_word(at(4)), Err(FaultError::PagerIo(va(4))));
        check_quiet(vm, [&t]);
        (0..10).for_each(|p| assert_eq!(t.load_word(at(p)), Ok(p)));
    });
}

#[test]
fn z93_wired_pages_take_no_fault() {
    both(100, |vm| {
        let t = task(vm, 30);
        t.map.wire(pages(5, 10), Wiring::User, Holes::Refuse, &mut may()).expect("wire");
        page_all_out(vm);
        let faults = vm.statistics().faults;
        (5..15).for_each(|p| {
            assert!(resident(&t, p), "page {p}");
            t.store_word(at(p), p).expect("store");
        });
        assert_eq!(vm.statistics().faults, faults);
        t.map.unwire(pages(5, 10), Wiring::User, Holes::Refuse, &mut may()).expect("unwire");
        page_all_out(vm);
        assert_eq!(vm.live()[0], 0, "unwired pages can go");
        (5..15).for_each(|p| assert_eq!(t.load_word(at(p)), Ok(p)));
        check_quiet(vm, [&t]);
    });
}

/// Z48, Z50: a wired page stays wired through a fork and the writes after it.
#[test]
fn z50_wiring_stays_with_the_entry_through_a_copy() {
    both(100, |vm| {
        for child_first in [false, true] {
            let t = task(vm, 4);
            (0..4).for_each(|p| t.store_word(at(p), p).expect("store"));
            t.map.wire(pages(0, 4), Wiring::User, Holes::Refuse, &mut may()).expect("wire");
            let child = fork(&t);
            if child_first {
                (0..4).for_each(|p| child.store_word(at(p), 20 + p).expect("store"));
            }
            (0..4).for_each(|p| t.store_word(at(p), 10 + p).expect("store"));
            page_all_out(vm);
            (0..4).for_each(|p| assert!(resident(&t, p), "page {p} of the parent"));
            (0..4).for_each(|p| assert!(!resident(&child, p), "page {p} of the child is not wired"));
            t.map.unwire(pages(0, 4), Wiring::User, Holes::Refuse, &mut may()).expect("unwire");
            page_all_out(vm);
            assert_eq!(vm.live()[0], 0, "nothing is wired, so nothing need be resident");
            (0..4).for_each(|p| assert_eq!(t.load_word(at(p)), Ok(10 + p)));
            let theirs = if child_first { 20 } else { 0 };
            (0..4).for_each(|p| assert_eq!(child.load_word(at(p)), Ok(theirs + p)));
            check_quiet(vm, [&t, &child]);
        }
    });
}

#[test]
fn z94_write_means_read() {
    both(100, |vm| {
        let t = Task::new(vm);
        t.map.insert(pages(0, 2), Backing::Anonymous, &Attributes::new(Prot::W), &mut may()).expect("insert");
        assert_eq!(t.load_word(at(0)), Ok(0));
        t.store_word(at(1), 5).expect("store");
        assert_eq!(t.load_word(at(1)), Ok(5));
        assert_eq!(t.fetch(at(1)), Err(FaultError::Protection(va(1))));
    });
}

/// Z70, Z71: the second fault on a page that is being filled waits, and looks again.
#[test]
fn z70_identity_is_looked_up_again() {
    both(100, |vm| {
        let t = task(vm, 4);
        t.store_word(at(1), 1).expect("store");
        page_all_out(vm);
        let f = Fault { addr: RawAddr(at(1)), access: Prot::R };
        let Ok(Step::SwapIn(first)) = t.map.fault_step(&f) else { panic!("expected a read from swap") };
        assert!(matches!(t.map.fault_step(&f), Ok(Step::Wait(_))));
        // The page's memory goes while it is on the way; another takes its address.
        t.map.delete(pages(0, 4), &mut may()).expect("delete");
        let a = Attributes::new(Prot::RW);
        t.map.insert(pages(0, 4), Backing::Anonymous, &a, &mut may()).expect("insert");
        vm.swap_in(first, va(1)).expect("swap in");
        assert_eq!(t.load_word(at(1)), Ok(0));
        check_quiet(vm, [&t]);
    });
}

/// A page that was set aside and is used again in time stays: a second chance.
#[test]
fn pages_in_use_are_not_paged_out() {
    let c = Config { frames: 256, reference_bits: false, ..Config::default() };
    with(c, |vm| {
        let t = task(vm, 2000);
        // A few pages are used all the time while many are written once.
        let hot = 32;
        for p in hot..2000 {
            t.store_word(at(p), p).expect("store");
            if p % 4 == 0 {
                (0..hot).for_each(|h| {
                    t.load_word(at(h)).expect("load");
                });
            }
        }
        let s = vm.statistics();
        assert!(s.reactivated > 0, "nothing ever got a second chance: {s:?}");
        // Each hot page may be unlucky a few times; without any use of what is known
        // they would all go out with every turn of the queue, about 250 times in all.
        assert!(s.swapins < 100, "hot pages were paged out: {s:?}");
    });
}

#[test]
fn fork_of_a_huge_empty_map_costs_nothing() {
    both(100, |vm| {
        let t = Task::new(vm);
        let r = VaRange::of_pages(va(0), 1 << 24).expect("fits");
        t.map.insert(r, Backing::Anonymous, &Attributes::new(Prot::RW), &mut may()).expect("insert");
        t.store_word(at((1 << 24) - 1), 9).expect("store");
        t.store_word(at(5), 8).expect("store");
        let child = fork(&t);
        assert_eq!(child.load_word(at((1 << 24) - 1)), Ok(9));
        assert_eq!(child.load_word(at(5)), Ok(8));
        assert_eq!(child.load_word(at(1 << 20)), Ok(0));
        check_quiet(vm, [&t, &child]);
        t.map.madvise(r, Advise::DontNeed, &mut may()).expect("dontneed");
        assert_eq!((t.load_word(at(5)), child.load_word(at(5))), (Ok(0), Ok(8)));
        assert_eq!(PAGE_SIZE, 4096);
    });
}
