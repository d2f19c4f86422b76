//! The Mach calls on the software machine: contents through loads and stores, in both
//! placements, nothing left over. Tests are named after rows of the inventory.
//! `MACHVM_SEED=n` runs one seed of a random test again.

mod mach {
    pub(crate) mod allocate;
    pub(crate) mod attributes;
    pub(crate) mod copy;
    pub(crate) mod entries;
    pub(crate) mod info;
    pub(crate) mod purge;
    pub(crate) mod races;
    pub(crate) mod random;
    pub(crate) mod read_write;
    pub(crate) mod remap;
    pub(crate) mod wire;
}

use machvm::Vm;
use machvm::task::{Personality, RawFlags, RawInherit, RawProt, Task, VmFlags};
use machvm_hal::{MaySleep, PAGE_SIZE, Prot, RawAddr, RawSize, Va, VaRange};
use machvm_model::{Config, Machine, Task as Program, check_quiet};

const P: u64 = PAGE_SIZE;
const MACH3: &Personality = &Personality::MACH3;
const XNU: &Personality = &Personality::XNU;
const ANYWHERE: RawFlags = RawFlags(VmFlags::ANYWHERE.bits());
const FIXED: RawFlags = RawFlags(0);
const COPY: RawInherit = RawInherit(1);
/// First address that tests use.
const BASE: u64 = 0x40_0000;

fn may() -> MaySleep {
    MaySleep::claim()
}
fn a(addr: u64) -> RawAddr {
    RawAddr(addr)
}
fn n(size: u64) -> RawSize {
    RawSize(size)
}
fn prot(p: Prot) -> RawProt {
    p.into()
}
fn va(addr: u64) -> Va {
    Va::containing(RawAddr(addr))
}
fn range(addr: u64, pages: u64) -> VaRange {
    VaRange::of_pages(va(addr), pages).expect("a range")
}
fn program(vm: &Vm<Machine>) -> Program<'_> {
    Program::new(vm)
}
fn as_<'t, 'vm>(p: &'t Program<'vm>, how: &'static Personality) -> Task<'t, 'vm, Machine> {
    Task::new(&p.map, how)
}
fn xnu<'t, 'vm>(p: &'t Program<'vm>) -> Task<'t, 'vm, Machine> {
    as_(p, XNU)
}

/// Runs a test in both placements, and looks for what it left.
fn both(frames: u32, test: impl Fn(&Vm<Machine>)) {
    for sparse in [true, false] {
        let vm = Vm::new(Machine::new(Config { sparse, frames, ..Config::default() })).expect("memory");
        test(&vm);
        check_quiet(&vm, []);
        assert_eq!(vm.live(), [0; 6], "left over, sparse: {sparse}");
    }
}

/// `pages` pages at [`BASE`], written: byte `i` of the range is `pattern(i)`.
fn filled<'vm>(vm: &'vm Vm<Machine>, pages: u64) -> Program<'vm> {
    let p = program(vm);
    fill(&p, BASE, pages);
    p
}
fn fill(p: &Program<'_>, addr: u64, pages: u64) {
    assert_eq!(xnu(p).vm_allocate(a(addr), n(pages * P), FIXED, &mut may()), Ok(addr));
    p.store(addr, &pattern(0, pages * P)).expect("writable");
}
/// What [`fill`] writes, from byte `from` on.
fn pattern(from: u64, len: u64) -> Vec<u8> {
    (from..from + len).map(|i| (i ^ (i >> 8) ^ ((i >> 12) * 7)) as u8).collect()
}
fn bytes(p: &Program<'_>, addr: u64, len: u64) -> Vec<u8> {
    let mut b = vec![0; len as usize];
    p.load(addr, &mut b).expect("readable");
    b
}
fn fork<'vm>(p: &Program<'vm>) -> Program<'vm> {
    Program { map: p.map.fork(p.map.vm().platform().pmap(), &mut may()).expect("fork") }
}
fn protect(p: &Program<'_>, addr: u64, pages: u64, to: Prot) {
    assert_eq!(xnu(p).vm_protect(a(addr), n(pages * P), false, prot(to), &mut may()), Ok(()));
}
