//! U16: `vm_copy`.

use machvm::FaultError;
use machvm::task::{Denied, VmCopyError};
use machvm_hal::Prot;

use crate::*;

/// Copies in a filled range and compares with `copy_within`.
fn against_memmove(pages: u64, src: u64, dst: u64, count: u64) {
    both(400, |vm| {
        let p = filled(vm, pages);
        let mut want = pattern(0, pages * P);
        assert_eq!(xnu(&p).vm_copy(a(BASE + src), n(count), a(BASE + dst), &mut may()), Ok(()));
        want.copy_within(src as usize..(src + count) as usize, dst as usize);
        assert!(bytes(&p, BASE, pages * P) == want, "{count:#x} bytes from {src:#x} to {dst:#x}");
        check_quiet(vm, [&p]);
    });
}

#[test]
fn u16_vm_copy_aligned() {
    against_memmove(16, 0, 8 * P, 8 * P);
    against_memmove(16, 8 * P, 0, 5 * P);
    against_memmove(16, 3 * P, 9 * P, P);
}

#[test]
fn u16_vm_copy_overlap_forwards() {
    against_memmove(16, 0, P, 12 * P);
    against_memmove(16, 0, 100, 12 * P);
    against_memmove(16, 5, P + 5, 10 * P + 17);
}

#[test]
fn u16_vm_copy_overlap_backwards() {
    against_memmove(16, P, 0, 12 * P);
    against_memmove(16, 100, 0, 12 * P);
    against_memmove(16, P + 5, 5, 10 * P + 17);
}

#[test]
fn u16_vm_copy_unaligned_edges_are_bytes() {
    against_memmove(16, 10, 8 * P + 10, 5 * P + 3);
    against_memmove(16, P - 1, 9 * P - 1, 2);
    against_memmove(16, P - 1, 9 * P - 1, 2 * P + 2);
    against_memmove(16, 1, 9 * P, 4 * P);
    against_memmove(16, 17, 8 * P + 3000, P + 5000);
}

#[test]
fn u16_vm_copy_isolates_both_sides() {
    both(200, |vm| {
        let p = filled(vm, 16);
        let t = xnu(&p);
        assert_eq!(t.vm_copy(a(BASE), n(8 * P), a(BASE + 8 * P), &mut may()), Ok(()));
        (0..8).for_each(|i| p.store_word(BASE + i * P, 1).expect("source"));
        assert_eq!(bytes(&p, BASE + 8 * P, 8 * P), pattern(0, 8 * P));
        (8..16).for_each(|i| p.store_word(BASE + i * P + 8, 2).expect("copy"));
        assert_eq!(bytes(&p, BASE + 8, P - 8), pattern(8, P - 8));
        check_quiet(vm, [&p]);
    });
}

#[test]
fn u16_vm_copy_through_an_alias_is_a_snapshot() {
    both(200, |vm| {
        // The same memory at two places: the addresses do not overlap, the memory does.
        for (src, dst) in [(0, P), (P, 0), (0, P + 100), (P + 100, 0)] {
            let p = filled(vm, 8);
            let alias = BASE + 0x10_0000;
            let r =
                xnu(&p).vm_remap(a(alias), n(8 * P), 0, FIXED, &xnu(&p), a(BASE), false, COPY, &mut may());
            assert_eq!(r.expect("remap").address, alias);
            assert_eq!(xnu(&p).vm_copy(a(BASE + src), n(6 * P), a(alias + dst), &mut may()), Ok(()));
            let mut want = pattern(0, 8 * P);
            want.copy_within(src as usize..(src + 6 * P) as usize, dst as usize);
            assert!(bytes(&p, alias, 8 * P) == want, "{src:#x} to {dst:#x}");
            assert!(bytes(&p, BASE, 8 * P) == want, "the destination stays shared");
            check_quiet(vm, [&p]);
        }
    });
}

#[test]
fn z03_vm_copy_of_nothing_looks_at_nothing() {
    both(8, |vm| {
        let p = program(vm);
        for how in Personality::ALL {
            assert_eq!(as_(&p, how).vm_copy(a(3), n(0), a(u64::MAX), &mut may()), Ok(()), "Z04");
        }
    });
}

#[test]
fn u16_vm_copy_codes_of_xnu() {
    both(64, |vm| {
        let p = filled(vm, 4);
        fill(&p, BASE + 8 * P, 4);
        let copy = |s, c, d| xnu(&p).vm_copy(a(s), n(c), a(d), &mut may());
        // KERN_INVALID_ADDRESS.
        assert_eq!(copy(u64::MAX - 5, 10, BASE), Err(VmCopyError::Wraps(u64::MAX - 5)));
        assert_eq!(copy(BASE, 3 * P, u64::MAX - P), Err(VmCopyError::Wraps(u64::MAX - P)));
        let hole = |at| Denied::Hole(va(at));
        assert_eq!(copy(BASE + 2 * P, 4 * P, BASE + 8 * P), Err(VmCopyError::Source(hole(BASE + 4 * P))));
        assert_eq!(copy(BASE, 3 * P, BASE + 10 * P), Err(VmCopyError::Destination(hole(BASE + 12 * P))));
        assert_eq!(copy(0, P, BASE), Err(VmCopyError::Source(hole(0))));
        // KERN_PROTECTION_FAILURE.
        protect(&p, BASE + P, 1, Prot::NONE);
        protect(&p, BASE + 9 * P, 1, Prot::R);
        let denied = |at| Denied::Protection(va(at));
        assert_eq!(copy(BASE, 3 * P, BASE + 8 * P), Err(VmCopyError::Source(denied(BASE + P))));
        assert_eq!(
            copy(BASE + 2 * P, 2 * P, BASE + 8 * P),
            Err(VmCopyError::Destination(denied(BASE + 9 * P)))
        );
        // Below two pages a buffer is used, and rights are not told from holes.
        assert_eq!(copy(BASE + P, P, BASE + 8 * P), Err(VmCopyError::Source(hole(BASE + P))));
        assert_eq!(copy(BASE, P, BASE + 9 * P), Err(VmCopyError::Destination(hole(BASE + 9 * P))));
        let free = as_(&p, &Personality::FREEBSD);
        let said = free.vm_copy(a(BASE + P), n(P), a(BASE + 8 * P), &mut may());
        assert_eq!(said, Err(VmCopyError::Source(denied(BASE + P))));
        // Z102: nothing was written.
        assert_eq!(bytes(&p, BASE + 8 * P, 4 * P), pattern(0, 4 * P));
        check_quiet(vm, [&p]);
    });
}

#[test]
fn u16_vm_copy_codes_of_mach3_in_order() {
    both(64, |vm| {
        let p = filled(vm, 4);
        let copy = |s, c, d| as_(&p, MACH3).vm_copy(a(s), n(c), a(d), &mut may());
        let hole = |at| Denied::Hole(va(at));
        assert_eq!(copy(u64::MAX - P, 2 * P, 0), Err(VmCopyError::Wraps(u64::MAX - P)));
        // The source comes before the alignment, the alignment before the destination.
        assert_eq!(copy(BASE + 2 * P + 1, 2 * P, 1), Err(VmCopyError::Source(hole(BASE + 4 * P))));
        assert_eq!(copy(BASE, 2 * P, 1), Err(VmCopyError::Unaligned(1)));
        assert_eq!(copy(BASE, 5, 0), Err(VmCopyError::Unaligned(5)));
        assert_eq!(copy(BASE + 3, P, 0), Err(VmCopyError::Unaligned(BASE + 3)));
        assert_eq!(copy(BASE, P, 0), Err(VmCopyError::Destination(hole(0))));
        protect(&p, BASE + P, 1, Prot::NONE);
        protect(&p, BASE + 3 * P, 1, Prot::R);
        let denied = |at| Denied::Protection(va(at));
        assert_eq!(copy(BASE + P, P, BASE), Err(VmCopyError::Source(denied(BASE + P))));
        assert_eq!(copy(BASE, P, BASE + 3 * P), Err(VmCopyError::Destination(denied(BASE + 3 * P))));
        assert_eq!(copy(BASE, P, BASE + 2 * P), Ok(()));
        assert_eq!(bytes(&p, BASE + 2 * P, P), pattern(0, P));
    });
}

#[test]
fn z101_vm_copy_onto_itself() {
    both(64, |vm| {
        let p = filled(vm, 4);
        assert_eq!(xnu(&p).vm_copy(a(BASE), n(4 * P), a(BASE), &mut may()), Ok(()));
        assert_eq!(bytes(&p, BASE, 4 * P), pattern(0, 4 * P));
        protect(&p, BASE + P, 1, Prot::R);
        let e = xnu(&p).vm_copy(a(BASE), n(4 * P), a(BASE), &mut may());
        assert_eq!(e, Err(VmCopyError::Destination(Denied::Protection(va(BASE + P)))));
    });
}

#[test]
fn z104_the_destination_keeps_its_attributes() {
    both(64, |vm| {
        let p = filled(vm, 8);
        let t = xnu(&p);
        let inherit = machvm::task::RawInherit(2);
        assert_eq!(t.vm_inherit(a(BASE + 4 * P), n(4 * P), inherit, &mut may()), Ok(()));
        assert_eq!(t.vm_protect(a(BASE + 4 * P), n(4 * P), true, prot(Prot::RW), &mut may()), Ok(()));
        protect(&p, BASE, 4, Prot::R);
        assert_eq!(t.vm_copy(a(BASE), n(4 * P), a(BASE + 4 * P), &mut may()), Ok(()));
        let (_, i) = t.vm_region_basic(a(BASE + 4 * P), &mut may()).expect("mapped");
        assert_eq!((i.protection, i.max_protection), (Prot::RW, Prot::RW));
        assert_eq!(i.inheritance, machvm::map::Inherit::None);
        assert_eq!(bytes(&p, BASE + 4 * P, 4 * P), pattern(0, 4 * P));
    });
}

#[test]
fn z104_wired_destinations_get_bytes_and_stay_wired() {
    both(64, |vm| {
        let p = filled(vm, 8);
        let t = xnu(&p);
        assert_eq!(t.vm_wire(a(BASE + 4 * P), n(4 * P), prot(Prot::RW), true, &mut may()), Ok(()));
        let frames = |vm_: &Program<'_>| {
            let mut f = [None; 4];
            assert_eq!(xnu(vm_).vm_pages_phys(a(BASE + 4 * P), n(4 * P), &mut f, &mut may()), Ok(4));
            f
        };
        let before = frames(&p);
        assert_eq!(t.vm_copy(a(BASE), n(4 * P), a(BASE + 4 * P), &mut may()), Ok(()));
        assert_eq!(frames(&p), before, "the same frames");
        assert_eq!(bytes(&p, BASE + 4 * P, 4 * P), pattern(0, 4 * P));
        let (_, i) = t.vm_region_basic(a(BASE + 4 * P), &mut may()).expect("mapped");
        assert_eq!(i.user_wired_count, 1);
        check_quiet(vm, [&p]);
    });
}

#[test]
fn z48_wired_sources_do_not_become_copy_on_write() {
    both(64, |vm| {
        let p = filled(vm, 8);
        let t = xnu(&p);
        assert_eq!(t.vm_wire(a(BASE), n(4 * P), prot(Prot::RW), true, &mut may()), Ok(()));
        (0..4).for_each(|i| p.store_word(BASE + i * P, 9).expect("writable"));
        let want = bytes(&p, BASE, 4 * P);
        assert_eq!(t.vm_copy(a(BASE), n(4 * P), a(BASE + 4 * P), &mut may()), Ok(()));
        let before = vm.statistics().faults;
        (0..4).for_each(|i| p.store_word(BASE + i * P, 10).expect("writable"));
        assert_eq!(vm.statistics().faults, before, "wired memory does not fault");
        assert_eq!(bytes(&p, BASE + 4 * P, 4 * P), want);
    });
}

#[test]
fn u15_a_shared_destination_is_written_not_replaced() {
    both(64, |vm| {
        let p = filled(vm, 8);
        let share = machvm::task::RawInherit(0);
        assert_eq!(xnu(&p).vm_inherit(a(BASE + 4 * P), n(4 * P), share, &mut may()), Ok(()));
        let child = fork(&p);
        assert_eq!(xnu(&p).vm_copy(a(BASE), n(4 * P), a(BASE + 4 * P), &mut may()), Ok(()));
        assert_eq!(bytes(&child, BASE + 4 * P, 4 * P), pattern(0, 4 * P), "the child sees it");
        check_quiet(vm, [&p, &child]);
    });
}

#[test]
fn u16_what_is_on_swap_is_copied_too() {
    both(24, |vm| {
        let p = filled(vm, 40);
        for (src, dst, count) in [(0, 20 * P, 20 * P), (100, 20 * P, 15 * P), (3, 9, P)] {
            let mut want = bytes(&p, BASE, 40 * P);
            assert_eq!(xnu(&p).vm_copy(a(BASE + src), n(count), a(BASE + dst), &mut may()), Ok(()));
            want.copy_within(src as usize..(src + count) as usize, dst as usize);
            assert!(bytes(&p, BASE, 40 * P) == want);
        }
        assert!(vm.statistics().swapouts > 0);
        check_quiet(vm, [&p]);
    });
}

#[test]
fn u16_reading_never_written_memory_takes_no_page() {
    both(16, |vm| {
        let p = program(vm);
        assert_eq!(xnu(&p).vm_allocate(a(BASE), n(1 << 30), FIXED, &mut may()), Ok(BASE));
        let copy = xnu(&p).vm_copy(a(BASE), n(512 << 20), a(BASE + (512 << 20)), &mut may());
        assert_eq!(copy, Ok(()));
        let mut b = [1; 100];
        assert_eq!(xnu(&p).vm_read_bytes(a(BASE + P - 50), &mut b, &mut may()), Ok(()));
        assert_eq!((b, vm.statistics().frames_resident), ([0; 100], 0));
        assert_eq!(p.load_word(BASE - 8), Err(FaultError::NoMapping(va(BASE - P))));
    });
}
