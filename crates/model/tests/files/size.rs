//! Files that shrink and grow under their mappings (G13 `vnode_pager_setsize`).

use machvm::FaultError;
use machvm::map::{Holes, SyncHow, Wiring};

use super::*;

/// vnode_pager_setsize(9): pages behind the end go, from every mapping, written or not; the rest
/// of the last page is zero. mmap(2): what is behind the end is SIGBUS.
#[test]
fn g13_what_is_cut_off_goes_from_every_mapping() {
    with_file(256, 20 * PAGE + 100, |m, data| {
        let (a, b) = (m.task(24), m.task(24));
        for p in 0..21 {
            assert_eq!(page(&a, p)[..100], data[p as usize * PAGE..][..100]);
        }
        // Some are modified, in one task or the other; some are mapped in both.
        for p in [0, 5, 6, 11, 20] {
            a.store(at(p) + 8, b"mine").expect("store");
        }
        b.store(at(5) + 200, b"tail").expect("store");
        b.store(at(12), b"gone").expect("store");
        let end = 5 * PAGE as u64 + 100;
        assert_eq!(m.set_size(end), 0, "nothing is wired");
        for t in [&a, &b] {
            for p in 6..24 {
                assert_eq!(t.load(at(p), &mut [0]), Err(FaultError::Beyond(va(p))));
                assert_eq!(t.store(at(p), &[1]), Err(FaultError::Beyond(va(p))));
            }
            let last = page(t, 5);
            assert_eq!(last[8..12], *b"mine");
            assert_eq!(last[12..100], data[5 * PAGE + 12..5 * PAGE + 100]);
            assert!(last[100..].iter().all(|b| *b == 0), "the tail");
            assert_eq!(page(t, 0)[8..12], *b"mine");
        }
        check_quiet(m.vm, [&a, &b]);
        // Only what is in the file is written.
        a.map.sync(pages(0, 24), false, &mut may()).expect("sync");
        let now = m.file.bytes();
        assert_eq!(now.len() as u64, end);
        assert_eq!(now[5 * PAGE + 8..5 * PAGE + 12], *b"mine");
        assert_eq!(now[PAGE..5 * PAGE], data[PAGE..5 * PAGE]);
        // What was cut off does not come back.
        m.set_size(10 * PAGE as u64 + 1);
        for t in [&a, &b] {
            assert_eq!(page(t, 5)[..8], data[5 * PAGE..][..8]);
            assert!(page(t, 5)[100..].iter().all(|b| *b == 0));
            for p in 6..11 {
                assert!(page(t, p).iter().all(|b| *b == 0), "page {p}");
            }
            assert_eq!(t.load(at(11), &mut [0]), Err(FaultError::Beyond(va(11))));
        }
        check_quiet(m.vm, [&a, &b]);
    });
}

/// A clean last page stays clean: its tail differs from nothing that is in the file.
#[test]
fn g13_cutting_writes_nothing() {
    with_file(256, 8 * PAGE, |m, data| {
        let t = m.task(8);
        (0..8).for_each(|p| assert_eq!(page(&t, p), data[p as usize * PAGE..][..PAGE]));
        m.set_size(3 * PAGE as u64 + 7);
        t.map.sync(pages(0, 8), false, &mut may()).expect("sync");
        assert_eq!(m.file.writes(), 0);
        // To a page's end, and to nothing.
        m.set_size(2 * PAGE as u64);
        assert_eq!(page(&t, 1), data[PAGE..2 * PAGE]);
        assert_eq!(t.load(at(2), &mut [0]), Err(FaultError::Beyond(va(2))));
        m.set_size(0);
        assert_eq!(t.load(at(0), &mut [0]), Err(FaultError::Beyond(va(0))));
        let o = m.object();
        assert_eq!(m.vm.vm_object_info(o, &mut may()).resident, 0);
        m.vm.object_deallocate(o, &mut may());
        check_quiet(m.vm, [&t]);
    });
}

/// Wired pages cannot go (Z78): they stay, and are zero.
#[test]
fn g13_wired_pages_behind_the_end_are_zero() {
    with_file(256, 8 * PAGE, |m, data| {
        let t = m.task(8);
        t.map.wire(pages(4, 2), Wiring::User, Holes::Refuse, &mut may()).expect("wire");
        t.store(at(5), b"dear").expect("store");
        assert_eq!(m.set_size(2 * PAGE as u64 + 9), 2);
        for p in [4, 5] {
            assert!(page(&t, p).iter().all(|b| *b == 0), "page {p}");
        }
        assert_eq!(t.load(at(6), &mut [0]), Err(FaultError::Beyond(va(6))));
        // Nobody is told that they cannot be written.
        t.map.sync(pages(0, 8), false, &mut may()).expect("sync");
        assert_eq!(m.file.bytes(), data[..2 * PAGE + 9]);
        check_quiet(m.vm, [&t]);
        t.map.unwire(pages(4, 2), Wiring::User, Holes::Refuse, &mut may()).expect("unwire");
        assert_eq!(m.set_size(2 * PAGE as u64 + 9), 0);
        assert_eq!(t.load(at(4), &mut [0]), Err(FaultError::Beyond(va(4))));
        // The wired last page, too, has a tail that is zero.
        t.map.wire(pages(2, 1), Wiring::User, Holes::Refuse, &mut may()).expect("wire");
        t.store(at(2), &[7; PAGE]).expect("store");
        m.set_size(2 * PAGE as u64 + 3);
        assert_eq!(page(&t, 2)[..4], [7, 7, 7, 0]);
        t.map.unwire(pages(2, 1), Wiring::User, Holes::Refuse, &mut may()).expect("unwire");
    });
}

/// Copies keep what they share; what they never had is behind the end for them, too.
#[test]
fn g13_copies_keep_what_they_have() {
    with_file(256, 8 * PAGE, |m, data| {
        let t = m.task(8);
        for p in [1, 4, 6] {
            assert_eq!(page(&t, p)[0], data[p as usize * PAGE]);
        }
        t.store(at(6), b"new").expect("store");
        let o = m.object();
        let copy = m.vm.vm_object_shadow(o, &mut may()).expect("memory");
        m.vm.object_deallocate(o, &mut may());
        let c = Task::new(m.vm);
        let backing = Backing::Shared(copy, Pindex(0));
        c.map.insert(pages(0, 8), backing, &Attributes::new(Prot::RW), &mut may()).expect("insert");
        m.set_size(4 * PAGE as u64 + 10);
        assert_eq!(t.load(at(6), &mut [0]), Err(FaultError::Beyond(va(6))));
        let last = page(&t, 4);
        assert!(last[..10] == data[4 * PAGE..][..10] && last[10..].iter().all(|b| *b == 0));
        assert_eq!(page(&c, 1), data[PAGE..2 * PAGE]);
        assert_eq!(page(&c, 4), data[4 * PAGE..5 * PAGE]);
        assert_eq!(page(&c, 6)[..3], *b"new");
        assert_eq!(c.load(at(5), &mut [0]), Err(FaultError::Beyond(va(5))));
        // Also when nobody told the VM: the copy has the only copy.
        t.store(at(1) + 5, b"shared").expect("store");
        t.map.sync_as(pages(0, 8), SyncHow::START, &mut may()).expect("sync");
        check_quiet(m.vm, [&t, &c]);
    });
}

/// A page that was on its way in when the file was cut does not bring the old bytes.
#[test]
fn g13_pages_on_their_way_are_waited_for() {
    use machvm::fault::{Fault, Step};
    with_file(256, 8 * PAGE, |m, _| {
        let t = m.task(8);
        let f = Fault { addr: machvm_hal::RawAddr(at(5)), access: Prot::R };
        let Ok(Step::PageIn(_, req)) = t.map.fault_step(&f) else { panic!("expected a request") };
        machvm_hal::Pager::page_in(m.file, req);
        // It has the old contents, but nobody mapped it yet.
        m.set_size(5 * PAGE as u64);
        assert_eq!(t.load(at(5), &mut [0]), Err(FaultError::Beyond(va(5))));
        check_quiet(m.vm, [&t]);
    });
}

/// Each request for memory refused in turn, once or for good: what is not done is said, and is done
/// the next time.
#[test]
fn g13_without_memory_it_is_said_and_goes_on() {
    use machvm_model::Point;
    let points = [Point::Object, Point::Zero, Point::Prepare, Point::Table].map(|p| p as u32);
    let points = points.into_iter().fold(0, |all, p| all | p);
    for lasting in [false, true] {
        for k in 1.. {
            let mut fired = 0;
            with_refusals(points, k, lasting, &mut fired);
            if fired == 0 {
                assert!(k > 1, "nothing was ever refused");
                break;
            }
        }
    }
}

fn with_refusals(points: u32, k: u64, lasting: bool, fired: &mut u64) {
    for sparse in [false, true] {
        let vm = Vm::new(Machine::new(Config { sparse, ..Config::default() })).expect("memory");
        let data = content(8 * PAGE);
        let m = Mapped::new(&vm, &data);
        let t = m.task(8);
        (0..8).for_each(|p| t.store(at(p), &[p as u8 + 1]).expect("store"));
        let o = m.object();
        let copy = vm.vm_object_shadow(o, &mut may()).expect("memory");
        vm.object_deallocate(o, &mut may());
        let c = Task::new(&vm);
        let backing = Backing::Shared(copy, Pindex(0));
        c.map.insert(pages(0, 8), backing, &Attributes::new(Prot::RW), &mut may()).expect("insert");
        let end = 4 * PAGE as u64 + 10;
        m.file.set_len(end);
        let o = m.object();
        vm.platform().inject().arm(points, k, lasting);
        let first = vm.vm_object_set_size(o, end, &mut may());
        *fired += vm.platform().inject().disarm();
        if first.is_err() {
            vm.vm_object_set_size(o, end, &mut may()).expect("there is memory");
        }
        vm.object_deallocate(o, &mut may());
        for p in 5..8 {
            assert_eq!(t.load(at(p), &mut [0]), Err(FaultError::Beyond(va(p))), "{k} {lasting}");
        }
        let last = page(&t, 4);
        assert!(last[0] == 5 && last[1..10] == data[4 * PAGE + 1..][..9], "{k} {lasting}");
        assert!(last[10..].iter().all(|b| *b == 0), "{k} {lasting}");
        (0..8).for_each(|p| assert_eq!(page(&c, p)[0], p as u8 + 1, "{k} {lasting}"));
        check_quiet(&vm, [&t, &c]);
    }
}
