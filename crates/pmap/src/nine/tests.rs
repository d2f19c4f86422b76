//! What can be seen without a TLB: tables, counts, flushes made and not made. The rows of
//! the manual are checked on the model (`machvm-model`, `conformance`).

use core::sync::atomic::Ordering::SeqCst;

use machvm_hal::pmap9::{
    Frame, LargeFailed, MemAttr, PhysSegment, Pmap9, PmapBootstrap, PmapFlags, PmapMachine,
};
use machvm_hal::{Gather, MaySleep, Pfn, PhysMem, Pmap, Prot, RawAddr, RawSize, VaRange};

use crate::port::Port;
use crate::pte::{Aarch64, Format, Sv39, X86L4};
use crate::testport::{FIRST, PAGES, TestNine, TestPmap, machine, page, va};

fn may() -> MaySleep {
    MaySleep::claim()
}
fn left<F: Format>(m: &TestNine<F>) -> usize {
    m.system().port().mem().left()
}
fn flushes<F: Format>(m: &TestNine<F>) -> u64 {
    m.system().port().tlb().flushes.swap(0, SeqCst)
}
fn enter<F: Format>(pm: &TestPmap<F>, at: u64, n: u32) {
    let flags = PmapFlags::PMAP_CANFAIL.accessed_by(Prot::RW);
    assert_eq!(pm.pmap_enter(va(at), page(n).into(), Prot::RW, flags, &mut may()), Ok(()));
}
fn range(at: u64, n: u64) -> VaRange {
    VaRange::of_pages(va(at), n).expect("a range")
}

fn tables_come_back<F: Format>() {
    let m = machine::<F>(0);
    // Round 0 leaves a table for the next with the CPU.
    let mut before = 0;
    for round in 0..3 {
        let pm = m.pmap_create().expect("memory");
        pm.pmap_activate(machvm_hal::CpuId(0));
        for n in 0..4 {
            enter(&pm, u64::from(n) << 18, n);
        }
        pm.pmap_remove(range(0, 1 << 20));
        assert_eq!(pm.pmap_resident_count(), 0);
        pm.pmap_deactivate(machvm_hal::CpuId(0));
        pm.pmap_destroy(&mut may());
        if round == 0 {
            before = left(&m);
        }
        assert_eq!(left(&m), before, "round {round}");
    }
}

#[test]
fn pm08_every_table_comes_back() {
    tables_come_back::<X86L4>();
    tables_come_back::<Aarch64>();
    tables_come_back::<Sv39>();
}

#[test]
fn pm42_tables_ride_until_the_update_and_nothing_is_flushed_twice() {
    let m = machine::<X86L4>(0);
    let pm = m.pmap_create().expect("memory");
    pm.pmap_activate(machvm_hal::CpuId(0));
    (0..3).for_each(|n| enter(&pm, 100 + u64::from(n), n));
    flushes(&m);
    let with = left(&m);
    pm.pmap_protect(range(100, 3), Prot::R);
    pm.pmap_remove(range(100, 3));
    assert_eq!((flushes(&m), left(&m)), (0, with));
    pm.pmap_update(&mut may());
    assert!(flushes(&m) > 0 && left(&m) > with);
    pm.pmap_update(&mut may());
    assert_eq!(flushes(&m), 0);
    pm.pmap_deactivate(machvm_hal::CpuId(0));
}

#[test]
fn pm32_what_was_kremoved_is_flushed_once() {
    let m = machine::<X86L4>(0);
    let at = m.pmap_virtual_space().start();
    m.pmap_growkernel(RawAddr(at.add(8).get()));
    let k = m.pmap_kernel();
    m.pmap_kremove(VaRange::page(at));
    k.pmap_update(&mut may());
    assert_eq!(flushes(&m), 0);
    m.pmap_kenter_pa(at, page(0).into(), Prot::RW, PmapFlags::empty());
    m.pmap_kremove(VaRange::of_pages(at, 8).expect("a range"));
    assert_eq!(flushes(&m), 0);
    k.pmap_update(&mut may());
    assert_eq!(flushes(&m), 1);
    k.pmap_update(&mut may());
    assert_eq!(flushes(&m), 0);
}

#[test]
fn pm36_with_a_direct_map_nothing_is_mapped() {
    let direct = 0xffff_8000_0000_0000;
    let m = machine::<X86L4>(direct);
    assert_eq!(m.pmap_virtual_space(), m.system().port().kernel_range());
    let before = left(&m);
    let quick = m.pmap_quick_enter_page(page(3));
    assert_eq!(quick.va().get(), direct + ((FIRST + 3) << 12));
    drop(quick);
    assert_eq!((left(&m), flushes(&m)), (before, 0));
    let pa = machvm_hal::pmap9::PhysAddr(0x12345);
    assert_eq!(m.direct_map(pa), Some(RawAddr(direct + 0x12345)));
}

#[test]
#[should_panic(expected = "quickly entered")]
fn z138_nesting_is_found_with_a_direct_map_too() {
    let m = machine::<X86L4>(0xffff_8000_0000_0000);
    let _first = m.pmap_quick_enter_page(page(0));
    let _second = m.pmap_quick_enter_page(page(1));
}

#[test]
fn pm03_stolen_frames_are_in_the_direct_map_where_there_is_one() {
    let direct = 0xffff_8000_0000_0000;
    let m = machine::<X86L4>(direct);
    let mut segs = [PhysSegment::new(Pfn(FIRST + PAGES), Pfn(FIRST + PAGES + 4))];
    let at = m.pmap_steal_memory(RawSize(4097), &mut segs);
    assert_eq!(at.get(), direct + ((FIRST + PAGES) << 12));
    assert_eq!(segs[0].available(), 2);
    let mut byte = [1];
    m.mem.read(Pfn(FIRST + PAGES + 1), 4095, &mut byte);
    assert_eq!(byte, [0]);
}

#[test]
fn pm31_kernel_windows_keep_their_tables() {
    let m = machine::<X86L4>(0);
    let (k, at) = (m.pmap_kernel(), m.pmap_virtual_space().start());
    m.pmap_growkernel(RawAddr(at.add(1).get()));
    enter(&k, at.page(), 0);
    m.pmap_kenter_pa(at.add(1), page(1).into(), Prot::R, PmapFlags::empty());
    assert_eq!((k.pmap_resident_count(), k.pmap_wired_count()), (2, 1));
    // By the pmap's own call: both go, and the counts with them.
    k.pmap_remove(VaRange::of_pages(at, 4).expect("a range"));
    k.pmap_update(&mut may());
    assert_eq!((k.pmap_resident_count(), k.pmap_wired_count()), (0, 0));
    m.system().port().mem().short.store(true, SeqCst);
    m.pmap_kenter_pa(at, page(1).into(), Prot::R, PmapFlags::empty());
    // Nor are they put aside under superpages.
    let large = k.pmap_enter_psind(at, Frame::Page(page(0)), Prot::R, PmapFlags::empty(), 1, &mut may());
    assert_eq!(large, Err(LargeFailed::NoSuchSize { psind: 1 }));
    m.pmap_kremove(VaRange::page(at));
}

/// Decision 16: a fork takes write access from a held window at once, entry by entry, and
/// from others at an upper level.
#[test]
fn pm29_held_windows_are_protected_eagerly() {
    let m = machine::<X86L4>(0);
    let pm = m.pmap_create().expect("memory");
    let (held, other) = (0, 512);
    enter(&pm, held, 0);
    enter(&pm, other, 1);
    let hold = pm.pmap_extract_and_hold(RawAddr(0), Prot::R, &mut |_| true).expect("mapped");
    let fork = || {
        let mut g = Gather::new();
        pm.pm.protect_copy(&*pm.pages, range(0, 1024), true, &mut g);
        assert!(g.finish(m.system(), &mut may()).dead.is_none());
    };
    let walk = |at: u64| {
        let (id, va) = (pm.pm.id(), va(at).get());
        let w = m.system().walk(m.system().pmap(id), va);
        let leaf = m.system().leaf_at(w.table(1), X86L4::index(va, 1)).1.expect("mapped");
        (w.write, leaf.prot.contains(Prot::W))
    };
    fork();
    assert_eq!(walk(held), (true, false), "the entry itself lost write access");
    assert_eq!(walk(other), (false, true), "the way to it did");
    pm.pmap_unhold(hold);
    enter(&pm, held, 0);
    fork();
    assert!(!walk(held).0, "no longer held");
    pm.pmap_remove(range(0, 1024));
}

/// Windows with holds are not promoted: the hold is counted in their table.
#[test]
fn pm29_a_held_window_is_not_promoted() {
    let m = machine::<X86L4>(0);
    let pm = m.pmap_create().expect("memory");
    let is_large =
        || pm.pmap_mincore(va(0)).is_some_and(|c| c.bits.contains(machvm_hal::pmap9::Mincore::PSIND1));
    enter(&pm, 0, 0);
    let hold = pm.pmap_extract_and_hold(RawAddr(0), Prot::R, &mut |_| true).expect("mapped");
    (1..512).for_each(|n| enter(&pm, u64::from(n), n));
    assert!(!is_large());
    pm.pmap_unhold(hold);
    pm.pmap_remove(range(511, 1));
    enter(&pm, 511, 511);
    assert!(is_large());
    // Holding breaks it up again.
    let hold = pm.pmap_extract_and_hold(RawAddr(5 << 12), Prot::R, &mut |_| true).expect("mapped");
    assert!(!is_large() && hold.page() == page(5));
    pm.pmap_unhold(hold);
    pm.pmap_remove(range(0, 512));
}

#[test]
fn pm14_the_largest_size_that_fits() {
    let m = machine::<X86L4>(0);
    let pm = m.pmap_create().expect("memory");
    let gib = 1u64 << 18;
    // 4 KiB before a 2 MiB boundary, to 2 MiB after a 1 GiB page: 511 + 512 of 2 MiB, 1 GiB.
    let all = range(gib - 513, 513 + gib + 512);
    let mapped = pm.pmap_object_init_pt(all, Pfn(4 * gib - 513), Prot::RW, MemAttr::Device);
    assert_eq!(mapped, 512 + gib + 512);
    let psind = |at: u64| pm.pmap_mincore(va(at)).map(|c| c.bits.bits() & 0x60);
    assert_eq!(psind(gib - 513), None);
    assert_eq!((psind(gib - 1), psind(gib), psind(2 * gib)), (Some(0x20), Some(0x40), Some(0x20)));
    assert_eq!(pm.pmap_extract(RawAddr((gib + 7) << 12)).map(|p| p.pfn()), Some(Pfn(4 * gib + 7)));
    pm.pmap_remove(all);
    pm.pmap_update(&mut may());
    assert_eq!(pm.pmap_resident_count(), 0);
}

#[test]
fn pm11_frames_outside_memory_are_refused() {
    let m = machine::<X86L4>(0);
    let pm = m.pmap_create().expect("memory");
    let flags = PmapFlags::PMAP_CANFAIL;
    let at = |frame| pm.pmap_enter(va(9), frame, Prot::R, flags, &mut may());
    let foreign = Err(machvm_hal::pmap9::EnterFailed::Foreign { va: va(9) });
    assert_eq!(at(Frame::Unmanaged(Pfn(1 << 40))), foreign);
    assert_eq!(pm.pmap_resident_count(), 0);
    // The width is the format's.
    let arm = machine::<Aarch64>(0);
    let pm = arm.pmap_create().expect("memory");
    let frame = Frame::Unmanaged(Pfn(1 << 36));
    let done = pm.pmap_enter(va(9), frame, Prot::R, flags, &mut may());
    assert!(matches!(done, Err(machvm_hal::pmap9::EnterFailed::Foreign { .. })));
}

/// Under a user pmap's root the kernel's tables are found; they are not the user's.
#[test]
fn pm28_the_other_half_is_not_mapped_here() {
    let m = machine::<X86L4>(0);
    let at = m.pmap_virtual_space().start();
    m.pmap_growkernel(RawAddr(at.add(1).get()));
    m.pmap_kenter_pa(at, page(0).into(), Prot::RW, PmapFlags::empty());
    let pm = m.pmap_create().expect("memory");
    let raw = RawAddr(at.get());
    assert!(m.pmap_kextract(raw).is_some() && pm.pmap_extract(raw).is_none());
    assert!(!pm.pmap_fault(raw, Prot::R) && m.pmap_kernel().pmap_fault(raw, Prot::R));
    assert!(pm.pmap_extract_and_hold(raw, Prot::R, &mut |_| true).is_none());
    assert!(pm.pmap_mincore(at).is_none() && !pm.pmap_is_prefaultable(at.add(1)));
    let done = pm.pmap_enter(at, page(1).into(), Prot::R, PmapFlags::PMAP_CANFAIL, &mut may());
    assert_eq!(done, Err(machvm_hal::pmap9::EnterFailed::Foreign { va: at }));
    assert_eq!(pm.pmap_object_init_pt(m.pmap_virtual_space(), Pfn(0), Prot::R, MemAttr::Device), 0);
    for odd in [1 << 63, 1 << 47, u64::MAX] {
        assert!(pm.pmap_extract(RawAddr(odd)).is_none() && !pm.pmap_fault(RawAddr(odd), Prot::R));
    }
}

/// Each thread's own addresses, in one pmap: what one update takes the other waits for.
#[test]
fn pm42_two_threads_defer_and_update() {
    let m = machine::<X86L4>(0);
    let pm = m.pmap_create().expect("memory");
    std::thread::scope(|s| {
        for t in 0..2u64 {
            let pm = &pm;
            s.spawn(move || {
                for round in 0..2_000u64 {
                    let at = t * 4096 + round % 700;
                    enter(pm, at, (t * 8 + round % 8) as u32);
                    match round % 3 {
                        0 => pm.pmap_remove(range(t * 4096, 1024)),
                        1 => pm.pmap_protect(range(at, 1), Prot::R),
                        _ => pm.pmap_collect(&mut may()),
                    }
                    pm.pmap_update(&mut may());
                }
                pm.pmap_remove(range(t * 4096, 1024));
            });
        }
    });
    pm.pmap_update(&mut may());
    assert_eq!((pm.pmap_resident_count(), pm.pmap_wired_count()), (0, 0));
    assert!((0..16).all(|n| !m.pmap_page_is_mapped(page(n)) && m.pmap_is_modified(page(n))));
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "is not in the user half")]
fn a_range_of_the_other_half_is_refused() {
    let m = machine::<X86L4>(0);
    let pm = m.pmap_create().expect("memory");
    pm.pmap_remove(m.pmap_virtual_space());
}
