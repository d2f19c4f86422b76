//! `vm_inherit` (U21).

use machvm_hal::{MaySleep, RawAddr, RawSize, Va};

use super::Task;
use super::raw::{RawInherit, Span, span};
use crate::map::InheritError;
use crate::platform::Platform;

/// Why the inheritance did not change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VmInheritError {
    /// There is no such inheritance (`KERN_INVALID_ARGUMENT`).
    BadInheritance(u32),
    /// Address and size do not fit together (`KERN_INVALID_ARGUMENT`).
    Wraps(u64),
    /// A submap is shared or left out (`KERN_INVALID_ARGUMENT`).
    Submap(Va),
    /// No memory for entries (`KERN_RESOURCE_SHORTAGE`).
    NoMemory(Va),
}

impl<P: Platform> Task<'_, '_, P> {
    /// Says what later children get of a range (U21). Holes are passed over.
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// [`VmInheritError`]; nothing changed.
    pub fn vm_inherit(
        &self,
        addr: RawAddr,
        size: RawSize,
        inherit: RawInherit,
        may: &mut MaySleep,
    ) -> Result<(), VmInheritError> {
        let to = inherit.check(self.how).ok_or(VmInheritError::BadInheritance(inherit.0))?;
        match span(addr, size, self.how.overflow) {
            Span::Nothing => Ok(()),
            Span::Wraps => Err(VmInheritError::Wraps(addr.0)),
            Span::Pages(r) => self.map.inherit(r, to, may).map_err(|e| match e {
                InheritError::Submap(va) => VmInheritError::Submap(va),
                InheritError::NoMemory(va) => VmInheritError::NoMemory(va),
            }),
        }
    }
}
