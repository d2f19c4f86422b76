//! Holding and letting go.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use machvm::FaultError;
use machvm::map::SetProt;

use crate::common::seeds_or;
use crate::*;

#[test]
fn f04_all_or_nothing() {
    with(60, |vm| {
        let t = task(vm, 10);
        t.map.protect(pages(6, 1), &SetProt::prot(Prot::R), &mut may()).expect("protect");
        t.map.delete(pages(9, 1), &mut may()).expect("delete");
        let mut places = list::<8>();
        let mut ask = |addr: u64, len: u64, access| {
            let (a, n) = (RawAddr(addr), RawSize(len));
            let held = t.map.fault_quick_hold_pages(a, n, access, Absent::Fault, &mut places, &mut may());
            held.map(|h| h.count())
        };
        let r = |page, n, access| (at(page), n * P, access);
        let all = [
            ((at(1), 0, Prot::W), Ok(0)),
            ((7, 0, Prot::W), Ok(0)),
            ((u64::MAX - 5, 9, Prot::R), Err(HoldError::Outside(RawAddr(u64::MAX - 5)))),
            ((1, 5, Prot::R), Err(HoldError::Outside(RawAddr(1)))),
            (r(0, 9, Prot::R), Err(HoldError::TooMany { pages: 9 })),
            (r(4, 5, Prot::W), Err(HoldError::Fault(FaultError::Protection(va(6))))),
            (r(4, 5, Prot::R), Ok(5)),
            (r(7, 4, Prot::R), Err(HoldError::Fault(FaultError::NoMapping(va(9))))),
            (r(0, 2, Prot::X), Err(HoldError::Fault(FaultError::Protection(va(0))))),
            ((at(2) + 4000, 200, Prot::RW), Ok(2)),
        ];
        for ((addr, len, access), want) in all {
            assert_eq!(ask(addr, len, access), want, "{addr:#x}+{len:#x} {access:?}");
            check_quiet(vm, [&t]);
        }
        // Of what failed nothing is held.
        page_all_out(vm);
        assert_eq!(vm.live()[0], 0);
    });
}

#[test]
fn f04_absent_pages_are_faulted_in_or_refused() {
    with(60, |vm| {
        let t = task(vm, 4);
        page_all_out(vm);
        let mut places = list::<4>();
        let (a, n) = (RawAddr(at(0)), RawSize(4 * P));
        t.load_word(at(0)).expect("load");
        let faults = vm.statistics().faults;
        let none = t.map.fault_quick_hold_pages(a, n, Prot::R, Absent::Refuse, &mut places, &mut may());
        assert_eq!(none.map(|h| h.count()), Err(HoldError::Absent(va(1))));
        assert_eq!(vm.statistics().faults, faults);
        let held = hold(&t, pages(0, 4), Prot::R, &mut places).expect("held");
        (0..4).for_each(|p| assert_eq!(dma_read(&held, p), 100 + p));
        held.release();
        let held = t.map.fault_quick_hold_pages(a, n, Prot::R, Absent::Refuse, &mut places, &mut may());
        assert_eq!(held.map(|h| h.count()), Ok(4), "all in memory");
        check_quiet(vm, [&t]);
    });
}

#[test]
fn f04_bytes_of_held_pages() {
    with(60, |vm| {
        let t = task(vm, 3);
        let mut places = list::<3>();
        let (a, n) = (RawAddr(at(0) + 1000), RawSize(2 * P));
        let held = t
            .map
            .fault_quick_hold_pages(a, n, Prot::RW, Absent::Fault, &mut places, &mut may())
            .expect("held");
        assert_eq!(held.count(), 3);
        let data: Vec<u8> = (0..2 * P).map(|i| ((i * 7) >> 3) as u8).collect();
        held.write(0, &data).expect("all of it");
        let mut seen = vec![0; data.len()];
        t.load(at(0) + 1000, &mut seen).expect("load");
        assert!(seen == data);
        t.store(at(1) + 5, b"stored").expect("store");
        let mut word = [0; 6];
        held.read(P as usize - 1000 + 5, &mut word).expect("inside");
        assert_eq!(&word, b"stored");
        assert_eq!(held.read(2 * P as usize - 3, &mut [0; 4]), None, "beyond the range");
        assert_eq!(held.write(usize::MAX, &[0]), None);
        assert!(held.frame(2).is_some() && held.frame(3).is_none());
        held.release();
        let held = hold(&t, pages(0, 1), Prot::R, &mut places).expect("held");
        assert_eq!(held.write(0, &[1]), None, "held for reading");
        drop(held);
        assert_eq!(t.load_word(at(0)), Ok(100));
        check_quiet(vm, [&t]);
    });
}

#[test]
fn f04_held_pages_are_not_paged_out_or_moved() {
    with(40, |vm| {
        let t = task(vm, 8);
        let mut places = list::<4>();
        let held = hold(&t, pages(2, 4), Prot::W, &mut places).expect("held");
        let frames: Vec<_> = (0..4).map(|n| held.frame(n)).collect();
        page_all_out(vm);
        (0..8).for_each(|p| assert_eq!(resident(&t, p), (2..6).contains(&p), "page {p}"));
        dma_write(&held, 1, 77);
        assert_eq!(t.load_word(at(3)), Ok(77));
        // More than memory: everything else is pushed out many times.
        let other = task(vm, 80);
        check_quiet(vm, [&t, &other]);
        assert!(frames.iter().eq((0..4).map(|n| held.frame(n)).collect::<Vec<_>>().iter()));
        assert_eq!((dma_read(&held, 0), dma_read(&held, 1)), (102, 77));
        drop(held);
        page_all_out(vm);
        assert_eq!(vm.live()[0], 0, "nothing is held any more");
        assert_eq!((t.load_word(at(2)), t.load_word(at(3))), (Ok(102), Ok(77)));
    });
}

// Z60, Z77, Z78.

#[test]
fn z60_held_pages_outlive_their_memory() {
    with(40, |vm| {
        for whole in [false, true] {
            let t = task(vm, 8);
            let (mut places, mut again) = (list::<4>(), list::<1>());
            let held = hold(&t, pages(2, 4), Prot::W, &mut places).expect("held");
            let twice = hold(&t, pages(3, 1), Prot::R, &mut again).expect("held");
            t.map.delete(pages(1, 6), &mut may()).expect("delete");
            check_quiet(vm, [&t]);
            assert_eq!(vm.live()[0], 2 + 4, "what is held is charged");
            // Fresh memory at the same place is zero, and not what is held.
            let rw = Attributes::new(Prot::RW);
            t.map.insert(pages(1, 6), Backing::Anonymous, &rw, &mut may()).expect("insert");
            (1..7).for_each(|p| assert_eq!(t.load_word(at(p)), Ok(0), "page {p}"));
            dma_write(&held, 1, 55);
            assert_eq!((t.load_word(at(3)), dma_read(&twice, 0)), (Ok(0), 55));
            let other = task(vm, 60);
            assert_eq!(dma_read(&held, 0), 102);
            check_quiet(vm, [&t, &other]);
            drop(other);
            if whole {
                drop(t);
                check_quiet(vm, []);
                assert_eq!((dma_read(&held, 3), vm.live()[0]), (105, 4), "the object is gone");
                assert_eq!(vm.live()[1..], [0; 5]);
            }
            drop(held);
            check_vm_has(vm, 1, whole);
            drop(twice);
            if whole {
                assert_eq!(vm.live(), [0; 6]);
            }
        }
    });
}
/// `n` pages are in use, if `exact`; more otherwise.
fn check_vm_has(vm: &Vm<Machine>, n: u64, exact: bool) {
    let live = vm.live()[0];
    assert!(live == n || (live > n && !exact), "{live} pages");
}

#[test]
fn z77_written_under_a_hold_after_it_was_written_back() {
    with(60, |vm| {
        let (id, pager) = vm.platform().add_pager(vec![1; 4 * P as usize]);
        let (o, first) = vm.object_from_pager(4, id, 0, true, &mut may()).expect("object");
        let t = Task::new(vm);
        let rw = Attributes::new(Prot::RW);
        t.map.insert(pages(0, 4), Backing::Shared(o, first), &rw, &mut may()).expect("insert");
        let mut places = list::<4>();
        let held = hold(&t, pages(0, 4), Prot::W, &mut places).expect("held");
        held.write(0, &[2; 100]).expect("write");
        // Marked when it was held: written back without one store through the map.
        t.map.sync(pages(0, 4), true, &mut may()).expect("sync");
        assert_eq!(pager.bytes()[..100], [2; 100]);
        assert!(resident(&t, 0), "held pages are not invalidated");
        held.write(50, &[3; 100]).expect("write");
        t.map.delete(pages(1, 3), &mut may()).expect("delete");
        drop(held);
        // Marked again when it was let go.
        page_all_out(vm);
        assert_eq!(pager.bytes()[40..150], [[2; 10].as_slice(), &[3; 100]].concat());
        check_quiet(vm, [&t]);
    });
}

#[test]
fn z77_a_copy_on_swap_is_stale_once_held_for_writing() {
    with(60, |vm| {
        let t = task(vm, 2);
        page_all_out(vm);
        assert_eq!(t.load_word(at(0)), Ok(100)); // clean, with a copy on swap
        let mut places = list::<1>();
        let held = hold(&t, pages(0, 1), Prot::W, &mut places).expect("held");
        dma_write(&held, 0, 5);
        drop(held);
        page_all_out(vm);
        assert!(!resident(&t, 0));
        assert_eq!(t.load_word(at(0)), Ok(5));
        check_quiet(vm, [&t]);
    });
}

type Body<'a> = Box<dyn FnOnce() + Send + 'a>;

/// The body, which says what run it was in if it panics: the process ends with it.
fn told<'a>(body: Body<'a>, seed: u64, sparse: bool) -> Body<'a> {
    Box::new(move || {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(body)) {
            println!("MACHVM_SEED={seed}, sparse: {sparse}");
            std::panic::resume_unwind(panic);
        }
    })
}

/// Runs threads on seeds, in both placements.
fn scheduled(n: u64, frames: u32, test: impl Fn(&Vm<Machine>, &dyn Fn(Vec<Body<'_>>))) {
    for seed in seeds_or(n, 20) {
        for sparse in [true, false] {
            let c = Config { sparse, frames, seed, forget: 9, ..Config::default() };
            let vm = Vm::new(Machine::new(c)).expect("memory");
            test(&vm, &|bodies| {
                vm.host().set_preemption(4);
                // Every thread is joined before this returns.
                vm.host().run_scheduled(bodies.into_iter().map(|b| told(b, seed, sparse)).collect());
                vm.host().set_preemption(0);
            });
            check_quiet(&vm, []);
            assert_eq!(vm.live(), [0; 6], "left over, MACHVM_SEED={seed}, sparse: {sparse}");
        }
    }
}

/// Holding through a map while the daemon takes everything it may: the page that was held
/// is the one that is mapped, until it is let go.
#[test]
fn z78_holding_against_page_out() {
    scheduled(20, 40, |vm, run| {
        let t = task(vm, 30);
        let (t_, done) = (&t, AtomicBool::new(false));
        let done_ = &done;
        let holder: Body<'_> = Box::new(move || {
            let mut places = list::<6>();
            for i in 0..40u64 {
                let first = i * 7 % 24;
                let held = hold(t_, pages(first, 6), Prot::RW, &mut places).expect("held");
                for p in 0..6 {
                    let was = dma_read(&held, p);
                    dma_write(&held, p, was + 1000);
                    vm.host().preempt();
                    assert_eq!(t_.load_word(at(first + p)), Ok(was + 1000), "page {}", first + p);
                }
            }
            done_.store(true, SeqCst);
        });
        let daemon: Body<'_> = Box::new(move || {
            while !done_.load(SeqCst) {
                vm.pageout(8, &mut may());
                vm.host().preempt();
            }
        });
        run(vec![holder, daemon]);
        (0..30).for_each(|p| assert_eq!(t.load_word(at(p)).expect("load") % 1000, 100 + p));
        check_quiet(vm, [&t]);
        drop(t);
    });
}
