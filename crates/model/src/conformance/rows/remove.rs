//! Taking mappings and rights away, by address.

use alloc::vec::Vec;

use machvm_hal::Prot;
use machvm_hal::pmap9::{Frame, Pmap9, PmapMachine};

use super::{CANFAIL, Fixture, Touch, end, enter, loads, may, new, pages, raw, stores, touch, wire};

/// Wired ones too; the rest of the range is nothing.
pub fn pm15_remove_skips_holes_and_takes_wired<F: Fixture>(f: &F) {
    let (m, pm) = (f.machine(), new(f));
    pm.pmap_remove(pages(f.at(0, 0), 64));
    pm.pmap_update(&mut may());
    for n in [0, 7, 8, 33] {
        enter::<F>(&pm, f.at(0, n), f.page(n), Prot::RW, Prot::R);
    }
    wire::<F>(&pm, f.at(0, 20), f.page(20), Prot::RW);
    pm.pmap_remove(pages(f.at(0, 5), 20));
    pm.pmap_update(&mut may());
    for (n, there) in [(0, true), (7, false), (8, false), (20, false), (33, true)] {
        assert_eq!(loads(f, &pm, f.at(0, n)), there, "page {n}");
        assert_eq!(m.pmap_page_is_mapped(f.page(n)), there, "page {n}");
    }
    assert_eq!((pm.pmap_resident_count(), pm.pmap_wired_count()), (2, 0));
    end(f, pm, &[pages(f.at(0, 0), 64)]);
}

/// Used and written is known of the page when no mapping of it is left.
pub fn z131_use_survives_the_last_mapping<F: Fixture>(f: &F) {
    let (m, pm) = (f.machine(), new(f));
    enter::<F>(&pm, f.at(0, 0), f.page(0), Prot::RW, Prot::R);
    assert!(stores(f, &pm, f.at(0, 0)));
    enter::<F>(&pm, f.at(0, 1), f.page(1), Prot::RW, Prot::R);
    assert!(loads(f, &pm, f.at(0, 1)));
    pm.pmap_remove(pages(f.at(0, 0), 2));
    pm.pmap_update(&mut may());
    assert!(m.pmap_is_modified(f.page(0)) && m.pmap_is_referenced(f.page(0)));
    assert!(!m.pmap_is_modified(f.page(1)) && m.pmap_is_referenced(f.page(1)));
    assert!(m.pmap_clear_modify(f.page(0), &mut may()));
    assert!(m.pmap_clear_reference(f.page(0), &mut may()));
    assert!(!m.pmap_is_modified(f.page(0)) && !m.pmap_is_referenced(f.page(0)));
    end(f, pm, &[]);
}

/// From one mapping to another far away, with nothing between.
pub fn z152_a_huge_sparse_range_is_removed_quickly<F: Fixture>(f: &F) {
    let pm = new(f);
    let mut ends: Vec<_> = (0..4).map(|k| f.far(k, k)).collect();
    ends.sort();
    for (k, va) in (0..4).map(|k| (k, f.far(k, k))) {
        enter::<F>(&pm, va, f.page(k), Prot::RW, Prot::R);
    }
    let all = machvm_hal::VaRange::between(ends[0], ends[3].add(1)).expect("four addresses");
    assert!(all.pages() > 1 << 16, "{all:?} is not huge");
    for _ in 0..100 {
        pm.pmap_remove(all);
        pm.pmap_protect(all, Prot::R);
        pm.pmap_unwire(all);
    }
    end(f, pm, &[]);
}

/// The suite would see an implementation's, or a caller's, forgotten update.
pub fn z130_a_missing_update_shows<F: Fixture>(f: &F) {
    if !f.facts().lazy {
        return;
    }
    let pm = new(f);
    let cpu = f.facts().cpus - 1;
    let mut stale = 0;
    for _ in 0..64 {
        enter::<F>(&pm, f.at(0, 0), f.page(0), Prot::RW, Prot::W);
        assert!(touch(f, cpu, &pm, f.at(0, 0), Touch::Load).is_some());
        pm.pmap_remove(pages(f.at(0, 0), 1));
        stale += u32::from(f.run(cpu, &pm, raw(f.at(0, 0)), Touch::Load).is_some());
        pm.pmap_update(&mut may());
        assert_eq!(f.run(cpu, &pm, raw(f.at(0, 0)), Touch::Load), None);
    }
    assert!(stale > 0, "no CPU ever used what was removed and not flushed");
    end(f, pm, &[]);
}

/// Lazy work of every kind is complete, on every CPU that has seen it.
pub fn pm42_update_makes_every_cpu_obey<F: Fixture>(f: &F) {
    let pm = new(f);
    pm.pmap_update(&mut may());
    for _ in 0..16 {
        for n in 0..6 {
            enter::<F>(&pm, f.at(0, n), f.page(n), Prot::RW, Prot::W);
            for cpu in 0..f.facts().cpus {
                assert!(touch(f, cpu, &pm, f.at(0, n), Touch::Store(1)).is_some());
            }
        }
        pm.pmap_protect(pages(f.at(0, 0), 2), Prot::R);
        pm.pmap_remove(pages(f.at(0, 2), 3));
        pm.pmap_update(&mut may());
        for cpu in 0..f.facts().cpus {
            let store = |n| f.run(cpu, &pm, raw(f.at(0, n)), Touch::Store(2)).is_some();
            let load = |n| touch(f, cpu, &pm, f.at(0, n), Touch::Load).is_some();
            assert!(!store(0) && !store(1) && load(0) && load(1), "CPU {cpu}");
            assert!(!load(2) && !load(3) && !load(4) && load(5), "CPU {cpu}");
        }
        pm.pmap_update(&mut may());
    }
    end(f, pm, &[pages(f.at(0, 0), 6)]);
}

/// A hint: what follows is the same.
pub fn pm17_the_hint_changes_nothing_that_matters<F: Fixture>(f: &F) {
    let pm = new(f);
    enter::<F>(&pm, f.at(0, 0), f.page(0), Prot::RW, Prot::W);
    if pm.hint_teardown() {
        assert_eq!(pm.pmap_resident_count(), 0);
    }
    assert!(f.machine().pmap_is_modified(f.page(0)));
    end(f, pm, &[pages(f.at(0, 0), 1)]);
}

/// At exit: the rest is for `pmap_remove`.
pub fn pm18_remove_pages_leaves_wired_and_unmanaged<F: Fixture>(f: &F) {
    let (m, pm) = (f.machine(), new(f));
    for n in 0..4 {
        enter::<F>(&pm, f.at(0, n), f.page(n), Prot::RW, Prot::W);
        assert!(stores(f, &pm, f.at(0, n)));
    }
    enter::<F>(&pm, f.far(1, 5), f.page(5), Prot::R, Prot::R);
    wire::<F>(&pm, f.at(0, 8), f.page(8), Prot::RW);
    let mut left = 1;
    if let Some(device) = f.device() {
        let done = pm.pmap_enter(f.at(0, 9), Frame::Unmanaged(device), Prot::R, CANFAIL, &mut may());
        assert_eq!(done, Ok(()));
        left += 1;
    }
    pm.pmap_remove_pages(&mut may());
    assert_eq!((pm.pmap_resident_count(), pm.pmap_wired_count()), (left, 1));
    assert!((0..4).all(|n| !loads(f, &pm, f.at(0, n)) && m.pmap_is_modified(f.page(n))));
    assert!(stores(f, &pm, f.at(0, 8)) && !m.pmap_page_is_mapped(f.page(5)));
    end(f, pm, &[pages(f.at(0, 0), 10)]);
}

/// Rights beyond what is asked for go, others stay, none is added; no R removes.
pub fn pm19_protect_only_takes<F: Fixture>(f: &F) {
    let (m, pm) = (f.machine(), new(f));
    for n in 0..4 {
        enter::<F>(&pm, f.at(0, n), f.page(n), Prot::RW, Prot::W);
        assert!(stores(f, &pm, f.at(0, n)));
    }
    enter::<F>(&pm, f.at(0, 4), f.page(4), Prot::R, Prot::R);
    pm.pmap_protect(pages(f.at(0, 0), 6), Prot::ALL);
    pm.pmap_protect(pages(f.at(0, 1), 1), Prot::R);
    pm.pmap_protect(pages(f.at(0, 2), 1), Prot::NONE);
    pm.pmap_protect(pages(f.at(0, 4), 2), Prot::RW);
    pm.pmap_update(&mut may());
    let rights = |n| (loads(f, &pm, f.at(0, n)), stores(f, &pm, f.at(0, n)));
    assert_eq!(rights(0), (true, true));
    assert_eq!(rights(1), (true, false));
    assert_eq!(rights(2), (false, false));
    assert_eq!(rights(4), (true, false));
    assert_eq!(rights(5), (false, false));
    assert_eq!(pm.pmap_resident_count(), 4);
    assert!(m.pmap_is_modified(f.page(1)) && m.pmap_is_modified(f.page(2)));
    // A wired mapping keeps its wiring.
    wire::<F>(&pm, f.at(0, 0), f.page(0), Prot::RW);
    pm.pmap_protect(pages(f.at(0, 0), 1), Prot::R);
    assert_eq!(pm.pmap_wired_count(), 1);
    end(f, pm, &[pages(f.at(0, 0), 6)]);
}

/// Per mapping, and the mapping stays.
pub fn pm22_unwire_counts<F: Fixture>(f: &F) {
    let (m, pm) = (f.machine(), new(f));
    (0..5).for_each(|n| wire::<F>(&pm, f.at(0, n), f.page(n), Prot::RW));
    assert_eq!((pm.pmap_resident_count(), pm.pmap_wired_count()), (5, 5));
    pm.pmap_unwire(pages(f.at(0, 1), 2));
    assert_eq!((pm.pmap_resident_count(), pm.pmap_wired_count()), (5, 3));
    assert_eq!((0..4).map(|n| m.pmap_page_wired_mappings(f.page(n))).collect::<Vec<_>>(), [1, 0, 0, 1]);
    assert!((0..5).all(|n| stores(f, &pm, f.at(0, n))));
    pm.pmap_collect(&mut may());
    assert_eq!(pm.pmap_wired_count(), 3);
    assert!([0, 3, 4].into_iter().all(|n| loads(f, &pm, f.at(0, n))));
    end(f, pm, &[pages(f.at(0, 0), 5)]);
}

/// What is not mapped or not wired is skipped.
pub fn z150_unwire_of_nothing<F: Fixture>(f: &F) {
    let pm = new(f);
    pm.pmap_unwire(pages(f.at(0, 0), 64));
    enter::<F>(&pm, f.at(0, 3), f.page(3), Prot::RW, Prot::R);
    pm.pmap_unwire(pages(f.at(0, 0), 64));
    assert_eq!((pm.pmap_resident_count(), pm.pmap_wired_count()), (1, 0));
    end(f, pm, &[pages(f.at(0, 3), 1)]);
}

/// Wired mappings stay whatever is collected (Z147), the rest comes back by faults.
pub fn pm43_collect_keeps_wired<F: Fixture>(f: &F) {
    let (m, pm) = (f.machine(), new(f));
    enter::<F>(&pm, f.at(0, 0), f.page(0), Prot::RW, Prot::R);
    assert!(touch(f, 0, &pm, f.at(0, 0), Touch::Store(77)).is_some());
    enter::<F>(&pm, f.far(2, 1), f.page(1), Prot::RW, Prot::R);
    wire::<F>(&pm, f.at(0, 2), f.page(2), Prot::RW);
    pm.pmap_collect(&mut may());
    assert_eq!(pm.pmap_wired_count(), 1);
    for cpu in 0..f.facts().cpus {
        assert!(touch(f, cpu, &pm, f.at(0, 2), Touch::Store(5)).is_some());
    }
    assert!(m.pmap_is_modified(f.page(0)) && f.peek(f.page(0), 0) == 77);
    enter::<F>(&pm, f.at(0, 0), f.page(0), Prot::R, Prot::R);
    assert_eq!(touch(f, 0, &pm, f.at(0, 0), Touch::Load), Some(77));
    end(f, pm, &[pages(f.at(0, 0), 3), pages(f.far(2, 1), 1)]);
}

/// Pure advice: whatever it copies is not wired, not writable, not used.
pub fn pm41_copy_is_advice<F: Fixture>(f: &F) {
    let (parent, child) = (new(f), new(f));
    wire::<F>(&parent, f.at(0, 0), f.page(0), Prot::RW);
    enter::<F>(&parent, f.at(0, 1), f.page(1), Prot::RW, Prot::W);
    child.pmap_copy(&parent, pages(f.at(0, 0), 2));
    assert_eq!(child.pmap_wired_count(), 0);
    assert!((0..2).all(|n| !stores(f, &child, f.at(0, n))));
    assert!(stores(f, &parent, f.at(0, 0)));
    end(f, child, &[pages(f.at(0, 0), 2)]);
    end(f, parent, &[pages(f.at(0, 0), 2)]);
}
