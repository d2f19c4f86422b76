//! `vm_pages_phys` (U19).

use machvm_hal::{PAGE_SIZE, Pfn, RawAddr, RawSize};

use super::allocate::{mach_vm_allocate, mach_vm_deallocate};
use super::host::host_of;
use super::{code, task_in_body, with};
use crate::kr;
use crate::ports::TASK_SELF;
use crate::types::{kern_return_t, mach_msg_type_number_t, mach_port_t, vm_address_t, vm_size_t};

/// Pages that are asked about at once.
const CHUNK: u64 = 1024;

/// Tells the physical address of each page of a range, all ones where none is in memory or
/// where the memory is not the VM's (U19). What `*pages` has no room for (`*count` says how
/// many there is room for) goes into fresh memory, which the caller frees, and `*pages`
/// points to it.
///
/// # Safety
/// 1. `pages` and `count` are null or good for a load and a store; `*pages` is good for
///    storing `*count` addresses.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vm_pages_phys(
    host: mach_port_t,
    target: mach_port_t,
    address: vm_address_t,
    size: vm_size_t,
    pages: *mut *mut u64,
    count: *mut mach_msg_type_number_t,
) -> kern_return_t {
    if pages.is_null() || count.is_null() {
        return kr::KERN_INVALID_ARGUMENT;
    }
    let (address, size) = (address as u64, size as u64);
    let told = || {
        host_of(host)?;
        let port = task_in_body(target, kr::KERN_INVALID_TASK)?;
        // The numbers are judged before memory is taken for the answer.
        let none = &mut [];
        with(&port, |t, may| t.vm_pages_phys(RawAddr(address), RawSize(size), none, may))?;
        let n = u32::try_from(size / PAGE_SIZE).map_err(|_| kr::KERN_RESOURCE_SHORTAGE)?;
        // SAFETY: 1.
        let (mut to, room) = unsafe { (*pages, *count) };
        let mut fresh = 0u64;
        if room < n {
            // SAFETY: a good address.
            match unsafe { mach_vm_allocate(TASK_SELF, &raw mut fresh, u64::from(n) * 8, 1) } {
                kr::KERN_SUCCESS => to = core::ptr::with_exposed_provenance_mut(fresh as usize),
                e => return Err(e),
            }
        }
        let mut done = 0;
        while done < u64::from(n) {
            let now = (u64::from(n) - done).min(CHUNK);
            let mut frames: [Option<Pfn>; CHUNK as usize] = [None; CHUNK as usize];
            let frames = &mut frames[..now as usize];
            let at = RawAddr(address + done * PAGE_SIZE);
            let got = with(&port, |t, may| t.vm_pages_phys(at, RawSize(now * PAGE_SIZE), frames, may));
            if let Err(e) = got {
                if room < n {
                    mach_vm_deallocate(TASK_SELF, fresh, u64::from(n) * 8);
                }
                return Err(e);
            }
            for (i, frame) in frames.iter().enumerate() {
                // SAFETY: 1, or fresh memory: `n` addresses fit.
                unsafe { to.add(done as usize + i).write(frame.map_or(u64::MAX, Pfn::byte)) };
            }
            done += now;
        }
        Ok((to, n))
    };
    code(told().map(|(to, n)| {
        // SAFETY: 1.
        unsafe {
            pages.write(to);
            count.write(n);
        }
    }))
}
