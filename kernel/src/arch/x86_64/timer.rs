//! Time: the time-stamp counter, and the local APIC's timer, both measured against the PIT.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::cpu::{inb, outb, wrmsr};

/// The local APIC's registers.
const APIC: u64 = 0xfee0_0000;
const EOI: u64 = 0xb0;
const SPURIOUS: u64 = 0xf0;
const LVT_TIMER: u64 = 0x320;
const INITIAL: u64 = 0x380;
const CURRENT: u64 = 0x390;
const DIVIDE: u64 = 0x3e0;

/// The timer's vector, and the one for interrupts that went away.
const TIMER: u8 = 0xf0;
const SPURIOUS_VECTOR: u8 = 0xff;
/// The serial line's vector.
pub(super) const SERIAL: u8 = 0xe4;

/// Ticks in a second.
pub(crate) const HZ: u64 = 100;
/// The PIT's frequency, and what it counts in 10 ms.
const PIT_10MS: u16 = 11_932;

/// Counts of the time-stamp counter in 10 ms, and the count that is time zero.
static TSC_10MS: AtomicU64 = AtomicU64::new(10_000_000);
static TSC_ZERO: AtomicU64 = AtomicU64::new(0);

fn read(register: u64) -> u32 {
    // SAFETY: a register of the local APIC, which the direct map maps uncached.
    unsafe { super::direct(APIC + register).cast::<u32>().read_volatile() }
}
fn write(register: u64, v: u32) {
    // SAFETY: as above.
    unsafe { super::direct(APIC + register).cast::<u32>().write_volatile(v) }
}

/// The time-stamp counter.
pub(crate) fn ticks() -> u64 {
    // SAFETY: reads a counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Nanoseconds since the start.
pub(crate) fn now_ns() -> u64 {
    let since = ticks().wrapping_sub(TSC_ZERO.load(Relaxed));
    (u128::from(since) * 10_000_000 / u128::from(TSC_10MS.load(Relaxed))) as u64
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

/// Starts the clock. => once, on the first CPU; the direct map reaches the APIC.
pub(crate) fn init() {
    // The old controllers say nothing.
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
    // SAFETY: switches the local APIC on where it is at reset.
    unsafe { wrmsr(0x1b, APIC | 1 << 11 | 1 << 8) };
    write(SPURIOUS, 1 << 8 | u32::from(SPURIOUS_VECTOR));
    write(DIVIDE, 3);
    write(LVT_TIMER, 1 << 16);
    write(INITIAL, u32::MAX);
    let before = ticks();
    wait_10ms();
    let (counted, tsc) = (u32::MAX - read(CURRENT), ticks() - before);
    TSC_10MS.store(tsc.max(1), Relaxed);
    TSC_ZERO.store(before, Relaxed);
    write(LVT_TIMER, 1 << 17 | u32::from(TIMER));
    write(INITIAL, (u64::from(counted) * 100 / HZ).max(1) as u32);
}

/// An interrupt came.
pub(super) fn interrupt(vector: u8) {
    match vector {
        SPURIOUS_VECTOR => return,
        TIMER => crate::sched::tick(),
        SERIAL => crate::fs::arrived(),
        _ => {}
    }
    write(EOI, 0);
}
