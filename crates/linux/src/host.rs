//! Waiting and waking over futexes.
//!
//! Events hash to a fixed table of buckets. A bucket is a sequence number and a
//! count of waiters: `assert_wait` counts itself in and reads the number,
//! `thread_wakeup` raises the number and, only if somebody is counted, calls the
//! kernel; `thread_block` sleeps while the number is what it read. So a wake-up
//! after `assert_wait` is never lost (short of 2^32 of them before the sleep), and
//! one without waiters costs no system call. Two events of one bucket can only
//! cause spurious wake-ups, and a bitset of the event makes those rare.
//!
//! Nothing here allocates or takes a lock: it may be used in a signal handler.

use core::cell::Cell;
use core::sync::atomic::{AtomicU32, Ordering};
use machvm_hal::{CpuId, Event, Host, Woken};

use crate::sys;

const BUCKETS: usize = 256;

/// A cache line of its own, so that two events do not share one by accident.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Bucket {
    /// Raised by every wake-up of an event of this bucket.
    seq: AtomicU32,
    /// Threads between `assert_wait` and the end of their wait.
    waiters: AtomicU32,
}

/// [`Host`] on Linux.
#[derive(Debug)]
pub struct LinuxHost {
    buckets: [Bucket; BUCKETS],
}

/// A place in the queue of an event. Give it to `thread_block` or `cancel_wait`;
/// forgetting it makes wake-ups of its bucket dearer for ever, and nothing else.
#[derive(Debug)]
#[must_use]
pub struct Ticket {
    bucket: u32,
    seq: u32,
    bits: u32,
}

impl Default for LinuxHost {
    fn default() -> Self {
        Self::new()
    }
}

impl LinuxHost {
    /// Nobody waits.
    #[must_use]
    pub fn new() -> Self {
        LinuxHost { buckets: core::array::from_fn(|_| Bucket::default()) }
    }

    /// Bucket number and futex bitset of an event (never 0).
    const fn place(ev: Event) -> (usize, u32) {
        // Fibonacci hashing: events are addresses and numbers with poor low bits.
        let h = ev.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((h >> 56) as usize % BUCKETS, 1 << ((h >> 51) & 31))
    }
}

thread_local! {
    // Const and without a destructor: reading it in a handler initialises nothing.
    /// The host in which this thread may take frames of the reserve; 0: none.
    static PRIVILEGED: Cell<usize> = const { Cell::new(0) };
}

impl Host for LinuxHost {
    type Ticket = Ticket;

    fn is_privileged(&self) -> bool {
        PRIVILEGED.get() == std::ptr::from_ref(self).addr()
    }
    fn set_privileged(&self, on: bool) -> bool {
        let was = self.is_privileged();
        PRIVILEGED.set(if on { std::ptr::from_ref(self).addr() } else { 0 });
        was
    }

    fn cpu(&self) -> CpuId {
        CpuId(sys::current_cpu())
    }
    fn now_ns(&self) -> u64 {
        sys::monotonic_ns()
    }

    fn assert_wait(&self, ev: Event) -> Ticket {
        let (bucket, bits) = Self::place(ev);
        let b = &self.buckets[bucket];
        // SeqCst, both here and in thread_wakeup: either the waker sees our count,
        // or we see its number (and then everything it did before).
        b.waiters.fetch_add(1, Ordering::SeqCst);
        let seq = b.seq.load(Ordering::SeqCst);
        Ticket { bucket: bucket as u32, seq, bits }
    }

    fn thread_block(&self, t: Ticket, deadline_ns: Option<u64>) -> Woken {
        let b = &self.buckets[t.bucket as usize];
        let r = sys::futex_wait(&b.seq, t.seq, deadline_ns, t.bits);
        b.waiters.fetch_sub(1, Ordering::SeqCst);
        match r {
            Err(libc::ETIMEDOUT) => Woken::TimedOut,
            // Also EAGAIN (woken before the sleep) and EINTR (a signal: look again).
            _ => Woken::Event,
        }
    }

    fn cancel_wait(&self, t: Ticket) {
        self.buckets[t.bucket as usize].waiters.fetch_sub(1, Ordering::SeqCst);
    }

    fn thread_wakeup(&self, ev: Event) {
        let (bucket, bits) = Self::place(ev);
        let b = &self.buckets[bucket];
        b.seq.fetch_add(1, Ordering::SeqCst);
        if b.waiters.load(Ordering::SeqCst) != 0 {
            sys::futex_wake(&b.seq, bits);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::AtomicU64;

    #[test]
    fn a_wakeup_between_assert_and_block_is_not_lost() {
        let h = LinuxHost::new();
        let t = h.assert_wait(Event(7));
        h.thread_wakeup(Event(7));
        assert_eq!(h.thread_block(t, Some(h.now_ns() + 5_000_000_000)), Woken::Event);
    }

    #[test]
    fn a_deadline_passes() {
        let h = LinuxHost::new();
        let t0 = h.now_ns();
        let t = h.assert_wait(Event(7));
        assert_eq!(h.thread_block(t, Some(t0 + 20_000_000)), Woken::TimedOut);
        assert!(h.now_ns() >= t0 + 20_000_000);
    }

    #[test]
    fn cancelled_waits_leave_no_waiters() {
        let h = LinuxHost::new();
        let t = h.assert_wait(Event(1 << 40));
        h.cancel_wait(t);
        assert!(h.buckets.iter().all(|b| b.waiters.load(Ordering::Relaxed) == 0));
    }

    /// Two threads hand a number back and forth; a lost wake-up would time out.
    #[test]
    fn ping_pong_loses_nothing() {
        const ROUNDS: u64 = 20_000;
        let h = LinuxHost::new();
        let turn = AtomicU64::new(0);
        let play = |me: u64| {
            for i in 0..ROUNDS {
                let want = 2 * i + me;
                loop {
                    let t = h.assert_wait(Event(0x1000));
                    if turn.load(Ordering::Relaxed) == want {
                        h.cancel_wait(t);
                        break;
                    }
                    let woken = h.thread_block(t, Some(h.now_ns() + 10_000_000_000));
                    assert_ne!(woken, Woken::TimedOut, "lost wake-up in round {i}");
                }
                turn.store(want + 1, Ordering::Relaxed);
                h.thread_wakeup(Event(0x1000));
            }
        };
        std::thread::scope(|s| {
            s.spawn(|| play(0));
            s.spawn(|| play(1));
        });
        assert_eq!(turn.load(Ordering::Relaxed), 2 * ROUNDS);
    }
}
