//! Time: the time-stamp counter, and the local APIC's timer, both measured against the PIT.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::apic::{self, DEVICE, RESCHEDULE, SERIAL, SHOOTDOWN, SPURIOUS_VECTOR, TIMER};
use super::cpu::{inb, outb};

/// Ticks in a second.
pub(crate) const HZ: u64 = 100;
/// What the PIT counts in 10 ms.
const PIT_10MS: u16 = 11_932;

/// Counts of the time-stamp counter in 10 ms, and the count that is time zero.
static TSC_10MS: AtomicU64 = AtomicU64::new(10_000_000);
static TSC_ZERO: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds of 2^32 counts.
static SCALE: AtomicU64 = AtomicU64::new(1 << 32);
/// Counts of the local APIC's timer in 10 ms.
static APIC_10MS: AtomicU64 = AtomicU64::new(1);

/// The time-stamp counter.
pub(crate) fn ticks() -> u64 {
    // SAFETY: reads a counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Nanoseconds since the start.
pub(crate) fn now_ns() -> u64 {
    ticks_to_ns(ticks().wrapping_sub(TSC_ZERO.load(Relaxed)))
}

/// Counts of the time-stamp counter as nanoseconds.
pub(crate) fn ticks_to_ns(counts: u64) -> u64 {
    ((u128::from(counts) * u128::from(SCALE.load(Relaxed))) >> 32) as u64
}

/// Counts of the time-stamp counter in 10 ms.
pub(crate) fn ticks_in_10_ms() -> u64 {
    TSC_10MS.load(Relaxed)
}

/// Waits 10 ms by the PIT's channel 2.
fn wait_10ms() {
    outb(0x61, inb(0x61) & !2 | 1);
    outb(0x43, 0xb0);
    outb(0x42, PIT_10MS as u8);
    outb(0x42, (PIT_10MS >> 8) as u8);
    while inb(0x61) & 0x20 == 0 {
        core::hint::spin_loop();
    }
}

/// Waits so many nanoseconds.
pub(super) fn wait(ns: u64) {
    let begun = now_ns();
    while now_ns() - begun < ns {
        core::hint::spin_loop();
    }
}

/// Starts the clock. => once, on the first CPU; the direct map reaches the APIC.
pub(crate) fn init() {
    apic::mask_old();
    apic::init();
    apic::count(u32::MAX, true);
    let before = ticks();
    wait_10ms();
    let (counted, tsc) = (u32::MAX - apic::left(), (ticks() - before).max(1));
    TSC_10MS.store(tsc, Relaxed);
    SCALE.store((10_000_000 << 32) / tsc, Relaxed);
    TSC_ZERO.store(before, Relaxed);
    APIC_10MS.store(u64::from(counted).max(1), Relaxed);
    EPOCH.store((cmos_seconds() * 1_000_000_000).saturating_sub(now_ns()), Relaxed);
}

/// The timer of this CPU interrupts in `ns` nanoseconds, or a little later or earlier, or within a second; what was set
/// before is forgotten.
pub(crate) fn set_timer(ns: u64) {
    let counts = ns.min(1_000_000_000) * APIC_10MS.load(Relaxed) / 10_000_000;
    apic::count(counts.clamp(1, u32::MAX.into()) as u32, false);
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

/// A register of the clock that runs on a battery.
fn cmos(register: u8) -> u8 {
    outb(0x70, register | 0x80);
    inb(0x71)
}

/// Seconds since 1970 by that clock, which QEMU sets to UTC.
fn cmos_seconds() -> u64 {
    let read = || [0u8, 2, 4, 7, 8, 9, 0x32].map(cmos);
    // Twice the same: it did not move on meanwhile.
    let mut seen = read();
    for _ in 0..100 {
        let again = read();
        if again == seen && cmos(0x0a) & 0x80 == 0 {
            break;
        }
        seen = again;
    }
    let binary = cmos(0x0b) & 4 != 0;
    let v = seen.map(|v| u64::from(if binary { v } else { (v >> 4) * 10 + (v & 15) }));
    let [second, minute, hour, day, month, year, century] = v;
    let year = if (19..=21).contains(&century) { century * 100 + year } else { 2000 + year };
    days_since_1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second
}

fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    // Years that begin in March have their leap day at the end.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year.saturating_sub(1), month + 9) };
    let days = y * 365 + y / 4 - y / 100 + y / 400 + (m * 153 + 2) / 5 + day;
    days.saturating_sub(719_469)
}

/// A word that is hard to guess: of the CPU's generator if it has one, and of the clock's jitter.
pub(crate) fn entropy() -> u32 {
    let mut word = 0u64;
    for _ in 0..8 {
        word = word.rotate_left(7) ^ ticks();
        core::hint::spin_loop();
    }
    if super::cpu::cpuid(1, 0).ecx & 1 << 30 != 0 {
        let random: u64;
        // SAFETY: the instruction exists; without luck it gives 0, which does no harm.
        unsafe { core::arch::asm!("rdrand {}", out(reg) random, options(nomem, nostack)) }
        word ^= random;
    }
    (word ^ word >> 32) as u32
}

/// An interrupt came.
pub(super) fn interrupt(vector: u8, from_user: bool) {
    match vector {
        SPURIOUS_VECTOR => return,
        TIMER => crate::sched::timer(from_user),
        SERIAL => crate::fs::arrived(),
        SHOOTDOWN => crate::embed::pmaps().shootdown_interrupt(),
        RESCHEDULE => super::here().resched.store(true, Relaxed),
        DEVICE => crate::dev::interrupt(),
        _ => {}
    }
    apic::done();
}
