//! Questions by address.

use alloc::vec::Vec;

use machvm_hal::pmap9::{MemAttr, MemAttrFailed, Mincore, Pmap9, PmapMachine};
use machvm_hal::{Prot, RawAddr, Va};

use super::{Fixture, Touch, end, enter, loads, may, new, pages, raw, stores, touch, wire};

/// Every byte of the page; `None` and not 0 where nothing is (Z141).
pub fn pm28_extract_has_the_offset<F: Fixture>(f: &F) {
    let pm = new(f);
    let va = f.at(0, 0);
    assert_eq!(pm.pmap_extract(raw(va)), None);
    enter::<F>(&pm, va, f.page(0), Prot::R, Prot::R);
    for off in [0, 1, 0x7ff, 0xfff] {
        let pa = pm.pmap_extract(RawAddr(va.get() + off)).expect("mapped");
        assert_eq!(pa.0 & 0xfff, off);
        if let Some(want) = f.physical(f.page(0)) {
            assert_eq!(pa.0 & !0xfff, want.0);
        }
    }
    assert_eq!(pm.pmap_extract(RawAddr(va.get() + 0x1000)), None);
    end(f, pm, &[pages(va, 1)]);
    assert_eq!(new(f).pmap_extract(raw(va)), None);
}

/// With fewer rights, or refused by the caller, nothing is held.
pub fn pm29_hold_needs_the_rights<F: Fixture>(f: &F) {
    let pm = new(f);
    let va = f.at(0, 0);
    let mut held = Vec::new();
    assert_eq!(pm.pmap_extract_and_hold(raw(va), Prot::R, &mut |_| true), None);
    enter::<F>(&pm, va, f.page(0), Prot::R, Prot::R);
    assert_eq!(pm.pmap_extract_and_hold(raw(va), Prot::RW, &mut |_| panic!("not allowed")), None);
    assert_eq!(pm.pmap_extract_and_hold(raw(va), Prot::R, &mut |_| false), None);
    let got = pm
        .pmap_extract_and_hold(RawAddr(va.get() + 5), Prot::R, &mut |p| {
            held.push(p);
            true
        })
        .expect("mapped readable");
    assert_eq!((got.page(), &held[..]), (f.page(0), &[f.page(0)][..]));
    enter::<F>(&pm, va, f.page(0), Prot::RW, Prot::W);
    let again = pm.pmap_extract_and_hold(raw(va), Prot::RW, &mut |_| true).expect("mapped writable");
    pm.pmap_unhold(again);
    pm.pmap_unhold(got);
    assert!(stores(f, &pm, va));
    end(f, pm, &[pages(va, 1)]);
}

/// The mapping, and all mappings around it, may go first.
pub fn pm29_a_hold_outlives_the_mapping<F: Fixture>(f: &F) {
    let (m, pm) = (f.machine(), new(f));
    for how in 0..3 {
        for n in 0..2 {
            enter::<F>(&pm, f.at(0, n), f.page(n), Prot::RW, Prot::W);
        }
        let held = [0, 1].map(|n| pm.pmap_extract_and_hold(raw(f.at(0, n)), Prot::R, &mut |_| true));
        match how {
            0 => pm.pmap_remove(pages(f.at(0, 0), 2)),
            1 => (0..2).for_each(|n| m.remove_page_mappings(f.page(n), &mut may())),
            _ => pm.pmap_collect(&mut may()),
        }
        pm.pmap_update(&mut may());
        assert!(!loads(f, &pm, f.at(0, 0)) && !loads(f, &pm, f.at(0, 1)));
        if how == 1 {
            // Mapped again under the hold.
            enter::<F>(&pm, f.at(0, 0), f.page(0), Prot::RW, Prot::W);
            assert!(stores(f, &pm, f.at(0, 0)));
        }
        held.into_iter().flatten().for_each(|h| pm.pmap_unhold(h));
        pm.pmap_remove(pages(f.at(0, 0), 2));
        assert_eq!((pm.pmap_resident_count(), pm.pmap_wired_count()), (0, 0));
    }
    end(f, pm, &[]);
}

/// Mapped pages and, of them, wired ones, after everything that changes them.
pub fn pm45_counts_are_exact<F: Fixture>(f: &F) {
    let (m, pm) = (f.machine(), new(f));
    let counts = || {
        let s = pm.pmap_statistics();
        assert_eq!((pm.pmap_resident_count(), pm.pmap_wired_count()), (s.resident_count, s.wired_count));
        (s.resident_count, s.wired_count)
    };
    (0..8).for_each(|n| enter::<F>(&pm, f.at(0, n), f.page(n), Prot::RW, Prot::R));
    assert_eq!(counts(), (8, 0));
    (0..8).for_each(|n| wire::<F>(&pm, f.at(0, n), f.page(n), Prot::RW));
    (8..12).for_each(|n| wire::<F>(&pm, f.at(0, n), f.page(n), Prot::R));
    assert_eq!(counts(), (12, 12));
    pm.pmap_unwire(pages(f.at(0, 4), 2));
    assert_eq!(counts(), (12, 10));
    m.remove_page_mappings(f.page(0), &mut may());
    m.remove_page_mappings(f.page(4), &mut may());
    assert_eq!(counts(), (10, 9));
    pm.pmap_remove(pages(f.at(0, 6), 4));
    assert_eq!(counts(), (6, 5));
    pm.pmap_protect(pages(f.at(0, 0), 12), Prot::R);
    assert_eq!(counts(), (6, 5));
    pm.pmap_protect(pages(f.at(0, 10), 2), Prot::NONE);
    assert_eq!(counts(), (4, 3));
    end(f, pm, &[pages(f.at(0, 0), 12)]);
}

/// A mode for the mappings made from now on; refused while there are others.
pub fn pm47_memattr<F: Fixture>(f: &F) {
    let (m, pm, page) = (f.machine(), new(f), f.page(0));
    assert_eq!(m.pmap_page_get_memattr(page), MemAttr::WriteBack);
    assert!(m.pmap_is_valid_memattr(MemAttr::WriteBack));
    for attr in [MemAttr::WriteCombining, MemAttr::Device] {
        if !m.pmap_is_valid_memattr(attr) {
            assert_eq!(m.pmap_page_set_memattr(page, attr), Err(MemAttrFailed::Unsupported(attr)));
            continue;
        }
        assert_eq!(m.pmap_page_set_memattr(page, attr), Ok(()));
        assert_eq!(m.pmap_page_get_memattr(page), attr);
        enter::<F>(&pm, f.at(0, 0), page, Prot::RW, Prot::W);
        assert!(stores(f, &pm, f.at(0, 0)));
        let back = m.pmap_page_set_memattr(page, MemAttr::WriteBack);
        assert_eq!((back, m.pmap_page_get_memattr(page)), (Err(MemAttrFailed::Mapped(page)), attr));
        pm.pmap_remove(pages(f.at(0, 0), 1));
        pm.pmap_update(&mut may());
        assert!(m.pmap_is_modified(page));
    }
    assert_eq!(m.pmap_page_set_memattr(page, MemAttr::WriteBack), Ok(()));
    end(f, pm, &[]);
}

/// There is a table, and nothing in it.
pub fn pm48_is_prefaultable<F: Fixture>(f: &F) {
    let pm = new(f);
    assert!(!pm.pmap_is_prefaultable(f.at(0, 1)));
    enter::<F>(&pm, f.at(0, 0), f.page(0), Prot::R, Prot::R);
    assert!(pm.pmap_is_prefaultable(f.at(0, 1)));
    assert!(!pm.pmap_is_prefaultable(f.at(0, 0)) && !pm.pmap_is_prefaultable(f.far(2, 0)));
    end(f, pm, &[pages(f.at(0, 0), 1)]);
}

/// Nothing where nothing is mapped; the mapping's own bits; whom to ask for the rest.
pub fn pm49_mincore<F: Fixture>(f: &F) {
    let pm = new(f);
    let va = f.at(0, 0);
    assert_eq!(pm.pmap_mincore(va), None);
    enter::<F>(&pm, va, f.page(0), Prot::RW, Prot::R);
    let clean = pm.pmap_mincore(va).expect("mapped");
    assert!(clean.bits.contains(Mincore::INCORE) && !clean.bits.contains(Mincore::MODIFIED));
    assert!(clean.ask_page && !clean.bits.contains(Mincore::PSIND1));
    assert_eq!(Some(clean.pa), pm.pmap_extract(raw(va)));
    assert!(touch(f, 0, &pm, va, Touch::Store(1)).is_some());
    let used = pm.pmap_mincore(va).expect("mapped");
    let both = Mincore::REFERENCED | Mincore::MODIFIED;
    // What the mapping does not say the page does.
    assert!(used.bits.contains(both) || used.ask_page && f.machine().pmap_is_modified(f.page(0)));
    end(f, pm, &[pages(va, 1)]);
}

/// Up to the object's phase, if a whole superpage fits.
pub fn pm50_align_superpage<F: Fixture>(f: &F) {
    let m = f.machine();
    let va = |at: u64| Va::aligned(RawAddr(at)).expect("aligned");
    let Some(shift) = m.superpage_shift(1) else {
        assert_eq!(m.pmap_align_superpage(0, va(0x1000), 1 << 30), va(0x1000));
        return;
    };
    let span = 1u64 << shift;
    assert_eq!(m.pmap_align_superpage(0, va(0x1000), 4 * span), va(span));
    assert_eq!(m.pmap_align_superpage(0x3000, va(span + 0x3000), 4 * span), va(span + 0x3000));
    assert_eq!(m.pmap_align_superpage(0x3000, va(span + 0x4000), 4 * span), va(2 * span + 0x3000));
    assert_eq!(m.pmap_align_superpage(0, va(0x1000), span / 2), va(0x1000));
    assert_eq!(m.superpage_shift(0), None);
}
