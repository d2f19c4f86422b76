//! x86-64: Intel SDM volume 3A, chapter 5 (4 in older editions), "Paging", tables on the
//! format of PML5E, PML4E, PDPTE, PDE and PTE; rights: "Access rights".

use super::{Entry, LeafEntry, NextEntry, Rights};

/// Bit 0: present.
const P: u64 = 1;
/// Bit 1: writes allowed.
const RW: u64 = 1 << 1;
/// Bit 2: user-mode accesses allowed.
const US: u64 = 1 << 2;
/// Bits 3 and 4: write-through, cache disable.
const PWT_PCD: u64 = 3 << 3;
/// Bit 5: accessed.
pub(super) const A: u64 = 1 << 5;
/// Bit 6 of an entry that maps a page: dirty.
pub(super) const D: u64 = 1 << 6;
/// Bit 7 of a PDE or PDPTE: maps a page; of a PTE: PAT.
const PS: u64 = 1 << 7;
/// Bit 8 of an entry that maps a page: global (CR4.PGE is on).
const G: u64 = 1 << 8;
/// Bit 12 of an entry that maps a large page: PAT.
const PAT_LARGE: u64 = 1 << 12;
/// Bit 63: no execution (EFER.NXE is on).
const XD: u64 = 1 << 63;

/// Physical-address width of the machine (CPUID 80000008h); bits from here to 51 are
/// reserved.
const MAXPHYADDR: u32 = 46;
const ADDR: u64 = (1 << 52) - 4096;
const ABOVE_MAX: u64 = ((1 << 52) - 1) & !((1 << MAXPHYADDR) - 1);

/// CR0.WP and SMEP are on, SMAP is off, protection keys are off.
fn mask(raw: u64) -> Rights {
    let mut r = Rights::all();
    if raw & RW == 0 {
        r -= Rights::WRITE;
    }
    if raw & US == 0 {
        r -= Rights::USER;
    }
    if raw & XD != 0 {
        r -= Rights::EXEC;
    }
    r
}

pub(super) fn decode(raw: u64, level: u8) -> Entry {
    if raw & P == 0 {
        return Entry::Invalid;
    }
    if raw & ABOVE_MAX != 0 {
        return Entry::Reserved;
    }
    if level > 1 && raw & PS == 0 {
        return Entry::Next(NextEntry {
            table: (raw & ADDR) >> 12,
            mask: mask(raw),
            global: false,
            accessed: raw & A != 0,
        });
    }
    // PML4E and PML5E: bit 7 is reserved. Large pages: the bits between PAT and the
    // address are.
    let size = (1u64 << (12 + 9 * (u32::from(level) - 1))) - 1;
    if level > 3 || level > 1 && raw & ADDR & size & !PAT_LARGE != 0 {
        return Entry::Reserved;
    }
    let pat = if level > 1 { raw >> 12 & 1 } else { raw >> 7 & 1 };
    let addr = raw & ADDR & !size;
    Entry::Leaf(LeafEntry {
        pfn: addr >> 12,
        // User pages are not executed by the kernel (SMEP); which a page is only the
        // whole path says, so that is taken off at the end of the walk.
        rights: mask(raw),
        accessed: raw & A != 0,
        dirty: raw & D != 0,
        global: raw & G != 0,
        run: 9 * (level - 1),
        attr: (pat << 2 | (raw & PWT_PCD) >> 3) as u8,
    })
}
