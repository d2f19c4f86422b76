//! Locks of pages and lock requests (E14 to E16).

use machvm_hal::{ControlError, LockRequest, Return};

use super::*;

fn lock(s: &Scene<'_>, (first, n): (u64, u64), ret: Return, flush: bool, lock: Option<Prot>) {
    let r = LockRequest { offset: off(first), bytes: off(n), ret, flush, lock };
    s.vm.lock_request(s.pager.control(), &r, &mut may()).expect("done");
}

/// E14, Z114: the pager is asked once for an access, and again after every change of the lock.
#[test]
fn e14_z114_unlock_is_asked_for_once() {
    scene(|s| {
        let t = s.task();
        s.pager.answers(Supply::Clean, Prot::W);
        assert_eq!(byte_of(&t, 1), 1, "may be read");
        s.pager.told();
        for _ in 0..3 {
            waits_for_pager(&t, 1, Prot::W);
        }
        assert_eq!(s.pager.told(), [Told::Unlock(1, Prot::RW)]);
        assert_eq!(byte_of(&t, 1), 1, "may be read still");
        lock(s, (1, 1), Return::None, false, Some(Prot::W));
        waits_for_pager(&t, 1, Prot::W);
        assert_eq!(s.pager.told(), [Told::Unlock(1, Prot::RW)], "asked again");
        lock(s, (1, 1), Return::None, false, Some(Prot::NONE));
        t.store(at(1), &full(9)).expect("store");
        assert_eq!((byte_of(&t, 1), s.pager.told()), (9, vec![]));
    });
}

/// E06: supplied with a lock against everything.
#[test]
fn e06_e14_supplied_locked() {
    scene(|s| {
        let t = s.task();
        waits_for_page(&t, 2, Prot::R);
        s.supply_as(2, 20, Prot::ALL, Supply::Clean);
        waits_for_pager(&t, 2, Prot::R);
        assert_eq!(s.pager.told()[2..], [Told::Request(2, 1, Prot::R), Told::Unlock(2, Prot::R)]);
        waits_for_pager(&t, 2, Prot::W);
        assert_eq!(s.pager.told(), [Told::Unlock(2, Prot::RW)], "more is wanted");
        lock(s, (0, 8), Return::None, false, Some(Prot::NONE));
        t.store(at(2), &[1]).expect("store");
    });
}

/// E15, E16: what a lock request restricts, returns and forgets.
#[test]
fn e15_e16_lock_requests() {
    scene(|s| {
        let t = s.task();
        s.pager.answers(Supply::Clean, Prot::NONE);
        for p in 0..6 {
            if p % 2 == 0 {
                t.store(at(p), &full(p as u8 + 10)).expect("store");
            } else {
                assert_eq!(u64::from(byte_of(&t, p)), p);
            }
        }
        s.pager.told();
        // Not resident, or beyond: not touched, and no request made.
        lock(s, (0, 1 << 20), Return::None, false, None);
        assert_eq!(s.pager.told(), []);
        lock(s, (0, 3), Return::Dirty, false, None);
        let kept = |p: u64| Told::Return(p, p as u8 + 10, true, true);
        assert_eq!(s.pager.told(), [kept(0), kept(2)]);
        lock(s, (0, 6), Return::Dirty, true, None);
        assert_eq!(s.pager.told(), [Told::Return(4, 14, true, false)]);
        assert!((0..6).all(|p| !t.map.is_resident(va(p), &mut may())));
        // A flush without return forgets what was written.
        t.store(at(1), &full(77)).expect("store");
        lock(s, (1, 1), Return::None, true, None);
        assert_eq!(byte_of(&t, 1), 1);
        let told = s.pager.told();
        assert!(told.iter().all(|t| matches!(t, Told::Request(..))), "{told:?}");
        // Restricting takes effect on mappings that there are.
        t.store(at(1), &full(78)).expect("store");
        lock(s, (1, 1), Return::Dirty, false, Some(Prot::W));
        assert_eq!(s.pager.told(), [Told::Return(1, 78, true, true)]);
        waits_for_pager(&t, 1, Prot::W);
        assert_eq!(byte_of(&t, 1), 78);
        lock(s, (1, 1), Return::None, false, Some(Prot::ALL));
        waits_for_pager(&t, 1, Prot::R);
    });
}

/// E15: precious pages go back with `All`, and when they are flushed.
#[test]
fn e15_precious_pages() {
    scene(|s| {
        let t = s.task();
        for p in 0..3 {
            s.supply_as(p, p as u8, Prot::NONE, Supply::Precious);
        }
        assert_eq!(byte_of(&t, 1), 1);
        s.pager.told();
        lock(s, (0, 3), Return::Dirty, false, None);
        assert_eq!(s.pager.told(), [], "nobody wrote them");
        lock(s, (0, 1), Return::All, false, None);
        assert_eq!(s.pager.told(), [Told::Return(0, 0, false, true)]);
        lock(s, (0, 3), Return::Dirty, true, None);
        assert_eq!(s.pager.told(), [Told::Return(1, 1, false, false), Told::Return(2, 2, false, false)]);
    });
}

/// E15: arguments, errors of the pager, and a request that waits for data is not waited for.
#[test]
fn e15_errors() {
    scene(|s| {
        let t = s.task();
        let c = s.pager.control();
        waits_for_page(&t, 9, Prot::R);
        let r = LockRequest { offset: 0, bytes: off(32), ret: Return::All, flush: true, lock: None };
        for (offset, bytes) in [(1, 4096), (0, 5), (4096, u64::MAX - 4095)] {
            let bad = s.vm.lock_request(c, &LockRequest { offset, bytes, ..r }, &mut may());
            assert_eq!(bad, Err(ControlError::Argument));
        }
        s.supply(3, 3);
        t.store(at(3), &full(33)).expect("store");
        s.pager.lock().refuse = true;
        assert_eq!(s.vm.lock_request(c, &r, &mut may()), Err(ControlError::Pager(PagerError::Io)));
        assert_eq!(byte_of(&t, 3), 33, "the only copy stays");
        s.pager.lock().refuse = false;
        s.pager.told();
        lock(s, (0, 32), Return::All, true, None);
        assert_eq!(s.pager.told(), [Told::Return(3, 33, true, false)]);
        s.supply(9, 9);
        assert_eq!(byte_of(&t, 9), 9);
    });
}

/// E15: a page that is wired is waited for, and changes when it is not wired any more.
#[test]
fn e15_wired_pages_are_waited_for() {
    for seed in 0..10 {
        let vm = Vm::new(Machine::new(Config { seed, ..Config::default() })).expect("memory");
        let inner = Inner { ready: Some(Attributes::default()), ..Inner::default() };
        let pager: &'static Remote = Box::leak(Box::new(Remote(Mutex::new(inner))));
        let id = vm.platform().add_any_pager(pager);
        let s = Scene { vm: &vm, pager, id };
        let t = s.task();
        pager.answers(Supply::Clean, Prot::NONE);
        t.map.wire_page(va(2), &mut may()).expect("wire");
        let host = machvm::Platform::host(vm.platform());
        host.set_preemption(3);
        let unwired = Mutex::new(false);
        host.run_scheduled(vec![
            Box::new(|| {
                lock(&s, (0, 8), Return::All, true, None);
                assert!(*unwired.lock().expect("no panic"), "seed {seed}");
            }),
            Box::new(|| {
                for p in 4..20 {
                    assert_eq!(u64::from(byte_of(&t, p)), p);
                }
                *unwired.lock().expect("no panic") = true;
                t.map.unwire_page(va(2), &mut may());
            }),
        ]);
        assert!(!t.map.is_resident(va(2), &mut may()), "seed {seed}");
    }
}

/// Z117: no write is missed by cleaning, however stores and requests come.
#[test]
fn z117_cleaning_misses_no_write() {
    for seed in 0..40 {
        let vm = Vm::new(Machine::new(Config { seed, ..Config::default() })).expect("memory");
        let inner = Inner { ready: Some(Attributes::default()), ..Inner::default() };
        let pager: &'static Remote = Box::leak(Box::new(Remote(Mutex::new(inner))));
        let id = vm.platform().add_any_pager(pager);
        let s = Scene { vm: &vm, pager, id };
        let t = s.task();
        pager.answers(Supply::Clean, Prot::NONE);
        let host = machvm::Platform::host(vm.platform());
        host.set_preemption(2);
        host.run_scheduled(vec![
            Box::new(|| (1..=60).for_each(|n: u8| t.store(at(0), &full(n)).expect("store"))),
            Box::new(|| (0..20).for_each(|_| lock(&s, (0, 1), Return::Dirty, false, None))),
        ]);
        lock(&s, (0, 1), Return::Dirty, true, None);
        let last = pager.told().into_iter().rev().find_map(|t| match t {
            Told::Return(0, b, ..) => Some(b),
            _ => None,
        });
        assert_eq!(last, Some(60), "seed {seed}");
    }
}
