//! System calls on files.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::errno::{EINVAL, ENOTDIR, ENOTTY, ERANGE, ESPIPE, Result};
use crate::fs::{self, Node, Open};
use crate::{sched, user};

/// Bytes moved at once.
const CHUNK: usize = 4096;

pub(super) fn read(fd: i32, at: u64, len: u64) -> Result {
    let file = sched::process().files.lock().get(fd)?;
    let mut buf = [0; CHUNK];
    let mut done = 0;
    while done < len {
        let n = CHUNK.min((len - done) as usize);
        let got = match file.read(&mut buf[..n]) {
            Ok(got) => got,
            Err(_) if done != 0 => break,
            Err(e) => return Err(e),
        };
        user::write(at + done, &buf[..got])?;
        done += got as u64;
        if got < n {
            break;
        }
    }
    Ok(done as i64)
}

pub(super) fn write(fd: i32, at: u64, len: u64) -> Result {
    let file = sched::process().files.lock().get(fd)?;
    let mut buf = [0; CHUNK];
    let mut done = 0;
    while done < len {
        let n = CHUNK.min((len - done) as usize);
        user::read(at + done, &mut buf[..n])?;
        let put = match file.write(&buf[..n]) {
            Ok(put) => put,
            Err(_) if done != 0 => break,
            Err(e) => return Err(e),
        };
        done += put as u64;
        if put < n {
            break;
        }
    }
    Ok(done as i64)
}

pub(super) fn writev(fd: i32, list: u64, n: u64) -> Result {
    if n > 1024 {
        return Err(EINVAL);
    }
    let mut done = 0;
    for i in 0..n {
        let (at, len) = (user::read_u64(list + 16 * i)?, user::read_u64(list + 16 * i + 8)?);
        let put = write(fd, at, len)?;
        done += put;
        if (put as u64) < len {
            break;
        }
    }
    Ok(done)
}

pub(super) fn open(path: u64, flags: u64) -> Result {
    let path = user::path(path)?;
    let mut files = sched::process().files.lock();
    let node = fs::lookup(&files.cwd, &path)?;
    let file = Arc::new(Open::Node(node, AtomicU64::new(0)));
    files.add(file, flags & 0o2_000_000 != 0, 0).map(i64::from)
}

pub(super) fn close(fd: i32) -> Result {
    sched::process().files.lock().close(fd).map(|()| 0)
}

pub(super) fn dup(fd: i32) -> Result {
    let mut files = sched::process().files.lock();
    let file = files.get(fd)?;
    files.add(file, false, 0).map(i64::from)
}

pub(super) fn dup2(fd: i32, to: i32) -> Result {
    let mut files = sched::process().files.lock();
    let file = files.get(fd)?;
    if fd != to {
        files.place(to, file, false)?;
    }
    Ok(i64::from(to))
}

pub(super) fn pipe(at: u64, flags: u64) -> Result {
    let (r, w) = fs::pipe();
    let cloexec = flags & 0o2_000_000 != 0;
    let mut files = sched::process().files.lock();
    let r = files.add(Arc::new(Open::Pipe(r)), cloexec, 0)?;
    let w = match files.add(Arc::new(Open::Pipe(w)), cloexec, 0) {
        Ok(w) => w,
        Err(e) => {
            files.close(r)?;
            return Err(e);
        }
    };
    drop(files);
    user::write(at, &r.to_le_bytes())?;
    user::write(at + 4, &w.to_le_bytes())?;
    Ok(0)
}

pub(super) fn ioctl(fd: i32, _request: u64, _at: u64) -> Result {
    sched::process().files.lock().get(fd)?;
    Err(ENOTTY)
}

/// `struct stat`.
fn put_stat(at: u64, n: &Node) -> Result {
    let mut b = [0; 144];
    b[8..16].copy_from_slice(&n.number.to_le_bytes());
    b[16..24].copy_from_slice(&1u64.to_le_bytes());
    b[24..28].copy_from_slice(&n.mode.to_le_bytes());
    b[48..56].copy_from_slice(&n.size().to_le_bytes());
    b[56..64].copy_from_slice(&4096u64.to_le_bytes());
    b[64..72].copy_from_slice(&n.size().div_ceil(512).to_le_bytes());
    user::write(at, &b)?;
    Ok(0)
}

pub(super) fn stat(path: u64, at: u64) -> Result {
    let path = user::path(path)?;
    let node = fs::lookup(&sched::process().files.lock().cwd, &path)?;
    put_stat(at, &node)
}

pub(super) fn fstat(fd: i32, at: u64) -> Result {
    let file = sched::process().files.lock().get(fd)?;
    match &*file {
        Open::Node(n, _) => put_stat(at, n),
        Open::Pipe(_) => put_stat(at, &Node::pipe()),
    }
}

pub(super) fn lseek(fd: i32, offset: i64, from: u64) -> Result {
    let file = sched::process().files.lock().get(fd)?;
    let Open::Node(n, position) = &*file else { return Err(ESPIPE) };
    let base = match from {
        0 => 0,
        1 => position.load(Ordering::Relaxed) as i64,
        2 => n.size() as i64,
        _ => return Err(EINVAL),
    };
    let to = base.checked_add(offset).filter(|to| *to >= 0).ok_or(EINVAL)?;
    position.store(to as u64, Ordering::Relaxed);
    Ok(to)
}

pub(super) fn getcwd(at: u64, len: u64) -> Result {
    let mut cwd = sched::process().files.lock().cwd.clone().into_bytes();
    cwd.push(0);
    if (cwd.len() as u64) > len {
        return Err(ERANGE);
    }
    user::write(at, &cwd)?;
    Ok(cwd.len() as i64)
}

pub(super) fn chdir(path: u64) -> Result {
    let path = user::path(path)?;
    let mut files = sched::process().files.lock();
    if !fs::lookup(&files.cwd, &path)?.is_directory() {
        return Err(ENOTDIR);
    }
    files.cwd = fs::normal(&files.cwd, &path);
    Ok(0)
}
