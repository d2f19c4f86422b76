//! Dropping contents of which pages are held, where a frame belongs to an index (sparse).
//!
//! A held page cannot move, so its natural frame is not free for new contents. The
//! memory gets another object instead, and the old one keeps what is held until it is let
//! go. In the dense placement new contents simply have other frames.

use machvm_arena::NoMemory;
use machvm_hal::{MaySleep, Va, VaRange};

use super::clip::CLIPS;
use super::copy::MapCopy;
use super::entry::{Entry, Kind};
use super::{Advise, AdviseError, Map, MapInner};
use crate::platform::Platform;

impl<P: Platform> Map<'_, P> {
    /// Does the part of `e` drop its contents by getting another object?
    pub(super) fn is_renewed(&self, e: &Entry, part: VaRange, advise: Advise, may: &mut MaySleep) -> bool {
        let Some(o) = e.object.get().filter(|_| e.kind() == Kind::Object) else { return false };
        let vm = self.vm;
        vm.object_may_be_held(o)
            && !e.is_shared()
            && !(advise == Advise::Free && vm.object_has_pager(o, may))
            && vm.object_any_held(o, e.pindex(part.start()).0, part.pages(), may)
    }

    /// Gives other objects to the parts of `range` that drop their contents this way.
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// [`AdviseError`]: what lies below the address has been done.
    pub(super) fn renew(
        &self,
        range: VaRange,
        advise: Advise,
        may: &mut MaySleep,
    ) -> Result<(), AdviseError> {
        let mut at = range.start();
        while let Some(rest) = VaRange::between(at, range.end()) {
            let next = {
                let inner = self.lock_read(may);
                self.next_renewed(&inner, rest, advise, may)
            };
            let Some(part) = next else { return Ok(()) };
            let done = self.renew_part(part, advise, may);
            if done.map_err(AdviseError::no_memory(part.start()))? {
                at = part.end();
            }
        }
        Ok(())
    }

    fn next_renewed(
        &self,
        inner: &MapInner,
        range: VaRange,
        advise: Advise,
        may: &mut MaySleep,
    ) -> Option<VaRange> {
        let parts = self.overlapping(inner, range).map(|h| self.entry(h));
        parts
            .filter_map(|e| Some((e, e.range()?.intersect(range)?)))
            .find(|(e, part)| self.is_renewed(e, *part, advise, may))
            .map(|(_, part)| part)
    }

    /// `Ok(false)`: it is not one entry's any more.
    fn renew_part(&self, part: VaRange, advise: Advise, may: &mut MaySleep) -> Result<bool, NoMemory> {
        let vm = self.vm;
        let mut edit = self.edit_range(part, CLIPS, may)?;
        let e = self.lookup_entry(&edit.inner, part.start()).map(|h| self.entry(h));
        let same = |e: &&Entry| e.end() >= part.end() && self.is_renewed(e, part, advise, may);
        let Some((e, o)) = e.filter(same).and_then(|e| Some((e, e.object.get()?))) else {
            edit.done(may);
            return Ok(false);
        };
        let made = vm.object_anew(o, e.pindex(part.start()), part.pages(), may).and_then(|new| {
            MapCopy::of_object(vm, new, part.pages(), e.attributes())
                .inspect_err(|_| edit.unused = Some(new.0))
        });
        let done = made.and_then(|mut pieces| {
            let done = edit.overwrite(part, &mut pieces, may).map_err(|_: (Va, _)| NoMemory);
            edit.settle(part, &done);
            // Left on failure: let go after the unlock.
            edit.bury_copy(&mut pieces);
            done
        });
        edit.done(may);
        done.map(|()| true)
    }
}
