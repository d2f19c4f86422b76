//! Beginning, ending, entering.

use alloc::format;
use alloc::vec::Vec;

use machvm_hal::Prot;
use machvm_hal::pmap9::{EnterFailed, Frame, Pmap9, PmapFlags, PmapMachine, Shortage};

use super::{
    CANFAIL, Fixture, RX, Touch, end, enter, loads, may, new, own, pages, panics, raw, stores, touch, wire,
};

/// Nothing happens.
pub fn pm01_init_twice_changes_nothing<F: Fixture>(f: &F) {
    let pm = new(f);
    enter::<F>(&pm, f.at(0, 0), f.page(0), Prot::RW, Prot::R);
    f.machine().pmap_init();
    f.machine().pmap_init();
    assert_eq!(pm.pmap_resident_count(), 1);
    end(f, pm, &[pages(f.at(0, 0), 1)]);
}

/// Nothing is mapped, and pmaps do not see each other.
pub fn pm05_a_new_pmap_is_empty<F: Fixture>(f: &F) {
    let (a, b) = (new(f), new(f));
    enter::<F>(&a, f.at(0, 0), f.page(0), Prot::RW, Prot::R);
    assert_eq!((b.pmap_resident_count(), b.pmap_wired_count()), (0, 0));
    assert_eq!(b.pmap_extract(raw(f.at(0, 0))), None);
    assert!(loads(f, &a, f.at(0, 0)) && !loads(f, &b, f.at(0, 0)));
    end(f, a, &[pages(f.at(0, 0), 1)]);
    end(f, b, &[]);
}

/// An error, and later it works.
pub fn pm05_create_fails_without_memory_and_leaves_nothing<F: Fixture>(f: &F) {
    if !f.shortage(Shortage::Table, true) {
        return;
    }
    // A table or two may be kept for this.
    let kept: Vec<_> = core::iter::from_fn(|| f.machine().pmap_create().ok()).take(8).collect();
    assert!(kept.len() < 8, "no memory, and {} pmaps", kept.len());
    f.shortage(Shortage::Table, false);
    kept.into_iter().for_each(|pm| end(f, own(f, pm), &[]));
    end(f, new(f), &[]);
}

/// One of two references ends, and nothing else.
pub fn pm07_a_reference_keeps_the_pmap<F: Fixture>(f: &F) {
    let pm = new(f);
    enter::<F>(&pm, f.at(0, 0), f.page(0), Prot::RW, Prot::R);
    let other = pm.pmap_reference();
    pm.pmap_destroy(&mut may());
    assert_eq!(other.pmap_resident_count(), 1);
    assert!(loads(f, &other, f.at(0, 0)));
    end(f, other, &[pages(f.at(0, 0), 1)]);
}

/// Tables are not given back before what was removed is flushed.
pub fn pm08_destroy_waits_for_what_was_deferred<F: Fixture>(f: &F) {
    for round in 0..4 {
        let pm = new(f);
        for n in 0..4 {
            enter::<F>(&pm, f.at(0, n), f.page(n), Prot::RW, Prot::R);
            assert!(touch(f, round, &pm, f.at(0, n), Touch::Store(7)).is_some());
        }
        pm.pmap_remove(pages(f.at(0, 0), 4));
        f.leave();
        pm.pmap_destroy(&mut may());
    }
}

/// The caller removes first; a debug build says so and names what is left.
pub fn z135_destroy_with_mappings_is_refused<F: Fixture>(f: &F) {
    if !cfg!(debug_assertions) {
        return;
    }
    let pm = new(f);
    wire::<F>(&pm, f.at(0, 0), f.page(0), Prot::RW);
    let said = panics(|| pm.pmap_destroy(&mut may()));
    assert!(said.contains("mapped"), "{said}");
}

/// Every call gives the same, and giving one back does not end it.
pub fn pm10_the_kernel_pmap_is_one<F: Fixture>(f: &F) {
    let m = f.machine();
    m.pmap_kenter_pa(f.kernel(0), f.page(0).into(), Prot::RW, PmapFlags::empty());
    let k = m.pmap_kernel();
    assert!(k.pmap_extract(raw(f.kernel(0))).is_some());
    k.pmap_destroy(&mut may());
    assert!(m.pmap_kernel().pmap_extract(raw(f.kernel(0))).is_some());
    m.pmap_kremove(pages(f.kernel(0), 1));
    m.pmap_kernel().pmap_update(&mut may());
}

/// Each combination, each access.
pub fn pm11_enter_gives_the_rights_and_no_more<F: Fixture>(f: &F) {
    let pm = new(f);
    for (n, prot) in [Prot::R, Prot::RW, RX, Prot::ALL].into_iter().enumerate() {
        let va = f.at(0, n);
        f.poke(f.page(n), 0, 40 + n as u64);
        enter::<F>(&pm, va, f.page(n), prot, Prot::R);
        assert_eq!(touch(f, 0, &pm, va, Touch::Load), Some(40 + n as u64), "{prot:?}");
        let wrote = touch(f, 0, &pm, va, Touch::Store(50)).is_some();
        assert_eq!(wrote, prot.contains(Prot::W), "{prot:?}");
        assert_eq!(f.peek(f.page(n), 0) == 50, wrote);
        if f.facts().exec {
            let fetched = touch(f, 0, &pm, va, Touch::Fetch).is_some();
            assert_eq!(fetched, prot.contains(Prot::X), "{prot:?}");
        }
    }
    assert_eq!(pm.pmap_resident_count(), 4);
    end(f, pm, &[pages(f.at(0, 0), 4)]);
}

/// Rights go up and down, wiring on and off; nothing is mapped twice.
pub fn pm11_the_same_page_changes_rights_and_wiring<F: Fixture>(f: &F) {
    let pm = new(f);
    let va = f.at(0, 0);
    enter::<F>(&pm, va, f.page(0), Prot::R, Prot::R);
    assert!(!stores(f, &pm, va));
    enter::<F>(&pm, va, f.page(0), Prot::RW, Prot::W);
    assert!(stores(f, &pm, va));
    wire::<F>(&pm, va, f.page(0), Prot::RW);
    assert_eq!((pm.pmap_resident_count(), pm.pmap_wired_count()), (1, 1));
    wire::<F>(&pm, va, f.page(0), Prot::RW);
    assert_eq!((pm.pmap_resident_count(), pm.pmap_wired_count()), (1, 1));
    enter::<F>(&pm, va, f.page(0), Prot::R, Prot::R);
    pm.pmap_update(&mut may());
    assert_eq!((pm.pmap_resident_count(), pm.pmap_wired_count()), (1, 0));
    assert!(loads(f, &pm, va) && !stores(f, &pm, va));
    assert!(f.machine().pmap_is_modified(f.page(0)));
    end(f, pm, &[pages(va, 1)]);
}

/// The old page's use is kept, its mapping is gone everywhere, the counts are right.
pub fn z133_another_page_takes_the_place<F: Fixture>(f: &F) {
    if !f.facts().any_frame {
        return;
    }
    let (m, pm, va) = (f.machine(), new(f), f.at(0, 0));
    f.poke(f.page(0), 8, 10);
    f.poke(f.page(1), 0, 11);
    wire::<F>(&pm, va, f.page(0), Prot::RW);
    for cpu in 0..f.facts().cpus {
        assert!(touch(f, cpu, &pm, va, Touch::Store(3)).is_some());
    }
    enter::<F>(&pm, va, f.page(1), Prot::R, Prot::R);
    for cpu in 0..f.facts().cpus {
        assert_eq!(touch(f, cpu, &pm, va, Touch::Load), Some(11));
    }
    assert_eq!((pm.pmap_resident_count(), pm.pmap_wired_count()), (1, 0));
    assert!(!m.pmap_page_is_mapped(f.page(0)) && m.pmap_page_is_mapped(f.page(1)));
    assert!(m.pmap_is_modified(f.page(0)) && !m.pmap_is_modified(f.page(1)));
    end(f, pm, &[pages(va, 1)]);
}

/// Entered for a write: modified. For a read: not, whatever the rights are.
pub fn pm11_the_access_that_caused_it_is_noted<F: Fixture>(f: &F) {
    let (m, pm) = (f.machine(), new(f));
    enter::<F>(&pm, f.at(0, 0), f.page(0), Prot::RW, Prot::R);
    enter::<F>(&pm, f.at(0, 1), f.page(1), Prot::RW, Prot::W);
    // Before any program ran; but who retries the access uses it.
    assert!(!m.pmap_is_modified(f.page(0)) && m.pmap_is_modified(f.page(1)));
    assert!(stores(f, &pm, f.at(0, 0)));
    assert!(m.pmap_is_modified(f.page(0)) && m.pmap_is_referenced(f.page(0)));
    end(f, pm, &[pages(f.at(0, 0), 2)]);
}

/// Contract rule 6: with the access in the flags no later one faults, and what it does is
/// not lost.
pub fn z132_wired_mappings_never_fault<F: Fixture>(f: &F) {
    let (m, pm) = (f.machine(), new(f));
    let va = f.at(0, 0);
    wire::<F>(&pm, va, f.page(0), Prot::RW);
    // A CPU may remember that nothing was there.
    (0..f.facts().cpus).for_each(|cpu| _ = touch(f, cpu, &pm, va, Touch::Load));
    for round in 0..3 {
        for cpu in 0..f.facts().cpus {
            assert!(f.run(cpu, &pm, raw(va), Touch::Load).is_some(), "a load faulted, round {round}");
            assert!(f.run(cpu, &pm, raw(va), Touch::Store(5)).is_some(), "a store faulted, round {round}");
        }
        assert!(m.pmap_is_modified(f.page(0)) && m.pmap_is_referenced(f.page(0)));
        m.pmap_clear_modify(f.page(0), &mut may());
        m.pmap_clear_reference(f.page(0), &mut may());
    }
    end(f, pm, &[pages(va, 1)]);
}

/// A table, a record: each is named, nothing is mapped, and later it works.
pub fn pm11_canfail_says_what_was_short<F: Fixture>(f: &F) {
    let (m, pm) = (f.machine(), new(f));
    if f.shortage(Shortage::Table, true) {
        let mut failed = 0;
        for k in 0..4 {
            let (va, page) = (f.far(k, k), f.page(k));
            let done = pm.pmap_enter(va, page.into(), Prot::RW, CANFAIL, &mut may());
            if done.is_err() {
                assert_eq!(done, Err(EnterFailed::NoMemory { va, short: Shortage::Table }));
                assert_eq!(pm.pmap_extract(raw(va)), None);
                assert!(!m.pmap_page_is_mapped(page));
                failed += 1;
            }
        }
        assert!(failed > 0, "four far mappings without memory for tables");
        assert_eq!(pm.pmap_resident_count(), 4 - failed);
        f.shortage(Shortage::Table, false);
        (0..4).for_each(|k| enter::<F>(&pm, f.far(k, k), f.page(k), Prot::RW, Prot::R));
        (0..4).for_each(|k| pm.pmap_remove(pages(f.far(k, k), 1)));
        pm.pmap_update(&mut may());
    }
    // The tables first.
    enter::<F>(&pm, f.at(0, 0), f.page(0), Prot::R, Prot::R);
    if f.shortage(Shortage::Record, true) {
        let mut failed = 0;
        for alias in 1..f.facts().aliases {
            // The first record of a page may need no memory.
            let (va, page) = (f.at(alias, 0), f.page(0));
            enter_neighbour::<F>(f, &pm, alias);
            let done = pm.pmap_enter(va, page.into(), Prot::R, CANFAIL, &mut may());
            if done.is_err() {
                assert_eq!(done, Err(EnterFailed::NoMemory { va, short: Shortage::Record }));
                assert_eq!(pm.pmap_extract(raw(va)), None);
                failed += 1;
            }
        }
        assert!(failed > 0, "many mappings without memory for records");
        f.shortage(Shortage::Record, false);
        enter::<F>(&pm, f.at(1, 0), f.page(0), Prot::R, Prot::R);
    }
    pm.pmap_collect(&mut may());
    end(f, pm, &[]);
}

/// So that tables are there for alias `alias` of page 0.
fn enter_neighbour<F: Fixture>(f: &F, pm: &super::PmapOf<F>, alias: usize) {
    let n = alias;
    let _ = pm.pmap_enter(f.at(alias, n), f.page(n).into(), Prot::R, CANFAIL, &mut may());
}

/// An older mapping of another page is gone, one of the same page as it was; page and
/// table agree.
pub fn z134_a_failed_enter_is_never_half_done<F: Fixture>(f: &F) {
    let (m, pm, va) = (f.machine(), new(f), f.at(0, 0));
    if f.facts().any_frame {
        // Page 1 has a record already, so the next needs memory.
        enter::<F>(&pm, f.at(1, 1), f.page(1), Prot::R, Prot::R);
        enter::<F>(&pm, va, f.page(0), Prot::RW, Prot::W);
        if f.shortage(Shortage::Record, true) {
            let done = pm.pmap_enter(va, f.page(1).into(), Prot::R, CANFAIL, &mut may());
            assert_eq!(done, Err(EnterFailed::NoMemory { va, short: Shortage::Record }));
            assert_eq!(pm.pmap_extract(raw(va)), None);
            assert!(!m.pmap_page_is_mapped(f.page(0)) && m.pmap_is_modified(f.page(0)));
            assert!(!loads(f, &pm, va));
            assert_eq!(pm.pmap_resident_count(), 1);
            f.shortage(Shortage::Record, false);
        }
    }
    enter::<F>(&pm, va, f.page(0), Prot::R, Prot::R);
    let both = |on| [Shortage::Record, Shortage::Table].iter().for_each(|s| _ = f.shortage(*s, on));
    both(true);
    // The same page needs nothing.
    enter::<F>(&pm, va, f.page(0), Prot::RW, Prot::W);
    wire::<F>(&pm, va, f.page(0), Prot::RW);
    assert!(stores(f, &pm, va));
    both(false);
    end(f, pm, &[pages(va, 1), pages(f.at(1, 1), 1)]);
}

/// The manual's panic, with the address, the page and what was short.
pub fn pm11_without_canfail_it_panics_and_names_everything<F: Fixture>(f: &F) {
    let pm = new(f);
    if f.shortage(Shortage::Table, true) {
        let said = panics(|| {
            for k in 0..4 {
                let flags = PmapFlags::empty().accessed_by(Prot::R);
                let _ = pm.pmap_enter(f.far(k, 3), f.page(3).into(), Prot::R, flags, &mut may());
            }
        });
        f.shortage(Shortage::Table, false);
        assert!(said.contains("Table") && said.contains(&format!("{:?}", f.page(3))), "{said}");
        assert!((0..4).any(|k| said.contains(&format!("{:?}", f.far(k, 3)))), "{said}");
    }
    pm.pmap_collect(&mut may());
    end(f, pm, &[]);
}

/// No record, no note of use; counted, removed, wired as others.
pub fn pm11_unmanaged_frames_are_just_mapped<F: Fixture>(f: &F) {
    let Some(device) = f.device() else { return };
    let (pm, va) = (new(f), f.at(0, 0));
    let flags = CANFAIL | PmapFlags::PMAP_WIRED | PmapFlags::PMAP_NOCACHE;
    let frame = Frame::Unmanaged(device);
    assert_eq!(pm.pmap_enter(va, frame, Prot::RW, flags.accessed_by(Prot::RW), &mut may()), Ok(()));
    assert_eq!(pm.pmap_extract(raw(va)).map(|p| p.pfn()), Some(device));
    assert_eq!((pm.pmap_resident_count(), pm.pmap_wired_count()), (1, 1));
    for cpu in 0..f.facts().cpus {
        assert!(touch(f, cpu, &pm, va, Touch::Store(9)).is_some());
    }
    // A page takes its place, and it a page's.
    if f.facts().any_frame {
        enter::<F>(&pm, va, f.page(0), Prot::R, Prot::R);
        assert!(f.machine().pmap_page_is_mapped(f.page(0)) && !stores(f, &pm, va));
        assert_eq!(pm.pmap_enter(va, frame, Prot::RW, CANFAIL, &mut may()), Ok(()));
        assert!(!f.machine().pmap_page_is_mapped(f.page(0)) && stores(f, &pm, va));
    }
    end(f, pm, &[pages(va, 1)]);
}

/// The k-th request for memory in a mix of calls is refused: an error or less than was
/// asked for, and pages, tables and counts agree.
pub fn z134_whatever_fails_page_and_table_agree<F: Fixture>(f: &F) {
    let n = if f.facts().superpage { 520 } else { 40 };
    let mut k = 1;
    while k < 4_000 {
        let pm = new(f);
        if f.fail_at(k).is_none() {
            return end(f, pm, &[]);
        }
        mix(f, &pm, n);
        let refused = f.fail_at(0) == Some(true);
        agree(f, &pm, n);
        pm.pmap_collect(&mut may());
        let all: Vec<_> = (0..2).map(|a| pages(f.at(a, 0), n as u64)).collect();
        end(f, pm, &[&all[..], &[pages(f.far(1, 7), 1)]].concat());
        if !refused {
            assert!(k > 4, "nothing needs memory");
            return;
        }
        // Each of the first few, then in larger steps.
        k += 1 + k / 8;
    }
    panic!("still out of memory at request {k}");
}

/// Calls that may need memory; errors are nothing.
fn mix<F: Fixture>(f: &F, pm: &super::PmapOf<F>, n: usize) {
    let go = |va, page, prot, access| {
        _ = pm.pmap_enter(va, Frame::Page(page), prot, CANFAIL.accessed_by(access), &mut may());
    };
    go(f.at(0, 3), f.page(3), Prot::RW, Prot::W);
    go(f.at(1, 3), f.page(3), Prot::R, Prot::R);
    if f.facts().any_frame {
        go(f.at(0, 3), f.page(4), Prot::RW, Prot::R);
        go(f.at(1, 3), f.page(4), Prot::RW, Prot::R);
    }
    go(f.far(1, 7), f.page(7), Prot::R, Prot::R);
    pm.pmap_enter_object(pages(f.at(1, 0), n as u64), &mut (0..n).map(|i| (i as u64, f.page(i))), Prot::R);
    let flags = PmapFlags::empty().accessed_by(Prot::W);
    _ = pm.pmap_enter_psind(f.at(0, 0), Frame::Page(f.page(0)), Prot::RW, flags, 1, &mut may());
    if let Some(held) = pm.pmap_extract_and_hold(raw(f.at(0, 9)), Prot::R, &mut |_| true) {
        pm.pmap_unhold(held);
    }
    pm.pmap_protect(pages(f.at(1, 20), 5), Prot::R);
    pm.pmap_remove(pages(f.at(0, 30), 3));
    f.machine().pmap_clear_modify(f.page(11), &mut may());
    f.machine().pmap_remove_write(f.page(12), &mut may());
    f.machine().remove_page_mappings(f.page(13), &mut may());
    pm.pmap_update(&mut may());
}

fn agree<F: Fixture>(f: &F, pm: &super::PmapOf<F>, n: usize) {
    let m = f.machine();
    let mut found = u64::from(pm.pmap_extract(raw(f.far(1, 7))).is_some());
    for i in 0..n {
        let here: Vec<_> = (0..2).filter_map(|a| pm.pmap_extract(raw(f.at(a, i)))).collect();
        found += here.len() as u64;
        if let Some(pa) = f.physical(f.page(i)).filter(|_| i > 7) {
            assert!(here.iter().all(|h| *h == pa), "page {i}: {here:?}");
            assert_eq!(m.pmap_page_is_mapped(f.page(i)), !here.is_empty(), "page {i}");
        }
    }
    assert_eq!(pm.pmap_resident_count(), found);
    assert!(!m.pmap_page_is_mapped(f.page(13)) && !m.pmap_page_is_write_mapped(f.page(12)));
    assert!(!stores(f, pm, f.at(0, 12)) && !loads(f, pm, f.at(0, 31)));
}
