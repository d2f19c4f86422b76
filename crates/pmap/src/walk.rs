//! Down to the leaf, lock it, look again.

use machvm_hal::{Pfn, Prot};
use machvm_sync::SpinGuard;

use crate::port::{Port, TableMem};
use crate::pte::{Format, Leaf, Pte};
use crate::seed::Bug;
use crate::system::{PmapData, PmapId, System};
use crate::table::TableMd;

/// Levels of the deepest format, and one so that levels index from 1.
const LEVELS: usize = 6;

/// How far a walk came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Walk {
    /// The table of each level that was reached.
    pub(crate) tables: [Pfn; LEVELS],
    /// The level it stopped at: 1, the level-1 table was reached and not read; else
    /// the entry `raw` at that level is absent or maps memory.
    pub(crate) stop: u8,
    /// See `stop`; 0 at level 1.
    pub(crate) raw: u64,
    /// No upper entry takes write access away.
    pub(crate) write: bool,
    /// No upper entry is detached.
    pub(crate) attached: bool,
}

impl Walk {
    #[inline]
    pub(crate) fn table(&self, level: u8) -> Pfn {
        self.tables[level as usize]
    }
    /// Was a level-1 table reached?
    #[inline]
    pub(crate) fn is_leaf(&self) -> bool {
        self.stop == 1
    }
    /// Would the machine use what is below for this?
    #[inline]
    pub(crate) fn allows(&self, write: bool) -> bool {
        self.attached && (self.write || !write)
    }
    /// Rights of a leaf at the end: the AND over the path.
    #[inline]
    pub(crate) fn rights(&self, leaf: Prot) -> Prot {
        match (self.attached, self.write) {
            (false, _) => Prot::NONE,
            (true, false) => leaf - Prot::W,
            (true, true) => leaf,
        }
    }
}

/// A level-1 table, locked: nobody else changes its entries. The hardware still sets
/// accessed and dirty.
pub(crate) struct LeafGuard<'a> {
    pub(crate) table: Pfn,
    pub(crate) md: &'a TableMd,
    _lock: SpinGuard<'a, ()>,
}

/// There is no level-1 table there.
#[derive(Debug)]
pub(crate) struct NoLeaf(pub(crate) Walk);

/// First address of the 2 MiB window (the span of a level-1 table) with `va` in it.
#[inline]
pub(crate) fn window<F: Format>(va: u64) -> u64 {
    va & !((1 << F::shift(2)) - 1)
}

impl<P: Port> System<P> {
    /// Walks as far as tables go. Takes no lock: what it finds is old unless the pmap's
    /// lock is held.
    #[inline]
    pub(crate) fn walk(&self, pm: &PmapData, va: u64) -> Walk {
        let mem = self.port.mem();
        'again: loop {
            let mut w = Walk { tables: [Pfn(0); LEVELS], stop: 0, raw: 0, write: true, attached: true };
            let mut table = pm.root();
            let mut level = P::Format::LEVELS;
            while level > 1 {
                w.tables[level as usize] = table;
                let raw = mem.load(table, P::Format::index(va, level));
                let Pte::Next(next) = P::Format::parse(raw, level) else {
                    (w.stop, w.raw) = (level, raw);
                    return w;
                };
                // A table that was taken out and is memory now leads anywhere.
                if mem.md(next.pfn).is_none() {
                    continue 'again;
                }
                w.write &= next.write || self.port.seeded(Bug::RightsOfLeafOnly);
                w.attached &= !next.detached || self.port.seeded(Bug::RightsOfLeafOnly);
                table = next.pfn;
                level -= 1;
            }
            w.tables[1] = table;
            w.stop = 1;
            return w;
        }
    }

    /// Locks the level-1 table of the window with `va` in it.
    ///
    /// => no table's lock is held; the pmap's may be.
    #[track_caller]
    #[inline]
    pub(crate) fn lock_leaf(&self, id: PmapId, va: u64) -> Result<(LeafGuard<'_>, Walk), NoLeaf> {
        let (pm, first) = (self.pmap(id), window::<P::Format>(va));
        loop {
            let w = self.walk(pm, va);
            if !w.is_leaf() {
                return Err(NoLeaf(w));
            }
            let table = w.table(1);
            if let Some(md) = self.md(table) {
                let lock = md.lock();
                if md.is_leaf(id, first) {
                    return Ok((LeafGuard { table, md, _lock: lock }, w));
                }
            }
        }
    }

    /// Locks a level-1 table that the caller knows to be in use, if it is free.
    #[inline]
    pub(crate) fn try_leaf(&self, table: Pfn) -> Option<LeafGuard<'_>> {
        let md = self.md(table)?;
        let lock = md.try_lock()?;
        Some(LeafGuard { table, md, _lock: lock })
    }

    /// Reads an entry of a level-1 table.
    #[inline]
    pub(crate) fn leaf_at(&self, table: Pfn, index: usize) -> (u64, Option<Leaf>) {
        let raw = self.port.mem().load(table, index);
        (raw, as_leaf::<P::Format>(raw, 1))
    }

    /// Changes a mapping in one step against the hardware's own writes. `change` gives
    /// the new meaning of the old one, or `None` to leave it. Returns what was there.
    ///
    /// => the lock that guards the entry is held.
    #[inline]
    pub(crate) fn update(
        &self,
        table: Pfn,
        index: usize,
        level: u8,
        mut change: impl FnMut(Leaf) -> Option<Leaf>,
    ) -> Option<Leaf> {
        let mem = self.port.mem();
        let mut raw = mem.load(table, index);
        loop {
            let old = as_leaf::<P::Format>(raw, level)?;
            let Some(new) = change(old) else { return Some(old) };
            let word = P::Format::emit(Pte::Leaf(new), level);
            if word == raw {
                return Some(old);
            }
            match mem.compare_exchange(table, index, raw, word) {
                Ok(_) => return Some(old),
                Err(now) => raw = now,
            }
        }
    }
}

/// The mapping that a word is.
#[inline]
pub(crate) fn as_leaf<F: Format>(raw: u64, level: u8) -> Option<Leaf> {
    match F::parse(raw, level) {
        Pte::Leaf(l) => Some(l),
        Pte::Absent | Pte::Next(_) => None,
    }
}
