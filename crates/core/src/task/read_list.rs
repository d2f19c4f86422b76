//! `vm_read_list` (U18).

use machvm_hal::{MaySleep, RawAddr, RawSize};

use super::{ReadError, Task};
use crate::platform::Platform;

/// `VM_MAP_ENTRY_MAX`.
const MOST: usize = 256;

/// One range; afterwards, where its snapshot is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadEntry {
    /// In: where to read. Out: where it was mapped; 0: it was not.
    pub address: u64,
    /// How many bytes.
    pub size: u64,
}

/// Why not all was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadListError {
    /// More ranges than one call takes (`KERN_INVALID_ARGUMENT`); none was read.
    TooMany(usize),
    /// This range could not be read; those before it were, those behind have address 0.
    Entry(usize, ReadError),
}

impl<'vm, P: Platform> Task<'_, 'vm, P> {
    /// [`Task::vm_read`] of each range in turn, up to the first that fails (U18).
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// [`ReadListError`].
    pub fn vm_read_list(
        &self,
        list: &mut [ReadEntry],
        caller: &Task<'_, 'vm, P>,
        may: &mut MaySleep,
    ) -> Result<(), ReadListError> {
        if list.len() > MOST {
            return Err(ReadListError::TooMany(list.len()));
        }
        let mut result = Ok(());
        for (i, e) in list.iter_mut().enumerate() {
            if result.is_err() {
                e.address = 0;
                continue;
            }
            let read = self.vm_read(RawAddr(e.address), RawSize(e.size), caller, may);
            e.address = *read.as_ref().unwrap_or(&0);
            result = read.map(drop).map_err(|e| ReadListError::Entry(i, e));
        }
        result
    }
}
