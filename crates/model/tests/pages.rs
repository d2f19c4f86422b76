//! Pages as the core's own interface: vm_page(9) (rows P), page by page of objects that no map
//! or several maps show.

use machvm::map::{Advise, Attributes, Backing, Holes, Wiring};
use machvm::object::Object;
use machvm::page::{
    ContentError, Contig, FrameClass, GrabError, GrabFlags, NoPage, PageAdvice, PageQueue, PlaceError,
    PsTest, Request, StayError, TryError, Wait,
};
use machvm::{PagerId, Vm};
use machvm_arena::Handle;
use machvm_hal::{MaySleep, PAGE_SIZE, PagerError, PhysMem, Pindex, Placement, Pmap, Prot, Va, VaRange};
use machvm_model::{Config, Machine, Point, Task, check_quiet};

const BASE: u64 = 0x2000;

fn may() -> MaySleep {
    MaySleep::claim()
}
fn at(page: u64) -> u64 {
    Va::from_page(BASE + page).get()
}
fn pages(first: u64, n: u64) -> VaRange {
    VaRange::of_pages(Va::from_page(BASE + first), n).expect("fits")
}
/// On every kind of machine; nothing may be left over.
fn with(c: Config, test: impl Fn(&Vm<Machine>)) {
    for c in c.every_kind().map(Config::calm) {
        let vm = Vm::new(Machine::new(c)).expect("memory");
        test(&vm);
        check_quiet(&vm, []);
        assert_eq!(vm.live(), [0; 6], "left over, {c:?}");
    }
}
fn both(frames: u32, test: impl Fn(&Vm<Machine>)) {
    with(Config { frames, ..Config::default() }, test);
}
/// An anonymous object and the index of its first page.
fn object(vm: &Vm<Machine>, n: u64) -> (Handle<Object>, u64) {
    let (o, first) = vm.object_allocate(n).expect("object");
    (o, first.0)
}
fn end(vm: &Vm<Machine>, o: Handle<Object>) {
    vm.object_deallocate(o, &mut may());
}
/// A task that shows `n` pages of the object from `first` on.
fn shows<'vm>(vm: &'vm Vm<Machine>, o: Handle<Object>, first: u64, n: u64) -> Task<'vm> {
    let t = Task::new(vm);
    vm.object_reference(o);
    let backing = Backing::Shared(o, Pindex(first));
    t.map.insert(pages(0, n), backing, &Attributes::new(Prot::RW), &mut may()).expect("insert");
    t
}
/// A pager of which page `p` says `p + 1` in each word, and an object of it.
fn file(vm: &Vm<Machine>, n: u64) -> (PagerId, Handle<Object>) {
    let word = |i: u64| (i * 8 / PAGE_SIZE + 1).to_le_bytes();
    let data = (0..n * PAGE_SIZE / 8).flat_map(word).collect();
    let (id, _) = vm.platform().add_pager(data);
    (id, vm.object_from_pager(n, id, 0, true, &mut may()).expect("object").0)
}
fn word(read: impl FnOnce(&mut [u8]) -> Result<(), ContentError>) -> u64 {
    let mut b = [0; 8];
    read(&mut b).expect("contents");
    u64::from_le_bytes(b)
}
macro_rules! word_of {
    ($page:expr) => {
        word(|b| $page.read(0, b))
    };
}

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

/// A task with an object, one page of it written; and a copy that shares the page.
fn shared_by_copy(vm: &Vm<Machine>) -> ((Task<'_>, Handle<Object>, u64), Task<'_>) {
    let (o, i) = object(vm, 4);
    let t = Task::new(vm);
    vm.object_reference(o);
    let backing = Backing::Private(o, Pindex(i));
    t.map.insert(pages(0, 4), backing, &Attributes::new(Prot::RW), &mut may()).expect("insert");
    t.store_word(at(0), 11).expect("store");
    let copy = Task { map: t.map.fork(vm.platform().pmap(), &mut may()).expect("fork") };
    ((t, o, i), copy)
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

// vm_page_lookup(9), vm_page_find_least, next, prev.
#[test]
fn p10_lookups() {
    both(64, |vm| {
        let (o, i) = object(vm, 600);
        for n in [2, 3, 520] {
            drop(vm.vm_page_alloc(o, Pindex(i + n), Request::NORMAL.zeroed(), &mut may()).expect("page"));
        }
        let find = |n| vm.vm_page_find_least(o, Pindex(n), &mut may()).map(|r| r.index.0);
        assert_eq!(
            (find(0), find(i + 3), find(i + 4), find(i + 521)),
            (Some(i + 2), Some(i + 3), Some(i + 520), None)
        );
        let next = |n| vm.vm_page_next(o, Pindex(n), &mut may()).map(|r| r.index.0);
        let prev = |n| vm.vm_page_prev(o, Pindex(n), &mut may()).map(|r| r.index.0);
        assert_eq!((next(i + 2), next(i + 3), next(u64::MAX)), (Some(i + 3), None, None), "consecutive only");
        assert_eq!((prev(i + 3), prev(i + 2), prev(0)), (Some(i + 2), None, None));
        let x = vm.vm_page_tryxbusy(o, Pindex(i + 2), &mut may()).expect("page");
        let seen = vm.vm_page_lookup(o, Pindex(i + 2), &mut may()).expect("resident");
        assert_eq!((seen.page, seen.busy), (x.number(), true));
        drop(x);
        end(vm, o);
    });
}

// vm_page_grab(9).
#[test]
fn p11_grab_finds_or_makes() {
    both(64, |vm| {
        let (o, i) = object(vm, 4);
        let t = shows(vm, o, i, 4);
        t.store_word(at(0), 1).expect("store");
        let grab = |n: u64, f| vm.vm_page_grab(o, Pindex(i + n), f, &mut may());
        let x = grab(0, GrabFlags::NOCREAT).expect("it is there");
        assert!(x.is_valid());
        assert_eq!(grab(0, GrabFlags::NOWAIT).map(drop), Err(GrabError::Busy));
        drop(x);
        assert_eq!(grab(1, GrabFlags::NOCREAT).map(drop), Err(GrabError::Absent));
        let x = grab(1, GrabFlags::empty()).expect("page");
        assert!(!x.is_valid());
        drop(x);
        let mut x = grab(1, GrabFlags::ZERO).expect("page");
        assert!(x.is_valid());
        x.write(0, &2u64.to_le_bytes(), &mut may()).expect("write");
        drop(x);
        assert_eq!((t.load_word(at(0)), t.load_word(at(1))), (Ok(1), Ok(2)));
        // What is on swap comes back.
        while vm.pageout(1000, &mut may()) != 0 {}
        assert_eq!(word_of!(grab(1, GrabFlags::empty()).expect("page")), 2);
        assert_eq!(
            vm.vm_page_grab(o, Pindex(1 << 60), GrabFlags::ZERO, &mut may()).map(drop),
            Err(GrabError::Beyond)
        );
        end(vm, o);
    });
}

#[test]
fn p11_grabbing_to_write_leaves_copies_alone() {
    both(64, |vm| {
        let (a, b) = shared_by_copy(vm);
        // As it is found it is for reading only.
        let mut x = vm.vm_page_tryxbusy(a.1, Pindex(a.2), &mut may()).expect("page");
        assert_eq!(x.write(0, &[1], &mut may()), Err(ContentError::Shared));
        drop(x);
        let mut x = vm.vm_page_grab(a.1, Pindex(a.2), GrabFlags::empty(), &mut may()).expect("page");
        assert!(!x.is_shared(&mut may()));
        assert_eq!(word_of!(x), 11);
        x.write(0, &12u64.to_le_bytes(), &mut may()).expect("write");
        drop(x);
        assert_eq!((a.0.load_word(at(0)), b.load_word(at(0))), (Ok(12), Ok(11)));
        let s = vm.vm_page_grab_shared(a.1, Pindex(a.2), GrabFlags::empty(), &mut may()).expect("page");
        assert_eq!(word_of!(s), 12);
        drop(s);
        end(vm, a.1);
    });
}

// vm_page_grab_valid().
#[test]
fn p12_grab_valid_asks_the_pager() {
    both(64, |vm| {
        let (_, o) = file(vm, 4);
        let x = vm.vm_page_grab_valid(o, Pindex(2), GrabFlags::empty(), &mut may()).expect("page");
        assert_eq!(word_of!(x), 3);
        drop(x);
        let absent = vm.vm_page_grab_valid(o, Pindex(1), GrabFlags::NOCREAT, &mut may());
        assert_eq!(absent.map(drop), Err(GrabError::Absent));
        let beyond = vm.vm_page_grab_valid(o, Pindex(7), GrabFlags::empty(), &mut may());
        assert_eq!(beyond.map(drop), Err(GrabError::Pager(PagerError::Beyond)));
        let s = vm.vm_page_grab_shared(o, Pindex(3), GrabFlags::empty(), &mut may()).expect("page");
        assert_eq!(word_of!(s), 4);
        drop(s);
        // Without a pager: zero.
        let (anon, i) = object(vm, 1);
        let x = vm.vm_page_grab_valid(anon, Pindex(i), GrabFlags::empty(), &mut may()).expect("page");
        assert_eq!(word_of!(x), 0);
        drop(x);
        end(vm, anon);
        end(vm, o);
    });
}

// vm_page_grab_pages().
#[test]
fn p13_grab_pages_in_a_row() {
    both(64, |vm| {
        let (o, i) = object(vm, 8);
        let grab =
            |n: u64, out: &mut [_]| vm.vm_page_grab_pages(o, Pindex(i + n), GrabFlags::ZERO, out, &mut may());
        assert!(matches!(grab(0, &mut []), Ok(0)));
        let mut out: [_; 4] = std::array::from_fn(|_| None);
        assert_eq!(grab(0, &mut out), Ok(4));
        let indices: Vec<_> = out.iter().flatten().map(|x| x.place().1.0 - i).collect();
        assert_eq!(indices, [0, 1, 2, 3], "in order");
        // A busy one ends the run, if it is not the first.
        let mut more: [_; 4] = std::array::from_fn(|_| None);
        out[0] = None;
        out[1] = None;
        assert_eq!(grab(0, &mut more), Ok(2));
        drop((out, more));
        end(vm, o);
    });
}

// vm_page_busy(9).
#[test]
fn p14_busy_alone_and_shared() {
    both(64, |vm| {
        let (o, i) = object(vm, 1);
        drop(vm.vm_page_alloc(o, Pindex(i), Request::NORMAL.zeroed(), &mut may()).expect("page"));
        let alone = || vm.vm_page_tryxbusy(o, Pindex(i), &mut may());
        let share = || vm.vm_page_trysbusy(o, Pindex(i), &mut may());
        let x = alone().expect("free");
        assert_eq!((alone().map(drop), share().map(drop)), (Err(TryError::Busy), Err(TryError::Busy)));
        let a = x.downgrade().expect("valid");
        let b = share().expect("shared");
        assert!(vm.vm_page_busied(a.number()) && !vm.vm_page_xbusied(a.number()));
        assert_eq!(alone().map(drop), Err(TryError::Busy));
        let a = a.try_upgrade().expect_err("two sharers");
        drop(b);
        let x = a.try_upgrade().expect("the only sharer");
        assert!(vm.vm_page_xbusied(x.number()));
        drop(x);
        assert_eq!(vm.vm_page_tryxbusy(o, Pindex(i + 1), &mut may()).map(drop), Err(TryError::Absent));
        // What is not valid is not shared.
        let x = vm.vm_page_alloc(o, Pindex(i + 1), Request::NORMAL, &mut may()).expect("page");
        assert!(x.downgrade().is_err());
        end(vm, o);
    });
}

#[test]
fn p14_the_object_may_end_while_a_page_is_shared() {
    both(64, |vm| {
        let (o, i) = object(vm, 1);
        drop(vm.vm_page_alloc(o, Pindex(i), Request::NORMAL.zeroed(), &mut may()).expect("page"));
        let a = vm.vm_page_trysbusy(o, Pindex(i), &mut may()).expect("shared");
        let b = vm.vm_page_trysbusy(o, Pindex(i), &mut may()).expect("shared");
        end(vm, o);
        assert_eq!(word_of!(a), 0);
        drop(a);
        assert_eq!((vm.live()[0], word_of!(b)), (1, 0), "the last sharer frees it");
    });
}

// vm_page_alloc_contig(9).
#[test]
fn p03_pages_in_a_run_of_frames() {
    both(128, |vm| {
        let (o, i) = object(vm, 8);
        let mut out: [_; 8] = std::array::from_fn(|_| None);
        let want = Contig { align: 8, ..Contig::anywhere(8) };
        let mut take = |n: u64, want: &Contig| {
            vm.vm_page_alloc_contig(o, Pindex(i + n), want, Request::NORMAL.zeroed(), &mut out, &mut may())
        };
        if vm.platform().tables().is_none() && is_sparse(vm) {
            assert_eq!(take(0, &want), Err(PlaceError::NoMemory), "frames belong to places");
            end(vm, o);
            return;
        }
        assert_eq!(take(0, &Contig { align: 3, ..want }), Err(PlaceError::NoMemory));
        assert_eq!(take(0, &Contig::anywhere(7)), Err(PlaceError::NoMemory), "as many as there is room");
        // One index is taken: nothing is done.
        drop(vm.vm_page_alloc(o, Pindex(i + 3), Request::NORMAL.zeroed(), &mut may()).expect("page"));
        assert_eq!(take(0, &want), Err(PlaceError::Present));
        assert_eq!(vm.vm_page_lookup(o, Pindex(i), &mut may()), None);
        assert_eq!((vm.frames_taken(), vm.live()[0]), (0, 1));
        take(8, &want).expect("run");
        let frames: Vec<u64> = out.iter().flatten().map(|x| x.pfn().0).collect();
        assert_eq!(frames[0] % 8, 0);
        assert!(frames.windows(2).all(|w| w[1] == w[0] + 1), "{frames:?}");
        assert!(out.iter().flatten().all(|x| x.is_valid() && word_of!(x) == 0));
        drop(out);
        end(vm, o);
    });
}

fn is_sparse(vm: &Vm<Machine>) -> bool {
    matches!(vm.mem().placement(), Placement::Sparse { .. })
}

// vm_page_reclaim_contig(9): pages are moved with their contents; wired ones block a run.
#[test]
fn p27_pages_are_moved_out_of_a_run() {
    both(128, |vm| {
        if is_sparse(vm) {
            assert!(!vm.vm_page_reclaim_contig(&Contig::anywhere(4), &mut may()));
            return;
        }
        let t = Task::new(vm);
        t.map
            .insert(pages(0, 100), Backing::Anonymous, &Attributes::new(Prot::RW), &mut may())
            .expect("insert");
        (0..100).for_each(|p| t.store_word(at(p), p + 1).expect("store"));
        // Every second page goes: no run of two is left in what was used.
        (0..100).step_by(2).for_each(|p| {
            t.map.madvise(pages(p, 1), Advise::DontNeed, &mut may()).expect("drop");
        });
        let run = Contig { align: 32, ..Contig::anywhere(64) };
        assert_eq!(vm.contig_take(&run, FrameClass::Normal), None);
        assert_eq!(
            vm.vm_page_alloc_noobj_contig(&run, Request::NORMAL.waiting(Wait::No), &mut may()),
            Err(NoPage)
        );
        let first = vm.vm_page_alloc_noobj_contig(&run, Request::NORMAL, &mut may()).expect("moved");
        assert_eq!((first.0 % 32, vm.frames_taken()), (0, 64));
        (0..100)
            .for_each(|p| assert_eq!(t.load_word(at(p)), Ok(if p % 2 == 0 { 0 } else { p + 1 }), "page {p}"));
        check_quiet(vm, [&t]);
        vm.contig_give_back(first, 64).expect("ours");
        assert!(vm.vm_page_reclaim_contig(&run, &mut may()));
        assert_eq!(vm.frames_taken(), 0);
        // Wired pages stay where they are.
        t.map.wire(pages(0, 100), Wiring::System, Holes::Refuse, &mut may()).expect("wire");
        let whole = Contig::anywhere(100);
        assert!(!vm.vm_page_reclaim_contig(&whole, &mut may()));
        assert_eq!(vm.frames_taken(), 0);
        t.map.unwire(pages(0, 100), Wiring::System, Holes::Refuse, &mut may()).expect("unwire");
    });
}

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

// Each request for memory refused in turn: a failure changes nothing, and then it works (Z65).

/// A task, a copy of it that shares its pages, and a file.
struct World<'vm> {
    vm: &'vm Vm<Machine>,
    t: Task<'vm>,
    copy: Task<'vm>,
    o: Handle<Object>,
    i: u64,
    file: Handle<Object>,
}

type Op = fn(&World<'_>) -> Result<(), String>;

fn said<T, E: std::fmt::Debug>(r: Result<T, E>) -> Result<(), String> {
    r.map(drop).map_err(|e| format!("{e:?}"))
}

impl<'vm> World<'vm> {
    fn new(vm: &'vm Vm<Machine>) -> Self {
        let ((t, o, i), copy) = shared_by_copy(vm);
        t.store_word(at(1), 22).expect("store");
        copy.store_word(at(2), 33).expect("store");
        vm.pageout(1, &mut may());
        let file = file(vm, 4).1;
        World { vm, t, copy, o, i, file }
    }
    fn page(&self, n: u64) -> Result<machvm::page::XBusy<'vm, Machine>, String> {
        let x = self.vm.vm_page_grab(self.o, Pindex(self.i + n), GrabFlags::NOCREAT, &mut may());
        x.map_err(|e| format!("{e:?}"))
    }
    /// As it is found, maybe shared with the copy.
    fn as_found(&self, n: u64) -> Result<machvm::page::XBusy<'vm, Machine>, String> {
        self.vm.vm_page_tryxbusy(self.o, Pindex(self.i + n), &mut may()).map_err(|e| format!("{e:?}"))
    }
    /// The first word of every page, without making any.
    fn state(&self) -> Vec<u64> {
        let mut words = Vec::new();
        for t in [&self.t, &self.copy] {
            for p in 0..4 {
                let mut page = [0; PAGE_SIZE as usize];
                let there = t.map.peek(Va::from_page(BASE + p), &mut page, &mut may());
                there.expect("no pager here");
                words.push(u64::from_le_bytes(page[..8].try_into().expect("eight")));
            }
        }
        words
    }
    fn end(self) {
        let World { vm, t, copy, o, file, .. } = self;
        drop((t, copy));
        end(vm, o);
        end(vm, file);
    }
}

const OPS: &[(&str, Op)] = &[
    ("vm_page_alloc", |w| said(w.vm.vm_page_alloc(w.o, Pindex(w.i + 3), Request::NORMAL, &mut may()))),
    ("vm_page_alloc zeroed", |w| {
        said(w.vm.vm_page_alloc(w.o, Pindex(w.i + 3), Request::NORMAL.zeroed(), &mut may()))
    }),
    ("vm_page_alloc_noobj", |w| said(w.vm.vm_page_alloc_noobj(Request::NORMAL.zeroed(), &mut may()))),
    ("vm_page_insert", |w| {
        let mut l = w.vm.vm_page_alloc_noobj(Request::NORMAL.zeroed(), &mut may()).map_err(|_| "none")?;
        l.write(0, &44u64.to_le_bytes()).expect("write");
        said(w.vm.vm_page_insert(l, w.o, Pindex(w.i + 3), &mut may()))
    }),
    ("remove", |w| said(w.as_found(0)?.remove(&mut may()))),
    ("remove alone", |w| said(w.page(1)?.remove(&mut may()))),
    ("free", |w| said(w.as_found(0)?.free(&mut may()))),
    ("free alone", |w| said(w.page(1)?.free(&mut may()))),
    ("rename", |w| said(w.as_found(0)?.rename(w.o, Pindex(w.i + 3), &mut may()))),
    ("rename alone", |w| said(w.page(1)?.rename(w.o, Pindex(w.i + 3), &mut may()))),
    ("replace", |w| {
        let l = w.vm.vm_page_alloc_noobj(Request::NORMAL.zeroed(), &mut may()).map_err(|_| "none")?;
        said(w.as_found(0)?.replace(l, &mut may()))
    }),
    ("vm_page_grab", |w| {
        let mut x = w.page(0)?;
        said(x.write(0, &55u64.to_le_bytes(), &mut may()))
    }),
    ("vm_page_grab_shared", |w| {
        said(w.vm.vm_page_grab_shared(w.file, Pindex(1), GrabFlags::empty(), &mut may()))
    }),
    ("vm_page_grab_valid", |w| {
        let x = w.vm.vm_page_grab_valid(w.file, Pindex(2), GrabFlags::empty(), &mut may());
        said(x.map(|x| assert_eq!(word_of!(x), 3)))
    }),
    ("vm_page_grab_pages", |w| {
        let mut out: [_; 4] = std::array::from_fn(|_| None);
        said(w.vm.vm_page_grab_pages(w.o, Pindex(w.i), GrabFlags::empty(), &mut out, &mut may()))
    }),
];

fn fail_at_k(c: Config) {
    let points = [Point::Object, Point::Extent, Point::Zero, Point::Prepare, Point::SwapGet, Point::PageIn];
    let mut fired = 0;
    for (name, op) in OPS {
        let vm = Vm::new(Machine::new(c)).expect("memory");
        let w = World::new(&vm);
        let before = w.state();
        assert_eq!(op(&w), Ok(()), "{name} works when nothing is refused");
        let after = w.state();
        w.end();
        for (point, lasting, k) in points
            .iter()
            .flat_map(|p| [false, true].map(|l| (*p, l)))
            .flat_map(|(p, l)| (1..12).map(move |k| (p, l, k)))
        {
            let what = format!("{name} {point:?} k {k} lasting {lasting} {c:?}");
            let vm = Vm::new(Machine::new(c)).expect("memory");
            let w = World::new(&vm);
            vm.platform().inject().arm(point as u32, k, lasting);
            let done = op(&w);
            let refused = vm.platform().inject().disarm();
            fired += refused;
            if let Err(e) = done {
                assert!(refused != 0, "{what}: failed by itself: {e}");
                assert_eq!(w.state(), before, "{what}: {e} changed something");
                assert_eq!(op(&w), Ok(()), "{what}: after it failed with {e}");
            }
            assert_eq!(w.state(), after, "{what}");
            vm.check_pages().expect(&what);
            w.end();
            assert_eq!(vm.live(), [0; 6], "{what}: left over");
            check_quiet(&vm, []);
            assert_eq!(vm.platform().mem_swap().map(|s| s.kept()), Some(0), "{what}: swap");
        }
    }
    assert!(fired > 100, "{fired} refusals");
}

#[test]
fn z65_each_request_refused_sparse() {
    fail_at_k(Config { frames: 64, ..Config::default() });
}
#[test]
fn z65_each_request_refused_dense() {
    fail_at_k(Config { frames: 64, sparse: false, ..Config::default() });
}
