//! x86-64 by hand: Intel SDM volume 3A, chapter 5, tables 5-14 to 5-20.

use machvm_hal::{Pfn, Prot};

use super::{Manual, PLAIN, bits};
use crate::pte::x86::X86;
use crate::pte::{Format, Leaf, MemAttr, Next, Pte, X86L4, X86L5};

impl<const LEVELS: u8> Manual for X86<LEVELS> {
    const PA_BITS: u32 = 52;

    /// Tables 5-14, 5-15, 5-17 and 5-19: P, R/W, U/S, A and the address. PWT and PCD (4:3)
    /// stay 0 (write-back walks), XD (63) stays 0; bits 6 and 11:8 are ignored; PS (7) is
    /// reserved or means a leaf.
    fn pointer_bits(_level: u8) -> u64 {
        bits(51, 12) | bits(5, 5) | bits(2, 0)
    }

    /// Tables 5-20 (4 KiB), 5-18 (2 MiB; bits 20:13 are reserved) and 5-16 (1 GiB; 29:13).
    /// Bits 62:52 (ignored, protection key) and 11 stay 0.
    fn leaf_bits(level: u8) -> u64 {
        let address = match level {
            1 => bits(51, 12),
            2 => bits(51, 21) | bits(12, 12),
            3 => bits(51, 30) | bits(12, 12),
            _ => 0,
        };
        bits(63, 63) | address | bits(10, 0)
    }

    fn given_back(leaf: Leaf) -> Leaf {
        Leaf { prot: leaf.prot | Prot::R, ..leaf }
    }
}

/// The same word in both formats.
fn both(level: u8, pte: Pte, raw: u64) {
    assert_eq!(X86L4::emit(pte, level), raw, "{:#x} is not {raw:#x}", X86L4::emit(pte, level));
    assert_eq!(X86L4::parse(raw, level), pte);
    assert_eq!(X86L5::emit(pte, level), raw);
    assert_eq!(X86L5::parse(raw, level), pte);
}

#[test]
fn pages_of_4_kib() {
    // Table 5-20. A user's data, written: XD | 0x12345000 | managed (10) | D (6) | A (5) |
    // U/S (2) | R/W (1) | P (0).
    let data = Leaf {
        pfn: Pfn(0x12345),
        prot: Prot::RW,
        user: true,
        accessed: true,
        dirty: true,
        managed: true,
        ..PLAIN
    };
    both(1, Pte::Leaf(data), 0x8000_0000_1234_5467);
    // Clean and not used yet, and wired (9).
    let fresh = Leaf { accessed: false, dirty: false, wired: true, ..data };
    both(1, Pte::Leaf(fresh), 0x8000_0000_1234_5607);
    // A user's text: no XD, no R/W.
    let text = Leaf { prot: Prot::R | Prot::X, dirty: false, ..data };
    both(1, Pte::Leaf(text), 0x0000_0000_1234_5425);
    // The kernel's, global (8), at the highest frame of 52 bits.
    let high = Leaf { pfn: Pfn((1 << 40) - 1), global: true, ..PLAIN };
    both(1, Pte::Leaf(high), 0x800f_ffff_ffff_f101);
    // Dirty may stay when write access goes (R/W 0, D 1 means nothing else: CR4.CET is 0).
    both(1, Pte::Leaf(Leaf { prot: Prot::R, ..data }), 0x8000_0000_1234_5465);
}

#[test]
fn pages_of_2_mib_and_1_gib() {
    // Table 5-18. The kernel's text: wired (9) | G (8) | PS (7) | A (5) | P.
    let text =
        Leaf { pfn: Pfn(0x200), prot: Prot::R | Prot::X, global: true, accessed: true, wired: true, ..PLAIN };
    both(2, Pte::Leaf(text), 0x0000_0000_0020_03a1);
    // Table 5-16. A frame buffer: XD | 1 GiB | PAT (12) | PS (7) | A (5) | PCD (4) | U/S |
    // R/W | P.
    let buffer = Leaf {
        pfn: Pfn(0x40000),
        prot: Prot::RW,
        user: true,
        accessed: true,
        attr: MemAttr::WriteCombining,
        ..PLAIN
    };
    both(3, Pte::Leaf(buffer), 0x8000_0000_4000_10b7);
    // The highest ones.
    let high = |pfn| Pte::Leaf(Leaf { pfn: Pfn(pfn), ..PLAIN });
    both(2, high(bits(39, 9)), 0x800f_ffff_ffe0_0081);
    both(3, high(bits(39, 18)), 0x800f_ffff_c000_0081);
}

/// Section 5.9.2: the PAT index is PAT, PCD, PWT; and the MSR selects what our three mean
/// ("Page Attribute Table (PAT)": 0 UC, 1 WC, 4 WT, 6 WB, 7 UC-).
#[test]
fn pm47_memory_types_are_pat_indices() {
    let of = |attr, level| X86L4::emit(Pte::Leaf(Leaf { attr, ..PLAIN }), level) & !(1 << 63);
    assert_eq!([of(MemAttr::WriteBack, 1), of(MemAttr::WriteBack, 2)], [0x01, 0x81]);
    // Bit 7 is PAT in a PTE and PS elsewhere, where PAT is bit 12.
    assert_eq!([of(MemAttr::WriteCombining, 1), of(MemAttr::WriteCombining, 2)], [0x91, 0x1091]);
    assert_eq!([of(MemAttr::Device, 1), of(MemAttr::Device, 3)], [0x19, 0x99]);

    let entry = |n: u32| X86L4::PAT >> (8 * n) & 0xff;
    assert_eq!([entry(0), entry(6), entry(3)], [6, 1, 0]);
    assert_eq!(X86L4::PAT, X86L5::PAT);
    // Only entry 6 differs from the value after reset.
    assert_eq!(X86L4::PAT ^ 0x0007_0406_0007_0406, 0x0006_0000_0000_0000);

    // The indices that we never emit are the strictest type.
    for foreign in [1u64, 2, 4, 5, 7] {
        let raw = 1 | (foreign & 3) << 3 | (foreign >> 2) << 7;
        assert!(matches!(X86L4::parse(raw, 1), Pte::Leaf(l) if l.attr == MemAttr::Device), "{foreign}");
    }
}

#[test]
fn tables_take_write_access_away() {
    // Tables 5-14 to 5-19: A | U/S | R/W | P.
    for level in 2..=4 {
        both(level, Pte::Next(Next { pfn: Pfn(0x1234), write: true, detached: false }), 0x0123_4027);
        both(level, Pte::Next(Next { pfn: Pfn(0x1234), write: false, detached: false }), 0x0123_4025);
    }
    let high = Next { pfn: Pfn((1 << 40) - 1), write: true, detached: false };
    assert_eq!(X86L5::emit(Pte::Next(high), 5), 0x000f_ffff_ffff_f027);
    // Bit 6 and bits 11:8 are ignored in a PDE that references a table (5-19).
    assert_eq!(X86L4::parse(0x0123_4f67, 2), X86L4::parse(0x0123_4027, 2));
}

/// What hardware faults on: reserved bits (section 5.7, error code RSVD).
#[test]
fn reserved_bits_are_absent() {
    // PS in a PML4E or PML5E (5-14, 5-15).
    assert_eq!(X86L4::parse(0x4000_00a7, 4), Pte::Absent);
    assert_eq!(X86L5::parse(0x4000_00a7, 4), Pte::Absent);
    assert_eq!(X86L5::parse(0x4000_00a7, 5), Pte::Absent);
    // Bits 20:13 of a 2 MiB page, 29:13 of a 1 GiB page.
    for n in 13..21 {
        assert_eq!(X86L4::parse(0x4000_00a7 | 1 << n, 2), Pte::Absent, "bit {n}");
    }
    for n in 13..30 {
        assert_eq!(X86L4::parse(0x4000_00a7 | 1 << n, 3), Pte::Absent, "bit {n}");
    }
    assert!(matches!(X86L4::parse(0x4000_10a7, 3), Pte::Leaf(l) if l.pfn == Pfn(0x40000)));
    // Not present: the rest does not count.
    assert_eq!(X86L4::parse(u64::MAX - 1, 1), Pte::Absent);
}

/// Section 5.8: the processor sets A, and A and D, and nothing else.
#[test]
fn the_processor_sets_accessed_and_dirty() {
    let clean = Leaf { pfn: Pfn(0x77), prot: Prot::RW, user: true, managed: true, ..PLAIN };
    let raw = X86L4::emit(Pte::Leaf(clean), 1);
    let read = Leaf { accessed: true, ..clean };
    let written = Leaf { dirty: true, ..read };
    assert_eq!(X86L4::parse(raw | 0x20, 1), Pte::Leaf(read));
    assert_eq!(X86L4::parse(raw | 0x60, 1), Pte::Leaf(written));
    assert_eq!(X86L4::emit(Pte::Leaf(written), 1), raw | 0x60);
    // In a pointer A is set from the start: the processor has nothing to write.
    let next = Pte::Next(Next { pfn: Pfn(1), write: true, detached: false });
    assert_eq!(X86L4::emit(next, 2) & 0x20, 0x20);
}

/// Bits 62:59 are a protection key with `CR4.PKE`, else ignored; 58:52 and 11 always are.
#[test]
fn ignored_bits_change_nothing() {
    let raw = 0x8000_0000_1234_5467;
    for n in [11, 52, 55, 58, 59, 62] {
        assert_eq!(X86L4::parse(raw | 1 << n, 1), X86L4::parse(raw, 1), "bit {n}");
    }
}
