//! `vm_read`, `vm_read_overwrite`, `vm_read_list` (U14, U17, U18).

use super::{code, here, task_of};
use crate::kr::{self, Code};
use crate::transfer;
use crate::types::{
    kern_return_t, mach_msg_type_number_t, mach_port_t, mach_vm_address_t, mach_vm_size_t, natural_t,
    vm_address_t, vm_size_t,
};

/// `VM_MAP_ENTRY_MAX`.
const LIST_MAX: natural_t = 256;

/// Maps a snapshot of memory of `target` into the caller's task; the caller frees it (U14).
///
/// # Safety
/// 1. `data` and `data_count` are null or good for a store of their type.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mach_vm_read(
    target: mach_port_t,
    address: mach_vm_address_t,
    size: mach_vm_size_t,
    data: *mut vm_address_t,
    data_count: *mut mach_msg_type_number_t,
) -> kern_return_t {
    if data.is_null() || data_count.is_null() {
        return kr::KERN_INVALID_ARGUMENT;
    }
    code(read(target, address, size).map(|got| {
        // SAFETY: 1. The size fits, or nothing would have been read.
        unsafe {
            data.write(got as vm_address_t);
            data_count.write(size as mach_msg_type_number_t);
        }
    }))
}

fn read(target: mach_port_t, address: u64, size: u64) -> Result<u64, kern_return_t> {
    transfer::vm_read(&*task_of(target)?, address, size).map_err(|e| e.code(here().1))
}

/// As [`mach_vm_read`].
///
/// # Safety
/// 1. As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vm_read(
    target: mach_port_t,
    address: vm_address_t,
    size: vm_size_t,
    data: *mut vm_address_t,
    data_count: *mut mach_msg_type_number_t,
) -> kern_return_t {
    // SAFETY: 1.
    unsafe { mach_vm_read(target, address as u64, size as u64, data, data_count) }
}

/// Reads memory of `target` into memory that the caller has, wherever that is (U17).
///
/// # Safety
/// 1. `out_size` is null or good for a store.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mach_vm_read_overwrite(
    target: mach_port_t,
    address: mach_vm_address_t,
    size: mach_vm_size_t,
    data: mach_vm_address_t,
    out_size: *mut mach_vm_size_t,
) -> kern_return_t {
    if out_size.is_null() {
        return kr::KERN_INVALID_ARGUMENT;
    }
    let done = task_of(target).and_then(|port| {
        let done = transfer::vm_read_overwrite(&port, address, size, data);
        done.map_err(|e| e.code(here().1))
    });
    // SAFETY: 1.
    code(done.map(|n| unsafe { out_size.write(n) }))
}

/// As [`mach_vm_read_overwrite`].
///
/// # Safety
/// 1. As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vm_read_overwrite(
    target: mach_port_t,
    address: vm_address_t,
    size: vm_size_t,
    data: vm_address_t,
    out_size: *mut vm_size_t,
) -> kern_return_t {
    // SAFETY: 1; the types are equally wide.
    unsafe { mach_vm_read_overwrite(target, address as u64, size as u64, data as u64, out_size.cast()) }
}

/// `struct mach_vm_read_entry`, `struct vm_read_entry`.
#[repr(C, packed(4))]
#[derive(Clone, Copy, Debug)]
pub struct mach_vm_read_entry {
    /// In: where to read; out: where it was mapped.
    pub address: u64,
    /// Bytes.
    pub size: u64,
}

/// [`mach_vm_read`] of each range in turn, up to the first that fails; that one and those
/// behind it become 0, 0 (U18).
///
/// # Safety
/// 1. `list` is null or `count` entries that may be read and written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mach_vm_read_list(
    target: mach_port_t,
    list: *mut mach_vm_read_entry,
    count: natural_t,
) -> kern_return_t {
    if (list.is_null() && count != 0) || count > LIST_MAX {
        return kr::KERN_INVALID_ARGUMENT;
    }
    let mut result = task_of(target).map(drop);
    if result.is_err() {
        return code(result);
    }
    for i in 0..count as usize {
        // SAFETY: 1. An entry need not be aligned to more than an int.
        let entry = unsafe { &mut *list.add(i) };
        let (address, size) = (entry.address, entry.size);
        let got = result.and_then(|()| read(target, address, size));
        (entry.address, entry.size) = got.map_or((0, 0), |at| (at, size));
        result = got.map(drop);
    }
    code(result)
}

/// As [`mach_vm_read_list`].
///
/// # Safety
/// 1. As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vm_read_list(
    target: mach_port_t,
    list: *mut mach_vm_read_entry,
    count: natural_t,
) -> kern_return_t {
    // SAFETY: 1; the entries are equally wide.
    unsafe { mach_vm_read_list(target, list, count) }
}
