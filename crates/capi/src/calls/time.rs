//! `mach_absolute_time` and its kin: Linux's clocks, in nanoseconds.

use crate::kr;
use crate::types::kern_return_t;

/// `mach_timebase_info_data_t`: ticks times `numer` divided by `denom` are nanoseconds.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimebaseInfo {
    /// 1.
    pub numer: u32,
    /// 1.
    pub denom: u32,
}

/// A clock that every Linux has, in nanoseconds.
fn read(clock: libc::clockid_t) -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is good for writing.
    unsafe { libc::clock_gettime(clock, &raw mut now) };
    now.tv_sec.cast_unsigned().wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec.cast_unsigned())
}

/// Tells what a tick is.
///
/// # Safety
/// 1. `info` is null or good for writing one structure.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mach_timebase_info(info: *mut TimebaseInfo) -> kern_return_t {
    if info.is_null() {
        return kr::KERN_INVALID_ARGUMENT;
    }
    // SAFETY: 1.
    unsafe { info.write(TimebaseInfo { numer: 1, denom: 1 }) };
    kr::KERN_SUCCESS
}

/// Ticks while the machine runs.
#[unsafe(no_mangle)]
pub extern "C" fn mach_absolute_time() -> u64 {
    read(libc::CLOCK_MONOTONIC)
}

/// As [`mach_absolute_time`], as of the last timer interrupt.
#[unsafe(no_mangle)]
pub extern "C" fn mach_approximate_time() -> u64 {
    read(libc::CLOCK_MONOTONIC_COARSE)
}

/// Ticks also while it sleeps.
#[unsafe(no_mangle)]
pub extern "C" fn mach_continuous_time() -> u64 {
    read(libc::CLOCK_BOOTTIME)
}

/// As [`mach_continuous_time`]; Linux has no coarser clock that counts so.
#[unsafe(no_mangle)]
pub extern "C" fn mach_continuous_approximate_time() -> u64 {
    read(libc::CLOCK_BOOTTIME)
}
