//! Time: the virtual counter and its timer.

use core::arch::asm;

use super::super::clock;
use crate::arch::direct;

/// The clock that runs on: seconds since 1970 (a PL031).
const RTC: u64 = 0x901_0000;

/// The counter.
pub(crate) fn ticks() -> u64 {
    let n;
    // SAFETY: reads a counter.
    unsafe { asm!("mrs {}, cntvct_el0", out(reg) n, options(nomem, nostack, preserves_flags)) }
    n
}

/// Starts the clock. => once; the direct map reaches the battery's clock.
pub(crate) fn init() {
    let hz: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, cntfrq_el0", out(reg) hz, options(nomem, nostack, preserves_flags)) }
    clock::set_frequency(hz);
    // SAFETY: a register.
    let seconds = unsafe { direct(RTC).cast::<u32>().read_volatile() };
    clock::start(u64::from(seconds) * 1_000_000_000);
}

/// The timer interrupts when the count is `at`, and no longer does before.
pub(in crate::arch) fn set_alarm(at: u64) {
    // SAFETY: the virtual timer is the kernel's.
    unsafe {
        asm!("msr cntv_cval_el0, {}", "msr cntv_ctl_el0, {}", "isb", in(reg) at, in(reg) 1u64,
            options(nostack, preserves_flags));
    }
}

/// The timer interrupted.
pub(super) fn interrupt(from_user: bool) {
    // It would go on doing so.
    // SAFETY: as above.
    unsafe { asm!("msr cntv_ctl_el0, xzr", "isb", options(nostack, preserves_flags)) }
    crate::sched::timer(from_user);
}
