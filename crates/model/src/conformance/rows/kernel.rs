//! The kernel's mappings, quick pages and contents.

use alloc::format;
use alloc::vec::Vec;

use machvm_hal::pmap9::{Frame, Pmap9, PmapFlags, PmapMachine, QuickPage};
use machvm_hal::{PageNo, Prot};

use super::{CANFAIL, Fixture, Touch, kernel, may, pages, panics, raw};

fn update<F: Fixture>(f: &F) {
    f.machine().pmap_kernel().pmap_update(&mut may());
}
fn kenter<F: Fixture>(f: &F, n: u64, page: PageNo, prot: Prot) {
    f.machine().pmap_kenter_pa(f.kernel(n), page.into(), prot, PmapFlags::empty());
}
fn counts<F: Fixture>(f: &F) -> (u64, u64) {
    let s = f.machine().pmap_kernel().pmap_statistics();
    (s.resident_count, s.wired_count)
}

/// Byte for byte, and nothing where nothing is.
pub fn pm30_kextract<F: Fixture>(f: &F) {
    let m = f.machine();
    assert_eq!(m.pmap_kextract(raw(f.kernel(0))), None);
    kenter(f, 0, f.page(3), Prot::RW);
    let at = machvm_hal::RawAddr(f.kernel(0).get() + 0x21);
    let got = m.pmap_kextract(at).expect("mapped");
    assert_eq!(got.0 & 0xfff, 0x21);
    if let Some(pa) = f.physical(f.page(3)) {
        assert_eq!(got.0, pa.0 + 0x21);
    }
    m.pmap_kremove(pages(f.kernel(0), 1));
    update(f);
    assert_eq!(m.pmap_kextract(at), None);
}

/// On every CPU, with the rights asked for, and over an older one.
pub fn pm31_kenter_maps_at_once<F: Fixture>(f: &F) {
    let m = f.machine();
    let before = counts(f);
    kenter(f, 0, f.page(0), Prot::RW);
    kenter(f, 1, f.page(1), Prot::R);
    if let Some(device) = f.device() {
        let flags = PmapFlags::PMAP_NOCACHE;
        m.pmap_kenter_pa(f.kernel(2), Frame::Unmanaged(device), Prot::RW, flags);
        assert_eq!(m.pmap_kextract(raw(f.kernel(2))).map(|p| p.pfn()), Some(device));
        m.pmap_kremove(pages(f.kernel(2), 1));
    }
    for cpu in 0..f.facts().cpus {
        let word = u64::from(cpu) + 9;
        assert!(kernel(f, cpu, raw(f.kernel(0)), Touch::Store(word)).is_some());
        assert_eq!(f.peek(f.page(0), 0), word);
        assert!(kernel(f, cpu, raw(f.kernel(1)), Touch::Load).is_some());
        assert!(kernel(f, cpu, raw(f.kernel(1)), Touch::Store(1)).is_none());
    }
    assert_eq!(counts(f), (before.0 + 2, before.1 + 2));
    // The same page with other rights.
    kenter(f, 0, f.page(0), Prot::R);
    update(f);
    assert!((0..f.facts().cpus).all(|c| kernel(f, c, raw(f.kernel(0)), Touch::Store(1)).is_none()));
    m.pmap_kremove(pages(f.kernel(0), 3));
    update(f);
    assert_eq!(counts(f), before);
}

/// Only what is there goes, at the next update everywhere.
pub fn pm32_kremove_skips_holes<F: Fixture>(f: &F) {
    let m = f.machine();
    let before = counts(f);
    for round in 0..8 {
        for n in [0, 1, 5, 9] {
            kenter(f, n, f.page(n as usize + round % 2), Prot::RW);
            for cpu in 0..f.facts().cpus {
                assert!(kernel(f, cpu, raw(f.kernel(n)), Touch::Store(2)).is_some());
            }
        }
        m.pmap_kremove(pages(f.kernel(1), 8));
        update(f);
        for cpu in 0..f.facts().cpus {
            let there = |n| kernel(f, cpu, raw(f.kernel(n)), Touch::Load).is_some();
            assert!(there(0) && !there(1) && !there(5) && there(9), "CPU {cpu}");
        }
        m.pmap_kremove(pages(f.kernel(0), 10));
        m.pmap_kremove(pages(f.kernel(0), 10));
        update(f);
        assert_eq!(counts(f), before);
    }
}

/// Refused where it is checked, and left where it is not: page and table agree.
pub fn z136_kremove_of_a_managed_mapping<F: Fixture>(f: &F) {
    let (m, va) = (f.machine(), f.kernel(4));
    let k = m.pmap_kernel();
    assert_eq!(k.pmap_enter(va, f.page(0).into(), Prot::RW, CANFAIL, &mut may()), Ok(()));
    if cfg!(debug_assertions) {
        let said = panics(|| m.pmap_kremove(pages(va, 1)));
        assert!(said.contains(&format!("{va:?}")) && said.contains("pmap_kremove"), "{said}");
    } else {
        m.pmap_kremove(pages(va, 1));
    }
    assert!(m.pmap_page_is_mapped(f.page(0)));
    assert!(k.pmap_extract(raw(va)).is_some());
    k.pmap_remove(pages(va, 1));
    k.pmap_update(&mut may());
    assert!(!m.pmap_page_is_mapped(f.page(0)));
    // The table stays: unmanaged mappings need it.
    kenter(f, 4, f.page(1), Prot::RW);
    m.pmap_kremove(pages(va, 1));
    update(f);
}

/// None, some, others over them; removing tolerates holes.
pub fn pm34_qenter_and_qremove<F: Fixture>(f: &F) {
    let m = f.machine();
    let before = counts(f);
    m.pmap_qenter(f.kernel(0), &[]);
    m.pmap_qremove(f.kernel(0), 0);
    let first: Vec<_> = (0..5).map(|n| f.page(n)).collect();
    let other: Vec<_> = (10..15).map(|n| f.page(n)).collect();
    for list in [&first, &other, &first] {
        m.pmap_qenter(f.kernel(0), list);
        for cpu in 0..f.facts().cpus {
            for (n, page) in list.iter().enumerate() {
                let word = 1000 * u64::from(cpu) + n as u64;
                assert!(kernel(f, cpu, raw(f.kernel(n as u64)), Touch::Store(word)).is_some());
                assert_eq!(f.peek(*page, 0), word);
            }
        }
        assert_eq!(counts(f), (before.0 + 5, before.1 + 5));
    }
    assert!(first.iter().all(|p| !m.pmap_is_modified(*p) && !m.pmap_page_is_mapped(*p)));
    m.pmap_qremove(f.kernel(2), 1);
    m.pmap_qremove(f.kernel(0), 6);
    update(f);
    assert_eq!(counts(f), before);
    assert!(kernel(f, 0, raw(f.kernel(0)), Touch::Load).is_none());
}

/// Reads and writes through it are the page's; afterwards there is nothing.
pub fn pm36_quick_enter_reaches_the_page<F: Fixture>(f: &F) {
    f.alone(|| quick_rounds(f));
}

fn quick_rounds<F: Fixture>(f: &F) {
    let m = f.machine();
    for round in 0..20 {
        let page = f.page(round % 3);
        f.poke(page, 16, 7 + round as u64);
        let quick = m.pmap_quick_enter_page(page);
        let va = quick.va();
        let at = machvm_hal::RawAddr(va.get() + 16);
        assert_eq!(kernel(f, 0, at, Touch::Load), Some(7 + round as u64));
        assert!(kernel(f, 0, at, Touch::Store(90)).is_some());
        drop(quick);
        assert_eq!(f.peek(page, 16), 90);
        assert!(!m.pmap_page_is_mapped(page) && !m.pmap_is_modified(page));
    }
}

/// One at a time, and a mistake is not a silently overwritten slot.
pub fn z138_quick_enter_does_not_nest<F: Fixture>(f: &F) {
    let m = f.machine();
    f.alone(|| {
        let first = m.pmap_quick_enter_page(f.page(0));
        let said = panics(|| drop(m.pmap_quick_enter_page(f.page(1))));
        assert!(said.contains("quick"), "{said}");
        // The first is as it was.
        assert!(kernel(f, 0, raw(first.va()), Touch::Store(5)).is_some());
        assert_eq!((f.peek(f.page(0), 0), f.peek(f.page(1), 0)), (5, 0));
        drop(first);
        drop(m.pmap_quick_enter_page(f.page(1)));
    });
}

/// The explicit call of the manual.
pub fn pm37_quick_remove_is_a_drop<F: Fixture>(f: &F) {
    let m = f.machine();
    f.alone(|| {
        for n in 0..3 {
            let quick = m.pmap_quick_enter_page(f.page(n));
            assert!(kernel(f, 0, raw(quick.va()), Touch::Store(n as u64 + 1)).is_some());
            m.pmap_quick_remove_page(quick);
            assert_eq!(f.peek(f.page(n), 0), n as u64 + 1);
        }
    });
}

/// All of it, a part of it, never beyond it; not noted as a write.
pub fn pm38_zero_page_and_area<F: Fixture>(f: &F) {
    let (m, page) = (f.machine(), f.page(0));
    let fill = || (0..512).for_each(|i| f.poke(page, i * 8, u64::MAX));
    fill();
    m.pmap_zero_page(page);
    assert!((0..512).all(|i| f.peek(page, i * 8) == 0));
    fill();
    m.pmap_zero_page_area(page, 8, 0);
    assert_eq!(f.peek(page, 8), u64::MAX);
    m.pmap_zero_page_area(page, 12, 1000);
    assert_eq!((f.peek(page, 0), f.peek(page, 8)), (u64::MAX, 0xffff_ffff));
    assert!((2..126).all(|i| f.peek(page, i * 8) == 0));
    assert_eq!((f.peek(page, 1008), f.peek(page, 1016)), (!0 << 32, u64::MAX));
    m.pmap_zero_page_area(page, 4088, 8);
    assert_eq!((f.peek(page, 4080), f.peek(page, 4088)), (u64::MAX, 0));
    for (off, size) in [(0, 4097), (4096, 1), (usize::MAX, 2)] {
        panics(|| m.pmap_zero_page_area(page, off, size));
    }
    assert!(!m.pmap_is_modified(page) && !m.pmap_is_referenced(page));
}

/// Whole pages, and any bytes of one run to any of another.
pub fn pm39_copy_page_and_pages<F: Fixture>(f: &F) {
    let m = f.machine();
    let byte = |n: usize, at: usize| (f.peek(f.page(n), at & !7) >> (at % 8 * 8)) as u8;
    for n in 0..3 {
        for i in 0..512u64 {
            f.poke(f.page(n), i as usize * 8, (n as u64 + 1) << 56 | i << 20 | (i * 37 % 251));
            f.poke(f.page(n + 3), i as usize * 8, 0);
        }
    }
    m.pmap_copy_page(f.page(0), f.page(6));
    assert!((0..4096).all(|at| byte(0, at) == byte(6, at)));
    let (from, to) = ([0, 1, 2].map(|n| f.page(n)), [3, 4, 5].map(|n| f.page(n)));
    let (a, b, size) = (4001, 77, 8000);
    m.pmap_copy_pages(&from, a, &to, b, size);
    for i in 0..size {
        let (s, d) = (a + i, b + i);
        assert_eq!(byte(s / 4096, s % 4096), byte(3 + d / 4096, d % 4096), "byte {i}");
    }
    let zero = |d: usize| byte(3 + d / 4096, d % 4096) == 0;
    assert!((0..b).all(zero) && (b + size..3 * 4096).all(zero));
    m.pmap_copy_pages(&from, 0, &to, 0, 0);
    panics(|| m.pmap_copy_pages(&from, 1, &to, 0, 3 * 4096));
    panics(|| m.pmap_copy_pages(&from, 0, &to, 4096, 2 * 4096 + 1));
    assert!((0..7).all(|n| !m.pmap_is_modified(f.page(n)) && !m.pmap_is_referenced(f.page(n))));
}
