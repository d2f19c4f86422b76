//! AArch64 stage 1, EL1&0, 4 KiB granule, 48-bit addresses both ways: Arm ARM (DDI 0487)
//! D8.3, "Translation table descriptor formats", and D8.4, "Memory access control".
//! Their level 3 is our level 1. FEAT_LPA2, FEAT_HPDS and FEAT_S1PIE are off.

use super::{Entry, LeafEntry, NextEntry, Rights, Updates};

/// Bits 1:0 of a table descriptor, and of a page at the last level.
const TABLE_OR_PAGE: u64 = 0b11;
/// Bits 1:0 of a block.
const BLOCK: u64 = 0b01;
/// Bits 4:2: AttrIndx.
const ATTR_SHIFT: u32 = 2;
/// Bit 6: AP\[1\], EL0 may access.
const AP_EL0: u64 = 1 << 6;
/// Bit 7: AP\[2\], no writes. With DBM: writable and clean.
pub(super) const AP_READ_ONLY: u64 = 1 << 7;
/// Bit 10: accessed.
pub(super) const AF: u64 = 1 << 10;
/// Bit 11: not global.
const NG: u64 = 1 << 11;
/// Bit 51: dirty-bit modifier.
const DBM: u64 = 1 << 51;
/// Bit 52: one of 16 that may be cached as one.
const CONTIGUOUS: u64 = 1 << 52;
/// Bit 53: EL1 does not execute.
const PXN: u64 = 1 << 53;
/// Bit 54: EL0 does not execute.
const UXN: u64 = 1 << 54;
/// Bit 59 of a table descriptor: PXN for all below.
const PXN_TABLE: u64 = 1 << 59;
/// Bit 60 of a table descriptor: UXN for all below.
const UXN_TABLE: u64 = 1 << 60;
/// Bit 61 of a table descriptor, APTable\[0\]: no EL0 access below.
const AP_TABLE_NO_EL0: u64 = 1 << 61;
/// Bit 62 of a table descriptor, APTable\[1\]: no writes below.
const AP_TABLE_READ_ONLY: u64 = 1 << 62;

const ADDR: u64 = (1 << 48) - 4096;
/// Bits 50:48, RES0 without FEAT_LPA2; bit 50 is GP of a page (FEAT_BTI) and not used.
const RES0: u64 = 0b111 << 48;

pub(super) fn decode(raw: u64, level: u8, hw: Updates) -> Entry {
    if raw & 1 == 0 {
        return Entry::Invalid;
    }
    let kind = raw & 3;
    // Type 0b01 at the last level and at the root (level 0, without FEAT_LPA2) is reserved.
    if raw & RES0 != 0 || kind == BLOCK && (level == 1 || level > 3) {
        return Entry::Reserved;
    }
    if kind == TABLE_OR_PAGE && level > 1 {
        let mut mask = Rights::all();
        if raw & AP_TABLE_NO_EL0 != 0 {
            mask -= Rights::UR | Rights::UW;
        }
        if raw & AP_TABLE_READ_ONLY != 0 {
            mask -= Rights::WRITE;
        }
        if raw & UXN_TABLE != 0 {
            mask -= Rights::UX;
        }
        if raw & PXN_TABLE != 0 {
            mask -= Rights::KX;
        }
        return Entry::Next(NextEntry { table: (raw & ADDR) >> 12, mask, global: false, accessed: true });
    }
    let size = (1u64 << (12 + 9 * (u32::from(level) - 1))) - 1;
    // Blocks: RES0 between bit 12 and the address (bit 16, nT, is not used).
    if raw & ADDR & size != 0 {
        return Entry::Reserved;
    }
    Entry::Leaf(LeafEntry {
        pfn: (raw & ADDR) >> 12,
        rights: rights(raw, hw),
        accessed: raw & AF != 0,
        dirty: raw & AP_READ_ONLY == 0,
        global: raw & NG == 0,
        run: 9 * (level - 1) + if raw & CONTIGUOUS != 0 { 4 } else { 0 },
        attr: (raw >> ATTR_SHIFT & 7) as u8,
    })
}

/// Table D8 of "Stage 1 data accesses" and of "instruction accesses" (WXN off, PAN off).
fn rights(raw: u64, hw: Updates) -> Rights {
    let write = raw & AP_READ_ONLY == 0 || raw & DBM != 0 && hw.dirty;
    let el0 = raw & AP_EL0 != 0;
    let mut r = Rights::KR;
    r.set(Rights::KW, write);
    r.set(Rights::UR, el0);
    r.set(Rights::UW, el0 && write);
    // Execution at EL0 does not need read access.
    r.set(Rights::UX, raw & UXN == 0);
    // What EL0 may write, EL1 does not execute.
    r.set(Rights::KX, raw & PXN == 0 && !(el0 && write));
    r
}
