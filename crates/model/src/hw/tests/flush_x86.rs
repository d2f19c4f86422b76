//! What each x86-64 instruction takes and leaves.

use machvm_arch::{Asid, Invpcid, X86Isa};
use machvm_hal::{RawAddr, Va};

use super::{A, B, Kind, Rig, kernel_leaf, two_pages, user_block, user_leaf};
use crate::hw::Config;
use crate::hw::walk::Arch;

const K: u64 = 0xffff_ffff_8000_1000;

fn va(a: u64) -> Va {
    Va::containing(RawAddr(a))
}

/// Two numbers on CPU 0 and a kernel page under each; number 2 is loaded.
fn two_numbers() -> (Rig, u64) {
    let (rig, root) = two_pages(Arch::X86L4, 1);
    rig.map(root, K, 1, kernel_leaf(Arch::X86L4, rig.frame(5)));
    rig.fill(0, K);
    let other = rig.table();
    rig.put(other, 511, rig.get(root, 511));
    rig.map(other, A, 1, user_leaf(Arch::X86L4, rig.frame(3), true));
    rig.run(0, other, 2);
    rig.fill(0, A);
    rig.fill(0, K);
    assert_eq!(rig.cached(0, A), [1, 2]);
    rig.hw.assert_clean();
    (rig, root)
}

#[test]
fn invlpg_takes_the_page_of_this_number_and_all_its_tables() {
    let (rig, _) = two_numbers();
    rig.isa.invlpg(va(A));
    assert_eq!(rig.cached(0, A), [1]);
    assert_eq!(rig.cached(0, B), [1]);
    assert!(rig.tables(0, A, 2).is_empty() && rig.tables(0, K, 2).is_empty());
    assert_eq!(rig.tables(0, A, 1), [1, 2, 3]);
    assert!(!rig.cached(0, K).is_empty());
    assert_eq!(rig.cached(1, A), [1], "invalidation is local");
}

#[test]
fn invlpg_takes_a_global_page_under_every_number_but_not_their_tables() {
    let (rig, _) = two_numbers();
    rig.isa.invlpg(va(K));
    assert!(rig.cached(0, K).is_empty());
    assert_eq!(rig.tables(0, K, 1), [1, 2, 3]);
}

#[test]
fn invlpg_takes_all_pieces_of_a_large_page_that_is_still_there() {
    for still in [true, false] {
        let rig = Rig::new(Arch::X86L4);
        let root = rig.table();
        rig.map(root, 0x40_0000, 2, user_block(Arch::X86L4, rig.frame(512), true));
        rig.run(0, root, 1);
        for _ in 0..10 {
            for page in 0..4 {
                rig.fill(0, 0x40_0000 + page * 4096);
            }
        }
        rig.s(|s| s.cpus[0].tlb.retain(|e| e.log2 == 0));
        assert_eq!(rig.cached(0, 0x40_2000), [1]);
        if !still {
            rig.map(root, 0x40_0000, 2, 0);
        }
        rig.isa.invlpg(va(0x40_1000));
        assert!(rig.cached(0, 0x40_1000).is_empty());
        assert_eq!(rig.cached(0, 0x40_2000).is_empty(), still);
    }
}

#[test]
fn invpcid_address_takes_one_page_of_one_number() {
    let (rig, _) = two_numbers();
    rig.isa.invpcid(Invpcid::Address, Asid(1), va(A));
    assert_eq!(rig.cached(0, A), [2]);
    assert_eq!(rig.cached(0, B), [1]);
    assert!(rig.tables(0, A, 1).is_empty());
    assert_eq!(rig.tables(0, K, 1), [1, 2, 3], "not on the way");
    rig.isa.invpcid(Invpcid::Address, Asid(1), va(K));
    assert!(!rig.cached(0, K).is_empty(), "global translations stay");
}

#[test]
fn invpcid_context_takes_one_number_without_global() {
    let (rig, _) = two_numbers();
    rig.isa.invpcid(Invpcid::Context, Asid(1), Va::ZERO);
    assert_eq!(rig.cached(0, A), [2]);
    assert!(rig.cached(0, B).is_empty() && rig.tables(0, K, 1).is_empty());
    assert!(!rig.cached(0, K).is_empty());
    assert_eq!(rig.tables(0, A, 2), [1, 2, 3]);
}

#[test]
fn invpcid_all_and_a_change_of_pge_take_everything() {
    for toggle in [false, true] {
        let (rig, _) = two_numbers();
        if toggle {
            let cr4 = rig.isa.read_cr4();
            rig.isa.write_cr4(cr4 ^ 1 << 7);
            rig.isa.write_cr4(cr4);
        } else {
            rig.isa.invpcid(Invpcid::All, Asid(0), Va::ZERO);
        }
        rig.s(|s| assert!(s.cpus[0].tlb.is_empty() && s.cpus[0].tables.is_empty()));
        assert_eq!(rig.cached(1, A), [1]);
    }
}

#[test]
fn loading_cr3_takes_the_number_loaded_unless_told_not_to() {
    let (rig, root) = two_numbers();
    rig.isa.write_cr3(1 << 63 | root << 12 | 1);
    assert_eq!(rig.cached(0, A), [1, 2]);
    assert_eq!(rig.isa.read_cr3(), root << 12 | 1);
    rig.isa.write_cr3(root << 12 | 1);
    assert_eq!(rig.cached(0, A), [2]);
    assert!(!rig.cached(0, K).is_empty());
    rig.hw.check_quiet();
    rig.hw.assert_clean();
}

#[test]
fn loading_cr3_without_pcids_takes_all_but_global() {
    let rig = Rig::with(Config { rate: 0, asids: 1, ..Config::new(Arch::X86L4, 1) });
    let root = rig.table();
    rig.map(root, A, 1, user_leaf(Arch::X86L4, rig.frame(1), true));
    rig.map(root, K, 1, kernel_leaf(Arch::X86L4, rig.frame(5)));
    rig.isa.write_cr3(root << 12);
    rig.fill(0, A);
    rig.fill(0, K);
    rig.isa.write_cr3(root << 12);
    assert!(rig.cached(0, A).is_empty() && rig.tables(0, K, 0).is_empty());
    assert_eq!(rig.cached(0, K), [0]);
    rig.isa.write_cr3(1 << 63 | root << 12);
    assert_eq!(rig.kinds(), [Kind::Operand], "bit 63 needs PCIDE");
}

#[test]
fn operands_that_fault_are_reported() {
    let (rig, root) = two_pages(Arch::X86L4, 1);
    let bad: [&dyn Fn(); 4] = [
        &|| rig.isa.invlpg(va(1 << 47)),
        &|| rig.isa.invpcid(Invpcid::Context, Asid(4096), Va::ZERO),
        &|| rig.isa.write_cr3(root << 12 | 1 << 60),
        &|| rig.isa.write_cr3(rig.frame(0) << 12),
    ];
    for (i, f) in bad.iter().enumerate() {
        f();
        assert_eq!(rig.kinds(), [Kind::Operand], "case {i}");
        rig.hw.clear_reports();
    }
}
