//! U05, U06, U09, U10: `vm_map` and memory entries.

use machvm::FaultError;
use machvm::task::{
    Denied, EntryKind, Made, MakeEntryError, MakeFlags, MapSource, MemoryEntry, Personality, PlaceError,
    PurgableError, PurgableState, RawFlags, RawProt, VmFlags, VmMapError,
};
use machvm_hal::Prot;
use machvm_model::{Machine, Task as Program};

use crate::*;

const RW: u32 = 3;

fn make<'vm>(
    p: &Program<'vm>,
    offset: u64,
    size: u64,
    permission: u32,
    parent: Option<&MemoryEntry<'vm, Machine>>,
) -> Result<Made<'vm, Machine>, MakeEntryError> {
    xnu(p).mach_make_memory_entry(size, offset, permission, parent, &mut may())
}
fn entry<'vm>(made: Result<Made<'vm, Machine>, MakeEntryError>) -> MemoryEntry<'vm, Machine> {
    match made {
        Ok(Made::Entry(e, size)) => {
            assert_eq!(e.size(), size);
            e
        }
        other => panic!("{other:?}"),
    }
}
fn map<'vm>(
    p: &Program<'vm>,
    e: &MemoryEntry<'vm, Machine>,
    offset: u64,
    size: u64,
    copy: bool,
    rights: (u32, u32),
) -> Result<u64, VmMapError> {
    map_as((p, XNU), e, offset, size, copy, rights)
}
fn map_as<'vm>(
    (p, how): (&Program<'vm>, &'static Personality),
    e: &MemoryEntry<'vm, Machine>,
    offset: u64,
    size: u64,
    copy: bool,
    rights: (u32, u32),
) -> Result<u64, VmMapError> {
    let rights = (RawProt(rights.0), RawProt(rights.1), COPY);
    as_(p, how).vm_map(a(0), n(size), 0, ANYWHERE, &MapSource::Entry(e, offset), copy, rights, &mut may())
}
fn refused<T: std::fmt::Debug>(r: Result<T, MakeEntryError>) -> MakeEntryError {
    r.expect_err("refused")
}

#[test]
fn u05_vm_map_of_zeroes() {
    both(32, |vm| {
        let p = program(vm);
        let t = xnu(&p);
        let map = |addr, size, mask, flags: RawFlags, cur, max, inh| {
            let rights = (RawProt(cur), RawProt(max), RawInherit(inh));
            t.vm_map(a(addr), n(size), mask, flags, &MapSource::Zero, false, rights, &mut may())
        };
        let at = map(BASE, 2 * P, 0, ANYWHERE, 1, 3, 2).expect("room");
        assert_eq!(at, BASE, "the search goes up from the hint");
        let (r, i) = t.vm_region_basic(a(at), &mut may()).expect("mapped");
        assert_eq!((r.pages(), i.protection, i.max_protection), (2, Prot::R, Prot::RW));
        assert_eq!(i.inheritance, machvm::map::Inherit::None);
        assert_eq!(map(BASE, P, 0, ANYWHERE, 3, 7, 1), Ok(BASE + 2 * P));
        assert_eq!(map(BASE, P, 0x1_ffff, ANYWHERE, 3, 7, 1), Ok(BASE + 0x2_0000), "masks align");
        // KERN_INVALID_ARGUMENT; the flags come first, the size last.
        assert_eq!(map(BASE, 0, 0, RawFlags(0x8000), 9, 1, 9), Err(VmMapError::BadFlags(0x8000)));
        assert_eq!(map(BASE, 0, 0, ANYWHERE, 8, 7, 9), Err(VmMapError::BadProtection(8)));
        assert_eq!(map(BASE, 0, 0, ANYWHERE, 1, 7, 9), Err(VmMapError::BadInheritance(9)));
        assert_eq!(map(BASE, 0, 0, ANYWHERE, 1, 7, 1), Err(VmMapError::BadSize));
        assert_eq!(map(BASE, P, 0, ANYWHERE, 3, 1, 1), Err(VmMapError::BadProtection(3)), "Z14");
        assert_eq!(map(BASE, u64::MAX, 0, FIXED, 3, 7, 1), Err(VmMapError::Wraps(BASE)));
        // KERN_INVALID_OBJECT, when the numbers are good.
        let none = |size| {
            let rights = (RawProt(3), RawProt(7), COPY);
            t.vm_map(a(BASE), n(size), 0, ANYWHERE, &MapSource::NoMemory, false, rights, &mut may())
        };
        assert_eq!((none(0), none(P)), (Err(VmMapError::BadSize), Err(VmMapError::NotMemory)));
        // KERN_INVALID_ADDRESS, KERN_NO_SPACE.
        assert_eq!(map(0, P, 0, FIXED, 3, 7, 1), Err(VmMapError::Place(PlaceError::Outside(va(0)))));
        assert_eq!(map(BASE, P, 0, FIXED, 3, 7, 1), Err(VmMapError::Place(PlaceError::Occupied(va(BASE)))));
        let odd = BASE + 0x10_1000;
        assert_eq!(map(odd, P, 0xffff, FIXED, 3, 7, 1), Err(VmMapError::Place(PlaceError::NoSpace)));
        assert_eq!(
            map(0, P, 0xf000_0000, ANYWHERE, 3, 7, 1),
            Err(VmMapError::Place(PlaceError::BadMask(0xf000_0000)))
        );
        check_quiet(vm, [&p]);
    });
}

#[test]
fn u05_mach3_widens_the_maximum_and_takes_high_masks() {
    both(32, |vm| {
        let p = program(vm);
        let t = as_(&p, MACH3);
        let rights = (prot(Prot::RW), prot(Prot::R), COPY);
        let mask = !0xffff_ffff | 0xffff;
        let at = t.vm_map(a(0), n(P), mask, ANYWHERE, &MapSource::Zero, false, rights, &mut may());
        let at = at.expect("room");
        assert!(at < 1 << 32 && at.is_multiple_of(0x1_0000), "{at:#x}");
        p.store_word(at, 1).expect("what was asked for");
        let (_, i) = t.vm_region_basic(a(at), &mut may()).expect("mapped");
        assert_eq!(i.max_protection, Prot::RW);
    });
}

#[test]
fn u09_plain_entries_share_one_object_and_say_how_much() {
    both(64, |vm| {
        let (p, q) = (filled(vm, 4), program(vm));
        // Another object follows.
        let rights = (prot(Prot::RW), prot(Prot::RW), RawInherit(2));
        let flags = FIXED;
        let next =
            xnu(&p).vm_map(a(BASE + 4 * P), n(4 * P), 0, flags, &MapSource::Zero, false, rights, &mut may());
        assert_eq!(next, Ok(BASE + 4 * P));
        let e = entry(make(&p, BASE + P + 5, 7 * P, RW, None));
        assert_eq!(e.size(), 3 * P, "Z108: up to the end of the first");
        let at = map(&q, &e, 0, 3 * P, false, (3, 3)).expect("room");
        assert_eq!(bytes(&q, at, 3 * P), pattern(P, 3 * P));
        q.store_word(at, 1).expect("writable");
        assert_eq!(p.load_word(BASE + P), Ok(1));
        // The entry keeps the memory when both are gone.
        drop((p, q));
        let q = program(vm);
        let at = map(&q, &e, P, 2 * P, false, (1, 1)).expect("room");
        assert_eq!(bytes(&q, at, 2 * P), pattern(2 * P, 2 * P));
        drop((q, e));
    });
}

#[test]
fn u09_vm_share_spans_objects() {
    both(64, |vm| {
        let (p, q) = (filled(vm, 2), program(vm));
        let rights = (prot(Prot::RW), prot(Prot::RW), RawInherit(2));
        let next =
            xnu(&p).vm_map(a(BASE + 2 * P), n(2 * P), 0, FIXED, &MapSource::Zero, false, rights, &mut may());
        assert_eq!(next, Ok(BASE + 2 * P));
        let e = entry(make(&p, BASE, 4 * P, RW | MakeFlags::VM_SHARE.bits(), None));
        assert_eq!(e.size(), 4 * P);
        let part = (&q, &Personality::FREEBSD);
        let at = map_as(part, &e, P, 3 * P, false, (3, 3)).expect("room");
        p.store_word(BASE + 3 * P, 7).expect("writable");
        assert_eq!(q.load_word(at + 2 * P), Ok(7));
        assert_eq!(bytes(&q, at, P), pattern(P, P));
        let copy = map(&q, &e, 0, 4 * P, true, (3, 3)).expect("room");
        p.store_word(BASE, 8).expect("writable");
        assert_eq!(bytes(&q, copy, 8), pattern(0, 8), "copy = TRUE is a snapshot");
        drop((p, q, e));
    });
}

/// XNU maps what was made of a range as one, whatever part of it is asked for.
#[test]
fn u06_entries_of_ranges_have_no_parts_on_xnu() {
    both(64, |vm| {
        let p = filled(vm, 4);
        let no_purge = Some(PurgableState(0));
        for kind in [MakeFlags::VM_SHARE, MakeFlags::VM_COPY] {
            let e = entry(make(&p, BASE, 4 * P, RW | kind.bits(), None));
            let at = map(&p, &e, P + 5, P, false, (3, 3)).expect("room");
            assert_eq!(bytes(&p, at, 4 * P), pattern(0, 4 * P));
            let (r, _) = xnu(&p).vm_region_basic(a(at), &mut may()).expect("mapped");
            assert_eq!((r.start().get(), r.pages()), (at, 4));
            // KERN_INVALID_ARGUMENT: the part must be one all the same.
            let beyond = map(&p, &e, 3 * P + 5, P, false, (3, 3));
            assert_eq!(beyond, Err(VmMapError::BeyondEntry(3 * P + 5)));
            let permanent = RawFlags((VmFlags::ANYWHERE | VmFlags::PERMANENT).bits());
            let rights = (prot(Prot::RW), prot(Prot::RW), COPY);
            let from = MapSource::Entry(&e, 0);
            let bad = xnu(&p).vm_map(a(0), n(4 * P), 0, permanent, &from, false, rights, &mut may());
            assert_eq!(bad, Err(VmMapError::BadFlags(permanent.0)));
            assert_eq!(refused(make(&p, 0, P, 1, Some(&e))), MakeEntryError::ParentIsCopy);
            assert!(matches!(e.purgable_control(no_purge, &mut may()), Err(PurgableError::NotPurgeable(_))));
            drop(e);
        }
        drop(p);
    });
}

#[test]
fn z110_each_mapping_of_a_copy_entry_is_a_copy() {
    both(64, |vm| {
        let p = filled(vm, 4);
        let e = entry(make(&p, BASE, 4 * P, RW | MakeFlags::VM_COPY.bits(), None));
        p.store_word(BASE, 1).expect("writable");
        let (one, two) = (map(&p, &e, 0, 4 * P, false, (3, 3)), map(&p, &e, 0, 4 * P, false, (3, 3)));
        let (one, two) = (one.expect("room"), two.expect("room"));
        p.store_word(one, 2).expect("writable");
        assert_eq!(bytes(&p, two, 4 * P), pattern(0, 4 * P));
        let child = make(&p, 0, P, 1, Some(&e));
        assert_eq!(refused(child), MakeEntryError::ParentIsCopy, "KERN_INVALID_ARGUMENT");
        drop((p, e));
    });
}

#[test]
fn u09_named_create_and_parents() {
    both(64, |vm| {
        let p = program(vm);
        let create = MakeFlags::NAMED_CREATE.bits();
        assert!(matches!(make(&p, 0, 0, RW | create, None), Ok(Made::Null)), "size 0: KERN_SUCCESS");
        let e = entry(make(&p, 0, 4 * P - 9, RW | create, None));
        assert_eq!((e.size(), e.rights()), (4 * P, Prot::RW));
        let at = map(&p, &e, 0, 4 * P, false, (3, 3)).expect("room");
        p.store(at, &pattern(0, 4 * P)).expect("writable");
        let part = entry(make(&p, P, 2 * P, 1, Some(&e)));
        let child = map(&p, &part, 0, 2 * P, false, (1, 1)).expect("room");
        assert_eq!(bytes(&p, child, 2 * P), pattern(P, 2 * P));
        assert!(matches!(make(&p, 0, 0, 1, Some(&e)), Ok(Made::Null)));
        // Z109: KERN_PROTECTION_FAILURE, unless as much as can be had is enough.
        assert_eq!(refused(make(&p, 0, P, RW, Some(&part))), MakeEntryError::Protection(RW));
        let masked = entry(make(&p, 0, P, 7 | RawProt::IS_MASK, Some(&part)));
        assert_eq!(masked.rights(), Prot::R);
        assert_eq!(refused(make(&p, P, 2 * P, 1, Some(&part))), MakeEntryError::BeyondParent(P));
        // Cache modes change nothing, but need the right.
        let only = MakeFlags::ONLY.bits() | 3 << 24;
        assert!(matches!(make(&p, 0, P, RW | only, Some(&e)), Ok(Made::Parent)));
        assert_eq!(
            refused(make(&p, 0, P, only, Some(&part))),
            MakeEntryError::ParentRight,
            "KERN_INVALID_RIGHT"
        );
        assert_eq!(refused(make(&p, 0, P, only, None)), MakeEntryError::NoParent);
        drop((p, e, part, masked));
    });
}

#[test]
fn u09_codes() {
    both(64, |vm| {
        let p = filled(vm, 2);
        // KERN_INVALID_ARGUMENT.
        assert_eq!(refused(make(&p, BASE, P, 0x8, None)), MakeEntryError::BadFlags(0x8));
        let purge = (MakeFlags::NAMED_CREATE | MakeFlags::PURGABLE).bits() | 1;
        assert_eq!(refused(make(&p, 0, P, purge, None)), MakeEntryError::BadFlags(purge), "cannot write");
        let named = (MakeFlags::NAMED_CREATE | MakeFlags::USE_DATA_ADDR).bits() | 1;
        assert_eq!(refused(make(&p, 0, P, named, None)), MakeEntryError::BadFlags(named));
        assert!(matches!(make(&p, 0, 0, named, None), Ok(Made::Null)), "size 0 comes first");
        // Of two kinds the first counts.
        let two = RW | (MakeFlags::VM_COPY | MakeFlags::VM_SHARE).bits();
        assert_eq!(entry(make(&p, BASE, P, two, None)).kind(), EntryKind::Copy);
        assert_eq!(refused(make(&p, BASE, 0, 1, None)), MakeEntryError::BadSize);
        assert_eq!(refused(make(&p, u64::MAX - 5, 10, 1, None)), MakeEntryError::Wraps(u64::MAX - 5));
        // KERN_INVALID_ADDRESS.
        let hole = MakeEntryError::Source(Denied::Hole(va(BASE + 2 * P)));
        assert_eq!(refused(make(&p, BASE + 2 * P, P, 1, None)), hole);
        let share = 1 | MakeFlags::VM_SHARE.bits();
        assert_eq!(refused(make(&p, BASE, 3 * P, share, None)), hole);
        // KERN_PROTECTION_FAILURE.
        assert_eq!(refused(make(&p, BASE, P, 7, None)), MakeEntryError::Protection(7));
        let masked = entry(make(&p, BASE, P, 7 | RawProt::IS_MASK, None));
        assert_eq!(masked.rights(), Prot::RW);
        let same = make(&p, BASE, P, 7 | RawProt::IS_MASK | MakeFlags::NAMED_REUSE.bits(), Some(&masked));
        assert!(matches!(same, Ok(Made::Parent)), "the same memory again");
        let other = make(&p, BASE + P, P, RW | MakeFlags::NAMED_REUSE.bits(), Some(&masked));
        assert!(matches!(other, Ok(Made::Entry(..))));
        drop(other);
        protect(&p, BASE, 1, Prot::NONE);
        let copy = 1 | MakeFlags::VM_COPY.bits();
        assert_eq!(refused(make(&p, BASE, P, copy, None)), MakeEntryError::Protection(copy));
        drop((p, masked));
    });
}

#[test]
fn u06_entries_limit_what_mappings_may_do() {
    both(64, |vm| {
        let p = filled(vm, 4);
        let e = entry(make(&p, BASE, 4 * P, 1, None));
        // KERN_INVALID_RIGHT; a mask takes what there is.
        assert_eq!(map(&p, &e, 0, P, false, (3, 3)), Err(VmMapError::EntryRight));
        assert_eq!(map(&p, &e, 0, P, false, (1, 7)), Err(VmMapError::EntryRight));
        let at = map(&p, &e, 0, P, false, (7 | RawProt::IS_MASK, 7 | RawProt::IS_MASK)).expect("reduced");
        assert_eq!(p.store_word(at, 1), Err(FaultError::Protection(va(at))));
        // Mach 3 reduces.
        let rights = (prot(Prot::RW), prot(Prot::ALL), COPY);
        let m3 = as_(&p, MACH3).vm_map(
            a(0),
            n(P),
            0,
            ANYWHERE,
            &MapSource::Entry(&e, 0),
            false,
            rights,
            &mut may(),
        );
        let (_, i) = xnu(&p).vm_region_basic(a(m3.expect("reduced")), &mut may()).expect("mapped");
        assert_eq!((i.protection, i.max_protection), (Prot::R, Prot::R));
        // KERN_INVALID_ARGUMENT: the window.
        assert_eq!(map(&p, &e, 5, P, false, (1, 1)), Err(VmMapError::BadOffset(5)));
        assert_eq!(map(&p, &e, 3 * P, 2 * P, false, (1, 1)), Err(VmMapError::BeyondEntry(3 * P)));
        assert_eq!(
            map(&p, &e, 0u64.wrapping_sub(P), 2 * P, false, (1, 1)),
            Err(VmMapError::BeyondEntry(0u64.wrapping_sub(P)))
        );
        // Z123: a copy reads.
        protect(&p, BASE, 4, Prot::W);
        let w = entry(make(&p, BASE, 4 * P, 2, None));
        assert_eq!(map(&p, &w, 0, P, true, (2, 2)), Err(VmMapError::NotReadable), "KERN_PROTECTION_FAILURE");
        let purgable = RawFlags((VmFlags::ANYWHERE | VmFlags::PURGABLE).bits());
        let rights = (prot(Prot::R), prot(Prot::R), COPY);
        let bad =
            xnu(&p).vm_map(a(0), n(P), 0, purgable, &MapSource::Entry(&e, 0), false, rights, &mut may());
        assert_eq!(bad, Err(VmMapError::BadFlags(purgable.0)));
        drop((p, e, w));
    });
}

#[test]
fn u09_data_addresses_survive_the_way() {
    both(64, |vm| {
        let p = filled(vm, 4);
        let data = MakeFlags::USE_DATA_ADDR.bits();
        let e = entry(make(&p, BASE + P - 3, 100, 1 | data, None));
        assert_eq!(e.size(), P + 3, "to the end of the last page");
        let whole = entry(make(&p, BASE + P - 3, 100, 1 | MakeFlags::USE_4K_DATA_ADDR.bits(), None));
        assert_eq!(whole.size(), 2 * P, "4 KiB are a page");
        let rights = (prot(Prot::R), prot(Prot::R), COPY);
        let flags = RawFlags((VmFlags::ANYWHERE | VmFlags::RETURN_DATA_ADDR).bits());
        let at = xnu(&p).vm_map(a(0), n(50), 0, flags, &MapSource::Entry(&e, 10), false, rights, &mut may());
        assert_eq!(bytes(&p, at.expect("room"), 50), pattern(P - 3 + 10, 50));
        let part = entry(make(&p, 20, 30, 1 | data, Some(&e)));
        let at =
            xnu(&p).vm_map(a(0), n(30), 0, flags, &MapSource::Entry(&part, 0), false, rights, &mut may());
        assert_eq!(bytes(&p, at.expect("room"), 30), pattern(P - 3 + 20, 30));
        // Without the flag, offsets of parts count from the first page, too.
        let pages = entry(make(&p, P, P, 1, Some(&e)));
        let at = map(&p, &pages, 0, P, false, (1, 1)).expect("room");
        assert_eq!((pages.size(), bytes(&p, at, P)), (P, pattern(P, P)));
        drop((p, e, part, whole, pages));
    });
}

#[test]
fn u10_pagers_and_internal_objects_behind_entries() {
    both(64, |vm| {
        let (id, file) = vm.platform().add_pager(pattern(0, 4 * P));
        let e = MemoryEntry::of_pager(vm, id, 4 * P, Prot::RW, &mut may()).expect("entry");
        assert!(MemoryEntry::of_pager(vm, id, 0, Prot::RW, &mut may()).is_err(), "KERN_INVALID_ARGUMENT");
        let (p, q) = (program(vm), program(vm));
        let (x, y) = (map(&p, &e, 0, 4 * P, false, (3, 3)), map(&q, &e, P, 2 * P, false, (1, 1)));
        let private = map(&q, &e, 0, 4 * P, true, (3, 3)).expect("room");
        let (x, y) = (x.expect("room"), y.expect("room"));
        p.store_word(x + P, 5).expect("writable");
        assert_eq!(q.load_word(y), Ok(5), "one set of pages");
        q.store_word(private, 6).expect("writable");
        assert_eq!(bytes(&p, x, 8), pattern(0, 8), "a private copy stays private");
        assert_eq!(xnu(&p).vm_msync(a(x), n(4 * P), 2, &mut may()), Ok(()));
        assert_eq!(file.bytes()[P as usize], 5);
        let i = MemoryEntry::internal(vm, 2 * P, Prot::RW, &mut may()).expect("entry");
        let at = map(&p, &i, 0, 2 * P, false, (3, 3)).expect("room");
        assert_eq!(bytes(&p, at, 2 * P), vec![0; 2 * P as usize]);
        drop((p, q, e, i));
        assert_eq!(vm.platform().pager_users(), 0);
    });
}
