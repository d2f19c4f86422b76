//! Memory entries: capabilities on memory (U09, U10).
//!
//! An entry holds objects, not addresses: what it was made of may be unmapped. It is a
//! value of its owner's (a port table, say); dropping it lets its memory go.

use machvm_arena::NoMemory;
use machvm_hal::{MaySleep, PAGE_MASK, PAGE_SIZE, Pindex, Prot};

use super::personality::{Personality, RangeEntries};
use super::purgable::{PurgableError, PurgableState};
use crate::map::{Attributes, MapCopy, Take};
use crate::object::Purgeable;
use crate::platform::{PagerId, Platform};
use crate::vm::Vm;

/// What an entry was made of, and so what mappings of it are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryKind {
    /// A part of one object: mappings are the same memory.
    Object,
    /// A range with all its objects: mappings are the same memory.
    Share,
    /// A range: each mapping is a copy of what the memory was when the entry was made
    /// (Z110).
    Copy,
}

/// See the module text.
pub struct MemoryEntry<'vm, P: Platform> {
    pub(super) pieces: MapCopy<'vm, P>,
    pub(super) kind: EntryKind,
    /// The most that a mapping may get.
    pub(super) rights: Prot,
    /// Where in the first page the data begins.
    pub(super) data: u64,
    /// The cache mode that its maker named: kept to be compared.
    pub(super) cache: u8,
}

impl<P: Platform> core::fmt::Debug for MemoryEntry<'_, P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "MemoryEntry({:?}, {:#x} bytes, {:?})", self.kind, self.size(), self.rights)
    }
}

impl<'vm, P: Platform> MemoryEntry<'vm, P> {
    /// Bytes that it covers: from where its data begins to the end of its last page.
    pub fn size(&self) -> u64 {
        self.pieces.pages() * PAGE_SIZE - self.data
    }
    /// The most that a mapping of it may do.
    pub fn rights(&self) -> Prot {
        self.rights
    }
    /// What mappings of it are.
    pub fn kind(&self) -> EntryKind {
        self.kind
    }

    /// An entry on fresh zeroes (`MAP_MEM_NAMED_CREATE`).
    pub(super) fn fresh(
        vm: &'vm Vm<P>,
        pages: u64,
        rights: Prot,
        purgeable: bool,
        may: &mut MaySleep,
    ) -> Result<Self, NoMemory> {
        let (o, at) = vm.object_allocate(pages)?;
        if purgeable {
            vm.object_make_purgeable(o);
        }
        Self::of_object(vm, (o, at), pages, rights, may)
    }

    /// An entry on the data of a pager (U10 `mach_memory_object_memory_entry`): bytes
    /// `[0, size)` of it. Everybody who maps the entry sees the same pages, and what they
    /// modify goes back to the pager.
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// [`NoMemory`]; also for size 0, of which there is no entry
    /// (`KERN_INVALID_ARGUMENT`).
    pub fn of_pager(
        vm: &'vm Vm<P>,
        pager: PagerId,
        size: u64,
        rights: Prot,
        may: &mut MaySleep,
    ) -> Result<Self, NoMemory> {
        let pages = pages_in(size).ok_or(NoMemory)?;
        let o = vm.memory_object(pager, pages * PAGE_SIZE, may)?;
        Self::of_object(vm, (o, Pindex(0)), pages, rights, may)
    }

    /// An entry on an internal object of so many bytes (U10 with `internal`).
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// As [`MemoryEntry::of_pager`].
    pub fn internal(vm: &'vm Vm<P>, size: u64, rights: Prot, may: &mut MaySleep) -> Result<Self, NoMemory> {
        Self::fresh(vm, pages_in(size).ok_or(NoMemory)?, rights, false, may)
    }

    fn of_object(
        vm: &'vm Vm<P>,
        object: (machvm_arena::Handle<crate::object::Object>, machvm_hal::Pindex),
        pages: u64,
        rights: Prot,
        may: &mut MaySleep,
    ) -> Result<Self, NoMemory> {
        vm.object_open(object.0);
        let chain =
            MapCopy::of_object(vm, object, pages, Attributes { max: rights, ..Attributes::new(rights) });
        let pieces = match chain {
            Ok(pieces) => pieces,
            Err(e) => {
                vm.object_deallocate(object.0, may);
                return Err(e);
            }
        };
        Ok(MemoryEntry { pieces, kind: EntryKind::Object, rights, data: 0, cache: 0 })
    }

    /// Pages that bytes `[from, from + size)`, counted from the start of the first page,
    /// touch: first and how many. `None`: not inside the entry, or none.
    pub(super) fn window(&self, from: u64, size: u64) -> Option<(u64, u64)> {
        let (first, last) = (from / PAGE_SIZE, from.checked_add(size)?.div_ceil(PAGE_SIZE));
        (last <= self.pieces.pages() && first < last).then_some((first, last - first))
    }

    /// Can a part of it be mapped, or be an entry of its own?
    pub(super) fn has_parts(&self, how: &Personality) -> bool {
        self.kind == EntryKind::Object || how.range_entries == RangeEntries::Parts
    }

    /// A chain over that window, for one mapping.
    pub(super) fn take(
        &self,
        (first, pages): (u64, u64),
        copy: bool,
        may: &mut MaySleep,
    ) -> Result<MapCopy<'vm, P>, NoMemory> {
        let take = if copy || self.kind == EntryKind::Copy { Take::Copy } else { Take::Share };
        self.pieces.window(first, pages, take, may)
    }

    /// State of purgeable memory behind the entry (`mach_memory_entry_purgable_control`):
    /// sets it if `set` is given, and gives the old one.
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// [`PurgableError`]: `BadState`, `NotPurgeable` (with the address in the entry; entries
    /// of ranges are not), `Protection` without the right to write.
    pub fn purgable_control(
        &self,
        set: Option<PurgableState>,
        may: &mut MaySleep,
    ) -> Result<PurgableState, PurgableError> {
        let none = PurgableError::NotPurgeable(machvm_hal::Va::ZERO);
        let object = self.pieces.first_object().filter(|_| self.kind == EntryKind::Object);
        let (vm, o) = (self.pieces.vm(), object.ok_or(none)?);
        let old = match set {
            Some(_) if !self.rights.contains(Prot::W) => {
                return Err(PurgableError::Protection(machvm_hal::Va::ZERO));
            }
            Some(s) => {
                let to: Purgeable = s.known().ok_or(PurgableError::BadState(s.0))?;
                vm.purge_set(o, to, s.0, may)
            }
            None => vm.purge_state(o, may),
        };
        old.map(PurgableState).map_err(|_| none)
    }
}

/// A size in pages, rounded up. `None`: zero, or it does not fit.
pub(super) fn pages_in(size: u64) -> Option<u64> {
    size.checked_add(PAGE_MASK).map(|n| n / PAGE_SIZE).filter(|n| *n != 0)
}
