//! `vm_copy` (U16).

use super::{code, here, task_of};
use crate::kr::Code;
use crate::transfer;
use crate::types::{kern_return_t, mach_port_t, mach_vm_address_t, mach_vm_size_t, vm_address_t, vm_size_t};

/// Copies memory of `target` over other memory of it; the ranges may overlap (U16).
#[unsafe(no_mangle)]
pub extern "C" fn mach_vm_copy(
    target: mach_port_t,
    source: mach_vm_address_t,
    size: mach_vm_size_t,
    destination: mach_vm_address_t,
) -> kern_return_t {
    code(
        task_of(target).and_then(|port| {
            transfer::vm_copy(&port, source, size, destination).map_err(|e| e.code(here().1))
        }),
    )
}

/// As [`mach_vm_copy`].
#[unsafe(no_mangle)]
pub extern "C" fn vm_copy(
    target: mach_port_t,
    source: vm_address_t,
    size: vm_size_t,
    destination: vm_address_t,
) -> kern_return_t {
    mach_vm_copy(target, source as u64, size as u64, destination as u64)
}
