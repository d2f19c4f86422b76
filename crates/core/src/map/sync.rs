//! Writing modified pages back (M37: `vm_map_sync`, `vm_map_clean`).

use machvm_hal::{Gather, MaySleep, Pmap, Va, VaRange};

use super::entry::{EntryFlags, Kind};
use super::{Map, MapInner, SyncError};
use crate::platform::Platform;

/// What becomes of the pages after they are clean.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum After {
    /// They stay.
    Keep,
    /// They are forgotten.
    Invalidate,
}

impl<P: Platform> Map<'_, P> {
    /// Writes the modified pages of `range` to their pagers; `invalidate` also forgets
    /// them (M37). The machine's own mappings are passed over.
    ///
    /// => no lock is held; no lock is held while a pager works.
    ///
    /// # Errors
    /// [`SyncError`]. A pager's error is reported after the rest was written.
    pub fn sync(&self, range: VaRange, invalidate: bool, may: &mut MaySleep) -> Result<(), SyncError> {
        let after = if invalidate { After::Invalidate } else { After::Keep };
        self.check_sync(&self.lock_read(may), range, after)?;
        let (mut at, mut result) = (range.start(), Ok(()));
        while at < range.end() {
            match self.sync_next(at, range, after, may) {
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
        let info = self.lookup_inner(&self.lock_read(may), va).ok_or(SyncError::Hole(va))?;
        self.sync(info.range, invalidate, may)
    }

    fn check_sync(&self, inner: &MapInner, range: VaRange, after: After) -> Result<(), SyncError> {
        let mut at = range.start();
        for h in self.overlapping(inner, range) {
            let e = self.entry(h);
            if e.start() > at {
                return Err(SyncError::Hole(at));
            }
            if after == After::Invalidate && e.flags().contains(EntryFlags::USER_WIRED) {
                return Err(SyncError::Wired(at));
            }
            at = e.end();
        }
        if at < range.end() { Err(SyncError::Hole(at)) } else { Ok(()) }
    }

    /// The entry at or above `at`: its end, and how it went. `None`: no more.
    fn sync_next(
        &self,
        at: Va,
        range: VaRange,
        after: After,
        may: &mut MaySleep,
    ) -> Option<(Va, Result<(), SyncError>)> {
        let inner = self.lock(may);
        let h = inner.tree.at_or_above(&self.vm.entries, at)?;
        let e = self.entry(h);
        let part = e.range()?.intersect(VaRange::between(at, range.end())?)?;
        let (Kind::Object, Some(o)) = (e.kind(), e.object.get()) else {
            return Some((part.end(), Ok(())));
        };
        let first = e.pindex(part.start());
        self.vm.object_reference(o);
        if after == After::Invalidate {
            let mut g = Gather::new();
            self.pmap.remove(self.vm.page_array(), part, &mut g);
            self.vm.finish(g, may);
        }
        drop(inner);
        let done = self.vm.object_sync(o, first, part.pages(), after == After::Invalidate, may);
        self.vm.object_deallocate(o, may);
        Some((part.end(), done.map_err(|e| SyncError::Pager(part.start(), e))))
    }
}
