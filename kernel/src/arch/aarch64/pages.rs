//! Instructions in frames, and what programs are told that the CPU can do.

use core::arch::asm;

use machvm_hal::{PAGE_SIZE, Pfn};

use crate::arch::direct;

pub(crate) use super::paging::use_kernel_root;

/// Instructions were written into a frame: they are fetched from now on.
pub(crate) fn sync_icache(frame: Pfn) {
    let ctr: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, ctr_el0", out(reg) ctr, options(nomem, nostack, preserves_flags)) }
    let line = 4u64 << (ctr >> 16 & 0xf);
    let start = direct(frame.byte()) as u64;
    for at in (start..start + PAGE_SIZE).step_by(line as usize) {
        // SAFETY: cleans a line of the direct map.
        unsafe { asm!("dc cvau, {}", in(reg) at, options(nostack, preserves_flags)) }
    }
    // All instructions: they may be remembered under another address.
    // SAFETY: forgets instructions.
    unsafe { asm!("dsb ish", "ic ialluis", "dsb ish", "isb", options(nostack, preserves_flags)) }
}

/// Bits of AT_HWCAP: the name in /proc/cpuinfo, the place in ID_AA64ISAR0_EL1, from which value on.
const FEATURES: &[(u32, &str, u32, u64)] = &[
    (3, "aes", 4, 1),
    (4, "pmull", 4, 2),
    (5, "sha1", 8, 1),
    (6, "sha2", 12, 1),
    (7, "crc32", 16, 1),
    (8, "atomics", 20, 2),
];
/// FP and ASIMD, which every CPU here has.
const ALWAYS: [(u32, &str); 2] = [(0, "fp"), (1, "asimd")];

/// What the CPU has of that: bits and names.
pub(super) fn features() -> impl Iterator<Item = (u32, &'static str)> {
    let isar: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, id_aa64isar0_el1", out(reg) isar, options(nomem, nostack, preserves_flags)) }
    let has = move |f: &&(u32, _, u32, u64)| isar >> f.2 & 0xf >= f.3;
    ALWAYS.into_iter().chain(FEATURES.iter().filter(has).map(|f| (f.0, f.1)))
}

/// AT_HWCAP: what needs no more of a kernel than to save the registers that all have.
pub(crate) fn hwcap() -> u64 {
    features().fold(0, |bits, (bit, _)| bits | 1 << bit)
}
