//! What a page-table pmap needs of the machine it runs on.

use machvm_arch::Tlb;
use machvm_arena::ChunkSource;
use machvm_hal::{CpuId, CpuSet, Pfn, Va, VaRange};

use crate::pte::Format;
use crate::seed::Bug;
use crate::table::TableMd;

bitflags::bitflags! {
    /// What the hardware writes into entries by itself.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct HwBits: u8 {
        /// Accessed (x86-64; FEAT_HAFDBS; Svadu). Without it an entry that lacks
        /// accessed faults.
        const ACCESSED = 1;
        /// Dirty (likewise). Without it a write through a clean entry faults.
        const DIRTY = 2;
    }
}

/// Frames that hold page tables. Every access to a table goes through here.
pub trait TableMem: Sync {
    /// Reads an entry; Acquire.
    fn load(&self, table: Pfn, index: usize) -> u64;
    /// Writes an entry; Release: what was written into the table it leads to is seen
    /// first.
    fn store(&self, table: Pfn, index: usize, raw: u64);
    /// Replaces an entry in one step; AcqRel. Returns what was there.
    fn swap(&self, table: Pfn, index: usize, raw: u64) -> u64;
    /// Replaces an entry if it still is `old`; AcqRel.
    ///
    /// # Errors
    /// What is there instead.
    fn compare_exchange(&self, table: Pfn, index: usize, old: u64, new: u64) -> Result<u64, u64>;

    /// A frame whose words are all zero. Never frame 0.
    ///
    /// => spin locks up to `Rank::Pv` may be held: never sleeps.
    fn alloc(&self) -> Option<Pfn>;
    /// Gives a frame back whose words are all zero.
    ///
    /// => as above; no CPU walks it any more.
    fn free(&self, table: Pfn);
    /// The structure of a frame that may be a table. `None`: no such frame. Never
    /// moves and never goes away.
    fn md(&self, table: Pfn) -> Option<&TableMd>;

    /// Frames that may be mapped as memory: `pfn .. pfn + n` all exist.
    fn has_frames(&self, pfn: Pfn, n: u64) -> bool;
    /// The kernel address at which the frame can always be touched, if the machine has
    /// a direct map.
    fn direct(&self, _frame: Pfn) -> Option<Va> {
        None
    }
}

/// The CPUs.
pub trait Cpus: Sync {
    /// Preemption is off and the thread stays on its CPU while this lives.
    type Pin;

    /// The CPU this runs on. A hint unless pinned.
    fn current(&self) -> CpuId;
    /// CPUs that take shootdowns. One that comes online flushes everything after it is
    /// there; one that leaves calls [`crate::System::shootdown_interrupt`] once more.
    fn online(&self) -> CpuSet;
    /// Stays on this CPU.
    fn pin(&self) -> Self::Pin;
    /// Makes each of these CPUs call [`crate::System::shootdown_interrupt`] soon; never this
    /// one. What this CPU wrote before is seen by the handler.
    fn send_ipi(&self, to: CpuSet);
    /// One turn of a loop that waits for other CPUs.
    fn relax(&self);
    /// Makes the instruction cache coherent for the frame, on every CPU.
    fn sync_icache(&self, _frame: Pfn) {}
}

/// A port: one machine's formats, memory and CPUs.
pub trait Port: Sync + Sized {
    /// Entries.
    type Format: Format;
    /// Tables.
    type Mem: TableMem;
    /// Invalidation.
    type Tlb: Tlb;
    /// CPUs.
    type Cpus: Cpus;
    /// Memory for records and pmap structures.
    type Chunks: ChunkSource;

    /// See [`Port::Mem`].
    fn mem(&self) -> &Self::Mem;
    /// See [`Port::Tlb`].
    fn tlb(&self) -> &Self::Tlb;
    /// See [`Port::Cpus`].
    fn cpus(&self) -> &Self::Cpus;
    /// See [`Port::Chunks`].
    fn chunks(&self) -> Self::Chunks;
    /// What the hardware notes by itself; constant.
    fn hw_bits(&self) -> HwBits;
    /// Kernel addresses the pmap may hand out; constant. Whole top-level entries are
    /// not needed.
    fn kernel_range(&self) -> VaRange;
    /// For tests of the tests: makes this mistake.
    #[inline]
    fn seeded(&self, _bug: Bug) -> bool {
        false
    }
}
