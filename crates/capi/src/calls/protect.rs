//! `vm_protect` (U20).

use machvm::task::RawProt;
use machvm_hal::{RawAddr, RawSize};

use super::{code, task_of, with};
use crate::outside::{self, attributes};
use crate::types::{
    boolean_t, kern_return_t, mach_port_t, mach_vm_address_t, mach_vm_size_t, vm_address_t, vm_prot_t,
    vm_size_t,
};

/// Sets the protection of the pages that a range touches, or with `set_maximum` the most
/// that it may become (U20). A range that leaves the window is done part by part, up to the
/// first that refuses.
#[unsafe(no_mangle)]
pub extern "C" fn mach_vm_protect(
    target: mach_port_t,
    address: mach_vm_address_t,
    size: mach_vm_size_t,
    set_maximum: boolean_t,
    protection: vm_prot_t,
) -> kern_return_t {
    let (prot, max) = (RawProt(protection.cast_unsigned()), set_maximum != 0);
    let protected = || {
        let port = task_of(target)?;
        let inside = |a, n| with(&port, |t, may| t.vm_protect(RawAddr(a), RawSize(n), max, prot, may));
        outside::each(&port, address, size, inside, |start, end| attributes::protect(start, end, max, prot))
    };
    code(protected())
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
