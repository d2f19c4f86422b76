//! How the pages of a fork get from the parent to the child: two slots of 1 MiB that
//! both map, filled and emptied in turn. Neither needs rights over the other, and
//! the child needs no descriptor of the VM's file.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::super::ptrace::last_errno;
use super::super::space::Errno;

/// Pages in a slot.
const PAGES: usize = 256;
/// How long either side sleeps before it looks whether the other is alive.
const PATIENCE: libc::timespec = libc::timespec { tv_sec: 0, tv_nsec: 100_000_000 };

const EMPTY: u32 = 0;
const FULL: u32 = 1;
/// Nothing comes any more.
const END: u32 = 2;

#[repr(C)]
struct Slot {
    /// Who may touch the rest: [`EMPTY`] the parent, else the child. A futex.
    state: AtomicU32,
    len: AtomicU32,
    addrs: [AtomicU64; PAGES],
    pages: UnsafeCell<[[u8; 4096]; PAGES]>,
}

#[repr(C)]
struct Shared {
    slots: [Slot; 2],
    /// The child has everything (1), or failed (negative errno). A futex.
    outcome: AtomicU32,
}

/// The buffer, as mapped by both.
#[derive(Debug)]
pub(super) struct Buffer {
    at: *mut Shared,
}

// SAFETY: the memory is shared with another process anyway: all access goes through
// atomics, or to pages in the slot that `state` gives to one side.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: new() mapped it; the child has its own mapping.
        unsafe { libc::munmap(self.at.cast(), size_of::<Shared>()) };
    }
}

impl Buffer {
    pub(super) fn new() -> Result<Self, Errno> {
        let rw = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping, wherever the kernel likes.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), size_of::<Shared>(), rw, flags, -1, 0) };
        if at == libc::MAP_FAILED { Err(last_errno()) } else { Ok(Self { at: at.cast() }) }
    }

    fn shared(&self) -> &Shared {
        // SAFETY: mapped, page-aligned, and all zeros is a valid Shared; unmapped only
        // by drop.
        unsafe { &*self.at }
    }

    /// The parent's end. `pid` is the child.
    pub(super) fn sender(&self, pid: i32) -> Sender<'_> {
        Sender { shared: self.shared(), pid, slot: 0, len: 0, open: false }
    }

    /// In the child: takes every page and puts it where `place` says, until the parent
    /// has no more. Uses no heap and no lock.
    ///
    /// => the parent is `parent`; should it die, the child does.
    pub(super) fn receive(&self, parent: i32, mut place: impl FnMut(u64, &[u8; 4096])) {
        let shared = self.shared();
        for slot in shared.slots.iter().cycle() {
            while slot.state.load(Ordering::Acquire) == EMPTY {
                // SAFETY: no argument; then the end of a child nobody waits for.
                unsafe {
                    if libc::getppid() != parent {
                        libc::_exit(128 + libc::SIGKILL);
                    }
                }
                wait(&slot.state, EMPTY);
            }
            // SAFETY: not EMPTY, so the parent leaves the pages alone.
            let pages = unsafe { &*slot.pages.get() };
            for (addr, page) in slot.addrs.iter().zip(pages).take(slot.len.load(Ordering::Relaxed) as usize) {
                place(addr.load(Ordering::Relaxed), page);
            }
            if slot.state.load(Ordering::Relaxed) == END {
                return;
            }
            slot.state.store(EMPTY, Ordering::Release);
            wake(&slot.state);
        }
    }

    /// In the child: tells the parent how it went.
    pub(super) fn tell(&self, outcome: Result<(), Errno>) {
        let word = match outcome {
            Ok(()) => 1,
            Err(Errno(errno)) => -errno as u32,
        };
        self.shared().outcome.store(word, Ordering::Release);
        wake(&self.shared().outcome);
    }
}

/// The parent's end of a [`Buffer`].
pub(super) struct Sender<'a> {
    shared: &'a Shared,
    pid: i32,
    slot: usize,
    len: usize,
    /// The slot is known to be ours.
    open: bool,
}

impl Sender<'_> {
    /// Sends the page at `addr` if `fill` fills it.
    pub(super) fn page(
        &mut self,
        addr: u64,
        fill: impl FnOnce(&mut [u8; 4096]) -> bool,
    ) -> Result<(), Errno> {
        self.open()?;
        let slot = &self.shared.slots[self.slot];
        // SAFETY: the slot is EMPTY, so the child leaves its pages alone; this is the
        // only reference to them in this process.
        let page = unsafe { &mut (&mut *slot.pages.get())[self.len] };
        if fill(page) {
            slot.addrs[self.len].store(addr, Ordering::Relaxed);
            self.len += 1;
            if self.len == PAGES {
                self.close(FULL);
            }
        }
        Ok(())
    }

    /// Sends what is left, and waits until the child has put everything in its place.
    pub(super) fn finish(mut self) -> Result<(), Errno> {
        self.open()?;
        self.close(END);
        loop {
            match self.shared.outcome.load(Ordering::Acquire) {
                0 => self.wait_for_child(&self.shared.outcome, 0)?,
                1 => return Ok(()),
                failed => return Err(Errno(-(failed as i32))),
            }
        }
    }

    /// Waits until the current slot is empty.
    fn open(&mut self) -> Result<(), Errno> {
        while !self.open {
            let failed = self.shared.outcome.load(Ordering::Acquire);
            if failed != 0 {
                return Err(Errno(-(failed as i32)));
            }
            let state = &self.shared.slots[self.slot].state;
            match state.load(Ordering::Acquire) {
                EMPTY => self.open = true,
                full => self.wait_for_child(state, full)?,
            }
        }
        Ok(())
    }

    fn close(&mut self, as_state: u32) {
        let slot = &self.shared.slots[self.slot];
        slot.len.store(self.len as u32, Ordering::Relaxed);
        slot.state.store(as_state, Ordering::Release);
        wake(&slot.state);
        self.slot ^= 1;
        self.len = 0;
        self.open = false;
    }

    fn wait_for_child(&self, word: &AtomicU32, value: u32) -> Result<(), Errno> {
        wait(word, value);
        // SAFETY: info is a place for a siginfo; WNOWAIT leaves the child to the
        // program.
        unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let how = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
            libc::waitid(libc::P_PID, self.pid as u32, &raw mut info, how);
            if info.si_pid() != 0 && word.load(Ordering::Acquire) == value {
                return Err(Errno(libc::EAGAIN));
            }
        }
        Ok(())
    }
}

/// Sleeps while `word` is `value`, not for ever. The futex is shared between
/// processes.
fn wait(word: &AtomicU32, value: u32) {
    let patience = PATIENCE;
    // SAFETY: the word is mapped; the time-out lives through the call.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, value, &raw const patience) };
}

fn wake(word: &AtomicU32) {
    // SAFETY: the word is mapped.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1) };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fork(child: impl FnOnce()) -> i32 {
        // SAFETY: the child runs only `child`, which takes no lock, and exits.
        match unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) } {
            0 => {
                child();
                // SAFETY: ends the child.
                unsafe { libc::_exit(0) }
            }
            pid => pid as i32,
        }
    }

    fn reap(pid: i32) {
        // SAFETY: no status is asked for.
        unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
    }

    #[test]
    fn every_page_arrives_once_and_in_order_over_many_slots() {
        const COUNT: u64 = 3 * PAGES as u64 + 7;
        let buffer = Buffer::new().unwrap();
        // SAFETY: no argument.
        let parent = unsafe { libc::getpid() };
        let pid = fork(|| {
            let mut next = 0;
            let mut wrong = false;
            buffer.receive(parent, |addr, page| {
                wrong |= addr != next * 4096 || page[..8] != next.to_ne_bytes();
                next += if next % 5 == 3 { 2 } else { 1 };
            });
            buffer.tell(if wrong { Err(Errno(libc::EILSEQ)) } else { Ok(()) });
        });
        let mut to = buffer.sender(pid);
        for i in 0..COUNT {
            // Every fifth page is zero and is not sent.
            to.page(i * 4096, |page| {
                page[..8].copy_from_slice(&i.to_ne_bytes());
                i % 5 != 4
            })
            .unwrap();
        }
        assert_eq!(to.finish(), Ok(()));
        reap(pid);
    }

    #[test]
    fn a_child_that_dies_or_fails_is_an_error_and_no_hang() {
        let buffer = Buffer::new().unwrap();
        let pid = fork(|| {});
        assert_eq!(buffer.sender(pid).finish(), Err(Errno(libc::EAGAIN)));
        reap(pid);
        let buffer = Buffer::new().unwrap();
        let pid = fork(|| buffer.tell(Err(Errno(libc::ENOMEM))));
        assert_eq!(buffer.sender(pid).finish(), Err(Errno(libc::ENOMEM)));
        reap(pid);
    }
}
