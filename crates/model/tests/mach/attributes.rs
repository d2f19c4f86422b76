//! U20, U21, U28, U29, U30: protection, inheritance, caches, msync, behaviour.

use machvm::FaultError;
use machvm::map::Inherit;
use machvm::task::{
    AttributeError, AttributeValue, Behavior, BehaviorError, MATTR_CACHE, MATTR_MIGRATE, MapSource,
    MemoryEntry, MsyncError, RawProt, VmInheritError, VmProtectError,
};
use machvm_hal::Prot;

use crate::*;

#[test]
fn u20_vm_protect_takes_and_gives_rights() {
    both(64, |vm| {
        let p = filled(vm, 4);
        protect(&p, BASE + P + 5, 1, Prot::R);
        // Two pages are touched.
        assert_eq!(p.store_word(BASE + P, 0), Err(FaultError::Protection(va(BASE + P))));
        assert_eq!(p.store_word(BASE + 2 * P, 0), Err(FaultError::Protection(va(BASE + 2 * P))));
        p.store_word(BASE + 3 * P, 0).expect("outside");
        assert_eq!(bytes(&p, BASE + P, P), pattern(P, P));
        protect(&p, BASE, 4, Prot::NONE);
        assert_eq!(p.load_word(BASE), Err(FaultError::Protection(va(BASE))));
        protect(&p, BASE, 4, Prot::RW);
        assert_eq!(bytes(&p, BASE, 2 * P), pattern(0, 2 * P));
        check_quiet(vm, [&p]);
    });
}

#[test]
fn u20_maximum_cuts_the_protection_and_never_grows() {
    both(16, |vm| {
        let p = filled(vm, 4);
        let t = xnu(&p);
        let set = |max, to| t.vm_protect(a(BASE), n(2 * P), max, prot(to), &mut may());
        assert_eq!(set(true, Prot::R), Ok(()));
        let (r, i) = t.vm_region_basic(a(BASE), &mut may()).expect("mapped");
        assert_eq!((r.pages(), i.protection, i.max_protection), (2, Prot::R, Prot::R));
        let e = VmProtectError::ExceedsMax(va(BASE));
        assert_eq!(set(false, Prot::RW), Err(e), "KERN_PROTECTION_FAILURE");
        assert_eq!(set(true, Prot::RW), Err(e), "KERN_PROTECTION_FAILURE");
        // All or nothing: the first pages could.
        let all = t.vm_protect(a(BASE), n(4 * P), false, prot(Prot::RW), &mut may());
        assert_eq!(all, Err(e));
        p.store_word(BASE + 2 * P, 1).expect("untouched");
        check_quiet(vm, [&p]);
    });
}

#[test]
fn u20_codes_and_holes() {
    both(16, |vm| {
        let p = filled(vm, 2);
        fill(&p, BASE + 3 * P, 1);
        let with =
            |how, addr, size, to| as_(&p, how).vm_protect(a(addr), n(size), false, RawProt(to), &mut may());
        // KERN_INVALID_ARGUMENT, before the size.
        assert_eq!(with(XNU, BASE, 0, 0x100), Err(VmProtectError::BadProtection(0x100)));
        assert_eq!(with(XNU, BASE, 0, 3), Ok(()));
        assert_eq!(with(XNU, u64::MAX, 2, 1), Err(VmProtectError::Wraps(u64::MAX)));
        // KERN_INVALID_ADDRESS in XNU and POSIX, and nothing changed; the others pass over.
        let hole = Err(VmProtectError::Hole(va(BASE + 2 * P)));
        assert_eq!(with(XNU, BASE, 4 * P, 1), hole);
        assert_eq!(with(&Personality::POSIX, BASE, 4 * P, 1), hole);
        p.store_word(BASE, 1).expect("unchanged");
        let end = p.map.max().get();
        assert_eq!(with(XNU, BASE, end, 1).map_err(|e| matches!(e, VmProtectError::Hole(_))), Err(true));
        for how in [MACH3, &Personality::FREEBSD, &Personality::UVM] {
            assert_eq!(with(how, BASE, 4 * P, 1), Ok(()), "{}", how.name);
        }
        assert_eq!(p.store_word(BASE + 3 * P, 1), Err(FaultError::Protection(va(BASE + 3 * P))));
        assert_eq!(with(MACH3, BASE, u64::MAX, 3), Ok(()), "what wraps is nothing");
        assert_eq!(p.store_word(BASE, 1), Err(FaultError::Protection(va(BASE))));
        assert_eq!(with(MACH3, BASE, P, 0x11), Err(VmProtectError::BadProtection(0x11)));
    });
}

#[test]
fn z95_vm_prot_copy_makes_a_private_copy_that_may_be_written() {
    both(64, |vm| {
        let p = filled(vm, 4);
        let t = xnu(&p);
        assert_eq!(t.vm_inherit(a(BASE), n(4 * P), RawInherit(0), &mut may()), Ok(()));
        let child = fork(&p);
        assert_eq!(t.vm_protect(a(BASE), n(4 * P), true, prot(Prot::R), &mut may()), Ok(()));
        let copy = RawProt(3 | RawProt::COPY);
        assert_eq!(t.vm_protect(a(BASE + P), n(P), false, copy, &mut may()), Ok(()));
        p.store_word(BASE + P, 0x77).expect("a breakpoint");
        assert_eq!(bytes(&child, BASE, 4 * P), pattern(0, 4 * P), "nobody else sees it");
        assert_eq!(p.load_word(BASE + P), Ok(0x77));
        assert_eq!(p.store_word(BASE, 1), Err(FaultError::Protection(va(BASE))));
        let hole = t.vm_protect(a(BASE + 3 * P), n(2 * P), false, copy, &mut may());
        assert_eq!(hole, Err(VmProtectError::Hole(va(BASE + 4 * P))));
        let m3 = as_(&p, MACH3).vm_protect(a(BASE), n(P), false, copy, &mut may());
        assert_eq!(m3, Err(VmProtectError::BadProtection(copy.0)), "not known there");
        check_quiet(vm, [&p, &child]);
    });
}

#[test]
fn u21_vm_inherit_says_what_children_get() {
    both(100, |vm| {
        let p = filled(vm, 4);
        let set =
            |how, page, to| as_(&p, how).vm_inherit(a(BASE + page * P), n(P), RawInherit(to), &mut may());
        assert_eq!(set(XNU, 0, 0), Ok(()));
        assert_eq!(set(XNU, 2, 2), Ok(()));
        assert_eq!(set(XNU, 9, 2), Ok(()), "holes are passed over");
        // KERN_INVALID_ARGUMENT; zeroes are FreeBSD's.
        assert_eq!(set(XNU, 3, 3), Err(VmInheritError::BadInheritance(3)));
        assert_eq!(set(MACH3, 3, 4), Err(VmInheritError::BadInheritance(4)));
        assert_eq!(set(&Personality::FREEBSD, 3, 3), Ok(()));
        let wraps = xnu(&p).vm_inherit(a(u64::MAX), n(9), RawInherit(1), &mut may());
        assert_eq!(wraps, Err(VmInheritError::Wraps(u64::MAX)));
        let child = fork(&p);
        assert_eq!(bytes(&child, BASE, 2 * P), pattern(0, 2 * P));
        assert_eq!(child.load_word(BASE + 2 * P), Err(FaultError::NoMapping(va(BASE + 2 * P))));
        assert_eq!(child.load_word(BASE + 3 * P), Ok(0));
        (0..2).for_each(|i| p.store_word(BASE + i * P, 99).expect("writable"));
        assert_eq!(child.load_word(BASE), Ok(99), "shared");
        assert_eq!(bytes(&child, BASE + P, 8), pattern(P, 8), "copied");
        let (_, i) = xnu(&p).vm_region_basic(a(BASE), &mut may()).expect("mapped");
        assert_eq!((i.inheritance, i.shared), (Inherit::Share, true));
        check_quiet(vm, [&p, &child]);
    });
}

#[test]
fn u28_vm_machine_attribute_knows_caches() {
    both(8, |vm| {
        let p = filled(vm, 2);
        let t = xnu(&p);
        let set = |addr, size, what, v| t.vm_machine_attribute(a(addr), n(size), what, v, &mut may());
        for v in [6, 7, 8, 9, 2] {
            assert_eq!(set(BASE, 2 * P, MATTR_CACHE, v), Ok(AttributeValue::On), "{v}");
        }
        assert_eq!(set(BASE, 0, MATTR_CACHE, 6), Ok(AttributeValue::On));
        // KERN_INVALID_ARGUMENT.
        assert_eq!(set(BASE, P, MATTR_MIGRATE, 0), Err(AttributeError::Unsupported(MATTR_MIGRATE, 0)));
        assert_eq!(set(BASE, P, MATTR_CACHE, 0), Err(AttributeError::Unsupported(MATTR_CACHE, 0)));
        assert_eq!(set(u64::MAX, 9, MATTR_CACHE, 6), Err(AttributeError::Wraps(u64::MAX)));
        // KERN_INVALID_ADDRESS, KERN_FAILURE.
        assert_eq!(set(0, P, MATTR_CACHE, 6), Err(AttributeError::Outside(va(0))));
        assert_eq!(set(BASE + P, 2 * P, MATTR_CACHE, 6), Err(AttributeError::Hole(va(BASE + 2 * P))));
    });
}

#[test]
fn u29_vm_msync_writes_to_pagers() {
    both(64, |vm| {
        let (id, file) = vm.platform().add_pager(vec![0; 4 * P as usize]);
        let entry = MemoryEntry::of_pager(vm, id, 4 * P, Prot::RW, &mut may()).expect("entry");
        let p = program(vm);
        let t = xnu(&p);
        let rights = (prot(Prot::RW), prot(Prot::RW), COPY);
        let source = MapSource::Entry(&entry, 0);
        assert_eq!(t.vm_map(a(BASE), n(4 * P), 0, FIXED, &source, false, rights, &mut may()), Ok(BASE));
        p.store(BASE, &pattern(0, 4 * P)).expect("writable");
        assert_eq!(t.vm_msync(a(BASE + P), n(P), 2, &mut may()), Ok(()));
        assert_eq!(file.bytes()[P as usize..2 * P as usize], pattern(P, P));
        assert_eq!(file.bytes()[..P as usize], vec![0; P as usize]);
        assert_eq!(t.vm_msync(a(BASE), n(4 * P), 1, &mut may()), Ok(()));
        assert_eq!(file.bytes(), pattern(0, 4 * P));
        // What a call writes is modified, like what a program stores.
        assert_eq!(t.vm_write_bytes(a(BASE + 2 * P - 50), &[0xab; 100], &mut may()), Ok(()));
        assert_eq!(t.vm_copy(a(BASE + P), n(P), a(BASE + 3 * P), &mut may()), Ok(()));
        let now = bytes(&p, BASE, 4 * P);
        assert_eq!(t.vm_msync(a(BASE), n(4 * P), 2, &mut may()), Ok(()));
        assert!(file.bytes() == now && now[2 * P as usize..][..50] == [0xab; 50]);
        // Z86, before anything else; then holes, at the end and only if asked for.
        assert_eq!(t.vm_msync(a(BASE), n(0), 3, &mut may()), Err(MsyncError::BadFlags(3)));
        assert_eq!(t.vm_msync(a(BASE), n(P), 0x80, &mut may()), Err(MsyncError::BadFlags(0x80)));
        assert_eq!(t.vm_msync(a(BASE), n(9 * P), 2, &mut may()), Ok(()));
        p.store_word(BASE, 5).expect("writable");
        let hole = t.vm_msync(a(BASE), n(9 * P), 2 | 0x20, &mut may());
        assert_eq!(hole, Err(MsyncError::Hole(va(BASE + 4 * P))), "KERN_INVALID_ADDRESS");
        assert_eq!(file.bytes()[0], 5, "the work was done");
        // Mach 3 has the name only: KERN_INVALID_ARGUMENT.
        let m3 = as_(&p, MACH3);
        assert_eq!(m3.vm_msync(a(BASE), n(P), 2, &mut may()), Err(MsyncError::NotSupported));
        assert_eq!(m3.vm_msync(a(BASE), n(0), 2, &mut may()), Ok(()));
        let inject = vm.platform().inject();
        inject.arm(machvm_model::Point::PageOut as u32, 1, true);
        p.store_word(BASE, 6).expect("writable");
        let failed = t.vm_msync(a(BASE), n(4 * P), 2, &mut may());
        assert!(
            matches!(failed, Err(MsyncError::Pager(at, _)) if at == va(BASE)),
            "{failed:?}: KERN_FAILURE"
        );
        assert!(inject.disarm() > 0);
        drop((p, entry));
    });
}

#[test]
fn u29_killpages_and_deactivate() {
    both(64, |vm| {
        let p = filled(vm, 4);
        let t = xnu(&p);
        assert_eq!(t.vm_msync(a(BASE), n(2 * P), 8, &mut may()), Ok(()));
        assert_eq!(bytes(&p, BASE, 2 * P), vec![0; 2 * P as usize], "dropped");
        assert_eq!(t.vm_msync(a(BASE + 2 * P), n(2 * P), 0x10, &mut may()), Ok(()));
        let s = vm.statistics();
        assert_eq!(s.inactive + s.laundry, 2, "set aside");
        assert_eq!(bytes(&p, BASE + 2 * P, 2 * P), pattern(2 * P, 2 * P));
        check_quiet(vm, [&p]);
    });
}

#[test]
fn u30_persistent_behaviours_stay_in_the_region() {
    both(16, |vm| {
        let p = filled(vm, 4);
        let t = xnu(&p);
        let kinds = [Behavior::Random, Behavior::Sequential, Behavior::ReverseSequential, Behavior::Default];
        for b in kinds {
            assert_eq!(t.vm_behavior_set(a(BASE + P), n(2 * P), b as u32, &mut may()), Ok(()));
            let (_, i) = t.vm_region_basic(a(BASE + P), &mut may()).expect("mapped");
            assert_eq!(i.behavior, b);
            let (_, i) = t.vm_region_basic(a(BASE + 3 * P), &mut may()).expect("mapped");
            assert_eq!(i.behavior, Behavior::Default);
        }
        let set = |addr, size, b| t.vm_behavior_set(a(addr), n(size), b, &mut may());
        assert_eq!(set(BASE, 0, 13), Err(BehaviorError::BadBehavior(13)), "KERN_INVALID_ARGUMENT");
        assert_eq!(set(BASE, 0, 1), Ok(()));
        assert_eq!(set(0, P, 1), Err(BehaviorError::Outside(va(0))), "KERN_NO_SPACE, sic");
        let hole = BehaviorError::Hole(va(BASE + 4 * P));
        assert_eq!(set(BASE, 5 * P, 1), Err(hole), "KERN_INVALID_ADDRESS");
        protect(&p, BASE, 1, Prot::R);
        assert_eq!(set(BASE, P, 7), Err(BehaviorError::Protection(va(BASE))), "KERN_PROTECTION_FAILURE");
        check_quiet(vm, [&p]);
    });
}

#[test]
fn u30_immediate_behaviours_act_on_contents() {
    both(64, |vm| {
        let p = filled(vm, 8);
        let t = xnu(&p);
        let set = |page: u64, pages: u64, b: Behavior| {
            t.vm_behavior_set(a(BASE + page * P), n(pages * P), b as u32, &mut may())
        };
        assert_eq!(set(0, 1, Behavior::Free), Ok(()));
        assert_eq!(set(1, 1, Behavior::Zero), Ok(()));
        assert_eq!(bytes(&p, BASE, 2 * P), vec![0; 2 * P as usize]);
        assert_eq!(set(2, 2, Behavior::DontNeed), Ok(()));
        assert_eq!(set(4, 1, Behavior::PageOut), Ok(()));
        assert_eq!(set(2, 6, Behavior::WillNeed), Ok(()));
        assert_eq!(set(2, 6, Behavior::CanReuse), Ok(()));
        assert_eq!(bytes(&p, BASE + 2 * P, 6 * P), pattern(2 * P, 6 * P));
        assert_eq!(t.vm_inherit(a(BASE + 6 * P), n(2 * P), RawInherit(0), &mut may()), Ok(()));
        let child = fork(&p);
        assert_eq!(set(6, 2, Behavior::Zero), Ok(()));
        assert_eq!(bytes(&child, BASE + 6 * P, 2 * P), vec![0; 2 * P as usize], "shared memory too");
        assert_eq!(set(6, 1, Behavior::CanReuse), Err(BehaviorError::NotReusable(va(BASE + 6 * P))));
        protect(&p, BASE + 5 * P, 1, Prot::R);
        assert_eq!(set(5, 1, Behavior::Zero), Err(BehaviorError::Protection(va(BASE + 5 * P))));
        check_quiet(vm, [&p, &child]);
        p.store(BASE + 6 * P, &[7; 2 * P as usize]).expect("writable");
        drop(child);
        assert_eq!(set(6, 2, Behavior::Zero), Ok(()));
        assert_eq!(bytes(&p, BASE + 6 * P, 2 * P), vec![0; 2 * P as usize], "shared no more");
    });
}

#[test]
fn u30_zero_wired_pages_are_zero_for_whoever_sees_them_still() {
    both(64, |vm| {
        let p = filled(vm, 2);
        let t = xnu(&p);
        assert_eq!(t.vm_inherit(a(BASE), n(2 * P), RawInherit(0), &mut may()), Ok(()));
        let child = fork(&p);
        let zero = Behavior::ZeroWiredPages as u32;
        assert_eq!(t.vm_behavior_set(a(BASE), n(P), zero, &mut may()), Ok(()));
        assert_eq!(t.vm_wire(a(BASE), n(2 * P), prot(Prot::RW), true, &mut may()), Ok(()));
        assert_eq!(t.vm_deallocate(a(BASE), n(2 * P), &mut may()), Ok(()));
        assert_eq!(bytes(&child, BASE, P), vec![0; P as usize]);
        assert_eq!(bytes(&child, BASE + P, P), pattern(P, P));
        check_quiet(vm, [&p, &child]);
    });
}
