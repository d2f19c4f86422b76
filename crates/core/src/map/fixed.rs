//! Replacing whatever is there (M14 `vm_map_fixed`).

use machvm_hal::{MaySleep, VaRange};

use super::edit::Edit;
use super::entry::{Attributes, EntryFlags};
use super::insert::{Backing, REPLACE};
use super::{InsertError, Map};
use crate::platform::Platform;

impl<P: Platform> Map<'_, P> {
    /// As [`Map::insert`], in place of whatever is in the range, under one lock hold
    /// (M14). On failure what was there is still there.
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// Those of [`Map::insert`]; `Occupied` where permanent memory is. Nothing changed.
    pub fn fixed(
        &self,
        range: VaRange,
        backing: Backing,
        a: &Attributes,
        may: &mut MaySleep,
    ) -> Result<(), InsertError> {
        self.check_new(range, backing, a)?;
        let mut edit = self.edit_replace(range, may)?;
        let free = edit.replaceable(range);
        let done = free.and_then(|()| edit.replace(range, backing, a, may));
        edit.done(may);
        done
    }

    fn edit_replace(&self, range: VaRange, may: &mut MaySleep) -> Result<Edit<'_, '_, P>, InsertError> {
        // One more than clips take: at the bounds of the map clips take none.
        self.edit_removable(range, REPLACE, may).map_err(InsertError::no_memory(range.start()))
    }
}

impl<P: Platform> Edit<'_, '_, P> {
    /// Can all that is in `range` be replaced?
    ///
    /// # Errors
    /// [`InsertError::Occupied`], where it is permanent.
    pub(super) fn replaceable(&self, range: VaRange) -> Result<(), InsertError> {
        let mut all = self.map.overlapping(&self.inner, range).map(|h| self.entry(h));
        match all.find(|e| e.flags().contains(EntryFlags::PERMANENT)) {
            None => Ok(()),
            Some(e) => Err(InsertError::Occupied(e.start().max(range.start()))),
        }
    }

    /// The locked part of [`Map::fixed`].
    fn replace(
        &mut self,
        range: VaRange,
        backing: Backing,
        a: &Attributes,
        may: &mut MaySleep,
    ) -> Result<(), InsertError> {
        let clipped = self.clip_range(range).map_err(InsertError::no_memory(range.start()));
        let done = clipped.and_then(|()| self.replace_clipped(range, backing, a, may));
        self.settle(range, &done);
        done
    }

    fn replace_clipped(
        &mut self,
        range: VaRange,
        backing: Backing,
        a: &Attributes,
        may: &mut MaySleep,
    ) -> Result<(), InsertError> {
        let map = self.map;
        let freed = map
            .overlapping(&self.inner, range)
            .map(|h| map.entry(h))
            .filter(|e| e.counts())
            .map(|e| e.pages() << machvm_hal::PAGE_SHIFT)
            .sum();
        self.check_limits(range, backing, a, freed)?;
        let charge = self.reserve(range, backing, a, self.charged_in(range))?;
        let joint = self.joint(range, backing, a, may).inspect_err(|_| map.vm.commit_release(charge))?;
        self.remove_regions(range, may);
        if let Err(e) = self.enter_region(range, joint, backing, a) {
            // The machine had these regions a moment ago.
            for h in map.overlapping(&self.inner, range) {
                let back = map.region_enter(h);
                debug_assert!(back.is_ok(), "the machine does not take a region back");
            }
            map.vm.commit_release(charge);
            self.discard(backing, joint);
            return Err(e);
        }
        self.unlink_range(range, may);
        self.drop_contents(may);
        self.commit(range, joint, backing, a, charge);
        Ok(())
    }
}
