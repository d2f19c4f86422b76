//! Tasks and processes (U35).

use machvm_capi::calls::allocate::{mach_vm_allocate, mach_vm_deallocate};
use machvm_capi::calls::names::{mach_port_deallocate, mach_port_get_refs, mach_port_type};
use machvm_capi::calls::tasks::{pid_for_task, task_create, task_for_pid, task_self_trap, task_terminate};
use std::os::unix::process::ExitStatusExt;

use crate::util::*;

#[test]
fn u35_task_create() {
    let empty = task();
    let mut first = 0;
    // SAFETY: variables of ours; null is looked at.
    unsafe {
        let null = core::ptr::null_mut();
        assert_eq!(mach_vm_allocate(empty, &raw mut first, P, ANYWHERE), KERN_SUCCESS);
        assert_eq!(task_create(empty, null, 0, 0, null), KERN_INVALID_ARGUMENT);
        let mut child = 5;
        assert_eq!(task_create(NULL, null, 0, 0, &raw mut child), MACH_SEND_INVALID_DEST);
        assert_eq!(task_create(HOST, null, 0, 1, &raw mut child), KERN_INVALID_ARGUMENT);
        assert_eq!(child, 5);
    }
    // A child of this process's task has what that has, where it has it.
    let at = allocate(TASK_SELF, 2);
    put(at + P, 8);
    let child = child_of(TASK_SELF, true);
    put(at + P, 9);
    let there = window_on(child, at + P, 1);
    assert_eq!(get(there), 8);
    free(TASK_SELF, there, 1);
    free(TASK_SELF, at, 2);
    for name in [child, empty] {
        assert_eq!(mach_port_deallocate(TASK_SELF, name), KERN_SUCCESS);
    }
}

/// task_terminate of the Mach 3 manual: the name is a dead one.
#[test]
fn u35_a_terminated_task_is_a_dead_name() {
    let t = task();
    let at = allocate(t, 1);
    let shared = window_on(t, at, 1);
    put(shared, 3);
    assert_eq!(task_terminate(t), KERN_SUCCESS);
    assert_eq!(get(shared), 3, "others keep what they share with it");
    assert_eq!(task_terminate(t), MACH_SEND_INVALID_DEST);
    assert_eq!(mach_vm_deallocate(t, at, P), MACH_SEND_INVALID_DEST);
    let (mut kind, mut refs) = (0, 0);
    // SAFETY: variables of ours.
    unsafe {
        assert_eq!(mach_port_type(TASK_SELF, t, &raw mut kind), KERN_SUCCESS);
        assert_eq!(mach_port_get_refs(TASK_SELF, t, 4, &raw mut refs), KERN_SUCCESS);
    }
    assert_eq!((kind, refs), (1 << 20, 1));
    assert_eq!(mach_port_deallocate(TASK_SELF, t), KERN_SUCCESS);
    assert_eq!(mach_port_deallocate(TASK_SELF, t), KERN_INVALID_NAME);
    for (port, want) in [(NULL, MACH_SEND_INVALID_DEST), (HOST, KERN_INVALID_ARGUMENT)] {
        assert_eq!(task_terminate(port), want);
    }
    free(TASK_SELF, shared, 1);
}

#[test]
#[ignore = "ends the process: run by u35_terminating_oneself_ends_the_process"]
fn terminates_itself() {
    task_terminate(TASK_SELF);
}

#[test]
fn u35_terminating_oneself_ends_the_process() {
    let out = elsewhere("tasks::terminates_itself", &[]);
    assert_eq!(out.status.signal(), Some(libc::SIGKILL), "{out:?}");
}

/// Deallocating everything that another task has leaves it empty.
#[test]
fn u04_everything_of_another_task() {
    let t = task();
    let first = allocate(t, 5);
    allocate(t, 700);
    assert_eq!(mach_vm_deallocate(t, 0, !(P - 1)), KERN_SUCCESS);
    assert_eq!(allocate(t, 705), first, "it is empty, and can be used");
}

#[test]
#[ignore = "ends the process: run by u04_everything_of_ones_own"]
fn deallocates_everything() {
    mach_vm_deallocate(TASK_SELF, 0, !(P - 1));
}

/// Deallocating everything ends the process with a signal.
#[test]
fn u04_everything_of_ones_own() {
    let out = elsewhere("tasks::deallocates_everything", &[]);
    assert_eq!(out.status.signal(), Some(libc::SIGSEGV), "{out:?}");
}

/// task_for_pid and pid_for_task of XNU: this process is the only one.
#[test]
fn task_for_pid_knows_this_process() {
    let own = i32::try_from(std::process::id()).unwrap();
    let (mut t, mut pid) = (7, 7);
    // SAFETY: variables of ours; null is looked at.
    unsafe {
        assert_eq!(task_for_pid(TASK_SELF, own, &raw mut t), KERN_SUCCESS);
        assert_eq!(t, TASK_SELF);
        t = 7;
        assert_eq!(task_for_pid(TASK_SELF, 1, &raw mut t), KERN_FAILURE);
        assert_eq!(task_for_pid(NULL, own, &raw mut t), KERN_FAILURE);
        assert_eq!(task_for_pid(TASK_SELF, own, core::ptr::null_mut()), KERN_INVALID_ARGUMENT);
        assert_eq!(pid_for_task(TASK_SELF, core::ptr::null_mut()), KERN_INVALID_ARGUMENT);
        for other in [NULL, HOST, UNKNOWN, task()] {
            assert_eq!(pid_for_task(other, &raw mut pid), KERN_FAILURE, "{other:#x}");
        }
        assert_eq!((t, pid), (7, 7));
        assert_eq!(pid_for_task(TASK_SELF, &raw mut pid), KERN_SUCCESS);
    }
    assert_eq!((pid, task_self_trap()), (own, TASK_SELF));
}
