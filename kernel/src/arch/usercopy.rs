//! Bytes between the kernel and programs, on every machine.
//!
//! The copies of the machine touch the program's addresses; the fault handler brings absent pages. What cannot be
//! brought makes a copy end early: the handler looks the instruction up in a table and goes on where the table says.

use super::machine::usercopy::{compare_exchange, copy_in, copy_out};
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
    let Some([_, to]) = table.iter().find(|[at, _]| *at == f.pc()) else { return false };
    f.go_to(*to);
    true
}

/// Is it a range of programs' addresses?
fn is_user(at: u64, len: usize) -> bool {
    at.checked_add(len as u64).is_some_and(|end| end <= USER_END)
}

/// Reads a program's memory; gives how many bytes were had.
pub(crate) fn copy_from_user(at: u64, buf: &mut [u8]) -> usize {
    if !is_user(at, buf.len()) {
        return 0;
    }
    // SAFETY: `buf` is the kernel's.
    buf.len() - unsafe { copy_in(at as *const u8, buf.as_mut_ptr(), buf.len()) }
}

/// Writes a program's memory; gives how many bytes were put.
pub(crate) fn copy_to_user(at: u64, data: &[u8]) -> usize {
    if !is_user(at, data.len()) {
        return 0;
    }
    // SAFETY: `data` is the kernel's.
    data.len() - unsafe { copy_out(data.as_ptr(), at as *mut u8, data.len()) }
}

/// Reads a word at any address through the MMU; `None`: that faults, and nobody could help.
pub(crate) fn load(at: u64) -> Option<u64> {
    let mut word = [0; 8];
    // SAFETY: `word` is the kernel's; any bytes are a number.
    let left = unsafe { copy_in(at as *const u8, word.as_mut_ptr(), 8) };
    (left == 0).then(|| u64::from_le_bytes(word))
}

/// Writes one.
///
/// # Safety
/// 1. What is there, if anything, is nobody's but the caller's.
pub(crate) unsafe fn store(at: u64, word: u64) -> Option<()> {
    let word = word.to_le_bytes();
    // SAFETY: `word` is the kernel's; the other side is the caller's by 1, or faults.
    let left = unsafe { copy_out(word.as_ptr(), at as *mut u8, 8) };
    (left == 0).then_some(())
}

/// Puts `new` at a program's word if `old` is there, as one step; gives what was there. `None`: it cannot be written.
pub(crate) fn compare_exchange_user(at: u64, old: u32, new: u32) -> Option<u32> {
    if !is_user(at, 4) || !at.is_multiple_of(4) {
        return None;
    }
    compare_exchange(at, old, new)
}
