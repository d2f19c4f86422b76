//! Pages at an address for a moment.

use core::marker::PhantomData;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::os::fd::AsRawFd;

use machvm_hal::pmap9::QuickPage;
use machvm_hal::{PAGE_SIZE, Pfn, RawAddr, Va};

use crate::phys::LinuxMem;
use crate::sys;

/// Pages that threads may have at once; more threads wait for one another. A thread has
/// one at a time and does not wait for anything while it has it.
const SLOTS: usize = 64;

/// The slots.
pub(super) struct Quick {
    /// The reservation.
    at: u64,
    /// Who has each; 0: nobody. Acquire to take, release to give back.
    owners: [AtomicUsize; SLOTS],
}

/// A page at an address of the process; dropping it takes it away. Not `Send`: it is its
/// thread's.
pub struct LinuxQuick<'a> {
    quick: &'a Quick,
    slot: usize,
    thread: PhantomData<*const ()>,
}

/// What a thread is called while it lives.
fn myself() -> usize {
    thread_local!(static HERE: u8 = const { 0 });
    HERE.with(|here| core::ptr::from_ref(here).addr())
}

impl Quick {
    /// The `errno` when there is no room.
    pub(super) fn new() -> Result<Self, i32> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: not MAP_FIXED.
        let at = unsafe { sys::mmap(0, SLOTS as u64 * PAGE_SIZE, libc::PROT_NONE, flags, -1, 0) }?;
        Ok(Quick { at, owners: [const { AtomicUsize::new(0) }; SLOTS] })
    }

    fn address(&self, slot: usize) -> u64 {
        self.at + slot as u64 * PAGE_SIZE
    }

    /// Waits for a slot, by spinning.
    fn slot(&self, me: usize) -> usize {
        let first = me / 64 % SLOTS;
        loop {
            for i in 0..SLOTS {
                let slot = (first + i) % SLOTS;
                let owner = &self.owners[slot];
                if owner.load(Ordering::Relaxed) == 0
                    && owner.compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed).is_ok()
                {
                    return slot;
                }
            }
            std::thread::yield_now();
        }
    }

    /// # Panics
    /// The thread has one already, or Linux has no memory for a mapping.
    #[track_caller]
    pub(super) fn enter(&self, mem: &LinuxMem, pfn: Pfn) -> LinuxQuick<'_> {
        use std::os::fd::AsFd;
        let me = myself();
        let nested = self.owners.iter().any(|o| o.load(Ordering::Relaxed) == me);
        assert!(!nested, "pmap_quick_enter_page: this thread has a quick page already");
        let page = LinuxQuick { quick: self, slot: self.slot(me), thread: PhantomData };
        let (fd, at) = (mem.fd().as_fd().as_raw_fd(), self.address(page.slot));
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_FIXED);
        // SAFETY: a slot of our reservation that is this thread's now.
        let done = unsafe { sys::mmap(at, PAGE_SIZE, prot, flags | libc::MAP_POPULATE, fd, pfn.byte()) };
        assert!(done.is_ok(), "pmap_quick_enter_page of {pfn:?}: errno {done:?}");
        page
    }
}

impl QuickPage for LinuxQuick<'_> {
    fn va(&self) -> Va {
        Va::containing(RawAddr(self.quick.address(self.slot)))
    }
}

impl Drop for LinuxQuick<'_> {
    fn drop(&mut self) {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
        // SAFETY: this thread's slot, which nobody uses any more. It fails only when one
        // mapping cannot take the place of another; the next user's can then.
        let _ = unsafe { sys::mmap(self.quick.address(self.slot), PAGE_SIZE, libc::PROT_NONE, flags, -1, 0) };
        self.quick.owners[self.slot].store(0, Ordering::Release);
    }
}

impl Drop for Quick {
    fn drop(&mut self) {
        // SAFETY: our reservation; every quick page borrowed it.
        let _ = unsafe { sys::munmap(self.at, SLOTS as u64 * PAGE_SIZE) };
    }
}
