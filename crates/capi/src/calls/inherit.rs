//! `vm_inherit` (U21).

use machvm::task::RawInherit;
use machvm_hal::{RawAddr, RawSize};

use super::{code, task_of, with};
use crate::outside::{self, attributes};
use crate::types::{
    kern_return_t, mach_port_t, mach_vm_address_t, mach_vm_size_t, vm_address_t, vm_inherit_t, vm_size_t,
};

/// Says what children get of the pages that a range touches (U21).
#[unsafe(no_mangle)]
pub extern "C" fn mach_vm_inherit(
    target: mach_port_t,
    address: mach_vm_address_t,
    size: mach_vm_size_t,
    inheritance: vm_inherit_t,
) -> kern_return_t {
    let to = RawInherit(inheritance);
    let done = || {
        let port = task_of(target)?;
        let inside = |a, n| with(&port, |t, may| t.vm_inherit(RawAddr(a), RawSize(n), to, may));
        outside::each(&port, address, size, inside, |start, end| attributes::inherit(start, end, inheritance))
    };
    code(done())
}

/// As [`mach_vm_inherit`].
#[unsafe(no_mangle)]
pub extern "C" fn vm_inherit(
    target: mach_port_t,
    address: vm_address_t,
    size: vm_size_t,
    inheritance: vm_inherit_t,
) -> kern_return_t {
    mach_vm_inherit(target, address as u64, size as u64, inheritance)
}
