//! Time where a register counts at a known frequency.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::machine::timer::set_alarm;
use super::ticks;

/// Ticks in a second.
pub(crate) const HZ: u64 = 100;

/// Counts in a second, and the count that is time zero.
static FREQUENCY: AtomicU64 = AtomicU64::new(10_000_000);
static ZERO: AtomicU64 = AtomicU64::new(0);
/// The time of day at time zero, in nanoseconds since 1970.
static EPOCH: AtomicU64 = AtomicU64::new(0);

/// The counter counts so often in a second; 0: nobody said. => before [`start`].
pub(super) fn set_frequency(hz: u64) {
    if hz != 0 {
        FREQUENCY.store(hz, Relaxed);
    }
}

/// Time zero is now, and that is so many nanoseconds after 1970. => once.
pub(super) fn start(epoch_ns: u64) {
    ZERO.store(ticks(), Relaxed);
    EPOCH.store(epoch_ns, Relaxed);
}

/// Nanoseconds since the start.
pub(crate) fn now_ns() -> u64 {
    ticks_to_ns(ticks().wrapping_sub(ZERO.load(Relaxed)))
}

/// Counts as nanoseconds.
pub(crate) fn ticks_to_ns(counts: u64) -> u64 {
    (u128::from(counts) * 1_000_000_000 / u128::from(FREQUENCY.load(Relaxed))) as u64
}

/// The timer of this CPU interrupts in `ns` nanoseconds, or a little later or earlier, or within a second; what was set
/// before is forgotten.
pub(crate) fn set_timer(ns: u64) {
    let counts = u128::from(ns.min(1_000_000_000)) * u128::from(FREQUENCY.load(Relaxed)) / 1_000_000_000;
    set_alarm(ticks() + (counts as u64).max(1));
}

/// The time of day at time zero of [`now_ns`].
pub(crate) fn epoch_ns() -> u64 {
    EPOCH.load(Relaxed)
}
/// Sets the clock.
pub(crate) fn set_epoch_ns(ns: u64) {
    EPOCH.store(ns, Relaxed);
}

/// A word that is hard to guess, as far as clocks are: these machines have no generator that the kernel knows.
pub(crate) fn entropy() -> u32 {
    let mut word = EPOCH.load(Relaxed);
    for _ in 0..8 {
        word = word.rotate_left(7) ^ ticks().wrapping_mul(0x9e37_79b9_7f4a_7c15);
        core::hint::spin_loop();
    }
    (word ^ word >> 32) as u32
}
