//! `vm_wire`, `vm_wire_all` (U11, U12).

use machvm_capi::calls::allocate::mach_vm_deallocate;
use machvm_capi::calls::protect::mach_vm_protect;
use machvm_capi::calls::wire::{mach_vm_wire, vm_wire, vm_wire_all};

use crate::util::*;

/// vm_wire of the Mach 3 and XNU manuals.
#[test]
fn u11_codes() {
    let t = task();
    let at = allocate(t, 4);
    let wire = |at, size, access| mach_vm_wire(HOST_PRIV, t, at, size, access);
    assert_eq!(wire(at, P, 8), KERN_INVALID_ARGUMENT);
    assert_eq!(wire(at, P, -1), KERN_INVALID_ARGUMENT);
    assert_eq!(wire(at, 0, R), KERN_SUCCESS);
    assert_eq!(wire(at, u64::MAX, R), KERN_INVALID_ARGUMENT, "it wraps");
    assert_eq!(wire(at, 5 * P, R), KERN_INVALID_ADDRESS, "a hole at the end");
    assert_eq!(mach_vm_protect(t, at + P, P, 0, R), KERN_SUCCESS);
    assert_eq!(wire(at, 4 * P, RW), KERN_PROTECTION_FAILURE);
    assert_eq!(vm_wire(HOST_PRIV, t, at as usize, 4 * P as usize, R), KERN_SUCCESS);
    let wirings = || regions(t).iter().map(|r| r.5).max();
    assert_eq!((wire(at, 4 * P, R), wirings()), (KERN_SUCCESS, Some(2)), "counted (Z124)");
    assert_eq!((wire(at, 4 * P, NONE), wirings()), (KERN_SUCCESS, Some(1)));
    assert_eq!(wire(at, 5 * P, NONE), KERN_SUCCESS, "holes are passed over");
    assert_eq!(wirings(), Some(0));
    assert_eq!(wire(at + 4 * P, P, NONE), KERN_INVALID_ADDRESS, "the first page is looked at");
}

/// Of XNU's vm_wire: which port is wrong decides the code.
#[test]
fn u11_u12_ports() {
    let t = task();
    let at = allocate(t, 1);
    let both = |host, task| {
        let codes = (mach_vm_wire(host, task, at, P, R), vm_wire_all(host, task, 1));
        assert_eq!(codes.0, codes.1, "{host:#x} {task:#x}");
        codes.0
    };
    for host in [NULL, DEAD, UNKNOWN] {
        assert_eq!(both(host, t), MACH_SEND_INVALID_DEST);
    }
    for host in [TASK_SELF, t] {
        assert_eq!(both(host, NULL), KERN_INVALID_HOST, "the host first");
    }
    for task in [NULL, DEAD, HOST] {
        assert_eq!(both(HOST_PRIV, task), KERN_INVALID_TASK);
    }
    assert_eq!(both(HOST_PRIV, UNKNOWN), MACH_SEND_INVALID_RIGHT);
    // SAFETY: it only asks.
    let root = unsafe { libc::geteuid() } == 0;
    assert_eq!(both(HOST, t), if root { KERN_SUCCESS } else { KERN_INVALID_HOST });
}

/// vm_wire_all of the GNU Mach manual.
#[test]
fn u12_codes() {
    let t = task();
    let at = allocate(t, 2);
    assert_eq!(vm_wire_all(HOST_PRIV, t, 4), KERN_INVALID_ARGUMENT);
    assert_eq!(vm_wire_all(HOST_PRIV, t, -1), KERN_INVALID_ARGUMENT);
    assert_eq!(vm_wire_all(HOST_PRIV, t, 3), KERN_SUCCESS);
    let later = allocate(t, 1);
    assert!(regions(t).iter().all(|r| r.5 == 1), "now and later");
    assert_eq!(vm_wire_all(HOST_PRIV, t, 0), KERN_SUCCESS);
    assert!(regions(t).iter().all(|r| r.5 == 0), "not any more");
    assert_eq!((mach_vm_deallocate(t, at, 2 * P), mach_vm_deallocate(t, later, P)), (0, 0));
    let after = allocate(t, 1);
    assert_eq!((after, regions(t)[0].5), (at, 0));
}
