//! Devices: disks on the PCI bus that speak virtio.

mod block;
mod pci;
mod virtio;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicPtr, Ordering};

pub(crate) use block::{BUFFER, Disk};

/// The disks that were found, for ever; `None`: nobody looked yet.
static DISKS: AtomicPtr<Vec<Disk>> = AtomicPtr::new(core::ptr::null_mut());

/// The disks: the first is /dev/vda.
pub(crate) fn disks() -> &'static [Disk] {
    // SAFETY: null, or leaked by `start`.
    unsafe { DISKS.load(Ordering::Acquire).as_ref() }.map_or(&[], |d| d)
}

/// The disk of that path.
pub(crate) fn disk(path: &str) -> Option<&'static Disk> {
    disks().iter().find(|d| path.strip_prefix("/dev/") == Some(d.name()))
}

/// Looks for disks. => once, before the first program.
pub(crate) fn start() {
    let mut found = Vec::new();
    for f in pci::functions() {
        if !f.is_virtio_block() {
            continue;
        }
        match Disk::new(f, found.len()) {
            Ok(d) => found.push(d),
            Err(why) => crate::say!("machvm: disk at PCI function {:#x}: {why}", f.number()),
        }
    }
    DISKS.store(Box::leak(Box::new(found)), Ordering::Release);
}

/// From here on who waits for a disk sleeps. => threads run.
pub(crate) fn may_sleep() {
    block::may_sleep();
}

/// A device has something to say. => interrupts are off.
#[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "the ports find no devices"))]
pub(crate) fn interrupt() {
    disks().iter().for_each(Disk::reap);
}
