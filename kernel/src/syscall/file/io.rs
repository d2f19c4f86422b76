//! Bytes in and out.

use alloc::vec;

use machvm_hal::PAGE_SIZE;

use super::file;
use crate::errno::{EBADF, EFAULT, EINVAL, EPIPE, ESPIPE, Result};
use crate::fs::File;
use crate::fs::file::MOST;
use crate::process::signal;
use crate::{arch, user};

/// Bytes that go through the stack; more go through the heap, so many at a time.
const SMALL: usize = PAGE_SIZE as usize;
const LARGE: usize = 64 << 10;

const SIGPIPE: u32 = 13;

/// A piece of the caller's memory.
#[derive(Clone, Copy)]
struct Piece {
    at: u64,
    len: u64,
}

/// Calls `f` with a buffer for `len` bytes, or for as much as is moved at once.
fn with_buffer<R>(file: &File, len: u64, f: impl FnOnce(&mut [u8]) -> R) -> R {
    let most = file.special().and_then(|s| s.message_max()).unwrap_or(LARGE);
    let len = usize::try_from(len).unwrap_or(most).min(most);
    if len <= SMALL { f(&mut [0; SMALL][..len]) } else { f(&mut vec![0; len]) }
}

/// Reads into the caller's memory. `position` is moved on.
fn read_piece(file: &File, piece: Piece, position: &mut u64) -> Result<u64> {
    let len = piece.len.min(MOST);
    let whole = file.special().is_none_or(|s| s.seeks());
    with_buffer(file, len, |buf| {
        let mut done = 0;
        loop {
            let n = buf.len().min((len - done) as usize);
            let got = match file.read_at(*position, &mut buf[..n]) {
                Ok(got) => got,
                Err(_) if done != 0 => break,
                Err(e) => return Err(e),
            };
            let put = arch::copy_to_user(piece.at + done, &buf[..got]);
            done += put as u64;
            *position += put as u64;
            if put < got {
                return if done != 0 { Ok(done) } else { Err(EFAULT) };
            }
            // Only of what does not wait is asked again.
            if got < n || done == len || !whole {
                break;
            }
        }
        Ok(done)
    })
}

/// Writes the caller's memory. `position` is moved on.
fn write_piece(file: &File, piece: Piece, position: &mut u64) -> Result<u64> {
    let len = piece.len.min(MOST);
    let messages = file.special().is_some_and(|s| s.message_max().is_some());
    if messages && file.special().and_then(|s| s.message_max()).is_some_and(|m| len > m as u64) {
        return Err(crate::errno::EMSGSIZE);
    }
    with_buffer(file, len, |buf| {
        let mut done = 0;
        loop {
            let n = buf.len().min((len - done) as usize);
            let had = arch::copy_from_user(piece.at + done, &mut buf[..n]);
            if had < n && (had == 0 || messages) {
                return if done != 0 { Ok(done) } else { Err(EFAULT) };
            }
            let (start, put) = match file.write_at(*position, &buf[..had]) {
                Ok(r) => r,
                Err(_) if done != 0 => break,
                Err(e) => return Err(e),
            };
            *position = start + put as u64;
            done += put as u64;
            if put < n || done == len {
                break;
            }
        }
        Ok(done)
    })
}

/// A signal goes with EPIPE.
fn broken<T>(r: Result<T>) -> Result<T> {
    if r.as_ref().err() == Some(&EPIPE) {
        signal::raise(SIGPIPE);
    }
    r
}

fn readable(fd: i32) -> Result<alloc::sync::Arc<File>> {
    file(fd).and_then(|f| if f.is_readable() { Ok(f) } else { Err(EBADF) })
}
fn writable(fd: i32) -> Result<alloc::sync::Arc<File>> {
    file(fd).and_then(|f| if f.is_writable() { Ok(f) } else { Err(EBADF) })
}

/// Does `f` at the file's position, which it moves on.
fn at_position<R>(file: &File, f: impl FnOnce(&mut u64) -> R) -> R {
    // What waits has no position, and is not to be locked while it does.
    if file.special().is_some_and(|s| s.size().is_none()) { f(&mut 0) } else { f(&mut file.position()) }
}

pub(crate) fn read(fd: i32, at: u64, len: u64) -> Result {
    let file = readable(fd)?;
    at_position(&file, |p| read_piece(&file, Piece { at, len }, p)).map(|n| n as i64)
}

pub(crate) fn write(fd: i32, at: u64, len: u64) -> Result {
    let file = writable(fd)?;
    broken(at_position(&file, |p| write_piece(&file, Piece { at, len }, p))).map(|n| n as i64)
}

/// A position that a caller gave.
fn given(file: &File, offset: i64) -> Result<u64> {
    let at = u64::try_from(offset).map_err(|_| EINVAL)?;
    if file.seeks() { Ok(at) } else { Err(ESPIPE) }
}

pub(crate) fn pread(fd: i32, at: u64, len: u64, offset: i64) -> Result {
    if offset < 0 {
        return Err(EINVAL);
    }
    let file = super::file(fd)?;
    let mut p = given(&file, offset)?;
    read_piece(&*readable(fd)?, Piece { at, len }, &mut p).map(|n| n as i64)
}

pub(crate) fn pwrite(fd: i32, at: u64, len: u64, offset: i64) -> Result {
    if offset < 0 {
        return Err(EINVAL);
    }
    let file = super::file(fd)?;
    let mut p = given(&file, offset)?;
    write_piece(&*writable(fd)?, Piece { at, len }, &mut p).map(|n| n as i64)
}

/// The pieces of a `struct iovec` array.
fn pieces(list: u64, n: u64) -> Result<alloc::vec::Vec<Piece>> {
    if n > 1024 {
        return Err(EINVAL);
    }
    let mut all = alloc::vec::Vec::new();
    let mut sum = 0u64;
    for i in 0..n {
        let (at, len) = (user::read_u64(list + 16 * i)?, user::read_u64(list + 16 * i + 8)?);
        if len > i64::MAX as u64 {
            return Err(EINVAL);
        }
        let len = len.min(MOST - sum);
        sum += len;
        all.push(Piece { at, len });
    }
    Ok(all)
}

type Move = fn(&File, Piece, &mut u64) -> Result<u64>;

/// Moves piece after piece, until one is short.
fn move_all(file: &File, all: &[Piece], position: &mut u64, f: Move) -> Result {
    let mut done = 0;
    for p in all {
        if p.len == 0 {
            continue;
        }
        match f(file, *p, position) {
            Ok(n) => {
                done += n;
                if n < p.len {
                    break;
                }
            }
            Err(_) if done != 0 => break,
            Err(e) => return Err(e),
        }
        // What would wait for more is not asked again.
        if f as usize == read_piece as *const () as usize && file.special().is_some_and(|s| s.poll() & 1 == 0)
        {
            break;
        }
    }
    Ok(done as i64)
}

/// All pieces as one write: a pipe or a socket takes them together.
fn write_gathered(file: &File, all: &[Piece], position: &mut u64) -> Result {
    let sum: u64 = all.iter().map(|p| p.len).sum();
    let small = file.special().is_some() && all.len() > 1 && sum as usize <= LARGE;
    if !small {
        return move_all(file, all, position, write_piece);
    }
    let mut buf = vec![0; sum as usize];
    let mut at = 0;
    for p in all {
        user::read(p.at, &mut buf[at..at + p.len as usize])?;
        at += p.len as usize;
    }
    file.write_at(0, &buf).map(|(_, n)| n as i64)
}

pub(crate) fn readv(fd: i32, list: u64, n: u64) -> Result {
    let file = readable(fd)?;
    let all = pieces(list, n)?;
    at_position(&file, |p| move_all(&file, &all, p, read_piece))
}

pub(crate) fn writev(fd: i32, list: u64, n: u64) -> Result {
    let file = writable(fd)?;
    let all = pieces(list, n)?;
    broken(at_position(&file, |p| write_gathered(&file, &all, p)))
}

/// preadv and preadv2: an offset of -1 is the position, in the second.
pub(crate) fn preadv(fd: i32, list: u64, n: u64, offset: i64, second: bool) -> Result {
    if second && offset == -1 {
        return readv(fd, list, n);
    }
    let file = readable(fd)?;
    let mut p = given(&file, offset)?;
    move_all(&file, &pieces(list, n)?, &mut p, read_piece)
}

/// As [`preadv`].
pub(crate) fn pwritev(fd: i32, list: u64, n: u64, offset: i64, second: bool) -> Result {
    if second && offset == -1 {
        return writev(fd, list, n);
    }
    let file = writable(fd)?;
    let mut p = given(&file, offset)?;
    move_all(&file, &pieces(list, n)?, &mut p, write_piece)
}

/// Copies between files; what was read but not written is not taken.
fn copy(
    from: &File,
    mut source: Option<&mut u64>,
    to: &File,
    mut target: Option<&mut u64>,
    len: u64,
) -> Result<u64> {
    let len = len.min(MOST);
    let mut done = 0;
    let mut buf = vec![0; LARGE.min(len as usize)];
    while done < len {
        let n = buf.len().min((len - done) as usize);
        let (mut held, mut own) = (None, 0);
        let at = match &mut source {
            Some(p) => &mut **p,
            None if from.special().is_some() => &mut own,
            None => &mut **held.insert(from.position()),
        };
        let got = match from.read_at(*at, &mut buf[..n]) {
            Ok(0) => break,
            Ok(got) => got,
            Err(_) if done != 0 => break,
            Err(e) => return Err(e),
        };
        let put = match &mut target {
            Some(p) => to.write_at(**p, &buf[..got]),
            None => at_position(to, |p| {
                let r = to.write_at(*p, &buf[..got]);
                if let Ok((start, n)) = r {
                    *p = start + n as u64;
                }
                r
            }),
        };
        let put = match put {
            Ok((start, put)) => {
                if let Some(p) = &mut target {
                    **p = start + put as u64;
                }
                put
            }
            Err(_) if done != 0 => break,
            Err(e) => return Err(e),
        };
        *at += put as u64;
        done += put as u64;
        if put < got || from.special().is_some() {
            break;
        }
    }
    Ok(done)
}

/// A position in the caller's memory.
fn offset_at(at: u64) -> Result<Option<u64>> {
    if at == 0 {
        return Ok(None);
    }
    let v = user::read_u64(at)?;
    if v > i64::MAX as u64 { Err(EINVAL) } else { Ok(Some(v)) }
}

pub(crate) fn sendfile(to: i32, from: i32, offset: u64, len: u64) -> Result {
    let (from, to) = (readable(from)?, writable(to)?);
    if from.contents().is_none() && from.special().is_some_and(|s| !s.seeks()) {
        return Err(EINVAL);
    }
    let mut at = offset_at(offset)?;
    let r = broken(copy(&from, at.as_mut(), &to, None, len));
    if let (Some(at), Ok(_)) = (at, &r) {
        user::write(offset, &at.to_le_bytes())?;
    }
    r.map(|n| n as i64)
}

pub(crate) fn copy_file_range(a: [u64; 6]) -> Result {
    let [from_fd, from_at, to_fd, to_at, len, flags] = a;
    let (from, to) = (readable(from_fd as i32)?, writable(to_fd as i32)?);
    if flags != 0 {
        return Err(EINVAL);
    }
    if from.inode.is_directory() || to.inode.is_directory() {
        return Err(crate::errno::EISDIR);
    }
    if from.contents().is_none() || to.contents().is_none() {
        return Err(EINVAL);
    }
    if to.flags() & crate::fs::file::O_APPEND != 0 {
        return Err(EBADF);
    }
    let (mut source, mut target) = (offset_at(from_at)?, offset_at(to_at)?);
    let start = source.unwrap_or_else(|| *from.position());
    let end = target.unwrap_or_else(|| *to.position());
    if alloc::sync::Arc::ptr_eq(&from.inode, &to.inode)
        && start < end.saturating_add(len)
        && end < start.saturating_add(len)
    {
        return Err(EINVAL);
    }
    let n = if alloc::sync::Arc::ptr_eq(&from, &to) && (source.is_none() || target.is_none()) {
        // One position for both: each moves by what was copied.
        let (mut s, mut t) = (start, end);
        let n = copy(&from, Some(&mut s), &to, Some(&mut t), len)?;
        if source.is_none() || target.is_none() {
            *from.position() += n;
        }
        source = source.map(|_| s);
        target = target.map(|_| t);
        n
    } else {
        copy(&from, source.as_mut(), &to, target.as_mut(), len)?
    };
    for (at, v) in [(from_at, source), (to_at, target)] {
        if let Some(v) = v {
            user::write(at, &v.to_le_bytes())?;
        }
    }
    Ok(n as i64)
}

pub(crate) fn lseek(fd: i32, offset: i64, from: u64) -> Result {
    file(fd)?.seek(offset, from)
}

pub(crate) fn ftruncate(fd: i32, size: i64) -> Result {
    let size = u64::try_from(size).map_err(|_| EINVAL)?;
    file(fd)?.truncate(size).map(|()| 0)
}

pub(crate) fn fallocate(fd: i32, mode: u64, at: i64, len: i64) -> Result {
    let f = file(fd)?;
    let (Ok(at), Ok(len)) = (u64::try_from(at), u64::try_from(len)) else { return Err(EINVAL) };
    if len == 0 {
        return Err(EINVAL);
    }
    f.allocate(mode as u32, at, len).map(|()| 0)
}

pub(crate) fn fadvise(fd: i32, len: i64, advice: u64) -> Result {
    let f = file(fd)?;
    if f.special().is_some_and(|s| !s.seeks()) {
        return Err(ESPIPE);
    }
    if len < 0 || advice > 5 {
        return Err(EINVAL);
    }
    Ok(0)
}

/// fsync and fdatasync: memory is where files are.
pub(crate) fn syncfs(fd: i32) -> Result {
    if file(fd)?.is_path() { Err(EBADF) } else { Ok(0) }
}

pub(crate) fn fsync(fd: i32) -> Result {
    let f = file(fd)?;
    if f.is_path() {
        return Err(EBADF);
    }
    match f.special() {
        Some(s) if !s.seeks() => Err(EINVAL),
        Some(s) => s.sync().map(|()| 0),
        None => Ok(0),
    }
}
