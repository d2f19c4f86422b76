//! AArch64 by hand: Arm ARM D8.3 "Translation table descriptor formats".

use machvm_hal::{Pfn, Prot};

use super::{Manual, PLAIN, bits, flags};
use crate::pte::aarch64::Vmsa;
use crate::pte::{
    Aarch64, Aarch64Granule16, Aarch64Granule64, Format, Leaf, MemAttr, Next, Pte, Sv39, X86L4,
};

impl<const SHIFT: u32> Manual for Vmsa<SHIFT> {
    const PA_BITS: u32 = 48;

    /// Table descriptors: APTable\[1\] (62), the address from the granule's size
    /// up, 1:0. NSTable (63), APTable\[0\] (61), UXNTable (60) and PXNTable (59) stay 0.
    fn pointer_bits(_level: u8) -> u64 {
        bits(62, 62) | bits(47, SHIFT) | bits(1, 0)
    }

    /// Page and block descriptors: software (57:55), UXN, PXN, Contiguous, DBM (54:51), the
    /// address, nG (11) to AP (7:6), AttrIndx (4:2), 1:0. PBHA and POIndex (62:59), GP (50),
    /// 49:48, nT (16) and NS (5) stay 0.
    fn leaf_bits(level: u8) -> u64 {
        let size = match (SHIFT, level) {
            (shift, 1) => shift,
            (12, 2) => 21,
            (12, 3) => 30,
            (14, 2) => 25,
            (16, 2) => 29,
            other => panic!("no blocks: {other:?}"),
        };
        let kind = if level == 1 { bits(1, 0) } else { bits(0, 0) };
        bits(57, 51) | bits(47, size) | bits(11, 6) | bits(4, 2) | kind
    }

    fn given_back(leaf: Leaf) -> Leaf {
        // Only EL0 can be kept from reading what it executes (AP\[2:1\]).
        if leaf.user { leaf } else { Leaf { prot: leaf.prot | Prot::R, ..leaf } }
    }
}

fn word<F: Format>(level: u8, pte: Pte, raw: u64) {
    assert_eq!(F::emit(pte, level), raw, "{}: {:#x} is not {raw:#x}", F::NAME, F::emit(pte, level));
    assert_eq!(F::parse(raw, level), pte, "{}: {raw:#x}", F::NAME);
}

const USER_DATA: Leaf =
    Leaf { pfn: Pfn(0x40000), prot: Prot::RW, user: true, accessed: true, dirty: true, ..PLAIN };

#[test]
fn pages_of_4_kib() {
    // Written: UXN (54), PXN (53), DBM (51), nG (11), AF (10), SH 11 (9:8), AP 01 (7:6),
    // AttrIndx 0, 11.
    word::<Aarch64>(1, Pte::Leaf(USER_DATA), 0x0068_0000_4000_0f43);
    // Writable and clean: AP[2] (7) set, DBM set.
    word::<Aarch64>(1, Pte::Leaf(Leaf { dirty: false, ..USER_DATA }), 0x0068_0000_4000_0fc3);
    // Not used yet: no AF.
    let fresh = Leaf { dirty: false, accessed: false, ..USER_DATA };
    word::<Aarch64>(1, Pte::Leaf(fresh), 0x0068_0000_4000_0bc3);
    // Read-only: AP[2] set, DBM clear; and with its dirty kept in bit 57.
    let read_only = Leaf { prot: Prot::R, ..USER_DATA };
    word::<Aarch64>(1, Pte::Leaf(Leaf { dirty: false, ..read_only }), 0x0060_0000_4000_0fc3);
    word::<Aarch64>(1, Pte::Leaf(read_only), 0x0260_0000_4000_0fc3);
    // A user's text: UXN clear, PXN set.
    let text = Leaf { prot: Prot::R | Prot::X, dirty: false, ..USER_DATA };
    word::<Aarch64>(1, Pte::Leaf(text), 0x0020_0000_4000_0fc3);
    // Execute-only: AP[1] (6) clear too.
    word::<Aarch64>(1, Pte::Leaf(Leaf { prot: Prot::X, ..text }), 0x0020_0000_4000_0f83);
    // Wired (55), managed (56), contiguous (52), the highest frame of 48 bits.
    let all = Leaf { pfn: Pfn((1 << 36) - 1), wired: true, managed: true, contiguous: true, ..USER_DATA };
    word::<Aarch64>(1, Pte::Leaf(all), 0x01f8_ffff_ffff_ff43);
}

#[test]
fn pages_of_the_kernel() {
    // A device: UXN, PXN, DBM, AF, SH, AP 00, AttrIndx 2 (4:2), global (no nG).
    let device = Leaf {
        pfn: Pfn(0x9000),
        prot: Prot::RW,
        global: true,
        accessed: true,
        dirty: true,
        attr: MemAttr::Device,
        ..PLAIN
    };
    word::<Aarch64>(1, Pte::Leaf(device), 0x0068_0000_0900_070b);
    // Text as a 2 MiB block: UXN set, PXN clear, 01.
    let text = Leaf { pfn: Pfn(0x40200), prot: Prot::R | Prot::X, dirty: false, ..device };
    word::<Aarch64>(2, Pte::Leaf(Leaf { attr: MemAttr::WriteBack, ..text }), 0x0040_0000_4020_0781);
    // A frame buffer as a 1 GiB block: AttrIndx 1.
    let buffer = Leaf { pfn: Pfn(0x80000), attr: MemAttr::WriteCombining, ..device };
    word::<Aarch64>(3, Pte::Leaf(buffer), 0x0068_0000_8000_0705);
}

/// Table descriptors: APTable\[1\] in bit 62.
#[test]
fn tables_take_write_access_away() {
    for level in 2..=4 {
        word::<Aarch64>(
            level,
            Pte::Next(Next { pfn: Pfn(0x48123), write: true, detached: false }),
            0x4812_3003,
        );
        let denied = Next { pfn: Pfn(0x48123), write: false, detached: false };
        word::<Aarch64>(level, Pte::Next(denied), 0x4000_0000_4812_3003);
    }
    // The other hierarchical bits and 58:51, ignored, say nothing of ours.
    assert_eq!(Aarch64::parse(0xbff8_0000_4812_3003, 2), Aarch64::parse(0x4812_3003, 2));
}

/// Frames stay 4 KiB: a page of 16 KiB is 4, one of 64 KiB 16.
#[test]
fn larger_granules() {
    let page = |pfn| Pte::Leaf(Leaf { pfn: Pfn(pfn), ..USER_DATA });
    let table = |pfn| Pte::Next(Next { pfn: Pfn(pfn), write: true, detached: false });
    word::<Aarch64Granule16>(1, page(0x40004), 0x0068_0000_4000_4f43);
    word::<Aarch64Granule16>(2, page(0x42000), 0x0068_0000_4200_0f41); // 32 MiB
    word::<Aarch64Granule16>(4, table(0x4000c), 0x4000_c003);
    word::<Aarch64Granule64>(1, page(0x40010), 0x0068_0000_4001_0f43);
    word::<Aarch64Granule64>(2, page(0x60000), 0x0068_0000_6000_0f41); // 512 MiB
    word::<Aarch64Granule64>(3, table(0x400f0), 0x400f_0003);
    // Below the granule the address field is RES0: not a part of the frame.
    assert_eq!(Aarch64Granule16::parse(0x0068_0000_4000_7f43, 1), page(0x40004));
    assert_eq!(Aarch64Granule64::parse(0x0068_0000_4001_ff43, 1), page(0x40010));
    // No blocks at Arm level 1 without 52-bit addresses, nor at level 0.
    assert_eq!(Aarch64Granule16::parse(0x0068_0000_0000_0f41, 3), Pte::Absent);
    assert_eq!(Aarch64Granule64::parse(0x0068_0000_0000_0f41, 3), Pte::Absent);
    assert_eq!(Aarch64::parse(0x0068_0000_0000_0f41, 4), Pte::Absent);
    // A page must have bit 1.
    assert_eq!(Aarch64::parse(0x0068_0000_4000_0f41, 1), Pte::Absent);
    assert_eq!(Aarch64::parse(0x0068_0000_4000_0f42, 1), Pte::Absent);
    // The Contiguous bit: entries of a contiguous run by granule and level.
    assert_eq!([1, 2, 3, 4].map(Aarch64::contiguous_bits), [4, 4, 4, 0]);
    assert_eq!([1, 2, 3, 4].map(Aarch64Granule16::contiguous_bits), [7, 5, 0, 0]);
    assert_eq!([1, 2, 3].map(Aarch64Granule64::contiguous_bits), [5, 5, 0]);
}

/// "Using break-before-make when updating translation table entries": changing the size or
/// the output address of a live entry needs it. The other two machines allow the change and
/// then a flush.
#[test]
fn only_arm_breaks_before_it_makes() {
    let arm = [
        Aarch64::BREAK_BEFORE_MAKE,
        Aarch64Granule16::BREAK_BEFORE_MAKE,
        Aarch64Granule64::BREAK_BEFORE_MAKE,
    ];
    assert_eq!(arm, [true; 3]);
    assert_eq!([X86L4::BREAK_BEFORE_MAKE, Sv39::BREAK_BEFORE_MAKE], [false; 2]);
}

/// What EL0 and EL1 may do with a descriptor by the access permissions (AP\[2:1\], DBM) and
/// the execution permissions (UXN, PXN), as (read, write, execute). EL1 data rights do not
/// depend on PAN here.
fn rights(raw: u64) -> ([bool; 3], [bool; 3]) {
    let bit = |n: u32| raw >> n & 1 != 0;
    let writable = !bit(7) || bit(51);
    let el0 = [bit(6), bit(6) && writable, !bit(54)];
    // What EL0 may write EL1 never executes, whatever PXN says.
    let never = bit(53) || bit(6) && writable;
    let el1 = [true, writable, !never];
    (el0, el1)
}

#[test]
fn nobody_executes_the_pages_of_the_other() {
    for level in 1..=3 {
        for leaf in flags::<Aarch64>(level) {
            let raw = Aarch64::emit(Pte::Leaf(leaf), level);
            let has = |p| leaf.prot.contains(p);
            let (el0, el1) = rights(raw);
            let context = (leaf, raw);
            if leaf.user {
                assert_eq!(el0, [has(Prot::R), has(Prot::W), has(Prot::X)], "{context:?}");
                assert!(!el1[2], "{context:?}");
                assert!(raw >> 53 & 1 == 1, "PXN {context:?}");
            } else {
                assert_eq!(el1, [true, has(Prot::W), has(Prot::X)], "{context:?}");
                assert_eq!(el0, [false; 3], "{context:?}");
                assert!(raw >> 54 & 1 == 1, "UXN {context:?}");
            }
        }
    }
}

/// The Access flag and the dirty state: hardware sets AF and, with DBM, clears AP\[2\];
/// nothing else.
#[test]
fn the_hardware_sets_accessed_and_dirty() {
    let clean = Leaf { accessed: false, dirty: false, managed: true, ..USER_DATA };
    let raw = Aarch64::emit(Pte::Leaf(clean), 1);
    let read = Leaf { accessed: true, ..clean };
    let written = Leaf { dirty: true, ..read };
    assert_eq!(Aarch64::parse(raw | 1 << 10, 1), Pte::Leaf(read));
    assert_eq!(Aarch64::parse(raw & !(1 << 7) | 1 << 10, 1), Pte::Leaf(written));
    assert_eq!(Aarch64::emit(Pte::Leaf(written), 1), raw & !(1 << 7) | 1 << 10);
    // Without DBM nothing is written; a word that is writable all the same is dirty.
    let read_only = Aarch64::emit(Pte::Leaf(Leaf { prot: Prot::R, ..clean }), 1);
    assert_eq!(read_only >> 51 & 1, 0);
    assert!(
        matches!(Aarch64::parse(read_only & !(1 << 7), 1), Pte::Leaf(l) if l.dirty && l.prot == Prot::RW)
    );
}

/// A dirty page that lost write access and gets it back is dirty in AP\[2\] alone.
#[test]
fn z131_dirty_survives_losing_write_access() {
    let kept = Leaf { prot: Prot::R, ..USER_DATA };
    let raw = Aarch64::emit(Pte::Leaf(kept), 1);
    let Pte::Leaf(back) = Aarch64::parse(raw, 1) else { panic!("lost: {raw:#x}") };
    assert!(back.dirty && !back.prot.contains(Prot::W));
    let (el0, el1) = rights(raw);
    assert!(!el0[1] && !el1[1], "{raw:#x} is writable");
    word::<Aarch64>(1, Pte::Leaf(Leaf { prot: Prot::RW, ..back }), 0x0068_0000_4000_0f43);
}

/// `MAIR_EL1`: 0xff normal write-back, 0x44 normal non-cacheable, 0x00 nGnRnE.
#[test]
fn pm47_memory_types_are_mair_indices() {
    let indirect = |attr| {
        let raw = Aarch64::emit(Pte::Leaf(Leaf { attr, ..PLAIN }), 1);
        Aarch64::MAIR_EL1 >> (8 * (raw >> 2 & 7)) & 0xff
    };
    assert_eq!(indirect(MemAttr::WriteBack), 0xff);
    assert_eq!(indirect(MemAttr::WriteCombining), 0x44);
    assert_eq!(indirect(MemAttr::Device), 0x00);
    // The indices that we never emit are the strictest type.
    for foreign in 3..8 {
        let raw = 0x0068_0000_4000_0f43 | foreign << 2;
        assert!(matches!(Aarch64::parse(raw, 1), Pte::Leaf(l) if l.attr == MemAttr::Device), "{foreign}");
    }
}
