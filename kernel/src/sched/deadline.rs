//! The timer of each CPU: ticks of the thread that runs, deadlines of threads that wait.

use core::sync::atomic::Ordering;

use machvm_hal::Woken;

use super::{BUCKETS, IDLE, Lists, SCHED, SLICE, TICK, wake_where};
use crate::arch::{self, CpuLocal};

/// Never.
const NEVER: u64 = u64::MAX;

/// The timer interrupts at `at` at the latest. => interrupts are off.
fn arm(here: &CpuLocal, at: u64, now: u64) {
    if at < here.armed.load(Ordering::Relaxed) {
        here.armed.store(at, Ordering::Relaxed);
        arch::set_timer(at.saturating_sub(now));
    }
}

/// A thread that waits entered this deadline. => the lock is held.
pub(super) fn note(l: &mut Lists, here: &CpuLocal, at: u64) {
    if at < l.deadline {
        l.deadline = at;
        arm(here, at, arch::now_ns());
    }
}

/// This CPU has nothing to do before `at`. => the lock is held.
pub(super) fn wake_me_at(here: &CpuLocal, at: u64) {
    here.tick.store(NEVER, Ordering::Relaxed);
    if at != NEVER {
        arm(here, at, arch::now_ns());
    }
}

/// This CPU had nothing to do and runs a thread now. => the lock is held.
pub(super) fn start_tick(here: &CpuLocal, deadline: u64) {
    let now = arch::now_ns();
    let end = now + TICK;
    here.tick.store(end, Ordering::Relaxed);
    arm(here, end.min(deadline), now);
}

/// Wakes threads whose time has come. => the lock is held.
fn expire(l: &mut Lists, now: u64) {
    let mut next = NEVER;
    for b in 0..BUCKETS {
        wake_where(l, b, Woken::TimedOut, |i| {
            let due = i.deadline != 0 && i.deadline <= now;
            if !due && i.deadline != 0 {
                next = next.min(i.deadline);
            }
            due
        });
    }
    l.deadline = next;
}

/// The timer's interrupt. => interrupts are off.
pub(crate) fn timer(from_user: bool) {
    let here = arch::here();
    here.armed.store(NEVER, Ordering::Relaxed);
    let me = here.current.load(Ordering::Relaxed);
    // SAFETY: the running thread, or null at the start.
    let Some(t) = (unsafe { me.as_ref() }) else { return };
    let now = arch::now_ns();
    let mut tick = here.tick.load(Ordering::Relaxed);
    let ends = tick <= now;
    if ends {
        // What was missed is not made up for.
        tick = (tick + TICK).max(now + TICK / 2);
        here.tick.store(tick, Ordering::Relaxed);
        if let Some(p) = &t.process {
            t.ticks[usize::from(!from_user)].fetch_add(1, Ordering::Relaxed);
            p.tick(t, from_user);
        }
    }
    let l = SCHED.lock();
    if l.deadline <= now {
        expire(l, now);
        // Who slept goes first.
        here.resched.store(!l.first.is_null(), Ordering::Relaxed);
    }
    if ends {
        let inner = t.inner();
        inner.slice += 1;
        if inner.slice >= SLICE && !l.first.is_null() {
            here.resched.store(true, Ordering::Relaxed);
        }
    }
    let is_idle = core::ptr::eq(me, IDLE[usize::from(here.number)].load(Ordering::Relaxed));
    // A CPU with nothing to do sets its timer before it waits.
    if !is_idle {
        arm(here, tick.min(l.deadline), now);
    }
    SCHED.unlock();
}
