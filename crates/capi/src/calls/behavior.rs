//! `vm_behavior_set` (U30).

use machvm::task::{Behavior, BehaviorError};
use machvm_hal::{RawAddr, RawSize, Va};

use super::{code, here, task_of, with};
use crate::kr::Code;
use crate::outside::{self, advice};
use crate::ports::TaskPort;
use crate::types::{
    kern_return_t, mach_port_t, mach_vm_address_t, mach_vm_size_t, vm_address_t, vm_behavior_t, vm_size_t,
};

fn set(port: &TaskPort, address: u64, size: u64, behavior: u32) -> Result<(), kern_return_t> {
    let within = |address, size| {
        with(port, |t, may| t.vm_behavior_set(RawAddr(address), RawSize(size), behavior, may))
    };
    if !outside::touches(port, address, size) {
        return within(address, size);
    }
    let how = here().1;
    let which = Behavior::from_raw(behavior).ok_or(BehaviorError::BadBehavior(behavior));
    let which = which.map_err(|e| e.code(how))?;
    if outside::is_beyond(address + size) {
        return Err(BehaviorError::Outside(Va::containing(RawAddr(address))).code(how));
    }
    outside::each(port, address, size, within, |start, end| advice::behavior(start, end, which))
}

/// Says how memory will be used, or acts on its contents (U30).
#[unsafe(no_mangle)]
pub extern "C" fn mach_vm_behavior_set(
    target: mach_port_t,
    address: mach_vm_address_t,
    size: mach_vm_size_t,
    behavior: vm_behavior_t,
) -> kern_return_t {
    code(task_of(target).and_then(|port| set(&port, address, size, behavior.cast_unsigned())))
}

/// As [`mach_vm_behavior_set`].
#[unsafe(no_mangle)]
pub extern "C" fn vm_behavior_set(
    target: mach_port_t,
    address: vm_address_t,
    size: vm_size_t,
    behavior: vm_behavior_t,
) -> kern_return_t {
    mach_vm_behavior_set(target, address as u64, size as u64, behavior)
}
