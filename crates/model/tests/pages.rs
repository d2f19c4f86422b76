//! Pages as the core's own interface: vm_page(9) (rows P), page by page of objects that no map
//! or several maps show.

/// The first word of a page.
macro_rules! word_of {
    ($page:expr) => {
        word(|b| $page.read(0, b))
    };
}

mod pages {
    pub(crate) mod fail;
    pub(crate) mod grab;
    pub(crate) mod make;
    pub(crate) mod moves;
    pub(crate) mod random;
    pub(crate) mod runs;
}

use machvm::map::{Attributes, Backing};
use machvm::object::Object;
use machvm::page::ContentError;
use machvm::{PagerId, Vm};
use machvm_arena::Handle;
use machvm_hal::{MaySleep, PAGE_SIZE, PhysMem, Pindex, Placement, Prot, Va, VaRange};
use machvm_model::{Config, Machine, Task, check_quiet};

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

fn is_sparse(vm: &Vm<Machine>) -> bool {
    matches!(vm.mem().placement(), Placement::Sparse { .. })
}
