//! signalfd: signals that are read instead of handled.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::poll::{POLLIN, Special};
use super::wait::Waiters;
use crate::errno::{EAGAIN, EINVAL, Result};
use crate::process::signal::{self, Info, UNBLOCKABLE};

/// Those who wait for any signal.
static WAITERS: Waiters = Waiters::new();
/// How many of these files there are.
static FILES: AtomicU32 = AtomicU32::new(0);

/// One: the set of signals that it takes.
pub(crate) struct Signals(AtomicU64);

/// Bytes of a `struct signalfd_siginfo`.
const BYTES: usize = 128;

impl Signals {
    pub(crate) fn new(set: u64) -> Self {
        FILES.fetch_add(1, Ordering::Relaxed);
        Signals(AtomicU64::new(set & !UNBLOCKABLE))
    }
    /// It takes others from now on.
    pub(crate) fn set(&self, set: u64) {
        self.0.store(set & !UNBLOCKABLE, Ordering::Relaxed);
        WAITERS.wake();
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        FILES.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A signal waits somewhere.
pub(crate) fn arrived() {
    if FILES.load(Ordering::Relaxed) != 0 {
        WAITERS.wake();
    }
}

/// As it is read.
fn bytes(info: &Info) -> [u8; BYTES] {
    let from = info.bytes();
    let mut b = [0; BYTES];
    let mut copy = |to: usize, at: usize, n: usize| b[to..to + n].copy_from_slice(&from[at..at + n]);
    // Signal, error, code.
    copy(0, 0, 12);
    match info.code {
        // Of a timer: its number, how often it was due more, the value.
        signal::SI_TIMER => {
            copy(24, 16, 4);
            copy(32, 20, 4);
            copy(44, 24, 4);
            copy(48, 24, 8);
        }
        // About an address.
        1.. if matches!(info.signal, 4 | 5 | 7 | 8 | 11) => copy(72, 16, 8),
        // Of a child: who, status, the time that it took.
        1.. if info.signal == signal::SIGCHLD => {
            copy(12, 16, 8);
            copy(40, 24, 4);
            copy(56, 32, 16);
        }
        // From somebody: who, and the value.
        _ => {
            copy(12, 16, 8);
            if info.code < 0 {
                copy(44, 24, 4);
                copy(48, 24, 8);
            }
        }
    }
    b
}

impl Special for Signals {
    fn read(&self, buf: &mut [u8], nonblock: bool) -> Result<usize> {
        let places = buf.as_chunks_mut::<BYTES>().0;
        let (first, rest) = places.split_first_mut().ok_or(EINVAL)?;
        let take = || signal::take(self.0.load(Ordering::Relaxed)).map(|i| bytes(&i));
        *first = WAITERS.until(None, || match take() {
            None => nonblock.then_some(Err(EAGAIN)),
            Some(b) => Some(Ok(b)),
        })?;
        let mut n = BYTES;
        for to in rest {
            let Some(b) = take() else { break };
            *to = b;
            n += BYTES;
        }
        Ok(n)
    }
    fn poll(&self) -> u16 {
        if signal::waits() & self.0.load(Ordering::Relaxed) != 0 { POLLIN } else { 0 }
    }
    fn turn(&self) -> u32 {
        WAITERS.turn()
    }
    fn label(&self) -> &'static str {
        "anon_inode:[signalfd]"
    }
    fn signals(&self) -> Option<&Signals> {
        Some(self)
    }
}
