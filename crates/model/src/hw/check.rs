//! The checks at synchronisation points.
//!
//! A translation that should be gone is a mistake where the CPU can use it. Where it
//! cannot (the number it carries is not loaded) it is *condemned*, and a mistake once
//! that number is loaded and it is still there and still more than the tables give.

use super::config::Delivery;
use super::cpu::{Cached, Mark};
use super::report::Kind;
use super::state::{Origin, Place, State, Use};
use super::tree::{End, Lead};
use super::walk::{Arch, Entry};

/// All pages.
pub(crate) const ALL_PAGES: (u64, u64) = (0, 1 << 52);

impl State {
    /// A flush of these pages of the space is complete; what became stale at or before
    /// `since` must be gone.
    pub(crate) fn check_flushed(&mut self, origin: Option<Origin>, (start, end): (u64, u64), since: u64) {
        for cpu in 0..self.cpus.len() {
            for i in 0..self.cpus[cpu].tlb.len() {
                let e = self.cpus[cpu].tlb[i];
                if origin.is_none_or(|o| o == e.origin)
                    && e.meets(start, end)
                    && e.stale <= since
                    && let Some(vpn) = self.excess(cpu, &e, start, end)
                {
                    if self.cpus[cpu].reaches(&e) && !self.cpus[cpu].loading {
                        self.report(Kind::StaleAfterFlush, cpu, Some(e.origin), vpn << 12, e.frame(vpn));
                    } else {
                        self.cpus[cpu].tlb[i].mark |= Mark::CONDEMNED;
                    }
                }
            }
            for i in 0..self.cpus[cpu].tables.len() {
                let e = self.cpus[cpu].tables[i];
                if origin.is_none_or(|o| o == e.origin)
                    && e.meets(start, end)
                    && e.stale <= since
                    && let Some(vpn) = self.excess_table(cpu, &e, start, end)
                {
                    if self.cpus[cpu].reaches_table(&e) && !self.cpus[cpu].loading {
                        let table = u64::from(e.table);
                        self.report(Kind::StaleTableAfterFlush, cpu, Some(e.origin), vpn << 12, table);
                    } else {
                        self.cpus[cpu].tables[i].mark |= Mark::CONDEMNED;
                    }
                }
            }
        }
    }

    /// The frame is freed, or becomes something else.
    pub(crate) fn check_free(&mut self, frame: u64) {
        for cpu in 0..self.cpus.len() {
            let loading = self.cpus[cpu].loading;
            for i in 0..self.cpus[cpu].tlb.len() {
                let e = self.cpus[cpu].tlb[i];
                if e.mark.contains(Mark::NOTHING) || frame < e.pfn || frame - e.pfn >= 1 << e.log2 {
                    continue;
                }
                if self.cpus[cpu].reaches(&e) && !loading {
                    let va = (e.vpn + (frame - e.pfn)) << 12;
                    self.report(Kind::FreedWhileMapped, cpu, Some(e.origin), va, frame);
                } else {
                    self.cpus[cpu].tlb[i].mark |= Mark::CONDEMNED;
                }
            }
            for i in 0..self.cpus[cpu].tables.len() {
                let e = self.cpus[cpu].tables[i];
                if u64::from(e.table) != frame {
                    continue;
                }
                if self.cpus[cpu].reaches_table(&e) && !loading {
                    self.report(Kind::FreedWhileWalked, cpu, Some(e.origin), e.vpn << 12, frame);
                } else {
                    self.cpus[cpu].tables[i].mark |= Mark::CONDEMNED;
                }
            }
            let c = &self.cpus[cpu];
            if c.loaded.is_some_and(|l| u64::from(l.0) == frame)
                || c.before.is_some_and(|l| u64::from(l.0) == frame)
            {
                let origin = self.origin(frame as u32);
                self.report(Kind::FreedWhileLoaded, cpu, Some(origin), 0, frame);
            }
        }
    }

    /// Something else than an instruction happens on the CPU: what it flushed for the
    /// root that it loaded last is flushed. Where one host thread runs at a time that
    /// goes for all CPUs, since nobody hands over between instructions.
    #[inline]
    pub(crate) fn settle(&mut self, cpu: usize) {
        if self.loading > 0 {
            self.settle_all(cpu, self.config.delivery == Delivery::Anyone);
        }
    }

    pub(crate) fn settle_all(&mut self, cpu: usize, all: bool) {
        for c in 0..self.cpus.len() {
            if (all || c == cpu) && self.cpus[c].loading {
                self.check_loaded(c);
            }
        }
    }

    /// The CPU has loaded a root, and flushed what it wanted to flush for that.
    pub(crate) fn check_loaded(&mut self, cpu: usize) {
        self.cpus[cpu].loading = false;
        self.loading -= 1;
        let Some((root, _)) = self.cpus[cpu].loaded else { return };
        let own = self.origin(root);
        let (start, end) = ALL_PAGES;
        for i in 0..self.cpus[cpu].tlb.len() {
            let e = self.cpus[cpu].tlb[i];
            if !self.cpus[cpu].reaches(&e) || e.mark.contains(Mark::NOTHING) {
                continue;
            }
            self.cpus[cpu].tlb[i].mark -= Mark::CONDEMNED;
            let foreign = e.origin != own && e.origin != Origin::KERNEL;
            if foreign && !e.mark.contains(Mark::GLOBAL) {
                self.report(Kind::NumberReused, cpu, Some(e.origin), e.vpn << 12, e.pfn);
            } else if e.mark.contains(Mark::CONDEMNED)
                && let Some(vpn) = self.excess(cpu, &e, start, end)
            {
                self.report(Kind::StaleAfterLoad, cpu, Some(e.origin), vpn << 12, e.frame(vpn));
            }
        }
        for i in 0..self.cpus[cpu].tables.len() {
            let e = self.cpus[cpu].tables[i];
            if !self.cpus[cpu].reaches_table(&e) {
                continue;
            }
            self.cpus[cpu].tables[i].mark -= Mark::CONDEMNED;
            let table = u64::from(e.table);
            if e.origin != own && e.origin != Origin::KERNEL {
                self.report(Kind::NumberReused, cpu, Some(e.origin), e.vpn << 12, table);
            } else if e.mark.contains(Mark::CONDEMNED)
                && let Some(vpn) = self.excess_table(cpu, &e, start, end)
            {
                self.report(Kind::StaleAfterLoad, cpu, Some(e.origin), vpn << 12, table);
            }
        }
    }

    /// An entry of a table that hangs in a tree was written.
    pub(crate) fn written(&mut self, cpu: usize, table: u32, index: usize, old: u64, new: u64) {
        let Some(place) = self.frames[table as usize].place else { return };
        let level = place.level;
        let span = 1u64 << Arch::shift(level);
        let kernel_root = place.origin == Origin::KERNEL;
        let va = self.mmu.arch.extend(place.va + index as u64 * span, kernel_root);
        let origin = if State::is_kernel(va) { Origin::KERNEL } else { place.origin };
        self.heat(va);
        let (was, now) = (self.mmu.decode(old, level), self.mmu.decode(new, level));
        match now {
            Entry::Reserved => self.report(Kind::Malformed, cpu, Some(origin), va, new),
            Entry::Next(n) => {
                // Upper tables of the kernel's half hang in every root, in the same place.
                let va = place.va + index as u64 * span;
                self.place(n.table, Place { origin, level: level - 1, va });
            }
            _ => {}
        }
        let pages = (va >> 12, (va >> 12) + (span >> 12));
        if matches!(was, Entry::Next(_) | Entry::Leaf(_)) {
            if self.mmu.arch.is_arm() && needs_break(&was, &now) {
                self.report(Kind::NotBroken, cpu, Some(origin), va, new);
            }
            if was != now {
                self.note_stale(origin, pages);
            }
        }
        if matches!(now, Entry::Next(_) | Entry::Leaf(_)) && !same_way(&was, &now) {
            self.check_entered(origin, pages, level, &now);
        }
    }

    /// What became more than the tables give, in these pages, is stale from now on.
    fn note_stale(&mut self, origin: Origin, (start, end): (u64, u64)) {
        let step = self.step;
        for cpu in 0..self.cpus.len() {
            for i in 0..self.cpus[cpu].tlb.len() {
                let e = self.cpus[cpu].tlb[i];
                if e.origin == origin && e.meets(start, end) {
                    let more = self.excess(cpu, &e, start, end).is_some();
                    let still = || self.excess(cpu, &e, ALL_PAGES.0, ALL_PAGES.1).is_some();
                    let stale = next_stale(e.stale, more, still, step);
                    self.cpus[cpu].tlb[i].stale = stale;
                }
            }
            for i in 0..self.cpus[cpu].tables.len() {
                let e = self.cpus[cpu].tables[i];
                if e.origin == origin && e.meets(start, end) {
                    let more = self.excess_table(cpu, &e, start, end).is_some();
                    let still = || self.excess_table(cpu, &e, ALL_PAGES.0, ALL_PAGES.1).is_some();
                    let stale = next_stale(e.stale, more, still, step);
                    self.cpus[cpu].tables[i].stale = stale;
                }
            }
        }
    }

    /// The pages became valid: nobody may cache another frame for them.
    fn check_entered(&mut self, origin: Origin, (start, end): (u64, u64), level: u8, now: &Entry) {
        for cpu in 0..self.cpus.len() {
            for i in 0..self.cpus[cpu].tlb.len() {
                let e = self.cpus[cpu].tlb[i];
                if e.origin != origin || !e.meets(start, end) || e.mark.contains(Mark::NOTHING) {
                    continue;
                }
                let Some((vpn, kind)) = self.clashes(cpu, &e, start, end) else { continue };
                if self.cpus[cpu].reaches(&e) && !self.cpus[cpu].loading {
                    self.report(kind, cpu, Some(origin), vpn << 12, e.frame(vpn));
                } else {
                    self.cpus[cpu].tlb[i].mark |= Mark::CONDEMNED;
                }
            }
            for i in 0..self.cpus[cpu].tables.len() {
                let e = self.cpus[cpu].tables[i];
                if e.origin != origin || !e.meets(start, end) {
                    continue;
                }
                // A pointer to the table that was in this very place. If that table is empty
                // it only makes the CPU fault.
                let in_place = self.mmu.arch.is_arm()
                    && e.level + 1 == level
                    && !matches!(now, Entry::Next(n) if n.table == u64::from(e.table));
                let other = self.lead(cpu, &e, start, end, Lead::Elsewhere);
                let replaced = in_place && self.lead(cpu, &e, start, end, Lead::Anywhere).is_some();
                if !replaced && other.is_none() {
                    continue;
                }
                if self.cpus[cpu].reaches_table(&e) && !self.cpus[cpu].loading {
                    let vpn = other.unwrap_or(start);
                    let kind = match now {
                        _ if other.is_some() => Kind::EnteredOverCached,
                        Entry::Leaf(_) => Kind::BrokenNotFlushed,
                        _ => Kind::TableReplaced,
                    };
                    self.report(kind, cpu, Some(origin), vpn << 12, u64::from(e.table));
                } else {
                    self.cpus[cpu].tables[i].mark |= Mark::CONDEMNED;
                }
            }
        }
    }

    /// Does a cached translation contradict the tables: another frame, or on AArch64
    /// another size?
    fn clashes(&self, cpu: usize, e: &Cached, start: u64, end: u64) -> Option<(u64, Kind)> {
        let root = self.root_of(e.origin, cpu)?;
        let (start, end) = (start.max(e.vpn), end.min(e.vpn + (1 << e.log2)));
        let mut vpn = start;
        while vpn < end {
            let End::Leaf { leaf, level } = self.descend(root, vpn << 12, 0) else {
                vpn += 1;
                continue;
            };
            if leaf.frame(vpn) != e.frame(vpn) {
                return Some((vpn, Kind::EnteredOverCached));
            }
            if self.mmu.arch.is_arm() && (leaf.run != e.source || leaf.attr != e.attr) {
                return Some((vpn, Kind::BrokenNotFlushed));
            }
            let size = 9 * (level - 1);
            vpn = ((vpn >> size) + 1) << size;
        }
        None
    }

    /// A table takes its place in a tree, with everything below.
    pub(crate) fn place(&mut self, table: u64, at: Place) {
        if !self.exists(table) || table == 0 {
            self.report(Kind::Malformed, 0, Some(at.origin), at.va, table);
            return;
        }
        if self.frames[table as usize].place == Some(at) {
            return;
        }
        if self.frames[table as usize].used != Use::Table {
            self.report(Kind::NotATable, 0, Some(at.origin), at.va, table);
        }
        if self.frames[table as usize].place.is_some() {
            // It was something else, and never went through the free list.
            self.check_free(table);
        }
        self.frames[table as usize].place = Some(at);
        let span = 1u64 << Arch::shift(at.level);
        for i in 0..512 {
            let raw = self.word(table, i);
            if raw == 0 {
                continue;
            }
            let va = at.va + i as u64 * span;
            match self.mmu.decode(raw, at.level) {
                Entry::Next(n) => {
                    let whole = self.mmu.arch.extend(va, at.origin == Origin::KERNEL);
                    let origin = if State::is_kernel(whole) { Origin::KERNEL } else { at.origin };
                    self.place(n.table, Place { origin, level: at.level - 1, va });
                }
                Entry::Reserved => self.report(Kind::Malformed, 0, Some(at.origin), va, raw),
                Entry::Leaf(_) => {
                    let whole = self.mmu.arch.extend(va, at.origin == Origin::KERNEL);
                    self.heat(whole);
                }
                Entry::Invalid => {}
            }
        }
    }
}

/// `still`: is any of it more than the tables give? Asked only where it was.
fn next_stale(old: u64, more: bool, still: impl Fn() -> bool, step: u64) -> u64 {
    match (more, old) {
        (true, 0) => step,
        (false, since) if since != 0 && !still() => 0,
        (_, since) => since,
    }
}

/// Arm ARM D8.16, "Using break-before-make": another address, another size, another
/// memory type.
fn needs_break(was: &Entry, now: &Entry) -> bool {
    match (was, now) {
        (Entry::Next(a), Entry::Next(b)) => a.table != b.table,
        (Entry::Leaf(a), Entry::Leaf(b)) => {
            a.pfn != b.pfn || a.run != b.run || a.attr != b.attr || a.global != b.global
        }
        (_, Entry::Invalid | Entry::Reserved) => false,
        _ => true,
    }
}

/// Does the entry lead to the same place as before?
fn same_way(was: &Entry, now: &Entry) -> bool {
    match (was, now) {
        (Entry::Next(a), Entry::Next(b)) => a.table == b.table,
        (Entry::Leaf(a), Entry::Leaf(b)) => a.pfn == b.pfn && a.run == b.run,
        _ => false,
    }
}
