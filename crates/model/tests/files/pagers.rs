//! What all pagers are asked (G02 to G08), and the default pager (G10, G11).

use machvm::FaultError;
use machvm::fault::{Fault, Step, WaitFor};
use machvm_hal::{Pager, PagerError, RawAddr};

use super::*;

/// Who names the same pager gets the same object (vm_pager_object_lookup); the last reference
/// gives the pager up.
#[test]
fn g02_g03_g04_one_object_for_a_pager() {
    with_file(64, 4 * PAGE, |m, _| {
        let (a, b) = (m.object(), m.object());
        assert_eq!(a, b);
        assert_eq!(m.vm.platform().pager_users(), 1);
        m.vm.object_deallocate(a, &mut may());
        assert_eq!(m.vm.platform().pager_users(), 1);
        m.vm.object_deallocate(b, &mut may());
        assert_eq!(m.vm.platform().pager_users(), 0);
        let c = m.object();
        m.vm.object_deallocate(c, &mut may());
        assert_eq!(m.vm.platform().pager_users(), 0);
    });
}

/// Stores of one task are loads of another, without a system call.
#[test]
fn g13_mappings_of_a_file_are_coherent() {
    with_file(64, 4 * PAGE, |m, data| {
        let (a, b) = (m.task(4), m.task(4));
        for p in 0..4 {
            assert_eq!(page(&b, p), data[p as usize * PAGE..][..PAGE]);
            a.store_word(at(p), p + 100).expect("store");
            assert_eq!(b.load_word(at(p)), Ok(p + 100));
            b.store_word(at(p), p + 200).expect("store");
            assert_eq!(a.load_word(at(p)), Ok(p + 200));
        }
        check_quiet(m.vm, [&a, &b]);
    });
}

/// vm_pager_get_pages_async: requests are under way at once, and end in any order.
#[test]
fn g06_requests_end_in_any_order() {
    with_file(64, 20 * PAGE, |m, data| {
        let t = m.task(20);
        let f = |p: u64| Fault { addr: RawAddr(at(p)), access: Prot::R };
        let mut under_way = Vec::new();
        for p in [0, 9, 4, 17] {
            match t.map.fault_step(&f(p)) {
                Ok(Step::PageIn(_, req)) => under_way.push((p, req)),
                other => panic!("{other:?}"),
            }
        }
        while let Some((p, req)) = under_way.pop() {
            assert!(matches!(t.map.fault_step(&f(p)), Ok(Step::Wait(WaitFor::Page(_)))));
            if p == 4 {
                drop(req); // the pager forgot it: an error, once
                assert_eq!(t.map.fault_step(&f(p)).err(), Some(FaultError::PagerIo(va(p))));
                continue;
            }
            m.file.page_in(req);
            assert!(matches!(t.map.fault_step(&f(p)), Ok(Step::Done)));
        }
        (0..20).for_each(|p| assert_eq!(page(&t, p), data[p as usize * PAGE..][..PAGE]));
        check_quiet(m.vm, [&t]);
    });
}

/// vm_pager_get_pages: the first pages have their contents, the next has an error, and the rest is
/// as if it had never been asked for.
#[test]
fn g05_a_part_of_a_request_may_fail() {
    with_file(64, 12 * PAGE, |m, data| {
        let t = m.task(12);
        m.file.set_bad(7 * PAGE_SIZE, true);
        // Read ahead runs into it: nobody asked for it yet.
        (0..7).for_each(|p| assert_eq!(page(&t, p), data[p as usize * PAGE..][..PAGE]));
        assert_eq!(t.load(at(7), &mut [0]), Err(FaultError::PagerIo(va(7))));
        assert_eq!(page(&t, 8), data[8 * PAGE..9 * PAGE]);
        check_quiet(m.vm, [&t]);
    });
}

/// vm_pager_put_pages: what was refused stays modified, what was taken is clean.
#[test]
fn g07_what_was_refused_stays_modified() {
    with_file(64, 6 * PAGE, |m, _| {
        let t = m.task(6);
        (0..6).for_each(|p| t.store_word(at(p), p + 1).expect("store"));
        let inject = m.vm.platform().inject();
        inject.arm(machvm_model::Point::PageOut as u32, 3, false);
        let refused = t.map.sync(pages(0, 6), false, &mut may());
        inject.disarm();
        assert_eq!(refused, Err(machvm::map::SyncError::Pager(va(0), PagerError::Io)));
        assert_eq!(m.file.writes(), 5);
        t.map.sync(pages(0, 6), false, &mut may()).expect("sync");
        assert_eq!(m.file.writes(), 6, "only the one that was refused");
        for p in 0..6 {
            assert_eq!(m.file.bytes()[p * PAGE], p as u8 + 1);
        }
        check_quiet(m.vm, [&t]);
    });
}

/// The default pager: anonymous memory has no backing store until a page must go, and a page
/// that is written again gives its place back (vm_pager_page_unswapped).
#[test]
fn g10_g11_anonymous_memory_gets_its_store_when_it_must() {
    machines(64, |vm| {
        let t = Task::new(vm);
        let a = Attributes::new(Prot::RW);
        t.map.insert(pages(0, 32), Backing::Anonymous, &a, &mut may()).expect("insert");
        let swap = vm.platform().mem_swap().expect("this machine has swap");
        (0..32).for_each(|p| t.store_word(at(p), p + 1).expect("store"));
        assert_eq!((swap.kept(), vm.statistics().swapouts), (0, 0));
        while vm.pageout(64, &mut may()) != 0 {}
        let gone = swap.kept();
        assert!(gone >= 24 && vm.live()[0] as usize + gone == 32, "{gone}");
        (0..32).for_each(|p| assert_eq!(t.load_word(at(p)), Ok(p + 1)));
        assert_eq!(swap.kept(), gone, "a page that was only read keeps its copy");
        (0..32).for_each(|p| t.store_word(at(p), p + 2).expect("store"));
        assert_eq!(swap.kept(), 0, "and one that was written does not");
        check_quiet(vm, [&t]);
    });
}
