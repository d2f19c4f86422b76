//! `vm_pages_phys` (U19).

use machvm_hal::{MaySleep, PAGE_MASK, Pfn, RawAddr, RawSize, VaRange};

use super::Task;
use crate::platform::Platform;

/// Why no frames were named.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PhysError {
    /// Address or size is not page aligned (`KERN_INVALID_ARGUMENT`).
    Unaligned(u64),
    /// Address and size do not fit together (`KERN_INVALID_ARGUMENT`).
    Wraps(u64),
}

impl<P: Platform> Task<'_, '_, P> {
    /// The frame of each page of the range, as far as `out` goes; `None` where no page is
    /// in memory (U19). Gives how many were told. Unless the memory is wired the answer
    /// is old when it arrives.
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// [`PhysError`].
    pub fn vm_pages_phys(
        &self,
        addr: RawAddr,
        size: RawSize,
        out: &mut [Option<Pfn>],
        may: &mut MaySleep,
    ) -> Result<usize, PhysError> {
        if let Some(odd) = [addr.0, size.0].into_iter().find(|n| n & PAGE_MASK != 0) {
            return Err(PhysError::Unaligned(odd));
        }
        if size.0 == 0 {
            return Ok(0);
        }
        let range = VaRange::check(addr, size).map_err(|_| PhysError::Wraps(addr.0))?;
        let mut n = 0;
        for (va, to) in range.iter().zip(out) {
            *to = self.map.frame_at(va, may);
            n += 1;
        }
        Ok(n)
    }
}
