//! The memory that kernel and pager share.
//!
//! A memfd, sealed against shrinking, of slots of one cluster each. The kernel's slots
//! come first: slot `n` belongs to the request with index `n`. The rest is the pager's, for
//! what it supplies unasked.
//!
//! This side reads and writes it by system calls, not through a mapping: no other process
//! can then change bytes under a reference, and a page costs one copy either way.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, SealFlags};

use super::wire::CLUSTER;

/// Slots of the kernel: so many requests may be under way.
pub(super) const KERNEL_SLOTS: u64 = 64;
/// Slots of the pager.
pub(super) const PAGER_SLOTS: u64 = 16;
/// All of it.
pub(super) const RING: u64 = (KERNEL_SLOTS + PAGER_SLOTS) * CLUSTER;

/// Shared memory.
#[derive(Debug)]
pub(super) struct Ring {
    file: File,
    /// Bytes.
    size: u64,
    /// Where the pager's part begins.
    pagers: u64,
}

impl Ring {
    /// A new one, with nothing in it.
    pub(super) fn new() -> io::Result<Ring> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = File::from(rustix::fs::memfd_create("machvm-pager", flags)?);
        file.set_len(RING)?;
        // The other side maps it: pages that vanished would be SIGBUS there.
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(Ring { file, size: RING, pagers: KERNEL_SLOTS * CLUSTER })
    }

    /// The one that another process made, of `size` bytes of which those from `pagers` on
    /// are the pager's.
    pub(super) fn shared(fd: OwnedFd, size: u64, pagers: u64) -> io::Result<Ring> {
        let file = File::from(fd);
        let wrong = |what| Err(io::Error::new(io::ErrorKind::InvalidData, what));
        if file.metadata()?.len() < size {
            return wrong("shared memory is smaller than was said");
        }
        if !rustix::fs::fcntl_get_seals(&file)?.contains(SealFlags::SHRINK) {
            return wrong("shared memory may shrink");
        }
        if pagers > size || !size.is_multiple_of(CLUSTER) || !pagers.is_multiple_of(CLUSTER) {
            return wrong("shared memory is no whole number of slots");
        }
        Ok(Ring { file, size, pagers })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
    /// Bytes of it.
    pub(super) fn size(&self) -> u64 {
        self.size
    }
    /// Where the pager's part begins.
    pub(super) fn pagers(&self) -> u64 {
        self.pagers
    }
    /// Does `[place, place + size)` lie in the kernel's part?
    pub(super) fn is_kernels(&self, place: u64, size: u64) -> bool {
        place.checked_add(size).is_some_and(|end| end <= self.pagers)
    }
    /// Does it lie in the pager's?
    pub(super) fn is_pagers(&self, place: u64, size: u64) -> bool {
        place >= self.pagers && place.checked_add(size).is_some_and(|end| end <= self.size)
    }

    pub(super) fn read(&self, place: u64, data: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(data, place)
    }
    pub(super) fn write(&self, place: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, place)
    }
}
