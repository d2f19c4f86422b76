//! msync and mincore.

use machvm::map::SyncError;
use machvm_hal::{PAGE_MASK, PAGE_SIZE, VaRange};

use super::args::{self, MS_ASYNC, MS_INVALIDATE, TASK_SIZE};
use super::errno::{EBUSY, EFAULT, EINVAL, ENOMEM};
use super::marks::Mark;
use super::{Calls, linux};
use crate::run::files::copy_out;
use crate::run::space::Errno;

/// Bytes of mincore's answer that are written at once, as in Linux: what comes
/// before an error has been written.
const CHUNK: u64 = PAGE_SIZE;

impl Calls<'_> {
    pub(super) fn sys_msync(&mut self, addr: u64, len: u64, flags: u64) -> Result<(), Errno> {
        let Some(range) = args::msync(addr, len, flags)? else { return Ok(()) };
        let invalidate = flags & MS_INVALIDATE != 0;
        let sync = |c: &mut Self, part: &super::Part| {
            if invalidate && part.mark.has(Mark::LOCKED) {
                return Err(EBUSY);
            }
            if part.is_foreign() {
                return linux::sync(part.range, flags);
            }
            match c.map().sync(part.range, false, &mut c.may) {
                Ok(()) | Err(SyncError::Hole(_) | SyncError::Wired(_)) => Ok(()),
                Err(SyncError::Pager(..)) => Err(Errno(libc::EIO)),
            }
        };
        if flags == MS_ASYNC {
            // The one form that stops at a hole.
            return self.each_solid(range, sync);
        }
        if self.each(range, sync)? { Err(ENOMEM) } else { Ok(()) }
    }

    pub(super) fn sys_mincore(&mut self, addr: u64, len: u64, vec: u64) -> Result<(), Errno> {
        if addr & PAGE_MASK != 0 {
            return Err(EINVAL);
        }
        if addr.checked_add(len).is_none_or(|end| end > TASK_SIZE) {
            return Err(ENOMEM);
        }
        let pages = len.div_ceil(PAGE_SIZE);
        if vec.checked_add(pages).is_none_or(|end| end > TASK_SIZE) {
            return Err(EFAULT);
        }
        let Some(range) = args::range(addr, pages * PAGE_SIZE) else { return Ok(()) };
        let mut to = vec;
        self.each_solid(range, |c, part| {
            let mut at = part.range.start();
            while let Some(rest) = VaRange::between(at, part.range.end()) {
                let some = VaRange::of_pages(at, rest.pages().min(CHUNK)).ok_or(EINVAL)?;
                let answer = c.resident(part, some)?;
                copy_out(to, &answer)?;
                to += some.pages();
                at = some.end();
            }
            Ok(())
        })
    }

    /// A byte for each page of `range`, which is within `part`.
    fn resident(&mut self, part: &super::Part, range: VaRange) -> Result<Vec<u8>, Errno> {
        let mut answer = vec![0; range.pages() as usize];
        if part.is_foreign() {
            linux::resident(range, &mut answer)?;
        } else {
            for (byte, va) in answer.iter_mut().zip(range.iter()) {
                *byte = u8::from(self.map().is_resident(va, &mut self.may));
            }
        }
        Ok(answer)
    }
}
