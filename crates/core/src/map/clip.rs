//! Cutting entries in two (N07).

use machvm_arena::NoMemory;
use machvm_hal::{Va, VaRange};

use super::edit::Edit;
use super::tree::Tree;
use crate::platform::Platform;

/// Entries that clipping both ends of a range may take.
pub(super) const CLIPS: u32 = 2;

/// In `wirer`, of the upper half of an entry that this operation has cut. No wiring
/// has this number, and an entry in transition is not cut.
const CLIPPED: u32 = u32::MAX;

impl<P: Platform> Edit<'_, '_, P> {
    /// No entry reaches across `va` any more: `vm_map_clip_start` and `_clip_end` are
    /// the two ways to call this. Nothing to do when none does. Both halves name the
    /// object, with offsets that follow.
    ///
    /// # Errors
    /// [`NoMemory`] only when the caller reserved too little.
    pub(super) fn clip(&mut self, va: Va) -> Result<(), NoMemory> {
        let vm = self.map.vm;
        let Some(h) = self.inner.tree.at_or_above(&vm.entries, va) else { return Ok(()) };
        let e = self.entry(h);
        if e.start() >= va {
            return Ok(());
        }
        let upper = self.spare.take().ok_or(NoMemory)?;
        let u = self.entry(upper);
        u.copy_from(e);
        u.wirer.set(CLIPPED);
        u.start.set(va.get());
        u.end.set(e.end.get());
        if e.counts() {
            u.offset.set(e.offset.get().wrapping_add(va.page() - e.start().page()));
        }
        if let Some(o) = e.object.get() {
            vm.object_reference(o);
        }
        if let Some(body) = e.submap.get() {
            vm.body_reference(body);
        }
        self.split(h, va, upper);
        Ok(())
    }

    /// Clips at both ends of `range`; [`Edit::settle`] follows, on failure too.
    pub(super) fn clip_range(&mut self, range: VaRange) -> Result<(), NoMemory> {
        self.clip(range.start())?;
        self.clip(range.end())
    }

    /// Ends what clipping in and at `range` began: after a success the cuts stay (and
    /// merge where the entries are still alike), after a failure they are undone, also
    /// where entries are never merged otherwise.
    pub(super) fn settle<T, E>(&mut self, range: VaRange, done: &Result<T, E>) {
        self.settle_ends(range, done);
        if done.is_ok() {
            self.simplify_range(range);
        }
    }

    /// As [`Edit::settle`], where the cuts stay because more is to follow.
    pub(super) fn settle_ends<T, E>(&mut self, range: VaRange, done: &Result<T, E>) {
        let slab = &self.map.vm.entries;
        let mut at = self.inner.tree.at_or_above(slab, range.start());
        while let Some(h) = at
            && let e = self.entry(h)
            && e.start() <= range.end()
        {
            at = Tree::next(slab, h);
            if e.wirer.get() != CLIPPED {
                continue;
            }
            e.wirer.set(0);
            // Charged (Z61) or marked on one side of the cut only: it stays.
            let same = |low: &_| {
                let low = self.entry(*low);
                low.charged.get() == e.charged.get() && low.is_shared() == e.is_shared()
            };
            if let (Err(_), Some(low)) = (done, Tree::prev(slab, h).filter(same)) {
                self.join(low, h, low);
            }
        }
    }
}
