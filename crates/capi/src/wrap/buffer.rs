//! Buffers that Linux reads and writes in place of a program's.
//!
//! There is a fixed number of them, made when first used and kept; who finds none, or needs
//! a larger one, gets a mapping of its own for one call. A thread that is cancelled in its
//! call keeps its buffer: there is no destructor that could run.

use core::ffi::c_void;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicUsize};

/// Bytes of a buffer that is kept: a pipe's atomic writes and all but the largest datagrams
/// fit, and a system call costs little beside moving so much.
pub(super) const SIZE: usize = 256 << 10;
/// How many are kept.
const KEPT: usize = 64;

struct Slot {
    busy: AtomicBool,
    /// 0: not made yet. Written by who has it busy.
    at: AtomicUsize,
}

static POOL: [Slot; KEPT] = [const { Slot { busy: AtomicBool::new(false), at: AtomicUsize::new(0) } }; KEPT];

/// A buffer, given back by [`Buffer::release`].
pub(super) struct Buffer {
    at: *mut u8,
    len: usize,
    slot: Option<&'static Slot>,
}

/// New memory, straight from the kernel.
fn map(len: usize) -> Option<*mut u8> {
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: not MAP_FIXED.
    let at = unsafe { libc::syscall(libc::SYS_mmap, 0, len, prot, flags, -1, 0) };
    (at != -1).then(|| core::ptr::with_exposed_provenance_mut(at as usize))
}

impl Buffer {
    /// One for at most `len` bytes; with `whole`, for all of them, else for as many as are
    /// kept.
    pub(super) fn take(len: usize, whole: bool) -> Option<Buffer> {
        if len <= SIZE || !whole {
            // Threads start at different slots: their stacks are apart.
            let first = (&raw const len).addr() >> 16;
            for i in 0..KEPT {
                let slot = &POOL[(first + i) % KEPT];
                if slot.busy.load(Relaxed) || slot.busy.swap(true, Acquire) {
                    continue;
                }
                let mut at = slot.at.load(Relaxed);
                if at == 0 {
                    let Some(new) = map(SIZE) else {
                        slot.busy.store(false, Release);
                        return None;
                    };
                    at = new.expose_provenance();
                    slot.at.store(at, Relaxed);
                }
                let at = core::ptr::with_exposed_provenance_mut(at);
                return Some(Buffer { at, len: len.min(SIZE), slot: Some(slot) });
            }
        }
        let len = if whole { len } else { len.min(SIZE) }.max(1);
        Some(Buffer { at: map(len)?, len, slot: None })
    }

    pub(super) fn as_ptr(&self) -> *mut u8 {
        self.at
    }
    pub(super) fn as_void(&self) -> *mut c_void {
        self.at.cast()
    }
    /// Bytes.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Gives it back. `errno` stays.
    pub(super) fn release(self) {
        match self.slot {
            Some(slot) => slot.busy.store(false, Release),
            // SAFETY: our own mapping, of which nothing is used any more. It cannot fail.
            None => drop(unsafe { libc::syscall(libc::SYS_munmap, self.at, self.len) }),
        }
    }
}
