//! Advice (M31), and dropping contents.

use core::ops::ControlFlow;
use machvm_hal::{Gather, MaySleep, Pmap, Va, VaRange};

use super::clip::CLIPS;
use super::edit::Edit;
use super::entry::{Advice, Entry, EntryFlags, Kind};
use super::{AdviseError, Map};
use crate::platform::Platform;

/// The behaviours of `madvise` that concern entries or contents. WILLNEED is a
/// prefault and belongs to the fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Advise {
    /// Expected order of access.
    Access(Advice),
    /// The syncer leaves it alone (NOSYNC), or not (AUTOSYNC).
    Sync {
        /// AUTOSYNC.
        auto: bool,
    },
    /// Part of core files (CORE), or not (NOCORE).
    Core {
        /// CORE.
        include: bool,
    },
    /// Sets and clears flags of [`EntryFlags::CALLER`]; others are ignored. Perhaps the
    /// order of access with them.
    Mark {
        /// The order.
        access: Option<Advice>,
        /// These.
        set: EntryFlags,
        /// And these.
        clear: EntryFlags,
    },
    /// Private contents are gone: the next access finds zero, or the file (DONTNEED,
    /// decision 17). Shared memory is only unmapped from here.
    DontNeed,
    /// As `DontNeed` for private anonymous memory; others are left alone (FREE).
    Free,
}

impl<P: Platform> Map<'_, P> {
    /// Takes advice for `range` (M31 `vm_map_madvise`). Holes, guards and submaps are passed
    /// over; the address of the first hole is given back, for callers to whom that is
    /// an error afterwards.
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// [`AdviseError`].
    pub fn madvise(
        &self,
        range: VaRange,
        advise: Advise,
        may: &mut MaySleep,
    ) -> Result<Option<Va>, AdviseError> {
        let Some(within) = range.intersect(self.bounds) else { return Ok(Some(range.start())) };
        let drops = matches!(advise, Advise::DontNeed | Advise::Free);
        let failed = |e| AdviseError::no_memory(range.start())(e);
        let entries = if drops { 0 } else { CLIPS };
        let mut edit = self.edit_range(within, entries, may).map_err(failed)?;
        let hole = edit.first_hole(range);
        let done = if drops {
            edit.drop_pages(within, advise, may)
        } else {
            let clipped = edit.clip_range(within).map_err(failed);
            if clipped.is_ok() {
                let each = self.overlapping(&edit.inner, within).map(|h| self.entry(h));
                each.filter(|e| e.counts() && e.kind() != Kind::Submap).for_each(|e| set_advice(e, advise));
            }
            edit.settle(within, &clipped);
            clipped
        };
        edit.done(may);
        if drops && done.is_ok() {
            self.renew(within, advise, may)?;
        }
        done.map(|()| hole)
    }
}

impl<P: Platform> Map<'_, P> {
    /// Sets the pages of `range` aside: unmapped, and first when memory is taken
    /// (`VM_SYNC_DEACTIVATE`). Wired pages stay.
    ///
    /// => no lock is held.
    pub fn deactivate(&self, range: VaRange, may: &mut MaySleep) {
        let inner = self.lock_read(may);
        let _ = self.each_part::<()>(&inner, range, may, &mut |part, may| {
            if let Some(o) = part.entry.object.get() {
                self.vm.object_deactivate(o, part.first.0, part.range.pages(), may);
            }
            ControlFlow::Continue(())
        });
    }
}

fn set_advice(e: &Entry, advise: Advise) {
    let flag = |on: bool, f| if on { e.insert_flags(f) } else { e.remove_flags(f) };
    match advise {
        Advise::Access(a) => e.set_advice(a),
        Advise::Sync { auto } => flag(!auto, EntryFlags::NOSYNC),
        Advise::Core { include } => flag(!include, EntryFlags::NOCOREDUMP),
        Advise::Mark { access, set, clear } => {
            access.into_iter().for_each(|a| e.set_advice(a));
            e.remove_flags(clear & EntryFlags::CALLER);
            e.insert_flags(set & EntryFlags::CALLER);
        }
        Advise::DontNeed | Advise::Free => {}
    }
}

impl<P: Platform> Edit<'_, '_, P> {
    /// The first address of `range` where nothing is mapped.
    pub(super) fn first_hole(&self, range: VaRange) -> Option<Va> {
        let mut at = range.start();
        for h in self.map.overlapping(&self.inner, range) {
            let e = self.entry(h);
            if e.start() > at {
                return Some(at);
            }
            at = e.end();
        }
        (at < range.end()).then_some(at)
    }

    fn drop_pages(&mut self, range: VaRange, advise: Advise, may: &mut MaySleep) -> Result<(), AdviseError> {
        let (map, vm) = (self.map, self.map.vm);
        let inner = &self.inner;
        let parts = || {
            map.overlapping(inner, range).filter_map(|h| {
                let e = map.entry(h);
                let part = e.range()?.intersect(range)?;
                (e.kind() == Kind::Object).then_some((e, e.object.get()?, part))
            })
        };
        if let Some((_, _, part)) = parts().find(|(e, _, _)| e.wired.get() != 0) {
            return Err(AdviseError::Wired(part.start()));
        }
        let mut g = Gather::new();
        for (e, o, part) in parts() {
            if map.is_renewed(e, part, advise, may) {
                continue;
            }
            if advise == Advise::DontNeed || !(e.is_shared() || vm.object_has_pager(o, may)) {
                map.unmap_views(inner, part);
                map.pmap.remove(vm.page_array(), part, &mut g);
            }
        }
        vm.finish(g, may);
        for (e, o, part) in parts() {
            if map.is_renewed(e, part, advise, may) {
                continue;
            }
            if e.is_shared() || (advise == Advise::Free && vm.object_has_pager(o, may)) {
                continue;
            }
            let dropped = vm.object_drop_range(o, e.pindex(part.start()), part.pages(), may);
            dropped.map_err(AdviseError::no_memory(part.start()))?;
        }
        Ok(())
    }
}
