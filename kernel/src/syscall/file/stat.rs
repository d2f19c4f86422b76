//! What is known of files, and changes of it.

use super::{
    AT_EMPTY_PATH, AT_FDCWD, AT_NO_AUTOMOUNT, AT_STATX_SYNC_TYPE, AT_SYMLINK_NOFOLLOW, Bytes, file, inode_at,
    only, path, place,
};
use crate::arch::GENERIC_CALLS;
use crate::embed::the_vm;
use crate::errno::{EBADF, EINVAL, ENOTDIR, EOPNOTSUPP, Result};
use crate::fs::inode::{Inode, Kind, S_IFLNK, Time};
use crate::fs::{End, File};
use crate::user;

/// A device number as stat has it.
fn device_number((major, minor): (u32, u32)) -> u64 {
    let (major, minor) = (u64::from(major), u64::from(minor));
    minor & 0xff | (major & 0xfff) << 8 | (minor & !0xff) << 12 | (major & !0xfff) << 32
}

fn put_stat(at: u64, i: &Inode) -> Result {
    let a = i.attr();
    let mode = i.type_bits() | a.rights;
    let mut b = Bytes::new();
    b.u64(i.fs.device);
    b.u64(i.number);
    if GENERIC_CALLS {
        b.u32(mode);
        b.u32(a.links);
    } else {
        b.u64(a.links.into());
        b.u32(mode);
    }
    b.u32(a.uid);
    b.u32(a.gid);
    if !GENERIC_CALLS {
        b.u32(0);
    }
    b.u64(device_number(i.device()));
    if GENERIC_CALLS {
        b.u64(0);
    }
    b.u64(i.size());
    // On other machines than x86-64 a half word of it is unused.
    b.u64(i.block_size());
    b.u64(i.blocks());
    for t in [a.atime, a.mtime, a.ctime] {
        b.u64(t.s as u64);
        b.u64(t.ns.into());
    }
    b.fill(if GENERIC_CALLS { 128 } else { 144 });
    b.put(at)
}

pub(crate) fn stat(at: u64, to: u64) -> Result {
    put_stat(to, &*inode_at(AT_FDCWD, at, 0)?)
}
pub(crate) fn lstat(at: u64, to: u64) -> Result {
    put_stat(to, &*inode_at(AT_FDCWD, at, AT_SYMLINK_NOFOLLOW)?)
}
pub(crate) fn fstat(fd: i32, to: u64) -> Result {
    put_stat(to, &file(fd)?.inode)
}
pub(crate) fn newfstatat(dir: i32, at: u64, to: u64, flags: u64) -> Result {
    only(flags, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH | AT_NO_AUTOMOUNT)?;
    put_stat(to, &*inode_at(dir, at, flags)?)
}

pub(crate) fn statx(dir: i32, at: u64, flags: u64, mask: u64, to: u64) -> Result {
    only(flags, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH | AT_NO_AUTOMOUNT | AT_STATX_SYNC_TYPE)?;
    if mask & 0x8000_0000 != 0 || flags & AT_STATX_SYNC_TYPE == AT_STATX_SYNC_TYPE {
        return Err(EINVAL);
    }
    let i = inode_at(dir, at, flags)?;
    let a = i.attr();
    let mut b = Bytes::new();
    b.u32(0x7ff); // the basic fields
    b.u32(i.block_size() as u32);
    b.u64(0);
    b.u32(a.links);
    b.u32(a.uid);
    b.u32(a.gid);
    b.u16((i.type_bits() | a.rights) as u16);
    b.u16(0);
    b.u64(i.number);
    b.u64(i.size());
    b.u64(i.blocks());
    b.u64(0);
    let mut time = |t: Time| {
        b.u64(t.s as u64);
        b.u32(t.ns);
        b.u32(0);
    };
    time(a.atime);
    time(Time::default());
    time(a.ctime);
    time(a.mtime);
    let (major, minor) = i.device();
    b.u32(major);
    b.u32(minor);
    b.u32(0);
    b.u32(i.fs.device as u32);
    b.fill(256);
    b.put(to)
}

fn put_statfs(at: u64, i: &Inode) -> Result {
    let (kind, sized) = match i.fs.kind {
        "proc" => (0x9fa0, false),
        "ramfs" => (0x8584_58f6, false),
        "anon_inodefs" => (0x0904_1934, false),
        _ => (0x0102_1994, true),
    };
    let s = the_vm().statistics();
    let (all, free) =
        if sized { (s.frame_limit, s.frame_limit.saturating_sub(s.frames_resident)) } else { (0, 0) };
    let (all, free) = i.fs.pages().map_or((all, free), |(limit, used)| (limit, limit.saturating_sub(used)));
    let mut b = Bytes::new();
    for v in [kind, 4096, all, free, free, all, free] {
        b.u64(v);
    }
    b.u64(0);
    for v in [255, 4096, 0x20] {
        b.u64(v);
    }
    b.fill(120);
    b.put(at)
}

pub(crate) fn statfs(at: u64, to: u64) -> Result {
    put_statfs(to, &*inode_at(AT_FDCWD, at, 0)?)
}
pub(crate) fn fstatfs(fd: i32, to: u64) -> Result {
    put_statfs(to, &file(fd)?.inode)
}

fn set_mode(i: &Inode, mode: u64) -> Result {
    i.change(|a| a.rights = mode as u32 & 0o7777);
    Ok(0)
}

/// A descriptor that may be used for more than its path.
fn whole(fd: i32) -> Result<alloc::sync::Arc<File>> {
    file(fd).and_then(|f| if f.is_path() { Err(EBADF) } else { Ok(f) })
}

pub(crate) fn fchmod(fd: i32, mode: u64) -> Result {
    set_mode(&whole(fd)?.inode, mode)
}
pub(crate) fn fchmodat(dir: i32, at: u64, mode: u64, flags: u64) -> Result {
    only(flags, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)?;
    let i = inode_at(dir, at, flags)?;
    if i.type_bits() == S_IFLNK {
        return Err(EOPNOTSUPP);
    }
    set_mode(&i, mode)
}

fn set_owner(i: &Inode, uid: u64, gid: u64) -> Result {
    i.change(|a| {
        if uid as u32 != u32::MAX {
            a.uid = uid as u32;
        }
        if gid as u32 != u32::MAX {
            a.gid = gid as u32;
        }
    });
    // Whoever has it now did not ask to be obeyed.
    if matches!(i.kind, Kind::Regular(_)) {
        i.change(|a| {
            a.rights &= !0o4000;
            if a.rights & 0o10 != 0 {
                a.rights &= !0o2000;
            }
        });
    }
    Ok(0)
}

pub(crate) fn fchown(fd: i32, uid: u64, gid: u64) -> Result {
    set_owner(&whole(fd)?.inode, uid, gid)
}
pub(crate) fn fchownat(dir: i32, at: u64, uid: u64, gid: u64, flags: u64) -> Result {
    only(flags, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)?;
    set_owner(&*inode_at(dir, at, flags)?, uid, gid)
}
pub(crate) fn chown(at: u64, uid: u64, gid: u64) -> Result {
    fchownat(AT_FDCWD, at, uid, gid, 0)
}
pub(crate) fn lchown(at: u64, uid: u64, gid: u64) -> Result {
    fchownat(AT_FDCWD, at, uid, gid, AT_SYMLINK_NOFOLLOW)
}

const UTIME_NOW: u64 = 0x3fff_ffff;
const UTIME_OMIT: u64 = 0x3fff_fffe;

fn set_times(i: &Inode, times: [Option<Time>; 2]) {
    if times != [None, None] {
        i.change(|a| {
            a.atime = times[0].unwrap_or(a.atime);
            a.mtime = times[1].unwrap_or(a.mtime);
        });
    }
}

pub(crate) fn utimensat(dir: i32, at: u64, times: u64, flags: u64) -> Result {
    only(flags, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)?;
    let now = Time::now();
    let mut new = [Some(now); 2];
    if times != 0 {
        for (i, t) in new.iter_mut().enumerate() {
            let (s, ns) =
                (user::read_u64(times + 16 * i as u64)?, user::read_u64(times + 16 * i as u64 + 8)?);
            *t = match ns {
                UTIME_NOW => Some(now),
                UTIME_OMIT => None,
                ns if ns < 1_000_000_000 => Some(Time { s: s as i64, ns: ns as u32 }),
                _ => return Err(EINVAL),
            };
        }
    }
    if at == 0 {
        // futimens
        if dir == AT_FDCWD {
            return Err(crate::errno::EFAULT);
        }
        only(flags, 0)?;
        set_times(&whole(dir)?.inode, new);
    } else {
        set_times(&*inode_at(dir, at, flags)?, new);
    }
    Ok(0)
}

/// utimes and futimesat: microseconds.
pub(crate) fn futimesat(dir: i32, at: u64, times: u64) -> Result {
    let now = Time::now();
    let mut new = [Some(now); 2];
    if times != 0 {
        for (i, t) in new.iter_mut().enumerate() {
            let (s, us) =
                (user::read_u64(times + 16 * i as u64)?, user::read_u64(times + 16 * i as u64 + 8)?);
            if us >= 1_000_000 {
                return Err(EINVAL);
            }
            *t = Some(Time { s: s as i64, ns: us as u32 * 1000 });
        }
    }
    set_times(&*inode_at(dir, at, 0)?, new);
    Ok(0)
}

/// utime: seconds.
pub(crate) fn utime(at: u64, times: u64) -> Result {
    let now = Time::now();
    let mut new = [Some(now); 2];
    if times != 0 {
        for (i, t) in new.iter_mut().enumerate() {
            *t = Some(Time { s: user::read_u64(times + 8 * i as u64)? as i64, ns: 0 });
        }
    }
    set_times(&*inode_at(AT_FDCWD, at, 0)?, new);
    Ok(0)
}

pub(crate) fn getdents64(fd: i32, to: u64, len: u64) -> Result {
    let f = file(fd)?;
    if f.is_path() {
        return Err(EBADF);
    }
    if !f.inode.is_directory() {
        return Err(ENOTDIR);
    }
    let mut position = f.position();
    let mut done = 0;
    loop {
        let lines = f.list(*position, 64)?;
        if lines.is_empty() {
            break;
        }
        for line in lines {
            let size = (19 + line.name.len() + 1).next_multiple_of(8);
            if done + size as u64 > len {
                return if done == 0 { Err(EINVAL) } else { Ok(done as i64) };
            }
            let mut b = Bytes::new();
            b.u64(line.number);
            b.u64(line.cookie);
            b.u16(size as u16);
            b.0.push((line.kind >> 12) as u8);
            b.0.extend_from_slice(&line.name);
            b.fill(size);
            b.put(to + done)?;
            done += size as u64;
            *position = line.cookie;
        }
    }
    Ok(done as i64)
}

/// The inode of a path, for calls that follow links.
pub(crate) fn inode_of(at: u64) -> Result<alloc::sync::Arc<Inode>> {
    let path = path(at)?;
    place(AT_FDCWD, &path)?.find(&path, End::Follow)
}
