//! Registers, interrupts on and off, the end.

use core::arch::asm;

use super::super::{single, stack};
use crate::arch::direct;

/// sstatus: SIE; SPIE; SPP; FS all set: dirty, so that floating point always works; SUM.
pub(super) const SIE: u64 = 1 << 1;
pub(super) const SPIE: u64 = 1 << 5;
pub(super) const SPP: u64 = 1 << 8;
pub(super) const FS: u64 = 3 << 13;
pub(super) const SUM: u64 = 1 << 18;

/// Sets this CPU up: its own structure, traps, interrupts.
///
/// => once, interrupts off.
pub(crate) fn init(number: u16) {
    assert!(number == 0, "this kernel runs on one hart");
    // SAFETY: tp is the kernel's; in the kernel sscratch is zero; programs may read the clock and count instructions.
    unsafe {
        asm!("mv tp, {}", in(reg) single::local(), options(nomem, nostack));
        asm!("csrw sscratch, zero", "csrw stvec, {}", in(reg) super::trap::entry(), options(nostack));
        asm!("csrs sstatus, {}", in(reg) FS, options(nostack));
        asm!("csrc sstatus, {}", in(reg) SUM, options(nostack));
        asm!("csrw scounteren, {}", in(reg) 7, options(nostack));
        // Timer and devices.
        asm!("csrw sie, {}", in(reg) 1 << 5 | 1 << 9, options(nostack));
    }
}

/// Switches interrupts off; gives whether they were on.
#[inline]
pub(crate) fn interrupts_off() -> bool {
    let flags: u64;
    // SAFETY: reads sstatus and clears SIE.
    unsafe { asm!("csrrci {}, sstatus, 2", out(reg) flags, options(nostack)) }
    flags & SIE != 0
}
/// Switches them on if they were.
#[inline]
pub(crate) fn interrupts_restore(on: bool) {
    if on {
        // SAFETY: who switched them off is ready for them.
        unsafe { asm!("csrsi sstatus, 2", options(nostack)) }
    }
}

/// Sleeps until an interrupt has come. => interrupts are off, and are so again on return.
pub(crate) fn wait_for_interrupt() {
    // SAFETY: WFI goes on for a pending interrupt that is not let in, so none is missed.
    unsafe { asm!("wfi", "csrsi sstatus, 2", "nop", "csrci sstatus, 2", options(nostack)) }
}

/// Stops this CPU for good.
pub(crate) fn halt() -> ! {
    loop {
        // SAFETY: nothing follows.
        unsafe { asm!("csrci sstatus, 2", "wfi", options(nomem, nostack)) }
    }
}

/// Ends QEMU with this status: its finisher for tests.
pub(crate) fn exit(code: u32) -> ! {
    let word = if code == 0 { 0x5555 } else { 0x3333 | (code & 0xffff) << 16 };
    // SAFETY: the register of QEMU's virt machine, in the direct map.
    unsafe { direct(0x10_0000).cast::<u32>().write_volatile(word) }
    halt()
}

/// Prints what looks like return addresses on this page of the stack.
pub(crate) fn back_trace() {
    let sp: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mv {}, sp", out(reg) sp, options(nomem, nostack, preserves_flags)) }
    let end = (sp | 0xfff) + 1;
    // SAFETY: the page that the stack pointer is on.
    unsafe { stack::trace(sp & !7, ((end - (sp & !7)) / 8) as usize) }
}

/// The text of /proc/cpuinfo.
pub(crate) fn cpu_info(cpus: u32) -> alloc::string::String {
    use core::fmt::Write;
    let mut t = alloc::string::String::new();
    for cpu in 0..cpus {
        let _ = writeln!(t, "processor\t: {cpu}\nhart\t\t: {cpu}\nisa\t\t: rv64imafdc\nmmu\t\t: sv48\n");
    }
    t
}
