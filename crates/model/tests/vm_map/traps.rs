//! Traps of section 5.1 to 5.3 that concern maps, faults and objects, and have no test with
//! their row elsewhere.

use super::*;
use machvm::FaultError;
use machvm::fault::{Fault, Step};
use machvm::map::{Advise, GrowError, Limits, Place, SetProt, StackShape, SyncError};
use machvm::task::{Personality, Task as Calls};
use machvm_hal::{PAGE_SIZE, Pager, PagerError, Pmap, RawAddr, RawSize};
use machvm_model::{MemPager, Point};

fn fork<'vm>(t: &Task<'vm>) -> Task<'vm> {
    Task { map: t.map.fork(t.map.vm().platform().pmap(), &mut may()).expect("fork") }
}
/// A task with a file of `n` pages, word 0 of page i is 100 + i.
fn with_file<'vm>(vm: &'vm Vm<Machine>, n: u64, shared: bool) -> (Task<'vm>, &'static MemPager) {
    let mut data = vec![0; (n * PAGE_SIZE) as usize];
    (0..n).for_each(|i| data[(i * PAGE_SIZE) as usize..][..8].copy_from_slice(&(100 + i).to_le_bytes()));
    let (id, pager) = vm.platform().add_pager(data);
    let t = Task::new(vm);
    let (o, at0) = vm.object_from_pager(n, id, 0, shared, &mut may()).expect("memory");
    let backing = if shared { Backing::Shared(o, at0) } else { Backing::Private(o, at0) };
    t.map.insert(pages(0, n), backing, &rw(), &mut may()).expect("free");
    (t, pager)
}
fn small() -> Config {
    Config { frames: 100, ..Config::default() }
}
fn page_all_out(vm: &Vm<Machine>) {
    while vm.pageout(1000, &mut may()) != 0 {}
}

/// Z09: which result says what. The page of vm_map_sync(9) swaps its two codes, madvise gives an
/// errno, trylock says TRUE and lock_upgrade 0 for success: here the types say it.
#[test]
fn z09_results_say_what_they_mean() {
    each(small(), |vm| {
        let t = task(vm, 4);
        assert!(t.map.trylock().is_some() && t.map.trylock_read().is_some());
        let read = t.map.lock_read(&mut may());
        assert!(t.map.trylock().is_none(), "would block");
        drop(t.map.lock_upgrade(read, &mut may()).expect("the only reader"));
        assert_eq!(
            t.map.sync(pages(0, 6), false, &mut may()),
            Err(SyncError::Hole(va(4))),
            "KERN_INVALID_ADDRESS"
        );
        let user = machvm::map::Wiring::User;
        t.map.wire(pages(1, 1), user, machvm::map::Holes::Refuse, &mut may()).expect("memory");
        assert_eq!(
            t.map.sync(pages(0, 4), true, &mut may()),
            Err(SyncError::Wired(va(1))),
            "KERN_INVALID_ARGUMENT"
        );
        let core = Advise::Core { include: false };
        assert_eq!(
            t.map.madvise(pages(0, 6), core, &mut may()),
            Ok(Some(va(4))),
            "unmapped ranges do not fail"
        );
    });
}

/// Z33: who looks at another process's stack does not grow it: not by copying, not through a
/// submap. Growth is the owner's fault or its own call.
#[test]
fn z33_nobody_grows_another_stack() {
    each(small(), |vm| {
        let t = Task::new(vm);
        let shape = StackShape { pages: 16, initial: 2, guard: 1 };
        t.map.stack(Place::At(va(0)), shape, &rw(), &mut may()).expect("free");
        let size = t.map.size(&mut may());
        let calls = Calls::new(&t.map, &Personality::XNU);
        let below = RawAddr(at(10));
        let mut buf = [0; 8];
        assert!(calls.vm_read_bytes(below, &mut buf, &mut may()).is_err());
        assert!(calls.vm_write_bytes(below, &buf, &mut may()).is_err());
        assert!(calls.vm_copy(below, RawSize(PAGE_SIZE), RawAddr(at(14)), &mut may()).is_err());
        assert!(t.map.copyin(pages(10, 2), &mut may()).is_err());
        assert_eq!(
            t.map.peek(va(10), &mut [0; PAGE_SIZE as usize], &mut may()),
            Err(FaultError::Foreign(va(10)))
        );
        assert_eq!(t.map.size(&mut may()), size);
        let s = Map::new_submap(vm, vm.platform().pmap(), pages(0x800, 16)).expect("memory");
        s.stack(Place::At(va(0x800)), shape, &rw(), &mut may()).expect("free");
        t.map.insert(pages(0x100, 16), Backing::Guard, &rw(), &mut may()).expect("free");
        t.map.submap(pages(0x100, 16), &s, va(0x800), &mut may()).expect("a guard");
        assert_eq!(t.store_word(at(0x10f), 1), Ok(()));
        assert_eq!(t.store_word(at(0x10a), 1), Err(FaultError::Protection(va(0x10a))));
        // No entry at all, and no gap: the two failures of its own call.
        assert_eq!(t.map.growstack(va(50), &mut may()), Err(GrowError::NotMapped(va(50))));
        assert_eq!(t.map.growstack(va(15), &mut may()), Ok(()), "not a guard");
        assert_eq!(t.store_word(at(10), 1), Ok(()), "its own fault grows it");
        assert!(t.map.size(&mut may()) > size);
        drop((t, s));
    });
}

/// Z37, Z34: what stops a stack leaves its gap as it was, and it grows later.
#[test]
fn z37_a_stack_that_could_not_grow_grows_later() {
    each(small(), |vm| {
        let t = Task::new(vm);
        t.map.set_limits(Limits { stack: 3 << 12, stack_step: 1 << 12, ..Limits::default() }, &mut may());
        let shape = StackShape { pages: 16, initial: 2, guard: 2 };
        t.map.stack(Place::At(va(0)), shape, &rw(), &mut may()).expect("free");
        assert_eq!(t.store_word(at(10), 1), Err(FaultError::NoMapping(va(10))));
        t.map.set_limits(Limits { stack_step: 1 << 12, ..Limits::default() }, &mut may());
        assert_eq!(t.store_word(at(2), 1), Ok(()), "down to its guard");
        assert_eq!(t.store_word(at(1), 1), Err(FaultError::NoMapping(va(1))));
        check_quiet(vm, [&t]);
    });
}

/// Z42: a page that never got its contents hides nothing.
#[test]
fn z42_a_failed_page_hides_nothing() {
    each(small(), |vm| {
        let (t, pager) = with_file(vm, 8, false);
        t.store_word(at(1), 7).expect("store");
        let child = fork(&t);
        pager.set_bad(3 * PAGE_SIZE, true);
        assert_eq!(child.load_word(at(3)), Err(FaultError::PagerIo(va(3))));
        assert_eq!(t.store_word(at(3), 1), Err(FaultError::PagerIo(va(3))));
        check_quiet(vm, [&t, &child]);
        pager.set_bad(3 * PAGE_SIZE, false);
        assert_eq!((child.load_word(at(3)), child.load_word(at(1))), (Ok(103), Ok(7)));
        t.store_word(at(3), 9).expect("store");
        assert_eq!((child.load_word(at(3)), t.load_word(at(3))), (Ok(103), Ok(9)));
        check_quiet(vm, [&t, &child]);
    });
}

/// Z43: a page that is busy while its object is copied or cut is not left out.
#[test]
fn z43_busy_pages_are_copied_and_cut_like_others() {
    each(small(), |vm| {
        for what in 0..3 {
            let (t, pager) = with_file(vm, 8, false);
            let f = Fault { addr: RawAddr(at(4)), access: Prot::R };
            let Ok(Step::PageIn(_, req)) = t.map.fault_step(&f) else { panic!("expected a request") };
            let other = match what {
                0 => Some(fork(&t)),
                1 => {
                    t.map.protect(pages(4, 1), &SetProt::prot(Prot::R), &mut may()).expect("memory");
                    None
                }
                _ => {
                    t.map
                        .move_range(pages(4, 2), va(20), machvm::map::Leave::Hole, &mut may())
                        .expect("free");
                    None
                }
            };
            pager.page_in(req);
            let here = if what == 2 { 20 } else { 4 };
            assert_eq!((t.load_word(at(here)), t.load_word(at(here + 1))), (Ok(104), Ok(105)), "{what}");
            if let Some(child) = &other {
                child.store_word(at(4), 1).expect("store");
                assert_eq!((t.load_word(at(4)), child.load_word(at(4))), (Ok(104), Ok(1)));
            }
            check_quiet(vm, other.iter().chain([&t]));
        }
    });
}

/// Z44: copies die and pages are paged out and in at every moment between.
#[test]
fn z44_copies_end_while_pages_come_and_go() {
    each(Config { frames: 64, ..Config::default() }, |vm| {
        let t = task(vm, 30);
        (0..30).for_each(|p| t.store_word(at(p), p).expect("store"));
        for round in 1..6u64 {
            let child = fork(&t);
            page_all_out(vm);
            (0..30).step_by(2).for_each(|p| child.store_word(at(p), 1000).expect("store"));
            (0..30).step_by(3).for_each(|p| t.store_word(at(p), p + round).expect("store"));
            vm.pageout(7 * round, &mut may());
            drop(child);
            page_all_out(vm);
            for p in 0..30 {
                let want = if p % 3 == 0 { p + round } else { p };
                assert_eq!(t.load_word(at(p)), Ok(want), "page {p} in round {round}");
            }
        }
        assert_eq!(vm.platform().mem_swap().map(|s| s.kept() <= 30), Some(true), "no block that nobody sees");
        check_quiet(vm, [&t]);
    });
}

/// Z45: a flush whose every write fails comes to an end, and nothing is lost.
#[test]
fn z45_a_flush_that_writes_nothing_ends() {
    each(small(), |vm| {
        let (t, pager) = with_file(vm, 8, true);
        (0..8).for_each(|p| t.store_word(at(p), p).expect("store"));
        let inject = vm.platform().inject();
        inject.arm(Point::PageOut as u32, 1, true);
        let done = t.map.sync(pages(0, 8), true, &mut may());
        inject.disarm();
        assert_eq!(done, Err(SyncError::Pager(va(0), PagerError::Io)));
        assert_eq!(pager.writes(), 0);
        (0..8).for_each(|p| assert_eq!(t.load_word(at(p)), Ok(p), "still there, still modified"));
        assert_eq!(t.map.sync(pages(0, 8), true, &mut may()), Ok(()));
        assert_eq!(pager.writes(), 8);
        check_quiet(vm, [&t]);
    });
}

/// Z55: the copy keeps what the source had, whether the source is written or paged out first.
#[test]
fn z55_the_source_changes_or_goes_before_its_copy_is_used() {
    each(small(), |vm| {
        let t = task(vm, 24);
        (0..8).for_each(|p| t.store_word(at(p), p + 1).expect("store"));
        t.map.copy_range(pages(0, 8), &t.map, va(12), &mut may()).expect("readable");
        (0..8).step_by(2).for_each(|p| t.store_word(at(p), 90).expect("store"));
        page_all_out(vm);
        (1..8).step_by(2).for_each(|p| t.store_word(at(p), 91).expect("store"));
        page_all_out(vm);
        (0..8).for_each(|p| assert_eq!(t.load_word(at(12 + p)), Ok(p + 1), "page {p} of the copy"));
        (0..8).for_each(|p| assert_eq!(t.load_word(at(p)), Ok(90 + p % 2)));
        check_quiet(vm, [&t]);
    });
}

/// Z58, decision 17: freed contents never uncover older ones.
#[test]
fn z58_free_uncovers_nothing() {
    each(small(), |vm| {
        let t = task(vm, 4);
        (0..4).for_each(|p| t.store_word(at(p), 5).expect("store"));
        let child = fork(&t);
        child.store_word(at(1), 6).expect("store");
        child.map.madvise(pages(0, 4), Advise::Free, &mut may()).expect("memory");
        for p in 0..4 {
            let now = child.load_word(at(p)).expect("mapped");
            assert!(now == 0 || (p != 1 && now == 5), "page {p}: {now}: its own contents, or none");
        }
        assert_ne!(child.load_word(at(1)), Ok(5), "what the child wrote does not turn into what it hid");
        (0..4).for_each(|p| assert_eq!(t.load_word(at(p)), Ok(5)));
        check_quiet(vm, [&t, &child]);
        // Over a file it is left alone: the file's page would come back.
        let (f, _) = with_file(vm, 4, false);
        f.store_word(at(2), 8).expect("store");
        f.map.madvise(pages(0, 4), Advise::Free, &mut may()).expect("memory");
        assert_eq!((f.load_word(at(2)), f.load_word(at(3))), (Ok(8), Ok(103)));
        check_quiet(vm, [&t, &child, &f]);
    });
}

/// Z63, Z89: a file that is shorter than its mapping: copies are made, what is not there is an
/// error of the access, in the copy too.
#[test]
fn z63_copies_of_mappings_beyond_the_file() {
    each(small(), |vm| {
        let (id, _) = vm.platform().add_pager(vec![1; 2 * PAGE_SIZE as usize]);
        let t = Task::new(vm);
        let (o, at0) = vm.object_from_pager(6, id, 0, false, &mut may()).expect("memory");
        t.map.insert(pages(0, 6), Backing::Private(o, at0), &rw(), &mut may()).expect("free");
        let child = fork(&t);
        put(&t.map, 10, 6);
        t.map.copy_range(pages(0, 6), &t.map, va(10), &mut may()).expect("readable");
        for (who, first) in [(&t, 0), (&child, 0), (&t, 10)] {
            assert_eq!(who.load_word(at(first + 1)), Ok(0x0101_0101_0101_0101));
            assert_eq!(who.load_word(at(first + 3)), Err(FaultError::Beyond(va(first + 3))));
            assert_eq!(who.store_word(at(first + 4), 1), Err(FaultError::Beyond(va(first + 4))));
        }
        // Wiring reaches them at once, and undoes what it did.
        let done = t.map.wire(pages(0, 6), machvm::map::Wiring::User, machvm::map::Holes::Refuse, &mut may());
        assert!(matches!(done, Err(machvm::map::WireError::Fault(FaultError::Beyond(_)))), "{done:?}");
        check_quiet(vm, [&t, &child]);
    });
}

/// F03, Z90: the walk of vm_fault_prefault(9) ends at a page that is busy, at the ends of the
/// entry, and as far as was asked; nothing gets the right to write.
#[test]
fn f03_prefault_stops_at_busy_pages_and_at_the_entry() {
    each(small(), |vm| {
        let (t, pager) = with_file(vm, 16, false);
        (0..16).filter(|p| *p != 11).for_each(|p| t.store_word(at(p), p).expect("store"));
        t.map.protect(pages(4, 8), &SetProt::prot(Prot::R), &mut may()).expect("memory");
        let mapped = |p: u64| t.map.pmap().extract(vm.page_array(), va(p)).map(|(_, prot)| prot);
        let forget = || (0..16).for_each(|p| t.map.pmap().forget(vm.page_array(), va(p)));
        // A request that is under way keeps page 11 busy, if it was not read ahead.
        let f = Fault { addr: RawAddr(at(11)), access: Prot::R };
        pager.set_most(1);
        t.map.madvise(pages(11, 1), Advise::DontNeed, &mut may()).expect("memory");
        let Ok(Step::PageIn(_, req)) = t.map.fault_step(&f) else { panic!("expected a request") };
        forget();
        t.map.vm_fault_prefault(va(8), 4, 4);
        let got: Vec<u64> = (0..16).filter(|p| mapped(*p).is_some()).collect();
        assert_eq!(got, [4, 5, 6, 7, 9, 10], "down to the entry, up to the busy page, not the page itself");
        assert!(got.iter().all(|p| mapped(*p) == Some(Prot::R)));
        pager.page_in(req);
        forget();
        t.map.vm_fault_prefault(va(8), 1, 2);
        assert_eq!((0..16).filter(|p| mapped(*p).is_some()).collect::<Vec<_>>(), [7, 9, 10]);
        forget();
        t.map.vm_fault_prefault(va(8), 4, 4);
        assert_eq!((0..16).filter(|p| mapped(*p).is_some()).count(), 7, "now page 11 too");
        check_quiet(vm, [&t]);
    });
}
