//! Known words, bit by bit.

use super::super::walk::{Arch, Entry, LeafEntry, Mmu, Rights, Updates};
use super::super::{Access, Mode};
use super::{Rig, pointer, user_leaf};
use machvm_hal::Pfn;

const BOTH: Updates = Updates { accessed: true, dirty: true };
const NONE: Updates = Updates { accessed: false, dirty: false };

fn leaf(arch: Arch, updates: Updates, raw: u64, level: u8) -> LeafEntry {
    match (Mmu { arch, updates }).decode(raw, level) {
        Entry::Leaf(l) => l,
        other => panic!("{raw:#x} at level {level} of {arch:?} is {other:?}"),
    }
}
fn entry(arch: Arch, raw: u64, level: u8) -> Entry {
    Mmu { arch, updates: BOTH }.decode(raw, level)
}

#[test]
fn x86_page_bits() {
    let l = leaf(Arch::X86L4, BOTH, 0x8000_0000_1234_5067, 1);
    assert_eq!((l.pfn, l.accessed, l.dirty, l.global, l.run), (0x12345, true, true, false, 0));
    assert_eq!(l.rights, Rights::UR | Rights::UW | Rights::KR | Rights::KW);
    let l = leaf(Arch::X86L4, BOTH, 0x1234_5101, 1);
    assert_eq!((l.rights, l.global, l.accessed), (Rights::KR | Rights::KX, true, false));
    // PAT, PCD, PWT: 7 in a page and in a large page.
    assert_eq!(leaf(Arch::X86L4, BOTH, 0x99, 1).attr, 7);
    assert_eq!(leaf(Arch::X86L4, BOTH, 0x1099, 2).attr, 7);
    assert_eq!(leaf(Arch::X86L4, BOTH, 0x81, 2).run, 9);
    assert_eq!(leaf(Arch::X86L4, BOTH, 0x81, 3).run, 18);
}

#[test]
fn x86_reserved_bits_fault() {
    for (raw, level) in [(0x81u64, 4), (0x81, 5), (0x2081, 2), (0x20_0081, 3), (1 | 1 << 46, 1)] {
        assert_eq!(entry(Arch::X86L5, raw, level), Entry::Reserved, "{raw:#x} at {level}");
    }
    // Ignored: 58:52 and, without protection keys, 62:59.
    assert!(matches!(entry(Arch::X86L5, 1 | 0x7ff << 52, 1), Entry::Leaf(_)));
    assert_eq!(entry(Arch::X86L5, !1, 1), Entry::Invalid);
}

#[test]
fn arm_page_bits() {
    let arm = |raw| leaf(Arch::Aarch64, BOTH, raw, 1);
    // AP 01, AF, nG: both modes write, EL0 executes, EL1 may not.
    let l = arm(0x1234_5000 | 3 | 1 << 6 | 1 << 10 | 1 << 11);
    assert_eq!((l.pfn, l.accessed, l.dirty, l.global), (0x12345, true, true, false));
    assert_eq!(l.rights, Rights::USER | Rights::KR | Rights::KW);
    // AP 11: reading only.
    let l = arm(3 | 3 << 6);
    assert_eq!(l.rights, Rights::UR | Rights::UX | Rights::KR | Rights::KX);
    // AP 00, UXN: the kernel's.
    let l = arm(3 | 1 << 54);
    assert_eq!((l.rights, l.global), (Rights::KERNEL, true));
    assert_eq!(arm(3 | 1 << 53 | 1 << 54).rights, Rights::KR | Rights::KW);
    assert_eq!(arm(3 | 1 << 52).run, 4);
    assert_eq!(leaf(Arch::Aarch64, BOTH, 1, 2).run, 9);
    assert_eq!(leaf(Arch::Aarch64, BOTH, 1 | 1 << 52, 2).run, 13);
    assert_eq!(arm(3 | 5 << 2).attr, 5);
}

#[test]
fn arm_dbm_is_write_permission_only_where_the_hardware_manages_dirty() {
    let clean = 3 | 3 << 6 | 1 << 10 | 1 << 51 | 1 << 53;
    let with = leaf(Arch::Aarch64, BOTH, clean, 1);
    assert!(with.rights.contains(Rights::UW) && !with.dirty);
    let without = leaf(Arch::Aarch64, NONE, clean, 1);
    assert!(!without.rights.contains(Rights::UW));
    let mmu = Mmu { arch: Arch::Aarch64, updates: BOTH };
    assert_eq!(mmu.with_dirty(clean), clean & !(1 << 7));
}

#[test]
fn arm_reserved_words() {
    for (raw, level) in
        [(1u64, 1), (1, 4), (3 | 1 << 48, 1), (3 | 1 << 50, 2), (1 | 1 << 12, 2), (1 | 1 << 29, 3)]
    {
        assert_eq!(entry(Arch::Aarch64, raw, level), Entry::Reserved, "{raw:#x} at {level}");
    }
    assert_eq!(entry(Arch::Aarch64, 2, 1), Entry::Invalid);
}

#[test]
fn riscv_page_bits() {
    let sv = |raw| leaf(Arch::Sv39, BOTH, raw, 1);
    let l = sv(0x12345 << 10 | 0xdf);
    assert_eq!((l.pfn, l.accessed, l.dirty, l.global), (0x12345, true, true, false));
    assert_eq!(l.rights, Rights::USER | Rights::KR | Rights::KW);
    assert_eq!(sv(0xf).rights, Rights::KERNEL);
    assert_eq!(sv(0x9).rights, Rights::KX);
    assert!(sv(0x23).global);
    assert_eq!(sv(0x3 | 1 << 61).attr, 1);
    assert_eq!(leaf(Arch::Sv48, BOTH, 512 << 10 | 3, 2).run, 9);
    // Svnapot, 64 KiB: PPN ends in 1000.
    let n = sv(1 << 63 | 0x128 << 10 | 3);
    assert_eq!((n.pfn, n.run, n.frame(0x7), n.frame(0x35)), (0x120, 4, 0x127, 0x125));
}

#[test]
fn riscv_reserved_words() {
    let bad: [(u64, u8); 9] = [
        (0x5, 1),                   // W without R
        (0xd, 1),                   // W and X without R
        (0x1, 1),                   // a pointer at the last level
        (0x41, 2),                  // a pointer with A
        (0x11, 2),                  // a pointer with U
        (1 | 1 << 61, 2),           // a pointer with PBMT
        (1 << 10 | 3, 2),           // a misaligned superpage
        (3 | 3 << 61, 1),           // PBMT 3
        (3 | 1 << 63 | 4 << 10, 1), // Svnapot of a size that is not there
    ];
    for (raw, level) in bad {
        assert_eq!(entry(Arch::Sv57, raw, level), Entry::Reserved, "{raw:#x} at {level}");
    }
    assert_eq!(entry(Arch::Sv57, 3 | 1 << 54, 1), Entry::Reserved);
    assert_eq!(entry(Arch::Sv57, u64::MAX << 1, 3), Entry::Invalid);
}

#[test]
fn addresses_that_are_none() {
    for (arch, top) in [
        (Arch::X86L4, 1u64 << 47),
        (Arch::X86L5, 1 << 56),
        (Arch::Aarch64, 1 << 48),
        (Arch::Sv39, 1 << 38),
        (Arch::Sv48, 1 << 47),
        (Arch::Sv57, 1 << 56),
    ] {
        assert!(arch.canonical(top - 1) && !arch.canonical(top), "{arch:?}");
        assert!(arch.canonical(top.wrapping_neg()) && !arch.canonical(top.wrapping_neg() - 1), "{arch:?}");
    }
}

/// Takes the right away at every level in turn, and nowhere.
#[test]
fn rights_are_the_and_over_the_path() {
    let cases: [(Arch, u64, u64, Rights); 8] = [
        // What an upper entry loses, what it gains, and what that takes.
        (Arch::X86L4, 1 << 1, 0, Rights::WRITE),
        (Arch::X86L4, 1 << 2, 0, Rights::USER),
        (Arch::X86L5, 0, 1 << 63, Rights::EXEC),
        (Arch::X86L5, 1 << 1, 0, Rights::WRITE),
        (Arch::Aarch64, 0, 1 << 62, Rights::WRITE),
        (Arch::Aarch64, 0, 1 << 61, Rights::UR.union(Rights::UW)),
        (Arch::Aarch64, 0, 1 << 60, Rights::UX),
        (Arch::Aarch64, 0, 1 << 59, Rights::KX),
    ];
    const VA: u64 = 0x12_3456_7000;
    for (arch, clear, set, takes) in cases {
        for level in 2..=arch.levels() {
            let rig = Rig::new(arch);
            let root = rig.table();
            let page = user_leaf(arch, rig.frame(0), true) & !(1 << 53);
            rig.map(root, VA, 1, page);
            let before = rig.hw.translate(Pfn(root), VA).expect("mapped").rights;
            let upper = rig.table_for(root, VA, level);
            let i = Arch::index(VA, level);
            rig.put(upper, i, rig.get(upper, i) & !clear | set);
            let mut want = before - takes;
            if arch.is_x86() && takes == Rights::USER {
                // The kernel executes what is not the user's (SMEP).
                want |= Rights::KX;
            }
            let after = rig.hw.translate(Pfn(root), VA).expect("mapped").rights;
            assert_eq!(after, want, "{arch:?} level {level}, {takes:?}");
            // And the machine obeys.
            rig.run(0, root, 1);
            let write = rig.touch(0, VA, Access::Write);
            assert_eq!(write.is_ok(), want.contains(Access::Write.right(Mode::User)), "{write:?}");
        }
    }
}

#[test]
fn arm_has_two_roots() {
    let rig = Rig::new(Arch::Aarch64);
    let (user, kernel) = (rig.table(), rig.table());
    rig.hw.set_kernel_root(Pfn(kernel));
    let kva = 0xffff_8000_0020_1000;
    rig.map(kernel, kva, 1, super::kernel_leaf(Arch::Aarch64, rig.frame(3)));
    rig.run(0, user, 1);
    assert_eq!(rig.hw.access(kva, Access::Write, Mode::Kernel), Ok(Pfn(rig.frame(3))));
    assert!(rig.hw.access(kva & !(0xffff << 48), Access::Read, Mode::Kernel).is_err());
    assert_eq!(rig.hw.translate(Pfn(user), kva).map(|t| t.pfn), Some(rig.frame(3)));
    rig.hw.assert_clean();
}

#[test]
fn a_malformed_entry_is_reported_where_it_is_written() {
    for (arch, raw) in [(Arch::X86L4, 1u64 << 46 | 1), (Arch::Aarch64, 1), (Arch::Sv48, 5)] {
        let rig = Rig::new(arch);
        let root = rig.table();
        rig.run(0, root, 0);
        let leaf = rig.table_for(root, 0x1000, 1);
        rig.put(leaf, 1, raw);
        assert_eq!(rig.kinds(), [super::Kind::Malformed]);
        assert_eq!(rig.hw.reports()[0].va, 0x1000);
        assert_eq!(rig.get(root, 0), pointer(arch, rig.table_for(root, 0x1000, arch.levels() - 1)));
    }
}
