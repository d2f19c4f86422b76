//! May this range be accessed so (M23)?

use machvm_hal::{MaySleep, Prot, Va};

use super::Map;
use super::tree::Tree;
use crate::platform::Platform;

impl<P: Platform> Map<'_, P> {
    /// Is every byte of `[start, end)` mapped with at least `prot`, without holes (M23
    /// `vm_map_check_protection`)? An empty range asks whether `start` is mapped. Says
    /// nothing of the contents, and nothing of the next moment.
    pub fn check_protection(&self, start: Va, end: Va, prot: Prot, may: &mut MaySleep) -> bool {
        if start < self.min() || start >= self.max() || end > self.max() || end < start {
            return false;
        }
        let inner = self.lock_read(may);
        let Some(mut h) = self.lookup_entry(&inner, start) else { return false };
        if start == end {
            return true;
        }
        loop {
            let e = self.entry(h);
            if !e.prot().contains(prot) {
                return false;
            }
            if e.end() >= end {
                return true;
            }
            match Tree::next(&self.vm.entries, h) {
                Some(next) if self.entry(next).start() == e.end() => h = next,
                _ => return false,
            }
        }
    }
}
