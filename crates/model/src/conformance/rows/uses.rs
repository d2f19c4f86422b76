//! Use of pages, in portions and by address, and faults that tell of it.

use alloc::vec::Vec;

use machvm_hal::pmap9::{Advice, PMAP_TS_REFERENCED_MAX, Pmap9, PmapMachine};
use machvm_hal::{CpuId, Prot, RawAddr};

use super::{Fixture, Touch, end, enter, loads, may, new, pages, raw, stores, touch, wire};

/// Calls of `pmap_ts_referenced` that find it at zero sooner or later.
const CALLS: usize = 64;

/// Every mapping counts once; 0 means that none was used.
pub fn pm26_ts_referenced_is_zero_only_if_none<F: Fixture>(f: &F) {
    let (m, pm) = (f.machine(), new(f));
    let page = f.page(0);
    assert_eq!(m.pmap_ts_referenced(page, &mut may()), 0);
    let n = f.facts().aliases.min(7);
    for alias in 0..n {
        enter::<F>(&pm, f.at(alias, 0), page, Prot::R, Prot::R);
    }
    // What entering noted.
    for _ in 0..CALLS {
        m.pmap_ts_referenced(page, &mut may());
    }
    assert!(f.facts().speculative || m.pmap_ts_referenced(page, &mut may()) == 0);
    for alias in 0..n {
        assert!(touch(f, 0, &pm, f.at(alias, 0), Touch::Load).is_some());
    }
    let mut sum = 0;
    let mut calls = 0;
    loop {
        let got = m.pmap_ts_referenced(page, &mut may());
        assert!(got <= PMAP_TS_REFERENCED_MAX);
        sum += got;
        calls += 1;
        if got == 0 {
            break;
        }
        assert!(calls < CALLS, "use that nobody makes any more is found for ever");
    }
    assert!(sum >= 1 && calls >= 2);
    assert!(f.facts().speculative || !m.pmap_is_referenced(page));
    // The next use is noted again.
    assert!(loads(f, &pm, f.at(0, 0)));
    assert!(m.pmap_ts_referenced(page, &mut may()) >= 1);
    let all: Vec<_> = (0..n).map(|a| pages(f.at(a, 0), 1)).collect();
    end(f, pm, &all);
}

/// Counted and not cleared.
pub fn pm26_wired_uses_stay<F: Fixture>(f: &F) {
    let (m, pm) = (f.machine(), new(f));
    wire::<F>(&pm, f.at(0, 0), f.page(0), Prot::RW);
    assert!(f.run(0, &pm, raw(f.at(0, 0)), Touch::Load).is_some());
    for _ in 0..CALLS {
        assert!(m.pmap_ts_referenced(f.page(0), &mut may()) >= 1);
        assert!(f.run(0, &pm, raw(f.at(0, 0)), Touch::Store(1)).is_some());
    }
    end(f, pm, &[pages(f.at(0, 0), 1)]);
}

/// Not needed soon: use is forgotten, writes are not. Free: both; the next write is seen.
pub fn pm27_advise<F: Fixture>(f: &F) {
    let (m, pm) = (f.machine(), new(f));
    for n in 0..3 {
        enter::<F>(&pm, f.at(0, n), f.page(n), Prot::RW, Prot::R);
    }
    // Forget what entering noted.
    for n in 0..3 {
        m.pmap_clear_modify(f.page(n), &mut may());
        m.pmap_clear_reference(f.page(n), &mut may());
        assert!(stores(f, &pm, f.at(0, n)));
    }
    pm.pmap_advise(pages(f.at(0, 0), 1), Advice::DontNeed, &mut may());
    pm.pmap_advise(pages(f.at(0, 1), 1), Advice::Free, &mut may());
    // Where a fault noted the writes they are the page's already, and may stay.
    let kept = |n| m.pmap_is_modified(f.page(n));
    assert!(kept(0) && kept(2));
    assert!(!f.facts().hw_dirty || !kept(1));
    let exact = f.facts().hw_accessed && !f.facts().speculative;
    assert!(!exact || !m.pmap_is_referenced(f.page(0)));
    assert!(m.pmap_is_referenced(f.page(2)));
    for cpu in 0..f.facts().cpus {
        assert!(touch(f, cpu, &pm, f.at(0, 1), Touch::Store(2)).is_some());
        assert!(m.pmap_is_modified(f.page(1)), "CPU {cpu} wrote and nobody noted it");
        pm.pmap_advise(pages(f.at(0, 1), 1), Advice::Free, &mut may());
    }
    // Holes, unmapped ends, wired mappings.
    wire::<F>(&pm, f.at(0, 2), f.page(2), Prot::RW);
    pm.pmap_advise(pages(f.at(0, 0), 64), Advice::Free, &mut may());
    assert!(f.run(0, &pm, raw(f.at(0, 2)), Touch::Store(3)).is_some());
    assert!(m.pmap_is_modified(f.page(2)));
    end(f, pm, &[pages(f.at(0, 0), 3)]);
}

/// Loaded here and there, one after the other, at once.
pub fn pm44_every_cpu_may_run_it<F: Fixture>(f: &F) {
    let (a, b) = (new(f), new(f));
    f.poke(f.page(0), 0, 100);
    f.poke(f.page(1), 0, 101);
    enter::<F>(&a, f.at(0, 0), f.page(0), Prot::R, Prot::R);
    let second = if f.facts().any_frame { f.at(0, 0) } else { f.at(0, 1) };
    enter::<F>(&b, second, f.page(1), Prot::R, Prot::R);
    for round in 0..3 {
        for cpu in 0..f.facts().cpus {
            assert_eq!(touch(f, cpu, &a, f.at(0, 0), Touch::Load), Some(100), "round {round}");
            assert_eq!(touch(f, cpu, &b, second, Touch::Load), Some(101), "round {round}");
        }
        f.leave();
    }
    // What is not loaded is not left.
    a.pmap_deactivate(CpuId(0));
    end(f, a, &[pages(f.at(0, 0), 1)]);
    end(f, b, &[pages(second, 1)]);
}

/// True: try again. False: the tables do not allow it.
pub fn pm53_fault_notes_and_refuses<F: Fixture>(f: &F) {
    let (m, pm) = (f.machine(), new(f));
    let va = f.at(0, 0);
    assert!(!pm.pmap_fault(raw(va), Prot::R));
    assert!(!pm.pmap_fault(RawAddr(u64::MAX / 2 + 1), Prot::R), "not an address");
    enter::<F>(&pm, va, f.page(0), Prot::R, Prot::R);
    assert!(!pm.pmap_fault(raw(va), Prot::W) && !pm.pmap_fault(raw(va), Prot::X));
    assert!(!m.pmap_is_modified(f.page(0)));
    m.pmap_clear_reference(f.page(0), &mut may());
    assert!(f.run(0, &pm, raw(va), Touch::Load).is_some() || !f.facts().hw_accessed);
    assert!(pm.pmap_fault(RawAddr(va.get() + 0x123), Prot::R));
    assert!(f.run(0, &pm, raw(va), Touch::Load).is_some() && m.pmap_is_referenced(f.page(0)));

    enter::<F>(&pm, va, f.page(0), Prot::RW, Prot::R);
    assert!(!m.pmap_is_modified(f.page(0)));
    assert_eq!(f.run(0, &pm, raw(va), Touch::Store(1)).is_some(), f.facts().hw_dirty);
    assert!(pm.pmap_fault(raw(va), Prot::W) && m.pmap_is_modified(f.page(0)));
    assert!(f.run(0, &pm, raw(va), Touch::Store(1)).is_some());
    end(f, pm, &[pages(va, 1)]);
}
