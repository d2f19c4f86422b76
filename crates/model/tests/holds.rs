//! Holds for I/O against everything else that happens to memory, and wired memory that is
//! copied. Tests are named after rows of the inventory; `d16` is the rule that a held page
//! is never shared. `MACHVM_SEED=n` runs one seed again, `MACHVM_LONG=n` 20 n.

mod common;
mod holds {
    pub(crate) mod copies;
    pub(crate) mod pages;
    pub(crate) mod random;
    pub(crate) mod wired;
}

use std::panic::{AssertUnwindSafe, catch_unwind};

use machvm::Vm;
use machvm::fault::{Absent, Held, HeldPage, HoldError};
use machvm::map::{Attributes, Backing};
use machvm_hal::{MaySleep, PAGE_SIZE, Pmap, Prot, RawAddr, RawSize, Va, VaRange};
use machvm_model::{Config, Machine, Task, check_quiet};

const BASE: u64 = 0x2000;
const P: u64 = PAGE_SIZE;

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
/// On every kind of machine, and nothing is left over.
fn with(frames: u32, test: impl Fn(&Vm<Machine>)) {
    for c in (Config { frames, ..Config::default() }).every_kind().map(Config::calm) {
        let vm = Vm::new(Machine::new(c)).expect("memory");
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| test(&vm))) {
            println!("on {c:?}");
            std::mem::forget(vm);
            std::panic::resume_unwind(panic);
        }
        check_quiet(&vm, []);
        assert_eq!(vm.live(), [0; 6], "left over, {c:?}");
    }
}
/// A task with `n` pages, page p of which starts with the word 100 + p.
fn task(vm: &Vm<Machine>, n: u64) -> Task<'_> {
    let t = Task::new(vm);
    t.map.insert(pages(0, n), Backing::Anonymous, &Attributes::new(Prot::RW), &mut may()).expect("insert");
    (0..n).for_each(|p| t.store_word(at(p), 100 + p).expect("store"));
    t
}
fn fork<'vm>(t: &Task<'vm>) -> Task<'vm> {
    Task { map: t.map.fork(t.map.vm().platform().pmap(), &mut may()).expect("fork") }
}
fn page_all_out(vm: &Vm<Machine>) {
    while vm.pageout(1000, &mut may()) != 0 {}
}
fn resident(t: &Task<'_>, page: u64) -> bool {
    t.map.is_resident(va(page), &mut may())
}
fn list<const N: usize>() -> [HeldPage; N] {
    std::array::from_fn(|_| HeldPage::default())
}
fn hold<'a, 'vm>(
    t: &Task<'vm>,
    r: VaRange,
    access: Prot,
    list: &'a mut [HeldPage],
) -> Result<Held<'a, 'vm, Machine>, HoldError> {
    let (addr, len) = (RawAddr(r.start().get()), RawSize(r.bytes()));
    t.map.fault_quick_hold_pages(addr, len, access, Absent::Fault, list, &mut may())
}
fn dma_write(h: &Held<'_, '_, Machine>, page: u64, word: u64) {
    h.write((page * P) as usize, &word.to_le_bytes()).expect("held for writing");
}
fn dma_read(h: &Held<'_, '_, Machine>, page: u64) -> u64 {
    let mut b = [0; 8];
    h.read((page * P) as usize, &mut b).expect("in the range");
    u64::from_le_bytes(b)
}
fn writable(t: &Task<'_>, page: u64) -> bool {
    let vm = t.map.vm();
    t.map.pmap().extract(vm.page_array(), va(page)).is_some_and(|(_, p)| p.contains(Prot::W))
}
