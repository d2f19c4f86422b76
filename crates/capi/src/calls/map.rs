//! `vm_map` and its wider twins (U05, U06).

use machvm::task::{MapSource, RawFlags, RawInherit, RawProt, Task};
use machvm_hal::{MaySleep, RawAddr, RawSize};

use super::{give, in_body, task_of, with};
use crate::kr;
use crate::outside;
use crate::ports::Right;
use crate::types::{
    boolean_t, kern_return_t, mach_port_t, mach_vm_address_t, mach_vm_size_t, memory_object_offset_t,
    vm_address_t, vm_inherit_t, vm_prot_t, vm_size_t,
};

/// Maps the memory of an entry, or with no port zeroes, in `target` (U06).
///
/// # Safety
/// 1. `address` is null or good for reading and writing one address.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mach_vm_map(
    target: mach_port_t,
    address: *mut mach_vm_address_t,
    size: mach_vm_size_t,
    mask: mach_vm_address_t,
    flags: i32,
    object: mach_port_t,
    offset: memory_object_offset_t,
    copy: boolean_t,
    protection: vm_prot_t,
    max_protection: vm_prot_t,
    inheritance: vm_inherit_t,
) -> kern_return_t {
    if address.is_null() {
        return kr::KERN_INVALID_ARGUMENT;
    }
    // SAFETY: 1.
    let at = RawAddr(unsafe { address.read() });
    let rights = (
        RawProt(protection.cast_unsigned()),
        RawProt(max_protection.cast_unsigned()),
        RawInherit(inheritance),
    );
    let mapped = || {
        let (port, object) = (task_of(target)?, in_body(object)?);
        let source = match &object {
            None => MapSource::Zero,
            Some(Right::Entry(entry)) => MapSource::Entry(entry.get(), offset),
            Some(_) => MapSource::NoMemory,
        };
        let flags = RawFlags(flags.cast_unsigned());
        let at = outside::hint(at, flags);
        let map = |t: &Task<'_, '_, _>, may: &mut MaySleep| {
            t.vm_map(at, RawSize(size), mask, flags, &source, copy != 0, rights, may)
        };
        with(&port, map).map_err(|e| outside::taken(&port, at.0, size, flags, e))
    };
    // SAFETY: 1.
    unsafe { give(address, mapped()) }
}

/// As [`mach_vm_map`] (U05).
///
/// # Safety
/// 1. As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vm_map(
    target: mach_port_t,
    address: *mut vm_address_t,
    size: vm_size_t,
    mask: vm_address_t,
    flags: i32,
    object: mach_port_t,
    offset: vm_address_t,
    copy: boolean_t,
    protection: vm_prot_t,
    max_protection: vm_prot_t,
    inheritance: vm_inherit_t,
) -> kern_return_t {
    let (address, size, mask, offset) = (address.cast(), size as u64, mask as u64, offset as u64);
    let (prot, max, inherit) = (protection, max_protection, inheritance);
    // SAFETY: 1; the types are equally wide.
    unsafe { mach_vm_map(target, address, size, mask, flags, object, offset, copy, prot, max, inherit) }
}

/// As [`mach_vm_map`] (U06).
///
/// # Safety
/// 1. As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vm_map_64(
    target: mach_port_t,
    address: *mut vm_address_t,
    size: vm_size_t,
    mask: vm_address_t,
    flags: i32,
    object: mach_port_t,
    offset: memory_object_offset_t,
    copy: boolean_t,
    protection: vm_prot_t,
    max_protection: vm_prot_t,
    inheritance: vm_inherit_t,
) -> kern_return_t {
    let (address, size, mask) = (address.cast(), size as u64, mask as u64);
    let (prot, max, inherit) = (protection, max_protection, inheritance);
    // SAFETY: 1; the types are equally wide.
    unsafe { mach_vm_map(target, address, size, mask, flags, object, offset, copy, prot, max, inherit) }
}
