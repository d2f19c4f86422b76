//! The big lock: what is not memory runs on one CPU at a time.
//!
//! The file systems, processes, signals and so on were written for one CPU on which the kernel is not preempted: between
//! two points where a thread may sleep nothing else of the kernel happens. This lock keeps that true. Who holds it and
//! sleeps, or lets others run, gives it up meanwhile and has it again afterwards. So it can be taken with any other
//! sleeping lock held: who waits for it waits for no more than the next point where its holder sleeps or ends.
//!
//! Not under it: page faults, system calls on memory, futexes and the other calls of [`crate::syscall`]'s list, the page
//! daemon, interrupts, the scheduler. What they share with the rest has locks of its own.

use core::marker::PhantomData;
use core::sync::atomic::{AtomicU32, Ordering};

use machvm_hal::Event;

use super::{assert_wait, block_as_is, cancel, current, wakeup};
use crate::arch;

const FREE: u32 = 0;
const HELD: u32 = 1;
/// Held, and somebody sleeps for it.
const WANTED: u32 = 2;

static STATE: AtomicU32 = AtomicU32::new(FREE);
/// What those sleep for.
const EVENT: Event = Event(0x30);
/// Looks at it before one sleeps.
const SPINS: u32 = 200;

/// Holds the lock. It is given up when the outermost of a thread goes.
pub(crate) struct Hold {
    outermost: bool,
    /// It is the thread's.
    _here: PhantomData<*mut ()>,
}

/// Takes the lock, if the thread has not got it already.
///
/// => no spin lock is held, interrupts are on.
pub(crate) fn hold() -> Hold {
    let outermost = !current().big.load(Ordering::Relaxed);
    if outermost {
        enter();
    }
    Hold { outermost, _here: PhantomData }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.outermost {
            leave();
        }
    }
}

/// Carries `f` out without the lock, if the thread has it: long work on memory, during which others may come in as if it
/// slept.
pub(crate) fn without<R>(f: impl FnOnce() -> R) -> R {
    let held = leave();
    let r = f();
    if held {
        enter();
    }
    r
}

/// => not held.
pub(super) fn enter() {
    // Acquire here and below: pairs with the Release of who left.
    if STATE.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_err() {
        contend();
    }
    current().big.store(true, Ordering::Relaxed);
}

#[cold]
fn contend() {
    for _ in 0..SPINS {
        arch::relax();
        if STATE.load(Ordering::Relaxed) == FREE
            && STATE.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_ok()
        {
            return;
        }
    }
    loop {
        let ticket = assert_wait(EVENT);
        // Whoever leaves from now on wakes. Who gets it this way may wake for nothing.
        if STATE.swap(WANTED, Ordering::Acquire) == FREE {
            cancel(ticket);
            return;
        }
        block_as_is(ticket);
    }
}

/// Gives it up, if the thread has it; says whether it had.
#[inline]
pub(super) fn leave() -> bool {
    let me = current();
    let held = me.big.load(Ordering::Relaxed);
    if held {
        me.big.store(false, Ordering::Relaxed);
        if STATE.swap(FREE, Ordering::Release) == WANTED {
            wakeup(EVENT);
        }
    }
    held
}
