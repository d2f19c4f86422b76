//! fcntl's record locks.

use crate::errno::{EBADF, EINVAL, EOVERFLOW, Result};
use crate::fs::File;
use crate::fs::record::{Record, owner_of};
use crate::{sched, user};

const SHARED: u16 = 0;
const ALONE: u16 = 1;
const UNLOCKED: u16 = 2;

/// A `struct flock`.
struct Asked {
    kind: u16,
    record: Record,
}

/// Where a range begins that is told from 0, the position, or the end; and the byte behind it.
fn range(f: &File, whence: u16, start: i64, len: i64) -> Result<(u64, u64)> {
    let base = match whence {
        0 => 0,
        1 => *f.position(),
        2 => f.inode.size(),
        _ => return Err(EINVAL),
    };
    let start = i64::try_from(base).ok().and_then(|b| b.checked_add(start)).ok_or(EOVERFLOW)?;
    let (start, end) = match len {
        0 => (start, i64::MAX),
        1.. => (start, start.checked_add(len).ok_or(EOVERFLOW)?),
        _ => (start.checked_add(len).ok_or(EINVAL)?, start),
    };
    if start < 0 || end < 0 {
        return Err(EINVAL);
    }
    Ok((start as u64, if len == 0 { u64::MAX } else { end as u64 }))
}

fn asked(f: &File, at: u64, of_file: bool) -> Result<Asked> {
    let mut b = [0; 32];
    user::read(at, &mut b)?;
    let half = |i: usize| u16::from_le_bytes([b[i], b[i + 1]]);
    let word = |i: usize| i64::from_le_bytes(core::array::from_fn(|k| b[i + k]));
    let kind = half(0);
    if kind > UNLOCKED || of_file && word(24) as i32 != 0 {
        return Err(EINVAL);
    }
    let (start, end) = range(f, half(2), word(8), word(16))?;
    let me = sched::process();
    let (owner, pid) = if of_file { (owner_of(f), -1) } else { (me.files.lock().number, me.pid as i32) };
    Ok(Asked { kind, record: Record { owner, pid, start, end, alone: kind == ALONE } })
}

/// F_GETLK, F_OFD_GETLK: says what is in the way.
pub(super) fn ask(f: &File, at: u64, of_file: bool) -> Result {
    let a = asked(f, at, of_file)?;
    if a.kind == UNLOCKED {
        return Err(EINVAL);
    }
    let Some(r) = f.inode.record_in_the_way(&a.record) else {
        user::write(at, &UNLOCKED.to_le_bytes())?;
        return Ok(0);
    };
    let mut b = [0; 28];
    b[0..2].copy_from_slice(&if r.alone { ALONE } else { SHARED }.to_le_bytes());
    b[8..16].copy_from_slice(&r.start.to_le_bytes());
    let len = if r.end == u64::MAX { 0 } else { r.end - r.start };
    b[16..24].copy_from_slice(&len.to_le_bytes());
    b[24..28].copy_from_slice(&r.pid.to_le_bytes());
    user::write(at, &b)?;
    Ok(0)
}

/// F_SETLK, F_SETLKW and those of open files.
pub(super) fn change(f: &File, at: u64, of_file: bool, wait: bool) -> Result {
    let Asked { kind, record } = asked(f, at, of_file)?;
    match kind {
        UNLOCKED => f.inode.unlock_record(record.owner, record.start, record.end),
        SHARED if !f.is_readable() => return Err(EBADF),
        ALONE if !f.is_writable() => return Err(EBADF),
        _ => f.inode.lock_record(&record, wait)?,
    }
    Ok(0)
}
