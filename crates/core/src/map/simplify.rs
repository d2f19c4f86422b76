//! Merging entries that are alike (N08, N10).

use machvm_arena::Handle;
use machvm_hal::{MaySleep, Va, VaRange};

use super::Map;
use super::edit::Edit;
use super::entry::Entry;
use super::tree::Tree;
use crate::platform::Platform;

impl<P: Platform> Map<'_, P> {
    /// Merges the entry at `va` with its neighbours where they are alike (N10).
    pub fn simplify(&self, va: Va, may: &mut MaySleep) {
        // Merging takes no entry, so the reservation of none cannot fail.
        if let Ok(mut edit) = self.edit(0, may) {
            if let Some(h) = self.lookup_entry(&edit.inner, va) {
                edit.simplify_entry(h);
            }
            edit.done(may);
        }
    }
}

impl<P: Platform> Edit<'_, '_, P> {
    /// Merges `h` with the entries before and behind it where they are alike (N08).
    /// `h` stays valid.
    pub(super) fn simplify_entry(&mut self, h: Handle<Entry>) {
        if let Some(below) = Tree::prev(&self.map.vm.entries, h) {
            self.merge(below, h, h);
        }
        if let Some(above) = Tree::next(&self.map.vm.entries, h) {
            self.merge(h, above, h);
        }
    }

    /// Makes one of two neighbours that are alike; `keep` is the one that stays. The
    /// other's reference goes after the unlock.
    fn merge(&mut self, low: Handle<Entry>, high: Handle<Entry>, keep: Handle<Entry>) {
        let (l, h) = (self.entry(low), self.entry(high));
        if l.mergeable(h) {
            self.join(low, high, keep);
        }
    }

    /// Makes one of two neighbours with contiguous contents.
    pub(super) fn join(&mut self, low: Handle<Entry>, high: Handle<Entry>, keep: Handle<Entry>) {
        let gone = if keep == low { high } else { low };
        // The charge of both is the other's.
        self.entry(gone).charged.set(0);
        self.join_links((low, high), keep);
        self.bury(gone);
    }

    /// Merges at every boundary in and at the ends of `range`.
    pub(super) fn simplify_range(&mut self, range: VaRange) {
        let slab = &self.map.vm.entries;
        let mut at = self.inner.tree.at_or_above(slab, range.start());
        while let Some(h) = at {
            if self.entry(h).start() > range.end() {
                return;
            }
            if let Some(below) = Tree::prev(slab, h) {
                self.merge(below, h, h);
            }
            at = Tree::next(slab, h);
        }
    }
}
