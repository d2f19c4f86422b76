//! Many threads: names, tasks and entries come and go while others use them.

use std::thread;

use machvm_capi::calls::allocate::mach_vm_allocate;
use machvm_capi::calls::entries::mach_make_memory_entry_64;
use machvm_capi::calls::map::mach_vm_map;
use machvm_capi::calls::names::{mach_port_deallocate, mach_port_mod_refs};
use machvm_capi::calls::remap::mach_vm_remap;
use machvm_capi::calls::tasks::task_terminate;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

use crate::util::*;

/// A task is ended while others map its memory, allocate in it and count its name.
#[test]
fn a_task_ends_while_it_is_used() {
    for _ in 0..20 {
        let t = task();
        let at = allocate(t, 16);
        thread::scope(|s| {
            for _ in 0..2 {
                s.spawn(|| {
                    for i in 0..50 {
                        let (mut a, mut here, mut prot, mut max) = (0, 0, 0, 0);
                        // SAFETY: variables of ours.
                        let codes = unsafe {
                            let one = mach_vm_allocate(t, &raw mut a, P, ANYWHERE);
                            let (h, p, m) = (&raw mut here, &raw mut prot, &raw mut max);
                            let own = TASK_SELF;
                            let two = mach_vm_remap(own, h, 16 * P, 0, ANYWHERE, t, at, i & 1, p, m, 1);
                            (one, two)
                        };
                        if codes.1 == KERN_SUCCESS {
                            put(here + 3 * P, u64::from(i));
                            free(TASK_SELF, here, 16);
                        }
                        assert!([KERN_SUCCESS, MACH_SEND_INVALID_DEST].contains(&codes.0), "{codes:x?}");
                        assert!([KERN_SUCCESS, KERN_INVALID_ARGUMENT].contains(&codes.1), "{codes:x?}");
                    }
                });
            }
            s.spawn(|| {
                thread::yield_now();
                assert_eq!(task_terminate(t), KERN_SUCCESS);
            });
        });
        assert_eq!(mach_port_deallocate(TASK_SELF, t), KERN_SUCCESS);
    }
}

/// An entry's last name goes while others map it.
#[test]
fn an_entry_goes_while_it_is_mapped() {
    let current = AtomicU32::new(0);
    let make = || {
        let (mut size, mut name) = (4 * P, 0);
        // SAFETY: variables of ours.
        let r =
            unsafe { mach_make_memory_entry_64(TASK_SELF, &raw mut size, 0, 0x2_0003, &raw mut name, NULL) };
        assert_eq!(r, KERN_SUCCESS);
        name
    };
    current.store(make(), Relaxed);
    thread::scope(|s| {
        for _ in 0..3 {
            s.spawn(|| {
                for _ in 0..300 {
                    let (mut at, name) = (0, current.load(Relaxed));
                    // SAFETY: a variable of ours.
                    let r = unsafe {
                        mach_vm_map(TASK_SELF, &raw mut at, 4 * P, 0, ANYWHERE, name, 0, 0, RW, RW, COPY)
                    };
                    match r {
                        KERN_SUCCESS => {
                            assert_eq!(get(at + P), 0);
                            put(at, 1);
                            free(TASK_SELF, at, 4);
                        }
                        e => assert_eq!(e, MACH_SEND_INVALID_RIGHT),
                    }
                }
            });
        }
        for _ in 0..300 {
            let old = current.swap(make(), Relaxed);
            assert_eq!(mach_port_mod_refs(TASK_SELF, old, 0, -1), KERN_SUCCESS);
        }
    });
    assert_eq!(mach_port_deallocate(TASK_SELF, current.into_inner()), KERN_SUCCESS);
}

/// Addresses, descriptors and memory of tasks that ended are used again: a process has room
/// for 512 windows of 256 GiB at once.
#[test]
fn ended_tasks_leave_nothing() {
    let maps = || std::fs::read_to_string("/proc/self/maps").unwrap().lines().count();
    let before = maps();
    for i in 0..700 {
        let t = task();
        let at = allocate(t, 4);
        let here = window_on(t, at, 4);
        put(here, i);
        free(TASK_SELF, here, 4);
        if i.is_multiple_of(2) {
            assert_eq!(task_terminate(t), KERN_SUCCESS);
        }
        assert_eq!(mach_port_deallocate(TASK_SELF, t), KERN_SUCCESS);
    }
    // Other tests run meanwhile.
    let after = maps();
    assert!(after < before + 500, "{before} mappings, then {after}");
}
