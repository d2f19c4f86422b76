//! Walks that leave something behind, and the adversary that makes them.
//!
//! Allowed to every CPU at every moment: to walk any address of what it has loaded,
//! from the root or from any table it remembers; to remember the tables on the way even
//! when the walk finds nothing; to remember the translation, whole, in pieces, or as a
//! run where the tables allow it; to note use while doing so, never a write; to forget
//! anything. On RISC-V also to remember that there was nothing, on AArch64 to see
//! tables as they were before the last DSB.

use super::cpu::{Cached, CachedTable, Mark};
use super::report::Kind;
use super::state::{Origin, State, Use, WORDS};
use super::trace::Event;
use super::tree::finish;
use super::walk::{Arch, Entry, LeafEntry, Rights};

/// Why a walk gave no translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Not an address.
    NotCanonical,
    /// No entry.
    NotMapped,
    /// An entry with bits that must be zero.
    Reserved,
    /// The tables, or what is cached of them, do not allow it.
    Protection,
    /// The entry lacks accessed and the hardware does not set it.
    Accessed,
    /// The entry lacks dirty and the hardware does not set it.
    Dirty,
}

/// A walk at its table.
struct At {
    table: u32,
    level: u8,
    mask: Rights,
    /// What the way here makes of what is found: global, or in use until ISB only.
    mark: Mark,
    stale: u64,
}

impl State {
    /// Perhaps something happens.
    #[inline]
    pub(crate) fn adversary(&mut self) {
        if self.rng.one_in(self.rate) {
            self.act();
        }
    }

    pub(crate) fn act(&mut self) {
        let cpu = self.rng.below(self.cpus.len() as u64) as usize;
        match self.rng.below(16) {
            0 if !self.cpus[cpu].tlb.is_empty() => {
                let random = self.rng.bits() as usize;
                let i = self.cpus[cpu].victim(random);
                self.cpus[cpu].tlb.swap_remove(i);
            }
            1 if !self.cpus[cpu].tables.is_empty() => {
                let random = self.rng.bits() as usize;
                let i = self.cpus[cpu].victim_table(random);
                self.cpus[cpu].tables.swap_remove(i);
            }
            2 => {
                let n = self.cpus[cpu].unseen.len() as u64;
                let n = self.rng.below(n + 1) as usize;
                self.see(cpu, n);
            }
            3 => self.do_some_issued(cpu),
            _ => {
                let va = self.some_va();
                self.speculate(cpu, va);
            }
        }
    }

    /// A walk that nobody asked for.
    pub(crate) fn speculate(&mut self, cpu: usize, va: u64) {
        if self.mmu.arch.canonical(va) {
            let _ = self.walk(cpu, va, None);
        }
    }

    /// The root that the CPU would walk from.
    fn root_for(&mut self, cpu: usize, va: u64) -> Option<(u32, u16)> {
        let c = &self.cpus[cpu];
        let loaded = match c.before {
            Some(before) if self.rng.one_in(2) => Some(before),
            _ => c.loaded,
        };
        if self.mmu.arch.is_arm() && State::is_kernel(va) {
            // Walks of TTBR1 carry the number in TTBR0.
            return Some((self.kernel_root?, loaded.map_or(0, |l| l.1)));
        }
        loaded
    }

    /// Walks. `want`: for an access that needs these rights and, if one of them is
    /// writing, the dirty bit; `None`: on speculation.
    pub(crate) fn walk(&mut self, cpu: usize, va: u64, want: Option<Rights>) -> Result<Cached, Fault> {
        let (root, asid) = self.root_for(cpu, va).ok_or(Fault::NotMapped)?;
        let origin = self.origin_at(root, va);
        let mut at = self.start(cpu, root, asid, va);
        loop {
            let index = Arch::index(va, at.level);
            let (mut raw, mut since) = self.visible(cpu, u64::from(at.table), index);
            let mut entry = self.mmu.decode(raw, at.level);
            if self.must_note(&entry, want) && since != 0 {
                // Updates are made in memory as it is, and look again there.
                self.see_all(at.table, index);
                (raw, since) = (self.word(u64::from(at.table), index), 0);
                entry = self.mmu.decode(raw, at.level);
            }
            let stale = if at.stale != 0 { at.stale } else { since };
            match entry {
                Entry::Invalid => {
                    self.remember_nothing(cpu, va, at.level, asid, origin);
                    return Err(Fault::NotMapped);
                }
                Entry::Reserved => {
                    self.report(Kind::Malformed, cpu, Some(origin), va, raw);
                    return Err(Fault::Reserved);
                }
                Entry::Next(n) => {
                    if !self.exists(n.table) {
                        self.report(Kind::WrongFrame, cpu, Some(origin), va, n.table);
                        return Err(Fault::Reserved);
                    }
                    if !n.accessed && self.mmu.arch.is_x86() {
                        self.note(cpu, at.table, index, self.mmu.with_accessed(raw));
                    }
                    let mut mark = at.mark;
                    mark.set(Mark::GLOBAL, n.global || mark.contains(Mark::GLOBAL));
                    let mask = at.mask & n.mask;
                    at = At { table: n.table as u32, level: at.level - 1, mask, mark, stale };
                    self.remember_table(cpu, va, asid, origin, &at);
                }
                Entry::Leaf(mut leaf) => {
                    self.note_use(cpu, &at, (index, raw), &mut leaf, want)?;
                    leaf.rights = finish(self.mmu.arch, leaf.rights & at.mask);
                    leaf.global |= at.mark.contains(Mark::GLOBAL);
                    at.stale = stale;
                    return Ok(self.remember(cpu, va, asid, origin, &at, &leaf));
                }
            }
        }
    }

    /// Checks rights and notes use and, for an access that writes, the write.
    fn note_use(
        &mut self,
        cpu: usize,
        at: &At,
        (index, raw): (usize, u64),
        leaf: &mut LeafEntry,
        want: Option<Rights>,
    ) -> Result<(), Fault> {
        let mut raw = raw;
        let allowed = finish(self.mmu.arch, leaf.rights & at.mask);
        if let Some(want) = want
            && !allowed.contains(want)
        {
            return Err(Fault::Protection);
        }
        if !leaf.accessed {
            if !self.mmu.sets_accessed() {
                return Err(Fault::Accessed);
            }
            leaf.accessed = true;
            raw = self.mmu.with_accessed(raw);
            self.note(cpu, at.table, index, raw);
        }
        if !leaf.dirty && want.is_some_and(|w| w.intersects(Rights::WRITE)) {
            if !self.mmu.sets_dirty() {
                return Err(Fault::Dirty);
            }
            leaf.dirty = true;
            raw = self.mmu.with_dirty(raw);
            self.note(cpu, at.table, index, raw);
        }
        Ok(())
    }

    /// Will the walk change this entry?
    fn must_note(&self, entry: &Entry, want: Option<Rights>) -> bool {
        let writes = want.is_some_and(|w| w.intersects(Rights::WRITE));
        match entry {
            Entry::Leaf(l) => !l.accessed || writes && !l.dirty,
            Entry::Next(n) => !n.accessed,
            _ => false,
        }
    }

    /// The hardware's own write of an entry. It replaces exactly what the walk read: all
    /// of it happens under the machine's lock.
    fn note(&mut self, cpu: usize, table: u32, index: usize, new: u64) {
        if self.frames[table as usize].used != Use::Table {
            // A walk through a frame that was freed is reported where it was freed; it must
            // not write on memory that is somebody else's now.
            return;
        }
        self.words[table as usize * WORDS + index] = new;
        self.event(Event::Noted { cpu: cpu as u16, table, index: index as u16, new });
    }

    fn see_all(&mut self, table: u32, index: usize) {
        for cpu in 0..self.cpus.len() {
            let last =
                self.cpus[cpu].unseen.iter().rposition(|u| u.table == table && usize::from(u.index) == index);
            if let Some(last) = last {
                self.see(cpu, last + 1);
            }
        }
    }

    /// The root, or a table that is remembered.
    fn start(&mut self, cpu: usize, root: u32, asid: u16, va: u64) -> At {
        let vpn = va >> 12;
        let matches = |e: &&CachedTable| e.covers(vpn) && (e.mark.contains(Mark::GLOBAL) || e.asid == asid);
        let n = self.cpus[cpu].tables.iter().filter(matches).count() as u64;
        // One more for the root.
        let pick = self.rng.below(n + 1) as usize;
        match self.cpus[cpu].tables.iter().filter(matches).nth(pick) {
            Some(e) => At {
                table: e.table,
                level: e.level,
                mask: e.mask,
                mark: e.mark & (Mark::GLOBAL | Mark::LINGERS),
                stale: e.stale,
            },
            None => At {
                table: root,
                level: self.mmu.arch.levels(),
                mask: Rights::all(),
                mark: Mark::empty(),
                stale: 0,
            },
        }
    }

    fn remember_table(&mut self, cpu: usize, va: u64, asid: u16, origin: Origin, at: &At) {
        let log2 = 9 * at.level;
        let e = CachedTable {
            vpn: va >> 12 >> log2 << log2,
            origin,
            stale: at.stale,
            table: at.table,
            asid,
            level: at.level,
            mask: at.mask,
            mark: at.mark,
        };
        let room = self.config.tlb / 2;
        let random = self.rng.bits() as usize;
        let list = &mut self.cpus[cpu].tables;
        let same = |o: &CachedTable| {
            o.table == e.table
                && o.vpn == e.vpn
                && o.asid == e.asid
                && o.mask == e.mask
                && o.level == e.level
                && o.mark - Mark::CONDEMNED == e.mark
        };
        if room == 0 || list.iter().any(same) {
            return;
        }
        if list.len() < room {
            list.push(e);
        } else {
            let i = self.cpus[cpu].victim_table(random);
            self.cpus[cpu].tables[i] = e;
        }
        self.event(Event::FillTable { cpu: cpu as u16, va, table: at.table, level: at.level });
    }

    fn remember(
        &mut self,
        cpu: usize,
        va: u64,
        asid: u16,
        origin: Origin,
        at: &At,
        leaf: &LeafEntry,
    ) -> Cached {
        let vpn = va >> 12;
        // Whole, or in a piece of any size in between.
        let log2 = match leaf.run {
            0 => 0,
            run => *self.rng.pick(&[run, run, run.min(9), run.min(4), 0]),
        };
        let base = vpn >> log2 << log2;
        let mut mark = at.mark;
        mark.set(Mark::GLOBAL, leaf.global);
        mark.set(Mark::DIRTY, leaf.dirty);
        let e = Cached {
            vpn: base,
            pfn: leaf.frame(vpn).wrapping_sub(vpn - base),
            origin,
            stale: at.stale,
            asid,
            log2,
            source: leaf.run,
            attr: leaf.attr,
            rights: leaf.rights,
            mark,
        };
        self.insert(cpu, va, e);
        e
    }

    fn remember_nothing(&mut self, cpu: usize, va: u64, level: u8, asid: u16, origin: Origin) {
        if !self.mmu.arch.is_riscv() || !self.rng.one_in(2) {
            return;
        }
        let log2 = 9 * (level - 1);
        let e = Cached {
            vpn: va >> 12 >> log2 << log2,
            pfn: 0,
            origin,
            stale: 0,
            asid,
            log2,
            source: log2,
            attr: 0,
            rights: Rights::empty(),
            mark: Mark::NOTHING,
        };
        self.insert(cpu, va, e);
    }

    fn insert(&mut self, cpu: usize, va: u64, e: Cached) {
        let room = self.config.tlb;
        let random = self.rng.bits() as usize;
        let list = &mut self.cpus[cpu].tlb;
        // The same once more is no news; anything else is kept beside what was there.
        let same = |o: &&mut Cached| {
            o.vpn == e.vpn
                && o.log2 == e.log2
                && o.asid == e.asid
                && o.pfn == e.pfn
                && o.rights == e.rights
                && o.origin == e.origin
                && o.mark - Mark::CONDEMNED == e.mark
        };
        if let Some(old) = list.iter_mut().find(same) {
            if e.stale == 0 {
                // It was just found in the tables, so it is as good as they are.
                old.stale = 0;
                old.mark -= Mark::CONDEMNED;
            }
            old.source = e.source;
            return;
        }
        if room == 0 {
            return;
        }
        if list.len() < room {
            list.push(e);
        } else {
            let i = self.cpus[cpu].victim(random);
            self.cpus[cpu].tlb[i] = e;
        }
        self.event(Event::Fill { cpu: cpu as u16, va, pfn: e.pfn, asid: e.asid });
    }
}
