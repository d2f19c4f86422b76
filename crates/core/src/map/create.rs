//! Making and ending maps (M02, M03, M05), and what is set for a whole map.

use machvm_hal::{MaySleep, VaRange};
use machvm_sync::{Rank, RwSleep};

use super::submap::Home;
use super::{Limits, Map, MapFlags, MapInner};
use crate::platform::Platform;
use crate::vm::Vm;

impl<'vm, P: Platform> Map<'vm, P> {
    /// An empty map for the addresses `[min, max)` on `pmap` (M02 `vm_map_create`;
    /// M03 `vm_map_init` is the same with the storage given: here a map is a value).
    /// Never fails: nothing is allocated.
    pub fn new(vm: &'vm Vm<P>, pmap: P::Pmap, bounds: VaRange) -> Self {
        let inner = MapInner::new(bounds.start(), bounds.end());
        Map { vm, pmap, bounds, home: Home::Own(RwSleep::new(Rank::Map, inner)) }
    }

    /// Removes everything (M05, the part before the map itself goes).
    pub fn clear(&self, may: &mut MaySleep) {
        // Between entries nothing is clipped, so no entry is needed and this cannot fail.
        let all = self.delete(self.bounds, may);
        debug_assert!(all.is_ok(), "removing a whole map failed: {all:?}");
    }

    /// The limits in force.
    pub fn limits(&self, may: &mut MaySleep) -> Limits {
        self.lock_word().read(self.vm.host(), may).limits
    }
    /// Replaces the limits.
    pub fn set_limits(&self, limits: Limits, may: &mut MaySleep) {
        self.lock_word().write(self.vm.host(), may).limits = limits;
    }
    /// The flags in force.
    pub fn flags(&self, may: &mut MaySleep) -> MapFlags {
        self.lock_word().read(self.vm.host(), may).flags
    }
    /// Sets and clears flags (M06 `vm_map_modflags`); set wins. Gives the new ones.
    pub fn modflags(&self, set: MapFlags, clear: MapFlags, may: &mut MaySleep) -> MapFlags {
        let mut inner = self.lock_word().write(self.vm.host(), may);
        inner.flags = (inner.flags - clear) | set;
        inner.flags
    }
    /// Bytes mapped, guards not counted.
    pub fn size(&self, may: &mut MaySleep) -> u64 {
        self.lock_word().read(self.vm.host(), may).size
    }
    /// Number of entries.
    pub fn entry_count(&self, may: &mut MaySleep) -> u32 {
        self.lock_word().read(self.vm.host(), may).tree.count()
    }
}

impl<P: Platform> Drop for Map<'_, P> {
    /// Removes everything; of a map that others show, nothing but what its own pmap knows:
    /// the rest goes with the last view. A map is dropped where sleeping is allowed: by its
    /// owner, with nothing locked.
    fn drop(&mut self) {
        let mut may = MaySleep::claim();
        match self.home {
            Home::Own(_) => self.clear(&mut may),
            Home::Shown(h) => self.let_body_go(h, &mut may),
        }
    }
}
