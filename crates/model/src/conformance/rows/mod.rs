//! The tests, and what they ask of a machine.
//!
//! The module around this one has `panics`, which runs what must panic and gives the message.

mod bootstrap;
mod enter;
mod kernel;
mod large;
mod page;
mod query;
mod remove;
mod uses;

use core::mem::ManuallyDrop;
use core::ops::Deref;

use machvm_hal::pmap9::{Frame, PhysAddr, Pmap9, PmapFlags, PmapMachine, Shortage};
use machvm_hal::{MaySleep, PageNo, Pfn, Prot, RawAddr, Va, VaRange};

pub use bootstrap::*;
pub use enter::*;
pub use kernel::*;
pub use large::*;
pub use page::*;
pub use query::*;
pub use remove::*;
pub use uses::*;

use super::panics;

/// What a machine can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Facts {
    /// The hardware notes use by itself.
    pub hw_accessed: bool,
    /// The hardware notes writes by itself.
    pub hw_dirty: bool,
    /// The hardware may note use that no program made.
    pub speculative: bool,
    /// Fetching is a right of its own.
    pub exec: bool,
    /// There are superpages of size index 1, of 512 pages.
    pub superpage: bool,
    /// Any page can be mapped at any address (dense placement).
    pub any_frame: bool,
    /// What was removed may be used until the update, and the fixture shows it.
    pub lazy: bool,
    /// CPUs that programs run on.
    pub cpus: u16,
    /// Addresses for each page.
    pub aliases: usize,
}

/// What a program does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Touch {
    /// Loads a word.
    Load,
    /// Stores a word.
    Store(u64),
    /// Fetches an instruction.
    Fetch,
}

impl Touch {
    /// The access.
    pub const fn access(self) -> Prot {
        match self {
            Touch::Load => Prot::R,
            Touch::Store(_) => Prot::W,
            Touch::Fetch => Prot::X,
        }
    }
}

/// The pmaps of a fixture.
pub type PmapOf<F> = <<F as Fixture>::Machine as PmapMachine>::Pmap;

/// A machine for one test.
pub trait Fixture: Sized {
    /// What is tested.
    type Machine: PmapMachine;

    /// What is tested.
    fn machine(&self) -> &Self::Machine;
    /// What it can do.
    fn facts(&self) -> Facts;
    /// Runs what makes a pmap.
    fn making<R>(&self, f: impl FnOnce() -> R) -> R {
        f()
    }
    /// A pmap was made.
    fn created(&self, _pm: &PmapOf<Self>) {}
    /// Runs `f` while other CPUs do nothing of their own accord: what they could walk of this
    /// CPU's quick page is theirs to keep (PM37: the flush is local) and never used.
    fn alone<R>(&self, f: impl FnOnce() -> R) -> R {
        f()
    }
    /// The `n`-th page, `n` below 1024 (64 without superpages): consecutive frames; pages 0
    /// and 512 may be the first of a superpage.
    fn page(&self, n: usize) -> PageNo;
    /// Where a page is; `None`: physical addresses mean nothing here.
    fn physical(&self, page: PageNo) -> Option<PhysAddr>;
    /// 512 frames in a row, aligned, that are nobody's pages; `None`: there are none.
    fn device(&self) -> Option<Pfn>;
    /// A user address for page `n`; `alias` below [`Facts::aliases`]. Consecutive in `n`;
    /// aligned for superpages as the page is.
    fn at(&self, alias: usize, n: usize) -> Va;
    /// A user address for page `n` whose page tables nothing else shares, `k` from 0 to 3.
    fn far(&self, k: usize, n: usize) -> Va;
    /// The `n`-th kernel address for unmanaged mappings, `n` below 64.
    fn kernel(&self, n: u64) -> Va;

    /// A program of `pm` on a CPU. What a load gives (a fetch and a store: 0); `None`: it
    /// faulted. The CPU stays on the pmap.
    fn run(&self, cpu: u16, pm: &PmapOf<Self>, at: RawAddr, what: Touch) -> Option<u64>;
    /// The same for the kernel.
    fn run_kernel(&self, cpu: u16, at: RawAddr, what: Touch) -> Option<u64>;
    /// `pmap_fault` on the CPU that faulted.
    fn fault(&self, _cpu: u16, pm: &PmapOf<Self>, at: RawAddr, access: Prot) -> bool {
        pm.pmap_fault(at, access)
    }
    /// No CPU has any user pmap loaded.
    fn leave(&self);
    /// A word of a page, past every mapping.
    fn peek(&self, page: PageNo, off: usize) -> u64;
    /// See [`Fixture::peek`].
    fn poke(&self, page: PageNo, off: usize, word: u64);
    /// No memory for this from now on, or again. `false`: cannot be arranged.
    fn shortage(&self, what: Shortage, on: bool) -> bool;
    /// The `k`-th request for memory from now on (from 1) is refused, of any kind; 0: none is.
    /// `None`: cannot be arranged. Else: was one refused since the last call?
    fn fail_at(&self, _k: u64) -> Option<bool> {
        None
    }
    /// Panics if the machine noticed a mistake.
    fn finish(&self);
}

pub(crate) const RX: Prot = Prot::R.union(Prot::X);
pub(crate) const CANFAIL: PmapFlags = PmapFlags::PMAP_CANFAIL;

pub(crate) fn may() -> MaySleep {
    MaySleep::claim()
}
pub(crate) fn raw(va: Va) -> RawAddr {
    RawAddr(va.get())
}
pub(crate) fn pages(va: Va, n: u64) -> VaRange {
    VaRange::of_pages(va, n).expect("a range")
}

/// A pmap that a failing test leaves alone: ending it would be a second panic.
pub(crate) struct Own<P>(ManuallyDrop<P>);

impl<P> Deref for Own<P> {
    type Target = P;
    fn deref(&self) -> &P {
        &self.0
    }
}
impl<P: Pmap9> Own<P> {
    pub(crate) fn pmap_destroy(self, may: &mut MaySleep) {
        ManuallyDrop::into_inner(self.0).pmap_destroy(may);
    }
    pub(crate) fn pmap_reference(&self) -> Self {
        Own(ManuallyDrop::new(self.0.pmap_reference()))
    }
}

pub(crate) fn new<F: Fixture>(f: &F) -> Own<PmapOf<F>> {
    own(f, f.making(|| f.machine().pmap_create()).expect("memory for a pmap"))
}
pub(crate) fn own<F: Fixture>(f: &F, pm: PmapOf<F>) -> Own<PmapOf<F>> {
    f.created(&pm);
    Own(ManuallyDrop::new(pm))
}

/// Enters a page for a reason, without failing.
pub(crate) fn enter<F: Fixture>(pm: &PmapOf<F>, va: Va, page: PageNo, prot: Prot, access: Prot) {
    let done = pm.pmap_enter(va, Frame::Page(page), prot, CANFAIL.accessed_by(access), &mut may());
    assert_eq!(done, Ok(()), "entering {page:?} at {va:?}");
}
/// The same, wired; every access may come.
pub(crate) fn wire<F: Fixture>(pm: &PmapOf<F>, va: Va, page: PageNo, prot: Prot) {
    let flags = CANFAIL | PmapFlags::PMAP_WIRED;
    let done = pm.pmap_enter(va, Frame::Page(page), prot, flags.accessed_by(prot), &mut may());
    assert_eq!(done, Ok(()), "wiring {page:?} at {va:?}");
}

/// A program's access, with the faults that are only about noting it: `None` if the
/// tables do not allow it.
pub(crate) fn touch<F: Fixture>(f: &F, cpu: u16, pm: &PmapOf<F>, va: Va, what: Touch) -> Option<u64> {
    for _ in 0..4 {
        if let Some(word) = f.run(cpu, pm, raw(va), what) {
            return Some(word);
        }
        if !f.fault(cpu, pm, raw(va), what.access()) {
            return None;
        }
    }
    panic!("{what:?} at {va:?} faults for ever, and pmap_fault says it is noted");
}
/// As [`touch`], by the kernel. A mapping that was just made may fault once on other CPUs
/// where they remember that nothing was there (RISC-V).
pub(crate) fn kernel<F: Fixture>(f: &F, cpu: u16, at: RawAddr, what: Touch) -> Option<u64> {
    f.run_kernel(cpu, at, what).or_else(|| {
        let k = f.machine().pmap_kernel();
        f.fault(cpu, &k, at, what.access()).then(|| f.run_kernel(cpu, at, what)).flatten()
    })
}
pub(crate) fn loads<F: Fixture>(f: &F, pm: &PmapOf<F>, va: Va) -> bool {
    touch(f, 0, pm, va, Touch::Load).is_some()
}
pub(crate) fn stores<F: Fixture>(f: &F, pm: &PmapOf<F>, va: Va) -> bool {
    touch(f, 0, pm, va, Touch::Store(1)).is_some()
}

/// Ends a pmap with whatever is in it.
pub(crate) fn end<F: Fixture>(f: &F, pm: Own<PmapOf<F>>, ranges: &[VaRange]) {
    ranges.iter().for_each(|r| pm.pmap_remove(*r));
    pm.pmap_update(&mut may());
    let left = pm.pmap_statistics();
    assert_eq!((left.resident_count, left.wired_count), (0, 0), "left in {ranges:?}");
    f.leave();
    pm.pmap_destroy(&mut may());
}
