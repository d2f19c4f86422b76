//! The entries of a map in address order: a balanced tree (AVL), threaded through
//! `prev` and `next`, that knows the largest hole below each node.
//!
//! ```text
//!     min        a            b       c            max
//!      |--gap(a)-|aaaa|-gap(b)-|bbbb||ccc|---tail---|
//! ```
//! Every node holds the hole in front of it (`gap`) and the largest `gap` of its
//! subtree (`max_gap`); the hole behind the last entry (`tail`) belongs to no node
//! and is computed. So "the first hole of at least n bytes" is one walk down, and
//! so are lookup, insert and remove.
//!
//! The tree owns neither entries nor memory: it is links in a slab, and every
//! method takes the slab. A node in a tree is changed under the map's write lock
//! only; readers never restructure (Z30).

use machvm_arena::{ChunkSource, Handle, HandleField, Slab};
use machvm_hal::Va;
use machvm_sync::{Field32, Field64};

use super::entry::Entry;

type At = Option<Handle<Entry>>;

/// The links of one entry. Every field \[m\].
#[derive(Debug, Default)]
pub(crate) struct Links {
    left: HandleField<Entry>,
    right: HandleField<Entry>,
    parent: HandleField<Entry>,
    /// The entry below in address order.
    prev: HandleField<Entry>,
    /// The entry above in address order; of an unlinked entry, the next in a chain
    /// of dead ones.
    pub(super) next: HandleField<Entry>,
    /// Height of the subtree, 1 for a leaf.
    height: Field32,
    /// Bytes of the hole in front of this entry.
    gap: Field64,
    /// Largest `gap` of the subtree.
    max_gap: Field64,
}

/// The tree of one map.
#[derive(Debug)]
pub(crate) struct Tree {
    root: At,
    first: At,
    last: At,
    count: u32,
    min: u64,
    max: u64,
}

/// A hole of the map, at least as large as what was searched for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Hole {
    /// First free byte.
    pub(crate) start: Va,
    /// One past the last free byte.
    pub(crate) end: Va,
    /// The entry above the hole; `None`: the hole reaches the end of the map.
    above: At,
}

impl Tree {
    /// Empty, for addresses in `[min, max)`.
    pub(crate) const fn new(min: Va, max: Va) -> Self {
        Tree { root: None, first: None, last: None, count: 0, min: min.get(), max: max.get() }
    }
    /// Number of entries.
    pub(crate) const fn count(&self) -> u32 {
        self.count
    }
    /// The lowest entry.
    pub(crate) const fn first(&self) -> At {
        self.first
    }
    /// The highest entry.
    pub(crate) const fn last(&self) -> At {
        self.last
    }
    /// The entry above `h`.
    pub(crate) fn next<C: ChunkSource>(slab: &Slab<Entry, C>, h: Handle<Entry>) -> At {
        slab.get(h).links.next.get()
    }
    /// The entry below `h`.
    pub(crate) fn prev<C: ChunkSource>(slab: &Slab<Entry, C>, h: Handle<Entry>) -> At {
        slab.get(h).links.prev.get()
    }

    /// The entry with the greatest start that is not above `va` (N05: the one that
    /// contains `va`, or the one just below it). Any address may be asked for.
    #[inline]
    pub(crate) fn floor<C: ChunkSource>(&self, slab: &Slab<Entry, C>, va: Va) -> At {
        let (mut at, mut best) = (self.root, None);
        while let Some(h) = at {
            let e = slab.get(h);
            if e.start.get() <= va.get() {
                best = at;
                at = e.links.right.get();
            } else {
                at = e.links.left.get();
            }
        }
        best
    }

    /// The entry that contains `va`.
    #[inline]
    pub(crate) fn containing<C: ChunkSource>(&self, slab: &Slab<Entry, C>, va: Va) -> At {
        self.floor(slab, va).filter(|h| va.get() < slab.get(*h).end.get())
    }

    /// The first entry that ends above `va`: it contains `va` or lies above it.
    pub(crate) fn at_or_above<C: ChunkSource>(&self, slab: &Slab<Entry, C>, va: Va) -> At {
        match self.floor(slab, va) {
            None => self.first,
            Some(h) if va.get() < slab.get(h).end.get() => Some(h),
            Some(h) => Self::next(slab, h),
        }
    }

    /// Links `h`, whose bounds are set and free.
    pub(crate) fn insert<C: ChunkSource>(&mut self, slab: &Slab<Entry, C>, h: Handle<Entry>) {
        let e = slab.get(h);
        let below = self.floor(slab, e.start());
        let above = match below {
            Some(b) => Self::next(slab, b),
            None => self.first,
        };
        let l = &e.links;
        l.left.set(None);
        l.right.set(None);
        l.height.set(1);
        l.prev.set(below);
        l.next.set(above);
        match below {
            Some(b) => slab.get(b).links.next.set(Some(h)),
            None => self.first = Some(h),
        }
        match above {
            Some(a) => slab.get(a).links.prev.set(Some(h)),
            None => self.last = Some(h),
        }
        // In order, h comes right behind `below`: either below has no right child, or
        // `above` is the leftmost node under it and has no left child.
        let parent = match (below, above) {
            (Some(b), _) if slab.get(b).links.right.get().is_none() => {
                slab.get(b).links.right.set(Some(h));
                below
            }
            (_, Some(a)) => {
                slab.get(a).links.left.set(Some(h));
                above
            }
            _ => {
                self.root = Some(h);
                None
            }
        };
        l.parent.set(parent);
        self.count += 1;
        self.set_gap(slab, h);
        l.max_gap.set(l.gap.get());
        self.repair(slab, parent);
        self.gap_changed(slab, above);
    }

    /// Unlinks `h`. Its own bounds are left as they are.
    pub(crate) fn remove<C: ChunkSource>(&mut self, slab: &Slab<Entry, C>, h: Handle<Entry>) {
        let l = &slab.get(h).links;
        let (below, above) = (l.prev.get(), l.next.get());
        match below {
            Some(b) => slab.get(b).links.next.set(above),
            None => self.first = above,
        }
        match above {
            Some(a) => slab.get(a).links.prev.set(below),
            None => self.last = below,
        }
        let from = match (l.left.get(), l.right.get(), above) {
            (Some(_), Some(_), Some(next)) => self.put_successor(slab, h, next),
            (left, right, _) => {
                let parent = l.parent.get();
                self.replace_child(slab, parent, h, left.or(right));
                parent
            }
        };
        self.count -= 1;
        self.repair(slab, from);
        self.gap_changed(slab, above);
    }

    /// Puts `next`, the leftmost node of h's right subtree, in h's place. Gives the
    /// lowest node whose subtree changed.
    fn put_successor<C: ChunkSource>(
        &mut self,
        slab: &Slab<Entry, C>,
        h: Handle<Entry>,
        next: Handle<Entry>,
    ) -> At {
        let (old, new) = (&slab.get(h).links, &slab.get(next).links);
        let mut from = new.parent.get();
        if from == Some(h) {
            from = Some(next);
        } else {
            self.replace_child(slab, from, next, new.right.get());
            new.right.set(old.right.get());
            if let Some(r) = old.right.get() {
                slab.get(r).links.parent.set(Some(next));
            }
        }
        new.left.set(old.left.get());
        if let Some(left) = old.left.get() {
            slab.get(left).links.parent.set(Some(next));
        }
        self.replace_child(slab, old.parent.get(), h, Some(next));
        // `from` may turn out unchanged, but `next` still has the numbers of its old
        // place: go through it.
        self.repair_path(slab, from);
        None
    }

    /// Moves the bounds of `h` (N04). The order of the entries must not change.
    pub(crate) fn resize<C: ChunkSource>(
        &mut self,
        slab: &Slab<Entry, C>,
        h: Handle<Entry>,
        start: Va,
        end: Va,
    ) {
        let e = slab.get(h);
        e.start.set(start.get());
        e.end.set(end.get());
        self.gap_changed(slab, Some(h));
        self.gap_changed(slab, e.links.next.get());
    }

    /// The hole in front of `h`, or behind the last entry, has another size (Z31).
    fn gap_changed<C: ChunkSource>(&mut self, slab: &Slab<Entry, C>, h: At) {
        if let Some(node) = h {
            self.set_gap(slab, node);
            self.repair(slab, h);
        }
    }

    fn set_gap<C: ChunkSource>(&self, slab: &Slab<Entry, C>, h: Handle<Entry>) {
        let e = slab.get(h);
        let below = e.links.prev.get().map_or(self.min, |p| slab.get(p).end.get());
        e.links.gap.set(e.start.get() - below);
    }

    fn height<C: ChunkSource>(slab: &Slab<Entry, C>, h: At) -> u32 {
        h.map_or(0, |h| slab.get(h).links.height.get())
    }
    fn max_gap<C: ChunkSource>(slab: &Slab<Entry, C>, h: At) -> u64 {
        h.map_or(0, |h| slab.get(h).links.max_gap.get())
    }

    /// Recomputes what `h` says of its subtree. `false`: nothing was different.
    fn update<C: ChunkSource>(slab: &Slab<Entry, C>, h: Handle<Entry>) -> bool {
        let l = &slab.get(h).links;
        let (left, right) = (l.left.get(), l.right.get());
        let height = 1 + Self::height(slab, left).max(Self::height(slab, right));
        let gap = l.gap.get().max(Self::max_gap(slab, left)).max(Self::max_gap(slab, right));
        let changed = height != l.height.get() || gap != l.max_gap.get();
        l.height.set(height);
        l.max_gap.set(gap);
        changed
    }

    /// Restores heights, gaps and balance from `at` upwards, until a node is found
    /// that already was right.
    fn repair<C: ChunkSource>(&mut self, slab: &Slab<Entry, C>, mut at: At) {
        while let Some(h) = at {
            let changed = Self::update(slab, h);
            let top = self.balance(slab, h);
            if !changed && top == h {
                return;
            }
            at = slab.get(top).links.parent.get();
        }
    }

    /// As [`Tree::repair`], all the way to the root.
    fn repair_path<C: ChunkSource>(&mut self, slab: &Slab<Entry, C>, mut at: At) {
        while let Some(h) = at {
            Self::update(slab, h);
            let top = self.balance(slab, h);
            at = slab.get(top).links.parent.get();
        }
    }

    /// Rotates when one side of `h` is two higher. Gives the node now on top.
    fn balance<C: ChunkSource>(&mut self, slab: &Slab<Entry, C>, h: Handle<Entry>) -> Handle<Entry> {
        let l = &slab.get(h).links;
        let (left, right) = (l.left.get(), l.right.get());
        let (hl, hr) = (Self::height(slab, left), Self::height(slab, right));
        if let (Some(child), true) = (left, hl > hr + 1) {
            let c = &slab.get(child).links;
            if Self::height(slab, c.right.get()) > Self::height(slab, c.left.get()) {
                self.rotate_left(slab, child);
            }
            self.rotate_right(slab, h)
        } else if let (Some(child), true) = (right, hr > hl + 1) {
            let c = &slab.get(child).links;
            if Self::height(slab, c.left.get()) > Self::height(slab, c.right.get()) {
                self.rotate_right(slab, child);
            }
            self.rotate_left(slab, h)
        } else {
            h
        }
    }

    fn rotate_left<C: ChunkSource>(&mut self, slab: &Slab<Entry, C>, h: Handle<Entry>) -> Handle<Entry> {
        let l = &slab.get(h).links;
        let Some(up) = l.right.get() else { return h };
        let u = &slab.get(up).links;
        l.right.set(u.left.get());
        if let Some(c) = u.left.get() {
            slab.get(c).links.parent.set(Some(h));
        }
        self.replace_child(slab, l.parent.get(), h, Some(up));
        u.left.set(Some(h));
        l.parent.set(Some(up));
        Self::update(slab, h);
        Self::update(slab, up);
        up
    }

    fn rotate_right<C: ChunkSource>(&mut self, slab: &Slab<Entry, C>, h: Handle<Entry>) -> Handle<Entry> {
        let l = &slab.get(h).links;
        let Some(up) = l.left.get() else { return h };
        let u = &slab.get(up).links;
        l.left.set(u.right.get());
        if let Some(c) = u.right.get() {
            slab.get(c).links.parent.set(Some(h));
        }
        self.replace_child(slab, l.parent.get(), h, Some(up));
        u.right.set(Some(h));
        l.parent.set(Some(up));
        Self::update(slab, h);
        Self::update(slab, up);
        up
    }

    /// `new` takes the place of `old` under `parent`.
    fn replace_child<C: ChunkSource>(
        &mut self,
        slab: &Slab<Entry, C>,
        parent: At,
        old: Handle<Entry>,
        new: At,
    ) {
        match parent {
            None => self.root = new,
            Some(p) => {
                let l = &slab.get(p).links;
                if l.left.get() == Some(old) {
                    l.left.set(new);
                } else {
                    l.right.set(new);
                }
            }
        }
        if let Some(n) = new {
            slab.get(n).links.parent.set(parent);
        }
    }

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

    /// Height of the tree.
    #[cfg(test)]
    pub(super) fn height_of_all<C: ChunkSource>(&self, slab: &Slab<Entry, C>) -> u32 {
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
