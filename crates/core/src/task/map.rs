//! `vm_map`, `mach_vm_map` (U05, U06).

use machvm_hal::{MaySleep, PAGE_MASK, Prot, RawAddr, RawSize};

use super::Task;
use super::allocate::zero_fill;
use super::entry::MemoryEntry;
use super::personality::{Beyond, EntryRights, Rounding};
use super::place::{PlaceError, Unclear, Wish};
use super::raw::{RawFlags, RawInherit, RawProt, VmFlags};
use crate::map::{Attributes, Inherit};
use crate::platform::Platform;

/// What is mapped.
pub enum MapSource<'e, 'vm, P: Platform> {
    /// Fresh zeroes (a null port).
    Zero,
    /// Memory, from byte `offset` of an entry on. Pagers are mapped through an entry
    /// too ([`MemoryEntry::of_pager`]), so that all who map one see the same pages.
    Entry(&'e MemoryEntry<'vm, P>, u64),
    /// A port that stands for no memory.
    NoMemory,
}

/// Why nothing was mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VmMapError {
    /// A flag that there is not, or that does not go with the source
    /// (`KERN_INVALID_ARGUMENT`).
    BadFlags(u32),
    /// Bits that are no rights, or a protection that is not part of the maximum
    /// (`KERN_INVALID_ARGUMENT`).
    BadProtection(u32),
    /// There is no such inheritance (`KERN_INVALID_ARGUMENT`).
    BadInheritance(u32),
    /// No bytes (`KERN_INVALID_ARGUMENT`).
    BadSize,
    /// Address and size do not fit together (`KERN_INVALID_ARGUMENT`).
    Wraps(u64),
    /// Not page aligned (`KERN_INVALID_ARGUMENT`).
    BadOffset(u64),
    /// Not inside the memory entry (`KERN_INVALID_ARGUMENT`).
    BeyondEntry(u64),
    /// The port stands for no memory (`KERN_INVALID_OBJECT`).
    NotMemory,
    /// The memory entry does not have the right (`KERN_INVALID_RIGHT`).
    EntryRight,
    /// A copy needs the right to read (`KERN_PROTECTION_FAILURE`, Z123).
    NotReadable,
    /// No memory for entries or objects (`KERN_RESOURCE_SHORTAGE`).
    NoMemory,
    /// No place.
    Place(PlaceError),
}

/// Numbers of a call to map something.
#[derive(Clone, Copy, Debug)]
struct Rights {
    prot: Prot,
    max: Prot,
    inherit: Inherit,
    mask: (bool, bool),
}

impl<'vm, P: Platform> Task<'_, 'vm, P> {
    /// Maps memory (U05, U06); gives where, at the first byte of the data if the flags
    /// ask for that. With [`VmFlags::ANYWHERE`] the search goes up from `addr`. `mask`:
    /// bits that must be zero in the address.
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// [`VmMapError`]; nothing changed, but see [`Task::vm_allocate`].
    #[expect(clippy::too_many_arguments, reason = "these are the arguments of the call")]
    pub fn vm_map(
        &self,
        addr: RawAddr,
        size: RawSize,
        mask: u64,
        flags: RawFlags,
        source: &MapSource<'_, 'vm, P>,
        copy: bool,
        (prot, max, inherit): (RawProt, RawProt, RawInherit),
        may: &mut MaySleep,
    ) -> Result<u64, VmMapError> {
        let (known, tag) =
            flags.check(self.how.map_flags, self.how.tags).ok_or(VmMapError::BadFlags(flags.0))?;
        let rights = self.rights(prot, max, inherit)?;
        if size.0 == 0 {
            return Err(VmMapError::BadSize);
        }
        let mut wish =
            Wish { addr, size, mask, flags: known, hint: true, rounding: self.how.rounding.with(known) };
        match source {
            MapSource::Zero => {
                let (place, pages) = self.place(&wish).map_err(unclear(addr))?;
                let a = Attributes {
                    max: rights.max,
                    inherit: rights.inherit,
                    ..zero_fill(known, tag, rights.prot)
                };
                let start = self.enter_zeroes((place, pages), known, &a, may).map_err(VmMapError::Place)?;
                self.wire_new(start, pages, may).map_err(VmMapError::Place)?;
                Ok(start.get())
            }
            MapSource::NoMemory => Err(VmMapError::NotMemory),
            MapSource::Entry(entry, offset) => {
                if known.contains(VmFlags::PURGABLE) {
                    return Err(VmMapError::BadFlags(flags.0));
                }
                let rights = self.reduce(rights, entry, copy)?;
                if !entry.has_parts(self.how) && !(known - VmFlags::XNU_MAP_RANGE).is_empty() {
                    return Err(VmMapError::BadFlags(flags.0));
                }
                let (window, data) = self.window(entry, *offset, size.0, known)?;
                // The window says how many pages; the address is that of the first.
                wish.size = RawSize(window.1 << machvm_hal::PAGE_SHIFT);
                wish.rounding = Rounding::Separate;
                let (place, pages) = self.place(&wish).map_err(unclear(addr))?;
                let mut pieces = entry.take(window, copy, may).map_err(|_| VmMapError::NoMemory)?;
                debug_assert!(pieces.pages() == pages, "window of {offset:#x}");
                // Without a tag of its own a range keeps those it had.
                let keep = tag == 0 && !entry.has_parts(self.how);
                let as_new = |piece: Attributes| Attributes {
                    max: rights.max,
                    inherit: rights.inherit,
                    ..zero_fill(known, if keep { piece.tag } else { tag }, rights.prot)
                };
                let start = self.map.copyout(place, &mut pieces, as_new, may);
                let start = start.map_err(|e| VmMapError::Place(self.not_placed(place, pages, e, may)))?;
                self.wire_new(start, pages, may).map_err(VmMapError::Place)?;
                Ok(start.get() + data)
            }
        }
    }

    fn rights(&self, prot: RawProt, max: RawProt, inherit: RawInherit) -> Result<Rights, VmMapError> {
        let extra = if self.how.entry_rights == EntryRights::Refuse { RawProt::IS_MASK } else { 0 };
        let parse = |p: RawProt| p.check(extra).ok_or(VmMapError::BadProtection(p.0));
        let (cur, most) = (parse(prot)?, parse(max)?);
        let inherit = inherit.check(self.how).ok_or(VmMapError::BadInheritance(inherit.0))?;
        let most = match self.how.beyond_max {
            Beyond::Refuse if !most.contains(cur) => return Err(VmMapError::BadProtection(prot.0)),
            Beyond::Refuse => most,
            Beyond::Widen => most | cur,
        };
        let mask = (prot.has(extra), max.has(extra));
        Ok(Rights { prot: cur, max: most, inherit, mask })
    }

    /// Which pages of an entry bytes `[offset, offset + size)` are in, and what the address
    /// is to keep of the first.
    fn window(
        &self,
        entry: &MemoryEntry<'vm, P>,
        offset: u64,
        size: u64,
        flags: VmFlags,
    ) -> Result<((u64, u64), u64), VmMapError> {
        // The data may begin within the first page; without the flag whole pages count.
        let data = if flags.data_address() { entry.data } else { 0 };
        let from = offset.checked_add(data).ok_or(VmMapError::Wraps(offset))?;
        let part = entry.window(from, size).ok_or(VmMapError::BeyondEntry(offset))?;
        if !entry.has_parts(self.how) {
            return Ok(((0, entry.pieces.pages()), flags.in_page(from)));
        }
        if offset & PAGE_MASK != 0 && !flags.data_address() {
            return Err(VmMapError::BadOffset(offset));
        }
        Ok((part, flags.in_page(from)))
    }

    /// What an entry leaves of the rights that were asked for.
    fn reduce(&self, mut r: Rights, entry: &MemoryEntry<'_, P>, copy: bool) -> Result<Rights, VmMapError> {
        let all = self.how.entry_rights == EntryRights::Reduce;
        if r.mask.0 || all {
            r.prot &= entry.rights;
        }
        if r.mask.1 || all {
            r.max &= entry.rights;
        }
        if copy && !entry.rights.contains(Prot::R) {
            return Err(VmMapError::NotReadable);
        }
        if !entry.rights.contains(r.prot | r.max) {
            return Err(VmMapError::EntryRight);
        }
        if !r.max.contains(r.prot) {
            return Err(VmMapError::BadProtection(u32::from(r.prot.bits())));
        }
        Ok(r)
    }
}

fn unclear(addr: RawAddr) -> impl Fn(Unclear) -> VmMapError {
    move |e| match e {
        Unclear::Wraps => VmMapError::Wraps(addr.0),
        Unclear::Place(e) => VmMapError::Place(e),
    }
}
