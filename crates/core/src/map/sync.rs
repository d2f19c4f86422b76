//! Writing modified pages back (M37: `vm_map_sync`, `vm_map_clean`).

use core::ops::ControlFlow;
use machvm_hal::{Gather, MaySleep, Pmap, Va, VaRange};

use super::entry::{EntryFlags, Kind};
use super::{Map, SyncError};
use crate::platform::Platform;

bitflags::bitflags! {
    /// How [`Map::sync_as`] writes (`MS_*`).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct SyncHow: u32 {
        /// The pages are forgotten afterwards (`MS_INVALIDATE`).
        const INVALIDATE = 1;
        /// The pagers have the pages when it returns, but need not have them where they shall
        /// be in the end (`MS_ASYNC`).
        const START = 2;
    }
}

impl<P: Platform> Map<'_, P> {
    /// Writes the modified pages of `range` to their pagers; `invalidate` also forgets
    /// them (M37). Submaps are looked
    /// through; the machine's own mappings are passed over.
    ///
    /// => no lock is held; no lock is held while a pager works.
    ///
    /// # Errors
    /// [`SyncError`]. A pager's error is reported after the rest was written.
    pub fn sync(&self, range: VaRange, invalidate: bool, may: &mut MaySleep) -> Result<(), SyncError> {
        let how = if invalidate { SyncHow::INVALIDATE } else { SyncHow::empty() };
        self.sync_as(range, how, may)
    }

    /// As [`Map::sync`]; `how` says whether pages are forgotten, and what is waited for.
    ///
    /// => as [`Map::sync`].
    ///
    /// # Errors
    /// As [`Map::sync`].
    pub fn sync_as(&self, range: VaRange, how: SyncHow, may: &mut MaySleep) -> Result<(), SyncError> {
        self.check_sync(range, how, may)?;
        let (mut at, mut result) = (range.start(), Ok(()));
        while at < range.end() {
            match self.sync_next(at, range, how, may) {
                Some((end, done)) => {
                    at = end;
                    result = result.and(done);
                }
                None => break,
            }
        }
        result
    }

    /// As [`Map::sync`], of the whole entry around `va` (the empty range of `msync`).
    ///
    /// # Errors
    /// As [`Map::sync`].
    pub fn sync_entry(&self, va: Va, invalidate: bool, may: &mut MaySleep) -> Result<(), SyncError> {
        let range = {
            let inner = self.lock_read(may);
            self.see(&inner, va, may).and_then(|s| VaRange::between(s.start, s.end))
        };
        self.sync(range.ok_or(SyncError::Hole(va))?, invalidate, may)
    }

    fn check_sync(&self, range: VaRange, how: SyncHow, may: &mut MaySleep) -> Result<(), SyncError> {
        let inner = self.lock_read(may);
        let mut at = range.start();
        let found = self.each_part(&inner, range, may, &mut |part, _| {
            if part.range.start() > at {
                return ControlFlow::Break(SyncError::Hole(at));
            }
            if how.contains(SyncHow::INVALIDATE) && part.entry.flags().contains(EntryFlags::USER_WIRED) {
                return ControlFlow::Break(SyncError::Wired(at));
            }
            at = part.range.end();
            ControlFlow::Continue(())
        });
        match found {
            ControlFlow::Break(e) => Err(e),
            ControlFlow::Continue(()) if at < range.end() => Err(SyncError::Hole(at)),
            ControlFlow::Continue(()) => Ok(()),
        }
    }

    /// The entry at or above `at`: its end, and how it went. `None`: no more.
    fn sync_next(
        &self,
        at: Va,
        range: VaRange,
        how: SyncHow,
        may: &mut MaySleep,
    ) -> Option<(Va, Result<(), SyncError>)> {
        let inner = self.lock(may);
        let next = self.each_part(&inner, VaRange::between(at, range.end())?, may, &mut |part, _| {
            // The reference is taken while the submap, if it is one, is locked.
            let object = part.entry.object.get().filter(|_| part.entry.kind() == Kind::Object);
            object.inspect(|o| self.vm.object_reference(*o));
            ControlFlow::Break((part.range, object, part.first))
        });
        let ControlFlow::Break((part, object, first)) = next else { return None };
        let Some(o) = object else { return Some((part.end(), Ok(()))) };
        let invalidate = how.contains(SyncHow::INVALIDATE);
        if invalidate {
            let mut g = Gather::new();
            self.pmap.remove(self.vm.page_array(), part, &mut g);
            self.vm.finish(g, may);
        }
        drop(inner);
        let done = if how.contains(SyncHow::START) {
            self.vm.object_sync(o, first, part.pages(), invalidate, may)
        } else {
            self.vm.object_sync_through(o, first, part.pages(), invalidate, may)
        };
        self.vm.object_deallocate(o, may);
        Some((part.end(), done.map_err(|e| SyncError::Pager(part.start(), e))))
    }
}
