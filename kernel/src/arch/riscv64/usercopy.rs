//! Copies between the kernel and programs.
//!
//! A copy touches the program's addresses, which sstatus.SUM allows meanwhile. A trap keeps SUM in its frame.

use core::arch::asm;

use super::cpu::SUM;

/// Copies; gives how many bytes were not copied. By words where both sides are aligned.
///
/// # Safety
/// 1. One side is kernel memory of `len` bytes that is good for it, the other programs' addresses.
pub(in crate::arch) unsafe fn copy(from: *const u8, to: *mut u8, len: usize) -> usize {
    let left;
    // SAFETY: by 1; a fault on the program's side ends the copy with what is left in `len`.
    unsafe {
        asm!(
            "csrs sstatus, {sum}",
            "or   {t}, {from}, {to}",
            "andi {t}, {t}, 7",
            "bnez {t}, 4f",
            "20: sltiu {t}, {len}, 8",
            "bnez {t}, 4f",
            "2: ld {t}, ({from})",
            "3: sd {t}, ({to})",
            "addi {from}, {from}, 8",
            "addi {to}, {to}, 8",
            "addi {len}, {len}, -8",
            "j 20b",
            "4: beqz {len}, 7f",
            "5: lb {t}, ({from})",
            "6: sb {t}, ({to})",
            "addi {from}, {from}, 1",
            "addi {to}, {to}, 1",
            "addi {len}, {len}, -1",
            "j 4b",
            "7: csrc sstatus, {sum}",
            ".pushsection .fixups, \"a\"",
            ".quad 2b, 7b, 3b, 7b, 5b, 7b, 6b, 7b",
            ".popsection",
            sum = in(reg) SUM,
            t = out(reg) _,
            from = inout(reg) from => _,
            to = inout(reg) to => _,
            len = inout(reg) len => left,
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
    let (found, done): (u64, u64);
    // SAFETY: a word of a program's; a fault ends it with `done` unset. LR gives a word with its sign extended.
    unsafe {
        asm!(
            "li   {done}, 0",
            "csrs sstatus, {sum}",
            "2: lr.w.aqrl {found}, ({at})",
            "bne  {found}, {old}, 4f",
            "3: sc.w.aqrl {t}, {new}, ({at})",
            "bnez {t}, 2b",
            "4: li {done}, 1",
            "5: csrc sstatus, {sum}",
            ".pushsection .fixups, \"a\"",
            ".quad 2b, 5b, 3b, 5b",
            ".popsection",
            sum = in(reg) SUM,
            at = in(reg) at,
            old = in(reg) i64::from(old as i32),
            new = in(reg) new,
            t = out(reg) _,
            done = out(reg) done,
            found = out(reg) found,
            options(nostack),
        );
    }
    (done != 0).then_some(found as u32)
}
