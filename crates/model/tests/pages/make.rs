//! P02 to P09: pages made, freed, and in and out of objects.

use machvm::map::{Attributes, Backing};
use machvm::page::{ContentError, NoPage, PlaceError, Request, StayError, Wait};
use machvm_hal::{PAGE_SIZE, Pindex, Prot, Va};
use machvm_model::{Machine, Task};

use crate::*;

// vm_page_alloc(9).
#[test]
fn p02_alloc_puts_a_busy_page_without_contents() {
    both(64, |vm| {
        let (o, i) = object(vm, 8);
        let x = vm.vm_page_alloc(o, Pindex(i), Request::NORMAL, &mut may()).expect("page");
        assert!(!x.is_valid() && vm.vm_page_xbusied(x.number()));
        assert_eq!(x.place(), (o, Pindex(i)));
        assert_eq!(word_err(&x), ContentError::Invalid);
        let again = vm.vm_page_alloc(o, Pindex(i), Request::NORMAL, &mut may());
        assert_eq!(again.map(drop), Err(PlaceError::Present), "the manual panics");
        drop(x); // never valid: gone
        assert_eq!(vm.vm_page_lookup(o, Pindex(i), &mut may()), None);
        let x = vm.vm_page_alloc(o, Pindex(i), Request::NORMAL.zeroed(), &mut may()).expect("page");
        assert!(x.is_valid());
        assert_eq!(word_of!(x), 0);
        drop(x);
        assert!(vm.vm_page_lookup(o, Pindex(i), &mut may()).is_some_and(|r| !r.busy));
        let beyond = vm.vm_page_alloc(o, Pindex(u64::MAX), Request::NORMAL, &mut may());
        assert_eq!(beyond.map(drop), Err(PlaceError::Beyond));
        end(vm, o);
    });
}

fn word_err(x: &machvm::page::XBusy<'_, Machine>) -> ContentError {
    x.read(0, &mut [0; 8]).expect_err("no contents")
}

#[test]
fn p02_what_is_written_is_what_programs_find() {
    both(64, |vm| {
        let (o, i) = object(vm, 8);
        let t = shows(vm, o, i, 8);
        let mut x = vm.vm_page_alloc(o, Pindex(i + 3), Request::NORMAL.zeroed(), &mut may()).expect("page");
        x.write(16, &7u64.to_le_bytes(), &mut may()).expect("write");
        let outside = x.write(PAGE_SIZE as usize - 7, &[0; 8], &mut may());
        assert_eq!(outside, Err(ContentError::Outside));
        drop(x);
        assert_eq!(t.load_word(at(3) + 16), Ok(7));
        // Written is dirty: it survives paging out.
        while vm.pageout(1000, &mut may()) != 0 {}
        assert_eq!(t.load_word(at(3) + 16), Ok(7));
        end(vm, o);
    });
}

// VM_ALLOC_NORMAL, SYSTEM, INTERRUPT; WAITOK, WAITFAIL, NOWAIT.
#[test]
fn p02_classes_and_waiting() {
    both(32, |vm| {
        vm.set_frame_reserve(8);
        let take = |r: Request| vm.vm_page_alloc_noobj(r, &mut may());
        let mut held: Vec<_> =
            (0..24).map(|_| take(Request::NORMAL.waiting(Wait::No)).expect("page")).collect();
        assert_eq!(take(Request::NORMAL.waiting(Wait::No)).map(drop), Err(NoPage));
        // Nothing can be paged out: waiting ends, too.
        assert_eq!(take(Request::NORMAL.waiting(Wait::Fail)).map(drop), Err(NoPage));
        assert_eq!(take(Request::NORMAL).map(drop), Err(NoPage));
        held.extend((0..6).map(|_| take(Request::SYSTEM).expect("two are left")));
        assert_eq!(take(Request::SYSTEM).map(drop), Err(NoPage));
        held.extend((0..2).map(|_| take(Request::INTERRUPT).expect("the last")));
        assert_eq!(take(Request::INTERRUPT).map(drop), Err(NoPage));
        assert!(vm.vm_page_count_min() && vm.vm_page_count_severe());
        drop(held);
        assert!(!vm.vm_page_count_min() && !vm.vm_page_count_severe());
        // Pages of programs are paged out for who waits.
        let t = Task::new(vm);
        t.map
            .insert(pages(0, 64), Backing::Anonymous, &Attributes::new(Prot::RW), &mut may())
            .expect("insert");
        (0..64).for_each(|p| t.store_word(at(p), p).expect("store"));
        let held: Vec<_> = (0..12).map(|_| take(Request::NORMAL).expect("page")).collect();
        drop(held);
        (0..64).for_each(|p| assert_eq!(t.load_word(at(p)), Ok(p)));
    });
}

// vm_page_alloc_noobj(9).
#[test]
fn p04_pages_of_no_object() {
    both(64, |vm| {
        let before = vm.live()[0];
        let mut a = vm.vm_page_alloc_noobj(Request::NORMAL, &mut may()).expect("page");
        let b = vm.vm_page_alloc_noobj(Request::NORMAL.zeroed(), &mut may()).expect("page");
        assert_ne!(a.pfn(), b.pfn());
        assert!(!a.is_valid() && b.is_valid());
        assert_eq!(word_of!(b), 0);
        a.write(0, &5u64.to_le_bytes()).expect("write");
        a.set_valid();
        assert_eq!(word_of!(a), 5);
        assert_eq!(a.write(4090, &[0; 7]), Err(ContentError::Outside));
        assert_eq!(vm.live()[0], before + 2);
        drop((a, b));
        assert_eq!(vm.live()[0], before);
    });
}

// vm_page_free(9).
#[test]
fn p05_free_takes_the_page_and_its_mappings() {
    both(64, |vm| {
        let (o, i) = object(vm, 4);
        let t = shows(vm, o, i, 4);
        t.store_word(at(0), 1).expect("store");
        let x = vm.vm_page_tryxbusy(o, Pindex(i), &mut may()).expect("page");
        x.free(&mut may()).expect("free");
        assert_eq!(vm.vm_page_lookup(o, Pindex(i), &mut may()), None);
        assert_eq!(t.load_word(at(0)), Ok(0), "contents are gone");
        // Wired pages stay.
        t.map.wire_page(Va::from_page(BASE), &mut may()).expect("wire");
        let x = vm.vm_page_tryxbusy(o, Pindex(i), &mut may()).expect("page");
        let (why, x) = x.free(&mut may()).expect_err("wired");
        assert_eq!(why, StayError::Wired);
        drop(x);
        t.map.unwire_page(Va::from_page(BASE), &mut may());
        end(vm, o);
    });
}

#[test]
fn p05_copies_keep_what_is_freed() {
    both(64, |vm| {
        let (a, b) = shared_by_copy(vm);
        let x = vm.vm_page_tryxbusy(a.1, Pindex(a.2), &mut may()).expect("page");
        assert!(x.is_shared(&mut may()));
        x.free(&mut may()).expect("free");
        assert_eq!((a.0.load_word(at(0)), b.load_word(at(0))), (Ok(0), Ok(11)));
        end(vm, a.1);
    });
}

// vm_page_insert(9): fails without change.
#[test]
fn p06_insert_and_what_it_refuses() {
    both(64, |vm| {
        let (o, i) = object(vm, 4);
        let t = shows(vm, o, i, 4);
        let mut l = vm.vm_page_alloc_noobj(Request::NORMAL.zeroed(), &mut may()).expect("page");
        l.write(0, &9u64.to_le_bytes()).expect("write");
        let (frame, number) = (l.pfn(), l.number());
        let x = vm.vm_page_insert(l, o, Pindex(i + 1), &mut may()).expect("insert");
        assert_eq!((x.pfn(), x.number(), x.is_valid()), (frame, number, true));
        drop(x);
        assert_eq!(t.load_word(at(1)), Ok(9));
        let l = vm.vm_page_alloc_noobj(Request::NORMAL.zeroed(), &mut may()).expect("page");
        let frame = l.pfn();
        let (why, l) = vm.vm_page_insert(l, o, Pindex(i + 1), &mut may()).expect_err("taken");
        assert_eq!((why, l.pfn()), (PlaceError::Present, frame));
        // What is on swap is there, too.
        while vm.pageout(1000, &mut may()) != 0 {}
        assert_eq!(vm.vm_page_lookup(o, Pindex(i + 1), &mut may()), None);
        let (why, l) = vm.vm_page_insert(l, o, Pindex(i + 1), &mut may()).expect_err("on swap");
        assert_eq!(why, PlaceError::Present);
        let (why, _) = vm.vm_page_insert(l, o, Pindex(1 << 60), &mut may()).expect_err("beyond");
        assert_eq!(why, PlaceError::Beyond);
        assert_eq!(t.load_word(at(1)), Ok(9));
        end(vm, o);
    });
}

// vm_page_remove(9).
#[test]
fn p07_remove_gives_the_page_with_its_contents() {
    both(64, |vm| {
        let (o, i) = object(vm, 4);
        let t = shows(vm, o, i, 4);
        t.store_word(at(2), 3).expect("store");
        let x = vm.vm_page_tryxbusy(o, Pindex(i + 2), &mut may()).expect("page");
        let l = x.remove(&mut may()).expect("remove");
        assert_eq!(word_of!(l), 3);
        assert_eq!(t.load_word(at(2)), Ok(0));
        // And back, to another place.
        drop(vm.vm_page_insert(l, o, Pindex(i), &mut may()).expect("insert"));
        assert_eq!(t.load_word(at(0)), Ok(3));
        end(vm, o);
    });
}

#[test]
fn p07_copies_keep_what_is_removed() {
    both(64, |vm| {
        let (a, b) = shared_by_copy(vm);
        let x = vm.vm_page_tryxbusy(a.1, Pindex(a.2), &mut may()).expect("page");
        let mut l = x.remove(&mut may()).expect("remove");
        assert_eq!(word_of!(l), 11);
        l.write(0, &12u64.to_le_bytes()).expect("write");
        assert_eq!((a.0.load_word(at(0)), b.load_word(at(0))), (Ok(0), Ok(11)));
        drop(l);
        end(vm, a.1);
    });
}

// vm_page_rename(9); Z64, Z65: the copy on swap goes, failure changes nothing.
#[test]
fn p08_z64_rename_moves_contents_and_makes_them_dirty() {
    both(64, |vm| {
        let (o, i) = object(vm, 4);
        let (other, j) = object(vm, 4);
        let (t, u) = (shows(vm, o, i, 4), shows(vm, other, j, 4));
        t.store_word(at(0), 5).expect("store");
        // On swap and in memory: clean.
        while vm.pageout(1000, &mut may()) != 0 {}
        assert_eq!(t.load_word(at(0)), Ok(5));
        assert_eq!(vm.platform().mem_swap().expect("swap").kept(), 1);
        let x = vm.vm_page_tryxbusy(o, Pindex(i), &mut may()).expect("page");
        let x = x.rename(other, Pindex(j + 1), &mut may()).expect("rename");
        assert_eq!(x.place(), (other, Pindex(j + 1)));
        drop(x);
        assert_eq!(vm.platform().mem_swap().expect("swap").kept(), 0, "no stale copy");
        assert_eq!((t.load_word(at(0)), u.load_word(at(1))), (Ok(0), Ok(5)));
        while vm.pageout(1000, &mut may()) != 0 {}
        assert_eq!(u.load_word(at(1)), Ok(5), "it was dirty");
        // A taken place.
        u.store_word(at(2), 6).expect("store");
        let x = vm.vm_page_tryxbusy(other, Pindex(j + 1), &mut may()).expect("page");
        let (why, x) = x.rename(other, Pindex(j + 2), &mut may()).expect_err("taken");
        assert_eq!(why, StayError::Place(PlaceError::Present));
        let (why, x) = x.rename(o, Pindex(1 << 60), &mut may()).expect_err("beyond");
        assert_eq!(why, StayError::Place(PlaceError::Beyond));
        assert_eq!(x.place(), (other, Pindex(j + 1)));
        // In the same object.
        let x = x.rename(other, Pindex(j + 100), &mut may()).expect("rename");
        assert_eq!(word_of!(x), 5);
        drop(x);
        assert_eq!((u.load_word(at(1)), u.load_word(at(2))), (Ok(0), Ok(6)));
        end(vm, o);
        end(vm, other);
    });
}

#[test]
fn p08_copies_share_what_is_renamed() {
    both(64, |vm| {
        let (a, b) = shared_by_copy(vm);
        let (o, i) = object(vm, 4);
        let t = shows(vm, o, i, 4);
        let x = vm.vm_page_tryxbusy(a.1, Pindex(a.2), &mut may()).expect("page");
        drop(x.rename(o, Pindex(i), &mut may()).expect("rename"));
        assert_eq!((a.0.load_word(at(0)), b.load_word(at(0)), t.load_word(at(0))), (Ok(0), Ok(11), Ok(11)));
        t.store_word(at(0), 12).expect("store");
        assert_eq!((b.load_word(at(0)), t.load_word(at(0))), (Ok(11), Ok(12)));
        end(vm, o);
        end(vm, a.1);
    });
}

// vm_page_replace().
#[test]
fn p09_replace_puts_another_page_there() {
    both(64, |vm| {
        let (a, b) = shared_by_copy(vm);
        let new = |n: u64| {
            let mut l = vm.vm_page_alloc_noobj(Request::NORMAL.zeroed(), &mut may()).expect("page");
            l.write(0, &n.to_le_bytes()).expect("write");
            l
        };
        let x = vm.vm_page_tryxbusy(a.1, Pindex(a.2), &mut may()).expect("page");
        drop(x.replace(new(21), &mut may()).expect("replace"));
        assert_eq!((a.0.load_word(at(0)), b.load_word(at(0))), (Ok(21), Ok(11)));
        let used = vm.live()[0];
        let x = vm.vm_page_tryxbusy(a.1, Pindex(a.2), &mut may()).expect("page");
        drop(x.replace(new(22), &mut may()).expect("replace"));
        assert_eq!((a.0.load_word(at(0)), vm.live()[0]), (Ok(22), used), "the old page is free");
        end(vm, a.1);
    });
}
