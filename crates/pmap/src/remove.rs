//! Removing mappings (PM15).

use machvm_hal::{Gather, PageArray, Va, VaRange};

use crate::kernel::counted;
use crate::port::{Port, TableMem};
use crate::pte::Format;
use crate::seed::Bug;
use crate::system::{PmapId, System};
use crate::walk::{LeafGuard, NoLeaf, Walk, as_leaf};

/// Is the table empty now?
struct Emptied(bool);

impl<P: Port> System<P> {
    /// `pmap_remove`: every mapping in the range, wired or not. What is not mapped is
    /// skipped by the largest entries that say so (Z152). Never fails.
    pub(crate) fn remove_range<A: PageArray>(&self, id: PmapId, pages: &A, range: VaRange, g: &mut Gather) {
        let pm = self.pmap(id);
        self.for_windows(range, |part| {
            if let Ok((leaf, _)) = self.lock_leaf(id, part.start().get())
                && leaf.md.eager.get() == 0
            {
                if self.remove_part(id, pages, part, leaf, g).0 {
                    let _pm = pm.lock.lock();
                    self.unlink_empty(id, part.start().get(), g);
                }
                return None;
            }
            // No table, a superpage, or wirings that are counted above.
            let _pm = pm.lock.lock();
            let mut demoted = false;
            loop {
                match self.lock_leaf(id, part.start().get()) {
                    Ok((leaf, w)) => {
                        let before = leaf.md.eager.get();
                        let md = leaf.md;
                        let Emptied(empty) = if demoted && self.port.seeded(Bug::DemoteWithoutFlush) {
                            let mut lost = Gather::new();
                            let empty = self.remove_part(id, pages, part, leaf, &mut lost);
                            self.lose(lost);
                            empty
                        } else {
                            self.remove_part(id, pages, part, leaf, g)
                        };
                        self.count_eager(&w, md.eager.get() as i32 - before as i32);
                        if empty {
                            self.unlink_empty(id, part.start().get(), g);
                        }
                        return None;
                    }
                    Err(NoLeaf(w)) if as_leaf::<P::Format>(w.raw, w.stop).is_some() => {
                        if self.covers(&w, part, range) || !self.demote(id, pages, part.start().get(), g) {
                            self.remove_superpage(id, pages, part.start().get(), g);
                            return None;
                        }
                        demoted = true;
                    }
                    Err(NoLeaf(w)) => return Some(w.stop),
                }
            }
        });
        self.flush_others(id, range, g);
    }

    /// What others took away in the range and have not flushed goes with this gather.
    ///
    /// => after the tables were looked at: their epoch was open before the entry changed.
    pub(crate) fn flush_others(&self, id: PmapId, range: VaRange, g: &mut Gather) {
        if self.epochs.others_open(g.epoch()) {
            g.invalidate(id.raw(), range);
            // It may have been taken away in an upper entry.
            g.invalidate_walks();
        }
    }

    /// For seeded mistakes: what was gathered is flushed by nobody.
    pub(crate) fn lose(&self, g: Gather) {
        if let Some(epoch) = g.epoch() {
            self.epochs.close(epoch);
        }
        core::mem::forget(g);
    }

    /// Calls `f` for every part of the range that lies in one window. `f` may say that
    /// nothing is there at a level: then the rest of that entry's span is skipped.
    pub(crate) fn for_windows(&self, range: VaRange, mut f: impl FnMut(VaRange) -> Option<u8>) {
        let mut at = range.start().get();
        let end = range.end().get();
        while at < end {
            let next = |level: u8| {
                let span = 1u64 << P::Format::shift(level);
                // The top of the address space is the end of the last window.
                (at & !(span - 1)).checked_add(span).unwrap_or(end).min(end)
            };
            let to = next(2);
            let Some(part) = VaRange::between(Va::from_page(at >> 12), Va::from_page(to >> 12)) else {
                return;
            };
            at = match f(part) {
                Some(level) if level > 2 => next(level),
                _ => to,
            };
        }
    }

    /// Does the whole range of the call cover the mapping that a walk stopped at?
    pub(crate) fn covers(&self, w: &Walk, part: VaRange, range: VaRange) -> bool {
        let span = 1u64 << P::Format::shift(w.stop);
        let first = part.start().get() & !(span - 1);
        range.start().get() <= first && first.checked_add(span).is_some_and(|e| e <= range.end().get())
    }

    fn remove_part<A: PageArray>(
        &self,
        id: PmapId,
        pages: &A,
        part: VaRange,
        leaf: LeafGuard<'_>,
        g: &mut Gather,
    ) -> Emptied {
        let first = P::Format::index(part.start().get(), 1);
        let mut pv = self.pv.cursor();
        let pm = self.pmap(id);
        let (mut gone, mut wired) = (0u32, 0u32);
        let mut left = leaf.md.children.get();
        for i in 0..part.pages() as usize {
            if left == 0 && !pm.is_kernel() {
                break;
            }
            if self.port.mem().load(leaf.table, first + i) == 0 {
                continue;
            }
            let va = part.start().add(i as u64);
            if let Some(old) = self.take_out(id, pages, &leaf, first + i, va, &mut pv, g) {
                if !counted(pm, &old) {
                    pm.count(-1, -i64::from(old.wired));
                    continue;
                }
                gone += 1;
                left -= 1;
                wired += u32::from(old.wired);
            }
        }
        drop(pv);
        leaf.md.children.set(left);
        leaf.md.eager.sub(wired);
        drop(leaf);
        pm.count(-i64::from(gone), -i64::from(wired));
        Emptied(left == 0)
    }
}
