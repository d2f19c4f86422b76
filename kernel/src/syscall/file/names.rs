//! Names: open, make, take away, give another.

use alloc::vec::Vec;

use super::{
    AT_EACCESS, AT_EMPTY_PATH, AT_FDCWD, AT_REMOVEDIR, AT_SYMLINK_FOLLOW, AT_SYMLINK_NOFOLLOW, file,
    inode_at, only, path, place,
};
use crate::errno::{EBUSY, EEXIST, EINVAL, EISDIR, ENOENT, ENOTDIR, ENOTEMPTY, EPERM, EXDEV, Result};
use crate::fs::dir::Rename;
use crate::fs::file::{O_CLOEXEC, O_CREAT, O_TMPFILE, O_TRUNC, O_WRONLY};
use crate::fs::inode::{S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFMT, S_IFREG, S_IFSOCK};
use crate::fs::names::What;
use crate::fs::path::Last;
use crate::fs::{self, End};
use crate::{sched, user};

/// The bits of a mode that the umask leaves.
fn masked(mode: u64) -> u32 {
    mode as u32 & 0o7777 & !sched::process().files.lock().umask
}

pub(crate) fn openat(dir: i32, at: u64, flags: u64, mode: u64) -> Result {
    let path = path(at)?;
    let place = place(dir, &path)?;
    let flags = flags as u32;
    let rights = if flags & (O_CREAT | O_TMPFILE) != 0 { masked(mode) } else { 0 };
    let file = fs::open(&place, &path, flags, rights)?;
    sched::process().files.lock().add(file, flags & O_CLOEXEC != 0, 0).map(i64::from)
}

pub(crate) fn open(at: u64, flags: u64, mode: u64) -> Result {
    openat(AT_FDCWD, at, flags, mode)
}

pub(crate) fn creat(at: u64, mode: u64) -> Result {
    openat(AT_FDCWD, at, (O_CREAT | O_WRONLY | O_TRUNC).into(), mode)
}

/// openat2(2), without its ways to stay below a directory.
pub(crate) fn openat2(dir: i32, at: u64, how: u64, size: u64) -> Result {
    if size < 24 {
        return Err(EINVAL);
    }
    let (flags, mode, resolve) = (user::read_u64(how)?, user::read_u64(how + 8)?, user::read_u64(how + 16)?);
    if resolve != 0 || mode & !0o7777 != 0 {
        return Err(EINVAL);
    }
    openat(dir, at, flags, mode)
}

pub(crate) fn mkdirat(dir: i32, at: u64, mode: u64) -> Result {
    let path = path(at)?;
    let rights = masked(mode) & 0o1777;
    fs::make(&place(dir, &path)?, &path, &What::Directory, rights).map(|()| 0)
}

pub(crate) fn mknodat(dir: i32, at: u64, mode: u64, device: u64) -> Result {
    let path = path(at)?;
    let (major, minor) = (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xfff00);
    let kind = mode as u32 & S_IFMT;
    let what = match kind {
        0 | S_IFREG => What::Regular,
        S_IFIFO => What::Fifo,
        S_IFSOCK => What::Socket,
        S_IFCHR | S_IFBLK => What::Device(kind, major as u32, minor as u32),
        S_IFDIR => return Err(EPERM),
        _ => return Err(EINVAL),
    };
    fs::make(&place(dir, &path)?, &path, &what, masked(mode)).map(|()| 0)
}

pub(crate) fn symlinkat(target: u64, dir: i32, at: u64) -> Result {
    let (target, path) = (path(target)?, path(at)?);
    if target.is_empty() {
        return Err(ENOENT);
    }
    fs::make(&place(dir, &path)?, &path, &What::Link(&target), 0o777).map(|()| 0)
}

pub(crate) fn unlinkat(dir: i32, at: u64, flags: u64) -> Result {
    only(flags, AT_REMOVEDIR)?;
    let path = path(at)?;
    let found = place(dir, &path)?.walk(&path, End::Name)?;
    if flags & AT_REMOVEDIR != 0 {
        let Last::Name(name) = &found.last else {
            return Err(match found.last {
                Last::Dot => EINVAL,
                Last::DotDot => ENOTEMPTY,
                _ => EBUSY,
            });
        };
        found.dir.rmdir(name)?;
        return Ok(0);
    }
    let Last::Name(name) = &found.last else { return Err(EISDIR) };
    found.dir.unlink(name, found.slash)?;
    Ok(0)
}

pub(crate) fn renameat2(dir: i32, at: u64, new_dir: i32, new_at: u64, flags: u64) -> Result {
    let how = match flags {
        0 => Rename::Replace,
        1 => Rename::NoReplace,
        2 => Rename::Exchange,
        _ => return Err(EINVAL),
    };
    let (old, new) = (path(at)?, path(new_at)?);
    let from = place(dir, &old)?.walk(&old, End::Name)?;
    let to = place(new_dir, &new)?.walk(&new, End::Name)?;
    if from.dir.fs.device != to.dir.fs.device {
        return Err(EXDEV);
    }
    let Last::Name(name) = &from.last else { return Err(EBUSY) };
    let Last::Name(new_name) = &to.last else {
        return Err(if how == Rename::NoReplace { EEXIST } else { EBUSY });
    };
    from.dir.rename((name, from.slash), &to.dir, (new_name, to.slash), how)?;
    Ok(0)
}

pub(crate) fn linkat(dir: i32, at: u64, new_dir: i32, new_at: u64, flags: u64) -> Result {
    only(flags, AT_SYMLINK_FOLLOW | AT_EMPTY_PATH)?;
    let follow = if flags & AT_SYMLINK_FOLLOW != 0 { 0 } else { AT_SYMLINK_NOFOLLOW };
    let inode = inode_at(dir, at, follow | flags & AT_EMPTY_PATH)?;
    let new = path(new_at)?;
    let to = place(new_dir, &new)?.walk(&new, End::Name)?;
    if to.inode.is_some() {
        return Err(EEXIST);
    }
    let Last::Name(name) = &to.last else { return Err(EEXIST) };
    if to.slash {
        return Err(ENOENT);
    }
    if to.dir.fs.device != inode.fs.device {
        return Err(EXDEV);
    }
    if inode.is_directory() {
        return Err(EPERM);
    }
    to.dir.enter(name, &inode)?;
    Ok(0)
}

pub(crate) fn readlinkat(dir: i32, at: u64, to: u64, len: i32) -> Result {
    if len <= 0 {
        return Err(EINVAL);
    }
    let path = path(at)?;
    let inode = if path.is_empty() && dir != AT_FDCWD {
        let f = file(dir)?;
        if f.inode.target().is_err() {
            return Err(ENOENT);
        }
        f.inode.clone()
    } else {
        place(dir, &path)?.find(&path, End::Stay)?
    };
    let target = inode.target()?;
    let n = target.len().min(len as usize);
    user::write(to, &target[..n])?;
    Ok(n as i64)
}

/// access and faccessat2. Root may do everything, but run only what somebody may run.
pub(crate) fn faccessat(dir: i32, at: u64, mode: u64, flags: u64) -> Result {
    only(flags, AT_EACCESS | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)?;
    only(mode, 7)?;
    let inode = inode_at(dir, at, flags)?;
    let runs = inode.is_directory() || inode.attr().rights & 0o111 != 0;
    if mode & 1 != 0 && !runs { Err(crate::errno::EACCES) } else { Ok(0) }
}

pub(crate) fn truncate(at: u64, size: i64) -> Result {
    let size = u64::try_from(size).map_err(|_| EINVAL)?;
    let path = path(at)?;
    place(AT_FDCWD, &path)?.find(&path, End::Follow)?.truncate(size).map(|()| 0)
}

pub(crate) fn chdir(at: u64) -> Result {
    let path = path(at)?;
    let to = place(AT_FDCWD, &path)?.find(&path, End::Follow)?;
    if !to.is_directory() {
        return Err(ENOTDIR);
    }
    sched::process().files.lock().cwd.cwd = to;
    Ok(0)
}

pub(crate) fn fchdir(fd: i32) -> Result {
    let to = file(fd)?.inode.clone();
    if !to.is_directory() {
        return Err(ENOTDIR);
    }
    sched::process().files.lock().cwd.cwd = to;
    Ok(0)
}

pub(crate) fn chroot(at: u64) -> Result {
    let path = path(at)?;
    let to = place(AT_FDCWD, &path)?.find(&path, End::Follow)?;
    if !to.is_directory() {
        return Err(ENOTDIR);
    }
    sched::process().files.lock().cwd.root = to;
    Ok(0)
}

pub(crate) fn getcwd(at: u64, len: u64) -> Result {
    let place = sched::process().files.lock().cwd.clone();
    let mut cwd: Vec<u8> = place.path_of(&place.cwd).ok_or(ENOENT)?;
    cwd.push(0);
    if cwd.len() as u64 > len {
        return Err(crate::errno::ERANGE);
    }
    user::write(at, &cwd)?;
    Ok(cwd.len() as i64)
}

pub(crate) fn umask(mask: u64) -> Result {
    let mut files = sched::process().files.lock();
    Ok(core::mem::replace(&mut files.umask, mask as u32 & 0o777).into())
}
