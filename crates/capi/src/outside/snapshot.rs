//! A copy of outside memory inside: what `vm_remap` and memory entries of copies start from.

use machvm::task::ReadError;
use machvm_hal::{MaySleep, PAGE_MASK, RawAddr, RawSize};

use crate::calls::here;
use crate::transfer;

/// Fresh memory of this process's task with the contents of a range; freed when dropped.
#[derive(Debug)]
pub(crate) struct Snapshot {
    start: u64,
    size: u64,
}

impl Snapshot {
    /// Copies the pages that a range of this process's task touches. The range may lie
    /// partly in the window.
    ///
    /// => the thread is not inside the VM.
    ///
    /// # Errors
    /// [`ReadError`]; nothing is left.
    pub(crate) fn take(addr: u64, size: u64) -> Result<Snapshot, ReadError> {
        let start = addr & !PAGE_MASK;
        let end = addr.checked_add(size).and_then(|e| e.checked_next_multiple_of(PAGE_MASK + 1));
        let size = end.ok_or(ReadError::Wraps(addr))? - start;
        let at = transfer::read_fresh(&here().0.own().clone(), start, size)?;
        Ok(Snapshot { start: at, size })
    }
    /// Where it begins: a page boundary, as the page of the range's first byte did.
    pub(crate) fn start(&self) -> u64 {
        self.start
    }
    /// Bytes, whole pages.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        let (world, how) = here();
        if let Some(mut inside) = world.inside() {
            free(&world.own().mach(how), self.start, self.size, inside.may());
        }
    }
}

/// Unmaps what was mapped for a call that is over.
pub(crate) fn free(
    task: &machvm::task::Task<'_, 'static, machvm_linux::library::Hosted>,
    start: u64,
    size: u64,
    may: &mut MaySleep,
) {
    // Joined to a neighbour it may have to be cut off; without memory for that it stays.
    let _ = task.vm_deallocate(RawAddr(start), RawSize(size), may);
}
