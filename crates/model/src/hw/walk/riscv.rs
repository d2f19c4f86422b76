//! RISC-V Sv39, Sv48, Sv57: Privileged Architecture, "Supervisor" chapter, "Addressing and
//! memory protection" and "Virtual address translation process"; Svnapot and Svpbmt.
//! SUM is 1 and MXR is 0.

use super::{Entry, LeafEntry, NextEntry, Rights};

/// Bit 0: valid.
const V: u64 = 1;
/// Bits 1 to 3: read, write, execute.
const R: u64 = 1 << 1;
const W: u64 = 1 << 2;
const X: u64 = 1 << 3;
/// Bit 4: user mode.
const U: u64 = 1 << 4;
/// Bit 5: global, or all below is.
const G: u64 = 1 << 5;
/// Bit 6: accessed.
pub(super) const A: u64 = 1 << 6;
/// Bit 7: dirty.
pub(super) const D: u64 = 1 << 7;
/// Bits 53:10.
const PPN: u64 = (1 << 54) - (1 << 10);
/// Bits 60:54 are reserved.
const RESERVED: u64 = (1 << 61) - (1 << 54);
/// Bits 62:61: memory type; 3 is reserved.
const PBMT: u64 = 3 << 61;
/// Bit 63: one of 16 that may be cached as one, at the lowest level only.
const N: u64 = 1 << 63;

pub(super) fn decode(raw: u64, level: u8) -> Entry {
    if raw & V == 0 {
        return Entry::Invalid;
    }
    if raw & RESERVED != 0 || raw & PBMT == PBMT {
        return Entry::Reserved;
    }
    let ppn = (raw & PPN) >> 10;
    if raw & (R | W | X) == 0 {
        // A pointer: D, A, U, PBMT and N are for future use and must be zero.
        if level == 1 || raw & (D | A | U | PBMT | N) != 0 {
            return Entry::Reserved;
        }
        return Entry::Next(NextEntry {
            table: ppn,
            mask: Rights::all(),
            global: raw & G != 0,
            accessed: true,
        });
    }
    // Writable and not readable is reserved; a superpage is aligned to its size.
    let size = (1u64 << (9 * (u32::from(level) - 1))) - 1;
    if raw & (R | W) == W || ppn & size != 0 {
        return Entry::Reserved;
    }
    // 64 KiB: the low four bits of the PPN encode the size (1000) and come from the
    // address instead. The caller passes which one of the 16 it looked at.
    let napot = raw & N != 0;
    if napot && (level != 1 || ppn & 15 != 8) {
        return Entry::Reserved;
    }
    Entry::Leaf(LeafEntry {
        pfn: if napot { ppn & !15 } else { ppn },
        rights: rights(raw),
        accessed: raw & A != 0,
        dirty: raw & D != 0,
        global: raw & G != 0,
        run: if napot { 4 } else { 9 * (level - 1) },
        attr: ((raw & PBMT) >> 61) as u8,
    })
}

fn rights(raw: u64) -> Rights {
    let mut r = Rights::empty();
    if raw & U != 0 {
        r.set(Rights::UR, raw & R != 0);
        r.set(Rights::UW, raw & W != 0);
        r.set(Rights::UX, raw & X != 0);
        // SUM lets the kernel read and write user pages; it never executes them.
        r.set(Rights::KR, raw & R != 0);
        r.set(Rights::KW, raw & W != 0);
    } else {
        r.set(Rights::KR, raw & R != 0);
        r.set(Rights::KW, raw & W != 0);
        r.set(Rights::KX, raw & X != 0);
    }
    r
}
