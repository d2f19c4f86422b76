//! Tests of the hardware itself, over tables built from words by hand.

mod checks;
mod flush_arm;
mod flush_riscv;
mod flush_x86;
mod interrupts;
mod mini;
mod programs;
mod threads;
mod walkers;

use std::sync::Arc;

use machvm_arch::{ArmIsa, Dsb, RiscvIsa, X86Isa};
use machvm_hal::Pfn;

use super::state::State;
use super::walk::Arch;
use super::{Access, Config, Fault, Hw, HwIsa, Kind, Mode};

/// A machine whose adversary sleeps unless woken.
struct Rig {
    hw: Arc<Hw>,
    isa: HwIsa,
    arch: Arch,
}

/// A user page, in the architecture's bits: readable, or writable and written.
fn user_leaf(arch: Arch, pfn: u64, write: bool) -> u64 {
    let w = u64::from(write);
    match arch {
        // P, R/W, U/S, A, D
        Arch::X86L4 | Arch::X86L5 => pfn << 12 | 1 | w << 1 | 1 << 2 | 1 << 5 | w << 6,
        // page, AttrIndx 0, AP, SH 3, AF, nG, PXN
        Arch::Aarch64 => pfn << 12 | 3 | 1 << 6 | (1 - w) << 7 | 3 << 8 | 1 << 10 | 1 << 11 | 1 << 53,
        // V, R, W, U, A, D
        _ => pfn << 10 | 1 | 2 | w << 2 | 1 << 4 | 1 << 6 | w << 7,
    }
}

/// The same, of 2 MiB.
fn user_block(arch: Arch, pfn: u64, write: bool) -> u64 {
    match arch {
        Arch::X86L4 | Arch::X86L5 => user_leaf(arch, pfn, write) | 1 << 7,
        Arch::Aarch64 => user_leaf(arch, pfn, write) & !2,
        _ => user_leaf(arch, pfn, write),
    }
}

/// A global page of the kernel's, writable and written.
fn kernel_leaf(arch: Arch, pfn: u64) -> u64 {
    match arch {
        Arch::X86L4 | Arch::X86L5 => pfn << 12 | 1 | 1 << 1 | 1 << 5 | 1 << 6 | 1 << 8,
        Arch::Aarch64 => pfn << 12 | 3 | 3 << 8 | 1 << 10 | 1 << 54,
        _ => pfn << 10 | 1 | 2 | 4 | 1 << 5 | 1 << 6 | 1 << 7,
    }
}

/// A pointer to a table that takes nothing away.
fn pointer(arch: Arch, table: u64) -> u64 {
    match arch {
        Arch::X86L4 | Arch::X86L5 => table << 12 | 1 | 1 << 1 | 1 << 2 | 1 << 5,
        Arch::Aarch64 => table << 12 | 3,
        _ => table << 10 | 1,
    }
}

impl Rig {
    fn new(arch: Arch) -> Self {
        Self::with(Config { rate: 0, ..Config::new(arch, 1) })
    }
    fn with(config: Config) -> Self {
        let hw = Hw::new(config);
        Rig { isa: HwIsa::new(hw.clone()), hw, arch: config.arch }
    }
    fn s<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut self.hw.state())
    }
    /// The `n`-th memory frame.
    fn frame(&self, n: u64) -> u64 {
        self.hw.config().first_frame() + n
    }
    fn table(&self) -> u64 {
        self.hw.here(|s, cpu| s.table_alloc(cpu)).expect("tables are left")
    }
    fn put(&self, table: u64, index: usize, raw: u64) {
        self.hw.here(|s, cpu| s.table_swap(cpu, table, index, raw));
        // Visible to walkers: tests of what is not say so.
        if self.arch.is_arm() {
            self.isa.dsb(Dsb::Ishst);
        }
    }
    fn get(&self, table: u64, index: usize) -> u64 {
        self.s(|s| s.word(table, index))
    }
    /// The table at `level` on the way to `va`, made if it is not there.
    fn table_for(&self, root: u64, va: u64, level: u8) -> u64 {
        let mut table = root;
        for l in (level + 1..=self.arch.levels()).rev() {
            let i = Arch::index(va, l);
            let raw = self.get(table, i);
            table = match self.s(|s| s.mmu.decode(raw, l)) {
                super::Entry::Next(n) => n.table,
                _ => {
                    let t = self.table();
                    self.put(table, i, pointer(self.arch, t));
                    t
                }
            };
        }
        table
    }
    /// Writes the entry of `va` at `level`.
    fn map(&self, root: u64, va: u64, level: u8, raw: u64) {
        self.put(self.table_for(root, va, level), Arch::index(va, level), raw);
    }
    /// A CPU runs on a root, having flushed nothing for it.
    fn run(&self, cpu: u16, root: u64, asid: u16) {
        self.hw.on_cpu(cpu, || match self.arch {
            Arch::X86L4 | Arch::X86L5 => self.isa.write_cr3(1 << 63 | root << 12 | u64::from(asid)),
            Arch::Aarch64 => {
                self.isa.write_ttbr0(u64::from(asid) << 48 | root << 12);
                self.isa.isb();
            }
            Arch::Sv39 => self.isa.write_satp(8 << 60 | u64::from(asid) << 44 | root),
            Arch::Sv48 => self.isa.write_satp(9 << 60 | u64::from(asid) << 44 | root),
            Arch::Sv57 => self.isa.write_satp(10 << 60 | u64::from(asid) << 44 | root),
        });
    }
    fn touch(&self, cpu: u16, va: u64, what: Access) -> Result<u64, Fault> {
        self.hw.on_cpu(cpu, || self.hw.access(va, what, Mode::User)).map(|p| p.0)
    }
    /// Makes the CPU cache the translation and all tables on the way.
    fn fill(&self, cpu: u16, va: u64) {
        let mode = if State::is_kernel(va) { Mode::Kernel } else { Mode::User };
        // Walks may start at a table that is remembered; a few reach everything.
        for _ in 0..16 {
            let got = self.hw.here(|s, _| s.walk(usize::from(cpu), va, Some(Access::Read.right(mode))));
            assert!(got.is_ok(), "{va:#x}: {got:?}");
        }
    }
    /// Numbers under which the CPU caches a translation of `va`.
    fn cached(&self, cpu: u16, va: u64) -> Vec<u16> {
        self.s(|s| {
            let tlb = &s.cpus[usize::from(cpu)].tlb;
            let mut v: Vec<_> = tlb.iter().filter(|e| e.covers(va >> 12)).map(|e| e.asid).collect();
            v.sort_unstable();
            v.dedup();
            v
        })
    }
    /// Levels of the tables that the CPU remembers on the way to `va`, under `asid`.
    fn tables(&self, cpu: u16, va: u64, asid: u16) -> Vec<u8> {
        self.s(|s| {
            let on_way = |e: &&super::cpu::CachedTable| e.covers(va >> 12) && e.asid == asid;
            let mut v: Vec<_> =
                s.cpus[usize::from(cpu)].tables.iter().filter(on_way).map(|e| e.level).collect();
            v.sort_unstable();
            v
        })
    }
    fn kinds(&self) -> Vec<Kind> {
        let mut k: Vec<_> = self.hw.reports().iter().map(|r| r.kind).collect();
        k.dedup();
        k
    }
}

/// A root with one page at 2 MiB + 4 KiB and one beside it, loaded on CPUs 0 and 1.
const A: u64 = 0x20_1000;
const B: u64 = 0x20_2000;

fn two_pages(arch: Arch, asid: u16) -> (Rig, u64) {
    let rig = Rig::new(arch);
    let root = rig.table();
    rig.map(root, A, 1, user_leaf(arch, rig.frame(1), true));
    rig.map(root, B, 1, user_leaf(arch, rig.frame(2), true));
    for cpu in 0..2 {
        rig.run(cpu, root, asid);
        rig.fill(cpu, A);
        rig.fill(cpu, B);
        assert_eq!(rig.cached(cpu, A), [asid]);
        let all: Vec<u8> = (1..arch.levels()).collect();
        assert_eq!(rig.tables(cpu, A, asid), all);
    }
    (rig, root)
}

#[test]
fn nothing_is_wrong_with_a_machine_at_rest() {
    for arch in Arch::ALL {
        let (rig, root) = two_pages(arch, 3);
        rig.hw.check_quiet();
        rig.hw.disturb(2000);
        rig.hw.check_quiet();
        let t = rig.hw.translate(Pfn(root), A).expect("mapped");
        assert_eq!((t.pfn, t.level), (rig.frame(1), 1));
        rig.hw.assert_clean();
    }
}
