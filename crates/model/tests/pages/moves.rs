//! P19 to P28: queues, advice, dirty and valid.

use machvm::Vm;
use machvm::map::{Attributes, Backing};
use machvm::object::Object;
use machvm::page::{GrabFlags, PageAdvice, PageQueue, PsTest, Request, StayError, Wait};
use machvm_arena::Handle;
use machvm_hal::{PhysMem, Pindex, Pmap, Prot, Va};
use machvm_model::{Machine, Task};

use crate::*;

/// The queue of a page.
fn queue(vm: &Vm<Machine>, o: Handle<Object>, index: u64) -> Option<PageQueue> {
    let r = vm.vm_page_lookup(o, Pindex(index), &mut may())?;
    vm.vm_page_queue(r.page)
}

// vm_page_deactivate(9), vm_page_activate, vm_page_launder.
#[test]
fn p19_p20_pages_move_between_queues() {
    both(64, |vm| {
        let (o, i) = object(vm, 4);
        let t = shows(vm, o, i, 4);
        (0..3).for_each(|p| t.store_word(at(p), p + 1).expect("store"));
        let page = |n: u64| vm.vm_page_tryxbusy(o, Pindex(i + n), &mut may()).expect("page");
        let is = |n: u64| queue(vm, o, i + n);
        assert_eq!(is(0), Some(PageQueue::Active));
        page(0).deactivate(&mut may());
        page(1).launder(&mut may());
        page(2).unswappable(&mut may());
        let want = [PageQueue::Inactive, PageQueue::Laundry, PageQueue::Unswappable].map(Some);
        assert_eq!([is(0), is(1), is(2)], want);
        let s = vm.statistics();
        assert_eq!((s.inactive, s.laundry, s.unswappable), (1, 1, 1));
        // A use of what was set aside calls it back: it was unmapped.
        assert_eq!(t.load_word(at(0)), Ok(1));
        assert_eq!(is(0), Some(PageQueue::Active));
        let mut x = page(1);
        x.requeue();
        assert_eq!(x.queue(), Some(PageQueue::Laundry));
        x.activate();
        drop(x);
        assert_eq!(is(1), Some(PageQueue::Active));
        (0..3).for_each(|p| assert_eq!(t.load_word(at(p)), Ok(p + 1)));
        end(vm, o);
    });
}

// vm_page_deactivate_noreuse: freed before what was set aside earlier; deactivating cleans nothing.
#[test]
fn p19_noreuse_goes_first_and_modified_pages_are_written() {
    both(64, |vm| {
        let (_, o) = file(vm, 40);
        for n in 0..36 {
            drop(vm.vm_page_grab_valid(o, Pindex(n), GrabFlags::empty(), &mut may()).expect("page"));
        }
        let page = |n: u64| vm.vm_page_tryxbusy(o, Pindex(n), &mut may()).expect("page");
        (0..35).for_each(|n| page(n).deactivate(&mut may()));
        page(35).deactivate_noreuse(&mut may());
        assert!(vm.pageout(1, &mut may()) > 0);
        assert_eq!(vm.vm_page_lookup(o, Pindex(35), &mut may()), None, "it was the first");
        let mut x = vm.vm_page_grab_valid(o, Pindex(38), GrabFlags::empty(), &mut may()).expect("page");
        x.write(0, &77u64.to_le_bytes(), &mut may()).expect("write");
        x.deactivate(&mut may());
        assert!(x.test_dirty());
        drop(x);
        while vm.pageout(1000, &mut may()) != 0 {}
        assert_eq!(vm.vm_page_lookup(o, Pindex(38), &mut may()), None);
        let x = vm.vm_page_grab_valid(o, Pindex(38), GrabFlags::empty(), &mut may()).expect("page");
        assert_eq!(word_of!(x), 77, "written before it was freed");
        drop(x);
        end(vm, o);
    });
}

#[test]
fn p19_a_referenced_page_stays() {
    both(64, |vm| {
        let (o, i) = object(vm, 2);
        for n in 0..2 {
            let req = Request::NORMAL.zeroed();
            let mut x = vm.vm_page_alloc(o, Pindex(i + n), req, &mut may()).expect("page");
            x.deactivate(&mut may());
            if n == 0 {
                x.reference();
            }
        }
        assert_eq!(vm.pageout(1, &mut may()), 1);
        assert!(vm.vm_page_lookup(o, Pindex(i), &mut may()).is_some(), "used since it was set aside");
        assert_eq!(vm.vm_page_lookup(o, Pindex(i + 1), &mut may()), None);
        end(vm, o);
    });
}

// vm_page_advise(). Z58: contents of copies are not thrown away.
#[test]
fn p21_z58_advice() {
    both(64, |vm| {
        let (a, b) = shared_by_copy(vm);
        a.0.store_word(at(1), 5).expect("store");
        let page = |n: u64| vm.vm_page_tryxbusy(a.1, Pindex(a.2 + n), &mut may()).expect("page");
        page(1).advise(PageAdvice::DontNeed, &mut may());
        assert_eq!(queue(vm, a.1, a.2 + 1), Some(PageQueue::Laundry));
        page(1).advise(PageAdvice::WillNeed, &mut may());
        assert_eq!(queue(vm, a.1, a.2 + 1), Some(PageQueue::Active));
        let mut x = page(1);
        x.advise(PageAdvice::Free, &mut may());
        assert!(!x.test_dirty());
        drop(x);
        page(0).advise(PageAdvice::Free, &mut may());
        while vm.pageout(1000, &mut may()) != 0 {}
        assert_eq!(a.0.load_word(at(1)), Ok(0), "thrown away");
        assert_eq!((a.0.load_word(at(0)), b.load_word(at(0))), (Ok(11), Ok(11)), "shared: kept");
        end(vm, a.1);
    });
}

// vm_page_bits(9), of whole pages; Z75.
#[test]
fn p22_z75_dirty_bits() {
    both(64, |vm| {
        let (o, i) = object(vm, 2);
        let t = shows(vm, o, i, 2);
        let page = || vm.vm_page_tryxbusy(o, Pindex(i), &mut may()).expect("page");
        drop(vm.vm_page_alloc(o, Pindex(i), Request::NORMAL.zeroed(), &mut may()).expect("page"));
        let mut x = page();
        assert!(!x.test_dirty());
        assert!(!x.set_dirty() && x.set_dirty() && x.test_dirty());
        x.undirty();
        assert!(!x.test_dirty());
        drop(x);
        t.store_word(at(0), 1).expect("store");
        let mut x = page();
        x.undirty(); // the pmap knows better
        assert!(x.test_dirty());
        assert!(x.clear_dirty(&mut may()));
        assert!(!x.clear_dirty(&mut may()) && !x.test_dirty());
        drop(x);
        // Every write after that is noticed.
        t.store_word(at(0), 2).expect("store");
        assert!(page().test_dirty());
        end(vm, o);
    });
}

#[test]
fn p23_valid_as_a_whole() {
    both(64, |vm| {
        let (_, o) = file(vm, 4);
        let mut x = vm.vm_page_grab_valid(o, Pindex(1), GrabFlags::empty(), &mut may()).expect("page");
        x.write(0, &9u64.to_le_bytes(), &mut may()).expect("write");
        assert!(x.set_invalid(&mut may()));
        assert!(!x.is_valid());
        drop(x);
        let x = vm.vm_page_grab_valid(o, Pindex(1), GrabFlags::empty(), &mut may()).expect("page");
        assert_eq!(word_of!(x), 2, "the pager's again");
        drop(x);
        let mut x = vm.vm_page_alloc(o, Pindex(2), Request::NORMAL, &mut may()).expect("page");
        x.zero_invalid();
        assert!(x.is_valid() && word_of!(x) == 0);
        x.set_validclean(&mut may());
        assert!(x.is_valid() && !x.test_dirty());
        drop(x);
        // Copies keep what is shared.
        let (a, b) = shared_by_copy(vm);
        let mut x = vm.vm_page_tryxbusy(a.1, Pindex(a.2), &mut may()).expect("page");
        assert!(!x.set_invalid(&mut may()) && x.is_valid());
        drop(x);
        assert_eq!((a.0.load_word(at(0)), b.load_word(at(0))), (Ok(11), Ok(11)));
        drop((a.0, b));
        end(vm, a.1);
        end(vm, o);
    });
}

// vm_page_ps_test(): over a superpage.
#[test]
fn p24_questions_about_a_superpage() {
    both(2048, |vm| {
        let t = Task::new(vm);
        let first = 512 - BASE % 512;
        t.map
            .insert(pages(first, 512), Backing::Anonymous, &Attributes::new(Prot::RW), &mut may())
            .expect("insert");
        (0..511).for_each(|p| t.store_word(at(first + p), p).expect("store"));
        let mut of = None;
        t.map.for_each_entry(|e| of = e.object.or(of), &mut may());
        let o = of.expect("an object");
        let start = vm.vm_page_find_least(o, Pindex(0), &mut may()).expect("resident").index;
        let ask = |what| vm.vm_page_ps_test(o, start, what, None, &mut may());
        let all = PsTest::ALL_VALID | PsTest::NONE_BUSY;
        t.load_word(at(first + 511)).expect("load");
        assert!(!vm.vm_page_ps_test(o, Pindex(start.0 + 600), all, None, &mut may()), "nothing is there");
        if is_sparse(vm) {
            return; // frames are in order, but superpages are Linux's affair
        }
        let whole = vm.statistics().reservations == 1;
        assert_eq!(ask(all), whole);
        if whole {
            let x = vm.vm_page_tryxbusy(o, Pindex(start.0 + 7), &mut may()).expect("page");
            assert!(!ask(PsTest::NONE_BUSY) && ask(PsTest::ALL_VALID));
            assert!(vm.vm_page_ps_test(o, start, PsTest::NONE_BUSY, Some(Pindex(start.0 + 7)), &mut may()));
            drop(x);
            let mut x = vm.vm_page_tryxbusy(o, Pindex(start.0 + 9), &mut may()).expect("page");
            x.clear_dirty(&mut may());
            drop(x);
            assert!(!ask(PsTest::ALL_DIRTY));
        }
    });
}

// vm_page_try_remove_all(), vm_page_try_remove_write(); Z78.
#[test]
fn p25_z78_mappings_go_unless_it_is_wired() {
    both(64, |vm| {
        let (o, i) = object(vm, 2);
        let t = shows(vm, o, i, 2);
        t.store_word(at(0), 1).expect("store");
        let mapped =
            || t.map.pmap().extract(vm.page_array(), Va::from_page(BASE)).map(|(_, r)| r.contains(Prot::W));
        let page = || vm.vm_page_tryxbusy(o, Pindex(i), &mut may()).expect("page");
        assert_eq!(mapped(), Some(true));
        assert!(page().try_remove_write(&mut may()));
        assert_eq!(mapped(), Some(false));
        assert!(page().try_remove_all(&mut may()));
        assert_eq!(mapped(), None);
        t.map.wire_page(Va::from_page(BASE), &mut may()).expect("wire");
        assert!(!page().try_remove_all(&mut may()) && !page().try_remove_write(&mut may()));
        assert_eq!(mapped(), Some(true));
        assert!(vm.vm_page_wired(page().number()));
        t.map.unwire_page(Va::from_page(BASE), &mut may());
        assert!(!vm.vm_page_wired(page().number()));
        end(vm, o);
    });
}

// vm_page_readahead_finish().
#[test]
fn p28_what_was_read_ahead_is_inactive_or_gone() {
    both(64, |vm| {
        let (_, o) = file(vm, 4);
        let x = vm.vm_page_grab_valid(o, Pindex(0), GrabFlags::empty(), &mut may()).expect("page");
        x.readahead_finish(&mut may());
        assert_eq!(queue(vm, o, 0), Some(PageQueue::Inactive));
        let x = vm.vm_page_grab(o, Pindex(1), GrabFlags::empty(), &mut may()).expect("page");
        x.readahead_finish(&mut may());
        assert_eq!(vm.vm_page_lookup(o, Pindex(1), &mut may()), None);
        end(vm, o);
    });
}

// vm_page_wire(9), vm_page_unwire, vm_page_release; Z60: the page outlives its object.
#[test]
fn p16_p17_p18_z60_wired_pages_stay() {
    both(64, |vm| {
        let (o, i) = object(vm, 4);
        let t = shows(vm, o, i, 4);
        (0..3).for_each(|p| t.store_word(at(p), p + 1).expect("store"));
        let wire = |n: u64| {
            let mut x = vm.vm_page_grab(o, Pindex(i + n), GrabFlags::empty(), &mut may()).expect("page");
            x.wire(&mut may()).expect("wire")
        };
        let (a, b, c) = (wire(0), wire(0), wire(1));
        assert_eq!((a.number(), a.pfn()), (b.number(), b.pfn()));
        assert!(vm.vm_page_wired(a.number()));
        while vm.pageout(1000, &mut may()) != 0 {}
        let there = |n: u64| vm.vm_page_lookup(o, Pindex(i + n), &mut may()).map(|r| r.page);
        assert_eq!((there(0), there(1), there(2)), (Some(a.number()), Some(c.number()), None));
        // Nothing takes it from its place.
        let x = vm.vm_page_tryxbusy(o, Pindex(i), &mut may()).expect("page");
        let (why, x) = x.remove(&mut may()).expect_err("wired");
        assert_eq!(why, StayError::Wired);
        drop(x);
        a.unwire(PageQueue::Inactive, &mut may());
        assert_ne!(queue(vm, o, i), Some(PageQueue::Inactive), "not the last");
        b.unwire(PageQueue::Inactive, &mut may());
        assert_eq!(queue(vm, o, i), Some(PageQueue::Inactive));
        assert!(!vm.vm_page_wired(there(0).expect("resident")));
        let d = wire(0);
        d.release(&mut may());
        assert_eq!(queue(vm, o, i), Some(PageQueue::Laundry), "modified: written first");
        // The object ends; the page does not.
        drop(t);
        end(vm, o);
        assert_eq!(vm.live(), [1, 0, 0, 0, 0, 0]);
        c.unwire(PageQueue::Active, &mut may());
        assert_eq!(vm.live(), [0; 6]);
    });
}

#[test]
fn p16_shared_pages_are_grabbed_before_they_are_wired() {
    both(64, |vm| {
        let (a, b) = shared_by_copy(vm);
        let mut x = vm.vm_page_tryxbusy(a.1, Pindex(a.2), &mut may()).expect("page");
        assert_eq!(x.wire(&mut may()).map(drop), Err(StayError::Gone));
        drop(x);
        let mut x = vm.vm_page_grab(a.1, Pindex(a.2), GrabFlags::empty(), &mut may()).expect("page");
        let mut w = x.wire(&mut may()).expect("wire");
        drop(x);
        // What is written through the wiring is the object's, and in no copy made meanwhile.
        let later = vm.vm_object_shadow(a.1, &mut may()).expect("shadow");
        vm.mem().write(w.pfn(), 0, &12u64.to_le_bytes());
        w.written();
        assert_eq!((a.0.load_word(at(0)), b.load_word(at(0))), (Ok(12), Ok(11)));
        let s = vm.vm_page_grab_shared(later, Pindex(a.2), GrabFlags::empty(), &mut may()).expect("page");
        assert_eq!(word_of!(s), 11);
        drop((s, w));
        end(vm, later);
        while vm.pageout(1000, &mut may()) != 0 {}
        assert_eq!(a.0.load_word(at(0)), Ok(12), "modified");
        end(vm, a.1);
    });
}

#[test]
fn p06_p16_an_inserted_page_is_wired_where_its_place_is() {
    both(64, |vm| {
        let (o, i) = object(vm, 4);
        let mut l = vm.vm_page_alloc_noobj(Request::NORMAL.zeroed(), &mut may()).expect("page");
        l.write(0, &9u64.to_le_bytes()).expect("write");
        let mut x = vm.vm_page_insert(l, o, Pindex(i), &mut may()).expect("insert");
        let w = x.wire(&mut may()).expect("wire");
        assert_eq!(word_of!(x), 9);
        drop(x);
        let t = shows(vm, o, i, 4);
        t.store_word(at(0), 10).expect("store");
        let r = vm.vm_page_lookup(o, Pindex(i), &mut may()).expect("resident");
        assert_eq!(r.page, w.number(), "no fault moved it");
        drop(w);
        end(vm, o);
    });
}

// vm_wait, vm_page_count_min, and targets.
#[test]
fn p29_waiting_for_memory() {
    both(64, |vm| {
        vm.vm_wait(&mut may()); // there is some: at once
        assert!(!vm.vm_page_count_min() && !vm.memory_is_low());
        let held: Vec<_> = (0..64)
            .map_while(|_| vm.vm_page_alloc_noobj(Request::NORMAL.waiting(Wait::No), &mut may()).ok())
            .collect();
        assert_eq!(held.len(), 64);
        assert!(vm.vm_page_count_min() && vm.vm_page_count_severe() && vm.memory_is_low());
        vm.pagedaemon_wakeup();
        let waits = || vm.vm_wait(&mut may());
        let frees = move || {
            (0..20).for_each(|_| vm.host().preempt());
            drop(held);
        };
        vm.host().set_preemption(2);
        vm.host().run_scheduled(vec![Box::new(waits), Box::new(frees)]);
        vm.host().set_preemption(0);
        assert!(!vm.vm_page_count_min());
    });
}
