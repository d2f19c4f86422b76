//! Descriptors: their numbers, their flags, what makes new ones.

use alloc::sync::Arc;

use super::file;
use crate::errno::{EAGAIN, EBADF, EINVAL, ENOTTY, EPERM, Result};
use crate::fs::event::Counter;
use crate::fs::file::{File, O_CLOEXEC, O_NONBLOCK, O_RDWR};
use crate::fs::inode::Kind;
use crate::{fs, sched, user};

/// A number for a file.
pub(super) fn add(file: Arc<File>, close_on_exec: bool) -> Result {
    sched::process().files.lock().add(file, close_on_exec, 0).map(i64::from)
}

/// Numbers for two files, written as a pair.
pub(super) fn add_pair(a: Arc<File>, b: Arc<File>, close_on_exec: bool, at: u64) -> Result {
    let pair = {
        let mut files = sched::process().files.lock();
        let first = files.add(a, close_on_exec, 0)?;
        match files.add(b, close_on_exec, 0) {
            Ok(second) => Ok((first, second)),
            Err(e) => Err((files.close(first), e)),
        }
    };
    let (first, second) = pair.map_err(|(_, e)| e)?;
    let mut both = [0; 8];
    both[..4].copy_from_slice(&first.to_le_bytes());
    both[4..].copy_from_slice(&second.to_le_bytes());
    if let Err(e) = user::write(at, &both) {
        for fd in [first, second] {
            let gone = sched::process().files.lock().close(fd);
            drop(gone);
        }
        return Err(e);
    }
    Ok(0)
}

pub(crate) fn close(fd: i32) -> Result {
    let gone = sched::process().files.lock().close(fd)?;
    drop(gone);
    Ok(0)
}

pub(crate) fn close_range(first: u64, last: u64, flags: u64) -> Result {
    const CLOEXEC: u64 = 4;
    const UNSHARE: u64 = 2;
    let (first, last) = (first as u32, last as u32);
    super::only(flags, CLOEXEC | UNSHARE)?;
    if first > last {
        return Err(EINVAL);
    }
    let mut next = first as usize;
    loop {
        let gone = {
            let mut files = sched::process().files.lock();
            let Some(fd) = files.next(next).filter(|fd| *fd <= last as usize) else { return Ok(0) };
            next = fd + 1;
            if flags & CLOEXEC != 0 {
                files.set_close_on_exec(fd as i32, true)?;
                None
            } else {
                files.close(fd as i32).ok()
            }
        };
        drop(gone);
    }
}

pub(crate) fn dup(fd: i32) -> Result {
    let mut files = sched::process().files.lock();
    let file = files.get(fd)?;
    files.add(file, false, 0).map(i64::from)
}

pub(crate) fn dup2(fd: i32, to: i32) -> Result {
    if fd == to {
        file(fd)?;
        return Ok(to.into());
    }
    dup3(fd, to, 0)
}

pub(crate) fn dup3(fd: i32, to: i32, flags: u64) -> Result {
    super::only(flags, O_CLOEXEC.into())?;
    if fd == to {
        return Err(EINVAL);
    }
    let old = {
        let mut files = sched::process().files.lock();
        let file = files.get(fd)?;
        files.place(to, file, flags != 0)?
    };
    drop(old);
    Ok(to.into())
}

pub(crate) fn fcntl(fd: i32, command: u64, argument: u64) -> Result {
    let f = file(fd)?;
    let files = || sched::process().files.lock();
    if f.is_path() && !matches!(command, 0..=3 | 1030) {
        return Err(EBADF);
    }
    match command {
        // F_DUPFD, F_DUPFD_CLOEXEC
        0 | 1030 => {
            let from = usize::try_from(argument as i32).map_err(|_| EINVAL)?;
            let mut files = files();
            if from >= files.limit {
                return Err(EINVAL);
            }
            files.add(f, command != 0, from).map(i64::from)
        }
        // F_GETFD, F_SETFD
        1 => files().closes_on_exec(fd).map(i64::from),
        2 => files().set_close_on_exec(fd, argument & 1 != 0).map(|()| 0),
        // F_GETFL, F_SETFL
        3 => Ok(f.flags().into()),
        4 => {
            f.set_flags(argument as u32);
            Ok(0)
        }
        // F_GETLK, F_SETLK, F_SETLKW and those of open file descriptions
        5 | 36 => super::record::ask(&f, argument, command == 36),
        6 | 7 => super::record::change(&f, argument, false, command == 7),
        37 | 38 => super::record::change(&f, argument, true, command == 38),
        // F_SETOWN, F_GETOWN, F_SETSIG, F_GETSIG: nobody is told.
        8 | 10 => Ok(0),
        9 | 11 => Ok(0),
        // F_SETPIPE_SZ, F_GETPIPE_SZ
        1031 | 1032 => {
            let new = (command == 1031).then_some(argument as u32 as usize);
            f.special().ok_or(EBADF)?.capacity(new).map(|n| n as i64)
        }
        // F_ADD_SEALS, F_GET_SEALS
        1033 => {
            use core::sync::atomic::Ordering;
            let seals = f.contents().map(|_| &f.inode.seals).ok_or(EINVAL)?;
            if !f.is_writable() {
                return Err(EPERM);
            }
            super::only(argument, 0x3f)?;
            if seals.load(Ordering::Acquire) & 1 != 0 {
                return Err(EPERM);
            }
            let mut new = argument as u32;
            // F_SEAL_EXEC of a program: it does not change either.
            if new & SEAL_EXEC != 0 && f.inode.attr().rights & 0o111 != 0 {
                new |= 0x1e;
            }
            // F_SEAL_WRITE: not while somebody could write through a mapping.
            let now = seals.load(Ordering::Acquire);
            if new & !now & 8 != 0 && crate::mapped::is_written(&f.inode) {
                return Err(crate::errno::EBUSY);
            }
            seals.fetch_or(new, Ordering::AcqRel);
            Ok(0)
        }
        1034 => {
            f.contents().ok_or(EINVAL)?;
            Ok(f.inode.seals.load(core::sync::atomic::Ordering::Acquire).into())
        }
        _ => Err(EINVAL),
    }
}

pub(crate) fn flock(fd: i32, how: u64) -> Result {
    const NONBLOCK: u64 = 4;
    let f = file(fd)?;
    if f.is_path() {
        return Err(EBADF);
    }
    let what = match how & !NONBLOCK {
        1 => 1,
        2 => -1,
        8 => 0,
        _ => return Err(EINVAL),
    };
    f.lock(what, how & NONBLOCK != 0)
        .map(|()| 0)
        .map_err(|e| if e == crate::errno::ENOLCK { EAGAIN } else { e })
}

pub(crate) fn ioctl(fd: i32, code: u64, argument: u64) -> Result {
    let f = file(fd)?;
    if f.is_path() {
        return Err(EBADF);
    }
    let code = code as u32;
    match code {
        // FIOCLEX, FIONCLEX
        0x5451 | 0x5450 => {
            sched::process().files.lock().set_close_on_exec(fd, code == 0x5451)?;
            Ok(0)
        }
        // FIONBIO
        0x5421 => {
            let on = user::read_u32(argument)? != 0;
            let flags = f.flags();
            f.set_flags(if on { flags | O_NONBLOCK } else { flags & !O_NONBLOCK });
            Ok(0)
        }
        // FIONREAD
        0x541b => {
            let n = match f.special() {
                Some(s) => s.available().ok_or(ENOTTY)? as u64,
                None if f.contents().is_some() => f.inode.size().saturating_sub(*f.position()),
                None => return Err(ENOTTY),
            };
            user::write(argument, &u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes())?;
            Ok(0)
        }
        _ => f.special().ok_or(ENOTTY)?.ioctl(code, argument),
    }
}

pub(crate) fn pipe2(at: u64, flags: u64) -> Result {
    super::only(flags, (O_CLOEXEC | O_NONBLOCK | 0o40_000).into())?;
    let (r, w) = fs::pipe(flags as u32 & O_NONBLOCK);
    add_pair(r, w, flags as u32 & O_CLOEXEC != 0, at)
}

pub(crate) fn eventfd2(value: u64, flags: u64) -> Result {
    super::only(flags, (O_CLOEXEC | O_NONBLOCK | 1).into())?;
    let counter = Counter::new(value & 0xffff_ffff, flags & 1 != 0);
    let file = File::of_special(Kind::Anonymous, Arc::new(counter), O_RDWR | flags as u32 & O_NONBLOCK);
    add(file, flags as u32 & O_CLOEXEC != 0)
}

/// F_SEAL_EXEC.
const SEAL_EXEC: u32 = 0x20;

pub(crate) fn memfd_create(name: u64, flags: u64) -> Result {
    const CLOEXEC: u64 = 1;
    const ALLOW_SEALING: u64 = 2;
    const NOEXEC_SEAL: u64 = 8;
    const EXEC: u64 = 16;
    super::only(flags, CLOEXEC | ALLOW_SEALING | NOEXEC_SEAL | EXEC)?;
    let name =
        user::string(name, 250).map_err(|e| if e == crate::errno::ENAMETOOLONG { EINVAL } else { e })?;
    if name.len() > 249 {
        return Err(EINVAL);
    }
    if flags & NOEXEC_SEAL != 0 && flags & EXEC != 0 {
        return Err(EINVAL);
    }
    let seals = match flags & (ALLOW_SEALING | NOEXEC_SEAL) {
        0 => 1,
        ALLOW_SEALING => 0,
        _ => SEAL_EXEC,
    };
    let rights = if flags & NOEXEC_SEAL != 0 { 0o666 } else { 0o777 };
    add(fs::memory_file(&name, rights, seals)?, flags & CLOEXEC != 0)
}
