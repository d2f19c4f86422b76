//! The machine as a port of `machvm-pmap`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use machvm_arch::{Arm, Mode, Riscv, Tlb, X86};
use machvm_arena::{ChunkSource, Gate, HeapChunks};
use machvm_hal::{CpuId, CpuSet, Pfn, RawAddr, Va, VaRange};
use machvm_pmap::pte::{Aarch64, Format, Sv39, Sv48, Sv57, X86L4, X86L5};
use machvm_pmap::{Bug, Cpus, HwBits, Port, TableMd, TableMem};

use super::config::Config;
use super::hardware::Hw;
use super::isa::{HwIsa, Mistake};
use super::walk::Arch;

/// A format of the pmap with the machine that it is for.
pub trait HwFormat: Format {
    /// The hardware's side.
    const ARCH: Arch;
    /// The flush sequences.
    type Tlb: Tlb + Send + 'static;
    /// The flush sequences on this machine. INVPCID is there where the seed is even.
    fn tlb(isa: HwIsa, config: &Config) -> Self::Tlb;
}

impl HwFormat for X86L4 {
    const ARCH: Arch = Arch::X86L4;
    type Tlb = X86<HwIsa>;
    fn tlb(isa: HwIsa, c: &Config) -> X86<HwIsa> {
        X86::new(isa, c.asids > 1, c.seed.is_multiple_of(2))
    }
}
impl HwFormat for X86L5 {
    const ARCH: Arch = Arch::X86L5;
    type Tlb = X86<HwIsa>;
    fn tlb(isa: HwIsa, c: &Config) -> X86<HwIsa> {
        X86::new(isa, c.asids > 1, c.seed.is_multiple_of(2))
    }
}
impl HwFormat for Aarch64 {
    const ARCH: Arch = Arch::Aarch64;
    type Tlb = Arm<HwIsa>;
    fn tlb(isa: HwIsa, c: &Config) -> Arm<HwIsa> {
        Arm::new(isa, c.asids > 256)
    }
}
impl HwFormat for Sv39 {
    const ARCH: Arch = Arch::Sv39;
    type Tlb = Riscv<HwIsa>;
    fn tlb(isa: HwIsa, c: &Config) -> Riscv<HwIsa> {
        Riscv::new(isa, Mode::Sv39, c.asids)
    }
}
impl HwFormat for Sv48 {
    const ARCH: Arch = Arch::Sv48;
    type Tlb = Riscv<HwIsa>;
    fn tlb(isa: HwIsa, c: &Config) -> Riscv<HwIsa> {
        Riscv::new(isa, Mode::Sv48, c.asids)
    }
}
impl HwFormat for Sv57 {
    const ARCH: Arch = Arch::Sv57;
    type Tlb = Riscv<HwIsa>;
    fn tlb(isa: HwIsa, c: &Config) -> Riscv<HwIsa> {
        Riscv::new(isa, Mode::Sv57, c.asids)
    }
}

/// Tables in the machine's memory.
#[derive(Debug)]
pub struct HwMem {
    hw: Arc<Hw>,
    md: Vec<TableMd>,
    /// Asked before a table is handed out.
    gate: HeapChunks,
}

impl TableMem for HwMem {
    fn load(&self, table: Pfn, index: usize) -> u64 {
        self.hw.here_then_interrupts(|s, cpu| s.table_load(cpu, table.0, index))
    }
    fn store(&self, table: Pfn, index: usize, raw: u64) {
        self.hw.here_then_interrupts(|s, cpu| s.table_swap(cpu, table.0, index, raw));
    }
    fn swap(&self, table: Pfn, index: usize, raw: u64) -> u64 {
        self.hw.here_then_interrupts(|s, cpu| s.table_swap(cpu, table.0, index, raw))
    }
    fn compare_exchange(&self, table: Pfn, index: usize, old: u64, new: u64) -> Result<u64, u64> {
        self.hw.here_then_interrupts(|s, cpu| s.table_exchange(cpu, table.0, index, old, new))
    }
    fn alloc(&self) -> Option<Pfn> {
        if !self.gate.admit() {
            return None;
        }
        self.hw.here(|s, cpu| s.table_alloc(cpu)).map(Pfn)
    }
    fn free(&self, table: Pfn) {
        self.hw.here(|s, cpu| s.table_free(cpu, table.0));
    }
    fn md(&self, table: Pfn) -> Option<&TableMd> {
        // Frame 0 is never a table.
        self.md.get(usize::try_from(table.0).ok()?.checked_sub(1)?)
    }
    fn has_frames(&self, pfn: Pfn, n: u64) -> bool {
        let c = self.hw.config();
        let end = c.first_frame() + u64::from(c.frames);
        pfn.0 >= c.first_frame() && pfn.0.checked_add(n).is_some_and(|e| e <= end)
    }
}

/// The CPUs.
#[derive(Debug)]
pub struct HwCpus {
    hw: Arc<Hw>,
}

impl Cpus for HwCpus {
    /// A host thread stays on its model CPU anyway.
    type Pin = ();

    fn current(&self) -> CpuId {
        CpuId(self.hw.cpu())
    }
    fn online(&self) -> CpuSet {
        CpuSet(u64::MAX >> (64 - self.hw.config().cpus))
    }
    fn pin(&self) {}
    fn send_ipi(&self, to: CpuSet) {
        self.hw.send_ipi(to);
    }
    fn relax(&self) {
        self.hw.relax();
    }
}

/// See the module text. Two ports of one machine share everything but what is switched
/// on here.
#[derive(Debug)]
pub struct HwPort<F: HwFormat> {
    hw: Arc<Hw>,
    mem: HwMem,
    tlb: F::Tlb,
    isa: HwIsa,
    cpus: HwCpus,
    chunks: HeapChunks,
    /// Bit `i`: the `i`-th of [`Bug::ALL`].
    bugs: AtomicU64,
}

impl<F: HwFormat> HwPort<F> {
    /// A machine of this format (whatever `config.arch` says) and its port.
    pub fn new(config: Config) -> Self {
        Self::gated(config, None)
    }
    /// As [`HwPort::new`]; records and pmap structures ask `gate` for memory.
    pub fn gated(config: Config, gate: Option<&'static dyn Gate>) -> Self {
        Self::with_gates(config, gate, None)
    }
    /// As [`HwPort::gated`]; page tables ask `tables`.
    pub fn with_gates(
        config: Config,
        records: Option<&'static dyn Gate>,
        tables: Option<&'static dyn Gate>,
    ) -> Self {
        let heap = |gate: Option<&'static dyn Gate>| gate.map_or(HeapChunks::new(), HeapChunks::gated);
        let config = Config { arch: F::ARCH, ..config };
        let hw = Hw::new(config);
        let isa = HwIsa::new(hw.clone());
        let all = config.first_frame() + u64::from(config.frames);
        HwPort {
            mem: HwMem { hw: hw.clone(), md: (1..all).map(|_| TableMd::new()).collect(), gate: heap(tables) },
            tlb: F::tlb(isa.clone(), &config),
            isa,
            cpus: HwCpus { hw: hw.clone() },
            chunks: heap(records),
            bugs: AtomicU64::new(0),
            hw,
        }
    }
    /// The machine.
    pub fn hw(&self) -> &Arc<Hw> {
        &self.hw
    }
    /// The flush sequences make this mistake from now on.
    pub fn seed_sequences(&self, m: Mistake) {
        self.isa.seed(m);
    }
    /// The pmap makes these mistakes from now on.
    pub fn seed(&self, bugs: &[Bug]) {
        let bit = |b: &Bug| 1u64 << place(*b);
        self.bugs.store(bugs.iter().map(bit).fold(0, |a, b| a | b), Relaxed);
    }
}

fn place(bug: Bug) -> usize {
    Bug::ALL.iter().position(|b| *b == bug).unwrap_or(63)
}

impl<F: HwFormat> Port for HwPort<F> {
    type Format = F;
    type Mem = HwMem;
    type Tlb = F::Tlb;
    type Cpus = HwCpus;
    type Chunks = HeapChunks;

    fn mem(&self) -> &HwMem {
        &self.mem
    }
    fn tlb(&self) -> &F::Tlb {
        &self.tlb
    }
    fn cpus(&self) -> &HwCpus {
        &self.cpus
    }
    fn chunks(&self) -> HeapChunks {
        self.chunks
    }
    fn hw_bits(&self) -> HwBits {
        let c = self.hw.config();
        let mut bits = HwBits::empty();
        bits.set(HwBits::ACCESSED, c.arch.is_x86() || c.updates.accessed);
        bits.set(HwBits::DIRTY, c.arch.is_x86() || c.updates.dirty);
        bits
    }
    fn kernel_range(&self) -> VaRange {
        // 1 GiB in the highest 2 GiB, which is kernel half in every format.
        let start = Va::containing(RawAddr(0xffff_ffff_8000_0000));
        VaRange::of_pages(start, 1 << 18).unwrap_or(VaRange::page(start))
    }
    fn seeded(&self, bug: Bug) -> bool {
        let on = self.bugs.load(Relaxed);
        on != 0 && on >> place(bug) & 1 != 0
    }
}
