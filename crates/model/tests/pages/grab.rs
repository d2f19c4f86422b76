//! P10 to P14: pages found, grabbed and busy.

use machvm::page::{ContentError, GrabError, GrabFlags, Request, TryError};
use machvm_hal::{PagerError, Pindex};

use machvm::Vm;
use machvm::object::Object;
use machvm_arena::Handle;
use machvm_model::{Config, Machine, Rng, check_quiet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::*;

// vm_page_lookup(9), vm_page_find_least, next, prev.
#[test]
fn p10_lookups() {
    both(64, |vm| {
        let (o, i) = object(vm, 600);
        for n in [2, 3, 520] {
            drop(vm.vm_page_alloc(o, Pindex(i + n), Request::NORMAL.zeroed(), &mut may()).expect("page"));
        }
        let find = |n| vm.vm_page_find_least(o, Pindex(n), &mut may()).map(|r| r.index.0);
        assert_eq!(
            (find(0), find(i + 3), find(i + 4), find(i + 521)),
            (Some(i + 2), Some(i + 3), Some(i + 520), None)
        );
        let next = |n| vm.vm_page_next(o, Pindex(n), &mut may()).map(|r| r.index.0);
        let prev = |n| vm.vm_page_prev(o, Pindex(n), &mut may()).map(|r| r.index.0);
        assert_eq!((next(i + 2), next(i + 3), next(u64::MAX)), (Some(i + 3), None, None), "consecutive only");
        assert_eq!((prev(i + 3), prev(i + 2), prev(0)), (Some(i + 2), None, None));
        let x = vm.vm_page_tryxbusy(o, Pindex(i + 2), &mut may()).expect("page");
        let seen = vm.vm_page_lookup(o, Pindex(i + 2), &mut may()).expect("resident");
        assert_eq!((seen.page, seen.busy), (x.number(), true));
        drop(x);
        end(vm, o);
    });
}

// vm_page_grab(9).
#[test]
fn p11_grab_finds_or_makes() {
    both(64, |vm| {
        let (o, i) = object(vm, 4);
        let t = shows(vm, o, i, 4);
        t.store_word(at(0), 1).expect("store");
        let grab = |n: u64, f| vm.vm_page_grab(o, Pindex(i + n), f, &mut may());
        let x = grab(0, GrabFlags::NOCREAT).expect("it is there");
        assert!(x.is_valid());
        assert_eq!(grab(0, GrabFlags::NOWAIT).map(drop), Err(GrabError::Busy));
        drop(x);
        assert_eq!(grab(1, GrabFlags::NOCREAT).map(drop), Err(GrabError::Absent));
        let x = grab(1, GrabFlags::empty()).expect("page");
        assert!(!x.is_valid());
        drop(x);
        let mut x = grab(1, GrabFlags::ZERO).expect("page");
        assert!(x.is_valid());
        x.write(0, &2u64.to_le_bytes(), &mut may()).expect("write");
        drop(x);
        assert_eq!((t.load_word(at(0)), t.load_word(at(1))), (Ok(1), Ok(2)));
        // What is on swap comes back.
        while vm.pageout(1000, &mut may()) != 0 {}
        assert_eq!(word_of!(grab(1, GrabFlags::empty()).expect("page")), 2);
        assert_eq!(
            vm.vm_page_grab(o, Pindex(1 << 60), GrabFlags::ZERO, &mut may()).map(drop),
            Err(GrabError::Beyond)
        );
        end(vm, o);
    });
}

#[test]
fn p11_grabbing_to_write_leaves_copies_alone() {
    both(64, |vm| {
        let (a, b) = shared_by_copy(vm);
        // As it is found it is for reading only.
        let mut x = vm.vm_page_tryxbusy(a.1, Pindex(a.2), &mut may()).expect("page");
        assert_eq!(x.write(0, &[1], &mut may()), Err(ContentError::Shared));
        drop(x);
        let mut x = vm.vm_page_grab(a.1, Pindex(a.2), GrabFlags::empty(), &mut may()).expect("page");
        assert!(!x.is_shared(&mut may()));
        assert_eq!(word_of!(x), 11);
        x.write(0, &12u64.to_le_bytes(), &mut may()).expect("write");
        drop(x);
        assert_eq!((a.0.load_word(at(0)), b.load_word(at(0))), (Ok(12), Ok(11)));
        let s = vm.vm_page_grab_shared(a.1, Pindex(a.2), GrabFlags::empty(), &mut may()).expect("page");
        assert_eq!(word_of!(s), 12);
        drop(s);
        end(vm, a.1);
    });
}

// vm_page_grab_valid().
#[test]
fn p12_grab_valid_asks_the_pager() {
    both(64, |vm| {
        let (_, o) = file(vm, 4);
        let x = vm.vm_page_grab_valid(o, Pindex(2), GrabFlags::empty(), &mut may()).expect("page");
        assert_eq!(word_of!(x), 3);
        drop(x);
        let absent = vm.vm_page_grab_valid(o, Pindex(1), GrabFlags::NOCREAT, &mut may());
        assert_eq!(absent.map(drop), Err(GrabError::Absent));
        let beyond = vm.vm_page_grab_valid(o, Pindex(7), GrabFlags::empty(), &mut may());
        assert_eq!(beyond.map(drop), Err(GrabError::Pager(PagerError::Beyond)));
        let s = vm.vm_page_grab_shared(o, Pindex(3), GrabFlags::empty(), &mut may()).expect("page");
        assert_eq!(word_of!(s), 4);
        drop(s);
        // Without a pager: zero.
        let (anon, i) = object(vm, 1);
        let x = vm.vm_page_grab_valid(anon, Pindex(i), GrabFlags::empty(), &mut may()).expect("page");
        assert_eq!(word_of!(x), 0);
        drop(x);
        end(vm, anon);
        end(vm, o);
    });
}

// vm_page_grab_pages().
#[test]
fn p13_grab_pages_in_a_row() {
    both(64, |vm| {
        let (o, i) = object(vm, 8);
        let grab =
            |n: u64, out: &mut [_]| vm.vm_page_grab_pages(o, Pindex(i + n), GrabFlags::ZERO, out, &mut may());
        assert!(matches!(grab(0, &mut []), Ok(0)));
        let mut out: [_; 4] = std::array::from_fn(|_| None);
        assert_eq!(grab(0, &mut out), Ok(4));
        let indices: Vec<_> = out.iter().flatten().map(|x| x.place().1.0 - i).collect();
        assert_eq!(indices, [0, 1, 2, 3], "in order");
        // A busy one ends the run, if it is not the first.
        let mut more: [_; 4] = std::array::from_fn(|_| None);
        out[0] = None;
        out[1] = None;
        assert_eq!(grab(0, &mut more), Ok(2));
        drop((out, more));
        end(vm, o);
    });
}

// vm_page_busy(9).
#[test]
fn p14_busy_alone_and_shared() {
    both(64, |vm| {
        let (o, i) = object(vm, 1);
        drop(vm.vm_page_alloc(o, Pindex(i), Request::NORMAL.zeroed(), &mut may()).expect("page"));
        let alone = || vm.vm_page_tryxbusy(o, Pindex(i), &mut may());
        let share = || vm.vm_page_trysbusy(o, Pindex(i), &mut may());
        let x = alone().expect("free");
        assert_eq!((alone().map(drop), share().map(drop)), (Err(TryError::Busy), Err(TryError::Busy)));
        let a = x.downgrade().expect("valid");
        let b = share().expect("shared");
        assert!(vm.vm_page_busied(a.number()) && !vm.vm_page_xbusied(a.number()));
        assert_eq!(alone().map(drop), Err(TryError::Busy));
        let a = a.try_upgrade().expect_err("two sharers");
        drop(b);
        let x = a.try_upgrade().expect("the only sharer");
        assert!(vm.vm_page_xbusied(x.number()));
        drop(x);
        assert_eq!(vm.vm_page_tryxbusy(o, Pindex(i + 1), &mut may()).map(drop), Err(TryError::Absent));
        // What is not valid is not shared.
        let x = vm.vm_page_alloc(o, Pindex(i + 1), Request::NORMAL, &mut may()).expect("page");
        assert!(x.downgrade().is_err());
        end(vm, o);
    });
}

#[test]
fn p14_the_object_may_end_while_a_page_is_shared() {
    both(64, |vm| {
        let (o, i) = object(vm, 1);
        drop(vm.vm_page_alloc(o, Pindex(i), Request::NORMAL.zeroed(), &mut may()).expect("page"));
        let a = vm.vm_page_trysbusy(o, Pindex(i), &mut may()).expect("shared");
        let b = vm.vm_page_trysbusy(o, Pindex(i), &mut may()).expect("shared");
        end(vm, o);
        assert_eq!(word_of!(a), 0);
        drop(a);
        assert_eq!((vm.live()[0], word_of!(b)), (1, 0), "the last sharer frees it");
    });
}

// vm_page_busy_sleep(), vm_page_sleep_if_busy(9); Z70.
#[test]
fn p15_z70_who_slept_looks_again() {
    both(64, |vm| {
        let (o, i) = object(vm, 1);
        assert!(!vm.vm_page_sleep_if_busy(o, Pindex(i), &mut may()), "nothing is there");
        drop(vm.vm_page_alloc(o, Pindex(i), Request::NORMAL.zeroed(), &mut may()).expect("page"));
        assert!(!vm.vm_page_sleep_if_busy(o, Pindex(i), &mut may()), "it is not busy");
        let x = vm.vm_page_tryxbusy(o, Pindex(i), &mut may()).expect("page");
        let slept = AtomicU64::new(0);
        let sleeper = || {
            if vm.vm_page_sleep_if_busy(o, Pindex(i), &mut may()) {
                slept.store(1, Relaxed);
                assert_eq!(vm.vm_page_lookup(o, Pindex(i), &mut may()), None, "that page is gone");
            }
        };
        let holder = move || {
            (0..50).for_each(|_| vm.host().preempt());
            x.free(&mut may()).expect("free");
        };
        vm.host().set_preemption(2);
        vm.host().run_scheduled(vec![Box::new(sleeper), Box::new(holder)]);
        vm.host().set_preemption(0);
        assert_eq!((slept.into_inner(), vm.host().timeouts(1)), (1, 0));
        end(vm, o);
    });
}

/// Threads that count in pages they hold busy, while another pages out, copies the object and
/// reads the copies: no count is lost, and no copy changes. Gives how many counts were made.
fn count_by_threads(c: Config, rounds: u64, preempt: Option<u64>) -> u64 {
    println!("MACHVM_SEED={} {c:?}", c.seed);
    let vm = &Vm::new(Machine::new(c)).expect("memory");
    let (o, i) = object(vm, 16);
    let (_, f) = file(vm, 4);
    let done = &AtomicU64::new(0);
    let mut bodies: Vec<Box<dyn FnOnce() + Send + '_>> = Vec::new();
    for t in 0..3 {
        bodies.push(Box::new(move || {
            let mut rng = Rng::new(c.seed * 10 + t);
            for _ in 0..rounds {
                let n = Pindex(i + rng.below(16));
                let mut x = vm.vm_page_grab(o, n, GrabFlags::ZERO, &mut may()).expect("page");
                let count = word_of!(x) + 1;
                match x.write(0, &count.to_le_bytes(), &mut may()) {
                    Ok(()) => {
                        done.fetch_add(1, Relaxed);
                    }
                    // Copied since it was grabbed: not this time.
                    Err(e) => assert_eq!(e, ContentError::Shared),
                }
                drop(x);
                let n = rng.below(4);
                let x = vm.vm_page_grab_valid(f, Pindex(n), GrabFlags::empty(), &mut may());
                assert_eq!(word_of!(x.expect("page")), n + 1);
            }
        }));
    }
    bodies.push(Box::new(move || {
        let mut rng = Rng::new(c.seed * 10 + 9);
        for _ in 0..rounds / 8 {
            vm.pageout(1 + rng.below(10), &mut may());
            let copy = vm.vm_object_shadow(o, &mut may()).expect("shadow");
            let read = || -> Vec<u64> { (0..16).map(|n| word_in(vm, copy, i + n)).collect() };
            let before = read();
            assert_eq!(read(), before, "a copy changed");
            end(vm, copy);
        }
    }));
    match preempt {
        None => vm.host().run_threaded(bodies),
        Some(n) => {
            vm.host().set_preemption(n);
            vm.host().run_scheduled(bodies);
            vm.host().set_preemption(0);
            assert_eq!(vm.host().timeouts(1), 0, "lost wake-up, seed {}", c.seed);
        }
    }
    let sum: u64 = (0..16).map(|n| word_in(vm, o, i + n)).sum();
    assert_eq!(sum, done.load(Relaxed), "counts were lost");
    end(vm, o);
    end(vm, f);
    check_quiet(vm, []);
    assert_eq!(vm.live(), [0; 6]);
    sum
}

fn word_in(vm: &Vm<Machine>, o: Handle<Object>, index: u64) -> u64 {
    word_of!(vm.vm_page_grab_shared(o, Pindex(index), GrabFlags::empty(), &mut may()).expect("page"))
}

#[test]
fn p11_p12_random_counts_by_threads() {
    let long = std::env::var("MACHVM_LONG").ok().and_then(|s| s.parse::<u64>().ok()).unwrap_or(1);
    let seed = machvm_model::seed_from_env(1);
    for sparse in [true, false] {
        let c = Config { frames: 48, sparse, seed, ..Config::default() };
        assert!(count_by_threads(c, 2000 * long, None) > 1000);
        for seed in seed..seed + 10 * long {
            count_by_threads(Config { seed, ..c }, 40, Some(1 + seed % 5));
        }
    }
}
