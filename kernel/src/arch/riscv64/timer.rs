//! Time: the counter that `rdtime` reads, and the timer that the firmware sets by it.

use super::super::clock;
use super::sbi;
use crate::arch::direct;

pub(in crate::arch) use sbi::set_timer as set_alarm;

/// The clock that runs on: nanoseconds since 1970, low and high half (a Goldfish RTC).
const RTC: u64 = 0x10_1000;

/// The counter.
pub(crate) fn ticks() -> u64 {
    let n;
    // SAFETY: reads a counter.
    unsafe { core::arch::asm!("rdtime {}", out(reg) n, options(nomem, nostack, preserves_flags)) }
    n
}

/// Starts the clock. => once; the direct map reaches the battery's clock.
pub(crate) fn init() {
    // SAFETY: two registers; reading the low half keeps the high one.
    let (low, high) =
        unsafe { (direct(RTC).cast::<u32>().read_volatile(), direct(RTC + 4).cast::<u32>().read_volatile()) };
    clock::start(u64::from(high) << 32 | u64::from(low));
}

/// The timer interrupted.
pub(super) fn interrupt(from_user: bool) {
    // It would go on doing so.
    sbi::set_timer(u64::MAX);
    crate::sched::timer(from_user);
}
