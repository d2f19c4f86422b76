//! `mach_make_memory_entry` (U09).

use machvm_hal::{MaySleep, PAGE_MASK, Prot, VaRange};

use super::Task;
use super::entry::{EntryKind, MemoryEntry};
use super::raw::RawProt;
use super::transfer::Denied;
use crate::map::{CopyWhy, Need, Take};
use crate::platform::Platform;

bitflags::bitflags! {
    /// `MAP_MEM_*`, the flags that a permission carries.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct MakeFlags: u32 {
        /// Kept for callers: nobody else is charged for the memory.
        const LEDGER_TAGGED = 0x2000;
        /// Kept for callers: no memory is set apart.
        const GRAB_SECLUDED = 0x8000;
        /// Change the cache mode of the parent, make nothing.
        const ONLY = 0x1_0000;
        /// New memory.
        const NAMED_CREATE = 0x2_0000;
        /// New memory may be declared volatile.
        const PURGABLE = 0x4_0000;
        /// Give the parent again if it is the same memory.
        const NAMED_REUSE = 0x8_0000;
        /// The entry begins at the address, not at its page.
        const USE_DATA_ADDR = 0x10_0000;
        /// A snapshot.
        const VM_COPY = 0x20_0000;
        /// The range, whatever it consists of.
        const VM_SHARE = 0x40_0000;
        /// As `USE_DATA_ADDR`, to a multiple of 4 KiB: a page.
        const USE_4K_DATA_ADDR = 0x80_0000;
    }
}

/// What was made.
pub enum Made<'vm, P: Platform> {
    /// A new entry of so many bytes, which may be fewer than were asked for (Z108).
    Entry(MemoryEntry<'vm, P>, u64),
    /// Nothing was asked for: a null handle.
    Null,
    /// The parent again.
    Parent,
}

impl<P: Platform> core::fmt::Debug for Made<'_, P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Made::Entry(e, size) => write!(f, "Entry({e:?}, {size:#x})"),
            Made::Null => f.write_str("Null"),
            Made::Parent => f.write_str("Parent"),
        }
    }
}

/// Why there is no entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MakeEntryError {
    /// Unknown flags, or flags that exclude each other (`KERN_INVALID_ARGUMENT`).
    BadFlags(u32),
    /// A range of no bytes (`KERN_INVALID_ARGUMENT`).
    BadSize,
    /// Address and size do not fit together (`KERN_INVALID_ARGUMENT`).
    Wraps(u64),
    /// A parent is needed (`KERN_INVALID_ARGUMENT`).
    NoParent,
    /// The parent is a snapshot, of which there are no parts (`KERN_INVALID_ARGUMENT`).
    ParentIsCopy,
    /// Not inside the parent (`KERN_INVALID_ARGUMENT`).
    BeyondParent(u64),
    /// The parent may not do that (`KERN_INVALID_RIGHT`).
    ParentRight,
    /// More than the parent, or the memory, may do (`KERN_PROTECTION_FAILURE`, Z109).
    Protection(u32),
    /// The memory of the range cannot be had.
    Source(Denied),
    /// No memory for entries or objects (`KERN_FAILURE`).
    NoMemory,
}

/// A permission, taken apart: rights, `VM_PROT_IS_MASK`, [`MakeFlags`]. The cache mode in
/// the top byte is accepted and changes nothing.
struct Wanted {
    flags: MakeFlags,
    rights: Prot,
    mask: bool,
    raw: u32,
}

impl Wanted {
    fn parse(raw: u32) -> Option<Wanted> {
        const RIGHTS: u32 = 0xff;
        let flags = MakeFlags::from_bits(raw & 0x00ff_ff00)?;
        let rights = RawProt(raw & RIGHTS).check(RawProt::IS_MASK)?;
        Some(Wanted { flags, rights, mask: raw & RawProt::IS_MASK != 0, raw })
    }
    /// What can be had of what is wanted, where `most` is allowed.
    fn of(&self, most: Prot) -> Result<Prot, MakeEntryError> {
        let common = self.rights & most;
        if common == self.rights || (self.mask && !common.is_empty()) {
            Ok(common)
        } else {
            Err(MakeEntryError::Protection(self.raw))
        }
    }
    fn data_address(&self) -> bool {
        self.flags.intersects(MakeFlags::USE_DATA_ADDR | MakeFlags::USE_4K_DATA_ADDR)
    }
    /// The cache mode.
    fn cache(&self) -> u8 {
        self.raw.to_be_bytes()[0]
    }
    /// Where in the page of byte `offset` the data begins.
    fn data(&self, offset: u64) -> u64 {
        let bytes = self.data_address() && !self.flags.contains(MakeFlags::USE_4K_DATA_ADDR);
        if bytes { offset & PAGE_MASK } else { 0 }
    }
}

impl<'vm, P: Platform> Task<'_, 'vm, P> {
    /// Makes a capability on `size` bytes at `offset`: of this task's memory, or with a
    /// parent, of the parent (U09).
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// [`MakeEntryError`]; nothing changed.
    pub fn mach_make_memory_entry(
        &self,
        size: u64,
        offset: u64,
        permission: u32,
        parent: Option<&MemoryEntry<'vm, P>>,
        may: &mut MaySleep,
    ) -> Result<Made<'vm, P>, MakeEntryError> {
        let want = Wanted::parse(permission).ok_or(MakeEntryError::BadFlags(permission))?;
        if parent.is_some_and(|p| p.kind == EntryKind::Copy || !p.has_parts(self.how)) {
            return Err(MakeEntryError::ParentIsCopy);
        }
        // Of several kinds the first of these counts.
        if want.flags.contains(MakeFlags::ONLY) {
            if want.data_address() {
                return Err(MakeEntryError::BadFlags(permission));
            }
            let parent = parent.ok_or(MakeEntryError::NoParent)?;
            let right = want.cache() == parent.cache || parent.rights.contains(Prot::W);
            return if right { Ok(Made::Parent) } else { Err(MakeEntryError::ParentRight) };
        }
        if want.flags.contains(MakeFlags::NAMED_CREATE) {
            return self.create(size, offset, &want, may);
        }
        let of_range = MakeFlags::VM_COPY | MakeFlags::VM_SHARE | MakeFlags::NAMED_REUSE;
        match parent {
            Some(parent) if !want.flags.intersects(of_range) => child(parent, size, offset, &want, may),
            _ => self.of_range(size, offset, &want, parent, may),
        }
    }

    /// New memory, as many pages as the range has.
    fn create(
        &self,
        size: u64,
        offset: u64,
        want: &Wanted,
        may: &mut MaySleep,
    ) -> Result<Made<'vm, P>, MakeEntryError> {
        if size == 0 {
            return Ok(Made::Null);
        }
        let pages = super::transfer::pages_of(offset, size).ok_or(MakeEntryError::Wraps(size))?.pages();
        let purgeable = want.flags.contains(MakeFlags::PURGABLE);
        // Who cannot write cannot purge.
        if want.data_address() || purgeable && !want.rights.contains(Prot::W) {
            return Err(MakeEntryError::BadFlags(want.raw));
        }
        let entry = MemoryEntry::fresh(self.map.vm(), pages, want.rights, purgeable, may);
        let entry = MemoryEntry { cache: want.cache(), ..entry.map_err(|_| MakeEntryError::NoMemory)? };
        let size = entry.size();
        Ok(Made::Entry(entry, size))
    }

    fn of_range(
        &self,
        size: u64,
        offset: u64,
        want: &Wanted,
        parent: Option<&MemoryEntry<'vm, P>>,
        may: &mut MaySleep,
    ) -> Result<Made<'vm, P>, MakeEntryError> {
        if size == 0 {
            return Err(MakeEntryError::BadSize);
        }
        let range = super::transfer::pages_of(offset, size).ok_or(MakeEntryError::Wraps(offset))?;
        let copy = want.flags.contains(MakeFlags::VM_COPY);
        let plain = !want.flags.intersects(MakeFlags::VM_COPY | MakeFlags::VM_SHARE);
        let range = if plain { self.first_object_of(range, may)? } else { range };
        // A snapshot is the taker's own: it must be readable, and may be anything then.
        let read = if copy { Prot::R } else { Prot::NONE };
        let need = Need {
            prot: if want.mask { read } else { read | (want.rights & plain_rights(copy)) },
            max: Prot::NONE,
        };
        let take = if copy { Take::Copy } else { Take::Share };
        let taken = self.map.extract(range, take, need, may).map_err(|e| match e.why {
            CopyWhy::Protection => MakeEntryError::Protection(want.raw),
            CopyWhy::NoMemory => MakeEntryError::NoMemory,
            _ => MakeEntryError::Source(e.into()),
        })?;
        let rights = match want.of(if copy { Prot::ALL } else { taken.prot }) {
            Ok(rights) => rights,
            Err(e) => {
                self.map.unextract(range, taken.pieces, may);
                return Err(e);
            }
        };
        let kind = match (copy, plain) {
            (true, _) => EntryKind::Copy,
            (_, true) => EntryKind::Object,
            _ => EntryKind::Share,
        };
        let entry =
            MemoryEntry { pieces: taken.pieces, kind, rights, data: want.data(offset), cache: want.cache() };
        if plain && parent.is_some_and(|p| p.is_same(&entry)) {
            return Ok(Made::Parent);
        }
        let size = entry.size();
        Ok(Made::Entry(entry, size))
    }

    /// The part of `range` that is one entry's: what a plain entry covers.
    fn first_object_of(&self, range: VaRange, may: &mut MaySleep) -> Result<VaRange, MakeEntryError> {
        let hole = MakeEntryError::Source(Denied::Hole(range.start()));
        let e = self.map.entry_from(range.start(), may).filter(|e| e.range.contains(range.start()));
        e.and_then(|e| e.range.intersect(range)).ok_or(hole)
    }
}

/// The rights that a source must have for an entry that is not a snapshot.
fn plain_rights(copy: bool) -> Prot {
    if copy { Prot::NONE } else { Prot::ALL }
}

/// A part of a parent.
fn child<'vm, P: Platform>(
    parent: &MemoryEntry<'vm, P>,
    size: u64,
    offset: u64,
    want: &Wanted,
    may: &mut MaySleep,
) -> Result<Made<'vm, P>, MakeEntryError> {
    if size == 0 {
        return Ok(Made::Null);
    }
    let rights = want.of(parent.rights)?;
    // Without a data address, offsets count from the parent's first page.
    let data = if want.data_address() { parent.data } else { 0 };
    let from = offset.checked_add(data).ok_or(MakeEntryError::Wraps(offset))?;
    let window = parent.window(from, size).ok_or(MakeEntryError::BeyondParent(offset))?;
    let pieces = parent.take(window, false, may).map_err(|_| MakeEntryError::NoMemory)?;
    let entry = MemoryEntry { pieces, kind: parent.kind, rights, data: want.data(from), cache: want.cache() };
    let size = entry.size();
    Ok(Made::Entry(entry, size))
}

impl<P: Platform> MemoryEntry<'_, P> {
    /// The same memory with the same rights?
    fn is_same(&self, other: &Self) -> bool {
        (self.kind, self.rights, self.size(), self.data)
            == (other.kind, other.rights, other.size(), other.data)
            && self.pieces.is_same_memory(&other.pieces)
    }
}
