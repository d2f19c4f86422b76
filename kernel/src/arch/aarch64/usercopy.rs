//! Copies between the kernel and programs.
//!
//! What touches programs' addresses are loads and stores with a program's rights (LDTR, STTR), so the kernel can reach
//! no more than the program could, and PSTATE.PAN, where there is one, is always set. Only exclusive accesses have no
//! such form: they clear it for themselves. A trap keeps it in its frame.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::arch::USER_END;

/// There is a PSTATE.PAN.
static HAS_PAN: AtomicBool = AtomicBool::new(false);

/// Keeps the kernel from touching programs' addresses by accident, if the CPU can. => once.
pub(super) fn init() {
    let mmfr1: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, id_aa64mmfr1_el1", out(reg) mmfr1, options(nomem, nostack, preserves_flags)) }
    if mmfr1 >> 20 & 0xf != 0 {
        HAS_PAN.store(true, Ordering::Relaxed);
        // SAFETY: sets PSTATE.PAN; SCTLR_EL1.SPAN is clear, so exceptions set it too.
        unsafe { asm!(".arch_extension pan", "msr pan, #1", options(nostack, preserves_flags)) }
    }
}

/// A copy, by words as long as nothing faults and there are words. What faults there is tried again by bytes, so all
/// that can be copied is.
macro_rules! copy {
    ($from:ident, $to:ident, $len:ident; $word_in:literal, $word_out:literal, $byte_in:literal, $byte_out:literal) => {{
        let left;
        // SAFETY: by the caller's word; a fault on the program's side ends the copy with what is left in `len`.
        unsafe {
            asm!(
                "20: cmp {len}, #8",
                "b.lo 4f",
                concat!("2: ", $word_in, " {t}, [{from}]"),
                concat!("3: ", $word_out, " {t}, [{to}]"),
                "add {from}, {from}, #8",
                "add {to}, {to}, #8",
                "sub {len}, {len}, #8",
                "b 20b",
                "4: cbz {len}, 7f",
                concat!("5: ", $byte_in, " {t:w}, [{from}]"),
                concat!("6: ", $byte_out, " {t:w}, [{to}]"),
                "add {from}, {from}, #1",
                "add {to}, {to}, #1",
                "sub {len}, {len}, #1",
                "b 4b",
                "7:",
                ".pushsection .fixups, \"a\"",
                ".quad 2b, 4b, 3b, 4b, 5b, 7b, 6b, 7b",
                ".popsection",
                t = out(reg) _,
                from = inout(reg) $from => _,
                to = inout(reg) $to => _,
                len = inout(reg) $len => left,
                options(nostack),
            );
        }
        left
    }};
}

/// Copies from a program; gives how many bytes were not copied. From the kernel's addresses with its own rights.
///
/// # Safety
/// 1. `to` is kernel memory of `len` bytes that is good for it.
pub(in crate::arch) unsafe fn copy_in(from: *const u8, to: *mut u8, len: usize) -> usize {
    match (from as u64) < USER_END {
        true => copy!(from, to, len; "ldtr", "str", "ldtrb", "strb"),
        false => copy!(from, to, len; "ldr", "str", "ldrb", "strb"),
    }
}

/// Copies to a program; gives how many bytes were not copied. To the kernel's addresses with its own rights.
///
/// # Safety
/// 1. `from` is kernel memory of `len` bytes; `to` are programs' addresses, or the caller's own.
pub(in crate::arch) unsafe fn copy_out(from: *const u8, to: *mut u8, len: usize) -> usize {
    match (to as u64) < USER_END {
        true => copy!(from, to, len; "ldr", "sttr", "ldrb", "sttrb"),
        false => copy!(from, to, len; "ldr", "str", "ldrb", "strb"),
    }
}

/// Puts `new` at a program's word if `old` is there, as one step; gives what was there. `None`: it cannot be written.
///
/// => `at` is a program's address, aligned.
pub(in crate::arch) fn compare_exchange(at: u64, old: u32, new: u32) -> Option<u32> {
    let (found, done): (u32, u32);
    // SAFETY: a word of a program's, which the program may read; a fault ends it with `done` unset.
    unsafe {
        asm!(
            ".arch_extension pan",
            "mov   {done:w}, #0",
            "mov   {found:w}, #0",
            "2: ldtr {found:w}, [{at}]",
            "cbz   {pan:w}, 3f",
            "msr   pan, #0",
            "3: ldaxr {found:w}, [{at}]",
            "cmp   {found:w}, {old:w}",
            "b.ne  5f",
            "4: stlxr {t:w}, {new:w}, [{at}]",
            "cbnz  {t:w}, 3b",
            "5: mov {done:w}, #1",
            "6: cbz {pan:w}, 7f",
            "msr   pan, #1",
            "7:",
            ".pushsection .fixups, \"a\"",
            ".quad 2b, 7b, 3b, 6b, 4b, 6b",
            ".popsection",
            at = in(reg) at,
            old = in(reg) old,
            new = in(reg) new,
            pan = in(reg) u32::from(HAS_PAN.load(Ordering::Relaxed)),
            t = out(reg) _,
            done = out(reg) done,
            found = out(reg) found,
            options(nostack),
        );
    }
    (done != 0).then_some(found)
}
