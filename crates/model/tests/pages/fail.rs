//! Each request for memory refused in turn: a failure changes nothing, and then it works (Z65).

use machvm::Vm;
use machvm::object::Object;
use machvm::object::{RemoveFlags, TO_THE_END};
use machvm::page::{Contig, GrabFlags, Request};
use machvm_arena::Handle;
use machvm_hal::{PAGE_SIZE, Pindex, Va};
use machvm_model::{Config, Machine, Point, Task, check_quiet};

use crate::*;

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
        // Any page but the first.
        let first = vm.vm_page_tryxbusy(o, Pindex(i), &mut may()).expect("resident");
        assert_ne!(vm.pageout(1, &mut may()), 0, "a page goes to swap");
        drop(first);
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
    /// A modified page of the file.
    fn write_file(&self) -> Result<(), String> {
        let x = self.vm.vm_page_grab_valid(self.file, Pindex(3), GrabFlags::empty(), &mut may());
        let mut x = x.map_err(|e| format!("{e:?}"))?;
        said(x.write(0, &4u64.to_le_bytes(), &mut may()))
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
    ("vm_object_shadow", |w| said(w.vm.vm_object_shadow(w.o, &mut may()).map(|o| end(w.vm, o)))),
    ("vm_object_split", |w| {
        said(w.vm.vm_object_split(w.o, Pindex(w.i), 2, &mut may()).map(|o| end(w.vm, o)))
    }),
    ("vm_object_page_remove", |w| {
        said(w.vm.vm_object_page_remove(w.o, Pindex(w.i), TO_THE_END, RemoveFlags::empty(), &mut may()))
    }),
    ("vm_object_populate", |w| said(w.vm.vm_object_populate(w.file, Pindex(0), 4, &mut may()))),
    ("vm_object_page_clean", |w| {
        w.write_file()?;
        said(w.vm.vm_object_page_clean(w.file, Pindex(0), 4, &mut may()))
    }),
    ("vm_object_sync", |w| {
        w.write_file()?;
        said(w.vm.vm_object_sync(w.file, Pindex(0), 4, true, &mut may()))
    }),
    ("vm_page_alloc_contig", |w| {
        let mut out: [_; 2] = std::array::from_fn(|_| None);
        let (want, req) = (Contig::anywhere(2), Request::NORMAL);
        let done = w.vm.vm_page_alloc_contig(w.o, Pindex(w.i + 8), &want, req, &mut out, &mut may());
        if is_sparse(w.vm) { Ok(()) } else { said(done) }
    }),
];

fn fail_at_k(c: Config) {
    let points = [
        Point::Object,
        Point::Extent,
        Point::Zero,
        Point::Prepare,
        Point::SwapGet,
        Point::PageIn,
        Point::PageOut,
    ];
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
                // A part of a range may be done.
                let all = *name != "vm_object_page_remove";
                assert!(!all || w.state() == before, "{what}: {e} changed something");
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
