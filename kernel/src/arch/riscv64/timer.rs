//! Time: the counter that `rdtime` reads, and the timer that the firmware sets by it.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{direct, sbi};

/// Ticks in a second.
pub(crate) const HZ: u64 = 100;
/// The clock that runs on: nanoseconds since 1970, low and high half (a Goldfish RTC).
const RTC: u64 = 0x10_1000;

/// Counts in a second, and the count that is time zero.
static FREQUENCY: AtomicU64 = AtomicU64::new(10_000_000);
static ZERO: AtomicU64 = AtomicU64::new(0);

/// As the device tree says. => before [`init`].
pub(super) fn set_frequency(hz: u64) {
    if hz != 0 {
        FREQUENCY.store(hz, Relaxed);
    }
}

/// The counter.
pub(crate) fn ticks() -> u64 {
    let n;
    // SAFETY: reads a counter.
    unsafe { core::arch::asm!("rdtime {}", out(reg) n, options(nomem, nostack, preserves_flags)) }
    n
}

/// Nanoseconds since the start.
pub(crate) fn now_ns() -> u64 {
    ticks_to_ns(ticks().wrapping_sub(ZERO.load(Relaxed)))
}

/// Counts as nanoseconds.
pub(crate) fn ticks_to_ns(counts: u64) -> u64 {
    (u128::from(counts) * 1_000_000_000 / u128::from(FREQUENCY.load(Relaxed))) as u64
}

/// Starts the clock. => once; the direct map reaches the battery's clock.
pub(crate) fn init() {
    ZERO.store(ticks(), Relaxed);
    // SAFETY: two registers; reading the low half keeps the high one.
    let (low, high) =
        unsafe { (direct(RTC).cast::<u32>().read_volatile(), direct(RTC + 4).cast::<u32>().read_volatile()) };
    EPOCH.store(u64::from(high) << 32 | u64::from(low), Relaxed);
}

/// The timer of this CPU interrupts in `ns` nanoseconds, or a little later or earlier, or within a second; what was set
/// before is forgotten.
pub(crate) fn set_timer(ns: u64) {
    let counts = u128::from(ns.min(1_000_000_000)) * u128::from(FREQUENCY.load(Relaxed)) / 1_000_000_000;
    sbi::set_timer(ticks() + (counts as u64).max(1));
}

/// The timer interrupted.
pub(super) fn interrupt(from_user: bool) {
    // It would go on doing so.
    sbi::set_timer(u64::MAX);
    crate::sched::timer(from_user);
}

/// The time of day at time zero, in nanoseconds since 1970.
static EPOCH: AtomicU64 = AtomicU64::new(0);

/// The time of day at time zero of [`now_ns`].
pub(crate) fn epoch_ns() -> u64 {
    EPOCH.load(Relaxed)
}
/// Sets the clock.
pub(crate) fn set_epoch_ns(ns: u64) {
    EPOCH.store(ns, Relaxed);
}

/// A word that is hard to guess, as far as clocks are: this machine has no generator that the kernel knows.
pub(crate) fn entropy() -> u32 {
    let mut word = EPOCH.load(Relaxed);
    for _ in 0..8 {
        word = word.rotate_left(7) ^ ticks().wrapping_mul(0x9e37_79b9_7f4a_7c15);
        core::hint::spin_loop();
    }
    (word ^ word >> 32) as u32
}
