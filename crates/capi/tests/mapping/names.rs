//! References to names.

use machvm_capi::calls::host::mach_host_self;
use machvm_capi::calls::names::{
    mach_port_deallocate, mach_port_destroy, mach_port_get_refs, mach_port_mod_refs, mach_port_type,
};
use machvm_capi::calls::tasks::task_terminate;

use crate::util::*;

/// `MACH_PORT_RIGHT_*`.
const SEND: u32 = 0;
const RECEIVE: u32 = 1;
const SEND_ONCE: u32 = 2;
const DEAD_NAME: u32 = 4;

fn refs(space: u32, name: u32, right: u32) -> Result<u32, i32> {
    let mut n = 99;
    // SAFETY: a variable of ours.
    match unsafe { mach_port_get_refs(space, name, right, &raw mut n) } {
        0 => Ok(n),
        e => Err(e),
    }
}

fn kind(name: u32) -> Result<u32, i32> {
    let mut n = 99;
    // SAFETY: a variable of ours.
    match unsafe { mach_port_type(TASK_SELF, name, &raw mut n) } {
        0 => Ok(n),
        e => Err(e),
    }
}

/// mach_port_mod_refs of the XNU manual.
#[test]
fn references_are_counted() {
    let t = task();
    let change = |right, delta| mach_port_mod_refs(TASK_SELF, t, right, delta);
    assert_eq!(kind(t), Ok(1 << 16));
    assert_eq!(change(SEND, 2), KERN_SUCCESS);
    assert_eq!((refs(TASK_SELF, t, SEND), refs(TASK_SELF, t, RECEIVE)), (Ok(3), Ok(0)));
    assert_eq!(change(SEND, 0), KERN_SUCCESS);
    assert_eq!(change(SEND, -4), KERN_INVALID_VALUE);
    assert_eq!(change(SEND, i32::MIN), KERN_INVALID_VALUE);
    assert_eq!(change(SEND, 0xffff), KERN_UREFS_OVERFLOW);
    assert_eq!(change(SEND, i32::MAX), KERN_UREFS_OVERFLOW);
    for right in [RECEIVE, SEND_ONCE, DEAD_NAME] {
        assert_eq!(change(right, -1), KERN_INVALID_RIGHT);
    }
    assert_eq!(change(6, -1), KERN_INVALID_VALUE);
    assert_eq!(mach_port_deallocate(TASK_SELF, t), KERN_SUCCESS);
    assert_eq!(change(SEND, -2), KERN_SUCCESS);
    assert_eq!(change(SEND, -1), KERN_INVALID_NAME);
    assert_eq!((kind(t), refs(TASK_SELF, t, SEND)), (Err(KERN_INVALID_NAME), Err(KERN_INVALID_NAME)));
}

#[test]
fn null_and_dead_are_in_no_space() {
    for name in [NULL, DEAD] {
        assert_eq!(mach_port_deallocate(TASK_SELF, name), KERN_SUCCESS);
        assert_eq!(mach_port_destroy(TASK_SELF, name), KERN_SUCCESS);
        for (right, want) in [(SEND, Ok(1)), (SEND_ONCE, Ok(1)), (DEAD_NAME, Err(KERN_INVALID_NAME))] {
            assert_eq!(refs(TASK_SELF, name, right), want);
            let code = mach_port_mod_refs(TASK_SELF, name, right, -1);
            assert_eq!(code, want.map_or_else(|e| e, |_| KERN_SUCCESS));
        }
    }
    assert_eq!((kind(NULL), kind(DEAD)), (Err(KERN_INVALID_NAME), Ok(1 << 20)));
    assert_eq!(mach_port_deallocate(TASK_SELF, UNKNOWN), KERN_INVALID_NAME);
    assert_eq!(mach_port_destroy(TASK_SELF, UNKNOWN), KERN_INVALID_NAME);
}

#[test]
fn spaces() {
    let t = task();
    for (space, want) in [
        (NULL, MACH_SEND_INVALID_DEST),
        (DEAD, MACH_SEND_INVALID_DEST),
        (UNKNOWN, MACH_SEND_INVALID_DEST),
        (HOST, KERN_INVALID_TASK),
        (t, KERN_INVALID_NAME), // it has none
    ] {
        assert_eq!(mach_port_deallocate(space, t), want);
        assert_eq!(mach_port_destroy(space, t), want);
        assert_eq!(mach_port_mod_refs(space, t, SEND, 1), want);
        assert_eq!(refs(space, t, SEND), Err(want));
    }
    // SAFETY: null is looked at.
    unsafe {
        let null = core::ptr::null_mut();
        assert_eq!(mach_port_get_refs(TASK_SELF, t, SEND, null), KERN_INVALID_ARGUMENT);
        assert_eq!(mach_port_type(TASK_SELF, t, null), KERN_INVALID_ARGUMENT);
    }
}

/// mach_port_destroy of the XNU manual; what a name is after its task.
#[test]
fn destroying_and_dying() {
    let t = task();
    assert_eq!(mach_port_mod_refs(TASK_SELF, t, SEND, 3), KERN_SUCCESS);
    assert_eq!(task_terminate(t), KERN_SUCCESS);
    assert_eq!((refs(TASK_SELF, t, DEAD_NAME), refs(TASK_SELF, t, SEND)), (Ok(4), Ok(0)));
    assert_eq!(mach_port_mod_refs(TASK_SELF, t, SEND, -1), KERN_INVALID_RIGHT);
    assert_eq!(mach_port_mod_refs(TASK_SELF, t, DEAD_NAME, -1), KERN_SUCCESS);
    assert_eq!(mach_port_destroy(TASK_SELF, t), KERN_SUCCESS);
    assert_eq!(kind(t), Err(KERN_INVALID_NAME));
    let other = task();
    assert_ne!(other, t, "names are not used again at once");
    assert_eq!(mach_port_destroy(TASK_SELF, other), KERN_SUCCESS);
}

#[test]
fn the_names_of_the_process_and_the_host_stay() {
    for name in [TASK_SELF, HOST, HOST_PRIV] {
        for _ in 0..3 {
            let code = mach_port_deallocate(TASK_SELF, name);
            assert!(code == KERN_SUCCESS, "{code}");
        }
        assert_eq!(mach_port_destroy(TASK_SELF, name), KERN_SUCCESS);
        assert_eq!(kind(name), Ok(1 << 16));
    }
    assert_eq!(mach_host_self(), HOST);
}
