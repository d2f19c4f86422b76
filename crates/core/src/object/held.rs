//! Held pages and copies (decision 16).
//!
//! **A page that is held for I/O, or wired where it may be written, is its object's
//! alone**: its anon has one reference, nobody else has a node on the way to it, and
//! (sparse) it is at its natural frame. Taking the hold breaks sharing first; a copy does
//! not share the page but copies it at once. So no fault ever moves or replaces it: what a
//! device writes is seen by those who map the object, and by nobody else.
//!
//! A copy finds these pages by marks in the nodes above them. A mark may be stale, a
//! missing one may not: marks are set before the hold is taken, and taken away by a copy,
//! which has the object write locked.

use core::ops::Range;
use core::sync::atomic::Ordering::Relaxed;
use machvm_arena::{Handle, NoMemory};
use machvm_hal::{MaySleep, PhysMem, Pindex};

use super::radix::{INNER, LEAF, Tree, child_of, inner_handle, leaf_handle, span_bits};
use super::{Anon, Object, ObjectFlags};
use crate::page::{At, FreeBatch, Page, PageFlags, Used};
use crate::platform::Platform;
use crate::stats::bump;
use crate::vm::Vm;

/// What there was not enough of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Short {
    /// Frames: some may be paged out.
    Frames,
    /// Structures.
    Structures,
}

impl From<NoMemory> for Short {
    fn from(NoMemory: NoMemory) -> Self {
        Short::Structures
    }
}

impl<P: Platform> Vm<P> {
    /// May some page of the tree be held?
    ///
    /// => the tree is at least read locked, as for everything here.
    pub(super) fn tree_may_be_held(&self, t: &Tree) -> bool {
        self.is_marked(t.root, t.height)
    }

    fn is_marked(&self, raw: u32, height: u8) -> bool {
        if height == 0 {
            leaf_handle(raw).is_some_and(|h| self.nodes.leaves.get(h).held.get() != 0)
        } else {
            inner_handle(raw).is_some_and(|h| self.nodes.inners.get(h).held.get() != 0)
        }
    }

    /// The page at `index` is about to be held: marks the way to it.
    ///
    /// => the way is this tree's alone.
    pub(crate) fn tree_mark_held(&self, t: &Tree, index: u64) {
        if !t.covers(index) {
            return;
        }
        let (mut raw, mut height) = (t.root, t.height);
        while height > 0 {
            let Some(h) = inner_handle(raw) else { return };
            let node = self.nodes.inners.get(h);
            node.held.set(1);
            raw = node.child[child_of(index, height)].get();
            height -= 1;
        }
        if let Some(h) = leaf_handle(raw) {
            self.nodes.leaves.get(h).held.set(1);
        }
    }

    /// Takes stale marks away. `true`: some page is held.
    ///
    /// => the tree is write locked.
    pub(super) fn tree_settle_held(&self, t: &Tree) -> bool {
        self.settle(t.root, t.height)
    }

    fn settle(&self, raw: u32, height: u8) -> bool {
        if !self.is_marked(raw, height) {
            return false;
        }
        if height == 0 {
            let Some(h) = leaf_handle(raw) else { return false };
            let leaf = self.nodes.leaves.get(h);
            let any = leaf.slots.iter().any(|s| s.get().is_some_and(|a| self.held_page(a).is_some()));
            leaf.held.set(u32::from(any));
            return any;
        }
        let Some(h) = inner_handle(raw) else { return false };
        let node = self.nodes.inners.get(h);
        let mut any = false;
        for child in &node.child {
            any |= self.settle(child.get(), height - 1);
        }
        node.held.set(u32::from(any));
        any
    }

    /// The page of the anon if it is held. Only who has a hold on it, or owns it, knows
    /// that this stays so.
    fn held_page(&self, a: Handle<Anon>) -> Option<Handle<Page>> {
        self.anons.get(a).page().filter(|p| self.pages.get(*p).is_kept())
    }

    /// The first index of `range` whose page is held.
    fn tree_next_held(&self, t: &Tree, range: Range<u64>) -> Option<(u64, Handle<Anon>, Handle<Page>)> {
        self.next_held(t.root, t.height, t.base, &range)
    }

    fn next_held(
        &self,
        raw: u32,
        height: u8,
        base: u64,
        range: &Range<u64>,
    ) -> Option<(u64, Handle<Anon>, Handle<Page>)> {
        let end = base.saturating_add(1 << span_bits(height));
        let (lo, hi) = (range.start.max(base), range.end.min(end));
        if lo >= hi || !self.is_marked(raw, height) {
            return None;
        }
        if height == 0 {
            let leaf = self.nodes.leaves.get(leaf_handle(raw)?);
            return (lo..hi).find_map(|i| {
                let a = leaf.slots[i as usize % LEAF].get()?;
                Some((i, a, self.held_page(a)?))
            });
        }
        let node = self.nodes.inners.get(inner_handle(raw)?);
        let bits = span_bits(height - 1);
        let (first, last) = ((lo - base) >> bits, (hi - 1 - base) >> bits);
        (first..=last.min(INNER as u64 - 1))
            .find_map(|n| self.next_held(node.child[n as usize].get(), height - 1, base + (n << bits), range))
    }

    /// A page of the object is being held for I/O: its frame may outlive its index.
    pub(crate) fn object_note_held(&self, h: Handle<Object>) {
        if self.frames.is_sparse() {
            self.objects.get(h).flags.atomic().fetch_or(ObjectFlags::HELD.bits(), Relaxed);
        }
    }

    /// See [`Vm::object_note_held`]. Never in the dense placement.
    pub(crate) fn object_may_be_held(&self, h: Handle<Object>) -> bool {
        self.objects.get(h).flags().contains(ObjectFlags::HELD)
    }

    /// Another private object with what `pages` of this one had from index `at` on when
    /// nothing was written: zeroes, or the pager's data. Gives the index of the first.
    ///
    /// => the map may be write locked.
    ///
    /// # Errors
    /// [`NoMemory`].
    pub(crate) fn object_anew(
        &self,
        h: Handle<Object>,
        at: Pindex,
        pages: u64,
        may: &mut MaySleep,
    ) -> Result<(Handle<Object>, Pindex), NoMemory> {
        let source = self.objects.get(h).lock.read(self.host(), may).source;
        match source {
            None => self.object_allocate(pages),
            Some(s) => self.object_with_source_of(h, at, pages, s, may).map(|o| (o, Pindex(0))),
        }
    }

    /// Is any page of the range held, or wired?
    ///
    /// => a map is at least read locked, or the caller has a reference.
    pub(crate) fn object_any_held(
        &self,
        h: Handle<Object>,
        first: u64,
        pages: u64,
        may: &mut MaySleep,
    ) -> bool {
        let inner = self.objects.get(h).lock.read(self.host(), may);
        self.tree_next_held(&inner.tree, first..first.saturating_add(pages)).is_some()
    }

    /// Calls `f` for each index of the range whose page is in memory and shared with no
    /// other object.
    ///
    /// => as [`Vm::object_any_held`]; locks above the object's may be taken in `f`.
    pub(crate) fn object_own_pages(
        &self,
        h: Handle<Object>,
        first: u64,
        pages: u64,
        may: &mut MaySleep,
        f: &mut dyn FnMut(u64),
    ) {
        let inner = self.objects.get(h).lock.read(self.host(), may);
        let mut window = (u64::MAX, false);
        self.tree_for_each(&inner.tree, first, pages, &mut |i, a| {
            if window.0 != i / LEAF as u64 {
                window = (i / LEAF as u64, self.tree_window(&inner.tree, i).shared);
            }
            let anon = self.anons.get(a);
            if !window.1 && !anon.is_shared() && anon.page().is_some() {
                f(i);
            }
            true
        });
    }

    /// How many pages of the range are held.
    pub(super) fn tree_count_held(&self, t: &Tree, range: Range<u64>) -> u64 {
        let (mut at, mut n) = (range.start, 0);
        while let Some((i, ..)) = self.tree_next_held(t, at..range.end) {
            (at, n) = (i + 1, n + 1);
        }
        n
    }

    /// Gives `mine`, which has one reference on the root of `source`, copies of the held
    /// pages in `keep`, for the object `to`. What lies outside `keep` it loses.
    ///
    /// => `source` is write locked, `mine` nobody else's. On failure `mine` is to be
    /// released.
    pub(super) fn copy_held(
        &self,
        source: &Tree,
        mine: &mut Tree,
        to: Handle<Object>,
        keep: Range<u64>,
    ) -> Result<(), Short> {
        let mut batch = FreeBatch::new(self);
        self.tree_clear(mine, 0, keep.start, &mut batch)?;
        self.tree_clear(mine, keep.end, u64::MAX - keep.end, &mut batch)?;
        let mut at = keep.start;
        while let Some((i, a, p)) = self.tree_next_held(source, at..keep.end) {
            at = i + 1;
            // With a hold of its own the copy needs no busy page: a fault or the daemon
            // may have that, and is not waited for with the object locked.
            if !self.pages.get(p).holds.try_get() {
                continue; // let go: shared like any other
            }
            let is_it = self.pages.get(p).owner.get() == Some(a) && self.anons.get(a).holds(p);
            let done = if is_it { self.copy_held_page(mine, (i, a, p), to, &mut batch) } else { Ok(()) };
            self.page_unhold(p, Used::Read);
            done?;
        }
        Ok(())
    }

    fn copy_held_page(
        &self,
        mine: &mut Tree,
        (index, a, p): (u64, Handle<Anon>, Handle<Page>),
        to: Handle<Object>,
        batch: &mut FreeBatch<'_, P>,
    ) -> Result<(), Short> {
        let mut spare = self.anons.reserve(1)?;
        let leaf = self.tree_leaf_mut(mine, index, batch)?;
        let at =
            if self.frames.is_sparse() { At::Frame(self.objects.get(to).natural(index)) } else { At::Any };
        let q = self.page_take(at, |_| false).ok_or(Short::Frames)?;
        let copy = self.pages.get(q);
        if self.plat.mem().prepare(copy.pfn(), 1).is_err() {
            self.page_untake(q);
            return Err(Short::Frames);
        }
        let Some(b) = spare.take() else {
            FreeBatch::new(self).push(q);
            return Err(Short::Structures);
        };
        // Programs and devices may write meanwhile: of each byte the copy has what was
        // there at some moment of the call, as of pages that are protected one by one.
        self.plat.mem().copy(self.pages.get(p).pfn(), copy.pfn());
        copy.owner.set(Some(b));
        copy.home.set(Some(to));
        copy.pindex.set(index);
        copy.insert_flags(PageFlags::DIRTY);
        self.anons.get(b).reset(Some(q));
        self.nodes.leaves.get(leaf).slots[index as usize % LEAF].set(Some(b));
        self.anon_release(a, batch);
        self.page_fresh(q);
        self.page_unbusy(q);
        bump(&self.stats.eager_copies, 1);
        Ok(())
    }
}
