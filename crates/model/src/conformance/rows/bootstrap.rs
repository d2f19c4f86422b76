//! What has a meaning only where a kernel boots.

use alloc::vec::Vec;

use machvm_hal::pmap9::{Frame, PhysSegment, Pmap9, PmapBootstrap, PmapFlags, PmapMachine};
use machvm_hal::{Pfn, Prot, RawAddr, RawSize};

use super::{Fixture, Touch, kernel, may, new, panics, raw};

/// Segments of the device's frames.
fn segments<F: Fixture>(f: &F) -> Option<[PhysSegment; 2]> {
    let first = f.device()?;
    let s = |from: u64, to: u64| PhysSegment::new(Pfn(first.0 + from), Pfn(first.0 + to));
    Some([s(0, 2), s(2, 64)])
}

/// A part of the kernel's half, large enough to be of use.
pub fn pm02_virtual_space_is_the_kernels<F: Fixture<Machine: PmapBootstrap>>(f: &F) {
    let m = f.machine();
    let space = m.pmap_virtual_space();
    assert!(space.pages() >= 512, "{space:?}");
    assert_eq!(m.pmap_kextract(raw(space.start())), None);
    let end = m.pmap_growkernel(RawAddr(space.start().get() + 1));
    assert!(end.0 > space.start().get());
    m.pmap_kenter_pa(space.start(), f.page(0).into(), Prot::RW, PmapFlags::empty());
    assert!(kernel(f, 0, raw(space.start()), Touch::Store(1)).is_some());
    m.pmap_kremove(super::pages(space.start(), 1));
    m.pmap_kernel().pmap_update(&mut may());
}

/// Its frames leave the segments, its addresses the kernel's space.
pub fn pm03_stolen_memory_is_zero_and_nobody_elses<F: Fixture<Machine: PmapBootstrap>>(f: &F) {
    let (m, Some(mut segs)) = (f.machine(), segments(f)) else { return };
    let before = m.pmap_virtual_space();
    let mut taken = Vec::new();
    for size in [1, 4096, 3 * 4096 + 1, 100] {
        let va = m.pmap_steal_memory(RawSize(size), &mut segs);
        for page in 0..size.div_ceil(4096) {
            for off in [0, 8, 4088] {
                let at = RawAddr(va.get() + page * 4096 + off);
                assert_eq!(kernel(f, 0, at, Touch::Load), Some(0));
                assert!(kernel(f, 0, at, Touch::Store(!0)).is_some());
            }
            let at = m.pmap_kextract(RawAddr(va.get() + page * 4096)).map(|p| p.pfn());
            taken.push(at);
        }
    }
    taken.sort_by_key(|t| t.map(|p| p.0));
    taken.dedup();
    assert_eq!(taken.len(), 7, "{taken:?}");
    assert_eq!(segs.iter().map(PhysSegment::available).sum::<u64>(), 64 - 7);
    for frame in taken.into_iter().flatten() {
        assert!(!segs.iter().any(|s| s.avail_start <= frame && frame < s.avail_end), "{frame:?}");
    }
    let after = m.pmap_virtual_space();
    assert!(after.start() >= before.start() && after.end() == before.end());
    // More than there is in a row.
    panics(|| _ = m.pmap_steal_memory(RawSize(1 << 20), &mut segs));
    let _ = m.pmap_steal_memory(RawSize(1), &mut segs);
}

/// Every frame is somebody's by then.
pub fn z149_nothing_is_stolen_after_init<F: Fixture<Machine: PmapBootstrap>>(f: &F) {
    let (m, Some(mut segs)) = (f.machine(), segments(f)) else { return };
    let _ = m.pmap_steal_memory(RawSize(1), &mut segs);
    m.pmap_init();
    let before = segs;
    let said = panics(|| _ = m.pmap_steal_memory(RawSize(1), &mut segs));
    assert!(said.contains("pmap_steal_memory"), "{said}");
    assert_eq!(segs, before);
}

/// Rounded up, monotonic, never beyond the space; a table short is a panic that says where.
pub fn pm04_growkernel_only_grows<F: Fixture<Machine: PmapBootstrap>>(f: &F) {
    let m = f.machine();
    let space = m.pmap_virtual_space();
    let at = |pages: u64| RawAddr(space.start().add(pages).get());
    let one = m.pmap_growkernel(at(1));
    assert!(one.0 >= at(1).0);
    assert_eq!(m.pmap_growkernel(at(0)), one);
    assert_eq!(m.pmap_growkernel(at(1)), one);
    let more = m.pmap_growkernel(RawAddr(one.0 + 1));
    assert!(more.0 > one.0 && m.pmap_growkernel(at(1)) == more);
    panics(|| _ = m.pmap_growkernel(RawAddr(space.end().get() + (1 << 30))));
    if f.shortage(machvm_hal::pmap9::Shortage::Table, true) {
        let said = panics(|| _ = m.pmap_growkernel(RawAddr(more.0 + (64 << 21))));
        f.shortage(machvm_hal::pmap9::Shortage::Table, false);
        assert!(said.contains("no page table"), "{said}");
    }
    assert!(m.pmap_growkernel(RawAddr(more.0 + 1)).0 > more.0);
}

/// Pmaps made before and after, on every CPU.
pub fn z148_every_pmap_sees_what_grew<F: Fixture<Machine: PmapBootstrap>>(f: &F) {
    let m = f.machine();
    let old = new(f);
    // Loaded while it grows.
    assert!(f.run(1 % f.facts().cpus, &old, raw(f.at(0, 0)), Touch::Load).is_none());
    let space = m.pmap_virtual_space();
    let va = space.start().add(space.pages() / 2);
    m.pmap_growkernel(RawAddr(va.add(1).get()));
    let young = new(f);
    let frame = Frame::Page(f.page(1));
    m.pmap_kenter_pa(va, frame, Prot::RW, PmapFlags::empty());
    for (i, pm) in [&old, &young].into_iter().enumerate() {
        for cpu in 0..f.facts().cpus {
            // Loads the pmap; the kernel's half is under it.
            assert!(f.run(cpu, pm, raw(f.at(0, 0)), Touch::Load).is_none());
            let done = kernel(f, cpu, raw(va), Touch::Store(3)).is_some();
            assert!(done, "pmap {i} on CPU {cpu} does not see {va:?}");
        }
    }
    m.pmap_kremove(super::pages(va, 1));
    m.pmap_kernel().pmap_update(&mut may());
    f.leave();
    old.pmap_destroy(&mut may());
    young.pmap_destroy(&mut may());
}
