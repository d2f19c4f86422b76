//! `vm_deallocate` (U04).

use machvm_hal::{MaySleep, Prot, RawAddr, RawSize, Va, VaRange};

use super::Task;
use super::personality::Zero;
use super::raw::{Span, span};
use crate::map::{DeleteError, EntryFlags, EntryInfo, Holes, ProtectError};
use crate::platform::Platform;

/// Why nothing was deallocated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeallocateError {
    /// Nothing was named, where that is an error (POSIX: EINVAL).
    BadSize,
    /// Address and size do not fit together (`KERN_INVALID_ARGUMENT`).
    Wraps(u64),
    /// No memory to cut an entry (`KERN_RESOURCE_SHORTAGE`). What lies below is gone.
    NoMemory(Va),
}

impl<P: Platform> Task<'_, '_, P> {
    /// Unmaps every page that the range touches; holes are fine (U04, Z07). Permanent
    /// entries lose every right and stay.
    ///
    /// => no lock is held. Waits for wirings in progress.
    ///
    /// # Errors
    /// [`DeallocateError`].
    pub fn vm_deallocate(
        &self,
        addr: RawAddr,
        size: RawSize,
        may: &mut MaySleep,
    ) -> Result<(), DeallocateError> {
        if size.0 == 0 && self.how.deallocate_zero == Zero::Refuse {
            return Err(DeallocateError::BadSize);
        }
        let wraps = addr.0.checked_add(size.0).is_none();
        let overflow = if wraps { self.how.overflow } else { self.how.deallocate_to_end };
        let range = match span(addr, size, overflow) {
            Span::Nothing => return Ok(()),
            Span::Wraps => return Err(DeallocateError::Wraps(addr.0)),
            Span::Pages(r) => r,
        };
        let mut rest = Some(range);
        while let Some(r) = rest {
            let special = self.next_special(r, may);
            let plain = special.map_or(Some(r), |s| VaRange::between(r.start(), s.range.start()));
            if let Some(plain) = plain {
                self.map
                    .delete(plain, may)
                    .map_err(|DeleteError::NoMemory(va)| DeallocateError::NoMemory(va))?;
            }
            rest = match special.and_then(|s| Some((s, s.range.intersect(r)?))) {
                None => None,
                Some((s, part)) => {
                    self.let_special_go(&s, part, may)?;
                    VaRange::between(part.end(), r.end())
                }
            };
        }
        Ok(())
    }

    /// The first entry in `range` that needs more than to be unmapped.
    fn next_special(&self, range: VaRange, may: &mut MaySleep) -> Option<EntryInfo> {
        let mut at = range.start();
        loop {
            let e = self.map.entry_from(at, may).filter(|e| e.range.start() < range.end())?;
            if e.flags.intersects(EntryFlags::PERMANENT | EntryFlags::ZERO_WIRED) {
                return Some(e);
            }
            at = e.range.end();
            if at >= range.end() {
                return None;
            }
        }
    }

    /// Takes every right on the permanent memory in `range` (U02, U04).
    ///
    /// # Errors
    /// [`DeallocateError::NoMemory`]: there are rights left from there on.
    pub(super) fn disable_permanent(
        &self,
        range: VaRange,
        may: &mut MaySleep,
    ) -> Result<(), DeallocateError> {
        let mut at = range.start();
        while let Some(e) = self.map.entry_from(at, may).filter(|e| e.range.start() < range.end()) {
            if let Some(part) = e.range.intersect(range)
                && e.flags.contains(EntryFlags::PERMANENT)
            {
                self.let_special_go(&e, part, may)?;
            }
            at = e.range.end();
        }
        Ok(())
    }

    fn let_special_go(
        &self,
        e: &EntryInfo,
        part: VaRange,
        may: &mut MaySleep,
    ) -> Result<(), DeallocateError> {
        if e.flags.contains(EntryFlags::ZERO_WIRED) && e.wired != 0 {
            // Others may see the memory: they find zeroes. What fails here was lost
            // to somebody else first.
            for va in part.iter() {
                let _ = self.map.write_in_page(va.get(), &[0; machvm_hal::PAGE_SIZE as usize], may);
            }
        }
        if e.flags.contains(EntryFlags::PERMANENT) {
            let done = self.map.set_maximum(part, Prot::NONE, Holes::Skip, may);
            return done.map_err(|e| match e {
                ProtectError::NoMemory(va)
                | ProtectError::Machine(va)
                | ProtectError::Hole(va)
                | ProtectError::ExceedsMax(va)
                | ProtectError::OutsideMax(va)
                | ProtectError::Submap(va)
                | ProtectError::WriteExecute(va) => DeallocateError::NoMemory(va),
            });
        }
        self.map.delete(part, may).map_err(|DeleteError::NoMemory(va)| DeallocateError::NoMemory(va))
    }
}
