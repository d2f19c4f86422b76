//! The copy-on-write radix of anons (decision 2).
//!
//! A tree maps page indices to anons. Leaves have 512 slots (a 2 MiB window),
//! inner nodes 64 children; the root grows upward when an index lies outside, so
//! the tree of a small object is one leaf. Nodes are reference-counted: a copy
//! takes one reference on the root and that is all. A node with more than one
//! reference never changes; the first change below it copies the nodes of one path,
//! which gives every anon of the copied leaf one reference more. What copies must not
//! share, held pages, is found by marks on the way down ([`super::held`]).
//!
//! => the lock of the object that owns the [`Tree`] guards it: read for lookups,
//! write for changes. Only who has a tree containing a node can add a reference to
//! it, so "one reference" seen under the write lock is final.

use core::ops::Range;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use machvm_arena::{Handle, HandleField, NoMemory, Reserved, Slab};
use machvm_sync::Field32;

use super::anon::Anon;
use crate::check::Seen;
use crate::page::FreeBatch;
use crate::platform::Platform;
use crate::vm::Vm;

pub(crate) const LEAF_BITS: u32 = 9;
pub(crate) const LEAF: usize = 1 << LEAF_BITS;
const INNER_BITS: u32 = 6;
pub(super) const INNER: usize = 1 << INNER_BITS;
/// Inner levels at most: 9 + 9 * 6 = 63 bits of page index.
const MAX_HEIGHT: usize = 9;

/// A window of 512 slots.
#[derive(Debug)]
pub(crate) struct Leaf {
    pub(super) refs: Field32,
    /// As in [`Inner`].
    pub(super) held: Field32,
    pub(crate) slots: [HandleField<Anon>; LEAF],
}
impl Default for Leaf {
    fn default() -> Self {
        Leaf { refs: Field32::new(0), held: Field32::new(0), slots: [const { HandleField::new(None) }; LEAF] }
    }
}

/// An inner node; children are raw handles of inner nodes or leaves.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(super) refs: Field32,
    /// 1: a page below may be held. Set under the read lock of a tree that has the node
    /// alone, cleared under the write lock.
    pub(super) held: Field32,
    pub(super) child: [Field32; INNER],
}
impl Default for Inner {
    fn default() -> Self {
        Inner { refs: Field32::new(0), held: Field32::new(0), child: [const { Field32::new(0) }; INNER] }
    }
}

/// The root of a tree, kept in its object.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tree {
    /// Raw handle of a leaf (height 0) or an inner node; 0: empty.
    pub(super) root: u32,
    pub(super) height: u8,
    /// First index the root covers, aligned to its span.
    pub(super) base: u64,
}

/// The slabs of nodes.
pub(crate) struct Nodes<P: Platform> {
    pub(crate) leaves: Slab<Leaf, P::Chunks>,
    pub(crate) inners: Slab<Inner, P::Chunks>,
}

/// Nodes reserved for one change.
pub(crate) struct Spare<'a, P: Platform> {
    leaves: Reserved<'a, Leaf, P::Chunks>,
    inners: Reserved<'a, Inner, P::Chunks>,
}

/// log2 of the indices that a node of that height covers.
pub(super) const fn span_bits(height: u8) -> u32 {
    LEAF_BITS + INNER_BITS * height as u32
}
/// Which child of a node of `height` (at least 1) covers `index`.
pub(super) const fn child_of(index: u64, height: u8) -> usize {
    ((index >> span_bits(height - 1)) & (INNER as u64 - 1)) as usize
}
pub(super) fn leaf_handle(raw: u32) -> Option<Handle<Leaf>> {
    core::num::NonZeroU32::new(raw).map(Handle::from_raw)
}
pub(super) fn inner_handle(raw: u32) -> Option<Handle<Inner>> {
    core::num::NonZeroU32::new(raw).map(Handle::from_raw)
}

impl Tree {
    pub(super) fn covers(&self, index: u64) -> bool {
        self.root != 0 && index >> span_bits(self.height) == self.base >> span_bits(self.height)
    }
}

/// What a lookup found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    /// The leaf, if there is one.
    pub(crate) leaf: Option<Handle<Leaf>>,
    /// A node on the way has more than one reference: nothing below may change.
    pub(crate) shared: bool,
}

impl<P: Platform> Vm<P> {
    /// The leaf that covers `index`.
    pub(crate) fn tree_window(&self, t: &Tree, index: u64) -> Window {
        let mut w = Window { leaf: None, shared: false };
        if !t.covers(index) {
            return w;
        }
        let (mut raw, mut height) = (t.root, t.height);
        while height > 0 {
            let Some(h) = inner_handle(raw) else { return w };
            let node = self.nodes.inners.get(h);
            w.shared |= node.refs.atomic().load(Acquire) > 1;
            raw = node.child[child_of(index, height)].get();
            height -= 1;
        }
        w.leaf = leaf_handle(raw);
        if let Some(h) = w.leaf {
            w.shared |= self.nodes.leaves.get(h).refs.atomic().load(Acquire) > 1;
        }
        w
    }

    /// The leaf that covers `index`, and whether the path to its slots is shared. For those who look at several.
    #[inline]
    pub(crate) fn tree_leaf(&self, t: &Tree, index: u64) -> Option<(&Leaf, bool)> {
        let w = self.tree_window(t, index);
        w.leaf.map(|h| (self.nodes.leaves.get(h), w.shared))
    }

    /// The anon at `index` and whether the path to it is shared.
    pub(crate) fn tree_lookup(&self, t: &Tree, index: u64) -> (Option<Handle<Anon>>, bool) {
        let w = self.tree_window(t, index);
        let anon = w.leaf.and_then(|h| self.nodes.leaves.get(h).slots[index as usize % LEAF].get());
        (anon, w.shared)
    }

    /// One more tree has this root.
    pub(crate) fn tree_reference(&self, t: &Tree) {
        if t.height == 0 {
            if let Some(h) = leaf_handle(t.root) {
                self.nodes.leaves.get(h).refs.atomic().fetch_add(1, Relaxed);
            }
        } else if let Some(h) = inner_handle(t.root) {
            self.nodes.inners.get(h).refs.atomic().fetch_add(1, Relaxed);
        }
    }

    /// One tree less has this root.
    pub(crate) fn tree_release(&self, t: Tree, batch: &mut FreeBatch<'_, P>) {
        self.node_release(t.root, t.height, batch);
    }

    /// Recursion is bounded by [`MAX_HEIGHT`].
    fn node_release(&self, raw: u32, height: u8, batch: &mut FreeBatch<'_, P>) {
        if height == 0 {
            let Some(h) = leaf_handle(raw) else { return };
            let leaf = self.nodes.leaves.get(h);
            if leaf.refs.atomic().fetch_sub(1, AcqRel) == 1 {
                for slot in &leaf.slots {
                    if let Some(a) = slot.get() {
                        slot.set(None);
                        self.anon_release(a, batch);
                    }
                }
                self.nodes.leaves.free(h);
            }
            return;
        }
        let Some(h) = inner_handle(raw) else { return };
        let node = self.nodes.inners.get(h);
        if node.refs.atomic().fetch_sub(1, AcqRel) == 1 {
            for child in &node.child {
                let c = child.get();
                if c != 0 {
                    child.set(0);
                    self.node_release(c, height - 1, batch);
                }
            }
            self.nodes.inners.free(h);
        }
    }

    /// The leaf that covers `index`, made if absent, on a path that belongs to this
    /// tree alone.
    ///
    /// => the object is write locked. Nothing changed on error.
    pub(crate) fn tree_leaf_mut(
        &self,
        t: &mut Tree,
        index: u64,
        batch: &mut FreeBatch<'_, P>,
    ) -> Result<Handle<Leaf>, NoMemory> {
        let w = self.tree_window(t, index);
        if let (Some(h), false) = (w.leaf, w.shared) {
            return Ok(h);
        }
        // Above and beside what there is.
        let inners = if t.covers(index) { u32::from(t.height) } else { 2 * MAX_HEIGHT as u32 };
        let mut spare = self.spare((1, if t.root == 0 { 0 } else { inners }))?;
        self.path_mut(t, index, &mut spare, batch)
    }

    fn spare(&self, (leaves, inners): (u32, u32)) -> Result<Spare<'_, P>, NoMemory> {
        Ok(Spare { leaves: self.nodes.leaves.reserve(leaves)?, inners: self.nodes.inners.reserve(inners)? })
    }

    /// What [`Vm::tree_leaf_reserved`] takes at most.
    pub(crate) fn tree_reserve(&self) -> Result<Spare<'_, P>, NoMemory> {
        self.spare((1, 2 * MAX_HEIGHT as u32))
    }

    /// As [`Vm::tree_leaf_mut`], with nodes reserved before: fails only when `spare` was used
    /// before.
    pub(crate) fn tree_leaf_reserved(
        &self,
        t: &mut Tree,
        index: u64,
        spare: &mut Spare<'_, P>,
        batch: &mut FreeBatch<'_, P>,
    ) -> Result<Handle<Leaf>, NoMemory> {
        self.path_mut(t, index, spare, batch)
    }

    fn path_mut(
        &self,
        t: &mut Tree,
        index: u64,
        spare: &mut Spare<'_, P>,
        batch: &mut FreeBatch<'_, P>,
    ) -> Result<Handle<Leaf>, NoMemory> {
        if t.root == 0 {
            let h = spare.leaves.take().ok_or(NoMemory)?;
            self.nodes.leaves.get(h).refs.set(1);
            self.nodes.leaves.get(h).held.set(0);
            *t = Tree { root: h.get(), height: 0, base: index & !(LEAF as u64 - 1) };
            return Ok(h);
        }
        while !t.covers(index) {
            self.grow(t, spare)?;
        }
        if t.height == 0 {
            t.root = self.own_leaf(t.root, spare, batch)?.get();
            return leaf_handle(t.root).ok_or(NoMemory);
        }
        let mut at = self.own_inner(t.root, t.height, spare, batch)?;
        t.root = at.get();
        let mut height = t.height;
        loop {
            let child = &self.nodes.inners.get(at).child[child_of(index, height)];
            height -= 1;
            if height == 0 {
                let leaf = self.own_leaf(child.get(), spare, batch)?;
                child.set(leaf.get());
                return Ok(leaf);
            }
            at = self.own_inner(child.get(), height, spare, batch)?;
            child.set(at.get());
        }
    }

    /// One level more above the root.
    fn grow(&self, t: &mut Tree, spare: &mut Spare<'_, P>) -> Result<(), NoMemory> {
        let h = spare.inners.take().ok_or(NoMemory)?;
        let node = self.nodes.inners.get(h);
        node.child.iter().for_each(|c| c.set(0));
        node.refs.set(1);
        node.held.set(u32::from(self.tree_may_be_held(t)));
        let height = t.height + 1;
        node.child[child_of(t.base, height)].set(t.root);
        *t = Tree { root: h.get(), height, base: t.base & !((1 << span_bits(height)) - 1) };
        Ok(())
    }

    /// `raw` itself when it is this tree's alone, else a copy; a new one for 0.
    fn own_leaf(
        &self,
        raw: u32,
        spare: &mut Spare<'_, P>,
        batch: &mut FreeBatch<'_, P>,
    ) -> Result<Handle<Leaf>, NoMemory> {
        let old = leaf_handle(raw);
        if let Some(h) = old
            && self.nodes.leaves.get(h).refs.atomic().load(Acquire) == 1
        {
            return Ok(h);
        }
        let new = spare.leaves.take().ok_or(NoMemory)?;
        let leaf = self.nodes.leaves.get(new);
        leaf.refs.set(1);
        // No page of a node that was shared is held.
        leaf.held.set(0);
        match old {
            None => leaf.slots.iter().for_each(|s| s.set(None)),
            Some(h) => {
                for (to, from) in leaf.slots.iter().zip(&self.nodes.leaves.get(h).slots) {
                    if let Some(a) = from.get() {
                        self.anons.get(a).reference();
                    }
                    to.set(from.get());
                }
                self.node_release(raw, 0, batch);
            }
        }
        Ok(new)
    }

    fn own_inner(
        &self,
        raw: u32,
        height: u8,
        spare: &mut Spare<'_, P>,
        batch: &mut FreeBatch<'_, P>,
    ) -> Result<Handle<Inner>, NoMemory> {
        let old = inner_handle(raw);
        if let Some(h) = old
            && self.nodes.inners.get(h).refs.atomic().load(Acquire) == 1
        {
            return Ok(h);
        }
        let new = spare.inners.take().ok_or(NoMemory)?;
        let node = self.nodes.inners.get(new);
        node.refs.set(1);
        node.held.set(0);
        match old {
            None => node.child.iter().for_each(|c| c.set(0)),
            Some(h) => {
                for (to, from) in node.child.iter().zip(&self.nodes.inners.get(h).child) {
                    let c = from.get();
                    if c != 0 {
                        self.tree_reference(&Tree { root: c, height: height - 1, base: 0 });
                    }
                    to.set(c);
                }
                self.node_release(raw, height, batch);
            }
        }
        Ok(new)
    }

    /// A tree of its own with what lies in `keep` and nothing else: nodes that lie whole
    /// inside are shared, of the others (at most two a level) there are copies.
    ///
    /// => the object is locked.
    pub(crate) fn tree_slice(&self, t: &Tree, keep: &Range<u64>) -> Result<Tree, NoMemory> {
        let mut spare = self.spare((2, 2 * u32::from(t.height)))?;
        let root = self.slice_node(t.root, t.height, t.base, keep, &mut spare)?;
        Ok(if root == 0 { Tree::default() } else { Tree { root, ..*t } })
    }

    /// Is there nothing in the tree but what lies in `keep`, by the spans of its nodes?
    pub(crate) fn tree_within(&self, t: &Tree, keep: &Range<u64>) -> bool {
        t.root == 0 || (keep.start <= t.base && t.base.saturating_add(1 << span_bits(t.height)) <= keep.end)
    }

    fn slice_node(
        &self,
        raw: u32,
        height: u8,
        base: u64,
        keep: &Range<u64>,
        spare: &mut Spare<'_, P>,
    ) -> Result<u32, NoMemory> {
        let node = Tree { root: raw, height, base };
        let end = base.saturating_add(1 << span_bits(height));
        if raw == 0 || end <= keep.start || keep.end <= base {
            return Ok(0);
        }
        if self.tree_within(&node, keep) {
            self.tree_reference(&node);
            return Ok(raw);
        }
        if height == 0 {
            let Some(from) = leaf_handle(raw) else { return Ok(0) };
            let new = spare.leaves.take().ok_or(NoMemory)?;
            let leaf = self.nodes.leaves.get(new);
            leaf.refs.set(1);
            for (i, (to, from)) in (base..).zip(leaf.slots.iter().zip(&self.nodes.leaves.get(from).slots)) {
                let anon = from.get().filter(|_| keep.contains(&i));
                anon.inspect(|a| self.anons.get(*a).reference());
                to.set(anon);
            }
            return Ok(new.get());
        }
        let Some(from) = inner_handle(raw) else { return Ok(0) };
        let new = spare.inners.take().ok_or(NoMemory)?;
        let inner = self.nodes.inners.get(new);
        inner.refs.set(1);
        let step = 1u64 << span_bits(height - 1);
        for (i, (to, from)) in (0..).zip(inner.child.iter().zip(&self.nodes.inners.get(from).child)) {
            to.set(self.slice_node(from.get(), height - 1, base + i * step, keep, spare)?);
        }
        Ok(new.get())
    }

    /// Empties the slots `[first, first + pages)`.
    ///
    /// => the object is write locked. Nothing changed on error.
    pub(crate) fn tree_clear(
        &self,
        t: &mut Tree,
        first: u64,
        pages: u64,
        batch: &mut FreeBatch<'_, P>,
    ) -> Result<(), NoMemory> {
        if t.root == 0 {
            return Ok(());
        }
        let span = 1u64 << span_bits(t.height);
        let (lo, hi) = (first.max(t.base), first.saturating_add(pages).min(t.base.saturating_add(span)));
        if lo >= hi {
            return Ok(());
        }
        if lo == t.base && hi - lo == span {
            self.node_release(t.root, t.height, batch);
            *t = Tree::default();
            return Ok(());
        }
        // Only nodes that lie partly inside are changed, those on the way to either end: at most two per level, which
        // are copied if others have them.
        let copied = self.tree_window(t, lo).shared || self.tree_window(t, hi - 1).shared;
        let most = if copied { (2, 2 * u32::from(t.height)) } else { (0, 0) };
        let mut spare = self.spare(most)?;
        t.root = self.clear_node(t.root, t.height, t.base, lo, hi, &mut spare, batch)?;
        Ok(())
    }

    /// Clears `[lo, hi)`, a true part of the node at `base`; gives the node that
    /// stands there afterwards.
    #[expect(clippy::too_many_arguments)]
    fn clear_node(
        &self,
        raw: u32,
        height: u8,
        base: u64,
        lo: u64,
        hi: u64,
        spare: &mut Spare<'_, P>,
        batch: &mut FreeBatch<'_, P>,
    ) -> Result<u32, NoMemory> {
        if height == 0 {
            let h = self.own_leaf(raw, spare, batch)?;
            for slot in &self.nodes.leaves.get(h).slots[(lo - base) as usize..(hi - base) as usize] {
                if let Some(a) = slot.get() {
                    slot.set(None);
                    self.anon_release(a, batch);
                }
            }
            return Ok(h.get());
        }
        let h = self.own_inner(raw, height, spare, batch)?;
        let step = 1u64 << span_bits(height - 1);
        let inside = child_of(lo, height)..=child_of(hi - 1, height);
        for (i, child) in inside.clone().zip(&self.nodes.inners.get(h).child[inside]) {
            let (c, from) = (child.get(), base + i as u64 * step);
            let (l, e) = (lo.max(from), hi.min(from + step));
            if c == 0 {
                continue;
            }
            if e - l == step {
                self.node_release(c, height - 1, batch);
                child.set(0);
            } else {
                child.set(self.clear_node(c, height - 1, from, l, e, spare, batch)?);
            }
        }
        Ok(h.get())
    }

    /// Calls `f` for every anon with an index in `[first, first + pages)`,
    /// ascending, until it says `false`.
    pub(crate) fn tree_for_each(
        &self,
        t: &Tree,
        first: u64,
        pages: u64,
        f: &mut dyn FnMut(u64, Handle<Anon>) -> bool,
    ) {
        if t.root != 0 {
            self.visit(t.root, t.height, t.base, first, first.saturating_add(pages), f);
        }
    }

    fn visit(
        &self,
        raw: u32,
        height: u8,
        base: u64,
        lo: u64,
        hi: u64,
        f: &mut dyn FnMut(u64, Handle<Anon>) -> bool,
    ) -> bool {
        let span = 1u64 << span_bits(height);
        let (l, e) = (lo.max(base), hi.min(base.saturating_add(span)));
        if l >= e {
            return true;
        }
        if height == 0 {
            let Some(h) = leaf_handle(raw) else { return true };
            let leaf = self.nodes.leaves.get(h);
            return (l..e).all(|i| leaf.slots[(i - base) as usize].get().is_none_or(|a| f(i, a)));
        }
        let Some(h) = inner_handle(raw) else { return true };
        let step = span >> INNER_BITS;
        let inside = child_of(l, height)..=child_of(e - 1, height);
        for (i, child) in inside.clone().zip(&self.nodes.inners.get(h).child[inside]) {
            let c = child.get();
            if c != 0 && !self.visit(c, height - 1, base + i as u64 * step, lo, hi, f) {
                return false;
            }
        }
        true
    }

    /// See [`Vm::walk`].
    pub(crate) fn tree_walk(&self, t: &Tree, f: &mut dyn FnMut(Seen) -> bool) {
        self.node_walk(t.root, t.height, f);
    }

    fn node_walk(&self, raw: u32, height: u8, f: &mut dyn FnMut(Seen) -> bool) {
        if height == 0 {
            let Some(h) = leaf_handle(raw) else { return };
            let leaf = self.nodes.leaves.get(h);
            if f(Seen::Leaf { id: raw, refs: leaf.refs.get() }) {
                for a in leaf.slots.iter().filter_map(HandleField::get) {
                    f(self.seen_anon(a));
                }
            }
        } else if let Some(h) = inner_handle(raw) {
            let node = self.nodes.inners.get(h);
            if f(Seen::Inner { id: raw, refs: node.refs.get() }) {
                node.child.iter().for_each(|c| self.node_walk(c.get(), height - 1, f));
            }
        }
    }
}
