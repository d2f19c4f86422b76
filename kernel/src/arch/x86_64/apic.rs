//! The local APIC: this CPU's timer, and interrupts from one CPU to another.

use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

use super::cpu::{outb, wrmsr};
use crate::MAX_CPUS;
use crate::lock::NoInterrupts;

/// The local APIC's registers.
pub(super) const APIC: u64 = 0xfee0_0000;
const ID: u64 = 0x20;
const EOI: u64 = 0xb0;
const SPURIOUS: u64 = 0xf0;
const COMMAND: u64 = 0x300;
const COMMAND_TO: u64 = 0x310;
const LVT_TIMER: u64 = 0x320;
const INITIAL: u64 = 0x380;
const CURRENT: u64 = 0x390;
const DIVIDE: u64 = 0x3e0;

/// In COMMAND: not delivered yet; level, asserted; INIT; start at a page.
const PENDING: u32 = 1 << 12;
const ASSERT: u32 = 1 << 14;
const INIT: u32 = 5 << 8;
const START: u32 = 6 << 8;

/// The serial line's vector.
pub(super) const SERIAL: u8 = 0xe4;
/// Of all devices that send messages.
pub(super) const DEVICE: u8 = 0xe6;
/// The timer's.
pub(super) const TIMER: u8 = 0xf0;
/// Another CPU wants this one to look who should run.
pub(super) const RESCHEDULE: u8 = 0xf1;
/// Another CPU put something in this one's mailbox.
pub(super) const SHOOTDOWN: u8 = 0xf2;
/// Of interrupts that went away.
pub(super) const SPURIOUS_VECTOR: u8 = 0xff;

/// The APICs' numbers, by CPU.
static IDS: [AtomicU8; MAX_CPUS] = [const { AtomicU8::new(0) }; MAX_CPUS];

fn read(register: u64) -> u32 {
    // SAFETY: a register of the local APIC, which the direct map maps uncached.
    unsafe { crate::arch::direct(APIC + register).cast::<u32>().read_volatile() }
}
fn write(register: u64, v: u32) {
    // SAFETY: as above.
    unsafe { crate::arch::direct(APIC + register).cast::<u32>().write_volatile(v) }
}

/// Switches it on; its timer is off. => once on each CPU; the direct map reaches it.
pub(super) fn init() {
    // SAFETY: switches the local APIC on where it is at reset.
    unsafe {
        let base = super::cpu::rdmsr(0x1b);
        wrmsr(0x1b, base & 1 << 8 | APIC | 1 << 11);
    }
    write(SPURIOUS, 1 << 8 | u32::from(SPURIOUS_VECTOR));
    write(DIVIDE, 3);
    write(LVT_TIMER, 1 << 16 | u32::from(TIMER));
}

/// The old controllers say nothing. => once.
pub(super) fn mask_old() {
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
}

/// The number of this CPU's.
pub(super) fn id() -> u8 {
    (read(ID) >> 24) as u8
}
/// CPU `cpu`'s has this number.
pub(super) fn set_id(cpu: usize, id: u8) {
    IDS[cpu].store(id, Relaxed);
}

/// The interrupt is served.
pub(super) fn done() {
    write(EOI, 0);
}

/// Counts down from `counts`, once; says so by an interrupt unless `quiet`.
pub(super) fn count(counts: u32, quiet: bool) {
    write(LVT_TIMER, u32::from(quiet) << 16 | u32::from(TIMER));
    write(INITIAL, counts);
}
/// Counts that are left.
pub(super) fn left() -> u32 {
    read(CURRENT)
}

fn command(id: u8, what: u32) {
    let _off = NoInterrupts::new();
    while read(COMMAND) & PENDING != 0 {
        core::hint::spin_loop();
    }
    write(COMMAND_TO, u32::from(id) << 24);
    write(COMMAND, what);
}

/// Interrupts these CPUs. What this one wrote before is seen by their handlers.
pub(super) fn interrupt(cpus: u64, vector: u8) {
    // The registers are uncached: stores before are seen first.
    for (cpu, id) in IDS.iter().enumerate() {
        if cpus & 1 << cpu != 0 {
            command(id.load(Relaxed), ASSERT | u32::from(vector));
        }
    }
}

/// Resets another CPU, which then waits.
pub(super) fn reset(id: u8) {
    command(id, ASSERT | INIT);
}
/// Starts it in real mode at the page at `at`. => below 1 MiB.
pub(super) fn start(id: u8, at: u64) {
    command(id, ASSERT | START | (at >> 12) as u32);
}
