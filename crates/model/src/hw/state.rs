//! Everything the machine is, behind one lock.

use crate::rng::Rng;

use super::config::Config;
use super::cpu::Cpu;
use super::report::{Checks, Kind, Report};
use super::trace::{Event, Ring};
use super::walk::Mmu;

/// Words of a frame.
pub(crate) const WORDS: usize = 512;
/// Addresses the adversary likes best.
const HOT: usize = 16;
/// Reports that are kept.
const REPORTS: usize = 64;

/// Which address space: its root's frame, and which life of that frame. The kernel's
/// translations belong to no root.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Origin {
    pub(crate) root: u32,
    pub(crate) life: u32,
}

impl Origin {
    pub(crate) const KERNEL: Origin = Origin { root: u32::MAX, life: 0 };
}

/// What a frame is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Use {
    /// Nothing.
    Free,
    /// Memory.
    Data,
    /// A page table.
    Table,
}

/// Where a table is in a tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) origin: Origin,
    pub(crate) level: u8,
    /// First address that it translates.
    pub(crate) va: u64,
}

/// What the machine knows of a frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    pub(crate) used: Use,
    /// Counts uses as a root.
    pub(crate) life: u32,
    pub(crate) place: Option<Place>,
}

/// See the module text.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) mmu: Mmu,
    pub(crate) config: Config,
    pub(crate) checks: Checks,
    pub(crate) words: Vec<u64>,
    pub(crate) frames: Vec<Frame>,
    /// Frames for tables.
    pub(crate) free: Vec<u32>,
    pub(crate) cpus: Vec<Cpu>,
    /// AArch64: the root of the kernel's half.
    pub(crate) kernel_root: Option<u32>,
    /// Writes in all the CPUs' `unseen`.
    pub(crate) unseen: usize,
    pub(crate) step: u64,
    pub(crate) rng: Rng,
    pub(crate) rate: u64,
    pub(crate) ring: Ring,
    pub(crate) reports: Vec<Report>,
    /// The ring as it was at the first report.
    pub(crate) first: Option<String>,
    /// All of them, kept or not.
    pub(crate) found: u64,
    hot: [u64; HOT],
    hot_next: usize,
    /// Table allocations until one fails; 0: none does.
    pub(crate) fail_in: u64,
    /// All later ones fail too.
    pub(crate) fail_on: bool,
    /// Table allocations asked for.
    pub(crate) asked: u64,
    /// Interrupts that were sent and not taken.
    pub(crate) ipis: u32,
    /// CPUs between loading a root and the flush for it.
    pub(crate) loading: u32,
}

impl State {
    pub(crate) fn new(config: Config) -> Self {
        let first = config.first_frame();
        let n = first + u64::from(config.frames);
        let memory = if config.memory_in_use { Use::Data } else { Use::Free };
        let frame = |i| Frame { used: if i < first { Use::Free } else { memory }, life: 0, place: None };
        let cr4 = super::isa::cr4_at_start(config.asids > 1);
        let cpu = |_| Cpu { cr4, ..Cpu::default() };
        State {
            mmu: Mmu { arch: config.arch, updates: config.updates },
            checks: Checks::all(),
            words: vec![0; n as usize * WORDS],
            frames: (0..n).map(frame).collect(),
            free: (1..=config.tables).rev().collect(),
            cpus: (0..config.cpus).map(cpu).collect(),
            kernel_root: None,
            unseen: 0,
            step: 1,
            rng: Rng::new(config.seed),
            rate: config.rate,
            ring: Ring::new(config.trace),
            reports: Vec::new(),
            first: None,
            found: 0,
            hot: [0; HOT],
            hot_next: 0,
            fail_in: 0,
            fail_on: false,
            asked: 0,
            ipis: 0,
            loading: 0,
            config,
        }
    }

    pub(crate) fn event(&mut self, e: Event) {
        self.ring.push(self.step, e);
    }

    pub(crate) fn report(&mut self, kind: Kind, cpu: usize, origin: Option<Origin>, va: u64, frame: u64) {
        if !self.checks.contains(kind.check()) {
            return;
        }
        self.found += 1;
        let space = origin.filter(|o| *o != Origin::KERNEL).map(|o| machvm_hal::Pfn(u64::from(o.root)));
        let r = Report { kind, cpu: cpu as u16, space, va, frame, step: self.step };
        if self.first.is_none() {
            self.first = Some(self.ring.text());
        }
        if self.reports.len() < REPORTS {
            self.reports.push(r);
        }
    }

    /// An address the adversary should try.
    pub(crate) fn heat(&mut self, va: u64) {
        self.hot[self.hot_next] = va;
        self.hot_next = (self.hot_next + 1) % HOT;
    }
    /// One of those, or near one.
    pub(crate) fn some_va(&mut self) -> u64 {
        // The newest is where something is going on.
        let back = if self.rng.one_in(2) { 1 } else { 1 + self.rng.below(HOT as u64) as usize };
        let va = self.hot[(self.hot_next + HOT - back) % HOT];
        match self.rng.below(8) {
            0 => va ^ 1 << self.rng.range(12, 22),
            1 => va & !0x1f_ffff | self.rng.below(512) << 12,
            _ => va,
        }
    }

    /// The word as memory has it.
    #[inline]
    pub(crate) fn word(&self, table: u64, index: usize) -> u64 {
        self.words.get(table as usize * WORDS + index).copied().unwrap_or(0)
    }
    pub(crate) fn exists(&self, frame: u64) -> bool {
        frame < self.frames.len() as u64
    }
    /// Which life of which space a root stands for.
    pub(crate) fn origin(&self, root: u32) -> Origin {
        Origin { root, life: self.frames[root as usize].life }
    }
    /// Is it the kernel half?
    pub(crate) fn is_kernel(va: u64) -> bool {
        va >> 63 != 0
    }
    /// Whose translations of `va` are those of a CPU with this root?
    pub(crate) fn origin_at(&self, root: u32, va: u64) -> Origin {
        if Self::is_kernel(va) { Origin::KERNEL } else { self.origin(root) }
    }
    /// The root that the tables of a space hang from; for the kernel's on machines with
    /// one root, the CPU's own or any.
    pub(crate) fn root_of(&self, origin: Origin, cpu: usize) -> Option<u32> {
        if origin != Origin::KERNEL {
            let f = self.frames[origin.root as usize];
            return (f.life == origin.life && f.used == Use::Table).then_some(origin.root);
        }
        if self.mmu.arch.is_arm() {
            return self.kernel_root;
        }
        let own = self.cpus[cpu].loaded;
        own.or_else(|| self.cpus.iter().find_map(|c| c.loaded)).map(|l| l.0)
    }
}
