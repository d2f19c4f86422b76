//! Bytes that are there from the start: in memory, where the loader put them, or on a disk.

use alloc::vec::Vec;

use crate::dev::Disk;
use crate::errno::{EINVAL, Result};

/// Some of them.
#[derive(Clone, Copy)]
pub(super) enum Initial {
    Memory(&'static [u8]),
    Disk { disk: &'static Disk, at: u64, len: u64 },
}

impl Initial {
    pub(super) const NONE: Initial = Initial::Memory(&[]);

    /// All of a disk.
    pub(super) fn of_disk(disk: &'static Disk) -> Initial {
        Initial::Disk { disk, at: 0, len: disk.size() }
    }
    pub(super) fn len(self) -> u64 {
        match self {
            Initial::Memory(b) => b.len() as u64,
            Initial::Disk { len, .. } => len,
        }
    }
    /// `n` bytes from byte `from` on. `None`: there are fewer.
    pub(super) fn part(self, from: u64, n: u64) -> Option<Initial> {
        let end = from.checked_add(n).filter(|end| *end <= self.len())?;
        Some(match self {
            Initial::Memory(b) => Initial::Memory(&b[from as usize..end as usize]),
            Initial::Disk { disk, at, .. } => Initial::Disk { disk, at: at + from, len: n },
        })
    }
    /// Gives them to `piece`, in order, with where each piece begins.
    ///
    /// # Errors
    /// EIO: the disk cannot be read.
    pub(super) fn read(self, mut piece: impl FnMut(u64, &[u8])) -> Result<()> {
        match self {
            Initial::Memory(b) => {
                piece(0, b);
                Ok(())
            }
            Initial::Disk { disk, at, len } => disk.read(at, len as usize, |i, b| piece(i as u64, b)),
        }
    }
    /// A copy of a few.
    ///
    /// # Errors
    /// EINVAL: there are fewer; EIO: the disk cannot be read.
    pub(super) fn copy(self, from: u64, n: u64) -> Result<Vec<u8>> {
        let part = self.part(from, n).ok_or(EINVAL)?;
        let mut all = Vec::with_capacity(n as usize);
        part.read(|_, b| all.extend_from_slice(b))?;
        Ok(all)
    }
}
