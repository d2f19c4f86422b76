//! Init, ready, keeping, ending, destroying (E01 to E04, E17 to E20, E24).

use machvm_hal::{ControlError, CopyStrategy, LockRequest, Return, SupplyError};

use super::*;

/// E01, Z120: however many map it, one object and one init, which comes before all else.
#[test]
fn e01_z120_init_is_told_once() {
    scene(|s| {
        let (a, b) = (s.task(), s.task());
        s.map(&a, 40);
        assert_eq!(s.pager.told(), [Told::Init, Told::Map]);
        s.pager.answers(Supply::Clean, Prot::NONE);
        a.store(at(3), &full(99)).expect("store");
        assert_eq!(byte_of(&b, 3), 99);
        assert_eq!(byte_of(&a, 43), 99, "another mapping of the task");
    });
}

/// Z120: threads that map at once.
#[test]
fn z120_two_that_map_at_once() {
    for seed in 0..50 {
        let vm = Vm::new(Machine::new(Config { seed, ..Config::default() })).expect("memory");
        let pager: &'static Remote = Box::leak(Box::new(Remote(Mutex::default())));
        let id = vm.platform().add_any_pager(pager);
        let s = Scene { vm: &vm, pager, id };
        let host = machvm::Platform::host(vm.platform());
        host.set_preemption(2);
        let body = |_| -> Box<dyn FnOnce() + Send + '_> {
            let s = &s;
            Box::new(move || {
                for _ in 0..4 {
                    let o = s.object();
                    s.vm.object_deallocate(o, &mut may());
                }
            })
        };
        host.run_scheduled((0..3).map(body).collect());
        let told = pager.told();
        // A use begins with init and map, and ends with last_unmap and terminated; a new one
        // begins after the last has ended.
        let mut uses = 0;
        let mut open = false;
        for t in &told {
            match t {
                Told::Init => {
                    assert!(!open, "seed {seed}: {told:?}");
                    (open, uses) = (true, uses + 1);
                }
                Told::Terminated => {
                    assert!(open, "seed {seed}: {told:?}");
                    open = false;
                }
                _ => {}
            }
        }
        assert!(uses >= 1 && !open, "seed {seed}: {told:?}");
        assert_eq!(vm.live(), [0; 6], "seed {seed}");
    }
}

/// E02, E19: faults wait until the pager is ready.
#[test]
fn e02_e19_faults_wait_for_ready() {
    scene_with(None, 256, |s| {
        let t = s.task();
        let c = s.pager.control();
        waits_for_pager(&t, 1, Prot::R);
        assert_eq!(s.vm.get_attributes(c), Ok((false, Attributes::default())));
        assert_eq!(s.pager.told(), [Told::Init, Told::Map], "no request before ready");
        s.vm.ready(c, may_cache(), &mut may()).expect("alive");
        assert_eq!(s.vm.get_attributes(c), Ok((true, may_cache())));
        waits_for_page(&t, 1, Prot::R);
        assert_eq!(s.pager.told(), [Told::Request(1, 1, Prot::R)]);
        s.supply(1, 7);
        assert_eq!(byte_of(&t, 1), 7);
    });
}

/// E03: what is modified goes back first; then the object has ended for its pager.
#[test]
fn e03_terminate_after_the_last_use() {
    scene(|s| {
        let (a, b) = (s.task(), s.task());
        s.pager.answers(Supply::Clean, Prot::NONE);
        a.store(at(2), &full(50)).expect("store");
        drop(a);
        s.pager.told();
        drop(b);
        assert_eq!(s.pager.told(), [Told::LastUnmap, Told::Return(2, 50, true, true), Told::Terminated]);
    });
}

/// E03: with the strategy "temporary" nothing needs to go back.
#[test]
fn e03_temporary_objects_end_unwritten() {
    let temporary = Attributes { may_cache: false, copy: CopyStrategy::Temporary };
    scene_with(Some(temporary), 256, |s| {
        let t = s.task();
        s.pager.answers(Supply::Clean, Prot::NONE);
        t.store(at(2), &full(50)).expect("store");
        s.pager.told();
        drop(t);
        assert_eq!(s.pager.told(), [Told::LastUnmap, Told::Terminated]);
    });
}

/// Z115: calls after the end are ignored, also when a new use has begun.
#[test]
fn z115_a_late_call_is_told_that_it_is_late() {
    scene(|s| {
        let t = s.task();
        let old = s.pager.control();
        waits_for_page(&t, 4, Prot::R);
        drop(t);
        assert!(s.pager.told().ends_with(&[Told::LastUnmap, Told::Terminated]));
        let late = || {
            let (v, m) = (s.vm, &mut may());
            let lock = LockRequest { offset: 0, bytes: off(9), ret: Return::All, flush: true, lock: None };
            let supplied = v.data_supply(old, off(4), &full(1), Prot::NONE, Supply::Clean, m);
            assert_eq!(supplied, Err(SupplyError::Dead));
            assert_eq!(v.data_unavailable(old, off(4), off(1), m), Err(ControlError::Dead));
            assert_eq!(v.data_error(old, off(4), off(1), PagerError::Io, m), Err(ControlError::Dead));
            assert_eq!(v.lock_request(old, &lock, m), Err(ControlError::Dead));
            assert_eq!(v.change_attributes(old, may_cache(), m), Err(ControlError::Dead));
            assert_eq!(v.ready(old, may_cache(), m), Err(ControlError::Dead));
            assert_eq!(v.get_attributes(old), Err(ControlError::Dead));
            assert_eq!(v.destroy(old, m), Err(ControlError::Dead));
        };
        late();
        let t = s.task();
        assert_ne!(s.pager.control(), old);
        waits_for_page(&t, 4, Prot::R);
        late();
        waits_for_page(&t, 4, Prot::R);
        s.supply(4, 8);
        assert_eq!(byte_of(&t, 4), 8);
    });
}

/// E04, Z116: who waits, and who comes later, gets an error; pages and requests are gone.
#[test]
fn e04_destroyed_objects_fail() {
    scene(|s| {
        let t = s.task();
        let c = s.pager.control();
        waits_for_page(&t, 1, Prot::R);
        s.supply(2, 22);
        assert_eq!(byte_of(&t, 2), 22);
        t.store(at(2), &[1]).expect("store");
        t.map.wire_page(va(2), &mut may()).expect("wire");
        s.pager.told();
        s.vm.destroy(c, &mut may()).expect("alive");
        assert_eq!(s.pager.told(), [Told::Terminated], "nothing is written");
        for page in 1..4 {
            assert_eq!(first_byte(&t, page), Err(FaultError::PagerGone(va(page))));
            assert_eq!(t.store(at(page), &[1]), Err(FaultError::PagerGone(va(page))));
        }
        assert_eq!(s.vm.destroy(c, &mut may()), Err(ControlError::Dead));
        check_quiet(s.vm, [&t]);
        // Who maps the pager's data from now on begins anew.
        let u = s.task();
        waits_for_page(&u, 1, Prot::R);
        s.supply(1, 5);
        assert_eq!(byte_of(&u, 1), 5);
        assert_eq!(first_byte(&t, 1), Err(FaultError::PagerGone(va(1))));
        drop((t, u));
        assert!(s.pager.told().ends_with(&[Told::LastUnmap, Told::Terminated]));
    });
}

/// E04: a pager that is gone altogether.
#[test]
fn e04_a_pager_that_vanishes() {
    scene(|s| {
        let t = s.task();
        waits_for_page(&t, 1, Prot::R);
        s.supply(2, 2);
        s.vm.platform().remove_pager(s.id);
        assert_eq!(first_byte(&t, 3), Err(FaultError::PagerGone(va(3))));
        assert_eq!(byte_of(&t, 2), 2, "what is in memory stays");
        // Its request is ended by whoever sees that it died.
        s.vm.data_error(s.pager.control(), 0, off(64), PagerError::Gone, &mut may()).expect("alive");
        assert_eq!(first_byte(&t, 1), Err(FaultError::PagerGone(va(1))));
    });
}

/// E17, E18, E20, Z119: kept with its pages while it may be, and not longer.
#[test]
fn e17_e18_e20_z119_kept_objects() {
    scene_with(Some(may_cache()), 256, |s| {
        let t = s.task();
        let c = s.pager.control();
        waits_for_page(&t, 1, Prot::R);
        s.supply(1, 11);
        assert_eq!(byte_of(&t, 1), 11);
        s.pager.told();
        drop(t);
        assert_eq!(s.pager.told(), [Told::LastUnmap]);
        assert_eq!(s.vm.object_cache_len(), 1);
        let t = s.task();
        assert_eq!(s.pager.told(), [Told::Map]);
        assert_eq!((byte_of(&t, 1), s.pager.control()), (11, c), "the same object, with its page");
        t.store(at(1), &full(12)).expect("store");
        drop(t);
        // Cleaned while nobody uses it: it stays kept.
        let clean = LockRequest { offset: 0, bytes: off(64), ret: Return::Dirty, flush: false, lock: None };
        s.vm.lock_request(c, &clean, &mut may()).expect("alive");
        assert_eq!(s.pager.told(), [Told::LastUnmap, Told::Return(1, 12, true, true)]);
        assert_eq!(s.vm.object_cache_len(), 1);
        s.vm.change_attributes(c, Attributes::default(), &mut may()).expect("alive");
        assert_eq!(s.pager.told(), [Told::Terminated], "before the call returned");
        assert_eq!(s.vm.get_attributes(c), Err(ControlError::Dead));
        assert_eq!(s.vm.object_cache_len(), 0);
    });
}

/// E17: beyond the limit the object that was used least recently ends.
#[test]
fn e17_the_oldest_kept_object_ends() {
    let vm = Vm::new(Machine::new(Config::default())).expect("memory");
    vm.set_object_cache(2, &mut may());
    let pagers: Vec<_> = (0..3)
        .map(|_| {
            let inner = Inner { ready: Some(may_cache()), ..Inner::default() };
            let pager: &'static Remote = Box::leak(Box::new(Remote(Mutex::new(inner))));
            (pager, vm.platform().add_any_pager(pager))
        })
        .collect();
    let use_it = |n: usize| {
        let o = vm.memory_object(pagers[n].1, off(4), &mut may()).expect("memory");
        vm.object_deallocate(o, &mut may());
    };
    [0, 1, 0, 2].into_iter().for_each(use_it);
    let ended = |n: usize| pagers[n].0.told().contains(&Told::Terminated);
    assert_eq!([0, 1, 2].map(ended), [false, true, false]);
    assert_eq!(vm.object_cache_len(), 2);
    vm.set_object_cache(0, &mut may());
    assert_eq!([0, 1, 2].map(ended), [true, false, true]);
    assert_eq!(vm.live(), [0; 6]);
}

/// E01: one object cannot be larger than it was made for.
#[test]
fn e01_sizes() {
    scene(|s| {
        let o = s.object();
        let id = s.vm.memory_object_control(o);
        assert_eq!(id, Some(s.pager.control()));
        assert!(s.vm.memory_object(s.id, u64::MAX, &mut may()).is_err());
        let same = s.vm.memory_object(s.id, 1 << 30, &mut may()).expect("1 GiB always");
        assert_eq!(same, o);
        s.vm.object_deallocate(o, &mut may());
        s.vm.object_deallocate(same, &mut may());
    });
}

/// E01: nothing is left when there is no memory for an object.
#[test]
fn e01_no_memory() {
    scene(|s| {
        let inject = s.vm.platform().inject();
        for k in 1.. {
            inject.arm(u32::MAX, k, true);
            let made = s.vm.memory_object(s.id, off(4), &mut may());
            let refused = inject.disarm();
            let done = made.is_ok();
            if let Ok(o) = made {
                s.vm.object_deallocate(o, &mut may());
            }
            assert_eq!(s.vm.live(), [0; 6]);
            if refused == 0 {
                assert!(done);
                break;
            }
            assert!(!done, "nothing of it may be refused unnoticed");
        }
    });
}
