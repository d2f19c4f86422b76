//! Memory objects and their pagers (rows E01 to E27), with a pager that notes what it is told
//! and answers when the test says so. Semantics: Mach 3 kernel interfaces, "External Memory
//! Management Interface" (memory_object_*(3)); XNU's memory_object_types for E23 and E24.

#[path = "emmi/calls.rs"]
mod calls;
#[path = "emmi/copies.rs"]
mod copies;
#[path = "emmi/life.rs"]
mod life;
#[path = "emmi/locks.rs"]
mod locks;
#[path = "emmi/random.rs"]
mod random;

use std::sync::{Mutex, MutexGuard};

use machvm::fault::{Fault, Step, WaitFor};
use machvm::map::{Attributes as Rights, Backing};
use machvm::{FaultError, PagerId, Vm};
use machvm_arena::Handle;
use machvm_hal::{
    Attributes, ControlId, MaySleep, ObjectControl, PAGE_SIZE, PageIn, PageOut, Pager, PagerError, Pindex,
    Prot, RawAddr, Supply, Va, VaRange,
};
use machvm_model::{Config, Machine, Task, check_quiet};

type Object = Handle<machvm::object::Object>;
const PAGE: usize = PAGE_SIZE as usize;
const BASE: u64 = 0x100;

fn may() -> MaySleep {
    MaySleep::claim()
}
fn va(page: u64) -> Va {
    Va::from_page(BASE + page)
}
fn at(page: u64) -> u64 {
    va(page).get()
}
fn pages(first: u64, n: u64) -> VaRange {
    VaRange::of_pages(va(first), n).expect("fits")
}
fn off(page: u64) -> u64 {
    page * PAGE_SIZE
}
/// A page of one byte.
fn full(byte: u8) -> Vec<u8> {
    vec![byte; PAGE]
}
fn may_cache() -> Attributes {
    Attributes { may_cache: true, ..Attributes::default() }
}

/// What the pager was told, in order. Offsets in pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Told {
    Init,
    Map,
    LastUnmap,
    Terminated,
    /// First page, how many, access.
    Request(u64, usize, Prot),
    /// Page, its first byte, dirty, does the core keep it.
    Return(u64, u8, bool, bool),
    Unlock(u64, Prot),
    Synchronize(u64, u64),
    Copied(u64, u64),
}

#[derive(Default)]
struct Inner {
    told: Vec<Told>,
    controls: Vec<ControlId>,
    ready: Option<Attributes>,
    /// Answers at once with the page's number and these, else never by itself.
    answer: Option<(Supply, Prot)>,
    refuse: bool,
}

/// The pager: page n of its data is full of byte n.
struct Remote(Mutex<Inner>);

impl Remote {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no panic")
    }
    /// What was told since the last look.
    fn told(&self) -> Vec<Told> {
        std::mem::take(&mut self.lock().told)
    }
    fn say(&self, t: Told) {
        self.lock().told.push(t);
    }
    fn control(&self) -> ControlId {
        *self.lock().controls.last().expect("init was told")
    }
    fn answers(&self, how: Supply, lock: Prot) {
        self.lock().answer = Some((how, lock));
    }
}

impl Pager for Remote {
    fn page_in(&self, mut req: PageIn<'_>) {
        let first = req.offset() / PAGE_SIZE;
        self.say(Told::Request(first, req.pages(), req.access()));
        let Some((how, lock)) = self.lock().answer else {
            req.detach().expect("it is a memory object's");
            return;
        };
        let n = req.pages();
        for i in 0..n {
            req.write(i as u64 * PAGE_SIZE, &full((first + i as u64) as u8));
        }
        req.supplied_locked(n, how, lock);
    }
    fn page_out(&self, _: u64, _: &[u8; PAGE]) -> Result<(), PagerError> {
        panic!("runs are taken whole")
    }
    fn page_out_run(&self, run: &mut PageOut<'_>) {
        for i in 0..run.pages() {
            let mut b = [0];
            run.read(i, PAGE - 1, &mut b);
            let t = Told::Return(run.offset_of(i) / PAGE_SIZE, b[0], run.is_dirty(i), run.kernel_copy());
            self.say(t);
            let refuse = self.lock().refuse;
            run.done(i, if refuse { Err(PagerError::Io) } else { Ok(()) });
        }
    }
    fn init(&self, object: ControlId, _bytes: u64) -> Option<Attributes> {
        self.say(Told::Init);
        self.lock().controls.push(object);
        self.lock().ready
    }
    fn data_unlock(&self, _: ControlId, offset: u64, bytes: u64, access: Prot) {
        assert_eq!(bytes, PAGE_SIZE);
        self.say(Told::Unlock(offset / PAGE_SIZE, access));
    }
    fn synchronize(&self, _: ControlId, offset: u64, bytes: u64) -> Result<(), PagerError> {
        self.say(Told::Synchronize(offset / PAGE_SIZE, bytes / PAGE_SIZE));
        Ok(())
    }
    fn copied(&self, _: ControlId, offset: u64, bytes: u64) {
        self.say(Told::Copied(offset / PAGE_SIZE, bytes / PAGE_SIZE));
    }
    fn map(&self, _: ControlId) {
        self.say(Told::Map);
    }
    fn last_unmap(&self, _: ControlId) {
        self.say(Told::LastUnmap);
    }
    fn terminated(&self, _: ControlId) {
        self.say(Told::Terminated);
    }
}

/// A machine with a pager.
struct Scene<'a> {
    vm: &'a Vm<Machine>,
    pager: &'static Remote,
    id: PagerId,
}

impl<'a> Scene<'a> {
    fn object(&self) -> Object {
        self.vm.memory_object(self.id, off(64), &mut may()).expect("memory")
    }
    /// A task that maps the first pages of the object.
    fn task(&self) -> Task<'a> {
        let t = Task::new(self.vm);
        self.map(&t, 0);
        t
    }
    fn map(&self, t: &Task<'_>, at: u64) {
        let a = Rights::new(Prot::RW);
        let backing = Backing::Shared(self.object(), Pindex(0));
        t.map.insert(pages(at, 32), backing, &a, &mut may()).expect("insert");
    }
    fn supply(&self, page: u64, byte: u8) {
        self.supply_as(page, byte, Prot::NONE, Supply::Clean);
    }
    fn supply_as(&self, page: u64, byte: u8, lock: Prot, how: Supply) {
        let done = self.vm.data_supply(self.pager.control(), off(page), &full(byte), lock, how, &mut may());
        done.unwrap_or_else(|e| panic!("page {page}: {e:?}"));
    }
}

/// Runs `test` on every kind of machine, with a pager that is ready at once unless `init` says
/// otherwise; nothing may be left over.
fn scene_with(init: Option<Attributes>, frames: u32, test: impl Fn(&Scene<'_>)) {
    for c in (Config { frames, ..Config::default() }).every_kind() {
        let vm = Vm::new(Machine::new(c)).expect("memory");
        let pager: &'static Remote =
            Box::leak(Box::new(Remote(Mutex::new(Inner { ready: init, ..Inner::default() }))));
        let id = vm.platform().add_any_pager(pager);
        test(&Scene { vm: &vm, pager, id });
        vm.set_object_cache(0, &mut may());
        check_quiet(&vm, []);
        assert_eq!(vm.live(), [0; 6], "left over, {c:?}");
        assert_eq!(vm.platform().pager_users(), 0);
    }
}

fn scene(test: impl Fn(&Scene<'_>)) {
    scene_with(Some(Attributes::default()), 256, test);
}

fn touch(page: u64, access: Prot) -> Fault {
    Fault { addr: RawAddr(at(page)), access }
}

/// Steps until something is to be waited for: what, or `None` when the page is there.
fn go(t: &Task<'_>, page: u64, access: Prot) -> Result<Option<WaitFor>, FaultError> {
    let vm = t.map.vm();
    for _ in 0..1000 {
        match t.map.fault_step(&touch(page, access))? {
            Step::Done => return Ok(None),
            Step::Wait(w) => return Ok(Some(w)),
            Step::PageIn(id, req) => {
                machvm::Platform::pager(vm.platform(), id).expect("there").page_in(req);
            }
            Step::Unlock(u) => vm.ask_unlock(&u, va(page))?,
            Step::Again => {}
            other => panic!("unexpected step {other:?}"),
        }
    }
    panic!("no progress")
}

fn waits_for_page(t: &Task<'_>, page: u64, access: Prot) {
    let w = go(t, page, access);
    assert!(matches!(w, Ok(Some(WaitFor::Page(_)))), "{w:?}");
}
fn waits_for_pager(t: &Task<'_>, page: u64, access: Prot) {
    let w = go(t, page, access);
    assert!(matches!(w, Ok(Some(WaitFor::Pager(..)))), "{w:?}");
}

fn first_byte(t: &Task<'_>, page: u64) -> Result<u8, FaultError> {
    let mut b = [0];
    t.load(at(page), &mut b).map(|()| b[0])
}
/// Every byte of a page, which are all the same.
fn byte_of(t: &Task<'_>, page: u64) -> u8 {
    let mut b = full(0);
    t.load(at(page), &mut b).unwrap_or_else(|e| panic!("page {page}: {e:?}"));
    assert!(b.iter().all(|x| *x == b[0]), "page {page} is torn");
    b[0]
}
