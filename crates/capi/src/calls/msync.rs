//! `vm_msync` (U29).

use machvm::task::{MsyncError, SyncFlags};
use machvm_hal::{RawAddr, RawSize};

use super::{code, here, task_of, with};
use crate::kr::Code;
use crate::outside::{self, Part, advice};
use crate::ports::TaskPort;
use crate::types::{
    kern_return_t, mach_port_t, mach_vm_address_t, mach_vm_size_t, vm_address_t, vm_size_t, vm_sync_t,
};

fn msync(port: &TaskPort, address: u64, size: u64, flags: u32) -> Result<(), kern_return_t> {
    let within = |address, size| with(port, |t, may| t.vm_msync(RawAddr(address), RawSize(size), flags, may));
    if !outside::touches(port, address, size) {
        return within(address, size);
    }
    within(address, 0)?; // are they flags?
    let how = here().1;
    let known = SyncFlags::from_bits(flags).filter(|_| how.msync == machvm::task::Msync::Full);
    let known = known.ok_or_else(|| MsyncError::NotSupported.code(how))?;
    // A hole in one part does not keep the others from being written.
    let mut result = Ok(());
    for part in outside::parts(address, size) {
        result = result.and(match part {
            Part::Inside(address, size) => within(address, size),
            Part::Outside(start, end) => advice::msync(start, end, known),
        });
    }
    result
}

/// Writes modified pages, forgets them, or sets them aside, as `flags` says (U29).
#[unsafe(no_mangle)]
pub extern "C" fn mach_vm_msync(
    target: mach_port_t,
    address: mach_vm_address_t,
    size: mach_vm_size_t,
    flags: vm_sync_t,
) -> kern_return_t {
    code(task_of(target).and_then(|port| msync(&port, address, size, flags)))
}

/// As [`mach_vm_msync`].
#[unsafe(no_mangle)]
pub extern "C" fn vm_msync(
    target: mach_port_t,
    address: vm_address_t,
    size: vm_size_t,
    flags: vm_sync_t,
) -> kern_return_t {
    mach_vm_msync(target, address as u64, size as u64, flags)
}
