//! `vm_inherit` and what children of `task_create` get (U21, U35).

use machvm_capi::calls::inherit::{mach_vm_inherit, vm_inherit};

use crate::util::*;

/// vm_inherit of the Mach 3 and XNU manuals.
#[test]
fn u21_codes() {
    let t = task();
    let at = allocate(t, 2);
    assert_eq!(mach_vm_inherit(t, at, P, 3), KERN_INVALID_ARGUMENT, "DONATE_COPY is refused");
    assert_eq!(mach_vm_inherit(t, at, 0, 3), KERN_INVALID_ARGUMENT);
    assert_eq!(mach_vm_inherit(t, at, u64::MAX, SHARE), KERN_INVALID_ARGUMENT, "it wraps");
    assert_eq!(mach_vm_inherit(t, at, 9 * P, SHARE), KERN_SUCCESS, "holes are passed over");
    assert_eq!(vm_inherit(t, at as usize, P as usize, COPY), KERN_SUCCESS);
    assert_eq!(mach_vm_inherit(NULL, at, P, COPY), MACH_SEND_INVALID_DEST);
    assert_eq!(mach_vm_inherit(HOST, at, P, COPY), KERN_INVALID_ARGUMENT);
}

/// task_create of the Mach 3 manual, with each vm_inherit_t.
#[test]
fn u21_a_child_gets_what_the_inheritance_says_at_the_same_addresses() {
    let parent = task();
    let at = allocate(parent, 3);
    assert_eq!(mach_vm_inherit(parent, at, P, SHARE), KERN_SUCCESS);
    assert_eq!(mach_vm_inherit(parent, at + 2 * P, P, 2), KERN_SUCCESS);
    let here = window_on(parent, at, 2);
    put(here, 10);
    put(here + P, 20);
    let child = child_of(parent, true);
    put(here, 11);
    put(here + P, 21);
    let there = [window_on(child, at, 1), window_on(child, at + P, 1)];
    assert_eq!(there.map(get), [11, 20], "shared, copied");
    put(there[0], 12);
    put(there[1], 22);
    assert_eq!((get(here), get(here + P)), (12, 21));
    // Not inherited: there is room.
    let mut hole = at + 2 * P;
    // SAFETY: an address of ours.
    let r = unsafe { machvm_capi::calls::allocate::mach_vm_allocate(child, &raw mut hole, P, FIXED) };
    assert_eq!(r, KERN_SUCCESS);
    free(TASK_SELF, here, 2);
    for a in there {
        free(TASK_SELF, a, 1);
    }
}
