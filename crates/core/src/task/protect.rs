//! `vm_protect` (U20).

use machvm_hal::{MaySleep, Prot, RawAddr, RawSize, Va, VaRange};

use super::Task;
use super::place::PlaceError;
use super::raw::{RawProt, Span, span};
use super::transfer::Denied;
use crate::map::{Attributes, Holes, MapFlags, Need, Place, ProtectError, SetProt, Take, Wiring};
use crate::platform::Platform;

/// Why the protection did not change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VmProtectError {
    /// Bits that are no rights (`KERN_INVALID_ARGUMENT`).
    BadProtection(u32),
    /// Address and size do not fit together (`KERN_INVALID_ARGUMENT`).
    Wraps(u64),
    /// Nothing is mapped here (`KERN_INVALID_ADDRESS`; XNU and POSIX only).
    Hole(Va),
    /// Beyond the maximum (`KERN_PROTECTION_FAILURE`).
    ExceedsMax(Va),
    /// Write and execute together, and the map refuses that
    /// (`KERN_PROTECTION_FAILURE`).
    WriteExecute(Va),
    /// A submap: its entries have the protections (`KERN_INVALID_ARGUMENT`).
    Submap(Va),
    /// No memory for entries (`KERN_RESOURCE_SHORTAGE`).
    NoMemory(Va),
    /// The machine has no structure for another region (`KERN_RESOURCE_SHORTAGE`).
    Machine(Va),
    /// `VM_PROT_COPY`: the memory is permanent and keeps its place, but no rights
    /// (`KERN_NO_SPACE`).
    Permanent(Va),
    /// `VM_PROT_COPY`: the copy could not be made.
    Copy(Denied),
}

impl From<ProtectError> for VmProtectError {
    fn from(e: ProtectError) -> Self {
        match e {
            ProtectError::Hole(va) => VmProtectError::Hole(va),
            ProtectError::ExceedsMax(va) | ProtectError::OutsideMax(va) => VmProtectError::ExceedsMax(va),
            ProtectError::WriteExecute(va) => VmProtectError::WriteExecute(va),
            ProtectError::Submap(va) => VmProtectError::Submap(va),
            ProtectError::NoMemory(va) => VmProtectError::NoMemory(va),
            ProtectError::Machine(va) => VmProtectError::Machine(va),
        }
    }
}

impl<P: Platform> Task<'_, '_, P> {
    /// Sets the protection of a range, or with `set_maximum` its maximum, which cuts the
    /// protection too (U20). All or nothing.
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// [`VmProtectError`]; nothing changed, but for [`VmProtectError::Permanent`].
    pub fn vm_protect(
        &self,
        addr: RawAddr,
        size: RawSize,
        set_maximum: bool,
        prot: RawProt,
        may: &mut MaySleep,
    ) -> Result<(), VmProtectError> {
        let extra = if self.how.protect_copy { RawProt::COPY } else { 0 };
        let rights = prot.check(extra).ok_or(VmProtectError::BadProtection(prot.0))?;
        let range = match span(addr, size, self.how.overflow) {
            Span::Nothing => return Ok(()),
            Span::Wraps => return Err(VmProtectError::Wraps(addr.0)),
            Span::Pages(r) => r,
        };
        let holes = self.how.protect_holes;
        if holes == Holes::Refuse && range.end() > self.map.max() {
            return Err(VmProtectError::Hole(self.map.max().max(range.start())));
        }
        if holes == Holes::Refuse && range.start() < self.map.min() {
            return Err(VmProtectError::Hole(range.start()));
        }
        if prot.has(RawProt::COPY) {
            self.make_private(range, rights, set_maximum, may)?;
        } else if set_maximum {
            self.map.set_maximum(range, rights, holes, may)?;
        } else {
            self.map.protect(range, &SetProt { prot: Some(rights), max: None, holes }, may)?;
            self.wire_accessible(range, rights, may);
        }
        Ok(())
    }

    /// Where everything new is to be wired, memory that was without rights is new now
    /// (U12). Without memory for that it stays as it is.
    fn wire_accessible(&self, range: VaRange, rights: Prot, may: &mut MaySleep) {
        let future = self.map.flags(may).contains(MapFlags::WIREFUTURE);
        if future && !rights.is_empty() && self.how.wire.who == Wiring::User {
            let _ = self.map.wire(range, Wiring::User, Holes::Skip, may);
        }
    }

    /// Puts a copy in place of what is there, with these rights (`VM_PROT_COPY`, Z95):
    /// the maximum may gain the right to write, nothing else.
    fn make_private(
        &self,
        range: VaRange,
        rights: Prot,
        set_maximum: bool,
        may: &mut MaySleep,
    ) -> Result<(), VmProtectError> {
        let need = Need { prot: Prot::NONE, max: Prot::R | (rights - Prot::W) };
        let taken = self.map.extract(range, Take::Copy, need, may);
        let mut taken = taken.map_err(|e| match e.why {
            crate::map::CopyWhy::Hole => VmProtectError::Hole(e.at),
            crate::map::CopyWhy::Protection => VmProtectError::ExceedsMax(e.at),
            _ => VmProtectError::Copy(e.into()),
        })?;
        let writable = |a: Attributes| match set_maximum {
            true => Attributes { prot: a.prot & rights, max: rights, ..a },
            false => Attributes { prot: rights, max: a.max | Prot::W, ..a },
        };
        let place = Place::Over(range.start());
        let done = self.map.copyout(place, &mut taken.pieces, writable, may);
        done.map(drop).map_err(|e| match self.not_placed(place, range.pages(), e, may) {
            PlaceError::Occupied(va) => VmProtectError::Permanent(va),
            PlaceError::WriteExecute(va) => VmProtectError::WriteExecute(va),
            PlaceError::NoMemory(va) => VmProtectError::NoMemory(va),
            PlaceError::Machine(va) => VmProtectError::Machine(va),
            _ => VmProtectError::NoMemory(range.start()),
        })
    }
}
