//! Transfers whose other side is in no map: what an embedder needs to move their bytes
//! itself, in parts.
//!
//! The calls look at a whole range before they move anything (Z102) and then move it; who
//! moves parts does the same with these.

use machvm_hal::{MaySleep, Prot, RawAddr, RawSize};

use super::Task;
use super::transfer::{self, Denied};
use crate::platform::Platform;

impl<P: Platform> Task<'_, '_, P> {
    /// Is all of the range mapped with these rights? Says nothing of the next moment. A
    /// range that wraps is a hole.
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// [`Denied`]: the first address where it is not.
    pub fn check_part(
        &self,
        addr: RawAddr,
        size: RawSize,
        need: Prot,
        may: &mut MaySleep,
    ) -> Result<(), Denied> {
        if size.0 == 0 {
            return Ok(());
        }
        transfer::check(self.map(), addr.0, size.0, need, may)
    }

    /// Reads a part. Nothing is hidden, however small it is.
    ///
    /// => no lock is held, and `buf` is not managed memory.
    ///
    /// # Errors
    /// [`Denied`]; `buf` may be filled in part.
    pub fn read_part(&self, addr: RawAddr, buf: &mut [u8], may: &mut MaySleep) -> Result<(), Denied> {
        Ok(transfer::read(self.map(), addr.0, buf, may)?)
    }

    /// Writes a part; otherwise as [`Task::read_part`].
    ///
    /// => no lock is held, and `data` is not managed memory.
    ///
    /// # Errors
    /// [`Denied`]; what lies below the page in it is written.
    pub fn write_part(&self, addr: RawAddr, data: &[u8], may: &mut MaySleep) -> Result<(), Denied> {
        Ok(transfer::write(self.map(), addr.0, data, may)?)
    }
}
