//! read, write and their kin.

use core::ffi::c_void;

use libc::{iovec, off_t, size_t, ssize_t};

use super::buffer::Buffer;
use super::real::real;
use super::vector::{self, Vector};
use super::{absent, fail};

/// What a descriptor does with a transfer that is larger than a buffer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A file: all of it comes or goes, in as many calls as it takes.
    File,
    /// A stream (a pipe, a stream socket): bytes without borders. All of it goes; what is
    /// there comes.
    Flow,
    /// Anything else: one call is one message.
    Message,
}

/// What stands behind a descriptor.
pub(super) fn kind(fd: i32) -> Kind {
    let mut st = core::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: room for one.
    if unsafe { libc::fstat(fd, st.as_mut_ptr()) } != 0 {
        return Kind::Message; // the call itself says what is wrong
    }
    // SAFETY: filled.
    match unsafe { st.assume_init() }.st_mode & libc::S_IFMT {
        libc::S_IFREG | libc::S_IFBLK => Kind::File,
        libc::S_IFIFO => Kind::Flow,
        libc::S_IFSOCK => {
            let (mut of, mut len) = (0i32, size_of::<i32>() as libc::socklen_t);
            // SAFETY: room for a number.
            let asked = unsafe {
                libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_TYPE, (&raw mut of).cast(), &raw mut len)
            };
            if asked == 0 && of == libc::SOCK_STREAM { Kind::Flow } else { Kind::Message }
        }
        _ => Kind::Message,
    }
}

/// Writes the parts by `call`, which gets a buffer, its length, and how many bytes went
/// before. Gives what the program's call returns, with `errno`.
///
/// # Safety
/// 1. The program gave the parts to be read.
pub(super) unsafe fn put(
    parts: &[iovec],
    kind: Kind,
    mut call: impl FnMut(*mut c_void, usize, usize) -> ssize_t,
) -> ssize_t {
    let Some(total) = vector::total(parts) else { return fail(libc::EINVAL) };
    let Some(buffer) = Buffer::take(total, kind == Kind::Message) else { return fail(libc::ENOMEM) };
    let mut done = 0;
    let result = loop {
        let want = (total - done).min(buffer.len());
        // SAFETY: the buffer's length; 1.
        let got = unsafe { vector::gather(parts, done, buffer.as_ptr(), want) };
        if got == 0 && want != 0 || got < want && kind == Kind::Message {
            break if done != 0 { done as ssize_t } else { fail(libc::EFAULT) };
        }
        let went = call(buffer.as_void(), got, done);
        if went < 0 {
            break if done != 0 { done as ssize_t } else { went };
        }
        done += went as usize;
        if (went as usize) < want || done == total {
            break done as ssize_t;
        }
    };
    buffer.release();
    result
}

/// Reads into the parts by `call`, as [`put`] writes. Nothing is asked for that could not be
/// stored: it would be lost.
///
/// # Safety
/// 1. The program gave the parts to be written.
pub(super) unsafe fn get(
    parts: &[iovec],
    kind: Kind,
    mut call: impl FnMut(*mut c_void, usize, usize) -> ssize_t,
) -> ssize_t {
    let Some(total) = vector::total(parts) else { return fail(libc::EINVAL) };
    let Some(buffer) = Buffer::take(total, kind == Kind::Message) else { return fail(libc::ENOMEM) };
    let mut done = 0;
    let result = loop {
        let want = (total - done).min(buffer.len());
        let good = vector::writable(parts, done, want);
        if good == 0 && want != 0 {
            break if done != 0 { done as ssize_t } else { fail(libc::EFAULT) };
        }
        // A message is not cut where it might fit.
        let ask = if kind == Kind::Message { want } else { good };
        let came = call(buffer.as_void(), ask, done);
        if came < 0 {
            break if done != 0 { done as ssize_t } else { came };
        }
        // More than asked for: the length of a message that was cut (MSG_TRUNC).
        let stored = (came as usize).min(ask);
        // SAFETY: so much is in the buffer; 1.
        let put = unsafe { vector::scatter(parts, done, buffer.as_ptr(), stored) };
        if put < stored {
            done += put;
            break if done != 0 && kind != Kind::Message { done as ssize_t } else { fail(libc::EFAULT) };
        }
        done += came as usize;
        if kind != Kind::File || (came as usize) < want || done >= total {
            break done as ssize_t;
        }
    };
    buffer.release();
    result
}

/// `read(2)`.
///
/// # Safety
/// 1. As for the C library's function.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn read(fd: i32, at: *mut c_void, len: size_t) -> ssize_t {
    // SAFETY: 1, with the program's buffer or ours.
    let call = |at, len, _| unsafe { real!(read(fd => i32, at => *mut c_void, len => size_t) -> ssize_t) };
    if !absent(at, len) {
        return call(at, len, 0);
    }
    // SAFETY: 1.
    unsafe { get(&[vector::one(at, len)], kind(fd), call) }
}

/// `write(2)`.
///
/// # Safety
/// 1. As for the C library's function.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn write(fd: i32, at: *const c_void, len: size_t) -> ssize_t {
    // SAFETY: 1, with the program's buffer or ours.
    let call = |at, len, _| unsafe { real!(write(fd => i32, at => *mut c_void, len => size_t) -> ssize_t) };
    if !absent(at, len) {
        return call(at.cast_mut(), len, 0);
    }
    // SAFETY: 1.
    unsafe { put(&[vector::one(at, len)], kind(fd), call) }
}

/// Functions that read or write at an offset: name, what they do, the type of the buffer.
macro_rules! at_offset {
    ($($name:ident $how:ident $at:ty, $vname:ident;)*) => {$(
        #[doc = concat!("`", stringify!($name), "(2)`.")]
        ///
        /// # Safety
        /// 1. As for the C library's function.
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name(fd: i32, at: $at, len: size_t, offset: off_t) -> ssize_t {
            let at = at.cast_mut();
            // SAFETY: 1, with the program's buffer or ours.
            let call = |at, len, done: usize| unsafe {
                let offset = offset.wrapping_add(done as off_t);
                real!($name(fd => i32, at => *mut c_void, len => size_t, offset => off_t) -> ssize_t)
            };
            if !absent(at, len) {
                return call(at, len, 0);
            }
            // SAFETY: 1.
            unsafe { $how(&[vector::one(at, len)], kind(fd), call) }
        }

        #[doc = concat!("`", stringify!($vname), "(2)`.")]
        ///
        /// # Safety
        /// 1. As for the C library's function.
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $vname(fd: i32, at: *const iovec, count: i32, offset: off_t) -> ssize_t {
            // SAFETY: 1.
            let Some(v) = (unsafe { Vector::taken(at, count) }) else {
                // SAFETY: 1.
                return unsafe {
                    real!($vname(fd => i32, at => *const iovec, count => i32, offset => off_t) -> ssize_t)
                };
            };
            // SAFETY: 1, with our buffer.
            unsafe {
                $how(v.parts(), kind(fd), |at, len, done| {
                    let (part, offset) = (vector::one(at, len), offset.wrapping_add(done as off_t));
                    real!($vname(fd => i32, &raw const part => *const iovec, 1 => i32, offset => off_t) -> ssize_t)
                })
            }
        }
    )*};
}

at_offset! {
    pread get *const c_void, preadv;
    pread64 get *const c_void, preadv64;
    pwrite put *const c_void, pwritev;
    pwrite64 put *const c_void, pwritev64;
}

/// `readv(2)`.
///
/// # Safety
/// 1. As for the C library's function.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn readv(fd: i32, at: *const iovec, count: i32) -> ssize_t {
    // SAFETY: 1; or one vector, of our buffer.
    unsafe {
        let Some(v) = Vector::taken(at, count) else {
            return real!(readv(fd => i32, at => *const iovec, count => i32) -> ssize_t);
        };
        get(
            v.parts(),
            kind(fd),
            |at, len, _| real!(read(fd => i32, at => *mut c_void, len => size_t) -> ssize_t),
        )
    }
}

/// `writev(2)`.
///
/// # Safety
/// 1. As for the C library's function.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn writev(fd: i32, at: *const iovec, count: i32) -> ssize_t {
    // SAFETY: 1; or one vector, of our buffer.
    unsafe {
        let Some(v) = Vector::taken(at, count) else {
            return real!(writev(fd => i32, at => *const iovec, count => i32) -> ssize_t);
        };
        put(
            v.parts(),
            kind(fd),
            |at, len, _| real!(write(fd => i32, at => *mut c_void, len => size_t) -> ssize_t),
        )
    }
}

/// What `read` becomes with `_FORTIFY_SOURCE`.
///
/// # Safety
/// 1. As for `read`; the object has `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn __read_chk(fd: i32, at: *mut c_void, len: size_t, size: size_t) -> ssize_t {
    // SAFETY: 1.
    unsafe {
        if absent(at, len) && len <= size {
            return read(fd, at, len);
        }
        real!(__read_chk(fd => i32, at => *mut c_void, len => size_t, size => size_t) -> ssize_t)
    }
}

/// What `pread` becomes with `_FORTIFY_SOURCE`.
///
/// # Safety
/// 1. As for `pread`; the object has `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn __pread_chk(
    fd: i32,
    at: *mut c_void,
    len: size_t,
    offset: off_t,
    size: size_t,
) -> ssize_t {
    // SAFETY: 1.
    unsafe {
        if absent(at, len) && len <= size {
            return pread(fd, at, len, offset);
        }
        real!(__pread_chk(fd => i32, at => *mut c_void, len => size_t, offset => off_t, size => size_t) -> ssize_t)
    }
}

/// What `pread64` becomes with `_FORTIFY_SOURCE`.
///
/// # Safety
/// 1. As for `pread64`; the object has `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn __pread64_chk(
    fd: i32,
    at: *mut c_void,
    len: size_t,
    offset: off_t,
    size: size_t,
) -> ssize_t {
    // SAFETY: 1.
    unsafe { __pread_chk(fd, at, len, offset, size) }
}
