//! Removing ranges (M21, M22).

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

    /// Locks for the removal of `range`: nothing in it is in transition or wired.
    pub(super) fn edit_removable(
        &self,
        range: VaRange,
        entries: u32,
        may: &mut MaySleep,
    ) -> Result<Edit<'_, '_, P>, machvm_arena::NoMemory> {
        // The whole map needs no clips, and must be removable without memory.
        let entries = if range == self.bounds { entries - CLIPS } else { entries };
        let mut spare = self.vm.entries.reserve(entries)?;
        loop {
            let edit = self.edit_range_with(range, spare, may);
            if edit.wired(range).is_none() {
                return Ok(edit);
            }
            // The reservation is kept, so this is the last step that can fail.
            spare = edit.release(may);
            self.unwire_all(range, may)?;
        }
    }
}

impl<P: Platform> Edit<'_, '_, P> {
    /// The locked part of [`Map::delete`].
    fn delete(&mut self, range: VaRange, may: &mut MaySleep) -> Result<(), machvm_arena::NoMemory> {
        if let Err(e) = self.clip_range(range) {
            self.simplify_range(range);
            return Err(e);
        }
        self.remove_regions(range, may);
        self.unlink_range(range);
        self.drop_contents(may);
        Ok(())
    }

    /// The machine forgets the range, and every CPU has.
    pub(super) fn remove_regions(&mut self, range: VaRange, may: &mut MaySleep) {
        let mut g = Gather::new();
        self.map.regions_remove(&self.inner, range, &mut g);
        self.map.vm.finish(g, may);
    }

    /// Buries every entry in `range`, which is clipped.
    pub(super) fn unlink_range(&mut self, range: VaRange) {
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
