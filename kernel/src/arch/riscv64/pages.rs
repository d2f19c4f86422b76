//! Instructions in frames, and what programs are told that the CPU can do.

use core::arch::asm;

use machvm_hal::Pfn;

/// Instructions were written into a frame: this hart fetches them from now on.
pub(crate) fn sync_icache(_frame: Pfn) {
    // SAFETY: a fence.
    unsafe { asm!("fence.i", options(nostack, preserves_flags)) }
}

/// The pmap's root of the kernel's half, which is in every root here.
pub(crate) fn use_kernel_root(_root: Pfn) {}

/// AT_HWCAP: a bit for each of the letters i, m, a, f, d, c.
pub(crate) fn hwcap() -> u64 {
    b"imafdc".iter().fold(0, |bits, letter| bits | 1 << (letter - b'a'))
}
