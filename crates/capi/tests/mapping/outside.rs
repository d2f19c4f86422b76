//! The mapping calls on memory that the VM does not manage: stack, heap, mappings of
//! Linux's.

use machvm_capi::calls::allocate::mach_vm_allocate;
use machvm_capi::calls::entries::mach_make_memory_entry_64;
use machvm_capi::calls::inherit::mach_vm_inherit;
use machvm_capi::calls::map::mach_vm_map;
use machvm_capi::calls::protect::mach_vm_protect;
use machvm_capi::calls::purgable::mach_vm_purgable_control;
use machvm_capi::calls::remap::{mach_vm_remap, mach_vm_remap_new};
use machvm_capi::calls::wire::mach_vm_wire;

use crate::util::*;

/// Pages of Linux's, with a hole behind.
fn pages(n: u64) -> u64 {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let rw = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping, whose last page goes again.
    let p = unsafe {
        let p = libc::mmap(core::ptr::null_mut(), ((n + 1) * P) as usize, rw, flags, -1, 0);
        assert_ne!(p, libc::MAP_FAILED);
        assert_eq!(libc::munmap(p.byte_add((n * P) as usize), P as usize), 0);
        p
    };
    let at = p.expose_provenance() as u64;
    put(at + (n - 1) * P, 2);
    put(at, 1);
    at
}

fn remap(at: u64, size: u64, copy: u32) -> Result<(u64, i32), i32> {
    let (mut to, mut prot, mut max) = (0, 99, 99);
    // SAFETY: variables of ours.
    let r = unsafe {
        let (a, p, m) = (&raw mut to, &raw mut prot, &raw mut max);
        mach_vm_remap(TASK_SELF, a, size, 0, ANYWHERE, TASK_SELF, at, copy, p, m, COPY)
    };
    if r == KERN_SUCCESS { Ok((to, prot)) } else { Err(r) }
}

#[test]
fn u07_u08_outside_memory_can_be_copied_but_not_shared() {
    let at = pages(3);
    // SAFETY: memory of ours.
    let r =
        unsafe { libc::mprotect(core::ptr::with_exposed_provenance_mut(at as usize), 4096, libc::PROT_READ) };
    assert_eq!(r, 0);
    let (copy, prot) = remap(at, 3 * P, 1).unwrap();
    assert_eq!((prot, get(copy), get(copy + 2 * P)), (R, 1, 2), "the least of the rights");
    assert_eq!(mach_vm_protect(TASK_SELF, copy, 3 * P, 0, RW), KERN_SUCCESS);
    put(copy + 2 * P, 3);
    put(at + 2 * P, 4);
    assert_eq!(get(copy + 2 * P), 3);
    free(TASK_SELF, copy, 3);
    assert_eq!(remap(at, 3 * P, 0), Err(KERN_NOT_SUPPORTED));
    assert_eq!(remap(at, 4 * P, 0), Err(KERN_INVALID_ADDRESS), "a hole");
    assert_eq!(remap(at, 4 * P, 1), Err(KERN_INVALID_ADDRESS));
    assert_eq!(remap(at, 0, 1), Err(KERN_INVALID_ARGUMENT));
    // With rights of the caller's, which the memory must have; and into another task.
    let t = task();
    let new = |prot: i32| {
        let (mut to, mut prot, mut max) = (0, prot, prot);
        // SAFETY: variables of ours.
        let r = unsafe {
            let (a, p, m) = (&raw mut to, &raw mut prot, &raw mut max);
            mach_vm_remap_new(t, a, 8, 0, ANYWHERE, TASK_SELF, at + P, 1, p, m, COPY)
        };
        (r, to)
    };
    let (code, to) = new(RW);
    assert_eq!(code, KERN_SUCCESS);
    let here = window_on(t, to, 1);
    assert_eq!(get(here), 0);
    free(TASK_SELF, here, 1);
}

#[test]
fn u09_entries_of_outside_memory_are_copies() {
    let at = pages(2);
    let make = |size: u64, permission| {
        let (mut size, mut name) = (size, 0);
        // SAFETY: variables of ours.
        let r = unsafe {
            mach_make_memory_entry_64(TASK_SELF, &raw mut size, at, permission, &raw mut name, NULL)
        };
        if r == KERN_SUCCESS { Ok((name, size)) } else { Err(r) }
    };
    let (entry, size) = make(2 * P, 0x20_0000 | R).unwrap();
    assert_eq!(size, 2 * P);
    put(at, 5);
    let mut to = 0;
    // SAFETY: a variable of ours.
    let r = unsafe { mach_vm_map(TASK_SELF, &raw mut to, size, 0, ANYWHERE, entry, 0, 0, R, R, COPY) };
    assert_eq!((r, get(to), get(to + P)), (KERN_SUCCESS, 1, 2));
    free(TASK_SELF, to, 2);
    assert_eq!(make(2 * P, R), Err(KERN_NOT_SUPPORTED));
    assert_eq!(make(2 * P, 0x40_0000 | R), Err(KERN_NOT_SUPPORTED));
    assert_eq!(make(3 * P, 0x20_0000 | R), Err(KERN_INVALID_ADDRESS));
}

#[test]
fn u02_u06_outside_memory_is_in_the_way() {
    let at = pages(1);
    let allocate = |at: u64, flags| {
        let mut at = at;
        // SAFETY: a variable of ours.
        unsafe { mach_vm_allocate(TASK_SELF, &raw mut at, P, flags) }
    };
    assert_eq!(allocate(at, FIXED), KERN_NO_SPACE);
    assert_eq!(allocate(at, OVERWRITE), KERN_INVALID_ADDRESS, "it cannot be replaced");
    assert_eq!(allocate(P, FIXED), KERN_INVALID_ADDRESS);
    let mut a = at;
    // SAFETY: a variable of ours.
    let r = unsafe { mach_vm_map(TASK_SELF, &raw mut a, P, 0, FIXED, NULL, 0, 0, RW, ALL, COPY) };
    assert_eq!((r, get(at)), (KERN_NO_SPACE, 1));
}

#[test]
fn u11_u20_u21_u31_attributes_of_outside_memory() {
    let at = pages(2);
    assert_eq!(mach_vm_protect(TASK_SELF, at, 3 * P, 0, R), KERN_INVALID_ADDRESS, "a hole");
    assert_eq!(mach_vm_protect(TASK_SELF, at, P, 0, 8), KERN_INVALID_ARGUMENT);
    assert_eq!(mach_vm_protect(TASK_SELF, at, P, 1, R), KERN_NOT_SUPPORTED, "no maximum");
    assert_eq!(mach_vm_protect(TASK_SELF, at, P, 0, R), KERN_SUCCESS);
    assert_eq!(mach_vm_protect(TASK_SELF, at, P, 0, RW), KERN_SUCCESS);
    put(at, 3);
    assert_eq!(mach_vm_inherit(TASK_SELF, at, P, 9), KERN_INVALID_ARGUMENT);
    assert_eq!(mach_vm_inherit(TASK_SELF, at, P, COPY), KERN_SUCCESS);
    let wire = |size, access| mach_vm_wire(HOST_PRIV, TASK_SELF, at, size, access);
    assert_eq!(wire(P, 8), KERN_INVALID_ARGUMENT);
    assert_eq!(wire(3 * P, R), KERN_INVALID_ADDRESS);
    assert_eq!((wire(P, R), wire(P, NONE)), (KERN_SUCCESS, KERN_SUCCESS));
    let control = |at| {
        let mut state = 0;
        // SAFETY: a variable of ours.
        unsafe { mach_vm_purgable_control(TASK_SELF, at, 1, &raw mut state) }
    };
    assert_eq!((control(at), control(at + 2 * P)), (KERN_INVALID_ARGUMENT, KERN_INVALID_ADDRESS));
    // Another task has no such memory.
    let t = task();
    assert_eq!(mach_vm_protect(t, at, P, 0, R), KERN_INVALID_ADDRESS);
}
