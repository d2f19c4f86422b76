//! Removing ranges (M21, M22).

use machvm_arena::NoMemory;
use machvm_hal::{Gather, MaySleep, VaRange};

use super::clip::CLIPS;
use super::edit::Edit;
use super::{DeleteError, Map};
use crate::platform::Platform;

impl<P: Platform> Map<'_, P> {
    /// Removes everything in `range`, wired or not (M22 `vm_map_remove`, and M21
    /// `vm_map_delete`, whose caller holds the lock). Holes are fine; what lies outside
    /// the map is a hole. Contents that nothing else maps are gone.
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// [`DeleteError`]; nothing changed.
    pub fn delete(&self, range: VaRange, may: &mut MaySleep) -> Result<(), DeleteError> {
        let Some(range) = range.intersect(self.bounds) else { return Ok(()) };
        let failed = |e| DeleteError::no_memory(range.start())(e);
        let mut edit = self.edit_removable(range, CLIPS, may).map_err(failed)?;
        let done = edit.delete(range, may);
        edit.done(may);
        done.map_err(failed)
    }

    /// Locks for the removal of `range`. Of the whole map it needs no memory: there is
    /// nothing to clip.
    pub(super) fn edit_removable(
        &self,
        range: VaRange,
        entries: u32,
        may: &mut MaySleep,
    ) -> Result<Edit<'_, '_, P>, NoMemory> {
        let entries = if range == self.bounds { entries - CLIPS } else { entries };
        self.edit_range(range, entries, may)
    }
}

impl<P: Platform> Edit<'_, '_, P> {
    /// The locked part of [`Map::delete`].
    fn delete(&mut self, range: VaRange, may: &mut MaySleep) -> Result<(), NoMemory> {
        let clipped = self.clip_range(range);
        self.settle_ends(range, &clipped);
        clipped?;
        self.remove_clipped(range, may);
        Ok(())
    }

    /// => `range` is clipped.
    pub(super) fn remove_clipped(&mut self, range: VaRange, may: &mut MaySleep) {
        self.remove_regions(range, may);
        self.unlink_range(range, may);
        self.drop_contents(may);
    }

    /// The machine forgets the range, and every CPU has.
    pub(super) fn remove_regions(&mut self, range: VaRange, may: &mut MaySleep) {
        let mut g = Gather::new();
        self.map.regions_remove(&self.inner, range, &mut g);
        self.map.vm.finish(g, may);
    }

    /// Buries every entry in `range`, which is clipped.
    pub(super) fn unlink_range(&mut self, range: VaRange, may: &mut MaySleep) {
        self.detach_gap(range.start(), may);
        let slab = &self.map.vm.entries;
        while let Some(h) = self.inner.tree.at_or_above(slab, range.start()) {
            if self.entry(h).start() >= range.end() {
                return;
            }
            self.unlink(h);
            self.bury(h);
        }
    }
}
