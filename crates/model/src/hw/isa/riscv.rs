//! RISC-V privileged specification, "Supervisor Memory-Management Fence Instruction"
//! and `satp`.
//!
//! With an address only leaf entries are ordered; with a number global mappings are
//! not. Writing `satp` orders nothing.

use machvm_arch::{Asid, RiscvIsa};
use machvm_hal::Va;

use super::HwIsa;
use crate::hw::cpu::{Mark, Named, Tables};
use crate::hw::state::State;
use crate::hw::walk::Arch;

impl State {
    fn asid_is_there(&self, asid: u16) -> bool {
        u32::from(asid) < self.config.asids
    }

    fn sfence(&mut self, cpu: usize, va: Option<u64>, asid: Option<u16>) {
        let name = match (va, asid) {
            (None, None) => "sfence.vma",
            (None, Some(_)) => "sfence.vma asid",
            (Some(_), None) => "sfence.vma va",
            (Some(_), Some(_)) => "sfence.vma va, asid",
        };
        let number = asid.map_or(0, u64::from) << 48;
        self.instruction(cpu, name, number | va.unwrap_or(0) & ((1 << 48) - 1));
        if asid.is_some_and(|a| !self.asid_is_there(a)) || va.is_some_and(|v| !self.mmu.arch.canonical(v)) {
            // Bits beyond ASIDLEN should be zero; such an address has no translation.
            return self.bad_operand(cpu, number | va.unwrap_or(0));
        }
        let mut named = Named { asid, global: asid.is_none(), ..Named::EVERYTHING };
        if let Some(va) = va {
            named.pages = Some((va >> 12, (va >> 12) + 1));
            named.tables = Tables::Keep;
            // Upper entries remembered as not valid are no leaves either: they stay.
            let vpn = va >> 12;
            let c = &mut self.cpus[cpu];
            c.tlb.retain(|e| {
                let upper = e.mark.contains(Mark::NOTHING) && e.log2 > 0;
                upper && e.covers(vpn) || !named.takes(e)
            });
        } else {
            self.cpus[cpu].invalidate(&named, false);
        }
        self.adversary();
    }

    fn write_satp(&mut self, cpu: usize, value: u64) {
        self.instruction(cpu, "csrw satp", value);
        let mode = match self.mmu.arch {
            Arch::Sv39 => 8,
            Arch::Sv48 => 9,
            _ => 10,
        };
        let asid = (value >> 44) as u16;
        if value >> 60 != mode || !self.asid_is_there(asid) {
            return self.bad_operand(cpu, value);
        }
        self.load_root(cpu, value & ((1 << 44) - 1), asid);
        self.adversary();
    }
}

impl RiscvIsa for HwIsa {
    fn sfence_vma(&self, va: Option<Va>, asid: Option<Asid>) {
        let va = va.map(|va| self.page(va.get()));
        let asid = asid.map(|a| self.number(a.0));
        self.0.here(|s, cpu| s.sfence(cpu, va, asid));
    }
    fn fence(&self) {
        self.0.here(|s, cpu| s.instruction(cpu, "fence rw, rw", 0));
    }
    fn write_satp(&self, value: u64) {
        self.0.here(|s, cpu| s.write_satp(cpu, value));
    }
}
