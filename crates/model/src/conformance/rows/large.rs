//! Superpages on demand, and many pages at once.

use alloc::vec::Vec;

use machvm_hal::pmap9::{Frame, LargeFailed, MemAttr, Mincore, Pmap9, PmapFlags, PmapMachine};
use machvm_hal::{PageNo, Pfn, Prot, VaRange};

use super::{CANFAIL, Fixture, PmapOf, Touch, end, enter, loads, may, new, pages, raw, stores, touch, wire};

const N: u64 = 512;

fn psind<F: Fixture>(
    f: &F,
    pm: &PmapOf<F>,
    n: usize,
    prot: Prot,
    access: Prot,
    more: PmapFlags,
) -> Result<(), LargeFailed> {
    let flags = more.accessed_by(access);
    pm.pmap_enter_psind(f.at(0, n), Frame::Page(f.page(n)), prot, flags, 1, &mut may())
}
fn is_large<F: Fixture>(f: &F, pm: &PmapOf<F>, n: usize) -> bool {
    pm.pmap_mincore(f.at(0, n)).is_some_and(|c| c.bits.contains(Mincore::PSIND1))
}
fn window<F: Fixture>(f: &F) -> VaRange {
    pages(f.at(0, 0), N)
}

/// 512 pages in one mapping, each found and used.
pub fn pm11_psind_maps_a_superpage<F: Fixture>(f: &F) {
    if !f.facts().superpage {
        return;
    }
    let (m, pm) = (f.machine(), new(f));
    assert_eq!(psind(f, &pm, 0, Prot::RW, Prot::W, PmapFlags::empty()), Ok(()));
    assert_eq!(pm.pmap_resident_count(), N);
    for n in [0, 1, 255, 511] {
        assert!(is_large(f, &pm, n));
        assert_eq!(pm.pmap_extract(raw(f.at(0, n))), f.physical(f.page(n)));
        assert_eq!(touch(f, 0, &pm, f.at(0, n), Touch::Store(n as u64)), Some(0));
        assert_eq!(f.peek(f.page(n), 0), n as u64);
        assert!(m.pmap_page_is_mapped(f.page(n)) && pm.pmap_page_exists_quick(f.page(n)));
        assert!(m.pmap_is_modified(f.page(n)));
    }
    assert!(!m.pmap_page_is_mapped(f.page(512)));
    // From a page: the others stay.
    m.remove_page_mappings(f.page(7), &mut may());
    assert!(!loads(f, &pm, f.at(0, 7)) && loads(f, &pm, f.at(0, 8)));
    assert_eq!(pm.pmap_resident_count(), N - 1);
    end(f, pm, &[window(f)]);
    assert!(!m.pmap_page_is_mapped(f.page(8)));
}

/// Unaligned, occupied, there already, no such size; nothing changes then.
pub fn q11_superpage_enter_refuses_what_it_may_not<F: Fixture>(f: &F) {
    if !f.facts().superpage {
        return;
    }
    let pm = new(f);
    let va = f.at(0, 0);
    let none = PmapFlags::empty();
    let at = |page: PageNo, psind: u8| {
        pm.pmap_enter_psind(va, Frame::Page(page), Prot::R, PmapFlags::empty(), psind, &mut may())
    };
    assert!(matches!(at(f.page(1), 1), Err(LargeFailed::Unaligned { va: at, .. }) if at == va));
    assert_eq!(at(f.page(0), 9), Err(LargeFailed::NoSuchSize { psind: 9 }));
    assert_eq!(pm.pmap_resident_count(), 0);

    enter::<F>(&pm, f.at(0, 3), f.page(3), Prot::RW, Prot::W);
    let keep = PmapFlags::PMAP_ENTER_NOREPLACE;
    assert_eq!(psind(f, &pm, 0, Prot::R, Prot::R, keep), Err(LargeFailed::Occupied { va: f.at(0, 3) }));
    wire::<F>(&pm, f.at(0, 5), f.page(5), Prot::R);
    assert!(matches!(psind(f, &pm, 0, Prot::R, Prot::R, none), Err(LargeFailed::Occupied { .. })));
    assert_eq!((pm.pmap_resident_count(), pm.pmap_wired_count()), (2, 1));
    assert!(loads(f, &pm, f.at(0, 3)));

    pm.pmap_unwire(window(f));
    // The small ones go; what was noted of them stays.
    assert_eq!(psind(f, &pm, 0, Prot::R, Prot::R, none), Ok(()));
    assert_eq!((pm.pmap_resident_count(), pm.pmap_wired_count()), (N, 0));
    assert!(f.machine().pmap_is_modified(f.page(3)) && !f.machine().pmap_is_modified(f.page(4)));
    assert!(loads(f, &pm, f.at(0, 3)) && !stores(f, &pm, f.at(0, 3)));
    assert_eq!(psind(f, &pm, 0, Prot::R, Prot::R, none), Err(LargeFailed::AlreadyLarge { va }));
    end(f, pm, &[window(f)]);
}

/// Removing, protecting, unwiring and entering a part leaves the rest as it was.
pub fn q08_part_of_a_superpage_is_demoted<F: Fixture>(f: &F) {
    if !f.facts().superpage {
        return;
    }
    let (m, pm) = (f.machine(), new(f));
    let wired = PmapFlags::PMAP_WIRED;
    assert_eq!(psind(f, &pm, 0, Prot::RW, Prot::W, wired), Ok(()));
    assert_eq!(pm.pmap_wired_count(), N);
    assert!(touch(f, 0, &pm, f.at(0, 100), Touch::Store(1)).is_some());
    pm.pmap_protect(pages(f.at(0, 100), 2), Prot::R);
    pm.pmap_unwire(pages(f.at(0, 200), 12));
    pm.pmap_remove(pages(f.at(0, 300), 1));
    pm.pmap_update(&mut may());
    assert!(!is_large(f, &pm, 0));
    assert!(!stores(f, &pm, f.at(0, 101)) && loads(f, &pm, f.at(0, 101)));
    assert!(stores(f, &pm, f.at(0, 102)) && !loads(f, &pm, f.at(0, 300)));
    assert_eq!((pm.pmap_resident_count(), pm.pmap_wired_count()), (N - 1, N - 13));
    assert_eq!(m.pmap_page_wired_mappings(f.page(201)), 0);
    assert_eq!(m.pmap_page_wired_mappings(f.page(199)), 1);
    end(f, pm, &[window(f)]);
}

/// A part of it cannot go alone.
pub fn q12_a_large_mapping_goes_whole<F: Fixture>(f: &F) {
    let Some(device) = f.device().filter(|_| f.facts().superpage) else { return };
    let pm = new(f);
    let large = PmapFlags::PMAP_ENTER_LARGEPAGE | PmapFlags::PMAP_WIRED;
    let enter = |frame: Frame| {
        let flags = large.accessed_by(Prot::RW);
        pm.pmap_enter_psind(f.at(0, 0), frame, Prot::RW, flags, 1, &mut may())
    };
    // Managed pages are for superpages that can be broken up.
    assert_eq!(enter(Frame::Page(f.page(0))), Err(LargeFailed::NoSuchSize { psind: 1 }));
    assert_eq!(enter(Frame::Unmanaged(device)), Ok(()));
    assert_eq!((pm.pmap_resident_count(), pm.pmap_wired_count()), (N, N));
    assert_eq!(pm.pmap_extract(raw(f.at(0, 9))).map(|p| p.pfn()), Some(Pfn(device.0 + 9)));
    assert!(stores(f, &pm, f.at(0, 511)));
    pm.pmap_protect(window(f), Prot::R);
    pm.pmap_unwire(window(f));
    pm.pmap_update(&mut may());
    assert!(!stores(f, &pm, f.at(0, 3)) && loads(f, &pm, f.at(0, 3)));
    assert_eq!((pm.pmap_resident_count(), pm.pmap_wired_count()), (N, 0));
    pm.pmap_remove(window(f));
    pm.pmap_update(&mut may());
    assert!(!loads(f, &pm, f.at(0, 3)));
    end(f, pm, &[]);
}

/// It is only a guess.
pub fn pm12_enter_quick_never_replaces_and_notes_nothing<F: Fixture>(f: &F) {
    let (m, pm) = (f.machine(), new(f));
    pm.pmap_enter_quick(f.at(0, 0), f.page(0), Prot::ALL);
    assert!(pm.pmap_extract(raw(f.at(0, 0))).is_some());
    assert!(!m.pmap_is_modified(f.page(0)));
    // Where the hardware does not note use, a page that is mapped counts as used.
    let exact = f.facts().hw_accessed && !f.facts().speculative;
    assert!(!exact || !m.pmap_is_referenced(f.page(0)));
    assert!(loads(f, &pm, f.at(0, 0)) && !stores(f, &pm, f.at(0, 0)));

    enter::<F>(&pm, f.at(0, 1), f.page(1), Prot::RW, Prot::W);
    let other = if f.facts().any_frame { f.page(2) } else { f.page(1) };
    pm.pmap_enter_quick(f.at(0, 1), other, Prot::R);
    assert!(m.pmap_page_is_mapped(f.page(1)) && stores(f, &pm, f.at(0, 1)));
    assert_eq!(pm.pmap_resident_count(), 2);

    if f.shortage(machvm_hal::pmap9::Shortage::Table, true) {
        (0..4).for_each(|k| pm.pmap_enter_quick(f.far(k, 3), f.page(3), Prot::R));
        assert!(pm.pmap_resident_count() < 6, "mapped without tables");
        f.shortage(machvm_hal::pmap9::Shortage::Table, false);
    }
    let far: Vec<_> = (0..4).map(|k| pages(f.far(k, 3), 1)).collect();
    end(f, pm, &[&far[..], &[pages(f.at(0, 0), 2)]].concat());
}

/// What is resident is mapped, what is mapped is left, what lies beyond is not looked at.
pub fn pm13_enter_object_skips_holes<F: Fixture>(f: &F) {
    let (m, pm) = (f.machine(), new(f));
    enter::<F>(&pm, f.at(0, 4), f.page(4), Prot::RW, Prot::W);
    let resident = [0, 1, 2, 4, 5, 40, 41, 50];
    let range = pages(f.at(0, 0), 45);
    pm.pmap_enter_object(range, &mut resident.iter().map(|i| (*i as u64, f.page(*i))), Prot::RW);
    for n in 0..52 {
        let there = resident.contains(&n) && n < 45;
        assert_eq!(pm.pmap_extract(raw(f.at(0, n))).is_some(), there, "page {n}");
        assert_eq!(m.pmap_page_is_mapped(f.page(n)), there, "page {n}");
    }
    assert!(stores(f, &pm, f.at(0, 4)) && !stores(f, &pm, f.at(0, 5)) && loads(f, &pm, f.at(0, 5)));
    assert_eq!(pm.pmap_resident_count(), 7);
    end(f, pm, &[range]);
}

/// A whole region becomes one mapping.
pub fn pm13_enter_object_makes_superpages<F: Fixture>(f: &F) {
    if !f.facts().superpage {
        return;
    }
    let pm = new(f);
    let mut all = (0..600).map(|i| (i as u64, f.page(i)));
    pm.pmap_enter_object(pages(f.at(0, 0), 600), &mut all, Prot::R);
    pm.pmap_update(&mut may());
    assert_eq!(pm.pmap_resident_count(), 600);
    assert!(is_large(f, &pm, 0) && is_large(f, &pm, 511) && !is_large(f, &pm, 512));
    assert!(loads(f, &pm, f.at(0, 511)) && loads(f, &pm, f.at(0, 599)));
    assert!(!f.machine().pmap_is_modified(f.page(0)));
    end(f, pm, &[pages(f.at(0, 0), 600)]);
}

/// As much as fits, of any frames; and it may do nothing.
pub fn pm14_object_init_pt_maps_device_memory<F: Fixture>(f: &F) {
    let Some(device) = f.device() else { return };
    let pm = new(f);
    let mapped = pm.pmap_object_init_pt(window(f), device, Prot::RW, MemAttr::WriteBack);
    assert_eq!(pm.pmap_resident_count(), mapped);
    assert!(mapped == 0 || mapped == N);
    if mapped == N {
        assert_eq!(pm.pmap_extract(raw(f.at(0, 77))).map(|p| p.pfn()), Some(Pfn(device.0 + 77)));
        assert!(stores(f, &pm, f.at(0, 77)));
    }
    // What is there is left.
    assert_eq!(pm.pmap_object_init_pt(window(f), device, Prot::RW, MemAttr::WriteBack), 0);
    // An address for a page of its own inside: the device's mapping may go.
    let done = pm.pmap_enter(f.at(0, 5), f.page(5).into(), Prot::R, CANFAIL, &mut may());
    assert_eq!(done, Ok(()));
    assert!(f.machine().pmap_page_is_mapped(f.page(5)));
    end(f, pm, &[window(f)]);
}
