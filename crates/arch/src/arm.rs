//! AArch64: TLBI, DSB, ISB, TTBR0_EL1.
//!
//! The order is Arm ARM D8, "TLB maintenance": a table write is seen by walks after a
//! DSB ISHST; a TLBI that comes later reaches what was walked earlier; DSB ISH waits
//! for it on every CPU; ISB makes this CPU's pipeline look again. The `IS` forms reach
//! all CPUs of the inner shareable domain, so no CPU is interrupted.
//!
//! Replacing a translation by another needs more (break before make): that order is
//! the pmap's.

use machvm_hal::{Pfn, Va, VaRange};

use crate::tlb::{Asid, Space, Tlb};

/// What DSB waits for, and where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dsb {
    /// Everything, inner shareable.
    Ish,
    /// Stores, inner shareable.
    Ishst,
    /// Everything, this CPU.
    Nsh,
    /// Stores, this CPU.
    Nshst,
}

/// The TLBI operations in use, by the manual's names. `VA` takes an address and an
/// ASID, `VAA` an address under every ASID (and global), `ASID` an ASID, `VMALL`
/// nothing; `L`: the last level only, tables on the way stay; `IS`: on every CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the letters are explained above")]
pub enum Tlbi {
    VAE1IS,
    VALE1IS,
    VAAE1IS,
    VAALE1IS,
    ASIDE1IS,
    VMALLE1IS,
    VAE1,
    VAAE1,
    ASIDE1,
}

/// The instructions, one method each. What they do is the manual's.
pub trait ArmIsa: Sync {
    /// DSB.
    fn dsb(&self, kind: Dsb);
    /// ISB.
    fn isb(&self);
    /// TLBI. The operand of `VMALL` is zero and not passed on.
    fn tlbi(&self, op: Tlbi, operand: u64);
    /// MSR TTBR0_EL1.
    fn write_ttbr0(&self, value: u64);
}

const ASID_SHIFT: u32 = 48;
/// Bits 43:0 of the operand are VA\[55:12\]; 47:44, the level hint, stay zero: any level.
const VA_FIELD: u64 = (1 << 44) - 1;

const fn by_va(asid: Asid, va: Va) -> u64 {
    by_asid(asid) | va.page() & VA_FIELD
}

const fn by_asid(asid: Asid) -> u64 {
    (asid.0 as u64) << ASID_SHIFT
}

/// The flush sequences of AArch64 at EL1, 4 KiB granule, ASIDs in TTBR0 (TCR_EL1.A1 = 0).
#[derive(Debug)]
pub struct Arm<I> {
    isa: I,
    wide: bool,
}

impl<I> Arm<I> {
    /// `wide`: ASIDs have 16 bits (ID_AA64MMFR0_EL1.ASIDBits, TCR_EL1.AS), else 8.
    pub const fn new(isa: I, wide: bool) -> Self {
        Arm { isa, wide }
    }
    /// The instructions.
    pub const fn isa(&self) -> &I {
        &self.isa
    }
}

impl<I: ArmIsa> Tlb for Arm<I> {
    const BROADCAST: bool = true;

    fn asids(&self) -> u32 {
        if self.wide { 1 << 16 } else { 1 << 8 }
    }

    /// Entries that are not valid are not remembered, so the stores need only be
    /// visible.
    fn publish(&self, _space: Space, _range: VaRange, _walks: bool) {
        self.isa.dsb(Dsb::Ishst);
        self.isa.isb();
    }

    fn before(&self) {
        self.isa.dsb(Dsb::Ishst);
    }

    fn flush_range(&self, space: Space, range: VaRange, walks: bool) {
        if range.pages() > Self::MAX_PAGES {
            return self.flush_space(space);
        }
        let (op, asid) = match (space, walks) {
            (Space::User { asid, .. }, true) => (Tlbi::VAE1IS, asid),
            (Space::User { asid, .. }, false) => (Tlbi::VALE1IS, asid),
            (Space::Kernel, true) => (Tlbi::VAAE1IS, Asid(0)),
            (Space::Kernel, false) => (Tlbi::VAALE1IS, Asid(0)),
        };
        for va in range.iter() {
            self.isa.tlbi(op, by_va(asid, va));
        }
    }

    fn flush_space(&self, space: Space) {
        match space {
            Space::User { asid, .. } => self.isa.tlbi(Tlbi::ASIDE1IS, by_asid(asid)),
            Space::Kernel => self.flush_all(),
        }
    }

    fn flush_all(&self) {
        self.isa.tlbi(Tlbi::VMALLE1IS, 0);
    }

    fn after(&self) {
        self.isa.dsb(Dsb::Ish);
        self.isa.isb();
    }

    /// Not the last level only: an upper entry may be remembered without the right to
    /// write that it has got back.
    fn spurious(&self, space: Space, va: Va) {
        self.isa.dsb(Dsb::Nshst);
        match space {
            Space::User { asid, .. } => self.isa.tlbi(Tlbi::VAE1, by_va(asid, va)),
            Space::Kernel => self.isa.tlbi(Tlbi::VAAE1, by_va(Asid(0), va)),
        }
        self.isa.dsb(Dsb::Nsh);
        self.isa.isb();
    }

    /// CnP (bit 0) stays clear: CPUs do not share what they remember. The flush comes
    /// after the load, or walks of the old root could come in again under its number
    /// when that is the one to be flushed.
    fn switch(&self, root: Pfn, asid: Asid, flush: bool) {
        // The root may have been made just now.
        self.isa.dsb(Dsb::Ishst);
        self.isa.write_ttbr0(by_asid(asid) | root.byte());
        self.isa.isb();
        if flush {
            self.isa.tlbi(Tlbi::ASIDE1, by_asid(asid));
            self.isa.dsb(Dsb::Nsh);
            self.isa.isb();
        }
    }
}
