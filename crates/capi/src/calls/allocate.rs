//! `vm_allocate`, `vm_deallocate` (U01, U02, U04).

use machvm::task::RawFlags;
use machvm_hal::{RawAddr, RawSize};

use super::{code, task_of, with};
use crate::kr;
use crate::outside::{self, attributes};
use crate::types::{kern_return_t, mach_port_t, mach_vm_address_t, mach_vm_size_t, vm_address_t, vm_size_t};

/// Maps zeroes in `target` (U02).
///
/// # Safety
/// 1. `address` is null or good for reading and writing one address.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mach_vm_allocate(
    target: mach_port_t,
    address: *mut mach_vm_address_t,
    size: mach_vm_size_t,
    flags: i32,
) -> kern_return_t {
    // SAFETY: 1.
    let Some(address) = (unsafe { address.as_mut() }) else { return kr::KERN_INVALID_ARGUMENT };
    let (at, flags) = (RawAddr(*address), RawFlags(flags.cast_unsigned()));
    let allocated = || {
        let port = task_of(target)?;
        let got = with(&port, |t, may| t.vm_allocate(at, RawSize(size), flags, may));
        got.map_err(|e| outside::taken(&port, at.0, size, flags, e))
    };
    code(allocated().map(|got| *address = got))
}

/// As [`mach_vm_allocate`] (U01).
///
/// # Safety
/// 1. As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vm_allocate(
    target: mach_port_t,
    address: *mut vm_address_t,
    size: vm_size_t,
    flags: i32,
) -> kern_return_t {
    // SAFETY: 1; the types are equally wide.
    unsafe { mach_vm_allocate(target, address.cast(), size as u64, flags) }
}

/// Unmaps the pages that the range touches (U04). A program that unmaps its own text or
/// stack ends of it, with a signal.
#[unsafe(no_mangle)]
pub extern "C" fn mach_vm_deallocate(
    target: mach_port_t,
    address: mach_vm_address_t,
    size: mach_vm_size_t,
) -> kern_return_t {
    code(deallocate(target, address, size))
}

fn deallocate(target: mach_port_t, address: u64, size: u64) -> Result<(), kern_return_t> {
    let port = task_of(target)?;
    if outside::touches(&port, address, size) && attributes::is_vital(address, address + size) {
        attributes::end(); // of what the program runs on
    }
    let inside = |a, n| with(&port, |t, may| t.vm_deallocate(RawAddr(a), RawSize(n), may));
    outside::each(&port, address, size, inside, attributes::deallocate)
}

/// As [`mach_vm_deallocate`].
#[unsafe(no_mangle)]
pub extern "C" fn vm_deallocate(
    target: mach_port_t,
    address: vm_address_t,
    size: vm_size_t,
) -> kern_return_t {
    mach_vm_deallocate(target, address as u64, size as u64)
}
