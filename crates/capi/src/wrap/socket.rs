//! recv, send and their kin.

use core::ffi::c_void;

use libc::{msghdr, size_t, sockaddr, socklen_t, ssize_t};
use machvm_linux::library::copy_some;

use super::buffer::Buffer;
use super::io::{Kind, get, kind, put};
use super::real::real;
use super::vector::{self, Vector};
use super::{absent, fail};

/// Flags with which one call must stay one call.
const WHOLE: i32 = libc::MSG_OOB
    | libc::MSG_PEEK
    | libc::MSG_TRUNC
    | libc::MSG_WAITALL
    | libc::MSG_EOR
    | libc::MSG_ERRQUEUE
    | libc::MSG_FASTOPEN;
/// `MSG_ZEROCOPY` (Linux 4.14).
const ZEROCOPY: i32 = 0x400_0000;
/// Bytes of the largest address.
const NAME: usize = size_of::<libc::sockaddr_storage>();

fn kind_with(fd: i32, flags: i32) -> Kind {
    if flags & WHOLE != 0 { Kind::Message } else { kind(fd) }
}

/// `recv(2)`.
///
/// # Safety
/// 1. As for the C library's function.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn recv(fd: i32, at: *mut c_void, len: size_t, flags: i32) -> ssize_t {
    // SAFETY: 1, with the program's buffer or ours.
    let call = |at, len, _| unsafe {
        real!(recv(fd => i32, at => *mut c_void, len => size_t, flags => i32) -> ssize_t)
    };
    if !absent(at, len) {
        return call(at, len, 0);
    }
    // SAFETY: 1.
    unsafe { get(&[vector::one(at, len)], kind_with(fd, flags), call) }
}

/// `send(2)`.
///
/// # Safety
/// 1. As for the C library's function.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn send(fd: i32, at: *const c_void, len: size_t, flags: i32) -> ssize_t {
    // SAFETY: 1, with the program's buffer or ours.
    let call = |at, len, _| unsafe {
        real!(send(fd => i32, at => *mut c_void, len => size_t, flags => i32) -> ssize_t)
    };
    if !absent(at, len) {
        return call(at.cast_mut(), len, 0);
    }
    if flags & ZEROCOPY != 0 {
        return fail(libc::ENOBUFS); // then programs send in the usual way
    }
    // SAFETY: 1.
    unsafe { put(&[vector::one(at, len)], kind_with(fd, flags), call) }
}

/// An address for Linux in place of the program's.
struct Name {
    bytes: [u8; NAME],
    /// What it may hold, then what it holds.
    len: socklen_t,
}

impl Name {
    fn pointer(&mut self, given: bool) -> *mut sockaddr {
        if given { self.bytes.as_mut_ptr().cast() } else { core::ptr::null_mut() }
    }
}

/// `recvfrom(2)`.
///
/// # Safety
/// 1. As for the C library's function.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn recvfrom(
    fd: i32,
    at: *mut c_void,
    len: size_t,
    flags: i32,
    from: *mut sockaddr,
    from_len: *mut socklen_t,
) -> ssize_t {
    if !absent(at, len) && !absent(from, NAME) && !absent(from_len, size_of::<socklen_t>()) {
        // SAFETY: 1.
        return unsafe {
            real!(recvfrom(fd => i32, at => *mut c_void, len => size_t, flags => i32,
                from => *mut sockaddr, from_len => *mut socklen_t) -> ssize_t)
        };
    }
    let named = !from.is_null();
    let (mut name, mut room) = (Name { bytes: [0; NAME], len: NAME as socklen_t }, 0);
    let bytes = size_of::<socklen_t>();
    // SAFETY: a local; 1.
    if named && unsafe { copy_some((&raw mut room).cast(), from_len.cast(), bytes) } != bytes {
        return fail(libc::EFAULT);
    }
    // SAFETY: our buffers; 1.
    let came = unsafe {
        get(&[vector::one(at, len)], kind_with(fd, flags), |at, len, _| {
            let to = name.pointer(named);
            let to_len = if named { &raw mut name.len } else { core::ptr::null_mut() };
            real!(recvfrom(fd => i32, at => *mut c_void, len => size_t, flags => i32,
                to => *mut sockaddr, to_len => *mut socklen_t) -> ssize_t)
        })
    };
    if came >= 0 && named {
        let n = (room as usize).min(name.len as usize).min(NAME);
        // SAFETY: locals; 1.
        let put = unsafe {
            copy_some(from.cast(), name.bytes.as_ptr(), n) == n
                && copy_some(from_len.cast(), (&raw const name.len).cast(), bytes) == bytes
        };
        if !put {
            return fail(libc::EFAULT);
        }
    }
    came
}

/// `sendto(2)`.
///
/// # Safety
/// 1. As for the C library's function.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn sendto(
    fd: i32,
    at: *const c_void,
    len: size_t,
    flags: i32,
    to: *const sockaddr,
    to_len: socklen_t,
) -> ssize_t {
    if !absent(at, len) && !absent(to, to_len as usize) {
        // SAFETY: 1.
        return unsafe {
            real!(sendto(fd => i32, at => *const c_void, len => size_t, flags => i32,
                to => *const sockaddr, to_len => socklen_t) -> ssize_t)
        };
    }
    if flags & ZEROCOPY != 0 {
        return fail(libc::ENOBUFS);
    }
    if to_len as usize > NAME {
        return fail(libc::EINVAL);
    }
    let mut name = Name { bytes: [0; NAME], len: to_len };
    let n = if to.is_null() { 0 } else { to_len as usize };
    // SAFETY: a local; 1.
    if unsafe { copy_some(name.bytes.as_mut_ptr(), to.cast(), n) } != n {
        return fail(libc::EFAULT);
    }
    let kind = kind_with(fd, flags);
    // SAFETY: our buffers; 1.
    unsafe {
        put(&[vector::one(at, len)], kind, |at, len, _| {
            let to = name.pointer(!to.is_null());
            real!(sendto(fd => i32, at => *const c_void, len => size_t, flags => i32,
                to => *const sockaddr, to_len => socklen_t) -> ssize_t)
        })
    }
}

/// A program's message, taken over: its header, and what Linux gets instead.
struct Message {
    theirs: msghdr,
    vector: Vector,
    name: Name,
    control: Option<Buffer>,
}

impl Message {
    /// Takes the message over if a part of it is in the window; `None`: Linux may have it.
    ///
    /// # Safety
    /// 1. As for `recvmsg` and `sendmsg`.
    unsafe fn taken(at: *const msghdr, outgoing: bool) -> Option<Result<Message, i32>> {
        if !super::by_signal() || at.is_null() {
            return None;
        }
        let mut theirs = core::mem::MaybeUninit::<msghdr>::uninit();
        let bytes = size_of::<msghdr>();
        // SAFETY: a local; 1.
        if unsafe { copy_some(theirs.as_mut_ptr().cast(), at.cast(), bytes) } != bytes {
            return None;
        }
        // SAFETY: any bytes are one.
        let h = unsafe { theirs.assume_init() };
        let beside = absent(at, bytes)
            || absent(h.msg_name, h.msg_namelen as usize)
            || absent(h.msg_control, h.msg_controllen);
        let count = i32::try_from(h.msg_iovlen).unwrap_or(i32::MAX);
        // SAFETY: 1.
        let vector = match unsafe { Vector::taken(h.msg_iov, count) } {
            Some(v) => v,
            None if !beside => return None,
            // SAFETY: 1.
            None => match unsafe { Vector::any(h.msg_iov, count) } {
                Ok(v) => v,
                Err(e) => return Some(Err(e)),
            },
        };
        let name = Name { bytes: [0; NAME], len: (h.msg_namelen as usize).min(NAME) as socklen_t };
        let mut m = Message { theirs: h, vector, name, control: None };
        if !h.msg_control.is_null() && h.msg_controllen != 0 {
            let Some(buffer) = Buffer::take(h.msg_controllen, true) else { return Some(Err(libc::ENOMEM)) };
            m.control = Some(buffer);
        }
        // SAFETY: 1; our buffers are as long.
        if outgoing && !unsafe { m.fetch() } {
            m.release();
            return Some(Err(libc::EFAULT));
        }
        Some(Ok(m))
    }

    /// Copies address and control data of a message that goes.
    ///
    /// # Safety
    /// 1. As for `sendmsg`.
    unsafe fn fetch(&mut self) -> bool {
        let n = if self.theirs.msg_name.is_null() { 0 } else { self.name.len as usize };
        // SAFETY: 1, and our own buffers.
        unsafe {
            copy_some(self.name.bytes.as_mut_ptr(), self.theirs.msg_name.cast(), n) == n
                && self
                    .control
                    .as_ref()
                    .is_none_or(|c| copy_some(c.as_ptr(), self.theirs.msg_control.cast(), c.len()) == c.len())
        }
    }

    /// A header of our own buffers, for `part`.
    fn header(&mut self, part: &mut libc::iovec) -> msghdr {
        let mut h = self.theirs;
        h.msg_name = self.name.pointer(!self.theirs.msg_name.is_null()).cast();
        h.msg_namelen = self.name.len;
        (h.msg_iov, h.msg_iovlen) = (part, 1);
        h.msg_control = self.control.as_ref().map_or(core::ptr::null_mut(), Buffer::as_void);
        h
    }

    fn release(self) {
        if let Some(buffer) = self.control {
            buffer.release();
        }
    }
}

impl Vector {
    /// # Safety
    /// 1. As for [`Vector::taken`].
    unsafe fn any(at: *const libc::iovec, count: i32) -> Result<Vector, i32> {
        // SAFETY: 1.
        unsafe { Vector::copied(at, count) }.ok_or(if (0..=1024).contains(&count) {
            libc::EFAULT
        } else {
            libc::EMSGSIZE
        })
    }
}

/// `recvmsg(2)`.
///
/// # Safety
/// 1. As for the C library's function.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn recvmsg(fd: i32, at: *mut msghdr, flags: i32) -> ssize_t {
    // SAFETY: 1.
    let mut m = match unsafe { Message::taken(at, false) } {
        // SAFETY: 1.
        None => return unsafe { real!(recvmsg(fd => i32, at => *mut msghdr, flags => i32) -> ssize_t) },
        Some(Err(e)) => return fail(e),
        Some(Ok(m)) => m,
    };
    let mut got = m.theirs;
    let vector = core::mem::replace(&mut m.vector, Vector::empty());
    // SAFETY: our buffers; 1.
    let came = unsafe {
        get(vector.parts(), kind_with(fd, flags), |at, len, _| {
            let mut part = vector::one(at, len);
            got = m.header(&mut part);
            real!(recvmsg(fd => i32, &raw mut got => *mut msghdr, flags => i32) -> ssize_t)
        })
    };
    let mut result = came;
    if came >= 0 {
        let back = msghdr {
            msg_name: m.theirs.msg_name,
            msg_iov: m.theirs.msg_iov,
            msg_iovlen: m.theirs.msg_iovlen,
            msg_control: m.theirs.msg_control,
            ..got
        };
        let named = (got.msg_namelen as usize).min(m.name.len as usize);
        let named = if m.theirs.msg_name.is_null() { 0 } else { named };
        // SAFETY: our buffers; 1.
        let put = unsafe {
            copy_some(m.theirs.msg_name.cast(), m.name.bytes.as_ptr(), named) == named
                && m.control.as_ref().is_none_or(|c| {
                    let n = got.msg_controllen.min(c.len());
                    copy_some(m.theirs.msg_control.cast(), c.as_ptr(), n) == n
                })
                && copy_some(at.cast(), (&raw const back).cast(), size_of::<msghdr>()) == size_of::<msghdr>()
        };
        if !put {
            result = fail(libc::EFAULT);
        }
    }
    m.release();
    result
}

/// `sendmsg(2)`.
///
/// # Safety
/// 1. As for the C library's function.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn sendmsg(fd: i32, at: *const msghdr, flags: i32) -> ssize_t {
    // SAFETY: 1.
    let mut m = match unsafe { Message::taken(at, true) } {
        // SAFETY: 1.
        None => return unsafe { real!(sendmsg(fd => i32, at => *const msghdr, flags => i32) -> ssize_t) },
        Some(Err(e)) => return fail(e),
        Some(Ok(m)) => m,
    };
    if flags & ZEROCOPY != 0 {
        m.release();
        return fail(libc::ENOBUFS);
    }
    let vector = core::mem::replace(&mut m.vector, Vector::empty());
    // SAFETY: our buffers; 1.
    let went = unsafe {
        put(vector.parts(), kind_with(fd, flags), |at, len, done| {
            let mut part = vector::one(at, len);
            let mut h = m.header(&mut part);
            if done != 0 {
                // Descriptors and the like went with the first bytes.
                (h.msg_control, h.msg_controllen) = (core::ptr::null_mut(), 0);
            }
            real!(sendmsg(fd => i32, &raw const h => *const msghdr, flags => i32) -> ssize_t)
        })
    };
    m.release();
    went
}

/// What `recv` becomes with `_FORTIFY_SOURCE`.
///
/// # Safety
/// 1. As for `recv`; the object has `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn __recv_chk(
    fd: i32,
    at: *mut c_void,
    len: size_t,
    size: size_t,
    flags: i32,
) -> ssize_t {
    // SAFETY: 1.
    unsafe {
        if absent(at, len) && len <= size {
            return recv(fd, at, len, flags);
        }
        real!(__recv_chk(fd => i32, at => *mut c_void, len => size_t, size => size_t, flags => i32) -> ssize_t)
    }
}

/// What `recvfrom` becomes with `_FORTIFY_SOURCE`.
///
/// # Safety
/// 1. As for `recvfrom`; the object has `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn __recvfrom_chk(
    fd: i32,
    at: *mut c_void,
    len: size_t,
    size: size_t,
    flags: i32,
    from: *mut sockaddr,
    from_len: *mut socklen_t,
) -> ssize_t {
    // SAFETY: 1.
    unsafe {
        if len <= size {
            return recvfrom(fd, at, len, flags, from, from_len);
        }
        real!(__recvfrom_chk(fd => i32, at => *mut c_void, len => size_t, size => size_t, flags => i32,
            from => *mut sockaddr, from_len => *mut socklen_t) -> ssize_t)
    }
}
