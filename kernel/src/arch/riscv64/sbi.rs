//! Calls of the firmware (RISC-V Supervisor Binary Interface Specification).

use core::arch::asm;

const TIME: u64 = 0x5449_4d45;

/// The timer interrupts when the clock's count is `at`, and no longer does before.
pub(in crate::arch) fn set_timer(at: u64) {
    // SAFETY: sbi_set_timer (chapter "Timer Extension") touches no memory; it may change a0 and a1 only.
    unsafe {
        asm!("ecall", inlateout("a0") at => _, out("a1") _, in("a6") 0, in("a7") TIME, options(nostack))
    }
}
