//! `vm_purgable_control`, `mach_memory_entry_purgable_control` (U31).

use machvm::task::{PurgableControl, PurgableState};
use machvm_hal::RawAddr;

use super::{destination, give, here, task_of, with};
use crate::kr::{self, Code};
use crate::outside;
use crate::ports::Right;
use crate::types::{kern_return_t, mach_port_t, mach_vm_address_t, vm_address_t, vm_purgable_t};

/// Sets or tells whether the contents of the object at `address` may be lost; `state` is
/// the new state, and gets the old one (U31).
///
/// # Safety
/// 1. `state` is null or good for reading and writing one number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mach_vm_purgable_control(
    target: mach_port_t,
    address: mach_vm_address_t,
    control: vm_purgable_t,
    state: *mut i32,
) -> kern_return_t {
    if state.is_null() {
        return kr::KERN_INVALID_ARGUMENT;
    }
    // SAFETY: 1.
    let to = PurgableState(unsafe { state.read() }.cast_unsigned());
    let control = control.cast_unsigned();
    let done = || {
        let port = task_of(target)?;
        let old = with(&port, |t, may| t.vm_purgable_control(RawAddr(address), control, to, may));
        match old {
            // Linux's memory is mapped, but nothing that could be purgeable.
            Err(kr::KERN_INVALID_ADDRESS) if outside::is_mapped(&port, address, 1) => {
                Err(kr::KERN_INVALID_ARGUMENT)
            }
            old => old.map(|s| s.0.cast_signed()),
        }
    };
    // SAFETY: 1.
    unsafe { give(state, done()) }
}

/// As [`mach_vm_purgable_control`].
///
/// # Safety
/// 1. As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vm_purgable_control(
    target: mach_port_t,
    address: vm_address_t,
    control: vm_purgable_t,
    state: *mut i32,
) -> kern_return_t {
    // SAFETY: 1.
    unsafe { mach_vm_purgable_control(target, address as u64, control, state) }
}

/// As [`mach_vm_purgable_control`], of the memory behind an entry. Emptying everything is
/// no operation on one.
///
/// # Safety
/// 1. `state` is null or good for reading and writing one number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mach_memory_entry_purgable_control(
    entry: mach_port_t,
    control: vm_purgable_t,
    state: *mut i32,
) -> kern_return_t {
    if state.is_null() {
        return kr::KERN_INVALID_ARGUMENT;
    }
    // SAFETY: 1.
    let to = PurgableState(unsafe { state.read() }.cast_unsigned());
    let done = || {
        let Right::Entry(entry) = destination(entry)? else { return Err(kr::KERN_INVALID_ARGUMENT) };
        let set = match control {
            c if c == PurgableControl::SetState as i32 => Some(to),
            c if c == PurgableControl::GetState as i32 => None,
            _ => return Err(kr::KERN_INVALID_ARGUMENT),
        };
        let (world, how) = here();
        let mut inside = world.inside().ok_or(kr::KERN_FAILURE)?;
        let old = entry.get().purgable_control(set, inside.may()).map_err(|e| e.code(how))?;
        Ok(old.0.cast_signed())
    };
    // SAFETY: 1.
    unsafe { give(state, done()) }
}
