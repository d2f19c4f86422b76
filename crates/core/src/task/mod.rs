//! The Mach calls (`vm_allocate` and its family; part 1 of the inventory), for any task.
//!
//! ```text
//!   raw numbers --(one check, raw.rs)--> ranges, rights, flags
//!        |                                     |
//!   Personality: what this system does    Map / MapCopy / Object: what is done
//! ```
//! A [`Task`] is a map and the personality that it is asked with; it owns neither. Every
//! call takes the numbers as the program gave them, because which of two mistakes is
//! reported first is part of the interface: flags before a zero size, overflow before
//! the map. What differs between systems is a field of [`Personality`].
//!
//! Errors are one enum per call and name the address; `kern_return_t` is made of them
//! elsewhere. Each variant's documentation says which code it stands for.
//!
//! No call holds two maps: what moves between tasks is a snapshot ([`MapCopy`]) or a page
//! in a buffer, so calls in opposite directions cannot deadlock. Bytes are written with
//! the destination's map read locked and the right looked at under that lock, page by
//! page (Z103).
//!
//! [`MapCopy`]: crate::map::MapCopy

mod allocate;
mod behavior;
mod bytes;
mod copy;
mod deallocate;
mod entry;
mod inherit;
mod machine_attribute;
mod make_entry;
mod map;
mod msync;
mod page_query;
mod personality;
mod phys;
mod place;
mod protect;
mod purgable;
mod raw;
mod read;
mod read_list;
mod region;
mod remap;
mod statistics;
#[cfg(test)]
mod tests;
mod transfer;
mod vm_info;
mod wire;
mod wire_all;
mod write;

pub use allocate::AllocateError;
pub use behavior::{Behavior, BehaviorError};
pub use copy::VmCopyError;
pub use deallocate::DeallocateError;
pub use entry::{EntryKind, MemoryEntry};
pub use inherit::VmInheritError;
pub use machine_attribute::{AttributeError, AttributeValue, MATTR_CACHE, MATTR_MIGRATE, MATTR_REPLICATE};
pub use make_entry::{Made, MakeEntryError, MakeFlags};
pub use map::{MapSource, VmMapError};
pub use msync::{MsyncError, SyncFlags};
pub use page_query::{Disposition, PageQueryError};
pub use personality::{
    Alignment, Beyond, EntryRights, Masks, Msync, Overflow, Personality, RangeEntries, Rounding, WirePolicy,
    Zero,
};
pub use phys::PhysError;
pub use place::PlaceError;
pub use protect::VmProtectError;
pub use purgable::{PurgableControl, PurgableError, PurgableState};
pub use raw::{RawFlags, RawInherit, RawProt, VmFlags};
pub use read::ReadError;
pub use read_list::{ReadEntry, ReadListError};
pub use region::{BasicInfo, ExtendedInfo, RegionError, ShareMode, ShortInfo, SubmapInfo, TopInfo};
pub use remap::{RemapError, Remapped};
pub use statistics::{CacheStatistics, VmStatistics, VmStatistics64};
pub use transfer::Denied;
pub use vm_info::TaskVmInfo;
pub use wire::VmWireError;
pub use wire_all::{WireAllError, WireAllFlags};
pub use write::WriteError;

use crate::map::Map;
use crate::platform::Platform;

/// A map, and how it is to be asked. Copied freely; see the module text.
pub struct Task<'t, 'vm, P: Platform> {
    map: &'t Map<'vm, P>,
    how: &'static Personality,
}

impl<P: Platform> Clone for Task<'_, '_, P> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<P: Platform> Copy for Task<'_, '_, P> {}

impl<'t, 'vm, P: Platform> Task<'t, 'vm, P> {
    /// The task of `map`, as `how` sees it.
    pub fn new(map: &'t Map<'vm, P>, how: &'static Personality) -> Self {
        Task { map, how }
    }
    /// Its map.
    pub fn map(&self) -> &'t Map<'vm, P> {
        self.map
    }
    /// Its personality.
    pub fn personality(&self) -> &'static Personality {
        self.how
    }
}
