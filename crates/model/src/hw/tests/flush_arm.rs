//! What TLBI takes and leaves, and what happens without its barriers.

use machvm_arch::{ArmIsa, Dsb, Tlbi};
use machvm_hal::{Pfn, RawAddr, Va, VaRange};

use super::{A, B, Kind, Rig, kernel_leaf, two_pages, user_block, user_leaf};
use crate::hw::Config;
use crate::hw::walk::Arch;

const ARM: Arch = Arch::Aarch64;
const K: u64 = 0xffff_8000_0020_1000;

fn operand(asid: u64, va: u64) -> u64 {
    asid << 48 | va >> 12 & ((1 << 44) - 1)
}
fn page(va: u64) -> VaRange {
    VaRange::page(Va::containing(RawAddr(va)))
}

/// Number 1 on CPUs 0 and 1, with a kernel page on CPU 0; number 2 also on CPU 0.
fn two_numbers() -> (Rig, u64) {
    let (rig, root) = two_pages(ARM, 1);
    let kernel = rig.table();
    rig.hw.set_kernel_root(Pfn(kernel));
    rig.map(kernel, K, 1, kernel_leaf(ARM, rig.frame(5)));
    let other = rig.table();
    rig.map(other, A, 1, user_leaf(ARM, rig.frame(3), true));
    rig.run(0, other, 2);
    rig.fill(0, A);
    rig.fill(0, K);
    rig.run(0, root, 1);
    rig.fill(0, K);
    assert_eq!((rig.cached(0, A), rig.cached(0, K)), (vec![1, 2], vec![1, 2]));
    rig.hw.assert_clean();
    (rig, root)
}

fn tlbi(rig: &Rig, op: Tlbi, operand: u64) {
    rig.isa.dsb(Dsb::Ishst);
    rig.isa.tlbi(op, operand);
    rig.isa.dsb(Dsb::Ish);
    rig.isa.isb();
    rig.hw.assert_clean();
}

#[test]
fn vae1is_takes_the_page_and_the_tables_on_the_way_everywhere() {
    let (rig, _) = two_numbers();
    tlbi(&rig, Tlbi::VAE1IS, operand(1, A));
    assert_eq!(rig.cached(0, A), [2]);
    assert!(rig.cached(1, A).is_empty() && rig.tables(1, A, 1).is_empty());
    assert_eq!(rig.cached(1, B), [1]);
    assert_eq!(rig.tables(0, A, 2), [1, 2, 3]);
}

#[test]
fn vale1is_keeps_the_tables() {
    let (rig, _) = two_numbers();
    tlbi(&rig, Tlbi::VALE1IS, operand(1, A));
    assert_eq!(rig.cached(0, A), [2]);
    for cpu in 0..2 {
        assert_eq!(rig.tables(cpu, A, 1), [1, 2, 3]);
    }
}

#[test]
fn vaae1is_takes_every_number_and_global() {
    let (rig, _) = two_numbers();
    tlbi(&rig, Tlbi::VAALE1IS, operand(0, K));
    assert!(rig.cached(0, K).is_empty());
    assert_eq!((rig.tables(0, K, 1), rig.tables(0, K, 2)), (vec![1, 2, 3], vec![1, 2, 3]));
    tlbi(&rig, Tlbi::VAAE1IS, operand(0, K));
    assert!(rig.tables(0, K, 1).is_empty() && rig.tables(0, K, 2).is_empty());
    tlbi(&rig, Tlbi::VAAE1IS, operand(0, A));
    assert!(rig.cached(0, A).is_empty());
}

#[test]
fn aside1is_takes_a_number_without_global() {
    let (rig, _) = two_numbers();
    tlbi(&rig, Tlbi::ASIDE1IS, 1 << 48);
    assert_eq!(rig.cached(0, A), [2]);
    assert!(rig.cached(1, B).is_empty() && rig.tables(0, K, 1).is_empty());
    assert_eq!(rig.cached(0, K), [1, 2]);
    tlbi(&rig, Tlbi::VMALLE1IS, 0);
    rig.s(|s| assert!(s.cpus.iter().all(|c| c.tlb.is_empty() && c.tables.is_empty())));
}

#[test]
fn local_forms_stay_here() {
    let (rig, _) = two_numbers();
    rig.isa.tlbi(Tlbi::VAE1, operand(1, A));
    rig.isa.dsb(Dsb::Nsh);
    rig.isa.isb();
    assert_eq!((rig.cached(0, A), rig.cached(1, A)), (vec![2], vec![1]));
    rig.isa.tlbi(Tlbi::ASIDE1, 1 << 48);
    rig.isa.dsb(Dsb::Nsh);
    rig.isa.isb();
    assert!(rig.cached(0, B).is_empty());
    assert_eq!(rig.cached(1, B), [1]);
}

#[test]
fn the_level_hint_limits_what_goes() {
    let (rig, _) = two_numbers();
    // TTL 0b0110: 4 KiB granule, their level 2, and the page is of level 3.
    tlbi(&rig, Tlbi::VALE1IS, operand(1, A) | 0b0110 << 44);
    assert_eq!(rig.cached(0, A), [1, 2]);
    tlbi(&rig, Tlbi::VALE1IS, operand(1, A) | 0b0111 << 44);
    assert_eq!(rig.cached(0, A), [2]);
}

#[test]
fn operands_with_bits_that_must_be_zero_are_reported() {
    let (rig, root) = two_pages(ARM, 1);
    for (op, operand) in [
        (Tlbi::VAAE1IS, operand(1, A)),
        (Tlbi::ASIDE1IS, operand(1, A)),
        (Tlbi::VAE1IS, operand(256, A)),
        (Tlbi::VAE1IS, operand(1, A) | 1 << 44),
    ] {
        rig.isa.tlbi(op, operand);
        assert_eq!(rig.kinds(), [Kind::Operand], "{op:?} {operand:#x}");
        rig.hw.clear_reports();
    }
    rig.isa.write_ttbr0(root << 12 | 1);
    assert_eq!(rig.kinds(), [Kind::Operand], "CnP");
}

/// Takes write access away, and flushes with what `flush` does.
fn weaken(rig: &Rig, root: u64, flush: impl Fn()) -> Vec<Kind> {
    let leaf = rig.table_for(root, A, 1);
    rig.hw.here(|s, cpu| {
        s.table_swap(cpu, leaf, Arch::index(A, 1), user_leaf(ARM, rig.frame(1), false));
    });
    flush();
    rig.hw.check_flushed(Some(Pfn(root)), page(A), u64::MAX);
    rig.kinds()
}

#[test]
fn the_whole_sequence_is_clean() {
    for seed in 0..50 {
        let (rig, root) = awake(seed);
        let found = weaken(&rig, root, || {
            rig.isa.dsb(Dsb::Ishst);
            rig.isa.tlbi(Tlbi::VALE1IS, operand(1, A));
            rig.isa.dsb(Dsb::Ish);
            rig.isa.isb();
        });
        assert!(found.is_empty(), "seed {seed}: {}", rig.hw.explain());
    }
}

/// With an adversary that acts everywhere.
fn awake(seed: u64) -> (Rig, u64) {
    let rig = Rig::with(Config { rate: 1, ..Config::new(ARM, seed) });
    let root = rig.table();
    rig.map(root, A, 1, user_leaf(ARM, rig.frame(1), true));
    for cpu in 0..2 {
        rig.run(cpu, root, 1);
        rig.fill(cpu, A);
    }
    (rig, root)
}

/// How many of 100 seeds find it.
fn caught(flush: impl Fn(&Rig)) -> usize {
    let find = |seed: &u64| {
        let (rig, root) = awake(*seed);
        !weaken(&rig, root, || flush(&rig)).is_empty()
    };
    (0..100).filter(find).count()
}

#[test]
fn a_tlbi_before_the_write_is_seen_does_not_count() {
    let n = caught(|rig| {
        rig.isa.tlbi(Tlbi::VALE1IS, operand(1, A));
        rig.isa.dsb(Dsb::Ish);
        rig.isa.isb();
    });
    assert!(n > 40, "{n} of 100");
}

#[test]
fn a_tlbi_without_dsb_is_not_complete() {
    let n = caught(|rig| {
        rig.isa.dsb(Dsb::Ishst);
        rig.isa.tlbi(Tlbi::VALE1IS, operand(1, A));
        rig.isa.isb();
    });
    assert!(n > 70, "{n} of 100");
    let n = caught(|rig| {
        rig.isa.dsb(Dsb::Ishst);
        rig.isa.tlbi(Tlbi::VALE1IS, operand(1, A));
        // Waits on this CPU only.
        rig.isa.dsb(Dsb::Nsh);
        rig.isa.isb();
    });
    assert!(n > 70, "{n} of 100");
}

#[test]
fn without_isb_this_cpu_goes_on() {
    let (rig, root) = two_pages(ARM, 1);
    let found = weaken(&rig, root, || {
        rig.isa.dsb(Dsb::Ishst);
        rig.isa.tlbi(Tlbi::VALE1IS, operand(1, A));
        rig.isa.dsb(Dsb::Ish);
    });
    assert_eq!(found, [Kind::StaleAfterFlush]);
    assert_eq!(rig.hw.reports().iter().map(|r| r.cpu).collect::<Vec<_>>(), [0]);
}

#[test]
fn walks_see_a_write_after_dsb_and_another_cpu_after_reading_it() {
    for by in ["nobody", "dsb", "reader"] {
        let (rig, root) = two_pages(ARM, 1);
        let leaf = rig.table_for(root, A, 1);
        let i = Arch::index(A, 1);
        rig.hw.here(|s, cpu| s.table_swap(cpu, leaf, i, 0));
        match by {
            "dsb" => rig.isa.dsb(Dsb::Ishst),
            "reader" => {
                rig.hw.on_cpu(3, || rig.hw.here(|s, cpu| s.table_load(cpu, leaf, i)));
            }
            _ => {}
        }
        rig.s(|s| s.cpus[1].tlb.clear());
        let old = rig.hw.here(|s, _| s.walk(1, A, None)).is_ok();
        assert_eq!(old, by == "nobody", "{by}");
    }
}

#[test]
fn the_root_changes_at_isb() {
    let (rig, _) = two_pages(ARM, 1);
    let other = rig.table();
    rig.isa.write_ttbr0(2 << 48 | other << 12);
    let still = (0..50).any(|_| rig.hw.here(|s, _| s.walk(0, A, None)).is_ok());
    assert!(still, "until ISB the old root is in use too");
    rig.isa.isb();
    rig.s(|s| s.cpus[0].tlb.clear());
    assert!((0..50).all(|_| rig.hw.here(|s, _| s.walk(0, A, None)).is_err()));
}

#[test]
fn valid_to_another_valid_is_break_before_make() {
    // To another frame, and to another size.
    let (rig, root) = two_pages(ARM, 1);
    rig.map(root, A, 1, user_leaf(ARM, rig.frame(7), true));
    assert_eq!(rig.kinds()[0], Kind::NotBroken);
    let (rig, root) = two_pages(ARM, 1);
    rig.map(root, A, 2, user_block(ARM, rig.frame(512), true));
    assert!(rig.kinds().contains(&Kind::NotBroken), "{:?}", rig.kinds());
    // Rights are no such change.
    let (rig, root) = two_pages(ARM, 1);
    rig.map(root, A, 1, user_leaf(ARM, rig.frame(1), false));
    rig.hw.assert_clean();
}

#[test]
fn broken_and_made_again_without_the_flush_between() {
    for flushed in [false, true] {
        let (rig, root) = two_pages(ARM, 1);
        let base = rig.frame(512);
        // The same frames, in another size.
        rig.map(root, 0x40_0000, 2, user_block(ARM, base, true));
        rig.fill(0, 0x40_0000);
        rig.map(root, 0x40_0000, 2, 0);
        if flushed {
            tlbi(&rig, Tlbi::VAE1IS, operand(1, 0x40_0000));
        }
        let leaf = rig.table();
        for i in 0..512 {
            rig.put(leaf, i, user_leaf(ARM, base + i as u64, true));
        }
        let upper = rig.table_for(root, 0x40_0000, 2);
        rig.put(upper, Arch::index(0x40_0000, 2), super::pointer(ARM, leaf));
        let want: &[Kind] = if flushed { &[] } else { &[Kind::BrokenNotFlushed] };
        assert_eq!(rig.kinds(), want);
    }
}

#[test]
fn the_narrow_dsb_shows_a_write_to_this_cpus_walks_only() {
    let (rig, root) = two_pages(ARM, 1);
    let leaf = rig.table_for(root, A, 1);
    rig.hw.here(|s, cpu| s.table_swap(cpu, leaf, Arch::index(A, 1), 0));
    rig.isa.dsb(Dsb::Nshst);
    for (cpu, old) in [(0, false), (1, true)] {
        rig.s(|s| s.cpus[cpu].tlb.clear());
        assert_eq!(rig.hw.here(|s, _| s.walk(cpu, A, None)).is_ok(), old);
    }
}
