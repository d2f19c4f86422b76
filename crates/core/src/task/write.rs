//! `vm_write` (U15).

use machvm_hal::{MaySleep, PAGE_MASK, Prot, RawAddr, RawSize};

use super::Task;
use super::personality::Alignment;
use super::transfer::{self, Denied, End, Refused, pages_of};
use crate::platform::Platform;

/// Why nothing was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriteError {
    /// Address and size do not fit together (`KERN_INVALID_ADDRESS`).
    Wraps(u64),
    /// Not page aligned, where that is asked for (`KERN_INVALID_ARGUMENT`).
    Unaligned(u64),
    /// The caller's data cannot be read (a message could not carry it:
    /// `MACH_SEND_INVALID_MEMORY`).
    Data(Denied),
    /// The memory cannot be written.
    Destination(Denied),
}

impl<'vm, P: Platform> Task<'_, 'vm, P> {
    /// Overwrites memory of this task with `count` bytes of the caller's (U15). What is
    /// overwritten keeps its protection, its inheritance, and its object where others
    /// see it.
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// [`WriteError`]; nothing was written, unless rights were taken away meanwhile.
    pub fn vm_write(
        &self,
        addr: RawAddr,
        caller: &Task<'_, 'vm, P>,
        data: RawAddr,
        count: RawSize,
        may: &mut MaySleep,
    ) -> Result<(), WriteError> {
        if count.0 == 0 {
            return Ok(());
        }
        self.check_alignment(&[addr.0, data.0, count.0])?;
        for a in [data, addr] {
            pages_of(a.0, count.0).ok_or(WriteError::Wraps(a.0))?;
        }
        let (from, to) = (End { map: caller.map, addr: data.0 }, End { map: self.map, addr: addr.0 });
        let hide = self.hides_rights(count.0);
        transfer::transfer(from, to, count.0, self.how.buffered_below, may).map_err(|e| match e {
            Refused::Source(d) => WriteError::Data(d),
            Refused::Destination(d) => WriteError::Destination(d.hidden(hide)),
        })
    }

    /// As [`Task::vm_write`], from bytes that are in no map of ours.
    ///
    /// => no lock is held, and `data` is not managed memory.
    ///
    /// # Errors
    /// As [`Task::vm_write`].
    pub fn vm_write_bytes(&self, addr: RawAddr, data: &[u8], may: &mut MaySleep) -> Result<(), WriteError> {
        let count = data.len() as u64;
        if count == 0 {
            return Ok(());
        }
        self.check_alignment(&[addr.0, count])?;
        pages_of(addr.0, count).ok_or(WriteError::Wraps(addr.0))?;
        let hide = self.hides_rights(count);
        let denied = |d: Denied| WriteError::Destination(d.hidden(hide));
        transfer::check(self.map, addr.0, count, Prot::W, may).map_err(denied)?;
        transfer::write(self.map, addr.0, data, may).map_err(|e| denied(e.into()))
    }

    fn check_alignment(&self, all: &[u64]) -> Result<(), WriteError> {
        let odd = all.iter().find(|n| **n & PAGE_MASK != 0);
        match (self.how.alignment, odd) {
            (Alignment::Strict, Some(odd)) => Err(WriteError::Unaligned(*odd)),
            _ => Ok(()),
        }
    }
}
