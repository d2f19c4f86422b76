//! What comes with a signal (`siginfo_t`), and queues of pending ones.

use alloc::collections::VecDeque;

use crate::errno::Result;
use crate::user;

/// Bytes of a `siginfo_t`.
pub(crate) const INFO_BYTES: usize = 128;

/// From kill(2).
pub(crate) const SI_USER: i32 = 0;
/// From the kernel.
pub(crate) const SI_KERNEL: i32 = 0x80;
/// From a timer of timer_create(2).
pub(crate) const SI_TIMER: i32 = -2;
/// From tkill(2) and tgkill(2).
pub(crate) const SI_TKILL: i32 = -6;

/// A `siginfo_t`: number, error, code, and the words of the union that this kernel fills.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Info {
    /// The signal.
    pub(crate) signal: u32,
    errno: i32,
    /// Why it was sent.
    pub(crate) code: i32,
    /// Bytes 16 to 48.
    pub(crate) words: [u64; 4],
}

impl Info {
    /// From the kernel, about nothing in particular.
    pub(crate) fn kernel(signal: u32) -> Self {
        Info { signal, code: SI_KERNEL, ..Info::default() }
    }
    /// From a process.
    pub(crate) fn from(signal: u32, code: i32, pid: u32, uid: u32) -> Self {
        Info { signal, code, words: [u64::from(pid) | u64::from(uid) << 32, 0, 0, 0], ..Info::default() }
    }
    /// About an address.
    pub(crate) fn fault(signal: u32, code: i32, address: u64) -> Self {
        Info { signal, code, words: [address, 0, 0, 0], ..Info::default() }
    }
    /// As a program sees it.
    pub(crate) fn bytes(&self) -> [u8; INFO_BYTES] {
        let mut b = [0; INFO_BYTES];
        b[0..4].copy_from_slice(&self.signal.to_le_bytes());
        b[4..8].copy_from_slice(&self.errno.to_le_bytes());
        b[8..12].copy_from_slice(&self.code.to_le_bytes());
        for (to, w) in b[16..48].chunks_exact_mut(8).zip(self.words) {
            to.copy_from_slice(&w.to_le_bytes());
        }
        b
    }
    /// One that a program made (rt_sigqueueinfo). The signal is `signal`, whatever it says.
    pub(crate) fn read(at: u64, signal: u32) -> Result<Self> {
        let mut b = [0; INFO_BYTES];
        user::read(at, &mut b)?;
        let word = |i: usize| u64::from_le_bytes(b[i..i + 8].try_into().unwrap_or_default());
        Ok(Info {
            signal,
            errno: (word(0) >> 32) as i32,
            code: word(8) as i32,
            words: [word(16), word(24), word(32), word(40)],
        })
    }
}

/// Most signals that wait in one queue (RLIMIT_SIGPENDING is not counted by user here).
const MOST: usize = 4096;

/// Pending signals. Those below 32 wait once, the others as often as they were sent.
pub(super) struct Queue(VecDeque<Info>);

impl Queue {
    pub(super) const fn new() -> Self {
        Queue(VecDeque::new())
    }
    /// The set of what waits.
    pub(super) fn set(&self) -> u64 {
        self.0.iter().fold(0, |set, i| set | super::bit(i.signal))
    }
    /// `false`: there is no room.
    pub(super) fn push(&mut self, info: Info) -> bool {
        if info.signal < 32 && self.0.iter().any(|i| i.signal == info.signal) {
            return true;
        }
        if self.0.len() >= MOST || self.0.try_reserve(1).is_err() {
            return false;
        }
        self.0.push_back(info);
        true
    }
    /// Takes the first one of that number.
    pub(super) fn take(&mut self, signal: u32) -> Option<Info> {
        let at = self.0.iter().position(|i| i.signal == signal)?;
        self.0.remove(at)
    }
    /// Forgets signals of a set.
    pub(super) fn discard(&mut self, set: u64) {
        self.0.retain(|i| set & super::bit(i.signal) == 0);
    }
}
