//! What `task_info` tells of a task's memory (U35: `TASK_BASIC_INFO`, `TASK_VM_INFO`).

use machvm_hal::{MaySleep, PAGE_SIZE, Pmap, Va};

use super::Task;
use crate::map::{Detail, Kind};
use crate::object::Purgeable;
use crate::platform::Platform;

/// `task_vm_info`, in bytes where it is not a count.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TaskVmInfo {
    /// Mapped, guards not counted.
    pub virtual_size: u64,
    /// Entries of the map.
    pub region_count: u32,
    /// Bytes in a page.
    pub page_size: u32,
    /// Entered in the pmap.
    pub resident_size: u64,
    /// Of anonymous memory, in memory (shared memory counts for every task that maps it).
    pub internal: u64,
    /// As `internal`, with a pager behind it.
    pub external: u64,
    /// Of these, modified.
    pub dirty: u64,
    /// On swap.
    pub compressed: u64,
    /// Wired.
    pub wired: u64,
    /// Virtual size of volatile memory.
    pub purgeable_volatile_virtual: u64,
    /// Of it, in memory.
    pub purgeable_volatile_resident: u64,
    /// What the task costs: modified anonymous pages, and what is on swap.
    pub phys_footprint: u64,
    /// Lowest address.
    pub min_address: u64,
    /// One past the highest address.
    pub max_address: u64,
}

impl<P: Platform> Task<'_, '_, P> {
    /// Counts what the task has (U35). Looks at every entry and every page of it; the
    /// numbers of different entries are of different moments.
    ///
    /// => no lock is held.
    pub fn vm_info(&self, may: &mut MaySleep) -> TaskVmInfo {
        let mut t = TaskVmInfo {
            virtual_size: self.map.size(may),
            region_count: self.map.entry_count(may),
            page_size: PAGE_SIZE as u32,
            resident_size: self.map.pmap().resident_count() * PAGE_SIZE,
            min_address: self.map.min().get(),
            max_address: self.map.max().get(),
            ..TaskVmInfo::default()
        };
        let mut at = self.map.min();
        while at < self.map.max()
            && let Some(f) = self.map.region_from(at, Detail::Pages, may)
        {
            at = f.entry.range.end();
            if f.entry.kind != Kind::Object {
                continue;
            }
            let bytes = |pages: u64| pages * PAGE_SIZE;
            let kind = if f.external { &mut t.external } else { &mut t.internal };
            *kind += bytes(f.pages.resident);
            t.dirty += bytes(f.pages.dirty);
            t.compressed += bytes(f.pages.swapped);
            t.wired += bytes(f.pages.wired);
            if !f.external {
                t.phys_footprint += bytes(f.pages.dirty + f.pages.swapped);
            }
            if self.is_volatile(f.entry.range.start(), may) {
                t.purgeable_volatile_virtual += f.entry.range.bytes();
                t.purgeable_volatile_resident += bytes(f.pages.resident);
            }
        }
        t
    }

    fn is_volatile(&self, va: Va, may: &mut MaySleep) -> bool {
        self.purgeable_at(va, may).is_some_and(|s| s & 3 == Purgeable::Volatile as u32)
    }
}
