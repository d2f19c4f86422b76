//! Whole frames, and what programs are told that the CPU can do.

use core::arch::asm;

use machvm_hal::Pfn;

use crate::arch::direct;

/// Clears a frame: 512 stores, as Linux's `clear_page` does without ERMS. => the caller owns it.
pub(crate) fn zero_page(f: Pfn) {
    // SAFETY: the caller owns the frame; it is in the direct map.
    unsafe {
        asm!(
            "rep stosq",
            inout("rcx") 512u64 => _,
            inout("rdi") direct(f.byte()) => _,
            in("rax") 0u64,
            options(nostack, preserves_flags),
        );
    }
}

/// Copies a frame. => the caller owns `to`.
pub(crate) fn copy_page(from: Pfn, to: Pfn) {
    // SAFETY: two frames in the direct map; a program that writes the first meanwhile gives old or new bytes.
    unsafe {
        asm!(
            "rep movsq",
            inout("rcx") 512u64 => _,
            inout("rsi") direct(from.byte()) => _,
            inout("rdi") direct(to.byte()) => _,
            options(nostack, preserves_flags),
        );
    }
}

/// Instructions were written into a frame: this machine sees that by itself.
pub(crate) fn sync_icache(_frame: Pfn) {}

/// The pmap's root of the kernel's half, which is in every root here.
pub(crate) fn use_kernel_root(_root: Pfn) {}

/// AT_HWCAP.
pub(crate) fn hwcap() -> u64 {
    core::arch::x86_64::__cpuid(1).edx.into()
}
