//! process_vm_readv and process_vm_writev: bytes of another process, through its map.

use alloc::vec;
use alloc::vec::Vec;
use machvm_hal::{MaySleep, PAGE_SIZE};

use crate::arch;
use crate::errno::{EFAULT, EINVAL, EPERM, ESRCH, Result};
use crate::process::{self, Space};
use crate::{sched, user};

/// Most parts of a list.
const IOV_MAX: u64 = 1024;

/// A list of address and length.
fn list(at: u64, n: u64) -> Result<Vec<(u64, u64)>> {
    if n > IOV_MAX {
        return Err(EINVAL);
    }
    let mut total = 0u64;
    let mut all = Vec::new();
    for i in 0..n {
        let (base, len) = (user::read_u64(at + 16 * i)?, user::read_u64(at + 16 * i + 8)?);
        if len > i64::MAX as u64 {
            return Err(EINVAL);
        }
        total = total.checked_add(len).filter(|t| *t <= i64::MAX as u64).ok_or(EINVAL)?;
        all.push((base, len));
    }
    Ok(all)
}

/// A place in a list.
struct Cursor<'a>(&'a [(u64, u64)], u64);

impl Cursor<'_> {
    /// Address of what comes next, and how much there is of it without a gap. `None`: the end.
    fn next(&mut self) -> Option<(u64, u64)> {
        while let Some((base, len)) = self.0.first() {
            if self.1 < *len {
                return Some((base.wrapping_add(self.1), len - self.1));
            }
            (self.0, self.1) = (&self.0[1..], 0);
        }
        None
    }
}

pub(super) fn process_vm(a: [u64; 6], write: bool) -> Result {
    let [pid, local, n_local, remote, n_remote, flags] = a;
    if flags != 0 {
        return Err(EINVAL);
    }
    let (local, remote) = (list(local, n_local)?, list(remote, n_remote)?);
    let p = process::find(u32::try_from(pid as i32).map_err(|_| ESRCH)?)?;
    // One lock at a time: it may be the same one.
    let me = sched::process().identity.lock().user;
    let his = p.identity.lock().user;
    if me[1] != 0 && his[..3].iter().any(|u| *u != me[0]) {
        return Err(EPERM);
    }
    let space = p.hold_space().ok_or(ESRCH)?;
    let done = copy(&space, Cursor(&local, 0), Cursor(&remote, 0), write);
    process::release(space);
    done
}

/// Copies page by page; an error counts only where nothing was done before.
fn copy(space: &Space, mut local: Cursor<'_>, mut remote: Cursor<'_>, write: bool) -> Result {
    let mut buf = vec![0; PAGE_SIZE as usize];
    let mut done = 0;
    while let (Some((mine, l)), Some((his, r))) = (local.next(), remote.next()) {
        let n = l.min(r).min(PAGE_SIZE - his % PAGE_SIZE);
        if let Err(e) = piece(space, mine, his, &mut buf[..n as usize], write) {
            return if done == 0 { Err(e) } else { Ok(done) };
        }
        local.1 += n;
        remote.1 += n;
        done += n as i64;
    }
    Ok(done)
}

/// => `buf` is as long as the piece, which lies in one page of the other process.
fn piece(space: &Space, mine: u64, his: u64, buf: &mut [u8], write: bool) -> Result<()> {
    let mut may = MaySleep::claim();
    if his >= arch::USER_END {
        return Err(EFAULT);
    }
    if write {
        user::read(mine, buf)?;
        space.map().write_in_page(his, buf, &mut may).map_err(|_| EFAULT)
    } else {
        space.map().read_in_page(his, buf, &mut may).map_err(|_| EFAULT)?;
        user::write(mine, buf)
    }
}
