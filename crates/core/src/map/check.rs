//! The whole-map check: the invariants of a map, for tests and debug builds.

use machvm_hal::{MaySleep, Prot, Va};

use super::entry::{EntryFlags, Kind};
use super::submap::Home;
use super::tree::Tree;
use super::{Map, MapInner};
use crate::platform::Platform;

impl<P: Platform> Map<'_, P> {
    /// Checks invariants 1 to 7 of a map, O(n).
    ///
    /// # Errors
    /// What is broken, and where.
    pub fn check(&self, may: &mut MaySleep) -> Result<(), (&'static str, Va)> {
        self.check_inner(&self.lock_read(may))
    }

    fn check_inner(&self, inner: &MapInner) -> Result<(), (&'static str, Va)> {
        let slab = &self.vm.entries;
        inner.tree.check(slab)?;
        let (mut at, mut size) = (inner.tree.first(), 0);
        while let Some(h) = at {
            let e = slab.get(h);
            let sure = |ok: bool, what| if ok { Ok(()) } else { Err((what, e.start())) };
            let object = e.object.get();
            sure(e.max().contains(e.prot()), "protection beyond the maximum")?;
            match e.kind() {
                Kind::Object => sure(object.is_some(), "no object")?,
                Kind::Foreign => sure(object.is_none(), "foreign entry with an object")?,
                Kind::Submap => {
                    sure(object.is_none() && e.wired.get() == 0, "submap with an object or wired")?;
                    sure(matches!(self.home, Home::Own(_)), "a submap in a submap")?;
                }
                Kind::Guard | Kind::StackGap => {
                    sure(object.is_none() && e.wired.get() == 0, "guard with an object or wired")?;
                    sure(e.max() == Prot::NONE && e.offset.get() == 0, "guard with rights or an offset")?;
                }
            }
            let known = object.is_some_and(|o| self.vm.object_is_shared(o));
            sure(known || !e.is_shared(), "marked shared, but not its object")?;
            sure((e.kind() == Kind::Submap) == e.submap.get().is_some(), "a submap, or none")?;
            let user = e.flags().contains(EntryFlags::USER_WIRED);
            sure(!user || e.wired.get() != 0, "wired by the user, but not wired")?;
            if e.counts() {
                size += e.end.get() - e.start.get();
            }
            at = Tree::next(slab, h);
        }
        if size == inner.size { Ok(()) } else { Err(("size of the map", self.min())) }
    }

    /// Debug builds: checks the whole map when as much has changed as there is, so
    /// that a change costs O(1) more.
    pub(super) fn check_sometimes(&self, inner: &mut MapInner) {
        if cfg!(debug_assertions) && inner.updates > inner.tree.count() {
            inner.updates = 0;
            if let Err((what, at)) = self.check_inner(inner) {
                panic!("map is broken: {what} at {at:?}");
            }
        }
    }
}
