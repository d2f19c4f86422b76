//! `vm_machine_attribute` (U28).

use machvm::task::{AttributeError, AttributeValue, MATTR_CACHE};
use machvm_hal::{Prot, RawAddr, RawSize, Va};

use super::{here, task_of, with};
use crate::kr::{self, Code};
use crate::outside::{self, Part};
use crate::ports::TaskPort;
use crate::types::{kern_return_t, mach_port_t, mach_vm_address_t, mach_vm_size_t, vm_address_t, vm_size_t};

/// What [`machvm::task::Task::vm_machine_attribute`] does, for memory of Linux's: its caches
/// are as coherent.
fn around(start: u64, end: u64, attribute: u32, value: u32) -> Result<AttributeValue, AttributeError> {
    let known = AttributeValue::from_raw(value).filter(|_| attribute == MATTR_CACHE);
    match known {
        Some(AttributeValue::Get | AttributeValue::On) => Ok(AttributeValue::On),
        Some(
            AttributeValue::CacheFlush
            | AttributeValue::DcacheFlush
            | AttributeValue::IcacheFlush
            | AttributeValue::CacheSync,
        ) => match outside::check(start, end, Prot::NONE) {
            Ok(()) => Ok(AttributeValue::On),
            Err(_) => Err(AttributeError::Hole(Va::containing(RawAddr(start)))),
        },
        Some(AttributeValue::Off | AttributeValue::GetInfo) | None => {
            Err(AttributeError::Unsupported(attribute, value))
        }
    }
}

fn attribute(
    port: &TaskPort,
    address: u64,
    size: u64,
    which: u32,
    value: u32,
) -> Result<AttributeValue, kern_return_t> {
    let within = |address, size| {
        with(port, |t, may| t.vm_machine_attribute(RawAddr(address), RawSize(size), which, value, may))
    };
    if !outside::touches(port, address, size) {
        return within(address, size);
    }
    let how = here().1;
    if outside::is_beyond(address + size) {
        return Err(AttributeError::Outside(Va::containing(RawAddr(address))).code(how));
    }
    let mut first = None;
    for part in outside::parts(address, size) {
        let got = match part {
            Part::Inside(address, size) => within(address, size)?,
            Part::Outside(start, end) => around(start, end, which, value).map_err(|e| e.code(how))?,
        };
        first.get_or_insert(got);
    }
    Ok(first.unwrap_or(AttributeValue::On))
}

/// Does something about the caches of a range, or tells of them in `*value` (U28).
///
/// # Safety
/// 1. `value` is null or good for a load and a store.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mach_vm_machine_attribute(
    target: mach_port_t,
    address: mach_vm_address_t,
    size: mach_vm_size_t,
    which: u32,
    value: *mut i32,
) -> kern_return_t {
    if value.is_null() {
        return kr::KERN_INVALID_ARGUMENT;
    }
    // SAFETY: 1.
    let wanted = unsafe { *value }.cast_unsigned();
    let got = task_of(target).and_then(|port| attribute(&port, address, size, which, wanted));
    // SAFETY: 1.
    unsafe { super::give(value, got.map(|v| v as i32)) }
}

/// As [`mach_vm_machine_attribute`].
///
/// # Safety
/// 1. As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vm_machine_attribute(
    target: mach_port_t,
    address: vm_address_t,
    size: vm_size_t,
    which: u32,
    value: *mut i32,
) -> kern_return_t {
    // SAFETY: 1.
    unsafe { mach_vm_machine_attribute(target, address as u64, size as u64, which, value) }
}
