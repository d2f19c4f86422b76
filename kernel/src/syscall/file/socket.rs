//! Local socket pairs.

use alloc::sync::Arc;
use alloc::vec;

use super::file;
use crate::errno::{
    EAFNOSUPPORT, EFAULT, EINVAL, EISCONN, ENOPROTOOPT, ENOTSOCK, EOPNOTSUPP, EPIPE, EPROTONOSUPPORT,
    ESOCKTNOSUPPORT, Result,
};
use crate::fs::file::{File, O_CLOEXEC, O_NONBLOCK, O_RDWR};
use crate::fs::inode::Kind;
use crate::fs::socket::{Carries, pair};
use crate::process::signal;
use crate::user;

const AF_UNIX: u64 = 1;
const MSG_PEEK: u64 = 2;
const MSG_TRUNC: u64 = 0x20;
const MSG_DONTWAIT: u64 = 0x40;
const MSG_NOSIGNAL: u64 = 0x4000;
const SIGPIPE: u32 = 13;
/// Bytes that one call moves at most.
const MOST: u64 = 256 << 10;

pub(crate) fn socketpair(family: u64, kind: u64, protocol: u64, at: u64) -> Result {
    let flags = kind as u32 & !0xf;
    super::only(flags.into(), (O_CLOEXEC | O_NONBLOCK).into())?;
    if family != AF_UNIX {
        return Err(EAFNOSUPPORT);
    }
    if protocol > 1 {
        return Err(EPROTONOSUPPORT);
    }
    let carries = match kind & 0xf {
        1 => Carries::Bytes,
        2 | 3 => Carries::Datagrams,
        5 => Carries::Packets,
        _ => return Err(ESOCKTNOSUPPORT),
    };
    let (a, b) = pair(carries);
    let open = |s| File::of_special(Kind::Socket, Arc::new(s), O_RDWR | flags & O_NONBLOCK);
    super::descriptor::add_pair(open(a), open(b), flags & O_CLOEXEC != 0, at)
}

/// socket(2): there is no network, and no names for sockets.
pub(crate) fn socket() -> Result {
    Err(EAFNOSUPPORT)
}

fn socket_of(fd: i32) -> Result<Arc<File>> {
    let f = file(fd)?;
    if f.special().is_some_and(|s| s.socket().is_some()) { Ok(f) } else { Err(ENOTSOCK) }
}

fn send(fd: i32, data: &[u8], flags: u64) -> Result {
    let f = socket_of(fd)?;
    let nonblock = flags & MSG_DONTWAIT != 0 || f.flags() & O_NONBLOCK != 0;
    let r = f.special().ok_or(ENOTSOCK)?.write(data, nonblock);
    if r == Err(EPIPE) && flags & MSG_NOSIGNAL == 0 {
        signal::raise(SIGPIPE);
    }
    r.map(|n| n as i64)
}

/// Receives into a buffer; gives what was copied and how long the message was.
fn receive(fd: i32, buf: &mut [u8], flags: u64) -> Result<(usize, usize)> {
    let f = socket_of(fd)?;
    let nonblock = flags & MSG_DONTWAIT != 0 || f.flags() & O_NONBLOCK != 0;
    let s = f.special().and_then(|s| s.socket()).ok_or(ENOTSOCK)?;
    let r = s.receive(buf, nonblock, flags & MSG_PEEK != 0)?;
    Ok((r.copied, r.length))
}

pub(crate) fn sendto(a: [u64; 6]) -> Result {
    let [fd, at, len, flags, address, _] = a;
    socket_of(fd as i32)?;
    if address != 0 {
        return Err(EISCONN);
    }
    let mut buf = vec![0; len.min(MOST) as usize];
    user::read(at, &mut buf)?;
    send(fd as i32, &buf, flags)
}

pub(crate) fn recvfrom(a: [u64; 6]) -> Result {
    let [fd, at, len, flags, address, address_len] = a;
    let mut buf = vec![0; len.min(MOST) as usize];
    let (copied, length) = receive(fd as i32, &mut buf, flags)?;
    user::write(at, &buf[..copied])?;
    if address != 0 && address_len != 0 {
        user::write(address_len, &0u32.to_le_bytes())?;
    }
    Ok(if flags & MSG_TRUNC != 0 { length } else { copied } as i64)
}

/// Where the pieces of a `struct msghdr` are.
fn message(at: u64) -> Result<(u64, u64, u64)> {
    let (list, n, control) = (user::read_u64(at + 16)?, user::read_u64(at + 24)?, user::read_u64(at + 40)?);
    if n > 1024 { Err(crate::errno::EMSGSIZE) } else { Ok((list, n, control)) }
}

pub(crate) fn sendmsg(fd: i32, at: u64, flags: u64) -> Result {
    socket_of(fd)?;
    let (list, n, control) = message(at)?;
    if control != 0 {
        // Descriptors and credentials are not carried.
        return Err(EOPNOTSUPP);
    }
    let mut buf = alloc::vec::Vec::new();
    for i in 0..n {
        let (from, len) = (user::read_u64(list + 16 * i)?, user::read_u64(list + 16 * i + 8)?);
        let start = buf.len();
        if start as u64 + len > MOST {
            return Err(crate::errno::EMSGSIZE);
        }
        buf.resize(start + len as usize, 0);
        user::read(from, &mut buf[start..])?;
    }
    send(fd, &buf, flags)
}

pub(crate) fn recvmsg(fd: i32, at: u64, flags: u64) -> Result {
    socket_of(fd)?;
    let (list, n, _) = message(at)?;
    let mut pieces = alloc::vec::Vec::new();
    let mut sum = 0u64;
    for i in 0..n {
        let (to, len) = (user::read_u64(list + 16 * i)?, user::read_u64(list + 16 * i + 8)?);
        sum = sum.checked_add(len).ok_or(EINVAL)?;
        pieces.push((to, len));
    }
    let mut buf = vec![0; sum.min(MOST) as usize];
    let (copied, length) = receive(fd, &mut buf, flags)?;
    let mut rest = &buf[..copied];
    for (to, len) in pieces {
        let n = rest.len().min(usize::try_from(len).unwrap_or(usize::MAX));
        user::write(to, &rest[..n]).map_err(|_| EFAULT)?;
        rest = &rest[n..];
    }
    // No name, no control data, and whether the message was cut.
    user::write(at + 8, &0u32.to_le_bytes())?;
    user::write(at + 40, &0u64.to_le_bytes())?;
    let cut = if length > copied { MSG_TRUNC as u32 } else { 0 };
    user::write(at + 48, &cut.to_le_bytes())?;
    Ok(if flags & MSG_TRUNC != 0 { length } else { copied } as i64)
}

pub(crate) fn shutdown(fd: i32, how: u64) -> Result {
    let f = socket_of(fd)?;
    if how > 2 {
        return Err(EINVAL);
    }
    f.special().and_then(|s| s.socket()).ok_or(ENOTSOCK)?.shutdown(how);
    Ok(0)
}

pub(crate) fn getsockopt(fd: i32, level: u64, name: u64, to: u64, len: u64) -> Result {
    let f = socket_of(fd)?;
    let s = f.special().and_then(|s| s.socket()).ok_or(ENOTSOCK)?;
    let v: u32 = match (level, name) {
        // SO_TYPE
        (1, 3) => match s.carries {
            Carries::Bytes => 1,
            Carries::Datagrams => 2,
            Carries::Packets => 5,
        },
        // SO_ERROR
        (1, 4) => 0,
        // SO_SNDBUF, SO_RCVBUF
        (1, 7 | 8) => 212_992,
        // SO_DOMAIN
        (1, 39) => 1,
        _ => return Err(ENOPROTOOPT),
    };
    let room = user::read_u32(len)?.min(4);
    user::write(to, &v.to_le_bytes()[..room as usize])?;
    user::write(len, &room.to_le_bytes())?;
    Ok(0)
}
