//! Making and taking out tables.
//!
//! A table is linked by one store, after everything in it and below it is written, so
//! a walk finds all of it or nothing. It is taken out under both locks, rides in the
//! gather, and is freed when no CPU remembers the way through it.

use machvm_arch::Tlb;
use machvm_hal::{Gather, Pfn, Va, VaRange};

use crate::port::{Port, TableMem};
use crate::pte::{Format, Next, Pte};
use crate::seed::Bug;
use crate::system::{PmapData, PmapId, System};
use crate::table::Ident;
use crate::walk::{Walk, window};

/// Why a window has no level-1 table now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NoTable {
    /// No frame for a table.
    NoMemory,
    /// An entry at this level maps the window whole.
    Superpage(u8),
}

impl<P: Port> System<P> {
    /// Makes the way to the level-1 table of `va`, or leaves everything as it was.
    ///
    /// => the pmap is locked.
    pub(crate) fn make_path(&self, id: PmapId, va: u64) -> Result<Walk, NoTable> {
        self.make_path_to(id, va, 1)
    }

    /// As [`System::make_path`], to the table at level `to`, whose entry is not looked at
    /// unless the way ends there.
    ///
    /// => as above.
    pub(crate) fn make_path_to(&self, id: PmapId, va: u64, to: u8) -> Result<Walk, NoTable> {
        let pm = self.pmap(id);
        let mut w = self.walk(pm, va);
        if w.stop <= to {
            return Ok(w);
        }
        if w.raw != 0 && crate::walk::as_leaf::<P::Format>(w.raw, w.stop).is_some() {
            return Err(NoTable::Superpage(w.stop));
        }
        let missing = w.stop - 1;
        if P::Format::BREAK_BEFORE_MAKE && self.epochs.others_open(None) {
            // A table may just have been taken out of this very place.
            let (tlb, space) = (self.port.tlb(), pm.space_here());
            tlb.before();
            tlb.flush_range(space, VaRange::page(Va::from_page(va >> 12)), true);
            tlb.after();
        }
        for level in to..=missing {
            match self.table_take() {
                Some(t) => w.tables[level as usize] = t,
                None => {
                    (to..level).for_each(|l| self.table_give(w.table(l)));
                    return Err(NoTable::NoMemory);
                }
            }
        }
        let mem = self.port.mem();
        let first = |level: u8| va & !((1u64 << P::Format::shift(level + 1)) - 1);
        for level in to..=missing {
            let table = w.table(level);
            if let Some(md) = self.md(table) {
                md.set_ident(Ident { pmap: id, va: first(level), level, deposited: false });
                md.children.set(u32::from(level > to));
            }
            if level > to {
                mem.store(table, P::Format::index(va, level), self.link(w.table(level - 1), level));
            }
        }
        let top = w.table(w.stop);
        let (index, link) = (P::Format::index(va, w.stop), self.link(w.table(missing), w.stop));
        mem.store(top, index, link);
        if pm.is_kernel() && w.stop == P::Format::LEVELS {
            self.share_root_entry(index, link);
        }
        self.child_added(top, 1);
        w.stop = to;
        w.raw = 0;
        Ok(w)
    }

    fn link(&self, table: Pfn, level: u8) -> u64 {
        P::Format::emit(Pte::Next(Next { pfn: table, write: true, detached: false }), level)
    }

    /// => the pmap is locked.
    pub(crate) fn child_added(&self, table: Pfn, n: i32) {
        if let Some(md) = self.md(table) {
            md.children.set(md.children.get().wrapping_add_signed(n));
        }
    }

    /// Counts wired mappings and holds below the tables above level 1.
    ///
    /// => the pmap is locked.
    pub(crate) fn count_eager(&self, w: &Walk, n: i32) {
        if n == 0 {
            return;
        }
        for level in w.stop.max(2)..=P::Format::LEVELS {
            if let Some(md) = self.md(w.table(level)) {
                md.eager.set(md.eager.get().wrapping_add_signed(n));
            }
        }
    }

    /// Takes out the level-1 table of `va` if it is empty, and every table above that
    /// becomes empty. They are freed when the gather is finished.
    ///
    /// => the pmap is locked, no table is.
    pub(crate) fn unlink_empty(&self, id: PmapId, va: u64, g: &mut Gather) {
        let pm = self.pmap(id);
        let w = self.walk(pm, va);
        if !w.is_leaf() {
            return;
        }
        let table = w.table(1);
        let Some(md) = self.md(table) else { return };
        if self.keeps_table(pm, va) {
            return;
        }
        {
            let _leaf = md.lock();
            // A hold is counted in the table, so it stays.
            let used = md.children.get() != 0 || md.eager.get() != 0;
            if !md.is_leaf(id, window::<P::Format>(va)) || used {
                return;
            }
            // Open before the table goes: who finds it gone finds the epoch open.
            self.epoch(g);
            self.port.mem().store(w.table(2), P::Format::index(va, 2), 0);
            md.clear_ident();
        }
        self.bury_table(id, table, va, g);
        self.climb(pm, id, &w, 2, va, g);
    }

    /// An entry of the table at `level` went: takes out what is empty from there up.
    ///
    /// => the pmap is locked.
    pub(crate) fn climb(&self, pm: &PmapData, id: PmapId, w: &Walk, level: u8, va: u64, g: &mut Gather) {
        let mut level = level;
        loop {
            let table = w.table(level);
            self.child_added(table, -1);
            let empty = self.md(table).is_some_and(|md| md.children.get() == 0);
            // The kernel's second level is linked from every root.
            let shared = pm.is_kernel() && level + 1 == P::Format::LEVELS;
            if !empty || level == P::Format::LEVELS || shared {
                return;
            }
            self.port.mem().store(w.table(level + 1), P::Format::index(va, level + 1), 0);
            if let Some(md) = self.md(table) {
                md.clear_ident();
            }
            self.bury_table(id, table, va, g);
            level += 1;
        }
    }

    /// A table without entries that nothing leads to any more.
    pub(crate) fn bury_table(&self, id: PmapId, table: Pfn, va: u64, g: &mut Gather) {
        if self.port.seeded(Bug::TableFreedEarly) {
            self.port.mem().free(table);
            return;
        }
        // Any address in the window finds what is remembered of the way to it.
        g.invalidate(id.raw(), VaRange::page(Va::from_page(va >> 12)));
        let before = g.push_table(table);
        if let Some(md) = self.md(table) {
            md.set_next(before);
        }
    }
}
