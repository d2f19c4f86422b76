//! Where a new mapping goes: the part that `vm_allocate`, `vm_map`, `vm_remap` and
//! `vm_read` share.

use machvm_hal::{MaySleep, PAGE_MASK, PAGE_SHIFT, RawAddr, RawSize, Va, VaRange};

use super::Task;
use super::deallocate::DeallocateError;
use super::personality::{Masks, Rounding};
use super::raw::{VmFlags, fixed, pages};
use crate::map::{FindError, Holes, InsertError, MapFlags, Order, Place, Search, WireError};
use crate::page::RUN;
use crate::platform::Platform;

/// Why there is no place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PlaceError {
    /// The fixed range is not inside the map (`KERN_INVALID_ADDRESS`). Tested before
    /// `Occupied` (Z13).
    Outside(Va),
    /// Something is mapped at the fixed address, or permanently where it was to be replaced
    /// (`KERN_NO_SPACE`).
    Occupied(Va),
    /// No hole is large enough, or the mask forbids the fixed address
    /// (`KERN_NO_SPACE`).
    NoSpace,
    /// The mask is not one (`KERN_NO_SPACE`, Z15).
    BadMask(u64),
    /// The map would be larger than its limit (`KERN_NO_SPACE`).
    Limit(Va),
    /// Write and execute together, and the map refuses that
    /// (`KERN_PROTECTION_FAILURE`).
    WriteExecute(Va),
    /// The protection is not part of the maximum (`KERN_INVALID_ARGUMENT`, Z14).
    ExceedsMax(Va),
    /// Large pages, and the address or the size is not a multiple of one
    /// (`KERN_INVALID_ARGUMENT`).
    NotSuperpage(u64),
    /// No memory for entries or objects (`KERN_RESOURCE_SHORTAGE`).
    NoMemory(Va),
    /// The machine has no structure for another region (`KERN_RESOURCE_SHORTAGE`).
    Machine(Va),
    /// Everything new is to be wired, and could not be. Nothing is mapped.
    Wire(WireError),
}

impl From<FindError> for PlaceError {
    fn from(e: FindError) -> Self {
        match e {
            FindError::NoSpace => PlaceError::NoSpace,
            FindError::BadAlignment => PlaceError::BadMask(0),
            // The size was checked before; what is left is that it fits nowhere.
            FindError::BadSize => PlaceError::NoSpace,
            FindError::Insert(e) => e.into(),
        }
    }
}

impl From<InsertError> for PlaceError {
    fn from(e: InsertError) -> Self {
        match e {
            InsertError::Outside(va) => PlaceError::Outside(va),
            InsertError::Occupied(va) => PlaceError::Occupied(va),
            InsertError::ExceedsMax(va) => PlaceError::ExceedsMax(va),
            InsertError::WriteExecute(va) => PlaceError::WriteExecute(va),
            InsertError::Limit(va) => PlaceError::Limit(va),
            InsertError::NoMemory(va) => PlaceError::NoMemory(va),
            InsertError::Machine(va) => PlaceError::Machine(va),
        }
    }
}

/// What a caller wants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    pub(super) addr: RawAddr,
    pub(super) size: RawSize,
    /// Bits that must be zero in the address.
    pub(super) mask: u64,
    pub(super) flags: VmFlags,
    /// The address says where the search begins.
    pub(super) hint: bool,
    pub(super) rounding: Rounding,
}

/// Why a wish is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unclear {
    /// The range wraps, or rounds to nothing.
    Wraps,
    Place(PlaceError),
}

/// The alignment in pages and one past the highest address that a mask allows.
fn parse_mask(mask: u64, masks: Masks) -> Option<(u64, Option<u64>)> {
    let mask = mask | PAGE_MASK;
    let low = mask.trailing_ones();
    let rest = mask >> (low.min(63)) << (low.min(63));
    let align = 1u64.checked_shl(low - PAGE_SHIFT).filter(|_| low < 64)?;
    match (rest, masks) {
        (0, _) => Some((align, None)),
        // One run that reaches the top bit.
        (high, Masks::LowAndHigh) if high.leading_ones() + high.trailing_zeros() == 64 => {
            Some((align, Some(1 << high.trailing_zeros())))
        }
        _ => None,
    }
}

impl<P: Platform> Task<'_, '_, P> {
    /// Makes a place of a wish, and the pages it has.
    pub(super) fn place(&self, w: &Wish) -> Result<(Place, u64), Unclear> {
        let refused = |e| Err(Unclear::Place(e));
        let Some((mut align, limit)) = parse_mask(w.mask, self.how.masks) else {
            return refused(PlaceError::BadMask(w.mask));
        };
        if w.flags.superpages() {
            align = align.max(RUN);
            let bad = |n: u64| n & ((RUN << PAGE_SHIFT) - 1) != 0;
            if bad(w.size.0) {
                return refused(PlaceError::NotSuperpage(w.size.0));
            }
            if !w.flags.contains(VmFlags::ANYWHERE) && bad(w.addr.0) {
                return refused(PlaceError::NotSuperpage(w.addr.0));
            }
        }
        if w.flags.contains(VmFlags::ANYWHERE) {
            let n = pages(w.size).ok_or(Unclear::Wraps)?;
            let hint = if w.hint { Va::containing(w.addr) } else { Va::ZERO };
            let top = limit.map_or(self.map.max(), |l| Va::containing(RawAddr(l)).min(self.map.max()));
            let search = Search { min: hint.max(self.map.min()), max: top, align, order: Order::LowestFirst };
            return Ok((Place::Any(search), n));
        }
        let range = fixed(w.addr, w.size, w.rounding).ok_or(Unclear::Wraps)?;
        if range.start() == Va::ZERO && !self.how.page_zero {
            return refused(PlaceError::Outside(range.start()));
        }
        if range.start().get() & w.mask & !PAGE_MASK != 0 {
            return refused(PlaceError::NoSpace);
        }
        let over = w.flags.contains(VmFlags::OVERWRITE);
        let place = if over { Place::Over(range.start()) } else { Place::At(range.start()) };
        Ok((place, range.pages()))
    }

    /// Why nothing came to `place`. Where that is permanent memory in the way of a mapping
    /// that was to replace it, as on XNU the memory stays and is good for nothing any more
    /// (U02, U04).
    pub(super) fn not_placed(
        &self,
        place: Place,
        pages: u64,
        why: FindError,
        may: &mut MaySleep,
    ) -> PlaceError {
        let why = why.into();
        let (Place::Over(va), PlaceError::Occupied(_)) = (place, why) else { return why };
        let Some(range) = VaRange::of_pages(va, pages) else { return why };
        match self.disable_permanent(range, may) {
            Err(DeallocateError::NoMemory(va)) => PlaceError::NoMemory(va),
            _ => why,
        }
    }

    /// Wires what was just mapped, if everything new is to be wired; if that fails it is
    /// unmapped again.
    pub(super) fn wire_new(&self, start: Va, pages: u64, may: &mut MaySleep) -> Result<(), PlaceError> {
        let Some(range) = VaRange::of_pages(start, pages) else { return Ok(()) };
        if !self.map.flags(may).contains(MapFlags::WIREFUTURE) {
            return Ok(());
        }
        let wired = self.map.wire(range, self.how.wire.who, Holes::Skip, may);
        if wired.is_err() {
            // Nothing that this needs can be missing: the ends are cut already.
            let _ = self.map.delete(range, may);
        }
        wired.map_err(PlaceError::Wire)
    }
}

#[cfg(test)]
mod tests {
    use super::{Masks, parse_mask};

    #[test]
    fn z15_masks_are_low_ones_or_low_and_high_ones() {
        let low = |m| parse_mask(m, Masks::Low);
        assert_eq!(low(0), Some((1, None)));
        assert_eq!(low(0xfff), Some((1, None)));
        assert_eq!(low(0x1f_ffff), Some((512, None)));
        for bad in [0x2000, 0x10_1fff, u64::MAX, 1 << 63] {
            assert_eq!(low(bad), None, "{bad:#x}");
        }
        let both = |m| parse_mask(m, Masks::LowAndHigh);
        assert_eq!(both(0xffff_ffff_0000_ffff), Some((16, Some(1 << 32))));
        assert_eq!(both(1 << 63), Some((1, Some(1 << 63))));
        for bad in [0x7fff_0000_0000_0fff, 0x8000_2000_0000_0fff, u64::MAX] {
            assert_eq!(both(bad), None, "{bad:#x}");
        }
    }
}
