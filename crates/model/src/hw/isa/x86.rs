//! Intel SDM volume 3A: "Operations that Invalidate TLBs and Paging-Structure Caches",
//! and volume 2 for INVPCID's descriptor.

use machvm_arch::{Asid, Invpcid, X86Isa};
use machvm_hal::Va;

use super::HwIsa;
use crate::hw::cpu::{Named, Tables};
use crate::hw::state::State;
use crate::hw::tree::End;

pub(super) const CR4_PAE: u64 = 1 << 5;
pub(super) const CR4_PGE: u64 = 1 << 7;
pub(super) const CR4_PCIDE: u64 = 1 << 17;
/// CR3 bit 63, with PCIDE: nothing is invalidated.
const NO_FLUSH: u64 = 1 << 63;
const PCID: u64 = 0xfff;

impl State {
    fn pcid(&self, cpu: usize) -> u16 {
        self.cpus[cpu].loaded.map_or(0, |l| l.1)
    }

    fn invlpg(&mut self, cpu: usize, va: u64) {
        self.instruction(cpu, "invlpg", va);
        if !self.mmu.arch.canonical(va) {
            // No operation, and nobody means that.
            return self.bad_operand(cpu, va);
        }
        let named = Named {
            pages: Some((va >> 12, (va >> 12) + 1)),
            asid: Some(self.pcid(cpu)),
            global: true,
            tables: Tables::All,
            level: None,
            pieces: false,
        };
        self.cpus[cpu].invalidate(&named, false);
        // Where the tables map a large page *now*, all its pieces go.
        if let Some((root, _)) = self.cpus[cpu].loaded
            && let End::Leaf { level, .. } = self.descend(root, va, 0)
            && level > 1
        {
            let log2 = 9 * (level - 1);
            let base = va >> 12 >> log2 << log2;
            let whole = Named { pages: Some((base, base + (1 << log2))), tables: Tables::Keep, ..named };
            self.cpus[cpu].invalidate(&whole, false);
        }
        self.adversary();
    }

    fn invpcid(&mut self, cpu: usize, kind: Invpcid, pcid: u64, va: u64) {
        self.instruction(cpu, "invpcid", (kind as u64) << 60 | pcid << 48 | va & ((1 << 48) - 1));
        let pcide = self.cpus[cpu].cr4 & CR4_PCIDE != 0;
        // #GP: bits 63:12 of the descriptor; a PCID without PCIDE; not canonical.
        if pcid > PCID || !pcide && pcid != 0 || !self.mmu.arch.canonical(va) {
            return self.bad_operand(cpu, pcid << 48 | va & ((1 << 48) - 1));
        }
        let one = Some(pcid as u16);
        let named = match kind {
            Invpcid::Address => Named {
                pages: Some((va >> 12, (va >> 12) + 1)),
                asid: one,
                global: false,
                tables: Tables::OnTheWay,
                level: None,
                pieces: false,
            },
            Invpcid::Context => Named { asid: one, global: false, ..Named::EVERYTHING },
            Invpcid::All => Named::EVERYTHING,
        };
        self.cpus[cpu].invalidate(&named, false);
        self.adversary();
    }

    fn write_cr3(&mut self, cpu: usize, value: u64) {
        self.instruction(cpu, "mov cr3", value);
        let pcide = self.cpus[cpu].cr4 & CR4_PCIDE != 0;
        let keep = value & NO_FLUSH != 0;
        if value >> 52 & 0x7ff != 0 || keep && !pcide {
            return self.bad_operand(cpu, value);
        }
        // Without PCIDE the low bits are cache controls and every entry carries 0.
        let pcid = if pcide { (value & PCID) as u16 } else { 0 };
        self.load_root(cpu, (value & ((1 << 52) - 1)) >> 12, pcid);
        self.cpus[cpu].cr3 = value & !NO_FLUSH;
        if !keep {
            let asid = if pcide { Some(pcid) } else { None };
            let named = Named { asid, global: false, ..Named::EVERYTHING };
            self.cpus[cpu].invalidate(&named, false);
        }
        self.adversary();
    }

    fn write_cr4(&mut self, cpu: usize, value: u64) {
        self.instruction(cpu, "mov cr4", value);
        let old = self.cpus[cpu].cr4;
        let pcid = self.cpus[cpu].cr3 & PCID;
        if value & CR4_PAE == 0 || value & !old & CR4_PCIDE != 0 && pcid != 0 {
            return self.bad_operand(cpu, value);
        }
        self.cpus[cpu].cr4 = value;
        // A change of PGE, or PCIDE from 1 to 0.
        if (old ^ value) & CR4_PGE != 0 || old & !value & CR4_PCIDE != 0 {
            self.cpus[cpu].invalidate(&Named::EVERYTHING, false);
        }
        self.adversary();
    }
}

impl X86Isa for HwIsa {
    fn invlpg(&self, va: Va) {
        let va = self.page(va.get());
        self.0.here(|s, cpu| s.invlpg(cpu, va));
    }
    fn invpcid(&self, kind: Invpcid, pcid: Asid, va: Va) {
        self.0.here(|s, cpu| s.invpcid(cpu, kind, u64::from(pcid.0), va.get()));
    }
    fn read_cr3(&self) -> u64 {
        self.0.here(|s, cpu| s.cpus[cpu].cr3)
    }
    fn write_cr3(&self, value: u64) {
        self.0.here(|s, cpu| s.write_cr3(cpu, value));
    }
    fn read_cr4(&self) -> u64 {
        self.0.here(|s, cpu| s.cpus[cpu].cr4)
    }
    fn write_cr4(&self, value: u64) {
        self.0.here(|s, cpu| s.write_cr4(cpu, value));
    }
}
