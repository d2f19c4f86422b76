//! U14, U15, U17, U18: `vm_read`, `vm_write`, and their forms.

use machvm::task::{Denied, PlaceError, ReadEntry, ReadError, ReadListError, WriteError};
use machvm_hal::Prot;

use crate::*;

#[test]
fn u14_vm_read_maps_a_snapshot() {
    both(200, |vm| {
        let (p, q) = (filled(vm, 8), program(vm));
        let at = xnu(&p).vm_read(a(BASE + 5), n(6 * P), &xnu(&q), &mut may()).expect("read");
        assert_eq!(at % P, 5, "at the same offset in a page");
        (0..8).for_each(|i| p.store_word(BASE + i * P, 1).expect("source"));
        assert_eq!(bytes(&q, at, 6 * P), pattern(5, 6 * P));
        q.store_word(at, 2).expect("the caller may write it");
        assert_eq!(bytes(&p, BASE + 8, 100), pattern(8, 100));
        let (r, i) = xnu(&q).vm_region_basic(a(at), &mut may()).expect("mapped");
        assert_eq!((r.pages(), i.protection, i.max_protection), (7, Prot::RW, Prot::ALL));
        assert_eq!(xnu(&q).vm_deallocate(a(at), n(6 * P), &mut may()), Ok(()), "the caller frees it");
        assert_eq!(q.map.size(&mut may()), 0);
        check_quiet(vm, [&p, &q]);
    });
}

#[test]
fn u14_small_reads_go_through_a_buffer() {
    both(64, |vm| {
        let (p, q) = (filled(vm, 8), program(vm));
        let at = xnu(&p).vm_read(a(BASE + 5), n(P + 17), &xnu(&q), &mut may()).expect("read");
        assert_eq!(
            (at % P, q.map.size(&mut may())),
            (0, 2 * P),
            "at the start of a page, and nothing else with it"
        );
        let mut want = pattern(5, P + 17);
        want.resize(2 * P as usize, 0);
        assert_eq!(bytes(&q, at, 2 * P), want);
        let m3 = as_(&p, MACH3).vm_read(a(BASE + 5), n(17), &as_(&q, MACH3), &mut may()).expect("read");
        assert_eq!((m3 % P, bytes(&q, m3, 17)), (5, pattern(5, 17)));
        check_quiet(vm, [&p, &q]);
    });
}

#[test]
fn u14_vm_read_codes() {
    both(64, |vm| {
        let (p, q) = (filled(vm, 4), program(vm));
        let read = |addr, size| xnu(&p).vm_read(a(addr), n(size), &xnu(&q), &mut may());
        assert_eq!(read(3, 0), Ok(0), "no bytes: no check");
        assert_eq!(read(u64::MAX - 1, 5), Err(ReadError::Wraps(u64::MAX - 1)), "KERN_INVALID_ADDRESS");
        assert_eq!(read(BASE, 1 << 32), Err(ReadError::TooLarge(1 << 32)), "KERN_INVALID_ARGUMENT");
        let hole = ReadError::Source(Denied::Hole(va(BASE + 4 * P)));
        assert_eq!(read(BASE, 5 * P), Err(hole), "KERN_INVALID_ADDRESS");
        protect(&p, BASE + 2 * P, 1, Prot::NONE);
        let denied = ReadError::Source(Denied::Protection(va(BASE + 2 * P)));
        assert_eq!(read(BASE, 4 * P), Err(denied), "KERN_PROTECTION_FAILURE");
        let small = ReadError::Source(Denied::Hole(va(BASE + 2 * P)));
        assert_eq!(read(BASE + 2 * P, 8), Err(small), "KERN_INVALID_ADDRESS through a buffer");
        let limits = machvm::map::Limits { size: P, ..Default::default() };
        q.map.set_limits(limits, &mut may());
        assert!(matches!(read(BASE, 2 * P), Err(ReadError::Place(PlaceError::Limit(_)))), "KERN_NO_SPACE");
        assert_eq!(q.map.size(&mut may()), 0, "Z106: nothing is left");
        check_quiet(vm, [&p, &q]);
    });
}

#[test]
fn u15_vm_write_overwrites_between_tasks() {
    both(200, |vm| {
        let (p, q) = (filled(vm, 8), program(vm));
        fill(&q, BASE + 0x1000_0000, 8);
        let from = BASE + 0x1000_0000;
        for (dst, src, count) in [(0, 0, 4 * P), (7, 7, 3 * P), (9, 5, 3 * P), (P - 3, 0, 6), (0, P, 100)] {
            let mut want = bytes(&p, BASE, 8 * P);
            want[dst as usize..(dst + count) as usize].copy_from_slice(&pattern(src, count));
            let done = xnu(&p).vm_write(a(BASE + dst), &xnu(&q), a(from + src), n(count), &mut may());
            assert_eq!(done, Ok(()));
            assert!(bytes(&p, BASE, 8 * P) == want, "{count} to {dst}");
        }
        assert_eq!(bytes(&q, from, 8 * P), pattern(0, 8 * P));
        check_quiet(vm, [&p, &q]);
    });
}

#[test]
fn u15_vm_write_codes() {
    both(64, |vm| {
        let (p, q) = (filled(vm, 4), filled(vm, 4));
        let write = |dst, src, count| xnu(&p).vm_write(a(dst), &xnu(&q), a(src), n(count), &mut may());
        assert_eq!(write(1, 1, 0), Ok(()));
        // The data: MACH_SEND_INVALID_MEMORY.
        assert_eq!(write(BASE, BASE + 8 * P, 4), Err(WriteError::Data(Denied::Hole(va(BASE + 8 * P)))));
        // KERN_INVALID_ADDRESS.
        let hole = WriteError::Destination(Denied::Hole(va(BASE + 4 * P)));
        assert_eq!(write(BASE + 2 * P, BASE, 3 * P), Err(hole));
        assert_eq!(write(u64::MAX, BASE, 2), Err(WriteError::Wraps(u64::MAX)));
        protect(&p, BASE + P, 1, Prot::R);
        let denied = WriteError::Destination(Denied::Protection(va(BASE + P)));
        assert_eq!(write(BASE, BASE, 3 * P), Err(denied), "KERN_PROTECTION_FAILURE");
        let small = WriteError::Destination(Denied::Hole(va(BASE + P)));
        assert_eq!(write(BASE + P, BASE, 8), Err(small), "KERN_INVALID_ADDRESS through a buffer");
        // Mach 3: KERN_INVALID_ARGUMENT.
        let m3 =
            |dst, src, count| as_(&p, MACH3).vm_write(a(dst), &as_(&q, MACH3), a(src), n(count), &mut may());
        assert_eq!(m3(BASE + 1, BASE, P), Err(WriteError::Unaligned(BASE + 1)));
        assert_eq!(m3(BASE, BASE + 1, P), Err(WriteError::Unaligned(BASE + 1)));
        assert_eq!(m3(BASE, BASE, 5), Err(WriteError::Unaligned(5)));
        assert_eq!(m3(BASE, BASE, P), Ok(()));
        // Z102: nothing was written where something was refused.
        assert_eq!(bytes(&p, BASE, 4 * P), pattern(0, 4 * P));
    });
}

#[test]
fn u15_bytes_from_nowhere_and_write_only_memory() {
    both(64, |vm| {
        let p = filled(vm, 4);
        protect(&p, BASE + P, 1, Prot::W);
        let data = [0xee; 3000];
        assert_eq!(xnu(&p).vm_write_bytes(a(BASE + P - 1000), &data, &mut may()), Ok(()));
        let mut want = pattern(0, 4 * P);
        want[P as usize - 1000..P as usize + 2000].fill(0xee);
        protect(&p, BASE + P, 1, Prot::RW);
        assert!(bytes(&p, BASE, 4 * P) == want);
        let e = xnu(&p).vm_write_bytes(a(BASE + 4 * P - 1), &data, &mut may());
        assert_eq!(e, Err(WriteError::Destination(Denied::Hole(va(BASE + 4 * P)))));
        assert!(bytes(&p, BASE, 4 * P) == want, "nothing was written");
    });
}

#[test]
fn u17_vm_read_overwrite_between_and_within_tasks() {
    both(200, |vm| {
        let (p, q) = (filled(vm, 8), filled(vm, 8));
        for (src, dst, size) in [(0, 0, 8 * P), (3, 5, 5 * P), (P, P + 9, 20), (40, 40, 7 * P)] {
            let done = xnu(&p).vm_read_overwrite(a(BASE + src), n(size), &xnu(&q), a(BASE + dst), &mut may());
            assert_eq!(done, Ok(size));
            assert_eq!(bytes(&q, BASE + dst, size), pattern(src, size));
        }
        let within = xnu(&p).vm_read_overwrite(a(BASE), n(4 * P), &xnu(&p), a(BASE + 1000), &mut may());
        assert_eq!(within, Ok(4 * P));
        assert_eq!(bytes(&p, BASE + 1000, 4 * P), pattern(0, 4 * P));
        let e = xnu(&p).vm_read_overwrite(a(BASE), n(2 * P), &xnu(&q), a(BASE + 7 * P), &mut may());
        assert_eq!(e, Err(ReadError::Destination(Denied::Hole(va(BASE + 8 * P)))));
        let e = xnu(&p).vm_read_overwrite(a(BASE + 8 * P), n(P), &xnu(&q), a(BASE), &mut may());
        assert_eq!(e, Err(ReadError::Source(Denied::Hole(va(BASE + 8 * P)))));
        check_quiet(vm, [&p, &q]);
    });
}

#[test]
fn u18_vm_read_list_stops_at_the_first_failure() {
    both(64, |vm| {
        let (p, q) = (filled(vm, 4), program(vm));
        let e = |address, size| ReadEntry { address, size };
        let mut list = [e(BASE, 10), e(BASE + P, 2 * P), e(BASE + 9 * P, 1), e(BASE, 1)];
        let hole = ReadError::Source(Denied::Hole(va(BASE + 9 * P)));
        let done = xnu(&p).vm_read_list(&mut list, &xnu(&q), &mut may());
        assert_eq!(done, Err(ReadListError::Entry(2, hole)));
        assert_eq!(bytes(&q, list[0].address, 10), pattern(0, 10));
        assert_eq!(bytes(&q, list[1].address, 2 * P), pattern(P, 2 * P));
        assert_eq!((list[2].address, list[3].address), (0, 0));
        let mut many = [e(BASE, 1); 257];
        let done = xnu(&p).vm_read_list(&mut many, &xnu(&q), &mut may());
        assert_eq!(done, Err(ReadListError::TooMany(257)), "KERN_INVALID_ARGUMENT");
    });
}

#[test]
fn u14_pager_backed_memory_is_read_as_of_now() {
    both(200, |vm| {
        let (id, file) = vm.platform().add_pager(pattern(0, 8 * P));
        let shared = machvm::task::MemoryEntry::of_pager(vm, id, 8 * P, Prot::RW, &mut may()).expect("entry");
        let (p, q) = (program(vm), program(vm));
        let source = machvm::task::MapSource::Entry(&shared, 0);
        let rw = (prot(Prot::RW), prot(Prot::RW), COPY);
        let at = xnu(&p).vm_map(a(0), n(8 * P), 0, ANYWHERE, &source, false, rw, &mut may()).expect("map");
        let read = xnu(&p).vm_read(a(at), n(4 * P), &xnu(&q), &mut may()).expect("read");
        // The file changes behind what was read.
        p.store(at, &[0xcc; 100]).expect("writable");
        assert_eq!(xnu(&p).vm_msync(a(at), n(8 * P), 2 | 4, &mut may()), Ok(()), "written and forgotten");
        assert_eq!(file.bytes()[..100], [0xcc; 100]);
        assert_eq!(bytes(&q, read, 4 * P), pattern(0, 4 * P), "the copy is of before");
        drop((p, q, shared));
        assert_eq!(vm.platform().pager_users(), 0);
    });
}
