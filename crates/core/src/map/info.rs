//! Walking the map from outside (N06, N13).

use machvm_hal::{MaySleep, Va};

use super::Map;
use super::entry::EntryInfo;
use super::tree::Tree;
use crate::platform::Platform;

impl<P: Platform> Map<'_, P> {
    /// Calls `f` with every entry, ascending, under the read lock: `f` must not come
    /// back to this map.
    pub fn for_each_entry(&self, mut f: impl FnMut(EntryInfo), may: &mut MaySleep) {
        let inner = self.lock_read(may);
        let mut at = inner.tree.first();
        while let Some(h) = at {
            if let Some(info) = self.info_of(h) {
                f(info);
            }
            at = Tree::next(&self.vm.entries, h);
        }
    }

    /// The first entry that ends above `va`: the step of a walk without holding the
    /// lock (`vm_map_entry_read_succ`, `vm_region`).
    pub fn entry_from(&self, va: Va, may: &mut MaySleep) -> Option<EntryInfo> {
        let inner = self.lock_read(may);
        self.info_of(inner.tree.at_or_above(&self.vm.entries, va)?)
    }
}
