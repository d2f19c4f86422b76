//! The functions of vm_map(9), on every machine: both placements, and page tables of every
//! format.

#[path = "vm_map/races.rs"]
mod races;
#[path = "vm_map/submap.rs"]
mod submap;
#[path = "vm_map/traps.rs"]
mod traps;
#[path = "vm_map/vmspace.rs"]
mod vmspace;

use machvm::Vm;
use machvm::map::{Attributes, Backing, Map};
use machvm_hal::{MaySleep, Prot, Va, VaRange};
use machvm_model::{Config, Machine, Task, check_quiet};

const BASE: u64 = 0x2000;

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
fn rw() -> Attributes {
    Attributes::new(Prot::RW)
}
/// Runs `test` on every machine; nothing may be left over.
fn each(c: Config, test: impl Fn(&Vm<Machine>)) {
    for c in c.every_kind() {
        let vm = Vm::new(Machine::new(c)).expect("memory");
        test(&vm);
        check_quiet(&vm, []);
        assert_eq!((vm.live(), vm.submaps()), ([0; 6], 0), "left over, {c:?}");
    }
}
fn put(map: &Map<'_, Machine>, first: u64, n: u64) {
    map.insert(pages(first, n), Backing::Anonymous, &rw(), &mut may()).expect("free");
}
fn task(vm: &Vm<Machine>, n: u64) -> Task<'_> {
    let t = Task::new(vm);
    put(&t.map, 0, n);
    t
}
