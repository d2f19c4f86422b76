//! `vm_allocate`, `mach_vm_allocate` (U01, U02).

use machvm_hal::{MaySleep, Prot, RawAddr, RawSize};

use super::Task;
use super::personality::{Rounding, Zero};
use super::place::{PlaceError, Unclear, Wish};
use super::raw::{RawFlags, VmFlags};
use crate::map::{Attributes, Backing, EntryFlags};
use crate::platform::Platform;

/// Why nothing was allocated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AllocateError {
    /// A flag that there is not (`KERN_INVALID_ARGUMENT`).
    BadFlags(u32),
    /// Nothing was asked for, where that is an error (POSIX: EINVAL).
    BadSize,
    /// Address and size do not fit together (`KERN_INVALID_ARGUMENT`).
    Wraps(u64),
    /// No place.
    Place(PlaceError),
}

impl<P: Platform> Task<'_, '_, P> {
    /// Maps fresh zeroes that may be read and written; gives where (U01, U02). With
    /// [`VmFlags::ANYWHERE`] `addr` is ignored, without it the range is fixed.
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// [`AllocateError`]; nothing changed, except that permanent memory loses its rights to
    /// whoever wants its place.
    pub fn vm_allocate(
        &self,
        addr: RawAddr,
        size: RawSize,
        flags: RawFlags,
        may: &mut MaySleep,
    ) -> Result<u64, AllocateError> {
        let (flags, tag) =
            flags.check(self.how.allocate_flags, self.how.tags).ok_or(AllocateError::BadFlags(flags.0))?;
        if size.0 == 0 {
            return match self.how.allocate_zero {
                Zero::Nothing => Ok(0),
                Zero::Refuse => Err(AllocateError::BadSize),
            };
        }
        let wish = Wish { addr, size, mask: 0, flags, hint: false, rounding: self.how.rounding };
        let (place, pages) = self.place(&wish).map_err(|e| match e {
            Unclear::Wraps => AllocateError::Wraps(addr.0),
            Unclear::Place(e) => AllocateError::Place(e),
        })?;
        let a = zero_fill(flags, tag, Prot::RW);
        let start = self.enter_zeroes((place, pages), flags, &a, may).map_err(AllocateError::Place)?;
        self.wire_new(start, pages, may).map_err(AllocateError::Place)?;
        Ok(start.get())
    }

    /// Maps zeroes at a place, with an object of their own where they are purgeable.
    pub(super) fn enter_zeroes(
        &self,
        (place, pages): (crate::map::Place, u64),
        flags: VmFlags,
        a: &Attributes,
        may: &mut MaySleep,
    ) -> Result<machvm_hal::Va, PlaceError> {
        let (map, vm) = (self.map, self.map.vm());
        if !flags.contains(VmFlags::PURGABLE) {
            let done = map.find(place, pages, Backing::Anonymous, a, may);
            return done.map_err(|e| self.not_placed(place, pages, e, may));
        }
        let short = |_| PlaceError::NoMemory(map.min());
        let (o, at) = vm.object_allocate(pages).map_err(short)?;
        vm.object_make_purgeable(o);
        let done = map.find(place, pages, Backing::Private(o, at), a, may);
        if done.is_err() {
            vm.object_deallocate(o, may);
        }
        done.map_err(|e| self.not_placed(place, pages, e, may))
    }
}

/// The attributes of new zeroes.
pub(super) fn zero_fill(flags: VmFlags, tag: u64, prot: Prot) -> Attributes {
    let permanent =
        if flags.contains(VmFlags::PERMANENT) { EntryFlags::PERMANENT } else { EntryFlags::empty() };
    Attributes { tag, flags: permanent, ..Attributes::new(prot) }
}

impl Rounding {
    /// As `self`, or every page touched where data addresses are wanted.
    pub(super) fn with(self, flags: VmFlags) -> Rounding {
        if flags.data_address() { Rounding::Covering } else { self }
    }
}
