//! RISC-V: SFENCE.VMA, satp.
//!
//! RISC-V privileged specification, "Supervisor Memory-Management Fence Instruction":
//! with an address it orders the *leaf* entries of that address only, so whatever
//! concerns tables on the way takes the whole number; with a number it leaves global
//! translations alone, so the kernel's need all numbers. It orders this hart's earlier
//! stores before its later walks, and works on this hart only.
//!
//! Entries that are not valid may be remembered too, and walks may overtake stores:
//! there is a fence after making an entry valid.

use machvm_hal::{Pfn, Va, VaRange};

use crate::tlb::{Asid, Space, Tlb};

/// satp.MODE: levels of page tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Mode {
    /// Three.
    Sv39 = 8,
    /// Four.
    Sv48 = 9,
    /// Five.
    Sv57 = 10,
}

/// The instructions, one method each. What they do is the manual's.
///
/// => preemption off: they work on this hart.
pub trait RiscvIsa: Sync {
    /// SFENCE.VMA. `None` is the register x0: every address, every number (and global);
    /// number zero is a register that holds zero.
    fn sfence_vma(&self, va: Option<Va>, asid: Option<Asid>);
    /// FENCE RW, RW.
    fn fence(&self);
    /// CSRW satp.
    fn write_satp(&self, value: u64);
}

const MODE_SHIFT: u32 = 60;
const ASID_SHIFT: u32 = 44;

/// The flush sequences of RISC-V in S-mode. Invalidation is local.
#[derive(Debug)]
pub struct Riscv<I> {
    isa: I,
    mode: Mode,
    asids: u32,
}

impl<I> Riscv<I> {
    /// `asids`: two to the power of the bits that satp.ASID has on every hart, or 1 to
    /// do without.
    ///
    /// # Panics
    /// When `asids` is not a power of two up to 65,536.
    pub const fn new(isa: I, mode: Mode, asids: u32) -> Self {
        assert!(asids.is_power_of_two() && asids <= 1 << 16, "satp.ASID has 0 to 16 bits");
        Riscv { isa, mode, asids }
    }
    /// The instructions.
    pub const fn isa(&self) -> &I {
        &self.isa
    }
}

impl<I: RiscvIsa> Tlb for Riscv<I> {
    const BROADCAST: bool = false;

    fn asids(&self) -> u32 {
        self.asids
    }

    fn publish(&self, space: Space, range: VaRange, walks: bool) {
        self.flush_range(space, range, walks);
    }

    /// Nothing: the fences order this hart's earlier stores, and those it has seen of
    /// others.
    fn before(&self) {}

    fn flush_range(&self, space: Space, range: VaRange, walks: bool) {
        let asid = match space {
            Space::User { asid, current } if current || self.asids > 1 => Some(asid),
            // It was flushed when satp was last loaded.
            Space::User { .. } => return,
            Space::Kernel => None,
        };
        if walks || range.pages() > Self::MAX_PAGES {
            return self.isa.sfence_vma(None, asid);
        }
        for va in range.iter() {
            self.isa.sfence_vma(Some(va), asid);
        }
    }

    fn flush_space(&self, space: Space) {
        self.flush_range(space, VaRange::page(Va::ZERO), true);
    }

    fn flush_all(&self) {
        self.isa.sfence_vma(None, None);
    }

    /// Nothing: the fences are complete when they retire.
    fn after(&self) {}

    /// Everything of the space: what is stale may be an upper entry remembered as not
    /// valid.
    fn spurious(&self, space: Space, _va: Va) {
        self.flush_space(space);
    }

    /// The fence after the load, as the specification says for a number used again, or
    /// walks of the old root could come in under it.
    fn switch(&self, root: Pfn, asid: Asid, flush: bool) {
        if flush && self.asids > 1 {
            // Tables that went while this CPU was away may be memory now: no walk under the
            // number may go through them, not even between the load and its flush.
            self.isa.sfence_vma(None, Some(asid));
        }
        // The root may have been made just now, and satp orders nothing.
        self.isa.fence();
        let mode = (self.mode as u64) << MODE_SHIFT;
        self.isa.write_satp(mode | u64::from(asid.0) << ASID_SHIFT | root.0);
        if flush || self.asids == 1 {
            self.isa.sfence_vma(None, Some(asid));
        }
    }
}
