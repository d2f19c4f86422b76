//! The instructions of `machvm-arch`, on this machine: operands decoded by the manuals,
//! and doing what is promised and not a bit more.

mod arm;
mod riscv;
mod x86;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use super::hardware::Hw;
use super::report::Kind;
use super::state::{Place, State, Use};
use super::trace::Event;

/// CR4 as a kernel has set it: PAE, PGE and, with numbers, PCIDE.
pub(crate) const fn cr4_at_start(numbers: bool) -> u64 {
    x86::CR4_PAE | x86::CR4_PGE | if numbers { x86::CR4_PCIDE } else { 0 }
}

/// A mistake in a flush sequence, for tests of the tests.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Mistake {
    /// Invalidations name the next page.
    WrongPage = 1,
    /// Invalidations name another address space's number.
    WrongNumber,
    /// AArch64: no DSB before a TLBI.
    NoBarrierBefore,
    /// AArch64: no DSB after a TLBI.
    NoBarrierAfter,
    /// AArch64: TLBIs of one CPU only.
    NotBroadcast,
    /// AArch64: TLBIs of last-level entries only, whatever was asked.
    LastLevelOnly,
}

/// The instructions of whatever CPU the calling thread runs on.
#[derive(Clone, Debug)]
pub struct HwIsa(pub(crate) Arc<Hw>, Arc<AtomicU8>);

impl HwIsa {
    /// Of a machine.
    pub fn new(hw: Arc<Hw>) -> Self {
        HwIsa(hw, Arc::default())
    }
    /// Sequences make this mistake from now on.
    pub fn seed(&self, m: Mistake) {
        self.1.store(m as u8, Relaxed);
    }
    fn makes(&self, m: Mistake) -> bool {
        self.1.load(Relaxed) == m as u8
    }
    /// The page that an invalidation names.
    fn page(&self, va: u64) -> u64 {
        if self.makes(Mistake::WrongPage) { va ^ 0x1000 } else { va }
    }
    /// The number that an invalidation names.
    fn number(&self, asid: u16) -> u16 {
        if self.makes(Mistake::WrongNumber) { asid ^ 1 } else { asid }
    }
}

impl State {
    /// An instruction begins. Not a [`State::tick`]: the flush that belongs to a load may
    /// be this one.
    pub(crate) fn instruction(&mut self, cpu: usize, name: &'static str, operand: u64) {
        self.step += 1;
        self.cpus[cpu].turns = 0;
        self.event(Event::Instruction { cpu: cpu as u16, name, operand });
        self.adversary();
    }

    pub(crate) fn bad_operand(&mut self, cpu: usize, operand: u64) {
        self.report(Kind::Operand, cpu, None, operand, 0);
    }

    /// The CPU walks from this root from now on.
    pub(crate) fn load_root(&mut self, cpu: usize, root: u64, asid: u16) {
        if self.cpus[cpu].loading {
            // Two loads in a row: the first had its chance.
            self.check_loaded(cpu);
        }
        if !self.exists(root) || self.frames[root as usize].used != Use::Table {
            return self.bad_operand(cpu, root << 12);
        }
        self.know_root(root as u32);
        self.event(Event::Load { cpu: cpu as u16, root, asid });
        let c = &mut self.cpus[cpu];
        if self.mmu.arch.is_arm() {
            c.before = c.loaded;
        }
        c.loaded = Some((root as u32, asid));
        c.loading = true;
        self.loading += 1;
    }

    /// The tree below a root is placed, if it was not.
    pub(crate) fn know_root(&mut self, root: u32) {
        let level = self.mmu.arch.levels();
        match self.frames[root as usize].place {
            // AArch64's kernel root may be loaded as a user root too, to have none.
            Some(p) if p.level == level => return,
            // Something else until now, and never freed in between.
            Some(_) => self.frames[root as usize].life += 1,
            None => {}
        }
        self.place(u64::from(root), Place { origin: self.origin(root), level, va: 0 });
    }
}
