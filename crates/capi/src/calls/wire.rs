//! `vm_wire`, `vm_wire_all` (U11, U12).

use machvm_hal::{Prot, RawAddr, RawSize};

use super::host::{Privilege, host_of};
use super::{code, task_in_body, with};
use crate::kr;
use crate::outside::{self, attributes};
use crate::types::{
    kern_return_t, mach_port_t, mach_vm_address_t, mach_vm_size_t, vm_address_t, vm_prot_t, vm_size_t,
    vm_wire_t,
};

/// Brings the pages that a range touches into memory and keeps them there, or without an
/// access lets them go (U11). `host` is the privileged port, where the personality has no
/// limit for those without.
#[unsafe(no_mangle)]
pub extern "C" fn mach_vm_wire(
    host: mach_port_t,
    task: mach_port_t,
    address: mach_vm_address_t,
    size: mach_vm_size_t,
    access: vm_prot_t,
) -> kern_return_t {
    let wired = || {
        let privileged = host_of(host)?;
        if privileged == Privilege::None && !Privilege::is_graded() {
            return Err(kr::KERN_INVALID_HOST);
        }
        let task = task_in_body(task, kr::KERN_INVALID_TASK)?;
        let rights = u8::try_from(access).ok().and_then(Prot::from_bits);
        let rights = rights.ok_or(kr::KERN_INVALID_ARGUMENT)?;
        let full = privileged == Privilege::Full;
        let inside = |a, n| with(&task, |t, may| t.vm_wire(RawAddr(a), RawSize(n), rights.into(), full, may));
        outside::each(&task, address, size, inside, |start, end| attributes::wire(start, end, rights))
    };
    code(wired())
}

/// As [`mach_vm_wire`].
#[unsafe(no_mangle)]
pub extern "C" fn vm_wire(
    host: mach_port_t,
    task: mach_port_t,
    address: vm_address_t,
    size: vm_size_t,
    access: vm_prot_t,
) -> kern_return_t {
    mach_vm_wire(host, task, address as u64, size as u64, access)
}

/// Wires what is mapped, what will be mapped, or lets everything go (U12): what the VM
/// manages. What lies outside the window of this process's task stays as it is.
#[unsafe(no_mangle)]
pub extern "C" fn vm_wire_all(host: mach_port_t, task: mach_port_t, flags: vm_wire_t) -> kern_return_t {
    let wired = || {
        if host_of(host)? != Privilege::Full {
            return Err(kr::KERN_INVALID_HOST);
        }
        let task = task_in_body(task, kr::KERN_INVALID_TASK)?;
        with(&task, |t, may| t.vm_wire_all(flags.cast_unsigned(), may))
    };
    code(wired())
}
