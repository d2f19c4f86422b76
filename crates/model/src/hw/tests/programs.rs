//! Loads, stores, fetches, and the bits they leave.

use machvm_hal::Pfn;

use super::{A, Rig, user_block, user_leaf};
use crate::hw::walk::Arch;
use crate::hw::{Access, Config, Fault, Kind, Mode, Use};

fn clean(arch: Arch, pfn: u64) -> u64 {
    let w = user_leaf(arch, pfn, true);
    match arch {
        Arch::X86L4 | Arch::X86L5 => w & !(1 << 5 | 1 << 6),
        Arch::Aarch64 => w & !(1 << 10) | 1 << 7 | 1 << 51,
        _ => w & !(1 << 6 | 1 << 7),
    }
}

#[test]
fn the_hardware_notes_use_and_writes() {
    for arch in Arch::ALL {
        let rig = Rig::new(arch);
        let root = rig.table();
        rig.map(root, A, 1, clean(arch, rig.frame(1)));
        rig.run(0, root, 1);
        let now = || rig.hw.translate(Pfn(root), A).map(|t| (t.accessed, t.dirty)).expect("mapped");
        assert_eq!(now(), (false, false), "{arch:?}");
        assert_eq!(rig.touch(0, A, Access::Read), Ok(rig.frame(1)));
        assert_eq!(now(), (true, false), "{arch:?}");
        assert_eq!(rig.touch(0, A, Access::Write), Ok(rig.frame(1)));
        assert_eq!(now(), (true, true), "{arch:?}");
        rig.hw.assert_clean();
    }
}

#[test]
fn without_updates_the_bits_fault() {
    for arch in [Arch::Aarch64, Arch::Sv39, Arch::Sv48, Arch::Sv57] {
        let rig = Rig::with(Config { rate: 0, ..Config::new(arch, 1).without_updates() });
        let root = rig.table();
        rig.run(0, root, 1);
        rig.map(root, A, 1, clean(arch, rig.frame(1)));
        assert_eq!(rig.touch(0, A, Access::Read), Err(Fault::Accessed), "{arch:?}");
        // Accessed, not dirty.
        let a = if arch.is_arm() { 1 << 10 } else { 1 << 6 };
        rig.map(root, A, 1, clean(arch, rig.frame(1)) | a);
        assert_eq!(rig.touch(0, A, Access::Read), Ok(rig.frame(1)));
        let want = if arch.is_arm() { Fault::Protection } else { Fault::Dirty };
        for _ in 0..20 {
            assert_eq!(rig.touch(0, A, Access::Write), Err(want), "{arch:?}");
        }
        rig.hw.assert_clean();
    }
}

#[test]
fn speculation_notes_use_and_never_a_write() {
    for arch in Arch::ALL {
        let rig = Rig::new(arch);
        let root = rig.table();
        rig.map(root, A, 1, clean(arch, rig.frame(1)));
        rig.run(0, root, 1);
        rig.hw.disturb(5000);
        let t = rig.hw.translate(Pfn(root), A).expect("mapped");
        assert!(t.accessed && !t.dirty, "{arch:?}: {t:?}");
    }
}

#[test]
fn upper_entries_are_noted_on_x86_only() {
    for arch in Arch::ALL {
        let rig = Rig::new(arch);
        let root = rig.table();
        rig.map(root, A, 1, user_leaf(arch, rig.frame(1), true));
        let before = rig.get(root, 0) & if arch.is_x86() { !(1 << 5) } else { !0 };
        rig.put(root, 0, before);
        rig.run(0, root, 1);
        rig.touch(0, A, Access::Read).expect("mapped");
        let noted = rig.get(root, 0) != before;
        assert_eq!(noted, arch.is_x86(), "{arch:?}");
    }
}

#[test]
fn a_fault_drops_the_translation_on_x86_and_nowhere_else() {
    for arch in Arch::ALL {
        let rig = Rig::new(arch);
        let root = rig.table();
        rig.map(root, A, 1, user_leaf(arch, rig.frame(1), false));
        rig.run(0, root, 1);
        rig.fill(0, A);
        // Rights are added, without a flush.
        rig.map(root, A, 1, user_leaf(arch, rig.frame(1), true));
        let faults = (0..40).take_while(|_| rig.touch(0, A, Access::Write).is_err()).count();
        // An eviction may have come to help; then there was no fault at all.
        if arch.is_x86() {
            assert!(faults <= 1, "{arch:?}: {faults} faults");
            assert!(rig.touch(0, A, Access::Write).is_ok());
        } else {
            assert!(rig.cached(0, A) == [1]);
        }
        rig.hw.assert_clean();
    }
}

#[test]
fn bytes_go_through_the_translation() {
    for arch in Arch::ALL {
        let rig = Rig::new(arch);
        let root = rig.table();
        // Two pages, not contiguous in memory, and a large page.
        rig.map(root, A, 1, user_leaf(arch, rig.frame(9), true));
        rig.map(root, A + 4096, 1, user_leaf(arch, rig.frame(4), true));
        rig.map(root, 0x40_0000, 2, user_block(arch, rig.frame(512), true));
        rig.run(2, root, 1);
        rig.hw.on_cpu(2, || {
            let data: Vec<u8> = (0..=255).collect();
            rig.hw.store(A + 4000, &data, Mode::User).expect("mapped");
            let mut back = vec![0; 256];
            rig.hw.load(A + 4000, &mut back, Mode::User).expect("mapped");
            assert_eq!(back, data);
            rig.hw.store(0x40_0000 + 7 * 4096 + 5, b"large", Mode::User).expect("mapped");
            let e = rig.hw.store(A + 2 * 4096 - 2, b"over", Mode::User).expect_err("the edge");
            assert_eq!((e.va, e.access), (A + 2 * 4096, Access::Write));
        });
        let mut raw = [0; 5];
        rig.hw.read(Pfn(rig.frame(512 + 7)), 5, &mut raw);
        assert_eq!(&raw, b"large");
        rig.hw.read(Pfn(rig.frame(9)), 4000, &mut raw);
        assert_eq!(raw, [0, 1, 2, 3, 4]);
        rig.hw.assert_clean();
    }
}

#[test]
fn an_access_to_a_free_frame_or_a_table_is_reported() {
    for arch in Arch::ALL {
        let rig = Rig::new(arch);
        let root = rig.table();
        rig.run(0, root, 1);
        rig.map(root, A, 1, user_leaf(arch, rig.frame(1), true));
        rig.hw.release(Pfn(rig.frame(1)));
        assert_eq!(rig.hw.used(Pfn(rig.frame(1))), Some(Use::Free));
        let _ = rig.touch(0, A, Access::Read);
        assert_eq!(rig.kinds(), [Kind::WrongFrame], "{arch:?}");
        rig.hw.clear_reports();
        rig.map(root, A + 4096, 1, user_leaf(arch, root, true));
        let _ = rig.touch(0, A + 4096, Access::Write);
        assert_eq!(rig.kinds(), [Kind::WrongFrame], "{arch:?}");
    }
}

#[test]
fn riscv_may_remember_that_there_was_nothing() {
    for arch in Arch::ALL {
        let rig = Rig::new(arch);
        let root = rig.table();
        rig.run(0, root, 1);
        rig.table_for(root, A, 1);
        for _ in 0..20 {
            assert_eq!(rig.touch(0, A, Access::Read), Err(Fault::NotMapped));
        }
        rig.map(root, A, 1, user_leaf(arch, rig.frame(1), true));
        let faults = (0..200).filter(|_| rig.touch(0, A, Access::Read).is_err()).count();
        assert_eq!(faults > 0, arch.is_riscv(), "{arch:?}");
        rig.hw.check_quiet();
        rig.hw.assert_clean();
    }
}
