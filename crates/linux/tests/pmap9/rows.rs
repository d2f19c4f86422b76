//! What the suite does not ask because only Linux has it.

use machvm_hal::pmap9::{Frame, Pmap9, PmapFlags, PmapMachine, QuickPage};
use machvm_hal::{PAGE_SIZE, PhysMem, Prot, RawAddr, Va, VaRange};
use machvm_model::conformance::{Fixture, Touch};

use super::fixture::{LinuxFixture, Space, everything, may};

fn raw(va: Va) -> RawAddr {
    RawAddr(va.get())
}
fn pages(va: Va, n: u64) -> VaRange {
    VaRange::of_pages(va, n).expect("a range")
}
fn enter(f: &LinuxFixture, pm: &Space, va: Va, n: usize, prot: Prot, flags: PmapFlags) {
    let flags = flags | PmapFlags::PMAP_CANFAIL;
    let done = pm.pmap_enter(va, f.page(n).into(), prot, flags.accessed_by(prot & Prot::RW), &mut may());
    assert_eq!(done, Ok(()));
}
fn end(pm: Space) {
    pm.pmap_remove(everything());
    pm.pmap_destroy(&mut may());
}

#[test]
fn pm11_pages_in_a_row_are_one_mapping_of_linux() {
    let f = LinuxFixture::new();
    let pm = f.machine().pmap_create().expect("memory");
    let empty = f.machine().pv().table_bytes();
    (0..64).for_each(|n| enter(&f, &pm, f.at(0, n), n, Prot::RW, PmapFlags::empty()));
    // A region and the gap after it.
    assert_eq!(f.machine().pv().vmas().0, 2);
    // Another frame in the middle makes three of it, the same frame as before one.
    enter(&f, &pm, f.at(0, 10), 50, Prot::RW, PmapFlags::empty());
    assert_eq!(f.machine().pv().vmas().0, 6);
    enter(&f, &pm, f.at(0, 10), 10, Prot::ALL, PmapFlags::empty());
    assert_eq!(f.machine().pv().vmas().0, 6, "one page may be fetched");
    pm.pmap_protect(pages(f.at(0, 10), 1), Prot::RW);
    assert_eq!((f.machine().pv().vmas().0, pm.pmap_resident_count()), (2, 64));
    pm.pmap_collect(&mut may());
    assert_eq!((f.machine().pv().vmas().0, pm.pmap_resident_count()), (0, 0));
    // Only directories are left.
    assert!(f.machine().pv().table_bytes() - empty < 2 * 4096);
    end(pm);
}

#[test]
fn pm43_collect_keeps_the_regions_of_what_is_wired() {
    let f = LinuxFixture::new();
    let pm = f.machine().pmap_create().expect("memory");
    (0..64).for_each(|n| enter(&f, &pm, f.at(0, n), n, Prot::RW, PmapFlags::empty()));
    enter(&f, &pm, f.at(0, 20), 20, Prot::RW, PmapFlags::PMAP_WIRED);
    pm.pmap_collect(&mut may());
    assert_eq!((f.machine().pv().vmas().0, pm.pmap_resident_count()), (2, 1));
    assert_eq!(f.run(0, &pm, raw(f.at(0, 20)), Touch::Store(4)), Some(0));
    assert_eq!(f.run(0, &pm, raw(f.at(0, 21)), Touch::Load), None);
    end(pm);
    assert_eq!(f.machine().pv().vmas().0, 0);
}

#[test]
fn z132_what_linux_forgot_comes_back() {
    let f = LinuxFixture::new();
    let pm = f.machine().pmap_create().expect("memory");
    enter(&f, &pm, f.at(0, 0), 0, Prot::RW, PmapFlags::PMAP_WIRED);
    assert_eq!(f.run(0, &pm, raw(f.at(0, 0)), Touch::Store(77)), Some(0));
    let at = pm.host(raw(f.at(0, 0))).expect("an address").0 as usize;
    let at = core::ptr::with_exposed_provenance_mut(at);
    // SAFETY: a shared mapping, whose contents are the file's.
    assert_eq!(unsafe { libc::madvise(at, PAGE_SIZE as usize, libc::MADV_DONTNEED) }, 0);
    assert_eq!(f.run(0, &pm, raw(f.at(0, 0)), Touch::Load), None);
    assert!(pm.pmap_fault(raw(f.at(0, 0)), Prot::R));
    assert_eq!(f.run(0, &pm, raw(f.at(0, 0)), Touch::Load), Some(77));
    assert!(f.machine().pmap_is_modified(f.page(0)));
    end(pm);
}

#[test]
fn pm53_a_discarded_frame_faults_in_as_zero() {
    let f = LinuxFixture::new();
    let pm = f.machine().pmap_create().expect("memory");
    for n in 0..2 {
        enter(&f, &pm, f.at(0, n), n, Prot::RW, PmapFlags::empty());
        assert_eq!(f.run(0, &pm, raw(f.at(0, n)), Touch::Store(1)), Some(0));
        f.mem.discard(pm.pmap_extract(raw(f.at(0, n))).expect("mapped").pfn(), 1);
    }
    for (n, access) in [Prot::R, Prot::W].into_iter().enumerate() {
        assert_eq!(f.run(0, &pm, raw(f.at(0, n)), Touch::Load), None);
        assert!(pm.pmap_fault(raw(f.at(0, n)), access));
        assert_eq!(f.run(0, &pm, raw(f.at(0, n)), Touch::Load), Some(0));
    }
    end(pm);
}

#[test]
fn addresses_go_there_and_back() {
    let f = LinuxFixture::new();
    let (a, b) = (f.machine().pmap_create().expect("memory"), f.machine().pmap_create().expect("memory"));
    let last = RawAddr(f.machine().user_pages() * PAGE_SIZE - 1);
    for pm in [&a, &b] {
        for at in [RawAddr(0), RawAddr(0x1234_5678), last] {
            assert_eq!(pm.guest(pm.host(at).expect("inside")), Some(at));
        }
        assert_eq!(pm.host(RawAddr(last.0 + 1)), None);
        assert_eq!(pm.host(RawAddr(u64::MAX)), None);
        assert!(!pm.pmap_fault(RawAddr(u64::MAX), Prot::R) && pm.pmap_extract(RawAddr(u64::MAX)).is_none());
    }
    assert_eq!(a.guest(b.host(RawAddr(0)).expect("inside")), None);
    let kernel = f.machine().pmap_kernel();
    let at = raw(f.kernel(3));
    assert_eq!((kernel.host(at), kernel.guest(at)), (Some(at), Some(at)));
    end(a);
    end(b);
}

#[test]
fn pm11_unmanaged_frames_are_counted_as_mappings_of_linux() {
    let f = LinuxFixture::new();
    let pm = f.machine().pmap_create().expect("memory");
    let device = f.device().expect("frames");
    for n in 0..8 {
        let frame = Frame::Unmanaged(device.add(n as u64));
        let done = pm.pmap_enter(f.at(0, n), frame, Prot::RW, PmapFlags::PMAP_CANFAIL, &mut may());
        assert_eq!(done, Ok(()));
    }
    assert_eq!(f.machine().pv().vmas().0, 16);
    assert_eq!(f.run(0, &pm, raw(f.at(0, 3)), Touch::Store(5)), Some(0));
    pm.pmap_protect(pages(f.at(0, 3), 2), Prot::R);
    assert_eq!(f.run(0, &pm, raw(f.at(0, 3)), Touch::Load), Some(5));
    assert_eq!(f.run(0, &pm, raw(f.at(0, 3)), Touch::Store(6)), None);
    assert!(!pm.pmap_fault(raw(f.at(0, 3)), Prot::W));
    pm.pmap_remove(pages(f.at(0, 0), 4));
    assert_eq!((f.machine().pv().vmas().0, pm.pmap_resident_count()), (8, 4));
    end(pm);
    assert_eq!(f.machine().pv().vmas().0, 0);
}

#[test]
fn pm36_threads_have_quick_pages_at_once() {
    let f = LinuxFixture::new();
    let (machine, list) = (f.machine(), [f.page(0), f.page(1)]);
    std::thread::scope(|s| {
        for page in list {
            s.spawn(move || {
                for _ in 0..500 {
                    let quick = machine.pmap_quick_enter_page(page);
                    let word = core::ptr::with_exposed_provenance_mut::<u64>(quick.va().get() as usize);
                    // SAFETY: readable and writable, and this thread's while it has it.
                    unsafe { word.write_volatile(word.read_volatile() + 1) };
                }
            });
        }
    });
    assert_eq!((f.peek(f.page(0), 0), f.peek(f.page(1), 0)), (500, 500));
}
