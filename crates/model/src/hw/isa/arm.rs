//! Arm ARM D8, "TLB maintenance", and C5.5 for the operands of TLBI.
//!
//! A table write is seen by walks once this CPU has done DSB ISH or ISHST. A TLBI is
//! done on each CPU at some time before the DSB ISH after it (NSH for the local
//! forms), so what is walked before that write is seen, or before the TLBI is done, may
//! come back. This CPU goes on using what it has in hand until ISB.

use machvm_arch::{ArmIsa, Dsb, Tlbi};

use super::{HwIsa, Mistake};
use crate::hw::cpu::{Issued, Named, Tables};
use crate::hw::state::State;

const ASID_SHIFT: u32 = 48;
const TTL: u64 = 0xf << 44;
const VA: u64 = (1 << 44) - 1;

/// What a TLBI names. `Err`: bits that must be zero.
fn named(op: Tlbi, operand: u64, narrow: bool) -> Result<(Named, bool), ()> {
    let asid = (operand >> ASID_SHIFT) as u16;
    if narrow && asid > 0xff {
        return Err(());
    }
    // Bits 43:0 are VA[55:12]; bit 55 chooses the half.
    let page = ((operand & VA) << 20) as i64 >> 20;
    let page = page as u64 & ((1 << 52) - 1);
    let level = match (operand & TTL) >> 44 {
        0 => None,
        // Bits 47:46: granule, 01 is 4 KiB; 45:44: their level.
        ttl if ttl >> 2 == 1 && ttl & 3 != 0 => Some(4 - (ttl & 3) as u8),
        _ => return Err(()),
    };
    let by_va = |asid: Option<u16>, last: bool| Named {
        pages: Some((page, page + 1)),
        asid,
        global: true,
        tables: if last { Tables::Keep } else { Tables::OnTheWay },
        level,
        pieces: true,
    };
    let by_asid = Named { asid: Some(asid), global: false, ..Named::EVERYTHING };
    // Bits that the form does not use are RES0.
    let no_asid = if asid == 0 { Ok(()) } else { Err(()) };
    let no_va = if operand & (TTL | VA) == 0 { Ok(()) } else { Err(()) };
    Ok(match op {
        Tlbi::VAE1IS => (by_va(Some(asid), false), true),
        Tlbi::VALE1IS => (by_va(Some(asid), true), true),
        Tlbi::VAAE1IS => no_asid.map(|()| (by_va(None, false), true))?,
        Tlbi::VAALE1IS => no_asid.map(|()| (by_va(None, true), true))?,
        Tlbi::ASIDE1IS => no_va.map(|()| (by_asid, true))?,
        Tlbi::VMALLE1IS => (Named::EVERYTHING, true),
        Tlbi::VAE1 => (by_va(Some(asid), false), false),
        Tlbi::VAAE1 => no_asid.map(|()| (by_va(None, false), false))?,
        Tlbi::ASIDE1 => no_va.map(|()| (by_asid, false))?,
    })
}

const fn name(op: Tlbi) -> &'static str {
    match op {
        Tlbi::VAE1IS => "tlbi vae1is",
        Tlbi::VALE1IS => "tlbi vale1is",
        Tlbi::VAAE1IS => "tlbi vaae1is",
        Tlbi::VAALE1IS => "tlbi vaale1is",
        Tlbi::ASIDE1IS => "tlbi aside1is",
        Tlbi::VMALLE1IS => "tlbi vmalle1is",
        Tlbi::VAE1 => "tlbi vae1",
        Tlbi::VAAE1 => "tlbi vaae1",
        Tlbi::ASIDE1 => "tlbi aside1",
    }
}

impl State {
    fn tlbi(&mut self, cpu: usize, op: Tlbi, operand: u64) {
        self.instruction(cpu, name(op), operand);
        let Ok((named, broadcast)) = named(op, operand, self.config.asids <= 256) else {
            return self.bad_operand(cpu, operand);
        };
        self.cpus[cpu].issued.push(Issued { named, broadcast, done: 0 });
        if self.cpus[cpu].unseen.iter().any(|u| broadcast || !u.here) {
            // It may be done at once, and walks still see the tables from before.
            self.carry_out(cpu, self.cpus[cpu].issued.len() - 1, u64::MAX);
            let late: Vec<_> = self.cpus[cpu].unseen.iter().map(|u| (u.table, u.index)).collect();
            for (table, index) in late {
                let Some(place) = self.frames[table as usize].place else { continue };
                let kernel = place.origin == crate::hw::state::Origin::KERNEL;
                let shift = crate::hw::walk::Arch::shift(place.level);
                let va = self.mmu.arch.extend(place.va + (u64::from(index) << shift), kernel);
                for c in 0..self.cpus.len() {
                    if self.rng.below(4) != 0 {
                        self.speculate(c, va);
                    }
                }
            }
        }
        self.adversary();
    }

    /// Some CPUs do a TLBI.
    fn carry_out(&mut self, issuer: usize, which: usize, by: u64) {
        let Issued { named, broadcast, done } = self.cpus[issuer].issued[which];
        for c in 0..self.cpus.len() {
            let concerned = broadcast || c == issuer;
            if concerned && by & !done & 1 << c != 0 {
                self.cpus[c].invalidate(&named, c == issuer);
            }
        }
        self.cpus[issuer].issued[which].done |= by;
    }

    /// The adversary: some TLBI is done early somewhere.
    pub(crate) fn do_some_issued(&mut self, issuer: usize) {
        let n = self.cpus[issuer].issued.len() as u64;
        if n > 0 {
            let which = self.rng.below(n) as usize;
            let by = self.rng.bits();
            self.carry_out(issuer, which, by);
        }
    }

    /// DSB ISH, without the adversary.
    pub(crate) fn context_switch(&mut self, cpu: usize) {
        self.see(cpu, usize::MAX);
        for which in 0..self.cpus[cpu].issued.len() {
            self.carry_out(cpu, which, u64::MAX);
        }
        self.cpus[cpu].issued.clear();
    }

    fn dsb(&mut self, cpu: usize, kind: Dsb) {
        let name = match kind {
            Dsb::Ish => "dsb ish",
            Dsb::Ishst => "dsb ishst",
            Dsb::Nsh => "dsb nsh",
            Dsb::Nshst => "dsb nshst",
        };
        self.instruction(cpu, name, 0);
        if matches!(kind, Dsb::Ish | Dsb::Ishst) {
            self.see(cpu, usize::MAX);
        }
        // This CPU's own walker is in the narrower domain too.
        self.cpus[cpu].unseen.iter_mut().for_each(|u| u.here = true);
        if matches!(kind, Dsb::Ish | Dsb::Nsh) {
            for which in 0..self.cpus[cpu].issued.len() {
                if kind == Dsb::Ish || !self.cpus[cpu].issued[which].broadcast {
                    self.carry_out(cpu, which, u64::MAX);
                }
            }
            self.cpus[cpu].issued.retain(|i| i.done != u64::MAX);
        }
        self.adversary();
    }

    fn write_ttbr0(&mut self, cpu: usize, value: u64) {
        self.instruction(cpu, "msr ttbr0_el1", value);
        let asid = (value >> ASID_SHIFT) as u16;
        // Bit 0 is CnP: CPUs that set it share what they cache, and these do not.
        if value & 0xfff != 0 || self.config.asids <= 256 && asid > 0xff {
            return self.bad_operand(cpu, value);
        }
        self.load_root(cpu, (value & ((1 << 48) - 1)) >> 12, asid);
        self.adversary();
    }

    fn isb(&mut self, cpu: usize) {
        self.instruction(cpu, "isb", 0);
        self.cpus[cpu].synchronise();
        self.adversary();
    }
}

impl ArmIsa for HwIsa {
    fn dsb(&self, kind: Dsb) {
        let skip = match kind {
            Dsb::Ishst | Dsb::Nshst => self.makes(Mistake::NoBarrierBefore),
            Dsb::Ish | Dsb::Nsh => self.makes(Mistake::NoBarrierAfter),
        };
        if skip {
            return;
        }
        self.0.here(|s, cpu| s.dsb(cpu, kind));
    }
    fn isb(&self) {
        self.0.here(|s, cpu| s.isb(cpu));
    }
    fn tlbi(&self, op: Tlbi, operand: u64) {
        let op = match op {
            Tlbi::VAE1IS | Tlbi::VALE1IS if self.makes(Mistake::NotBroadcast) => Tlbi::VAE1,
            Tlbi::VAAE1IS | Tlbi::VAALE1IS if self.makes(Mistake::NotBroadcast) => Tlbi::VAAE1,
            Tlbi::ASIDE1IS if self.makes(Mistake::NotBroadcast) => Tlbi::ASIDE1,
            Tlbi::VAE1IS if self.makes(Mistake::LastLevelOnly) => Tlbi::VALE1IS,
            op => op,
        };
        let by_page = !matches!(op, Tlbi::ASIDE1IS | Tlbi::ASIDE1 | Tlbi::VMALLE1IS);
        let operand = if by_page && self.makes(Mistake::WrongPage) { operand ^ 1 } else { operand };
        let numbered = !matches!(op, Tlbi::VAAE1IS | Tlbi::VAALE1IS | Tlbi::VAAE1 | Tlbi::VMALLE1IS);
        let wrong = numbered && self.makes(Mistake::WrongNumber);
        let operand = if wrong { operand ^ 1 << ASID_SHIFT } else { operand };
        self.0.here(|s, cpu| s.tlbi(cpu, op, operand));
    }
    fn write_ttbr0(&self, value: u64) {
        self.0.here(|s, cpu| s.write_ttbr0(cpu, value));
    }
}
