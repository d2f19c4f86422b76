//! msync(2) and mincore(2).

use machvm::map::SyncError;
use machvm_hal::{MaySleep, PAGE_SIZE, VaRange};

use super::{each, each_solid, map, range};
use crate::errno::{EBUSY, EFAULT, EINVAL, EIO, ENOMEM, Result};
use crate::user;

const MS_ASYNC: u64 = 1;
const MS_INVALIDATE: u64 = 2;
const MS_SYNC: u64 = 4;

pub(in crate::syscall) fn msync(at: u64, len: u64, flags: u64) -> Result {
    let both = MS_ASYNC | MS_SYNC;
    if flags & !(both | MS_INVALIDATE) != 0 || flags & both == both {
        return Err(EINVAL);
    }
    let Some(r) = range(at, len, ENOMEM)? else { return Ok(0) };
    // Files live in memory: their pages are where they belong already.
    let sync = |p: &super::Part| {
        if flags & MS_INVALIDATE != 0 && p.is_locked() {
            return Err(EBUSY);
        }
        match map().sync(p.range, false, &mut MaySleep::claim()) {
            Err(SyncError::Pager(..)) => Err(EIO),
            _ => Ok(()),
        }
    };
    if each(r, sync)? { Err(ENOMEM) } else { Ok(0) }
}

pub(in crate::syscall) fn mincore(at: u64, len: u64, vector: u64) -> Result {
    let Some(r) = range(at, len, ENOMEM)? else { return Ok(0) };
    if vector.checked_add(r.pages()).is_none_or(|e| e > crate::arch::USER_END) {
        return Err(EFAULT);
    }
    let mut to = vector;
    each_solid(r, |p| {
        let mut at = p.range.start();
        while let Some(rest) = VaRange::between(at, p.range.end()) {
            let n = rest.pages().min(PAGE_SIZE) as usize;
            let some = VaRange::of_pages(at, n as u64).ok_or(EINVAL)?;
            let mut answer = alloc::vec![0; n];
            for (byte, va) in answer.iter_mut().zip(some.iter()) {
                *byte = u8::from(map().is_resident(va, &mut MaySleep::claim()));
            }
            user::write(to, &answer)?;
            to += n as u64;
            at = some.end();
        }
        Ok(())
    })?;
    Ok(0)
}
