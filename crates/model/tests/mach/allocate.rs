//! U01, U02, U04.

use machvm::FaultError;
use machvm::task::{AllocateError, DeallocateError, PlaceError, RawFlags, VmFlags};
use machvm_hal::Prot;

use crate::*;

#[test]
fn u01_vm_allocate_gives_zeroes_that_may_be_written() {
    both(64, |vm| {
        let p = program(vm);
        let at = xnu(&p).vm_allocate(a(0x1234), n(3 * P - 1), ANYWHERE, &mut may()).expect("room");
        assert_eq!(at, p.map.min().get(), "the address is ignored; first fit from low to high");
        assert_eq!(bytes(&p, at, 3 * P), vec![0; 3 * P as usize]);
        p.store_word(at + 3 * P - 8, 5).expect("to the last byte of the rounded size");
        assert_eq!(p.load_word(at + 3 * P), Err(FaultError::NoMapping(va(at + 3 * P))));
        let (r, info) = xnu(&p).vm_region_basic(a(at), &mut may()).expect("a region");
        assert_eq!((r.start().get(), r.pages()), (at, 3));
        assert_eq!((info.protection, info.max_protection), (Prot::RW, Prot::ALL));
        assert_eq!(info.inheritance, machvm::map::Inherit::Copy);
        check_quiet(vm, [&p]);
    });
}

#[test]
fn u01_size_zero_gives_address_zero_after_the_flags() {
    both(8, |vm| {
        let p = program(vm);
        assert_eq!(xnu(&p).vm_allocate(a(7), n(0), FIXED, &mut may()), Ok(0), "KERN_SUCCESS");
        let bad = RawFlags(0x8000);
        let refused = AllocateError::BadFlags(0x8000);
        assert_eq!(xnu(&p).vm_allocate(a(7), n(0), bad, &mut may()), Err(refused), "KERN_INVALID_ARGUMENT");
        let posix = as_(&p, &Personality::POSIX).vm_allocate(a(7), n(0), ANYWHERE, &mut may());
        assert_eq!(posix, Err(AllocateError::BadSize), "EINVAL");
    });
}

#[test]
fn u01_fixed_addresses_and_their_codes() {
    both(8, |vm| {
        let p = program(vm);
        let x = |addr, size| xnu(&p).vm_allocate(a(addr), n(size), FIXED, &mut may());
        assert_eq!(x(BASE, P), Ok(BASE));
        // KERN_NO_SPACE.
        assert_eq!(x(BASE, 1), Err(AllocateError::Place(PlaceError::Occupied(va(BASE)))));
        // KERN_INVALID_ADDRESS: outside, and address 0.
        assert_eq!(x(0, P), Err(AllocateError::Place(PlaceError::Outside(va(0)))));
        let max = p.map.max().get();
        assert_eq!(x(max - P, 2 * P), Err(AllocateError::Place(PlaceError::Outside(p.map.max()))));
        assert_eq!(x(max - P, P), Ok(max - P), "up to the last byte (Z11)");
        // KERN_INVALID_ARGUMENT.
        for (addr, size) in [(u64::MAX, 2), (BASE, u64::MAX), (u64::MAX - 10, 5), (1, u64::MAX - P)] {
            let e = x(addr, size).expect_err("does not fit");
            assert!(
                matches!(e, AllocateError::Wraps(_) | AllocateError::Place(PlaceError::Outside(_))),
                "{e:?}"
            );
        }
        assert_eq!(x(u64::MAX, 2), Err(AllocateError::Wraps(u64::MAX)));
        let any = xnu(&p).vm_allocate(a(0), n(u64::MAX), ANYWHERE, &mut may());
        assert_eq!(any, Err(AllocateError::Wraps(0)), "the rounded size wraps");
        // KERN_NO_SPACE.
        let any = xnu(&p).vm_allocate(a(0), n(max), ANYWHERE, &mut may());
        assert_eq!(any, Err(AllocateError::Place(PlaceError::NoSpace)));
    });
}

#[test]
fn z02_unaligned_fixed_ranges_lose_their_tail_where_programs_see_it() {
    both(8, |vm| {
        let pages_of = |how| {
            let p = program(vm);
            assert_eq!(as_(&p, how).vm_allocate(a(BASE + 0xff0), n(0x20), FIXED, &mut may()), Ok(BASE));
            p.map.size(&mut may()) / P
        };
        assert_eq!(pages_of(MACH3), 1);
        assert_eq!(pages_of(XNU), 1);
        assert_eq!(pages_of(&Personality::FREEBSD), 2);
    });
}

#[test]
fn u02_overwrite_replaces_what_is_there() {
    both(64, |vm| {
        let p = filled(vm, 4);
        let over = RawFlags(VmFlags::OVERWRITE.bits());
        assert_eq!(xnu(&p).vm_allocate(a(BASE + P), n(2 * P), over, &mut may()), Ok(BASE + P));
        assert_eq!(bytes(&p, BASE, P), pattern(0, P));
        assert_eq!(bytes(&p, BASE + P, 2 * P), vec![0; 2 * P as usize]);
        assert_eq!(bytes(&p, BASE + 3 * P, P), pattern(3 * P, P));
        let m3 = as_(&p, MACH3).vm_allocate(a(BASE), n(P), over, &mut may());
        assert_eq!(m3, Err(AllocateError::BadFlags(over.0)), "Mach 3 has no flags but one");
        check_quiet(vm, [&p]);
    });
}

#[test]
fn u02_superpages_are_aligned_and_tags_are_kept() {
    both(8, |vm| {
        let p = program(vm);
        let flags = |f: VmFlags| RawFlags(f.bits());
        let large = flags(VmFlags::SUPERPAGE_2MB | VmFlags::ANYWHERE);
        let at = xnu(&p).vm_allocate(a(0), n(4 << 20), large, &mut may()).expect("room");
        assert_eq!(at % (2 << 20), 0);
        let odd = xnu(&p).vm_allocate(a(0), n(P), large, &mut may());
        assert_eq!(odd, Err(AllocateError::Place(PlaceError::NotSuperpage(P))), "KERN_INVALID_ARGUMENT");
        let fixed = flags(VmFlags::SUPERPAGE_ANY);
        let odd = xnu(&p).vm_allocate(a((32 << 20) + P), n(2 << 20), fixed, &mut may());
        assert_eq!(odd, Err(AllocateError::Place(PlaceError::NotSuperpage((32 << 20) + P))));
        let tagged = xnu(&p).vm_allocate(a(0), n(P), RawFlags(1 | 77 << 24), &mut may()).expect("room");
        let (_, e) = xnu(&p).vm_region_extended(a(tagged), &mut may()).expect("a region");
        assert_eq!(e.user_tag, 77);
    });
}

#[test]
fn u02_permanent_memory_stays_without_rights() {
    both(16, |vm| {
        let p = program(vm);
        fill(&p, BASE, 1);
        let keep = RawFlags(VmFlags::PERMANENT.bits());
        assert_eq!(xnu(&p).vm_allocate(a(BASE + P), n(P), keep, &mut may()), Ok(BASE + P));
        fill(&p, BASE + 2 * P, 1);
        assert_eq!(xnu(&p).vm_deallocate(a(BASE), n(3 * P), &mut may()), Ok(()));
        assert_eq!(p.load_word(BASE), Err(FaultError::NoMapping(va(BASE))));
        assert_eq!(p.load_word(BASE + P), Err(FaultError::Protection(va(BASE + P))));
        assert_eq!(p.load_word(BASE + 2 * P), Err(FaultError::NoMapping(va(BASE + 2 * P))));
        let (_, info) = xnu(&p).vm_region_basic(a(BASE), &mut may()).expect("it is there");
        assert_eq!(info.max_protection, Prot::NONE);
        check_quiet(vm, [&p]);
    });
}

/// Who wants its place takes its rights, and gets nothing; what lies beside it stays.
#[test]
fn u02_permanent_memory_is_not_replaced() {
    type Try = fn(&Program<'_>) -> bool;
    let over = RawFlags(VmFlags::OVERWRITE.bits());
    let occupied = PlaceError::Occupied(va(BASE + P));
    let tries: [Try; 3] = [
        |p| {
            let done = xnu(p).vm_allocate(a(BASE), n(3 * P), RawFlags(VmFlags::OVERWRITE.bits()), &mut may());
            done == Err(AllocateError::Place(PlaceError::Occupied(va(BASE + P))))
        },
        |p| {
            let copy = machvm::task::RawProt(machvm::task::RawProt::COPY | 3);
            let done = xnu(p).vm_protect(a(BASE), n(3 * P), false, copy, &mut may());
            done == Err(machvm::task::VmProtectError::Permanent(va(BASE + P)))
        },
        |p| {
            let (t, over) = (xnu(p), RawFlags(VmFlags::OVERWRITE.bits()));
            let from = a(BASE + 16 * P);
            let inherit = machvm::task::RawInherit(1);
            let done = t.vm_remap(a(BASE), n(3 * P), 0, over, &t, from, true, inherit, &mut may());
            matches!(done, Err(machvm::task::RemapError::Place(PlaceError::Occupied(_))))
        },
    ];
    for again in tries {
        both(64, |vm| {
            let p = program(vm);
            let keep = RawFlags(VmFlags::PERMANENT.bits());
            fill(&p, BASE, 1);
            assert_eq!(xnu(&p).vm_allocate(a(BASE + P), n(P), keep, &mut may()), Ok(BASE + P));
            p.store_word(BASE + P, 7).expect("writable");
            fill(&p, BASE + 2 * P, 1);
            fill(&p, BASE + 16 * P, 3);
            assert!(again(&p));
            assert_eq!(p.load_word(BASE + P), Err(FaultError::Protection(va(BASE + P))));
            assert_eq!(bytes(&p, BASE, P), pattern(0, P));
            assert_eq!(bytes(&p, BASE + 2 * P, P), pattern(0, P));
            let fixed = xnu(&p).vm_allocate(a(BASE + P), n(P), over, &mut may());
            assert_eq!(fixed, Err(AllocateError::Place(occupied)));
            check_quiet(vm, [&p]);
        });
    }
}

#[test]
fn u04_vm_deallocate_covers_pages_and_skips_holes() {
    both(64, |vm| {
        let p = filled(vm, 2);
        fill(&p, BASE + 4 * P, 2);
        let t = xnu(&p);
        assert_eq!(t.vm_deallocate(a(BASE), n(0), &mut may()), Ok(()));
        assert_eq!(t.vm_deallocate(a(BASE + 2 * P), n(2 * P), &mut may()), Ok(()), "Z07: a hole is fine");
        assert_eq!(t.vm_deallocate(a(BASE + 2 * P - 1), n(2 * P + 2), &mut may()), Ok(()));
        assert_eq!(bytes(&p, BASE, P), pattern(0, P));
        assert_eq!(p.load_word(BASE + P), Err(FaultError::NoMapping(va(BASE + P))));
        assert_eq!(p.load_word(BASE + 4 * P), Err(FaultError::NoMapping(va(BASE + 4 * P))));
        assert_eq!(bytes(&p, BASE + 5 * P, P), pattern(P, P));
        let e = t.vm_deallocate(a(u64::MAX - 1), n(2), &mut may());
        assert_eq!(e, Err(DeallocateError::Wraps(u64::MAX - 1)), "KERN_INVALID_ARGUMENT");
        for (at, size) in [(0, u64::MAX), (1, u64::MAX - P + 1), (u64::MAX - 1, 1)] {
            assert_eq!(
                t.vm_deallocate(a(at), n(size), &mut may()),
                Ok(()),
                "Z01: only the end is rounded to 0"
            );
            let fb = as_(&p, &Personality::FREEBSD).vm_deallocate(a(at), n(size), &mut may());
            assert_eq!(fb, Err(DeallocateError::Wraps(at)));
        }
        let m3 = as_(&p, MACH3).vm_deallocate(a(BASE), n(u64::MAX), &mut may());
        assert_eq!(m3, Ok(()), "Z10: what wraps is nothing in Mach 3");
        assert_eq!(bytes(&p, BASE, P), pattern(0, P));
        let none = as_(&p, &Personality::POSIX).vm_deallocate(a(BASE), n(0), &mut may());
        assert_eq!(none, Err(DeallocateError::BadSize), "EINVAL");
        let all = p.map.max().get() - p.map.min().get();
        assert_eq!(t.vm_deallocate(a(p.map.min().get()), n(all), &mut may()), Ok(()));
        assert_eq!(p.map.size(&mut may()), 0, "everything");
        check_quiet(vm, [&p]);
    });
}

#[test]
fn u04_other_sharers_keep_what_is_deallocated() {
    both(64, |vm| {
        let p = filled(vm, 4);
        assert_eq!(xnu(&p).vm_inherit(a(BASE), n(4 * P), machvm::task::RawInherit(0), &mut may()), Ok(()));
        let child = fork(&p);
        assert_eq!(xnu(&p).vm_deallocate(a(BASE), n(4 * P), &mut may()), Ok(()));
        assert_eq!(bytes(&child, BASE, 4 * P), pattern(0, 4 * P));
        check_quiet(vm, [&p, &child]);
    });
}
