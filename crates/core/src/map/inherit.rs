//! What children get (M32).

use machvm_arena::Handle;
use machvm_hal::{MaySleep, VaRange};

use super::clip::CLIPS;
use super::entry::{Entry, Inherit, Kind};
use super::{InheritError, Map};
use crate::platform::Platform;

impl<P: Platform> Map<'_, P> {
    /// Sets the inheritance of everything in `range` (M32 `vm_map_inherit`). Holes are
    /// skipped; guards ignore [`Inherit::Zero`]; submaps are shared or left out, never copied. Existing children stay as they are.
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// [`InheritError`]; nothing changed.
    pub fn inherit(&self, range: VaRange, inherit: Inherit, may: &mut MaySleep) -> Result<(), InheritError> {
        let Some(range) = range.intersect(self.bounds) else { return Ok(()) };
        let failed = InheritError::no_memory(range.start());
        let mut edit = match self.edit_range(range, CLIPS, may) {
            Ok(edit) => edit,
            Err(e) => return Err(failed(e)),
        };
        let submap = |h: &Handle<Entry>| self.entry(*h).kind() == Kind::Submap;
        let fixed = self.overlapping(&edit.inner, range).find(submap);
        let done = match fixed.filter(|_| matches!(inherit, Inherit::Copy | Inherit::Zero)) {
            Some(h) => Err(InheritError::Submap(self.entry(h).start().max(range.start()))),
            None => edit.clip_range(range).map_err(failed),
        };
        if done.is_ok() {
            for h in self.overlapping(&edit.inner, range) {
                let e = self.entry(h);
                let guard = matches!(e.kind(), Kind::Guard | Kind::StackGap);
                if !(guard && inherit == Inherit::Zero) {
                    e.set_inherit(inherit);
                }
            }
        }
        edit.settle(range, &done);
        edit.done(may);
        done
    }
}
