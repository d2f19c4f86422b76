//! U19, U22 to U27, U35: what is told of memory.

use machvm::map::Inherit;
use machvm::task::{
    BasicInfo, Behavior, Disposition, MapSource, MemoryEntry, PageQueryError, PhysError, RegionError,
    ShareMode, VmStatistics, VmStatistics64,
};
use machvm_hal::Prot;

use crate::*;

#[test]
fn u22_vm_region_finds_the_region_or_the_next() {
    both(16, |vm| {
        let p = filled(vm, 2);
        fill(&p, BASE + 8 * P, 1);
        let t = xnu(&p);
        let (r, i) = t.vm_region_basic(a(0), &mut may()).expect("the next above");
        assert_eq!(r, range(BASE, 2));
        let want = BasicInfo {
            protection: Prot::RW,
            max_protection: Prot::ALL,
            inheritance: Inherit::Copy,
            shared: false,
            reserved: false,
            offset: i.offset,
            behavior: Behavior::Default,
            user_wired_count: 0,
        };
        assert_eq!(i, want);
        assert_eq!(t.vm_region_basic(a(BASE + 2 * P - 1), &mut may()).expect("inside").0, range(BASE, 2));
        assert_eq!(t.vm_region_basic(a(BASE + 2 * P), &mut may()).expect("next").0, range(BASE + 8 * P, 1));
        // The idiom: go on from the end until it fails.
        let (mut at, mut regions) = (0, 0);
        while let Ok((r, _)) = t.vm_region_basic(a(at), &mut may()) {
            (at, regions) = (r.end().get(), regions + 1);
        }
        assert_eq!(regions, 2);
        // Z06: KERN_NO_SPACE or KERN_INVALID_ADDRESS.
        assert_eq!(t.vm_region_basic(a(at), &mut may()), Err(RegionError::None(at)));
        assert_eq!(t.vm_region_basic(a(u64::MAX), &mut may()), Err(RegionError::None(u64::MAX)));
    });
}

#[test]
fn u23_share_modes_and_page_counts() {
    both(100, |vm| {
        let p = filled(vm, 4);
        let t = xnu(&p);
        let mode = |p: &Program<'_>, at| xnu(p).vm_region_extended(a(at), &mut may()).expect("mapped").1;
        let (_, e) = t.vm_region_extended(a(BASE), &mut may()).expect("mapped");
        assert_eq!((e.pages_resident, e.pages_dirtied, e.share_mode), (4, 4, ShareMode::Private));
        assert_eq!((e.ref_count, e.shadow_depth, e.external_pager), (1, 0, false));
        let empty = t.vm_allocate(a(BASE + (16 << 20)), n(P), FIXED, &mut may()).expect("room");
        assert_eq!(mode(&p, empty).share_mode, ShareMode::Empty);
        let child = fork(&p);
        let e = mode(&p, BASE);
        assert_eq!((e.share_mode, e.pages_shared_now_private, e.shadow_depth), (ShareMode::Cow, 4, 1));
        drop(child);
        // Alone again; the first write takes the last mark away.
        (0..4).for_each(|i| p.store_word(BASE + i * P, 1).expect("writable"));
        assert_eq!(mode(&p, BASE).share_mode, ShareMode::Private);
        let alias =
            t.vm_remap(a(0), n(4 * P), 0, ANYWHERE, &t, a(BASE), false, COPY, &mut may()).expect("room");
        assert_eq!(mode(&p, alias.address).share_mode, ShareMode::PrivateAliased);
        let q = program(vm);
        let there = xnu(&q).vm_remap(a(0), n(4 * P), 0, ANYWHERE, &t, a(BASE), false, COPY, &mut may());
        assert_eq!(mode(&p, BASE).share_mode, ShareMode::SharedAliased);
        assert_eq!(mode(&q, there.expect("room").address).share_mode, ShareMode::Shared);
        let (_, top) = t.vm_region_top(a(BASE), &mut may()).expect("mapped");
        assert_eq!((top.ref_count, top.private_pages_resident, top.shared_pages_resident), (3, 0, 4));
        while vm.pageout(1000, &mut may()) != 0 {}
        let e = mode(&p, BASE);
        assert_eq!((e.pages_resident, e.pages_swapped_out), (0, 4));
        check_quiet(vm, [&p, &q]);
    });
}

#[test]
fn u23_pagers_show() {
    both(16, |vm| {
        let (id, _) = vm.platform().add_pager(pattern(0, 2 * P));
        let e = MemoryEntry::of_pager(vm, id, 2 * P, Prot::R, &mut may()).expect("entry");
        let p = program(vm);
        let rights = (prot(Prot::R), prot(Prot::R), COPY);
        let at =
            xnu(&p).vm_map(a(0), n(2 * P), 0, ANYWHERE, &MapSource::Entry(&e, 0), false, rights, &mut may());
        let at = at.expect("room");
        assert_eq!(bytes(&p, at, 2 * P), pattern(0, 2 * P));
        let (_, x) = xnu(&p).vm_region_extended(a(at), &mut may()).expect("mapped");
        assert_eq!((x.external_pager, x.pages_resident, x.pages_dirtied), (true, 2, 0));
        assert!(xnu(&p).vm_page_query(a(at), &mut may()).0.contains(Disposition::EXTERNAL));
        assert_eq!(vm.vm_statistics64().external_page_count, 2);
        drop((p, e));
    });
}

#[test]
fn u24_vm_region_recurse_reaches_depth_0() {
    both(16, |vm| {
        let p = filled(vm, 2);
        let (r, i, depth) = xnu(&p).vm_region_recurse(a(3), &mut may()).expect("mapped");
        assert_eq!((r, depth, i.short.is_submap), (range(BASE, 2), 0, false));
        assert_eq!((i.pages.pages_resident, i.short.protection), (2, Prot::RW));
        let (r, s, depth) = xnu(&p).vm_region_recurse_short(a(3), &mut may()).expect("mapped");
        assert_eq!((r, depth, s.object_id), (range(BASE, 2), 0, i.short.object_id));
        let end = a(BASE + 2 * P);
        assert_eq!(xnu(&p).vm_region_recurse(end, &mut may()).map(drop), Err(RegionError::None(end.0)));
    });
}

#[test]
fn u25_page_queries() {
    both(64, |vm| {
        let p = filled(vm, 2);
        let t = xnu(&p);
        assert_eq!(t.vm_allocate(a(BASE + 2 * P), n(P), FIXED, &mut may()), Ok(BASE + 2 * P));
        let (d, refs) = t.vm_page_query(a(BASE + 5), &mut may());
        assert!(d.contains(Disposition::PRESENT | Disposition::DIRTY), "{d:?}");
        assert_eq!(refs, 1);
        assert_eq!(t.vm_page_query(a(BASE + 2 * P), &mut may()).0, Disposition::empty(), "never touched");
        assert_eq!(t.vm_page_query(a(BASE + 3 * P), &mut may()), (Disposition::empty(), 0), "not mapped");
        assert_eq!(t.vm_page_query(a(u64::MAX), &mut may()), (Disposition::empty(), 0));
        let child = fork(&p);
        assert!(t.vm_page_query(a(BASE), &mut may()).0.contains(Disposition::COPIED));
        drop(child);
        while vm.pageout(1000, &mut may()) != 0 {}
        let mut all = [Disposition::FICTITIOUS; 5];
        assert_eq!(t.vm_page_range_query(a(BASE + 9), n(4 * P - 9), &mut all, &mut may()), Ok(4));
        let out = Disposition::PAGED_OUT;
        let none = Disposition::empty();
        assert_eq!(all, [out, out, none, none, Disposition::FICTITIOUS]);
        let wraps = t.vm_page_range_query(a(u64::MAX), n(9), &mut all, &mut may());
        assert_eq!(wraps, Err(PageQueryError::Wraps(u64::MAX)), "KERN_INVALID_ARGUMENT");
        assert_eq!(t.vm_page_range_query(a(3), n(0), &mut all, &mut may()), Ok(0));
        check_quiet(vm, [&p]);
    });
}

/// Frames by state are all frames.
fn balanced(vm: &Vm<Machine>) -> VmStatistics64 {
    let s = vm.vm_statistics64();
    let sum = s.free_count + s.active_count + s.inactive_count + s.wire_count + s.throttled_count;
    assert_eq!(u64::from(sum), vm.statistics().frame_limit, "{s:?}");
    s
}

#[test]
fn u26_vm_statistics_add_up_and_never_fall() {
    both(48, |vm| {
        let p = filled(vm, 8);
        let first = balanced(vm);
        assert_eq!((first.zero_fill_count, first.wire_count), (8, 0));
        assert_eq!(xnu(&p).vm_wire(a(BASE), n(3 * P), prot(Prot::RW), true, &mut may()), Ok(()));
        assert_eq!(balanced(vm).wire_count, 3);
        let child = fork(&p);
        child.store_word(BASE + 4 * P, 1).expect("writable");
        assert_eq!(balanced(vm).cow_faults, first.cow_faults + 1);
        fill(&p, BASE + (1 << 20), 60);
        let s = balanced(vm);
        assert!(s.swapouts > 0 && s.faults > first.faults && s.zero_fill_count >= 68, "{s:?}");
        let _ = bytes(&p, BASE, 8 * P);
        let last = balanced(vm);
        assert!(
            last.swapins >= s.swapins && last.faults >= s.faults && last.reactivations >= s.reactivations
        );
        let v1: VmStatistics = xnu(&p).vm_statistics();
        assert_eq!(v1.free_count, last.free_count);
        assert_eq!(u64::from(v1.pageouts), last.swapouts, "swap is a pager");
        let many = VmStatistics::from_64(&VmStatistics64 { faults: 1 << 40, ..last });
        assert_eq!(many.faults, u32::MAX, "pegged");
        check_quiet(vm, [&p, &child]);
    });
}

#[test]
fn u27_vm_cache_statistics() {
    both(32, |vm| {
        let p = filled(vm, 8);
        let c = xnu(&p).vm_cache_statistics();
        assert_eq!((c.cache_object_count, c.active_count, c.laundry_count), (0, 8, 0));
        assert!(c.own_bytes > 0);
    });
}

#[test]
fn u35_task_vm_info() {
    both(64, |vm| {
        let p = filled(vm, 4);
        let t = xnu(&p);
        assert_eq!(t.vm_allocate(a(BASE + (8 << 20)), n(4 * P), FIXED, &mut may()), Ok(BASE + (8 << 20)));
        assert_eq!(t.vm_wire(a(BASE), n(P), prot(Prot::RW), true, &mut may()), Ok(()));
        let i = t.vm_info(&mut may());
        assert_eq!((i.virtual_size, i.region_count, i.page_size), (8 * P, 3, P as u32));
        assert_eq!((i.internal, i.external, i.compressed, i.wired), (4 * P, 0, 0, P));
        assert_eq!((i.dirty, i.phys_footprint), (4 * P, 4 * P));
        assert_eq!((i.min_address, i.max_address), (p.map.min().get(), p.map.max().get()));
        assert!(i.resident_size >= P);
        while vm.pageout(1000, &mut may()) != 0 {}
        let i = t.vm_info(&mut may());
        assert_eq!((i.internal, i.compressed, i.phys_footprint), (P, 3 * P, 4 * P));
        check_quiet(vm, [&p]);
    });
}

#[test]
fn u19_vm_pages_phys() {
    both(32, |vm| {
        let p = filled(vm, 2);
        let t = xnu(&p);
        let mut f = [None; 4];
        assert_eq!(t.vm_pages_phys(a(BASE), n(3 * P), &mut f, &mut may()), Ok(3));
        assert!(f[0].is_some() && f[1].is_some() && f[0] != f[1] && f[2].is_none());
        assert_eq!(
            t.vm_pages_phys(a(BASE + 1), n(P), &mut f, &mut may()),
            Err(PhysError::Unaligned(BASE + 1))
        );
        assert_eq!(t.vm_pages_phys(a(BASE), n(5), &mut f, &mut may()), Err(PhysError::Unaligned(5)));
        assert_eq!(t.vm_pages_phys(a(BASE), n(0), &mut f, &mut may()), Ok(0));
    });
}
