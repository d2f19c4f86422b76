//! `vm_remap`, `vm_remap_new` (U07, U08).

use machvm_hal::{MaySleep, Prot, RawAddr, RawSize};

use super::Task;
use super::place::{PlaceError, Unclear, Wish};
use super::raw::{RawFlags, RawInherit, RawProt, fixed};
use super::transfer::Denied;
use crate::map::{Attributes, EntryFlags, MapFlags, Need, Take};
use crate::platform::Platform;

/// Why nothing was mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RemapError {
    /// A flag that there is not (`KERN_INVALID_ARGUMENT`).
    BadFlags(u32),
    /// Bits that are no rights, a protection that is not part of the maximum, or write
    /// and execute where the map refuses that (`KERN_INVALID_ARGUMENT`; U08 only).
    BadProtection(u32),
    /// There is no such inheritance (`KERN_INVALID_ARGUMENT`).
    BadInheritance(u32),
    /// No bytes (`KERN_INVALID_ARGUMENT`).
    BadSize,
    /// Address and size do not fit together (`KERN_INVALID_ARGUMENT`).
    Wraps(u64),
    /// The source has a hole, or not the rights.
    Source(Denied),
    /// No place in the target.
    Place(PlaceError),
}

/// What was mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Remapped {
    /// Where, at the first byte of the data if the flags ask for that.
    pub address: u64,
    /// The rights that all of it has.
    pub prot: Prot,
    /// The maximum that all of it has.
    pub max: Prot,
}

/// Where from, how, and what for.
struct From_<'a, 'vm, P: Platform> {
    task: &'a Task<'a, 'vm, P>,
    addr: RawAddr,
    copy: bool,
    inherit: RawInherit,
    /// `vm_remap_new`: what the mapping is to get.
    rights: Option<(Prot, Prot)>,
}

impl<'vm, P: Platform> Task<'_, 'vm, P> {
    /// Maps memory of `src` into this task, shared or as a copy (U07). The mapping has
    /// the rights that the source has; what is common to all of it is told.
    ///
    /// => no lock is held. `src` may be this task.
    ///
    /// # Errors
    /// [`RemapError`]; nothing changed, but see [`Task::vm_allocate`].
    #[expect(clippy::too_many_arguments, reason = "these are the arguments of the call")]
    pub fn vm_remap(
        &self,
        addr: RawAddr,
        size: RawSize,
        mask: u64,
        flags: RawFlags,
        src: &Task<'_, 'vm, P>,
        src_addr: RawAddr,
        copy: bool,
        inherit: RawInherit,
        may: &mut MaySleep,
    ) -> Result<Remapped, RemapError> {
        let from = From_ { task: src, addr: src_addr, copy, inherit, rights: None };
        self.remap((addr, size, mask, flags), &from, may)
    }

    /// As [`Task::vm_remap`] with rights that the caller names: those of the mapping,
    /// which the source must have (U08).
    ///
    /// => no lock is held. `src` may be this task.
    ///
    /// # Errors
    /// [`RemapError`]; nothing changed, but see [`Task::vm_allocate`].
    #[expect(clippy::too_many_arguments, reason = "these are the arguments of the call")]
    pub fn vm_remap_new(
        &self,
        addr: RawAddr,
        size: RawSize,
        mask: u64,
        flags: RawFlags,
        src: &Task<'_, 'vm, P>,
        src_addr: RawAddr,
        copy: bool,
        (prot, max): (RawProt, RawProt),
        inherit: RawInherit,
        may: &mut MaySleep,
    ) -> Result<Remapped, RemapError> {
        let parse = |p: RawProt| p.check(0).ok_or(RemapError::BadProtection(p.0));
        let (cur, most) = (parse(prot)?, parse(max)?);
        let both = Prot::W | Prot::X;
        let refused = cur.contains(both) && self.map.flags(may).contains(MapFlags::WXORX);
        if !most.contains(cur) || refused {
            return Err(RemapError::BadProtection(prot.0));
        }
        let from = From_ { task: src, addr: src_addr, copy, inherit, rights: Some((cur, most)) };
        self.remap((addr, size, mask, flags), &from, may)
    }

    fn remap(
        &self,
        (addr, size, mask, flags): (RawAddr, RawSize, u64, RawFlags),
        from: &From_<'_, 'vm, P>,
        may: &mut MaySleep,
    ) -> Result<Remapped, RemapError> {
        let (known, _) = flags.check(self.how.remap_flags, false).ok_or(RemapError::BadFlags(flags.0))?;
        let inherit = from.inherit.check(self.how).ok_or(RemapError::BadInheritance(from.inherit.0))?;
        if size.0 == 0 {
            return Err(RemapError::BadSize);
        }
        let rounding = self.how.rounding.with(known);
        let source = fixed(from.addr, size, rounding).ok_or(RemapError::Wraps(from.addr.0))?;
        // As many pages as the source has.
        let wish = Wish {
            addr,
            size: RawSize(source.bytes()),
            mask,
            flags: known,
            hint: true,
            rounding: super::Rounding::Separate,
        };
        let (place, _) = self.place(&wish).map_err(|e| match e {
            Unclear::Wraps => RemapError::Wraps(addr.0),
            Unclear::Place(e) => RemapError::Place(e),
        })?;
        let take = if from.copy { Take::Copy } else { Take::Share };
        let need = match from.rights {
            Some((prot, max)) => Need { prot, max },
            None => Need { prot: Prot::NONE, max: Prot::NONE },
        };
        let taken = from.task.map.extract(source, take, need, may);
        let mut taken = taken.map_err(|e| RemapError::Source(e.into()))?;
        let as_new = |a: Attributes| {
            let (prot, max) = from.rights.unwrap_or((a.prot, a.max));
            Attributes { prot, max, inherit, flags: a.flags - EntryFlags::PERMANENT, ..a }
        };
        let start = self.map.copyout(place, &mut taken.pieces, as_new, may);
        let start = match start {
            Ok(start) => start,
            Err(e) => {
                from.task.map.unextract(source, taken.pieces, may);
                return Err(RemapError::Place(self.not_placed(place, source.pages(), e, may)));
            }
        };
        self.wire_new(start, source.pages(), may).map_err(RemapError::Place)?;
        let data = known.in_page(from.addr.0);
        let (prot, max) = from.rights.unwrap_or((taken.prot, taken.max));
        Ok(Remapped { address: start.get() + data, prot, max })
    }
}
