//! `vm_protect` (U20).

use machvm::task::RawProt;
use machvm_hal::{RawAddr, RawSize};

use super::{code, with_task};
use crate::types::{
    boolean_t, kern_return_t, mach_port_t, mach_vm_address_t, mach_vm_size_t, vm_address_t, vm_prot_t,
    vm_size_t,
};

/// Sets the protection of the pages that a range touches, or with `set_maximum` the most
/// that it may become (U20).
#[unsafe(no_mangle)]
pub extern "C" fn mach_vm_protect(
    target: mach_port_t,
    address: mach_vm_address_t,
    size: mach_vm_size_t,
    set_maximum: boolean_t,
    protection: vm_prot_t,
) -> kern_return_t {
    let (prot, max) = (RawProt(protection.cast_unsigned()), set_maximum != 0);
    code(with_task(target, |t, may| t.vm_protect(RawAddr(address), RawSize(size), max, prot, may)))
}

/// As [`mach_vm_protect`].
#[unsafe(no_mangle)]
pub extern "C" fn vm_protect(
    target: mach_port_t,
    address: vm_address_t,
    size: vm_size_t,
    set_maximum: boolean_t,
    protection: vm_prot_t,
) -> kern_return_t {
    mach_vm_protect(target, address as u64, size as u64, set_maximum, protection)
}
