//! `vm_purgable_control`, `mach_memory_entry_purgable_control` (U31).

use machvm_capi::calls::allocate::mach_vm_allocate;
use machvm_capi::calls::entries::mach_make_memory_entry_64;
use machvm_capi::calls::protect::mach_vm_protect;
use machvm_capi::calls::purgable::{
    mach_memory_entry_purgable_control, mach_vm_purgable_control, vm_purgable_control,
};

use crate::util::*;

const SET: i32 = 0;
const GET: i32 = 1;
const VOLATILE: i32 = 1;
const EMPTY: i32 = 2;

fn control(task: u32, at: u64, control: i32, state: i32) -> Result<i32, i32> {
    let mut now = state;
    // SAFETY: a variable of ours.
    let code = unsafe { mach_vm_purgable_control(task, at, control, &raw mut now) };
    assert!(code == KERN_SUCCESS || now == state, "a call that fails writes nothing");
    if code == KERN_SUCCESS { Ok(now) } else { Err(code) }
}

/// vm_purgable_control of XNU's vm_purgable.h.
#[test]
fn u31_codes_and_states() {
    let (mut at, plain) = (0, allocate(TASK_SELF, 1));
    // SAFETY: a variable of ours.
    assert_eq!(unsafe { mach_vm_allocate(TASK_SELF, &raw mut at, 2 * P, ANYWHERE | 2) }, KERN_SUCCESS);
    let own = |c, s| control(TASK_SELF, at, c, s);
    put(at, 9);
    assert_eq!(own(GET, 77), Ok(0));
    assert_eq!(own(SET, VOLATILE), Ok(0));
    assert_eq!(own(SET, EMPTY), Ok(VOLATILE));
    assert_eq!(own(SET, VOLATILE), Ok(EMPTY), "Z111: it stays empty");
    assert_eq!((own(SET, 0), get(at)), (Ok(EMPTY), 0), "and says that the contents are lost");
    assert_eq!(own(SET, 3), Err(KERN_INVALID_ARGUMENT), "DENY");
    assert_eq!(own(SET, 1 << 20), Err(KERN_INVALID_ARGUMENT));
    for bad in [3, 4, -1] {
        assert_eq!(own(bad, 0), Err(KERN_INVALID_ARGUMENT), "control {bad}");
    }
    assert_eq!(control(TASK_SELF, plain, GET, 0), Err(KERN_INVALID_ARGUMENT), "not purgeable");
    assert_eq!(mach_vm_protect(TASK_SELF, at, 2 * P, 0, R), KERN_SUCCESS);
    assert_eq!((own(SET, 1), own(GET, 0)), (Err(KERN_PROTECTION_FAILURE), Ok(0)));
    free(TASK_SELF, at, 2);
    free(TASK_SELF, plain, 1);
    assert_eq!(control(task(), at, GET, 0), Err(KERN_INVALID_ADDRESS));
    assert_eq!(control(NULL, at, GET, 0), Err(MACH_SEND_INVALID_DEST));
    assert_eq!(control(HOST, at, GET, 0), Err(KERN_INVALID_ARGUMENT));
    // SAFETY: null is looked at.
    let null = unsafe { vm_purgable_control(TASK_SELF, at as usize, GET, core::ptr::null_mut()) };
    assert_eq!(null, KERN_INVALID_ARGUMENT);
}

/// mach_memory_entry_purgable_control of XNU.
#[test]
fn u31_entries() {
    let make = |flags, parent| {
        let (mut size, mut name) = (P, 0);
        // SAFETY: variables of ours.
        match unsafe { mach_make_memory_entry_64(TASK_SELF, &raw mut size, 0, flags, &raw mut name, parent) }
        {
            KERN_SUCCESS => Ok(name),
            e => Err(e),
        }
    };
    let entry = |flags| make(0x2_0000 | flags, NULL).unwrap();
    let call = |name, control, state| {
        let mut now: i32 = state;
        // SAFETY: a variable of ours.
        match unsafe { mach_memory_entry_purgable_control(name, control, &raw mut now) } {
            0 => Ok(now),
            e => Err(e),
        }
    };
    let e = entry(0x4_0000 | RW);
    assert_eq!(call(e, SET, VOLATILE), Ok(0));
    assert_eq!(call(e, GET, 0), Ok(VOLATILE));
    for (control, state) in [(2, 0), (3, 0), (-1, 0), (SET, 3), (SET, 1 << 20)] {
        assert_eq!(call(e, control, state), Err(KERN_INVALID_ARGUMENT), "{control} {state}");
    }
    assert_eq!(call(entry(RW), GET, 0), Err(KERN_INVALID_ARGUMENT), "not purgeable");
    assert_eq!(make(0x6_0000 | R, NULL), Err(KERN_INVALID_ARGUMENT), "who cannot write cannot purge");
    assert_eq!(call(make(R, e).unwrap(), SET, 0), Err(KERN_PROTECTION_FAILURE));
    for (port, want) in [
        (NULL, MACH_SEND_INVALID_DEST),
        (UNKNOWN, MACH_SEND_INVALID_DEST),
        (TASK_SELF, KERN_INVALID_ARGUMENT),
    ] {
        assert_eq!(call(port, GET, 0), Err(want));
    }
}
