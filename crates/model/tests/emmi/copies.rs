//! Copies of memory objects (E21, Z118): what the original writes later, they do not see.

use machvm_hal::{CopyStrategy, LockRequest, Return};

use machvm::map::Inherit;

use super::*;

/// A task that maps a copy of the object, at the same pages.
fn copy<'a>(s: &Scene<'a>) -> Task<'a> {
    let o = s.object();
    let c = s.vm.vm_object_shadow(o, &mut may()).expect("memory");
    s.vm.object_deallocate(o, &mut may());
    let u = Task::new(s.vm);
    let backing = Backing::Private(c, Pindex(0));
    u.map.insert(pages(0, 32), backing, &Rights::new(Prot::RW), &mut may()).expect("insert");
    u
}

fn flush(s: &Scene<'_>) {
    let r = LockRequest { offset: 0, bytes: off(32), ret: Return::All, flush: true, lock: None };
    s.vm.lock_request(s.pager.control(), &r, &mut may()).expect("alive");
}

/// E21, strategy delay: what is in memory is shared, what comes later is kept for the copy
/// before it changes, and what never changed comes from the pager, also when all of the
/// original was given back and forgotten in between.
#[test]
fn e21_delayed_copies() {
    scene(|s| {
        let t = s.task();
        s.pager.answers(Supply::Clean, Prot::NONE);
        assert_eq!(byte_of(&t, 1), 1);
        t.store(at(2), &full(20)).expect("store");
        let u = copy(s);
        let v = copy(s);
        let w = Task { map: v.map.fork(s.vm.platform().pmap(), &mut may()).expect("fork") };
        // In memory at the copy, absent at the copy, absent for all.
        for p in [1, 2, 3, 4] {
            t.store(at(p), &full(p as u8 + 100)).expect("store");
        }
        assert_eq!(byte_of(&u, 3), 3);
        v.store(at(4), &full(40)).expect("store");
        flush(s);
        let told = s.pager.told();
        for p in 1..5 {
            assert!(told.contains(&Told::Return(p, p as u8 + 100, true, false)), "{p}: {told:?}");
        }
        for c in [&u, &w] {
            assert_eq!([1, 2, 3, 4].map(|p| byte_of(c, p)), [1, 20, 3, 4]);
        }
        assert_eq!([1, 2, 3, 4].map(|p| byte_of(&v, p)), [1, 20, 3, 40]);
        assert_eq!(byte_of(&u, 9), 9, "from the pager");
        drop(t);
        assert!(!s.pager.told().contains(&Told::Terminated), "copies need it still");
        drop((u, v));
        assert_eq!(byte_of(&w, 11), 11);
        drop(w);
        assert!(s.pager.told().ends_with(&[Told::LastUnmap, Told::Terminated]));
    });
}

/// E21, strategy call: the pager hears of every copy, when no lock of the VM is held: it may
/// restrict pages there and then.
#[test]
fn e21_the_pager_is_told_of_copies() {
    let call = Attributes { may_cache: false, copy: CopyStrategy::Call };
    scene_with(Some(call), 256, |s| {
        let t = s.task();
        s.pager.answers(Supply::Clean, Prot::NONE);
        t.store(at(2), &full(20)).expect("store");
        s.pager.told();
        let u = copy(s);
        let told = s.pager.told();
        assert!(matches!(told[..], [Told::Copied(0, 32..)]), "{told:?}");
        let v = Task { map: u.map.fork(s.vm.platform().pmap(), &mut may()).expect("fork") };
        assert_eq!(s.pager.told(), [], "a copy of a copy");
        t.map.inherit(pages(0, 32), Inherit::Share, &mut may()).expect("inherit");
        t.map.inherit(pages(4, 8), Inherit::Copy, &mut may()).expect("inherit");
        let w = Task { map: t.map.fork(s.vm.platform().pmap(), &mut may()).expect("fork") };
        assert_eq!(s.pager.told(), [Told::Copied(4, 8)]);
        t.store(at(2), &full(21)).expect("store");
        t.store(at(5), &full(55)).expect("store");
        assert_eq!([&t, &u, &v].map(|x| byte_of(x, 2)), [21, 20, 20]);
        assert_eq!((byte_of(&u, 5), byte_of(&w, 5), byte_of(&t, 5)), (5, 5, 55));
        assert_eq!(byte_of(&w, 2), 21, "shared");
        // Another strategy: not told any more.
        s.vm.change_attributes(s.pager.control(), Attributes::default(), &mut may()).expect("alive");
        drop(copy(s));
        s.pager.told().iter().for_each(|t| assert!(!matches!(t, Told::Copied(..))));
    });
}

/// E21: under pressure too: what is kept for copies goes to swap, what the original wrote to the
/// pager.
#[test]
fn e21_copies_under_pressure() {
    scene_with(Some(Attributes::default()), 40, |s| {
        let t = s.task();
        s.pager.answers(Supply::Clean, Prot::NONE);
        (0..16).for_each(|p| assert_eq!(u64::from(byte_of(&t, p)), p));
        let u = copy(s);
        (0..32).for_each(|p| t.store(at(p), &full(p as u8 + 100)).expect("store"));
        flush(s);
        while s.vm.pageout(64, &mut may()) != 0 {}
        (0..32).for_each(|p| assert_eq!(u64::from(byte_of(&u, p)), p));
        check_quiet(s.vm, [&t, &u]);
    });
}

/// Z118: a copy asks for what is not there; one answer serves all who wait for the data.
#[test]
fn z118_one_answer_for_the_object_and_its_copies() {
    scene(|s| {
        let t = s.task();
        let u = copy(s);
        waits_for_page(&u, 1, Prot::R);
        waits_for_page(&t, 1, Prot::R);
        s.supply(1, 11);
        assert_eq!((byte_of(&t, 1), byte_of(&u, 1)), (11, 11));
        waits_for_page(&u, 2, Prot::W);
        s.vm.data_unavailable(s.pager.control(), off(2), off(1), &mut may()).expect("alive");
        assert_eq!(byte_of(&u, 2), 0);
        waits_for_page(&u, 3, Prot::W);
        s.vm.data_error(s.pager.control(), off(3), off(1), PagerError::Io, &mut may()).expect("alive");
        assert_eq!(first_byte(&u, 3), Err(FaultError::PagerIo(va(3))));
    });
}

/// A copy that asked before the original is written gets what was there then.
#[test]
fn e21_a_copy_that_waits_is_waited_for() {
    scene(|s| {
        let t = s.task();
        let u = copy(s);
        s.supply(1, 11);
        assert_eq!(byte_of(&t, 1), 11);
        waits_for_page(&u, 1, Prot::R);
        waits_for_page(&t, 1, Prot::W);
        // Both wait for the same answer; a second supply finds the copy's page only.
        s.supply(1, 11);
        t.store(at(1), &full(12)).expect("store");
        assert_eq!((byte_of(&t, 1), byte_of(&u, 1)), (12, 11));
    });
}

/// Z116: a pager that never answers holds up neither the end of who waits nor others.
#[test]
fn z116_silence_holds_up_nobody_else() {
    scene(|s| {
        let t = s.task();
        let u = copy(s);
        waits_for_page(&t, 1, Prot::R);
        waits_for_page(&u, 2, Prot::R);
        u.map.delete(pages(0, 8), &mut may()).expect("delete");
        drop(u);
        let o = s.object();
        let none = machvm::object::RemoveFlags::empty();
        s.vm.vm_object_page_remove(o, Pindex(0), 8, none, &mut may()).expect("memory");
        s.vm.object_deallocate(o, &mut may());
        check_quiet(s.vm, [&t]);
        t.map.insert(pages(100, 8), Backing::Anonymous, &Rights::new(Prot::RW), &mut may()).expect("insert");
        t.store(at(100), &[1]).expect("others go on");
        // The answer comes for nobody: a page that nobody asked for.
        s.supply(1, 11);
        assert_eq!(byte_of(&t, 1), 11);
        // With a request out, the object ends all the same.
        waits_for_page(&t, 5, Prot::R);
    });
}

/// Z116: a page that waits, and that a copy shares, goes from the original at once; the copy asks
/// for it itself.
#[test]
fn z116_shared_pages_that_wait_can_be_dropped() {
    scene(|s| {
        let t = s.task();
        waits_for_page(&t, 1, Prot::R);
        let u = copy(s);
        let o = s.object();
        let none = machvm::object::RemoveFlags::empty();
        s.vm.vm_object_page_remove(o, Pindex(0), 8, none, &mut may()).expect("memory");
        s.vm.object_deallocate(o, &mut may());
        s.pager.told();
        waits_for_page(&u, 1, Prot::R);
        s.supply(1, 11);
        assert_eq!(byte_of(&u, 1), 11);
    });
}

/// The locks of a page are the object's own: a copy that has the page is stopped only by a lock
/// against reading, and its own copy of the page has none.
#[test]
fn e14_copies_and_locks() {
    scene(|s| {
        let t = s.task();
        waits_for_page(&t, 1, Prot::R);
        s.supply_as(1, 11, Prot::W, Supply::Clean);
        assert_eq!(byte_of(&t, 1), 11);
        let u = copy(s);
        u.store(at(1), &full(12)).expect("store");
        waits_for_pager(&t, 1, Prot::W);
        let v = copy(s);
        let all =
            LockRequest { offset: 0, bytes: off(8), ret: Return::None, flush: false, lock: Some(Prot::ALL) };
        s.vm.lock_request(s.pager.control(), &all, &mut may()).expect("alive");
        waits_for_pager(&v, 1, Prot::W);
        let free = LockRequest { lock: Some(Prot::NONE), ..all };
        s.vm.lock_request(s.pager.control(), &free, &mut may()).expect("alive");
        v.store(at(1), &full(13)).expect("store");
        t.store(at(1), &full(14)).expect("store");
        assert_eq!([&t, &u, &v].map(|x| byte_of(x, 1)), [14, 12, 13]);
    });
}
