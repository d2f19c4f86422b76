//! x86-64: INVLPG, INVPCID, CR3.
//!
//! What the instructions reach is Intel SDM volume 3A, "Operations that Invalidate
//! TLBs and Paging-Structure Caches"; AMD's manual promises no less.
//!
//! | instruction | translations | tables on the way |
//! |---|---|---|
//! | INVLPG | the page: current PCID, and global | all of the current PCID |
//! | INVPCID 0 | the page: one PCID | those on the way to it |
//! | INVPCID 1 | one PCID | all of that PCID |
//! | INVPCID 2, CR4.PGE changed | all, also global | all |
//! | MOV to CR3, bit 63 clear | the PCID loaded | all of that PCID |
//!
//! No instruction reaches one page of the kernel's in the tables remembered under
//! *every* PCID, so taking kernel tables away flushes everything.

use machvm_hal::{Pfn, Va, VaRange};

use crate::tlb::{Asid, Space, Tlb};

/// What INVPCID invalidates: its register operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum Invpcid {
    /// One address under one PCID; not global translations.
    Address = 0,
    /// One PCID; not global translations.
    Context = 1,
    /// Every PCID, and global translations.
    All = 2,
}

/// The instructions, one method each. What they do is the manual's.
///
/// => preemption off where an instruction works on this CPU only, that is everywhere.
pub trait X86Isa: Sync {
    /// INVLPG.
    fn invlpg(&self, va: Va);
    /// INVPCID. The operands that `kind` ignores are zero.
    fn invpcid(&self, kind: Invpcid, pcid: Asid, va: Va);
    /// MOV from CR3.
    fn read_cr3(&self) -> u64;
    /// MOV to CR3.
    fn write_cr3(&self, value: u64);
    /// MOV from CR4.
    fn read_cr4(&self) -> u64;
    /// MOV to CR4.
    fn write_cr4(&self, value: u64);
}

/// CR3 bit 63, with PCIDs: keep what is remembered under the number loaded.
pub(crate) const CR3_NO_FLUSH: u64 = 1 << 63;
/// CR4.PGE. Any change of it flushes everything.
const CR4_PGE: u64 = 1 << 7;
/// PCIDs are the low 12 bits of CR3.
const PCIDS: u32 = 1 << 12;

/// The flush sequences of x86-64. Invalidation is local.
#[derive(Debug)]
pub struct X86<I> {
    isa: I,
    pcid: bool,
    invpcid: bool,
}

impl<I> X86<I> {
    /// `pcid`: CR4.PCIDE is set on every CPU, and CR4.PGE too (without it the kernel's
    /// translations would be tagged). `invpcid`: the CPUs have INVPCID.
    ///
    /// Not for CPUs on which INVLPG misses global translations while PCIDs are on
    /// (Intel's errata of the Alder Lake family without the microcode): `pcid` is false
    /// there.
    pub const fn new(isa: I, pcid: bool, invpcid: bool) -> Self {
        X86 { isa, pcid, invpcid }
    }
    /// The instructions.
    pub const fn isa(&self) -> &I {
        &self.isa
    }
}

impl<I: X86Isa> X86<I> {
    fn invlpg_each(&self, range: VaRange) {
        for va in range.iter() {
            self.isa.invlpg(va);
        }
    }

    /// Without INVPCID. An interrupt in between that does the same restores what it
    /// found, and each of the four changes flushes.
    fn toggle_pge(&self) {
        let cr4 = self.isa.read_cr4();
        self.isa.write_cr4(cr4 ^ CR4_PGE);
        self.isa.write_cr4(cr4);
    }
}

impl<I: X86Isa> Tlb for X86<I> {
    const BROADCAST: bool = false;

    fn asids(&self) -> u32 {
        if self.pcid { PCIDS } else { 1 }
    }

    /// Nothing: entries that are not present are not remembered, and a walk that ends
    /// in a fault has seen this CPU's earlier stores.
    fn publish(&self, _space: Space, _range: VaRange, _walks: bool) {}

    /// Nothing: stores are in order, and the instructions below are serializing.
    fn before(&self) {}

    fn flush_range(&self, space: Space, range: VaRange, walks: bool) {
        let each = range.pages() <= Self::MAX_PAGES;
        match space {
            Space::Kernel if each && !(walks && self.pcid) => self.invlpg_each(range),
            Space::User { current: true, .. } if each => self.invlpg_each(range),
            Space::User { asid, current: false } if each && !walks && self.pcid && self.invpcid => {
                for va in range.iter() {
                    self.isa.invpcid(Invpcid::Address, asid, va);
                }
            }
            _ => self.flush_space(space),
        }
    }

    fn flush_space(&self, space: Space) {
        match space {
            // It was flushed when CR3 was last loaded.
            Space::User { current: false, .. } if !self.pcid => {}
            Space::User { asid, .. } if self.pcid && self.invpcid => {
                self.isa.invpcid(Invpcid::Context, asid, Va::ZERO);
            }
            Space::User { current: true, .. } => self.isa.write_cr3(self.isa.read_cr3() & !CR3_NO_FLUSH),
            // Loading that PCID to flush it would let walks of the present root in
            // under it.
            Space::User { current: false, .. } | Space::Kernel => self.flush_all(),
        }
    }

    fn flush_all(&self) {
        if self.invpcid {
            self.isa.invpcid(Invpcid::All, Asid(0), Va::ZERO);
        } else {
            self.toggle_pge();
        }
    }

    /// Nothing: see [`Tlb::before`] here.
    fn after(&self) {}

    /// The fault itself made the CPU forget, except where the translation is global.
    fn spurious(&self, space: Space, va: Va) {
        self.flush_range(space, VaRange::page(va), false);
    }

    fn switch(&self, root: Pfn, asid: Asid, flush: bool) {
        let keep = if self.pcid && !flush { CR3_NO_FLUSH } else { 0 };
        self.isa.write_cr3(keep | root.byte() | u64::from(asid.0));
    }
}
