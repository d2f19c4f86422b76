//! RISC-V by hand: privileged specification, "Sv32", "Sv39", "Svnapot", "Svpbmt".

use machvm_hal::{Pfn, Prot};

use super::{Manual, PLAIN, bits};
use crate::pte::riscv::Riscv;
use crate::pte::{Format, Leaf, MemAttr, Next, Pte, Sv39, Sv48, Sv57};

impl<const LEVELS: u8> Manual for Riscv<LEVELS> {
    const PA_BITS: u32 = 56;

    /// Sv39: PPN and V. D, A, U, PBMT, N and 60:54 are reserved in pointers; G and RSW stay
    /// 0; R, W and X make a leaf.
    fn pointer_bits(_level: u8) -> u64 {
        bits(53, 10) | bits(0, 0)
    }

    /// Sv39, Svpbmt, Svnapot (level 1 alone): all but 60:54, and the PPN from the size up.
    fn leaf_bits(level: u8) -> u64 {
        let napot = if level == 1 { bits(63, 63) } else { 0 };
        napot | bits(62, 61) | bits(53, 10 + 9 * (u32::from(level) - 1)) | bits(9, 0)
    }

    fn given_back(leaf: Leaf) -> Leaf {
        if leaf.contiguous { Leaf { pfn: Pfn(leaf.pfn.0 / 16 * 16), ..leaf } } else { leaf }
    }
}

/// The same word in all three formats.
fn word(level: u8, pte: Pte, raw: u64) {
    assert_eq!(Sv39::emit(pte, level), raw, "{:#x} is not {raw:#x}", Sv39::emit(pte, level));
    assert_eq!(Sv39::parse(raw, level), pte, "{raw:#x}");
    assert_eq!((Sv48::emit(pte, level), Sv48::parse(raw, level)), (raw, pte));
    assert_eq!((Sv57::emit(pte, level), Sv57::parse(raw, level)), (raw, pte));
}

const USER_DATA: Leaf =
    Leaf { pfn: Pfn(0x80000), prot: Prot::RW, user: true, accessed: true, dirty: true, ..PLAIN };

#[test]
fn pages_of_4_kib() {
    // PPN | D (7) | A (6) | U (4) | W (2) | R (1) | V (0).
    word(1, Pte::Leaf(USER_DATA), 0x2000_00d7);
    // Writable and clean, managed (9).
    word(1, Pte::Leaf(Leaf { dirty: false, managed: true, ..USER_DATA }), 0x2000_0257);
    // Not used yet, wired (8).
    word(1, Pte::Leaf(Leaf { dirty: false, accessed: false, wired: true, ..USER_DATA }), 0x2000_0117);
    // Dirty may stay when write access goes.
    word(1, Pte::Leaf(Leaf { prot: Prot::R, ..USER_DATA }), 0x2000_00d3);
    // A user's text, and execute-only: X (3).
    let text = Leaf { prot: Prot::R | Prot::X, dirty: false, ..USER_DATA };
    word(1, Pte::Leaf(text), 0x2000_005b);
    word(1, Pte::Leaf(Leaf { prot: Prot::X, ..text }), 0x2000_0059);
    // The highest frame of 56 bits.
    word(1, Pte::Leaf(Leaf { pfn: Pfn((1 << 44) - 1), ..USER_DATA }), 0x003f_ffff_ffff_fcd7);
}

/// "Any level of PTE may be a leaf PTE": megapages to petapages.
#[test]
fn superpages() {
    // The kernel's text: G (5) | A | X | R | V.
    let text = Leaf { pfn: Pfn(0x80200), prot: Prot::R | Prot::X, global: true, accessed: true, ..PLAIN };
    word(2, Pte::Leaf(text), 0x2008_006b);
    word(3, Pte::Leaf(Leaf { pfn: Pfn(0x80000), ..text }), 0x2000_006b);
    let tera = Pte::Leaf(Leaf { pfn: Pfn(1 << 27), ..text });
    assert_eq!((Sv48::emit(tera, 4), Sv57::emit(tera, 4)), (0x0020_0000_006b, 0x0020_0000_006b));
    let peta = Pte::Leaf(Leaf { pfn: Pfn(1 << 36), ..text });
    assert_eq!(Sv57::emit(peta, 5), 0x4000_0000_006b);
    assert_eq!(Sv57::parse(0x4000_0000_006b, 5), peta);
    // "A page-fault exception is raised if the physical address is insufficiently aligned".
    for n in 10..19 {
        assert_eq!(Sv39::parse(0x2008_006b | 1 << n, 2), Pte::Absent, "bit {n}");
    }
    for n in 10..28 {
        assert_eq!(Sv39::parse(0x2000_006b | 1 << n, 3), Pte::Absent, "bit {n}");
    }
}

/// Svpbmt: 62:61 are 1 for NC, 2 for IO.
#[test]
fn pm47_memory_types_are_pbmt() {
    let device = Leaf {
        pfn: Pfn(0x10000),
        prot: Prot::RW,
        accessed: true,
        dirty: true,
        attr: MemAttr::Device,
        ..PLAIN
    };
    word(1, Pte::Leaf(device), 0x4000_0000_0400_00c7);
    word(1, Pte::Leaf(Leaf { attr: MemAttr::WriteCombining, ..device }), 0x2000_0000_0400_00c7);
    word(1, Pte::Leaf(Leaf { attr: MemAttr::WriteBack, ..device }), 0x0400_00c7);
    // 3 is reserved.
    assert_eq!(Sv39::parse(0x6000_0000_0400_00c7, 1), Pte::Absent);
}

/// Svnapot: N (63), and PPN bits 3:0 are 1000 for 64 KiB; the frame of an entry is its
/// index where the hardware takes the address bits.
#[test]
fn runs_of_64_kib() {
    let member = Leaf { prot: Prot::R, dirty: false, contiguous: true, ..USER_DATA };
    let run = Pte::Leaf(Leaf { pfn: Pfn(0x80010), ..member });
    for n in 0..16 {
        let own = Leaf { pfn: Pfn(0x80010 + n), ..member };
        assert_eq!(Sv39::emit(Pte::Leaf(own), 1), 0x8000_0000_2000_6053, "entry {n}");
        let Pte::Leaf(back) = Sv39::parse(0x8000_0000_2000_6053, 1) else { panic!("lost") };
        assert_eq!(Sv39::own_frame(&back, 0x30 + n as usize), own.pfn);
    }
    word(1, run, 0x8000_0000_2000_6053);
    // Every other size, and every other level, is reserved.
    for low in (0..16).filter(|&low| low != 8) {
        assert_eq!(Sv39::parse(0x8000_0000_2000_4053 | low << 10, 1), Pte::Absent, "low bits {low:#b}");
    }
    for level in 2..=5 {
        assert_eq!(Sv57::parse(0x8000_0000_0000_0053, level), Pte::Absent);
        assert_eq!(Sv57::parse(0x8000_0000_0000_2053, level), Pte::Absent);
    }
    assert_eq!([1, 2, 3].map(Sv39::contiguous_bits), [4, 0, 0]);
}

/// "Virtual Address Translation Process", step 3: what is reserved faults.
#[test]
fn reserved_encodings_are_absent() {
    // Table "Encoding of PTE R/W/X fields": W without R.
    for raw in [0x2000_0005u64, 0x2000_000d, 0x2000_00d5, 0x2000_00dd] {
        assert_eq!(Sv39::parse(raw, 1), Pte::Absent, "{raw:#x}");
        assert_eq!(Sv39::parse(raw, 2), Pte::Absent, "{raw:#x}");
    }
    // Bits 60:54 in leaves and pointers; D, A, U, PBMT and N in pointers.
    for n in 54..61 {
        assert_eq!(Sv39::parse(0x2000_00d7 | 1 << n, 1), Pte::Absent, "leaf bit {n}");
        assert_eq!(Sv39::parse(0x2008_0401 | 1 << n, 2), Pte::Absent, "pointer bit {n}");
    }
    for n in [4, 6, 7, 61, 62, 63] {
        assert_eq!(Sv39::parse(0x2008_0401 | 1 << n, 2), Pte::Absent, "pointer bit {n}");
    }
    // Step 4: a pointer at the last level.
    assert_eq!(Sv39::parse(0x2008_0401, 1), Pte::Absent);
    // G and RSW are allowed in pointers.
    assert_eq!(Sv39::parse(0x2008_0721, 2), Sv39::parse(0x2008_0401, 2));
}

#[test]
fn tables_are_attached_or_detached() {
    for level in 2..=3 {
        let attached = Next { pfn: Pfn(0x80201), write: true, detached: false };
        word(level, Pte::Next(attached), 0x2008_0401);
        let detached = Next { pfn: Pfn(0x80201), write: false, detached: true };
        word(level, Pte::Next(detached), 0x1540_0000_2008_0404);
    }
    let high = Next { pfn: Pfn((1 << 44) - 1), write: false, detached: true };
    word(2, Pte::Next(high), 0x157f_ffff_ffff_fc04);
    assert_eq!(Sv57::parse(0x1540_0000_2008_0404, 5), Sv57::parse(0x1540_0000_2008_0404, 2));
    // At the last level it would be a table of nothing.
    assert_eq!(Sv39::parse(0x1540_0000_2008_0404, 1), Pte::Absent);
}

/// The marker is exact: one bit off, and V set, is nothing.
#[test]
fn what_is_almost_detached_is_absent() {
    for n in (0..64).filter(|n| !(10..54).contains(n)) {
        for level in 1..=3 {
            assert_eq!(Sv39::parse(0x1540_0000_2008_0404 ^ 1 << n, level), Pte::Absent, "bit {n}");
        }
    }
}

/// "The implementation sets the corresponding bit(s) in the PTE": A, and A and D.
#[test]
fn the_hart_sets_accessed_and_dirty() {
    let clean = Leaf { accessed: false, dirty: false, managed: true, ..USER_DATA };
    let raw = Sv39::emit(Pte::Leaf(clean), 1);
    let read = Leaf { accessed: true, ..clean };
    let written = Leaf { dirty: true, ..read };
    assert_eq!(Sv39::parse(raw | 0x40, 1), Pte::Leaf(read));
    assert_eq!(Sv39::parse(raw | 0xc0, 1), Pte::Leaf(written));
    assert_eq!(Sv39::emit(Pte::Leaf(written), 1), raw | 0xc0);
}
