//! Searching the holes of a tree, in either direction.

use machvm_arena::{ChunkSource, Handle, Slab};
use machvm_hal::Va;

use super::{At, Entry, Hole, Tree};

impl Tree {
    /// The hole in front of `above` (`None`: behind the last entry).
    fn hole<C: ChunkSource>(&self, slab: &Slab<Entry, C>, above: At) -> Hole {
        let (below, end) = match above {
            Some(a) => (Self::prev(slab, a), slab.get(a).start.get()),
            None => (self.last, self.max),
        };
        let start = below.map_or(self.min, |b| slab.get(b).end.get());
        Hole { start: Va::from_page(start >> 12), end: Va::from_page(end >> 12), above }
    }

    /// The hole that contains `va` or, when `va` is taken, the next one above
    /// (possibly empty).
    pub(crate) fn hole_from<C: ChunkSource>(&self, slab: &Slab<Entry, C>, va: Va) -> Hole {
        let above = match self.floor(slab, va) {
            None => self.first,
            Some(h) => Self::next(slab, h),
        };
        self.hole(slab, above)
    }

    /// The first hole above `hole` of at least `bytes`.
    pub(crate) fn hole_above<C: ChunkSource>(
        &self,
        slab: &Slab<Entry, C>,
        hole: &Hole,
        bytes: u64,
    ) -> Option<Hole> {
        let mut at = hole.above?;
        loop {
            let l = &slab.get(at).links;
            if Self::max_gap(slab, l.right.get()) >= bytes
                && let Some(r) = l.right.get()
            {
                return Some(self.hole(slab, Some(Self::lowest(slab, r, bytes))));
            }
            // Up to the first ancestor that lies above.
            loop {
                let Some(p) = slab.get(at).links.parent.get() else {
                    let tail = self.hole(slab, None);
                    return (tail.end.get() - tail.start.get() >= bytes).then_some(tail);
                };
                let from_left = slab.get(p).links.left.get() == Some(at);
                at = p;
                if from_left {
                    break;
                }
            }
            if slab.get(at).links.gap.get() >= bytes {
                return Some(self.hole(slab, Some(at)));
            }
        }
    }

    /// The first hole below `hole` of at least `bytes`.
    pub(crate) fn hole_below<C: ChunkSource>(
        &self,
        slab: &Slab<Entry, C>,
        hole: &Hole,
        bytes: u64,
    ) -> Option<Hole> {
        let mut at = match hole.above {
            Some(a) => a,
            None => {
                let root = self.root?;
                return (Self::max_gap(slab, self.root) >= bytes)
                    .then(|| self.hole(slab, Some(Self::highest(slab, root, bytes))));
            }
        };
        loop {
            let l = &slab.get(at).links;
            if Self::max_gap(slab, l.left.get()) >= bytes
                && let Some(left) = l.left.get()
            {
                return Some(self.hole(slab, Some(Self::highest(slab, left, bytes))));
            }
            loop {
                let p = slab.get(at).links.parent.get()?;
                let from_right = slab.get(p).links.right.get() == Some(at);
                at = p;
                if from_right {
                    break;
                }
            }
            if slab.get(at).links.gap.get() >= bytes {
                return Some(self.hole(slab, Some(at)));
            }
        }
    }

    /// The lowest node under `at` with a gap of `bytes`; there is one.
    fn lowest<C: ChunkSource>(slab: &Slab<Entry, C>, mut at: Handle<Entry>, bytes: u64) -> Handle<Entry> {
        loop {
            let l = &slab.get(at).links;
            match (l.left.get(), l.right.get()) {
                (Some(left), _) if Self::max_gap(slab, Some(left)) >= bytes => at = left,
                _ if l.gap.get() >= bytes => return at,
                (_, Some(right)) => at = right,
                _ => return at,
            }
        }
    }

    /// The highest node under `at` with a gap of `bytes`; there is one.
    fn highest<C: ChunkSource>(slab: &Slab<Entry, C>, mut at: Handle<Entry>, bytes: u64) -> Handle<Entry> {
        loop {
            let l = &slab.get(at).links;
            match (l.left.get(), l.right.get()) {
                (_, Some(right)) if Self::max_gap(slab, Some(right)) >= bytes => at = right,
                _ if l.gap.get() >= bytes => return at,
                (Some(left), _) => at = left,
                _ => return at,
            }
        }
    }
}
