//! `vm_write` (U15).

use super::{code, here, task_of};
use crate::kr::Code;
use crate::transfer;
use crate::types::{kern_return_t, mach_msg_type_number_t, mach_port_t, mach_vm_address_t, vm_address_t};

/// Overwrites memory of `target` with bytes of the caller's, wherever those are (U15). Bytes
/// that cannot be read are `MACH_SEND_INVALID_MEMORY`: on Mach they travel in a message.
#[unsafe(no_mangle)]
pub extern "C" fn mach_vm_write(
    target: mach_port_t,
    address: mach_vm_address_t,
    data: vm_address_t,
    data_count: mach_msg_type_number_t,
) -> kern_return_t {
    code(task_of(target).and_then(|port| {
        let done = transfer::vm_write(&port, address, data as u64, u64::from(data_count));
        done.map_err(|e| e.code(here().1))
    }))
}

/// As [`mach_vm_write`].
#[unsafe(no_mangle)]
pub extern "C" fn vm_write(
    target: mach_port_t,
    address: vm_address_t,
    data: vm_address_t,
    data_count: mach_msg_type_number_t,
) -> kern_return_t {
    mach_vm_write(target, address as u64, data, data_count)
}
