//! Whole frames.

use core::arch::asm;

use machvm_hal::{PAGE_SIZE, Pfn};

use super::direct;

/// Clears a frame. => the caller owns it.
pub(crate) fn zero_page(f: Pfn) {
    // SAFETY: the caller owns the frame; it is in the direct map.
    unsafe { direct(f.byte()).cast::<u64>().write_bytes(0, PAGE_SIZE as usize / 8) }
}

/// Copies a frame. => the caller owns `to`.
pub(crate) fn copy_page(from: Pfn, to: Pfn) {
    // SAFETY: two frames in the direct map; a program that writes the first meanwhile gives old or new bytes.
    unsafe {
        direct(to.byte())
            .cast::<u64>()
            .copy_from_nonoverlapping(direct(from.byte()).cast(), PAGE_SIZE as usize / 8);
    }
}

/// Instructions were written into a frame: this hart fetches them from now on.
pub(crate) fn sync_icache(_frame: Pfn) {
    // SAFETY: a fence.
    unsafe { asm!("fence.i", options(nostack, preserves_flags)) }
}

/// The pmap's root of the kernel's half, which is in every root here. => once.
pub(crate) fn use_kernel_root(_root: Pfn) {}

/// AT_HWCAP: a bit for each of the letters i, m, a, f, d, c.
pub(crate) fn hwcap() -> u64 {
    b"imafdc".iter().fold(0, |bits, letter| bits | 1 << (letter - b'a'))
}
