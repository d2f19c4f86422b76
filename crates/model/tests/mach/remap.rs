//! U07, U08: `vm_remap`.

use machvm::FaultError;
use machvm::task::{Denied, PlaceError, RawFlags, RemapError, VmFlags};
use machvm_hal::Prot;

use crate::*;

#[test]
fn u07_vm_remap_shares_memory_between_tasks() {
    both(100, |vm| {
        let (p, q) = (filled(vm, 4), program(vm));
        let r = xnu(&q).vm_remap(a(0), n(4 * P), 0, ANYWHERE, &xnu(&p), a(BASE), false, COPY, &mut may());
        let r = r.expect("room");
        assert_eq!((r.prot, r.max), (Prot::RW, Prot::ALL));
        assert_eq!(bytes(&q, r.address, 4 * P), pattern(0, 4 * P));
        q.store_word(r.address + P, 0xabc).expect("writable");
        p.store_word(BASE + 2 * P, 0xdef).expect("writable");
        assert_eq!(p.load_word(BASE + P), Ok(0xabc));
        assert_eq!(q.load_word(r.address + 2 * P), Ok(0xdef));
        // The memory outlives its first owner.
        drop(p);
        assert_eq!(q.load_word(r.address + P), Ok(0xabc));
        check_quiet(vm, [&q]);
    });
}

#[test]
fn z54_sharing_copy_on_write_memory_shares_what_is_written_later() {
    both(100, |vm| {
        let p = filled(vm, 4);
        let child = fork(&p);
        let q = program(vm);
        let r = xnu(&q).vm_remap(a(0), n(4 * P), 0, ANYWHERE, &xnu(&child), a(BASE), false, COPY, &mut may());
        let at = r.expect("room").address;
        child.store_word(BASE, 1).expect("breaks the copy");
        q.store_word(at + P, 2).expect("breaks the copy");
        assert_eq!((q.load_word(at), child.load_word(BASE + P)), (Ok(1), Ok(2)));
        assert_eq!(bytes(&p, BASE, 4 * P), pattern(0, 4 * P));
        check_quiet(vm, [&p, &child, &q]);
    });
}

#[test]
fn u07_vm_remap_copies() {
    both(100, |vm| {
        let p = filled(vm, 4);
        protect(&p, BASE + P, 1, Prot::R);
        let r =
            xnu(&p).vm_remap(a(0), n(4 * P), 0, ANYWHERE, &xnu(&p), a(BASE), true, RawInherit(2), &mut may());
        let r = r.expect("room");
        assert_eq!(r.prot, Prot::R, "common to all of it");
        p.store_word(BASE, 1).expect("source");
        p.store_word(r.address + 8, 2).expect("copy");
        assert_eq!(bytes(&p, r.address, 8), pattern(0, 8));
        assert_eq!(bytes(&p, BASE + 8, 8), pattern(8, 8));
        assert_eq!(p.store_word(r.address + P, 1), Err(FaultError::Protection(va(r.address + P))));
        let (_, i) = xnu(&p).vm_region_basic(a(r.address), &mut may()).expect("mapped");
        assert_eq!(i.inheritance, machvm::map::Inherit::None);
        check_quiet(vm, [&p]);
    });
}

#[test]
fn u07_places_masks_and_codes() {
    both(100, |vm| {
        let p = filled(vm, 4);
        let t = xnu(&p);
        let remap = |addr, size, mask, flags: RawFlags, src| {
            t.vm_remap(a(addr), n(size), mask, flags, &t, a(src), false, COPY, &mut may()).map(|r| r.address)
        };
        let to = BASE + (64 << 20);
        assert_eq!(remap(to, 4 * P, 0, FIXED, BASE), Ok(to));
        assert_eq!(remap(to, P, 0, FIXED, BASE), Err(RemapError::Place(PlaceError::Occupied(va(to)))));
        // Over itself: two pages change places.
        let over = RawFlags(VmFlags::OVERWRITE.bits());
        assert_eq!(remap(BASE, P, 0, over, BASE + P), Ok(BASE));
        assert_eq!(bytes(&p, BASE, 2 * P), [pattern(P, P), pattern(P, P)].concat());
        let at = remap(to + P, P, 0xf_ffff, ANYWHERE, BASE).expect("room");
        assert_eq!((at % (1 << 20), at > to), (0, true), "up from the hint");
        let below = remap(p.map.max().get(), P, 0, ANYWHERE, BASE);
        assert_eq!(below, Err(RemapError::Place(PlaceError::NoSpace)), "KERN_NO_SPACE");
        assert_eq!(remap(to, P, 0x2000, FIXED, BASE), Err(RemapError::Place(PlaceError::BadMask(0x2000))));
        assert_eq!(remap(0, 0, 0, ANYWHERE, BASE), Err(RemapError::BadSize), "KERN_INVALID_ARGUMENT");
        assert_eq!(remap(0, 0, 0, RawFlags(0x8000), BASE), Err(RemapError::BadFlags(0x8000)));
        assert_eq!(remap(0, 9, 0, ANYWHERE, u64::MAX), Err(RemapError::Wraps(u64::MAX)));
        let hole = RemapError::Source(Denied::Hole(va(BASE + 4 * P)));
        assert_eq!(remap(0, 5 * P, 0, ANYWHERE, BASE), Err(hole), "KERN_INVALID_ADDRESS");
        let e = t.vm_remap(a(0), n(P), 0, ANYWHERE, &t, a(BASE), false, RawInherit(9), &mut may());
        assert_eq!(e, Err(RemapError::BadInheritance(9)));
        check_quiet(vm, [&p]);
    });
}

#[test]
fn z02_an_unaligned_source_loses_its_tail_unless_the_data_address_is_wanted() {
    both(100, |vm| {
        let p = filled(vm, 4);
        let t = xnu(&p);
        let remap = |flags: VmFlags| {
            let before = p.map.size(&mut may());
            let flags = RawFlags((flags | VmFlags::ANYWHERE).bits());
            let r = t.vm_remap(a(0), n(0x20), 0, flags, &t, a(BASE + 0xff0), false, COPY, &mut may());
            let at = r.expect("room").address;
            (at % P, (p.map.size(&mut may()) - before) / P, at)
        };
        let (off, pages, _) = remap(VmFlags::empty());
        assert_eq!((off, pages), (0, 1));
        let (off, pages, at) = remap(VmFlags::RETURN_DATA_ADDR);
        assert_eq!((off, pages), (0xff0, 2));
        assert_eq!(bytes(&p, at, 0x20), pattern(0xff0, 0x20));
    });
}

#[test]
fn u08_vm_remap_new_names_its_rights() {
    both(100, |vm| {
        let p = filled(vm, 4);
        let t = xnu(&p);
        let remap = |cur: Prot, max: Prot| {
            let rights = (prot(cur), prot(max));
            t.vm_remap_new(a(0), n(2 * P), 0, ANYWHERE, &t, a(BASE), false, rights, COPY, &mut may())
        };
        let r = remap(Prot::R, Prot::R).expect("room");
        assert_eq!((r.prot, r.max), (Prot::R, Prot::R));
        let at = r.address;
        assert_eq!(bytes(&p, at, 2 * P), pattern(0, 2 * P));
        assert_eq!(p.store_word(at, 1), Err(FaultError::Protection(va(at))));
        let more = t.vm_protect(a(at), n(P), false, prot(Prot::RW), &mut may());
        assert_eq!(more, Err(machvm::task::VmProtectError::ExceedsMax(va(at))));
        assert_eq!(remap(Prot::RW, Prot::R), Err(RemapError::BadProtection(3)), "KERN_INVALID_ARGUMENT");
        assert_eq!(t.vm_protect(a(BASE), n(4 * P), true, prot(Prot::R), &mut may()), Ok(()));
        let denied = RemapError::Source(Denied::Protection(va(BASE)));
        assert_eq!(remap(Prot::R, Prot::RW), Err(denied), "KERN_PROTECTION_FAILURE");
        p.map.modflags(machvm::map::MapFlags::WXORX, machvm::map::MapFlags::empty(), &mut may());
        assert_eq!(remap(Prot::ALL, Prot::ALL), Err(RemapError::BadProtection(7)), "KERN_INVALID_ARGUMENT");
        check_quiet(vm, [&p]);
    });
}
