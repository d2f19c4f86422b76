//! Objects with a pager: reading, errors, copies of files, writing back.

use machvm::map::{Attributes, Backing};
use machvm::{FaultError, Vm};
use machvm_hal::{MaySleep, PAGE_SIZE, PagerError, PhysMem, Prot, Va, VaRange};
use machvm_model::{Config, Machine, MemPager, Task, check_quiet};

const BASE: u64 = 0x10_0000;

fn may() -> MaySleep {
    MaySleep::claim()
}
fn at(page: u64) -> u64 {
    BASE + page * PAGE_SIZE
}
fn va(page: u64) -> Va {
    Va::from_page(at(page) >> 12)
}
fn pages(first: u64, n: u64) -> VaRange {
    VaRange::of_pages(va(first), n).expect("fits")
}

/// A file of `pages` and a few bytes more, byte i is i / 256 + i.
fn contents(pages: u64) -> Vec<u8> {
    (0..pages * PAGE_SIZE + 100).map(|i| (i / 256 + i) as u8).collect()
}

/// Runs `test` on every kind of machine with a task that maps `mapped` pages of a file of
/// `size` pages and a bit.
fn with_file(
    frames: u32,
    size: u64,
    mapped: u64,
    shared: bool,
    test: impl Fn(&Vm<Machine>, &Task<'_>, &MemPager, &[u8]),
) {
    for c in (Config { frames, ..Config::default() }).every_kind() {
        let vm = Vm::new(Machine::new(c)).expect("memory");
        let data = contents(size);
        let (id, pager) = vm.platform().add_pager(data.clone());
        let t = Task::new(&vm);
        let (o, first) = vm.object_from_pager(mapped, id, 0, shared, &mut may()).expect("object");
        let backing = if shared { Backing::Shared(o, first) } else { Backing::Private(o, first) };
        t.map.insert(pages(0, mapped), backing, &Attributes::new(Prot::RW), &mut may()).expect("insert");
        assert_eq!(vm.platform().pager_users(), 1);
        test(&vm, &t, pager, &data);
        check_quiet(&vm, [&t]);
        drop(t);
        check_quiet(&vm, []);
        assert_eq!(vm.live(), [0; 6], "left over, {c:?}");
        assert_eq!(vm.platform().pager_users(), 0);
    }
}

fn expect_page(t: &Task<'_>, page: u64, data: &[u8]) {
    let mut got = vec![0u8; PAGE_SIZE as usize];
    t.load(at(page), &mut got).unwrap_or_else(|e| panic!("page {page}: {e:?}"));
    let mut want = vec![0u8; PAGE_SIZE as usize];
    let from = (page * PAGE_SIZE) as usize;
    let part = &data[from.min(data.len())..data.len().min(from + PAGE_SIZE as usize)];
    want[..part.len()].copy_from_slice(part);
    assert!(got == want, "contents of page {page}");
}

#[test]
fn reads_the_file_and_zero_behind_its_end() {
    with_file(256, 20, 21, false, |vm, t, pager, data| {
        (0..21).for_each(|i| expect_page(t, i, data));
        assert_eq!(vm.statistics().pageins, 21);
        assert!(pager.reads() < 21, "clusters grew: {} requests", pager.reads());
    });
}

#[test]
fn clean_pages_are_dropped_and_read_again() {
    with_file(40, 100, 100, false, |vm, t, _, data| {
        (0..100).for_each(|i| expect_page(t, i, data));
        (0..100).rev().for_each(|i| expect_page(t, i, data));
        let s = vm.statistics();
        assert_eq!(s.swapouts, 0, "clean pages of a file do not go to swap");
        assert!(s.dropped >= 60 && s.pageins > 100, "{s:?}");
    });
}

#[test]
fn private_stores_stay_private_and_go_to_swap() {
    with_file(40, 100, 100, false, |_, t, pager, data| {
        let mut mine = data.to_vec();
        for i in (0..100).step_by(3) {
            t.store(at(i) + 10, b"mine").expect("store");
            mine[(i * PAGE_SIZE) as usize + 10..][..4].copy_from_slice(b"mine");
        }
        (0..100).for_each(|i| expect_page(t, i, &mine));
        assert_eq!(pager.bytes(), data, "the file did not change");
    });
}

#[test]
fn shared_stores_are_written_back_by_sync_and_by_page_out() {
    with_file(40, 100, 100, true, |vm, t, pager, data| {
        let mut mine = data.to_vec();
        for i in (0..100).step_by(2) {
            t.store(at(i) + 10, b"ours").expect("store");
            mine[(i * PAGE_SIZE) as usize + 10..][..4].copy_from_slice(b"ours");
        }
        t.map.sync(pages(0, 100), false, &mut may()).expect("sync");
        assert_eq!(pager.bytes(), mine);
        assert_eq!(vm.statistics().swapouts, 0, "shared pages go to their pager");
        let writes = pager.writes();
        t.map.sync(pages(0, 100), false, &mut may()).expect("sync");
        assert_eq!(pager.writes(), writes, "clean pages are not written again");
        t.store(at(7), b"new").expect("store");
        mine[7 * PAGE_SIZE as usize..][..3].copy_from_slice(b"new");
        t.map.sync(pages(0, 100), true, &mut may()).expect("sync and invalidate");
        assert_eq!(pager.bytes(), mine);
        (0..100).for_each(|i| expect_page(t, i, &mine));
    });
}

#[test]
fn z80_a_write_error_loses_nothing() {
    with_file(60, 20, 20, true, |vm, t, pager, _| {
        t.store(at(3), b"dear").expect("store");
        let inject = vm.platform().inject();
        inject.arm(machvm_model::Point::PageOut as u32, 1, true);
        let e = t.map.sync(pages(0, 20), false, &mut may());
        assert_eq!(e, Err(machvm::map::SyncError::Pager(va(0), PagerError::Io)));
        while vm.pageout(100, &mut may()) != 0 {}
        let mut b = [0; 4];
        t.load(at(3), &mut b).expect("load");
        assert_eq!(&b, b"dear");
        inject.disarm();
        t.map.sync(pages(0, 20), false, &mut may()).expect("sync");
        assert_eq!(&pager.bytes()[3 * PAGE_SIZE as usize..][..4], b"dear");
    });
}

#[test]
fn z89_beyond_the_end_is_an_error_not_zero() {
    with_file(256, 4, 16, false, |vm, t, pager, data| {
        (0..5).for_each(|i| expect_page(t, i, data));
        for _ in 0..2 {
            assert_eq!(t.load(at(5), &mut [0]), Err(FaultError::Beyond(va(5))));
            assert_eq!(t.store(at(9), &[0]), Err(FaultError::Beyond(va(9))));
        }
        check_quiet(vm, [t]);
        assert!(pager.reads() < 20);
    });
}

#[test]
fn an_io_error_is_reported_once_and_asked_again() {
    with_file(256, 30, 30, false, |vm, t, pager, data| {
        pager.set_bad(5 * PAGE_SIZE, true);
        // Read ahead runs into the bad page; nobody asked for it yet.
        (0..5).for_each(|i| expect_page(t, i, data));
        assert_eq!(t.load(at(5), &mut [0]), Err(FaultError::PagerIo(va(5))));
        check_quiet(vm, [t]);
        pager.set_bad(5 * PAGE_SIZE, false);
        // The error of the last try is told, or it is gone: never for ever.
        let tries = (0..3).take_while(|_| t.load(at(5), &mut [0]).is_err()).count();
        assert!(tries <= 1, "{tries} errors after the page is good");
        (5..30).for_each(|i| expect_page(t, i, data));
    });
}

#[test]
fn a_pager_that_gives_less_than_asked() {
    for most in [0, 1, 3] {
        with_file(256, 30, 30, false, |_, t, pager, data| {
            pager.set_most(most.max(1));
            (0..30).for_each(|i| expect_page(t, i, data));
        });
    }
}

#[test]
fn a_pager_that_is_gone() {
    let vm = Vm::new(Machine::new(Config::default())).expect("memory");
    let t = Task::new(&vm);
    let nobody = machvm::PagerId(std::num::NonZeroU32::new(77).expect("not zero"));
    let (o, first) = vm.object_from_pager(4, nobody, 0, false, &mut may()).expect("object");
    let a = Attributes::new(Prot::RW);
    t.map.insert(pages(0, 4), Backing::Private(o, first), &a, &mut may()).expect("insert");
    assert_eq!(t.load(at(0), &mut [0]), Err(FaultError::PagerGone(va(0))));
    check_quiet(&vm, [&t]);
}

#[test]
fn a_copy_of_a_file_reads_the_file_where_nobody_wrote() {
    with_file(256, 12, 12, false, |vm, t, _, data| {
        t.store(at(1), b"parent").expect("store");
        let child = Task { map: t.map.fork(vm.platform().pmap(), &mut may()).expect("fork") };
        child.store(at(2), b"child").expect("store");
        let (mut p, mut c) = (data.to_vec(), data.to_vec());
        for d in [&mut p, &mut c] {
            d[PAGE_SIZE as usize..][..6].copy_from_slice(b"parent");
        }
        c[2 * PAGE_SIZE as usize..][..5].copy_from_slice(b"child");
        t.store(at(3), b"late").expect("store");
        p[3 * PAGE_SIZE as usize..][..4].copy_from_slice(b"late");
        (0..12).for_each(|i| expect_page(t, i, &p));
        (0..12).for_each(|i| expect_page(&child, i, &c));
        check_quiet(vm, [t, &child]);
        // Dropped contents are the file's again (decision 17).
        t.map.madvise(pages(0, 12), machvm::map::Advise::DontNeed, &mut may()).expect("dontneed");
        (0..12).for_each(|i| expect_page(t, i, data));
        (0..12).for_each(|i| expect_page(&child, i, &c));
        check_quiet(vm, [t, &child]);
    });
}

/// Z71: two faults on one absent page make one request.
#[test]
fn z71_one_request_for_two_faults() {
    use machvm::fault::{Fault, Step, WaitFor};
    with_file(256, 4, 4, false, |_, t, pager, data| {
        let f = Fault { addr: machvm_hal::RawAddr(at(1)), access: Prot::R };
        let Ok(Step::PageIn(_, req)) = t.map.fault_step(&f) else { panic!("expected a request") };
        assert!(matches!(t.map.fault_step(&f), Ok(Step::Wait(WaitFor::Page(_)))));
        machvm_hal::Pager::page_in(pager, req);
        assert!(matches!(t.map.fault_step(&f), Ok(Step::Done)));
        assert_eq!(pager.reads(), 1);
        expect_page(t, 1, data);
    });
}

/// A request that is dropped is an error, and leaves no page busy.
#[test]
fn a_dropped_request_is_an_error() {
    use machvm::fault::{Fault, Step};
    with_file(256, 4, 4, false, |vm, t, _, data| {
        let f = Fault { addr: machvm_hal::RawAddr(at(1)), access: Prot::R };
        let Ok(Step::PageIn(_, req)) = t.map.fault_step(&f) else { panic!("expected a request") };
        drop(req);
        check_quiet(vm, [t]);
        assert_eq!(t.load(at(1), &mut [0]), Err(FaultError::PagerIo(va(1))));
        expect_page(t, 1, data);
    });
}

/// Z73, Z81: what was unmapped while its data was on the way is freed by whoever
/// brings the data; in the sparse placement the frame is not used before that.
#[test]
fn z73_unmapped_during_page_in() {
    use machvm::fault::{Fault, Step};
    with_file(256, 40, 40, false, |vm, t, pager, data| {
        let f = Fault { addr: machvm_hal::RawAddr(at(10)), access: Prot::R };
        let Ok(Step::PageIn(_, req)) = t.map.fault_step(&f) else { panic!("expected a request") };
        t.map.delete(pages(8, 8), &mut may()).expect("delete");
        assert_eq!(t.load(at(10), &mut [0]), Err(FaultError::NoMapping(va(10))));
        machvm_hal::Pager::page_in(pager, req);
        check_quiet(vm, [t]);
        expect_page(t, 30, data);
        let a = Attributes::new(Prot::RW);
        t.map.insert(pages(8, 8), Backing::Anonymous, &a, &mut may()).expect("insert");
        assert_eq!(t.load_word(at(10)), Ok(0));
    });
}

/// Contents dropped while busy: the fault waits for the frame (limbo), then fills anew.
#[test]
fn dropped_during_page_in_waits_for_the_frame() {
    use machvm::fault::{Fault, Step, WaitFor};
    with_file(256, 40, 40, false, |vm, t, pager, data| {
        let f = Fault { addr: machvm_hal::RawAddr(at(10)), access: Prot::R };
        let Ok(Step::PageIn(_, req)) = t.map.fault_step(&f) else { panic!("expected a request") };
        t.map.madvise(pages(0, 40), machvm::map::Advise::DontNeed, &mut may()).expect("dontneed");
        let sparse = matches!(vm.mem().placement(), machvm_hal::Placement::Sparse { .. });
        if sparse {
            assert!(matches!(t.map.fault_step(&f), Ok(Step::Wait(WaitFor::Limbo))));
        }
        machvm_hal::Pager::page_in(pager, req);
        (0..40).for_each(|i| expect_page(t, i, data));
    });
}
