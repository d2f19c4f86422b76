//! Cutting entries in two (N07).

use machvm_arena::NoMemory;
use machvm_hal::{Va, VaRange};

use super::edit::Edit;
use crate::platform::Platform;

/// Entries that clipping both ends of a range may take.
pub(super) const CLIPS: u32 = 2;

impl<P: Platform> Edit<'_, '_, P> {
    /// No entry reaches across `va` any more: `vm_map_clip_start` and `_clip_end` are
    /// the two ways to call this. Nothing to do when none does. Both halves name the
    /// object, with offsets that follow.
    ///
    /// # Errors
    /// [`NoMemory`] only when the caller reserved too little.
    pub(super) fn clip(&mut self, va: Va) -> Result<(), NoMemory> {
        let vm = self.map.vm;
        let Some(h) = self.inner.tree.containing(&vm.entries, va) else { return Ok(()) };
        let e = self.entry(h);
        if e.start() == va {
            return Ok(());
        }
        let upper = self.spare.take().ok_or(NoMemory)?;
        let u = self.entry(upper);
        u.copy_from(e);
        u.start.set(va.get());
        u.end.set(e.end.get());
        u.offset.set(e.offset.get().wrapping_add(va.page() - e.start().page()));
        if let Some(o) = e.object.get() {
            vm.object_reference(o);
        }
        self.resize(h, e.start(), va);
        self.link(upper);
        Ok(())
    }

    /// Clips at both ends of `range`. On failure the entries are as before, but for
    /// where they are cut.
    pub(super) fn clip_range(&mut self, range: VaRange) -> Result<(), NoMemory> {
        self.clip(range.start())?;
        self.clip(range.end())
    }
}
