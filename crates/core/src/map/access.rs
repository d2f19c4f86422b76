//! May this range be accessed so (M23)?

use core::ops::ControlFlow;
use machvm_hal::{MaySleep, Prot, Va, VaRange};

use super::Map;
use crate::platform::Platform;

impl<P: Platform> Map<'_, P> {
    /// Is every byte of `[start, end)` mapped with at least `prot`, without holes (M23
    /// `vm_map_check_protection`)? Submaps are looked through. An empty range asks whether
    /// `start` is mapped. Says nothing of the contents, and nothing of the next moment.
    pub fn check_protection(&self, start: Va, end: Va, prot: Prot, may: &mut MaySleep) -> bool {
        if start < self.min() || start >= self.max() || end > self.max() || end < start {
            return false;
        }
        let inner = self.lock_read(may);
        let Some(range) = VaRange::between(start, end) else {
            return self.see(&inner, start, may).is_some();
        };
        let mut at = start;
        let refused = self.each_part(&inner, range, may, &mut |part, _| {
            if part.range.start() != at || !part.entry.prot().contains(prot) {
                return ControlFlow::Break(());
            }
            at = part.range.end();
            ControlFlow::Continue(())
        });
        refused.is_continue() && at == end
    }
}
