//! Loads, stores and fetches of programs.

use super::cpu::{Cached, Mark};
use super::fill::Fault;
use super::report::Kind;
use super::state::{State, Use, WORDS};
use super::trace::Event;
use super::walk::Rights;

/// What an access does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Loads.
    Read,
    /// Stores.
    Write,
    /// Fetches an instruction.
    Exec,
}

/// In whose name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// A program.
    User,
    /// The kernel.
    Kernel,
}

impl Access {
    /// The right that it needs.
    pub const fn right(self, mode: Mode) -> Rights {
        match (self, mode) {
            (Access::Read, Mode::User) => Rights::UR,
            (Access::Write, Mode::User) => Rights::UW,
            (Access::Exec, Mode::User) => Rights::UX,
            (Access::Read, Mode::Kernel) => Rights::KR,
            (Access::Write, Mode::Kernel) => Rights::KW,
            (Access::Exec, Mode::Kernel) => Rights::KX,
        }
    }
    const fn name(self) -> &'static str {
        match self {
            Access::Read => "load of",
            Access::Write => "store to",
            Access::Exec => "fetch of",
        }
    }
}

impl State {
    /// The frame that an access reaches.
    pub(crate) fn access(&mut self, cpu: usize, va: u64, what: Access, mode: Mode) -> Result<u64, Fault> {
        self.tick(cpu);
        self.heat(va & !0xfff);
        let got = if self.mmu.arch.canonical(va) {
            self.find(cpu, va, what.right(mode)).map(|e| e.frame(va >> 12))
        } else {
            Err(Fault::NotCanonical)
        };
        let frame = got.ok();
        self.event(Event::Access { cpu: cpu as u16, va, what: what.name(), frame });
        if let Some(f) = frame
            && (!self.exists(f) || self.frames[f as usize].used != Use::Data)
        {
            let origin = self.cpus[cpu].loaded.map(|l| self.origin_at(l.0, va));
            self.report(Kind::WrongFrame, cpu, origin, va, f);
        }
        got
    }

    fn find(&mut self, cpu: usize, va: u64, want: Rights) -> Result<Cached, Fault> {
        let vpn = va >> 12;
        let fits = |c: &super::cpu::Cpu, e: &Cached| e.covers(vpn) && c.reaches(e);
        let c = &self.cpus[cpu];
        let n = c.tlb.iter().filter(|e| fits(c, e)).count() as u64;
        // Sometimes what was cached has just been evicted.
        if n == 0 || self.rng.one_in(8) {
            return self.walk(cpu, va, Some(want));
        }
        let pick = self.rng.below(n) as usize;
        let c = &self.cpus[cpu];
        let Some(e) = c.tlb.iter().filter(|e| fits(c, e)).nth(pick).copied() else {
            return self.walk(cpu, va, Some(want));
        };
        if !e.rights.contains(want) {
            self.forget_after_fault(cpu, vpn);
            let nothing = e.mark.contains(Mark::NOTHING);
            return Err(if nothing { Fault::NotMapped } else { Fault::Protection });
        }
        if want.intersects(Rights::WRITE) && !e.mark.contains(Mark::DIRTY) {
            if !self.mmu.sets_dirty() && self.rng.one_in(2) {
                // The fault may come from what is cached.
                return Err(Fault::Dirty);
            }
            // The first write looks at the tables, and what they say counts.
            return self.walk(cpu, va, Some(want));
        }
        Ok(e)
    }

    /// x86-64: a fault invalidates what is cached of its address, and the tables on the
    /// way (SDM 3A, "Recommended Invalidation", on page faults). Elsewhere nothing goes.
    fn forget_after_fault(&mut self, cpu: usize, vpn: u64) {
        if self.mmu.arch.is_x86() {
            let c = &mut self.cpus[cpu];
            let asid = c.loaded.map_or(0, |l| l.1);
            c.tlb.retain(|e| !(e.covers(vpn) && (e.asid == asid || e.mark.contains(Mark::GLOBAL))));
            c.tables.retain(|e| e.asid != asid);
        }
    }

    /// Bytes of a frame.
    pub(crate) fn read_bytes(&self, frame: u64, off: usize, buf: &mut [u8]) {
        for (i, b) in buf.iter_mut().enumerate() {
            let at = off + i;
            *b = (self.words[frame as usize * WORDS + at / 8] >> (at % 8 * 8)) as u8;
        }
    }
    /// See [`State::read_bytes`].
    pub(crate) fn write_bytes(&mut self, frame: u64, off: usize, buf: &[u8]) {
        for (i, b) in buf.iter().enumerate() {
            let at = off + i;
            let word = &mut self.words[frame as usize * WORDS + at / 8];
            let shift = at % 8 * 8;
            *word = *word & !(0xff << shift) | u64::from(*b) << shift;
        }
    }
    /// The frame holds somebody's memory from now on, whatever it was.
    pub(crate) fn claim(&mut self, cpu: usize, frame: u64) {
        self.tick(cpu);
        self.check_free(frame);
        if self.exists(frame) {
            self.frames[frame as usize].used = Use::Data;
        }
    }
}
