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

mod check;
mod holes;

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
    /// An entry of the tree: where the last look at a range began. Operations look at their range several times; faults
    /// neither use nor set it, as that would be a line that all CPUs write.
    hint: HandleField<Entry>,
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
        let hint = HandleField::new(None);
        Tree { root: None, first: None, last: None, count: 0, min: min.get(), max: max.get(), hint }
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
        let ends_above = |h: &Handle<Entry>| va.get() < slab.get(*h).end.get();
        // The hint, or a neighbour.
        if let Some(h) = self.hint.get() {
            if slab.get(h).start.get() > va.get() {
                match Self::prev(slab, h) {
                    None => return Some(h),
                    Some(b) if !ends_above(&b) => return Some(h),
                    Some(b) if slab.get(b).start.get() <= va.get() => return Some(b),
                    Some(_) => {}
                }
            } else if ends_above(&h) {
                return Some(h);
            } else {
                match Self::next(slab, h) {
                    None => return None,
                    Some(a) if ends_above(&a) => return Some(a),
                    Some(_) => {}
                }
            }
        }
        let found = match self.floor(slab, va) {
            None => self.first,
            Some(h) if ends_above(&h) => Some(h),
            Some(h) => Self::next(slab, h),
        };
        self.hint.set(found.or(self.last));
        found
    }

    /// Links `h`, whose bounds are set and free.
    pub(crate) fn insert<C: ChunkSource>(&mut self, slab: &Slab<Entry, C>, h: Handle<Entry>) {
        let below = self.floor(slab, slab.get(h).start());
        self.link_above(slab, h, below);
        if let Some(above) = slab.get(h).links.next.get() {
            self.gap_changed(slab, above);
        }
    }

    /// Cuts `h` at `va`: `upper`, whose bounds are set, is the part from there on. No hole changes.
    pub(crate) fn split<C: ChunkSource>(
        &mut self,
        slab: &Slab<Entry, C>,
        h: Handle<Entry>,
        va: Va,
        upper: Handle<Entry>,
    ) {
        slab.get(h).end.set(va.get());
        self.link_above(slab, upper, Some(h));
    }

    /// Puts `h` in right above `below` (`None`: below all). The hole in front of what follows is the caller's to
    /// correct.
    fn link_above<C: ChunkSource>(&mut self, slab: &Slab<Entry, C>, h: Handle<Entry>, below: At) {
        let e = slab.get(h);
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
    }

    /// Unlinks `h`. Its own bounds are left as they are.
    pub(crate) fn remove<C: ChunkSource>(&mut self, slab: &Slab<Entry, C>, h: Handle<Entry>) {
        let above = slab.get(h).links.next.get();
        self.unlink(slab, h);
        if let Some(above) = above {
            self.gap_changed(slab, above);
        }
    }

    /// Makes one of two neighbours that touch: `keep` of them stays, with the bounds of both. No hole changes.
    pub(crate) fn join<C: ChunkSource>(
        &mut self,
        slab: &Slab<Entry, C>,
        (low, high): (Handle<Entry>, Handle<Entry>),
        keep: Handle<Entry>,
    ) {
        let (l, h) = (slab.get(low), slab.get(high));
        if keep == low {
            l.end.set(h.end.get());
            self.unlink(slab, high);
        } else {
            h.start.set(l.start.get());
            self.unlink(slab, low);
            self.gap_changed(slab, high);
        }
    }

    /// Takes `h` out. The hole in front of what follows is the caller's to correct.
    fn unlink<C: ChunkSource>(&mut self, slab: &Slab<Entry, C>, h: Handle<Entry>) {
        let l = &slab.get(h).links;
        let (below, above) = (l.prev.get(), l.next.get());
        if self.hint.get() == Some(h) {
            self.hint.set(below);
        }
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
        self.gap_changed(slab, h);
        if let Some(above) = e.links.next.get() {
            self.gap_changed(slab, above);
        }
    }

    /// The hole in front of `h` may have another size (Z31).
    fn gap_changed<C: ChunkSource>(&mut self, slab: &Slab<Entry, C>, h: Handle<Entry>) {
        if self.set_gap(slab, h) {
            self.repair(slab, Some(h));
        }
    }

    /// `false`: it was so before.
    fn set_gap<C: ChunkSource>(&self, slab: &Slab<Entry, C>, h: Handle<Entry>) -> bool {
        let e = slab.get(h);
        let below = e.links.prev.get().map_or(self.min, |p| slab.get(p).end.get());
        let (old, new) = (e.links.gap.get(), e.start.get() - below);
        e.links.gap.set(new);
        old != new
    }

    fn height<C: ChunkSource>(slab: &Slab<Entry, C>, h: At) -> u32 {
        h.map_or(0, |h| slab.get(h).links.height.get())
    }
    fn max_gap<C: ChunkSource>(slab: &Slab<Entry, C>, h: At) -> u64 {
        h.map_or(0, |h| slab.get(h).links.max_gap.get())
    }

    /// Height and largest hole of a subtree.
    #[inline]
    fn subtree<C: ChunkSource>(slab: &Slab<Entry, C>, h: At) -> (u32, u64) {
        h.map_or((0, 0), |h| {
            let l = &slab.get(h).links;
            (l.height.get(), l.max_gap.get())
        })
    }

    /// Recomputes what `h` says of its subtree.
    fn update<C: ChunkSource>(slab: &Slab<Entry, C>, h: Handle<Entry>) {
        let l = &slab.get(h).links;
        let (left, right) = (Self::subtree(slab, l.left.get()), Self::subtree(slab, l.right.get()));
        l.height.set(1 + left.0.max(right.0));
        l.max_gap.set(l.gap.get().max(left.1).max(right.1));
    }

    /// Restores heights, gaps and balance from `at` upwards, until a node is found
    /// that already was right.
    fn repair<C: ChunkSource>(&mut self, slab: &Slab<Entry, C>, mut at: At) {
        while let Some(h) = at {
            let (top, changed) = self.balance(slab, h);
            if !changed {
                return;
            }
            at = slab.get(top).links.parent.get();
        }
    }

    /// As [`Tree::repair`], all the way to the root.
    fn repair_path<C: ChunkSource>(&mut self, slab: &Slab<Entry, C>, mut at: At) {
        while let Some(h) = at {
            let (top, _) = self.balance(slab, h);
            at = slab.get(top).links.parent.get();
        }
    }

    /// Makes `h` say what its subtree is like, and rotates when one side of it is two higher. Gives the node now on
    /// top, and whether anything was different.
    fn balance<C: ChunkSource>(&mut self, slab: &Slab<Entry, C>, h: Handle<Entry>) -> (Handle<Entry>, bool) {
        let l = &slab.get(h).links;
        let (left, right) = (l.left.get(), l.right.get());
        let ((hl, gl), (hr, gr)) = (Self::subtree(slab, left), Self::subtree(slab, right));
        if hl.abs_diff(hr) <= 1 {
            let (height, gap) = (1 + hl.max(hr), l.gap.get().max(gl).max(gr));
            let changed = height != l.height.get() || gap != l.max_gap.get();
            l.height.set(height);
            l.max_gap.set(gap);
            return (h, changed);
        }
        let top = match (left, right) {
            (Some(child), _) if hl > hr => {
                let c = &slab.get(child).links;
                if Self::height(slab, c.right.get()) > Self::height(slab, c.left.get()) {
                    self.rotate_left(slab, child);
                }
                self.rotate_right(slab, h)
            }
            (_, Some(child)) => {
                let c = &slab.get(child).links;
                if Self::height(slab, c.left.get()) > Self::height(slab, c.right.get()) {
                    self.rotate_right(slab, child);
                }
                self.rotate_left(slab, h)
            }
            _ => h,
        };
        (top, true)
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
}
