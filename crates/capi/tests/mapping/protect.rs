//! `vm_protect` (U20).

use machvm_capi::calls::protect::{mach_vm_protect, vm_protect};

use crate::util::*;

/// vm_protect of the Mach 3 and XNU manuals.
#[test]
fn u20_codes() {
    let t = task();
    let at = allocate(t, 4);
    let protect = |at, size, max: bool, prot| mach_vm_protect(t, at, size, max.into(), prot);
    assert_eq!(protect(at, P, false, 8), KERN_INVALID_ARGUMENT);
    assert_eq!(protect(at, P, false, -1), KERN_INVALID_ARGUMENT);
    assert_eq!(protect(at, 0, false, 8), KERN_INVALID_ARGUMENT, "bits before a zero size");
    assert_eq!(protect(1 << 46, 0, false, R), KERN_SUCCESS);
    assert_eq!(protect(at, u64::MAX, false, R), KERN_INVALID_ARGUMENT, "it wraps");
    assert_eq!(protect(at, 5 * P, false, R), KERN_INVALID_ADDRESS, "a hole at the end");
    assert_eq!(protect(1 << 46, P, false, R), KERN_INVALID_ADDRESS);
    // Nothing changed: the maximum may still become less, then the rest is refused.
    assert_eq!(protect(at, 4 * P, true, R), KERN_SUCCESS);
    assert_eq!(protect(at, 4 * P, false, RW), KERN_PROTECTION_FAILURE);
    assert_eq!(protect(at + P, P, true, RW), KERN_PROTECTION_FAILURE, "a maximum does not grow");
    assert_eq!(protect(at + 1, 1, false, NONE), KERN_SUCCESS);
    assert_eq!(vm_protect(t, at as usize, P as usize, 0, R), KERN_SUCCESS);
    for (port, want) in [
        (NULL, MACH_SEND_INVALID_DEST),
        (DEAD, MACH_SEND_INVALID_DEST),
        (UNKNOWN, MACH_SEND_INVALID_DEST),
        (HOST, KERN_INVALID_ARGUMENT),
    ] {
        assert_eq!(mach_vm_protect(port, at, P, 0, R), want);
    }
}

/// VM_PROT_COPY of XNU's vm_prot.h.
#[test]
fn z95_a_private_copy_may_be_written() {
    let at = allocate(TASK_SELF, 1);
    put(at, 1);
    let (mut other, mut prot, mut max) = (0, 0, 0);
    // SAFETY: variables of ours.
    let r = unsafe {
        machvm_capi::calls::remap::mach_vm_remap(
            TASK_SELF,
            &raw mut other,
            P,
            0,
            ANYWHERE,
            TASK_SELF,
            at,
            0,
            &raw mut prot,
            &raw mut max,
            COPY,
        )
    };
    assert_eq!((r, prot, max), (KERN_SUCCESS, RW, ALL));
    assert_eq!(mach_vm_protect(TASK_SELF, other, P, 1, R), KERN_SUCCESS);
    assert_eq!(mach_vm_protect(TASK_SELF, other, P, 0, RW), KERN_PROTECTION_FAILURE);
    assert_eq!(mach_vm_protect(TASK_SELF, other, P, 0, RW | 0x10), KERN_SUCCESS);
    put(other, 2);
    assert_eq!((get(at), get(other)), (1, 2));
    free(TASK_SELF, at, 1);
    free(TASK_SELF, other, 1);
}
