//! Objects as the core's own interface: vm_object (rows O), with and without maps that show
//! them.

use machvm::Vm;
use machvm::map::{Attributes, Backing};
use machvm::object::{Object, RemoveFlags, TO_THE_END};
use machvm::page::{ContentError, GrabError, GrabFlags, PageAdvice, PageQueue, Request};
use machvm_arena::Handle;
use machvm_hal::{MaySleep, PAGE_SIZE, PagerError, Pindex, Pmap, Prot, Va, VaRange};
use machvm_model::{Config, Machine, MemPager, Point, Task, check_quiet};

const BASE: u64 = 0x2000;
/// Pages of the objects that tests make.
const N: u64 = 8;

fn may() -> MaySleep {
    MaySleep::claim()
}
fn at(page: u64) -> u64 {
    Va::from_page(BASE + page).get()
}
fn both(frames: u32, test: impl Fn(&Vm<Machine>)) {
    for c in (Config { frames, ..Config::default() }).every_kind().map(Config::calm) {
        let vm = Vm::new(Machine::new(c)).expect("memory");
        test(&vm);
        check_quiet(&vm, []);
        assert_eq!(vm.live(), [0; 6], "left over, {c:?}");
        assert_eq!(vm.platform().mem_swap().map(|s| s.kept()), Some(0), "swap, {c:?}");
        assert_eq!(vm.platform().pager_users(), 0, "users of pagers, {c:?}");
    }
}

/// An object, a task that shows its first pages, and where they begin.
struct Shown<'vm> {
    vm: &'vm Vm<Machine>,
    o: Handle<Object>,
    i: u64,
    t: Task<'vm>,
}

impl<'vm> Shown<'vm> {
    fn of(vm: &'vm Vm<Machine>, (o, i): (Handle<Object>, u64)) -> Self {
        let t = Task::new(vm);
        vm.object_reference(o);
        let r = VaRange::of_pages(Va::from_page(BASE), N).expect("fits");
        t.map
            .insert(r, Backing::Shared(o, Pindex(i)), &Attributes::new(Prot::RW), &mut may())
            .expect("insert");
        Shown { vm, o, i, t }
    }
    fn anonymous(vm: &'vm Vm<Machine>) -> Self {
        let (o, first) = vm.object_allocate(N).expect("object");
        Self::of(vm, (o, first.0))
    }
    /// Word 0 of page p of the file is p + 1.
    fn file(vm: &'vm Vm<Machine>) -> (Self, &'static MemPager) {
        let word = |i: u64| (i * 8 / PAGE_SIZE + 1).to_le_bytes();
        let (id, pager) = vm.platform().add_pager((0..N * PAGE_SIZE / 8).flat_map(word).collect());
        let (o, first) = vm.object_from_pager(N, id, 0, true, &mut may()).expect("object");
        (Self::of(vm, (o, first.0)), pager)
    }
    fn at(&self, page: u64) -> Pindex {
        Pindex(self.i + page)
    }
    fn store(&self, page: u64, word: u64) {
        self.t.store_word(at(page), word).expect("store");
    }
    fn load(&self, page: u64) -> u64 {
        self.t.load_word(at(page)).expect("load")
    }
    fn resident(&self, page: u64) -> bool {
        self.vm.vm_page_lookup(self.o, self.at(page), &mut may()).is_some()
    }
    fn queue(&self, page: u64) -> Option<PageQueue> {
        let r = self.vm.vm_page_lookup(self.o, self.at(page), &mut may())?;
        self.vm.vm_page_queue(r.page)
    }
    fn mapped(&self, page: u64) -> Option<Prot> {
        self.t.map.pmap().extract(self.vm.page_array(), Va::from_page(BASE + page)).map(|(_, r)| r)
    }
    fn end(self) {
        drop(self.t);
        self.vm.object_deallocate(self.o, &mut may());
    }
}
fn word(vm: &Vm<Machine>, o: Handle<Object>, index: Pindex) -> u64 {
    let s = vm.vm_page_grab_shared(o, index, GrabFlags::empty(), &mut may()).expect("page");
    let mut b = [0; 8];
    assert_eq!(s.read(0, &mut b), Ok::<(), ContentError>(()));
    u64::from_le_bytes(b)
}
fn page_all_out(vm: &Vm<Machine>) {
    while vm.pageout(1000, &mut may()) != 0 {}
}

// vm_object_allocate(9), vm_object_reference, vm_object_deallocate.
#[test]
fn o02_o03_o05_o06_o07_o08_a_life() {
    both(64, |vm| {
        let (o, _) = vm.object_allocate(N).expect("object");
        let info = vm.vm_object_info(o, &mut may());
        assert_eq!((info.references, info.resident, info.external), (1, 0, false));
        assert!(info.capacity >= N && !info.shared && !info.purgeable && !info.write_back);
        vm.object_reference(o);
        vm.object_deallocate(o, &mut may());
        assert_eq!(vm.vm_object_info(o, &mut may()).references, 1);
        let x = vm.vm_page_alloc(o, Pindex(0), Request::NORMAL.zeroed(), &mut may()).expect("page");
        // The last reference ends it, with what is on swap; a busy page ends with its holder.
        vm.object_deallocate(o, &mut may());
        assert_eq!((vm.live()[4], vm.live()[0]), (0, 1));
        drop(x);
        assert_eq!(vm.live()[0], 0);
        // No more pages than a number has room for.
        assert!(vm.object_allocate(u64::MAX).is_err());
        let (s, _) = Shown::file(vm);
        let info = vm.vm_object_info(s.o, &mut may());
        assert!(info.external && info.write_back && info.shared);
        assert_eq!((info.references, vm.platform().pager_users()), (2, 1));
        s.end();
    });
}

// vm_object_shadow(): both sides keep what the other writes from themselves.
#[test]
fn o09_o25_a_shadow_is_a_copy() {
    both(128, |vm| {
        let s = Shown::anonymous(vm);
        (0..4).for_each(|p| s.store(p, p + 1));
        let shadow = vm.vm_object_shadow(s.o, &mut may()).expect("shadow");
        assert_eq!(s.mapped(0).map(|r| r.contains(Prot::W)), Some(false), "write access is gone");
        s.store(0, 11);
        let u = Shown::of(vm, (shadow, s.i));
        assert_eq!((u.load(0), u.load(1), s.load(0)), (1, 2, 11));
        u.store(1, 22);
        assert_eq!((u.load(1), s.load(1)), (22, 2));
        // Of either, when the other is gone.
        s.end();
        assert_eq!((u.load(0), u.load(1), u.load(2), u.load(5)), (1, 22, 3, 0));
        u.end();
    });
}

// vm_object_collapse(): depth is one whatever lives, so there is nothing to collapse; what
// nobody sees any more is gone at once (Z40, Z41).
#[test]
fn o10_o11_nothing_is_left_to_collapse() {
    both(128, |vm| {
        let s = Shown::anonymous(vm);
        s.store(0, 1);
        let mut last = s.o;
        vm.object_reference(last);
        for n in 0..20 {
            let next = vm.vm_object_shadow(last, &mut may()).expect("shadow");
            vm.object_deallocate(last, &mut may());
            last = next;
            let mut x = vm.vm_page_grab(last, s.at(0), GrabFlags::empty(), &mut may()).expect("page");
            x.write(0, &[n], &mut may()).expect("write");
        }
        // One page of the first object, one of the last: nothing of those between.
        assert_eq!((vm.live()[0], vm.live()[4]), (2, 2));
        page_all_out(vm);
        assert_eq!(vm.platform().mem_swap().map(|s| s.kept()), Some(2));
        assert_eq!((s.load(0), word(vm, last, s.at(0))), (1, 19));
        vm.object_deallocate(last, &mut may());
        s.end();
    });
}

// vm_object_split().
#[test]
fn o12_split_takes_a_range_along() {
    both(128, |vm| {
        let s = Shown::anonymous(vm);
        (0..N).for_each(|p| s.store(p, p + 1));
        let new = vm.vm_object_split(s.o, s.at(2), 3, &mut may()).expect("split");
        assert_eq!((s.mapped(1).is_some(), s.mapped(3)), (true, None));
        let there = |p| vm.vm_page_lookup(new, s.at(p), &mut may()).is_some();
        assert_eq!([1, 2, 4, 5].map(there), [false, true, true, false]);
        assert_eq!([1, 2, 4, 5].map(|p| s.load(p)), [2, 0, 0, 6]);
        assert_eq!([2, 3, 4].map(|p| word(vm, new, s.at(p))), [3, 4, 5]);
        s.store(2, 33);
        assert_eq!(word(vm, new, s.at(2)), 3);
        vm.object_deallocate(new, &mut may());
        s.end();
    });
}

// vm_object_coalesce(); Z56.
#[test]
fn o13_z56_coalescing_wants_an_empty_continuation() {
    both(64, |vm| {
        let (o, first) = vm.object_allocate(N).expect("object");
        let may_go_on = |n, pages| vm.vm_object_coalesce(o, Pindex(first.0 + n), pages, &mut may());
        assert!(may_go_on(N, 16));
        assert!(!may_go_on(N, u64::MAX) && !may_go_on(N, 1 << 40));
        drop(
            vm.vm_page_alloc(o, Pindex(first.0 + N + 3), Request::NORMAL.zeroed(), &mut may()).expect("page"),
        );
        assert!(!may_go_on(N, 16) && may_go_on(N, 3), "old contents");
        let shadow = vm.vm_object_shadow(o, &mut may()).expect("shadow");
        assert!(!may_go_on(N, 3), "copies");
        vm.object_deallocate(shadow, &mut may());
        vm.object_deallocate(o, &mut may());
        // Shared, or with a pager.
        let (s, _) = Shown::file(vm);
        assert!(!vm.vm_object_coalesce(s.o, s.at(N), 1, &mut may()));
        s.end();
    });
}

// vm_object_page_clean(9); Z45: an error ends nothing.
#[test]
fn o14_o18_z45_modified_pages_go_to_the_pager() {
    both(64, |vm| {
        let (s, pager) = Shown::file(vm);
        let in_file = |p: u64| {
            u64::from_le_bytes(pager.bytes()[(p * PAGE_SIZE) as usize..][..8].try_into().expect("eight"))
        };
        s.store(1, 11);
        s.store(3, 33);
        s.store(5, 55);
        vm.vm_object_page_clean(s.o, s.at(0), 4, &mut may()).expect("written");
        assert_eq!([1, 3, 5].map(in_file), [11, 33, 6], "only the range");
        assert!(s.resident(1) && s.mapped(1).is_none_or(|r| !r.contains(Prot::W)));
        s.store(1, 12); // noticed again
        // The first write fails: the rest is written all the same.
        vm.platform().inject().arm(Point::PageOut as u32, 1, false);
        let e = vm.vm_object_page_clean(s.o, s.at(0), TO_THE_END, &mut may());
        vm.platform().inject().disarm();
        assert_eq!(e, Err(PagerError::Io));
        assert_eq!([1, 5].map(in_file), [11, 55]);
        vm.vm_object_sync(s.o, s.at(0), TO_THE_END, true, &mut may()).expect("written");
        assert_eq!(in_file(1), 12, "what failed stayed modified");
        assert!(!s.resident(1) && !s.resident(5), "invalidated");
        assert_eq!(s.load(1), 12);
        s.end();
        // Anonymous memory has nothing to clean.
        let s = Shown::anonymous(vm);
        s.store(0, 1);
        vm.vm_object_sync(s.o, s.at(0), TO_THE_END, true, &mut may()).expect("nothing to do");
        assert_eq!((s.resident(0), s.load(0)), (true, 1));
        s.end();
    });
}

// vm_object_page_remove(9).
#[test]
fn o15_page_remove_drops_contents_and_swap() {
    both(64, |vm| {
        let s = Shown::anonymous(vm);
        (0..N).for_each(|p| s.store(p, p + 1));
        page_all_out(vm);
        assert_eq!((s.load(0), s.load(1)), (1, 2));
        let left = vm.vm_object_page_remove(s.o, s.at(1), 3, RemoveFlags::empty(), &mut may());
        assert_eq!(left, Ok(0));
        assert_eq!((0..N).map(|p| s.load(p)).collect::<Vec<_>>(), [1, 0, 0, 0, 5, 6, 7, 8]);
        // Wired pages stay.
        s.t.map.wire_page(Va::from_page(BASE + 4), &mut may()).expect("wire");
        let left = vm.vm_object_page_remove(s.o, s.at(0), TO_THE_END, RemoveFlags::empty(), &mut may());
        assert_eq!(left, Ok(1));
        assert_eq!((s.load(0), s.load(4), s.load(7)), (0, 5, 0));
        s.t.map.unwire_page(Va::from_page(BASE + 4), &mut may());
        s.end();
    });
}

#[test]
fn o15_z87_clean_pages_only() {
    both(64, |vm| {
        let (s, _) = Shown::file(vm);
        assert_eq!(s.load(0), 1);
        s.store(1, 22);
        let left = vm.vm_object_page_remove(s.o, s.at(0), TO_THE_END, RemoveFlags::CLEANONLY, &mut may());
        assert_eq!((left, s.resident(0), s.resident(1)), (Ok(0), false, true));
        assert_eq!((s.load(0), s.load(1)), (1, 22));
        s.end();
        // Contents that swap has stay there.
        let s = Shown::anonymous(vm);
        s.store(0, 5);
        page_all_out(vm);
        assert_eq!(s.load(0), 5);
        vm.vm_object_page_remove(s.o, s.at(0), TO_THE_END, RemoveFlags::CLEANONLY, &mut may()).expect("done");
        assert_eq!((s.resident(0), s.load(0)), (false, 5));
        s.end();
    });
}

#[test]
fn o15_copies_keep_what_is_removed() {
    both(64, |vm| {
        let s = Shown::anonymous(vm);
        (0..4).for_each(|p| s.store(p, p + 1));
        let shadow = vm.vm_object_shadow(s.o, &mut may()).expect("shadow");
        vm.vm_object_page_remove(s.o, s.at(0), TO_THE_END, RemoveFlags::empty(), &mut may()).expect("done");
        assert_eq!((s.load(1), word(vm, shadow, s.at(1))), (0, 2));
        s.store(1, 9);
        assert_eq!(word(vm, shadow, s.at(1)), 2);
        vm.object_deallocate(shadow, &mut may());
        s.end();
    });
}

// vm_object_page_noreuse(), vm_object_madvise().
#[test]
fn o16_o19_z58_advice_for_a_range() {
    both(64, |vm| {
        let s = Shown::anonymous(vm);
        (0..N).for_each(|p| s.store(p, p + 1));
        vm.vm_object_page_noreuse(s.o, s.at(0), 2, &mut may());
        vm.vm_object_madvise(s.o, s.at(2), 2, PageAdvice::DontNeed, &mut may());
        let q = [0, 1, 2, 3, 4].map(|p| s.queue(p));
        use PageQueue::{Active, Inactive, Laundry};
        assert_eq!(q, [Inactive, Inactive, Laundry, Laundry, Active].map(Some));
        vm.vm_object_madvise(s.o, s.at(0), N, PageAdvice::WillNeed, &mut may());
        assert!((0..N).all(|p| s.queue(p) == Some(Active)));
        page_all_out(vm);
        s.load(0); // in memory, and on swap
        vm.vm_object_madvise(s.o, s.at(0), 4, PageAdvice::Free, &mut may());
        page_all_out(vm);
        assert_eq!((0..N).map(|p| s.load(p)).collect::<Vec<_>>(), [0, 0, 0, 0, 5, 6, 7, 8]);
        // Not while copies share it: nothing older shows through.
        let shadow = vm.vm_object_shadow(s.o, &mut may()).expect("shadow");
        vm.vm_object_madvise(shadow, s.at(0), N, PageAdvice::Free, &mut may());
        page_all_out(vm);
        assert_eq!((s.load(4), word(vm, shadow, s.at(4))), (5, 5));
        vm.object_deallocate(shadow, &mut may());
        s.end();
    });
}

// lseek(2) SEEK_DATA: the next page with contents of its own, in memory or not.
#[test]
fn the_next_contents_are_found_in_memory_and_on_swap() {
    both(64, |vm| {
        let s = Shown::anonymous(vm);
        assert_eq!(vm.vm_object_next(s.o, s.at(0), &mut may()), None);
        s.store(3, 7);
        assert_eq!(vm.vm_object_next(s.o, s.at(0), &mut may()), Some(s.at(3)));
        page_all_out(vm);
        assert!(!s.resident(3));
        assert_eq!(vm.vm_object_next(s.o, s.at(3), &mut may()), Some(s.at(3)));
        assert_eq!(vm.vm_object_next(s.o, s.at(4), &mut may()), None);
        s.end();
    });
}

// vm_object_populate().
#[test]
fn o17_populate_brings_a_range_in() {
    both(64, |vm| {
        let (s, _) = Shown::file(vm);
        vm.vm_object_populate(s.o, s.at(2), 3, &mut may()).expect("there");
        assert_eq!([1, 2, 4, 5].map(|p| s.resident(p)), [false, true, true, false]);
        let e = vm.vm_object_populate(s.o, s.at(N - 1), 3, &mut may());
        assert_eq!(e, Err(GrabError::Pager(PagerError::Beyond)));
        assert!(s.resident(N - 1), "what came before the failure stays");
        s.end();
        let s = Shown::anonymous(vm);
        s.store(1, 7);
        page_all_out(vm);
        vm.vm_object_populate(s.o, s.at(0), 2, &mut may()).expect("memory");
        assert!(s.resident(0) && s.resident(1));
        assert_eq!((s.load(0), s.load(1)), (0, 7));
        s.end();
    });
}

// vm_object_color, and questions.
#[test]
fn o21_colour_and_questions() {
    both(64, |vm| {
        let (o, _) = vm.object_allocate(N).expect("object");
        assert_eq!(vm.vm_object_info(o, &mut may()).color, None);
        vm.vm_object_color(o, 515, &mut may());
        assert_eq!(vm.vm_object_info(o, &mut may()).color, Some(3), "modulo the pages of a superpage");
        vm.vm_object_color(o, 4, &mut may());
        assert_eq!(vm.vm_object_info(o, &mut may()).color, Some(3), "the first counts");
        vm.object_deallocate(o, &mut may());
    });
}

// vm_object_pmap_protect() of Mach.
#[test]
fn o24_rights_are_taken_from_all_mappings_of_a_range() {
    both(64, |vm| {
        let s = Shown::anonymous(vm);
        vm.object_reference(s.o);
        let u = Shown::of(vm, (s.o, s.i));
        (0..4).for_each(|p| {
            s.store(p, p);
            u.store(p, p + 1);
        });
        vm.vm_object_pmap_protect(s.o, s.at(0), 2, Prot::R, &mut may());
        vm.vm_object_pmap_protect(s.o, s.at(2), 1, Prot::NONE, &mut may());
        for t in [&s, &u] {
            assert!((0..2).all(|p| t.mapped(p).is_none_or(|r| !r.contains(Prot::W))));
            assert_eq!(t.mapped(2), None);
            assert!(t.mapped(3).is_some_and(|r| r.contains(Prot::W)));
        }
        s.store(0, 9); // a fault gives it back
        assert_eq!((u.load(0), u.load(2)), (9, 3));
        u.end();
        s.end();
    });
}
