//! Copies between the kernel and programs: their addresses are touched as if they were the kernel's.

use core::arch::asm;

/// Copies; gives how many bytes were not copied.
///
/// # Safety
/// 1. One side is kernel memory of `len` bytes that is good for it, the other programs' addresses.
pub(in crate::arch) unsafe fn copy(from: *const u8, to: *mut u8, len: usize) -> usize {
    let left;
    // SAFETY: by 1; a fault on the program's side ends the copy with the rest in rcx.
    unsafe {
        asm!(
            "2: rep movsb",
            "3:",
            ".pushsection .fixups, \"a\"",
            ".quad 2b, 3b",
            ".popsection",
            inout("rcx") len => left,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack),
        );
    }
    left
}

pub(in crate::arch) use copy as copy_in;
pub(in crate::arch) use copy as copy_out;

/// Puts `new` at a program's word if `old` is there, as one step; gives what was there. `None`: it cannot be written.
///
/// => `at` is a program's address, aligned.
pub(in crate::arch) fn compare_exchange(at: u64, old: u32, new: u32) -> Option<u32> {
    let (mut found, mut done) = (old, 0u32);
    // SAFETY: a word of a program's; a fault ends it with `done` unset.
    unsafe {
        asm!(
            "2: lock cmpxchg dword ptr [{at}], {new:e}",
            "mov {done:e}, 1",
            "3:",
            ".pushsection .fixups, \"a\"",
            ".quad 2b, 3b",
            ".popsection",
            at = in(reg) at,
            new = in(reg) new,
            done = inout(reg) done,
            inout("eax") found,
            options(nostack),
        );
    }
    (done != 0).then_some(found)
}
