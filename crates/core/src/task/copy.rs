//! `vm_copy` (U16).

use machvm_hal::{MaySleep, PAGE_MASK, Prot, RawAddr, RawSize};

use super::Task;
use super::personality::Alignment;
use super::transfer::{Denied, End, Refused, check, transfer};
use crate::platform::Platform;

/// Why nothing was copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VmCopyError {
    /// Address and count do not fit together (`KERN_INVALID_ADDRESS`).
    Wraps(u64),
    /// Not page aligned, where that is asked for (`KERN_INVALID_ARGUMENT`).
    Unaligned(u64),
    /// The source cannot be read.
    Source(Denied),
    /// The destination cannot be written. Checked after the source.
    Destination(Denied),
}

impl<P: Platform> Task<'_, '_, P> {
    /// Copies memory of the task over other memory of it; the ranges may overlap, in
    /// either direction (U16, Z100). No bytes: nothing is looked at (Z04).
    ///
    /// Aligned pages are shared copy-on-write, so their number hardly matters.
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// [`VmCopyError`]; nothing was written, unless rights were taken away meanwhile.
    pub fn vm_copy(
        &self,
        src: RawAddr,
        count: RawSize,
        dst: RawAddr,
        may: &mut MaySleep,
    ) -> Result<(), VmCopyError> {
        if count.0 == 0 {
            return Ok(());
        }
        let fits =
            |a: RawAddr| super::transfer::pages_of(a.0, count.0).map(drop).ok_or(VmCopyError::Wraps(a.0));
        fits(src)?;
        if self.how.alignment == Alignment::Strict {
            check(self.map, src.0, count.0, Prot::R, may).map_err(VmCopyError::Source)?;
            if let Some(odd) = [dst.0, count.0, src.0].into_iter().find(|n| n & PAGE_MASK != 0) {
                return Err(VmCopyError::Unaligned(odd));
            }
        }
        fits(dst)?;
        let hide = self.hides_rights(count.0);
        let (from, to) = (End { map: self.map, addr: src.0 }, End { map: self.map, addr: dst.0 });
        transfer(from, to, count.0, self.how.buffered_below, may).map_err(|e| match e {
            Refused::Source(d) => VmCopyError::Source(d.hidden(hide)),
            Refused::Destination(d) => VmCopyError::Destination(d.hidden(hide)),
        })
    }

    /// Does a transfer of so many bytes say of memory without rights that it is not
    /// mapped?
    pub fn hides_rights(&self, count: u64) -> bool {
        self.how.buffer_hides_rights && count < self.how.buffered_below
    }
}
