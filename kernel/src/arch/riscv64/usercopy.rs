//! Bytes between the kernel and programs.
//!
//! The copy touches the program's addresses, which sstatus.SUM allows meanwhile; the fault handler brings absent pages.
//! What cannot be brought makes the copy end early: the handler looks the instruction up in a table and goes on where
//! the table says. A trap keeps SUM in its frame.

use core::arch::asm;

use super::cpu::SUM;
use super::{Frame, USER_END};

unsafe extern "C" {
    static __fixups_start: [u64; 2];
    static __fixups_end: [u64; 2];
}

/// Goes on behind a copy that cannot be done. `false`: the instruction is no such copy.
pub(crate) fn fix_up(f: &mut Frame) -> bool {
    // SAFETY: the linker's table, which does not change.
    let table = unsafe {
        let (start, end) = (&raw const __fixups_start, &raw const __fixups_end);
        core::slice::from_raw_parts(start, end.offset_from_unsigned(start))
    };
    let Some([_, to]) = table.iter().find(|[at, _]| *at == f.pc) else { return false };
    f.pc = *to;
    true
}

/// Is it a range of programs' addresses?
fn is_user(at: u64, len: usize) -> bool {
    at.checked_add(len as u64).is_some_and(|end| end <= USER_END)
}

/// Copies; gives how many bytes were not copied. By words where both sides are aligned.
///
/// # Safety
/// 1. One side is kernel memory of `len` bytes that is good for it, the other programs' addresses.
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) -> usize {
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

/// Reads a program's memory; gives how many bytes were had.
pub(crate) fn copy_from_user(at: u64, buf: &mut [u8]) -> usize {
    if !is_user(at, buf.len()) {
        return 0;
    }
    // SAFETY: `buf` is the kernel's.
    buf.len() - unsafe { copy(at as *const u8, buf.as_mut_ptr(), buf.len()) }
}

/// Writes a program's memory; gives how many bytes were put.
pub(crate) fn copy_to_user(at: u64, data: &[u8]) -> usize {
    if !is_user(at, data.len()) {
        return 0;
    }
    // SAFETY: `data` is the kernel's.
    data.len() - unsafe { copy(data.as_ptr(), at as *mut u8, data.len()) }
}

/// Reads a word at any address through the MMU; `None`: that faults, and nobody could help.
pub(crate) fn load(at: u64) -> Option<u64> {
    let mut word = [0; 8];
    // SAFETY: `word` is the kernel's; any bytes are a number.
    let left = unsafe { copy(at as *const u8, word.as_mut_ptr(), 8) };
    (left == 0).then(|| u64::from_le_bytes(word))
}

/// Writes one.
///
/// # Safety
/// 1. What is there, if anything, is nobody's but the caller's.
pub(crate) unsafe fn store(at: u64, word: u64) -> Option<()> {
    let word = word.to_le_bytes();
    // SAFETY: `word` is the kernel's; the other side is the caller's by 1, or faults.
    let left = unsafe { copy(word.as_ptr(), at as *mut u8, 8) };
    (left == 0).then_some(())
}

/// Puts `new` at a program's word if `old` is there, as one step; gives what was there. `None`: it cannot be written.
pub(crate) fn compare_exchange_user(at: u64, old: u32, new: u32) -> Option<u32> {
    if !is_user(at, 4) || !at.is_multiple_of(4) {
        return None;
    }
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
