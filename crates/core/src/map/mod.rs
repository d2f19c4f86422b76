//! Address maps: which addresses mean what (`vm_map`).
//!
//! ```text
//!   Map -- RwSleep<MapInner> -- Tree of Entry -- Object
//!    |                                 |
//!    +-- pmap: what the machine        +-- range, protection, maximum, inheritance,
//!        knows of it (a cache)             advice, wirings, kind
//! ```
//! A map owns its entries; each entry owns one reference on its object. A map does
//! not own pages or contents (objects do), nor translations (the pmap does, and may
//! forget them).
//!
//! Every operation has the same form: **check** what needs no lock, **reserve** the
//! entries that clipping may need, **lock**, look again, **commit**. What can fail in
//! the commit (an object, the machine's own structure for a region) comes first in
//! it and is undone, so an error leaves everything as it was. Objects lose their
//! references after the unlock (Z26): what was unlinked waits in a chain.
//!
//! Each anonymous mapping has an object of its own or extends a neighbour's. As long
//! as nobody marks an object shared, the entries that name it cover disjoint
//! indices (`OBJ_ONEMAPPING`), so unmapping a part drops that part's contents.
//!
//! Two maps are locked together only in [`Map::fork`] (parent, then the child that
//! nobody else knows yet) and where a map shows another one (the one that shows, then the
//! submap; [`Map::submap`]). A copy between maps goes through a [`MapCopy`], with one
//! lock at a time.

mod access;
mod bytes;
mod check;
mod clip;
mod contents;
mod copy;
mod copyout;
mod create;
mod delete;
mod edit;
mod entry;
mod error;
mod extract;
mod find;
mod fixed;
mod fork;
mod info;
mod inherit;
mod insert;
mod later;
mod lock;
mod lookup;
mod madvise;
mod protect;
mod region;
mod rehome;
mod remap;
mod renew;
mod simplify;
mod stack;
mod submap;
mod sync;
#[cfg(test)]
pub(crate) mod tests;
mod through;
mod tree;
mod wait;
mod wire;

use machvm_hal::{Va, VaRange};
use machvm_sync::RwSleep;

pub use copy::{MapCopy, Sharers};
pub use entry::{Advice, Attributes, Entry, EntryFlags, EntryInfo, Inherit, Kind};
pub use error::{
    AdviseError, CopyError, CopyWhy, DeleteError, FindError, ForkError, GrowError, InheritError, InsertError,
    LookupError, MoveError, ProtectError, Side, StackError, SubmapError, SyncError, WireError,
};
pub use extract::{Extract, Need, Take};
pub use find::{Order, Place, Search};
pub use insert::Backing;
pub(crate) use later::Later;
pub use lookup::Lookup;
pub use madvise::Advise;
pub use protect::{Holes, SetProt};
pub(crate) use region::Sources;
pub use region::{Detail, RegionFacts};
pub use rehome::ReturnError;
pub use remap::Leave;
pub use stack::StackShape;
pub use submap::Body;
pub use sync::SyncHow;
pub(crate) use through::{Read, Seen};
pub use wire::Wiring;

use crate::platform::Platform;
use crate::vm::Vm;

bitflags::bitflags! {
    /// Map flags (`MAP_*` of `struct vm_map`).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct MapFlags: u32 {
        /// `MAP_WIREFUTURE`: whoever maps wires too. Kept here, acted on by callers.
        const WIREFUTURE = 1;
        /// `MAP_WXORX`: write and execute together are refused.
        const WXORX = 0x40;
    }
}

/// Limits of one map. Changing them concerns later operations only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Largest size in bytes, guards not counted (RLIMIT_AS, Z12).
    pub size: u64,
    /// Largest size in bytes of a stack that grows (RLIMIT_STACK).
    pub stack: u64,
    /// Bytes by which a stack grows at least (`sgrowsiz`).
    pub stack_step: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits::DEFAULT
    }
}

impl Limits {
    const DEFAULT: Limits = Limits { size: u64::MAX, stack: u64::MAX, stack_step: 128 << 10 };
}

/// What the map lock guards.
#[derive(Debug)]
pub struct MapInner {
    pub(super) tree: tree::Tree,
    /// Bytes mapped, guards not counted (invariant 3).
    pub(super) size: u64,
    pub(super) limits: Limits,
    pub(super) flags: MapFlags,
    /// Names the wirings in progress.
    pub(super) wirings: u32,
    /// Changes since the last whole check (debug builds).
    pub(super) updates: u32,
}

/// One address space (`vm_map`).
///
/// Letters: \[I\] immutable, \[m\] the map lock.
pub struct Map<'vm, P: Platform> {
    /// \[I\]
    vm: &'vm Vm<P>,
    /// \[I\]; locks itself
    pmap: P::Pmap,
    /// `[min, max)` (Z11). \[I\]
    bounds: VaRange,
    /// The entries, and the lock. \[m\]
    home: submap::Home,
}

impl MapInner {
    /// Without entries, for the addresses `[min, max)`.
    pub(super) const fn new(min: Va, max: Va) -> Self {
        MapInner {
            tree: tree::Tree::new(min, max),
            size: 0,
            limits: Limits::DEFAULT,
            flags: MapFlags::empty(),
            wirings: 0,
            updates: 0,
        }
    }
}

impl<'vm, P: Platform> Map<'vm, P> {
    /// The system this map belongs to.
    pub fn vm(&self) -> &'vm Vm<P> {
        self.vm
    }
    /// The machine-dependent map (M06).
    pub fn pmap(&self) -> &P::Pmap {
        &self.pmap
    }
    /// Lowest address (M06).
    pub fn min(&self) -> Va {
        self.bounds.start()
    }
    /// One past the highest address (M06).
    pub fn max(&self) -> Va {
        self.bounds.end()
    }
    #[inline]
    pub(crate) fn lock_word(&self) -> &RwSleep<MapInner> {
        match &self.home {
            submap::Home::Own(lock) => lock,
            submap::Home::Shown(h) => self.vm.bodies.get(*h).lock_word(),
        }
    }
}
