//! What SFENCE.VMA takes and leaves.

use machvm_arch::{Asid, RiscvIsa};
use machvm_hal::{RawAddr, Va};

use super::{A, B, Kind, Rig, kernel_leaf, two_pages, user_leaf};
use crate::hw::walk::Arch;

const K: u64 = 0xffff_ffff_8000_1000;

fn va(a: u64) -> Option<Va> {
    Some(Va::containing(RawAddr(a)))
}

/// Numbers 1 and 2 on CPU 0, and a kernel page; number 1 on CPU 1.
fn two_numbers(arch: Arch) -> (Rig, u64) {
    let (rig, root) = two_pages(arch, 1);
    rig.map(root, K, 1, kernel_leaf(arch, rig.frame(5)));
    rig.fill(0, K);
    let other = rig.table();
    let top = Arch::index(K, arch.levels());
    rig.put(other, top, rig.get(root, top));
    rig.map(other, A, 1, user_leaf(arch, rig.frame(3), true));
    rig.run(0, other, 2);
    rig.fill(0, A);
    rig.fill(0, K);
    rig.hw.assert_clean();
    (rig, root)
}

#[test]
fn with_address_and_number_one_page_goes_and_the_tables_stay() {
    for arch in [Arch::Sv39, Arch::Sv48, Arch::Sv57] {
        let all: Vec<u8> = (1..arch.levels()).collect();
        let (rig, _) = two_numbers(arch);
        rig.isa.sfence_vma(va(A), Some(Asid(1)));
        assert_eq!((rig.cached(0, A), rig.cached(0, B)), (vec![2], vec![1]));
        assert_eq!(rig.tables(0, A, 1), all);
        assert_eq!(rig.cached(1, A), [1], "invalidation is local");
        rig.isa.sfence_vma(va(K), Some(Asid(1)));
        assert!(!rig.cached(0, K).is_empty(), "global translations stay");
        rig.isa.sfence_vma(va(K), None);
        assert!(rig.cached(0, K).is_empty());
        assert_eq!(rig.tables(0, K, 1), all);
        rig.hw.assert_clean();
    }
}

#[test]
fn with_a_number_all_of_it_goes_but_global() {
    let (rig, _) = two_numbers(Arch::Sv48);
    rig.isa.sfence_vma(None, Some(Asid(1)));
    assert_eq!(rig.cached(0, A), [2]);
    assert!(rig.cached(0, B).is_empty() && rig.tables(0, A, 1).is_empty());
    assert!(!rig.cached(0, K).is_empty());
    rig.isa.sfence_vma(None, None);
    rig.s(|s| assert!(s.cpus[0].tlb.is_empty() && s.cpus[0].tables.is_empty()));
}

#[test]
fn an_address_does_not_reach_what_is_remembered_of_upper_entries() {
    let (rig, root) = two_pages(Arch::Sv39, 1);
    let far = 0x8000_0000;
    for _ in 0..40 {
        let _ = rig.touch(0, far, super::Access::Read);
    }
    rig.map(root, far, 1, user_leaf(Arch::Sv39, rig.frame(4), true));
    rig.isa.sfence_vma(va(far), Some(Asid(1)));
    assert!((0..40).any(|_| rig.touch(0, far, super::Access::Read).is_err()));
    rig.isa.sfence_vma(None, Some(Asid(1)));
    assert!((0..40).all(|_| rig.touch(0, far, super::Access::Read).is_ok()));
}

#[test]
fn operands_that_name_nothing_are_reported() {
    let (rig, root) = two_pages(Arch::Sv39, 1);
    let bad: [&dyn Fn(); 4] = [
        &|| rig.isa.sfence_vma(None, Some(Asid(16))),
        &|| rig.isa.sfence_vma(va(1 << 38), None),
        &|| rig.isa.write_satp(9 << 60 | root),
        &|| rig.isa.write_satp(8 << 60 | 16 << 44 | root),
    ];
    for (i, f) in bad.iter().enumerate() {
        f();
        assert_eq!(rig.kinds(), [Kind::Operand], "case {i}");
        rig.hw.clear_reports();
    }
}
