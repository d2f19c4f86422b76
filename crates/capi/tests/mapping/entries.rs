//! Memory entries (U09, U10).

use machvm_capi::calls::entries::{
    mach_make_memory_entry, mach_make_memory_entry_64, mach_memory_object_memory_entry,
    mach_memory_object_memory_entry_64,
};
use machvm_capi::calls::map::mach_vm_map;
use machvm_capi::calls::names::{mach_port_deallocate, mach_port_get_refs};
use machvm_capi::calls::protect::mach_vm_protect;

use crate::util::*;

/// `MAP_MEM_*`.
const ONLY: i32 = 0x1_0000;
const CREATE: i32 = 0x2_0000;
const REUSE: i32 = 0x8_0000;
const USE_DATA_ADDR: i32 = 0x10_0000;
const VM_COPY: i32 = 0x20_0000;
const VM_SHARE: i32 = 0x40_0000;
const IS_MASK: i32 = 0x40;

/// Name and size of a new entry.
fn make(task: u32, size: u64, offset: u64, permission: i32, parent: u32) -> Result<(u32, u64), i32> {
    let (mut covers, mut name) = (size, 99);
    // SAFETY: variables of ours.
    let code = unsafe {
        mach_make_memory_entry_64(task, &raw mut covers, offset, permission, &raw mut name, parent)
    };
    match code {
        0 => Ok((name, covers)),
        e => {
            assert_eq!((covers, name), (size, 99), "a call that fails writes nothing");
            Err(e)
        }
    }
}

fn map(entry: u32, offset: u64, size: u64, flags: i32) -> u64 {
    let mut at = 0;
    // SAFETY: an address of ours.
    let r = unsafe { mach_vm_map(TASK_SELF, &raw mut at, size, 0, flags, entry, offset, 0, R, R, COPY) };
    assert_eq!(r, KERN_SUCCESS);
    at
}

fn let_go(entry: u32) {
    assert_eq!(mach_port_deallocate(TASK_SELF, entry), KERN_SUCCESS);
}

/// mach_make_memory_entry_64 of XNU's memory_object_types.h.
#[test]
fn u09_codes() {
    let t = task();
    let at = allocate(t, 2);
    for unknown in [0x8, 0x10, 0x100, 0x4000] {
        assert_eq!(make(t, P, at, unknown | R, NULL), Err(KERN_INVALID_ARGUMENT), "{unknown:#x}");
    }
    let (copy, _) = make(t, P, at, VM_COPY | VM_SHARE | R, NULL).expect("the first kind counts");
    assert_eq!(make(t, P, 0, R, copy), Err(KERN_INVALID_ARGUMENT), "no parts of it");
    let_go(copy);
    assert_eq!(make(t, 0, at, R, NULL), Err(KERN_INVALID_ARGUMENT));
    assert_eq!(make(t, u64::MAX, at, R, NULL), Err(KERN_INVALID_ARGUMENT), "it wraps");
    assert_eq!(make(t, P, at + 2 * P, R, NULL), Err(KERN_INVALID_ADDRESS));
    assert_eq!(make(t, 3 * P, at, VM_SHARE | R, NULL), Err(KERN_INVALID_ADDRESS));
    assert_eq!(make(t, P, at, ONLY | R, NULL), Err(KERN_INVALID_ARGUMENT), "without a parent");
    assert_eq!(mach_vm_protect(t, at, 2 * P, 0, R), KERN_SUCCESS);
    assert_eq!(make(t, P, at, RW, NULL), Err(KERN_PROTECTION_FAILURE), "Z109");
    for (port, want) in [
        (NULL, MACH_SEND_INVALID_DEST),
        (DEAD, MACH_SEND_INVALID_DEST),
        (UNKNOWN, MACH_SEND_INVALID_DEST),
        (HOST, KERN_INVALID_TASK),
    ] {
        assert_eq!(make(port, P, at, R, NULL), Err(want), "{port:#x}");
    }
    assert_eq!(make(t, P, at, R, UNKNOWN), Err(MACH_SEND_INVALID_RIGHT));
    let (masked, _) = make(t, P, at, RW | IS_MASK, NULL).unwrap();
    let (no_parent, size) = make(t, P, at, R, HOST).unwrap();
    assert_eq!(size, P, "what is no entry is no parent");
    let_go(masked);
    let_go(no_parent);
}

/// Of XNU: new memory, and nothing.
#[test]
fn u09_named_create() {
    assert_eq!(make(TASK_SELF, 0, 0, CREATE | RW, NULL), Ok((NULL, 0)));
    // LEDGER_TAGGED and GRAB_SECLUDED say something to others.
    let (entry, _) = make(TASK_SELF, P, 0, CREATE | 0xa000 | RW, NULL).unwrap();
    let_go(entry);
    let (entry, size) = make(TASK_SELF, P + 1, 0, CREATE | RW, NULL).unwrap();
    assert_eq!(size, 2 * P);
    let at = map(entry, 0, size, ANYWHERE);
    assert_eq!((get(at), get(at + P)), (0, 0));
    free(TASK_SELF, at, 2);
    let_go(entry);
}

/// Of XNU: a snapshot, and the memory itself, which live on without the range and the name.
#[test]
fn u09_copies_and_shares_outlive_their_source() {
    let at = allocate(TASK_SELF, 2);
    put(at + 16, 1);
    let (share, _) = make(TASK_SELF, 2 * P, at, VM_SHARE | R, NULL).unwrap();
    let (copy, _) = make(TASK_SELF, 2 * P, at, VM_COPY | R, NULL).unwrap();
    let (data, size) = make(TASK_SELF, 24, at + 16, VM_SHARE | USE_DATA_ADDR | R, NULL).unwrap();
    assert_eq!(size, P - 16, "to the end of its page");
    put(at + 16, 2);
    free(TASK_SELF, at, 2);
    let mapped = [
        map(share, 0, 2 * P, ANYWHERE),
        map(copy, 0, 2 * P, ANYWHERE),
        map(data, 0, 24, ANYWHERE | DATA_ADDR),
    ];
    for name in [share, copy, data] {
        let_go(name);
    }
    assert_eq!([get(mapped[0] + 16), get(mapped[1] + 16), get(mapped[2])], [2, 1, 2]);
    assert_eq!(mapped[2] % P, 16);
    for (m, pages) in mapped.into_iter().zip([2, 2, 1]) {
        free(TASK_SELF, m, pages);
    }
}

/// Of XNU: parts of a parent, the parent again, and nothing made.
#[test]
fn u09_parents() {
    let at = allocate(TASK_SELF, 4);
    put(at + 2 * P, 7);
    let (parent, _) = make(TASK_SELF, 4 * P, at, R, NULL).unwrap();
    let (child, size) = make(TASK_SELF, P, 2 * P, R, parent).unwrap();
    assert_eq!(size, P);
    let mapped = map(child, 0, P, ANYWHERE);
    assert_eq!(get(mapped), 7);
    assert_eq!(make(TASK_SELF, P, 4 * P, R, parent), Err(KERN_INVALID_ARGUMENT));
    assert_eq!(make(TASK_SELF, P, 0, RW, parent), Err(KERN_PROTECTION_FAILURE), "Z109");
    assert_eq!(make(TASK_SELF, 0, 0, R, parent), Ok((NULL, 0)));
    assert_eq!(make(TASK_SELF, P, 0, ONLY | 3 << 24 | R, parent), Err(KERN_INVALID_RIGHT), "a change");
    assert_eq!(make(TASK_SELF, P, 0, ONLY | R, parent), Ok((NULL, P)), "no change");
    let (writable, _) = make(TASK_SELF, P, at, RW, NULL).unwrap();
    assert_eq!(make(TASK_SELF, 77, 0, ONLY | R, writable), Ok((NULL, 77)), "no handle");
    let (copy, _) = make(TASK_SELF, P, at, VM_COPY | R, NULL).unwrap();
    assert_eq!(make(TASK_SELF, P, 0, R, copy), Err(KERN_INVALID_ARGUMENT), "a parent that is a copy");
    // The same memory again: the same name, with one reference more.
    assert_eq!(make(TASK_SELF, 4 * P, at, REUSE | R, parent), Ok((parent, 4 * P)));
    let mut refs = 0;
    // SAFETY: a variable of ours.
    unsafe { mach_port_get_refs(TASK_SELF, parent, 0, &raw mut refs) };
    assert_eq!(refs, 2);
    for name in [parent, parent, child, writable, copy] {
        let_go(name);
    }
    free(TASK_SELF, at, 4);
    free(TASK_SELF, mapped, 1);
}

#[test]
fn u09_the_narrower_twin_and_null_pointers() {
    let at = allocate(TASK_SELF, 1) as usize;
    let (mut size, mut name) = (P as usize, 0);
    // SAFETY: variables of ours; null is looked at.
    unsafe {
        let (s, n) = (&raw mut size, &raw mut name);
        let null: *mut u32 = core::ptr::null_mut();
        assert_eq!(
            mach_make_memory_entry(TASK_SELF, null.cast::<usize>(), at, R, n, 0),
            KERN_INVALID_ARGUMENT
        );
        assert_eq!(mach_make_memory_entry(TASK_SELF, s, at, R, null, 0), KERN_INVALID_ARGUMENT);
        assert_eq!(mach_make_memory_entry(TASK_SELF, s, at, R, n, 0), KERN_SUCCESS);
    }
    assert_eq!(size, P as usize);
    let_go(name);
    free(TASK_SELF, at as u64, 1);
}

/// mach_memory_object_memory_entry_64 of XNU's mach_host.defs.
#[test]
fn u10_internal_objects() {
    let call = |host, internal, size, permission, pager| {
        let mut name = 0;
        // SAFETY: a variable of ours.
        match unsafe {
            mach_memory_object_memory_entry_64(host, internal, size, permission, pager, &raw mut name)
        } {
            0 => Ok(name),
            e => Err(e),
        }
    };
    for host in [NULL, DEAD, UNKNOWN] {
        assert_eq!(call(host, 1, P, RW, NULL), Err(MACH_SEND_INVALID_DEST));
    }
    assert_eq!(call(TASK_SELF, 1, P, RW, NULL), Err(KERN_INVALID_HOST));
    assert_eq!(call(HOST, 1, 0, RW, NULL), Err(KERN_INVALID_ARGUMENT));
    assert_eq!(call(HOST, 1, u64::MAX, RW, NULL), Err(KERN_INVALID_ARGUMENT));
    assert_eq!(call(HOST, 1, P, 8, NULL), Err(KERN_INVALID_ARGUMENT));
    assert_eq!(call(HOST, 0, P, RW, NULL), Err(KERN_INVALID_ARGUMENT), "no pager");
    assert_eq!(call(HOST, 0, P, RW, HOST), Err(KERN_INVALID_ARGUMENT));
    assert_eq!(call(HOST, 0, P, RW, UNKNOWN), Err(MACH_SEND_INVALID_RIGHT));
    let entry = call(HOST, 1, P + 1, R, NULL).unwrap();
    let at = map(entry, P, P, ANYWHERE);
    assert_eq!(get(at), 0);
    let_go(entry);
    free(TASK_SELF, at, 1);
    let mut name = 0;
    // SAFETY: a variable of ours.
    let r = unsafe { mach_memory_object_memory_entry(HOST_PRIV, 1, 1, RW, NULL, &raw mut name) };
    assert_eq!(r, KERN_SUCCESS);
    let_go(name);
}
