//! futex(2): wait and wake.

use machvm_hal::{Event, Woken};

use crate::arch;
use crate::errno::{EAGAIN, EINTR, EINVAL, ENOSYS, ETIMEDOUT, Result};
use crate::{sched, user};

const WAIT: u64 = 0;
const WAKE: u64 = 1;
const WAIT_BITSET: u64 = 9;
const WAKE_BITSET: u64 = 10;

/// Words are told apart by address and process: the space's threads share it.
fn event(at: u64) -> Event {
    Event(at << 1 ^ (alloc::sync::Arc::as_ptr(sched::process()) as u64) << 8 | 2)
}

pub(super) fn futex(a: [u64; 6]) -> Result {
    let (at, op, value) = (a[0], a[1] & 0x7f, a[2] as u32);
    if !at.is_multiple_of(4) {
        return Err(EINVAL);
    }
    match op {
        WAIT | WAIT_BITSET => {
            let deadline = match a[3] {
                0 => None,
                t => {
                    let ns = user::read_u64(t)?
                        .saturating_mul(1_000_000_000)
                        .saturating_add(user::read_u64(t + 8)?);
                    Some(if op == WAIT { arch::now_ns().saturating_add(ns) } else { ns })
                }
            };
            wait(at, value, deadline)
        }
        WAKE | WAKE_BITSET => Ok(wake(at, value)),
        _ => Err(ENOSYS),
    }
}

fn wait(at: u64, value: u32, deadline: Option<u64>) -> Result {
    // The page is brought before the thread is in the queue: it waits for one thing at a time.
    if user::read_u32(at)? != value {
        return Err(EAGAIN);
    }
    let ticket = sched::assert_wait(event(at));
    if user::read_u32(at) != Ok(value) {
        sched::cancel(ticket);
        return Err(EAGAIN);
    }
    match sched::block_interruptible(ticket, deadline) {
        Woken::Event => Ok(0),
        Woken::TimedOut => Err(ETIMEDOUT),
        Woken::Interrupted => Err(EINTR),
    }
}

/// Wakes threads that wait for the word.
pub(crate) fn wake(at: u64, n: u32) -> i64 {
    sched::wakeup_some(event(at), n).into()
}
