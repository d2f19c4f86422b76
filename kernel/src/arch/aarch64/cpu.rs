//! Registers, interrupts on and off, the end.

use core::arch::asm;

use super::super::{single, stack};
use super::{gic, pages, trap, usercopy};

/// In DAIF and SPSR_EL1: interrupts are off.
pub(super) const IRQ_OFF: u64 = 1 << 7;

/// Sets this CPU up: its own structure, traps, interrupts.
///
/// => once, interrupts off.
pub(crate) fn init(number: u16) {
    assert!(number == 0, "this kernel runs on one CPU");
    // SAFETY: TPIDR_EL1 is the kernel's; programs may use floating point and vectors, and read the virtual counter.
    unsafe {
        asm!("msr tpidr_el1, {}", in(reg) single::local(), options(nostack, preserves_flags));
        asm!("msr vbar_el1, {}", in(reg) trap::vectors(), options(nostack, preserves_flags));
        asm!("msr cpacr_el1, {}", in(reg) 3u64 << 20, options(nostack, preserves_flags));
        asm!("msr cntkctl_el1, {}", "isb", in(reg) 2u64, options(nostack, preserves_flags));
    }
    usercopy::init();
    gic::init();
}

/// Switches interrupts off; gives whether they were on.
#[inline]
pub(crate) fn interrupts_off() -> bool {
    let flags: u64;
    // SAFETY: reads DAIF and sets I.
    unsafe { asm!("mrs {}, daif", "msr daifset, #2", out(reg) flags, options(nostack, preserves_flags)) }
    flags & IRQ_OFF == 0
}
/// Switches them on if they were.
#[inline]
pub(crate) fn interrupts_restore(on: bool) {
    if on {
        // SAFETY: who switched them off is ready for them.
        unsafe { asm!("msr daifclr, #2", options(nostack, preserves_flags)) }
    }
}

/// Sleeps until an interrupt has come. => interrupts are off, and are so again on return.
pub(crate) fn wait_for_interrupt() {
    // SAFETY: WFI goes on for a pending interrupt that is not let in, so none is missed.
    unsafe { asm!("dsb sy", "wfi", "msr daifclr, #2", "isb", "msr daifset, #2", options(nostack)) }
}

/// Stops this CPU for good.
pub(crate) fn halt() -> ! {
    loop {
        // SAFETY: nothing follows.
        unsafe { asm!("msr daifset, #0xf", "wfi", options(nomem, nostack)) }
    }
}

/// Ends QEMU with this status if it takes semihosting calls (SYS_EXIT), else with 0 (PSCI's SYSTEM_OFF).
pub(crate) fn exit(code: u32) -> ! {
    /// ADP_Stopped_ApplicationExit.
    const ENDED: u64 = 0x2_0026;
    let block = [ENDED, u64::from(code)];
    // SAFETY: reads the block and ends; where nobody takes the call it is undefined, and the next instruction follows.
    unsafe {
        asm!(
            "2: hlt #0xf000",
            "3: .pushsection .fixups, \"a\"",
            ".quad 2b, 3b",
            ".popsection",
            inout("x0") 0x18u64 => _,
            in("x1") block.as_ptr(),
            options(nostack),
        );
        asm!("hvc #0", in("x0") 0x8400_0008u64, options(nostack));
    }
    halt()
}

/// Prints what looks like return addresses on this page of the stack.
pub(crate) fn back_trace() {
    let sp: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, sp", out(reg) sp, options(nomem, nostack, preserves_flags)) }
    let end = (sp | 0xfff) + 1;
    // SAFETY: the page that the stack pointer is on.
    unsafe { stack::trace(sp & !7, ((end - (sp & !7)) / 8) as usize) }
}

/// The text of /proc/cpuinfo.
pub(crate) fn cpu_info(cpus: u32) -> alloc::string::String {
    use core::fmt::Write;
    let midr: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, midr_el1", out(reg) midr, options(nomem, nostack, preserves_flags)) }
    let mut t = alloc::string::String::new();
    for cpu in 0..cpus {
        let _ = write!(t, "processor\t: {cpu}\nFeatures\t:");
        pages::features().for_each(|(_, name)| {
            let _ = write!(t, " {name}");
        });
        let _ = writeln!(t, "\nCPU implementer\t: {:#04x}\nCPU architecture: 8", midr >> 24 & 0xff);
        let _ = writeln!(t, "CPU variant\t: {:#x}\nCPU part\t: {:#05x}", midr >> 20 & 0xf, midr >> 4 & 0xfff);
        let _ = writeln!(t, "CPU revision\t: {}\n", midr & 0xf);
    }
    t
}
