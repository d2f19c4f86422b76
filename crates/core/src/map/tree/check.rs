//! The whole-structure check of the tree.

use machvm_arena::{ChunkSource, Slab};
use machvm_hal::Va;

use super::{At, Entry, Tree};

impl Tree {
    /// Height of the tree.
    #[cfg(test)]
    pub(in crate::map) fn height_of_all<C: ChunkSource>(&self, slab: &Slab<Entry, C>) -> u32 {
        Self::height(slab, self.root)
    }

    /// Checks the whole structure (invariants 1 and 2). O(n), for tests and for the
    /// amortised check of debug builds.
    ///
    /// # Errors
    /// What is broken, and the address of the entry.
    pub(crate) fn check<C: ChunkSource>(&self, slab: &Slab<Entry, C>) -> Result<(), (&'static str, Va)> {
        let (mut at, mut below, mut end, mut count) = (self.first, None, self.min, 0);
        while let Some(h) = at {
            let e = slab.get(h);
            let sure = |ok: bool, what| if ok { Ok(()) } else { Err((what, e.start())) };
            sure(e.start.get() < e.end.get(), "empty or reversed entry")?;
            sure((e.start.get() | e.end.get()) & 0xfff == 0, "entry not page aligned")?;
            sure(e.start.get() >= end, "entries overlap or lie below the map")?;
            sure(e.end.get() <= self.max, "entry above the map")?;
            sure(e.links.prev.get() == below, "backward thread")?;
            sure(e.links.gap.get() == e.start.get() - end, "stale gap")?;
            sure(count < self.count, "more entries on the thread than counted")?;
            (below, end, count) = (at, e.end.get(), count + 1);
            at = e.links.next.get();
        }
        if below != self.last || count != self.count {
            return Err(("last entry or count", Va::ZERO));
        }
        let mut cursor = self.first;
        self.check_node(slab, self.root, None, &mut cursor)?;
        if cursor.is_some() { Err(("entry on the thread but not in the tree", Va::ZERO)) } else { Ok(()) }
    }

    /// One subtree; `cursor` walks the thread alongside. The depth is the height of a
    /// balanced tree, below 48 for all handles there can be.
    fn check_node<C: ChunkSource>(
        &self,
        slab: &Slab<Entry, C>,
        at: At,
        parent: At,
        cursor: &mut At,
    ) -> Result<(), (&'static str, Va)> {
        let Some(h) = at else { return Ok(()) };
        let e = slab.get(h);
        let sure = |ok: bool, what| if ok { Ok(()) } else { Err((what, e.start())) };
        let l = &e.links;
        sure(l.parent.get() == parent, "parent link")?;
        let (left, right) = (l.left.get(), l.right.get());
        self.check_node(slab, left, at, cursor)?;
        sure(*cursor == at, "thread and tree differ")?;
        *cursor = l.next.get();
        self.check_node(slab, right, at, cursor)?;
        let (hl, hr) = (Self::height(slab, left), Self::height(slab, right));
        sure(hl.abs_diff(hr) <= 1, "out of balance")?;
        sure(l.height.get() == 1 + hl.max(hr), "height")?;
        let gap = l.gap.get().max(Self::max_gap(slab, left)).max(Self::max_gap(slab, right));
        sure(l.max_gap.get() == gap, "max_gap")
    }
}
