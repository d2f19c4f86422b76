//! One CPU: what it has loaded, and everything it may have cached.

use std::collections::VecDeque;

use super::state::Origin;
use super::walk::Rights;

bitflags::bitflags! {
    /// Of a cached translation or table pointer.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(crate) struct Mark: u8 {
        /// Used under every number.
        const GLOBAL = 1;
        /// Writes go through without a look at the table.
        const DIRTY = 2;
        /// Remembers that there is nothing (RISC-V).
        const NOTHING = 4;
        /// Should have been flushed, and cannot be reached now: a report when it can.
        const CONDEMNED = 8;
        /// Invalidated, and in use until this CPU synchronises its context (AArch64).
        const LINGERS = 0x10;
    }
}

/// A cached translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Cached {
    /// First page.
    pub(crate) vpn: u64,
    pub(crate) pfn: u64,
    /// Of which address space it is, whatever number it carries.
    pub(crate) origin: Origin,
    /// When the tables stopped saying this; 0: they still do, or nobody looked.
    pub(crate) stale: u64,
    pub(crate) asid: u16,
    /// log2 of the pages it covers.
    pub(crate) log2: u8,
    /// log2 of the pages of the entry it comes from: large pages may be cached in
    /// pieces.
    pub(crate) source: u8,
    pub(crate) attr: u8,
    pub(crate) rights: Rights,
    pub(crate) mark: Mark,
}

/// A cached pointer to a table (paging-structure cache, walk cache).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct CachedTable {
    /// First page that it leads to.
    pub(crate) vpn: u64,
    pub(crate) origin: Origin,
    /// As in [`Cached`].
    pub(crate) stale: u64,
    pub(crate) table: u32,
    pub(crate) asid: u16,
    /// Level of the table.
    pub(crate) level: u8,
    /// What the path let through so far.
    pub(crate) mask: Rights,
    pub(crate) mark: Mark,
}

impl Cached {
    pub(crate) fn covers(&self, vpn: u64) -> bool {
        vpn >> self.log2 == self.vpn >> self.log2
    }
    /// Do they share a page? `end` is exclusive.
    pub(crate) fn meets(&self, start: u64, end: u64) -> bool {
        self.vpn < end && start < self.vpn + (1 << self.log2)
    }
    /// The frame of a page that it covers.
    pub(crate) fn frame(&self, vpn: u64) -> u64 {
        self.pfn + (vpn - self.vpn)
    }
}

impl CachedTable {
    /// log2 of the pages it leads to.
    pub(crate) fn log2(&self) -> u8 {
        9 * self.level
    }
    pub(crate) fn covers(&self, vpn: u64) -> bool {
        vpn >> self.log2() == self.vpn >> self.log2()
    }
    pub(crate) fn meets(&self, start: u64, end: u64) -> bool {
        self.vpn < end && start < self.vpn + (1 << self.log2())
    }
}

/// What an invalidation names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Named {
    /// Pages, the end exclusive; `None`: all.
    pub(crate) pages: Option<(u64, u64)>,
    /// Only this number; `None`: all.
    pub(crate) asid: Option<u16>,
    /// Global translations too.
    pub(crate) global: bool,
    /// Table pointers.
    pub(crate) tables: Tables,
    /// Only translations from entries of this level (AArch64 TTL hint).
    pub(crate) level: Option<u8>,
    /// A large page that was cached in pieces goes whole, by any address in it.
    pub(crate) pieces: bool,
}

/// Which table pointers go with an invalidation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tables {
    /// None (AArch64 last-level forms; `sfence.vma` with an address).
    Keep,
    /// Those on the way to the pages.
    OnTheWay,
    /// All under the number (INVLPG).
    All,
}

impl Named {
    pub(crate) const EVERYTHING: Named =
        Named { pages: None, asid: None, global: true, tables: Tables::All, level: None, pieces: true };

    pub(crate) fn takes(&self, e: &Cached) -> bool {
        let number =
            if e.mark.contains(Mark::GLOBAL) { self.global } else { self.asid.is_none_or(|a| a == e.asid) };
        // A large page, that is; the entries of a contiguous run are entries of their own.
        let log2 = if self.pieces { (e.source / 9 * 9).max(e.log2) } else { e.log2 };
        let vpn = (e.vpn >> log2) << log2;
        number
            && self.pages.is_none_or(|(s, end)| vpn < end && s < vpn + (1 << log2))
            && self.level.is_none_or(|l| e.source / 9 + 1 == l)
    }

    pub(crate) fn takes_table(&self, e: &CachedTable) -> bool {
        let number =
            if e.mark.contains(Mark::GLOBAL) { self.global } else { self.asid.is_none_or(|a| a == e.asid) };
        number
            && match self.tables {
                Tables::Keep => false,
                Tables::All => true,
                Tables::OnTheWay => self.pages.is_none_or(|(s, end)| e.meets(s, end)),
            }
    }
}

/// A table write that walkers need not see yet (AArch64: no DSB since).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unseen {
    /// Walks of the CPU that wrote see it (DSB NSH).
    pub(crate) here: bool,
    pub(crate) table: u32,
    pub(crate) index: u16,
    pub(crate) old: u64,
    pub(crate) step: u64,
}

/// A TLBI that no DSB has completed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Issued {
    pub(crate) named: Named,
    /// Reaches all CPUs.
    pub(crate) broadcast: bool,
    /// The CPUs that have done it.
    pub(crate) done: u64,
}

/// See the module text.
#[derive(Debug, Default)]
pub(crate) struct Cpu {
    /// Loaded root and number.
    pub(crate) loaded: Option<(u32, u16)>,
    /// What was loaded before, usable until context synchronisation (AArch64).
    pub(crate) before: Option<(u32, u16)>,
    /// The flush that belongs to the last load may still come.
    pub(crate) loading: bool,
    pub(crate) tlb: Vec<Cached>,
    pub(crate) tables: Vec<CachedTable>,
    pub(crate) unseen: VecDeque<Unseen>,
    pub(crate) issued: Vec<Issued>,
    /// x86-64.
    pub(crate) cr4: u64,
    /// x86-64: as loaded last.
    pub(crate) cr3: u64,
    /// How often interrupts were turned off.
    pub(crate) irq_off: u32,
    /// An interrupt is pending, deliverable from that time on.
    pub(crate) ipi: Option<u64>,
    /// Turns of the waiting loop since anything happened.
    pub(crate) turns: u64,
    /// Host threads that run on it.
    pub(crate) threads: u32,
}

impl Cpu {
    /// Is this number in use here?
    pub(crate) fn runs_asid(&self, asid: u16) -> bool {
        self.loaded.is_some_and(|l| l.1 == asid) || self.before.is_some_and(|l| l.1 == asid)
    }
    pub(crate) fn reaches(&self, e: &Cached) -> bool {
        e.mark.contains(Mark::GLOBAL) || self.runs_asid(e.asid)
    }
    pub(crate) fn reaches_table(&self, e: &CachedTable) -> bool {
        e.mark.contains(Mark::GLOBAL) || self.runs_asid(e.asid)
    }
    /// Which of a full TLB goes when something else is cached. What is out of date or out
    /// of reach stays longest, up to half of it: that is what a missed flush shows on.
    pub(crate) fn victim(&self, random: usize) -> usize {
        let n = self.tlb.len();
        let dull = |e: &Cached| e.stale == 0 && self.reaches(e);
        let kept = n - self.tlb.iter().filter(|e| dull(e)).count();
        if kept * 2 > n {
            return random % n;
        }
        (0..n).map(|i| (random + i) % n).find(|i| dull(&self.tlb[*i])).unwrap_or(0)
    }
    /// As [`Cpu::victim`], of the table pointers.
    pub(crate) fn victim_table(&self, random: usize) -> usize {
        let n = self.tables.len();
        let dull = |e: &CachedTable| e.stale == 0 && self.reaches_table(e);
        let kept = n - self.tables.iter().filter(|e| dull(e)).count();
        if kept * 2 > n {
            return random % n;
        }
        (0..n).map(|i| (random + i) % n).find(|i| dull(&self.tables[*i])).unwrap_or(0)
    }
    /// Does what is named. `linger`: this CPU goes on using it for a while.
    pub(crate) fn invalidate(&mut self, named: &Named, linger: bool) {
        if linger {
            for e in self.tlb.iter_mut().filter(|e| named.takes(e)) {
                e.mark |= Mark::LINGERS;
            }
            for e in self.tables.iter_mut().filter(|e| named.takes_table(e)) {
                e.mark |= Mark::LINGERS;
            }
        } else {
            self.tlb.retain(|e| !named.takes(e));
            self.tables.retain(|e| !named.takes_table(e));
        }
    }
    /// Context synchronisation.
    pub(crate) fn synchronise(&mut self) {
        self.before = None;
        self.tlb.retain(|e| !e.mark.contains(Mark::LINGERS));
        self.tables.retain(|e| !e.mark.contains(Mark::LINGERS));
    }
}
