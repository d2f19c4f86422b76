//! The stdio functions that hand a program's own memory to Linux.
//!
//! The C library moves small pieces through a stream's buffer, with instructions; large ones
//! it gives to Linux as they are. So these go through a buffer of ours; functions that only
//! move bytes (`fgets`, `getline`) need nothing.

use core::ffi::{c_char, c_void};

use libc::{FILE, size_t};

use super::buffer::Buffer;
use super::real::real;
use super::{absent, fail, vector};

unsafe extern "C-unwind" {
    static stdout: *mut FILE;
    fn flockfile(file: *mut FILE);
    fn funlockfile(file: *mut FILE);
    fn ferror(file: *mut FILE) -> i32;
}

/// Bytes of `count` things, if there can be so many.
fn bytes(size: usize, count: usize) -> Option<usize> {
    size.checked_mul(count).filter(|n| *n != 0)
}

/// Reads bytes.
///
/// # Safety
/// 1. The program gave the memory to be written. 2. The stream is one.
unsafe fn get(at: *mut c_void, len: usize, file: *mut FILE) -> usize {
    let part = [vector::one(at, len)];
    let Some(buffer) = Buffer::take(len, false) else { return 0 };
    let mut done = 0;
    // SAFETY: 1, 2, and our own buffer.
    unsafe {
        flockfile(file);
        while done < len {
            let ask = vector::writable(&part, done, buffer.len());
            if ask == 0 {
                fail(libc::EFAULT);
                break;
            }
            let to = buffer.as_void();
            let came =
                real!(fread(to => *mut c_void, 1 => size_t, ask => size_t, file => *mut FILE) -> size_t);
            let put = vector::scatter(&part, done, buffer.as_ptr(), came);
            done += put;
            if put < ask {
                break;
            }
        }
        funlockfile(file);
    }
    buffer.release();
    done
}

/// Writes bytes.
///
/// # Safety
/// 1. The program gave the memory to be read. 2. The stream is one.
unsafe fn put(at: *const c_void, len: usize, file: *mut FILE) -> usize {
    let part = [vector::one(at, len)];
    let Some(buffer) = Buffer::take(len, false) else { return 0 };
    let mut done = 0;
    // SAFETY: 1, 2, and our own buffer.
    unsafe {
        flockfile(file);
        while done < len {
            let n = vector::gather(&part, done, buffer.as_ptr(), buffer.len().min(len - done));
            if n == 0 {
                fail(libc::EFAULT);
                break;
            }
            let from = buffer.as_void();
            let went =
                real!(fwrite(from => *mut c_void, 1 => size_t, n => size_t, file => *mut FILE) -> size_t);
            done += went;
            if went < n {
                break;
            }
        }
        funlockfile(file);
    }
    buffer.release();
    done
}

/// `fread(3)` and `fwrite(3)`, each with its unlocked twin: a stream that is locked once
/// more is no slower for it.
macro_rules! blocks {
    ($($name:ident $how:ident $at:ty;)*) => {$(
        #[doc = concat!("`", stringify!($name), "(3)`.")]
        ///
        /// # Safety
        /// 1. As for the C library's function.
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name(at: $at, size: size_t, count: size_t, file: *mut FILE) -> size_t {
            // SAFETY: 1.
            unsafe {
                match bytes(size, count) {
                    Some(len) if absent(at, len) => $how(at, len, file) / size,
                    _ => real!($name(at => $at, size => size_t, count => size_t, file => *mut FILE) -> size_t),
                }
            }
        }
    )*};
}

blocks! {
    fread get *mut c_void;
    fread_unlocked get *mut c_void;
    fwrite put *const c_void;
    fwrite_unlocked put *const c_void;
}

/// What `fread` becomes with `_FORTIFY_SOURCE`.
///
/// # Safety
/// 1. As for `fread`; the object has `room` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn __fread_chk(
    at: *mut c_void,
    room: size_t,
    size: size_t,
    count: size_t,
    file: *mut FILE,
) -> size_t {
    // SAFETY: 1.
    unsafe {
        match bytes(size, count) {
            Some(len) if absent(at, len) && len <= room => get(at, len, file) / size,
            _ => real!(__fread_chk(at => *mut c_void, room => size_t, size => size_t, count => size_t,
                file => *mut FILE) -> size_t),
        }
    }
}

/// Length of a string in the window.
///
/// # Safety
/// 1. It is a string, or its end is a fault's to find.
unsafe fn length(s: *const c_char) -> usize {
    // SAFETY: 1.
    unsafe { libc::strlen(s) }
}

/// `fputs(3)`.
///
/// # Safety
/// 1. As for the C library's function.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn fputs(s: *const c_char, file: *mut FILE) -> i32 {
    // SAFETY: 1.
    unsafe {
        if !absent(s, 1) {
            return real!(fputs(s => *const c_char, file => *mut FILE) -> i32);
        }
        let len = length(s);
        if put(s.cast(), len, file) == len { 1 } else { libc::EOF }
    }
}

/// `fputs_unlocked(3)`.
///
/// # Safety
/// 1. As for the C library's function.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn fputs_unlocked(s: *const c_char, file: *mut FILE) -> i32 {
    // SAFETY: 1.
    unsafe { fputs(s, file) }
}

/// `puts(3)`.
///
/// # Safety
/// 1. As for the C library's function.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn puts(s: *const c_char) -> i32 {
    // SAFETY: 1; the C library's own stream.
    unsafe {
        if !absent(s, 1) {
            return real!(puts(s => *const c_char) -> i32);
        }
        let file = stdout;
        flockfile(file);
        let len = length(s);
        let newline = c"\n".as_ptr();
        let end = if put(s.cast(), len, file) == len {
            real!(fputs(newline => *const c_char, file => *mut FILE) -> i32)
        } else {
            libc::EOF
        };
        funlockfile(file);
        if end < 0 || ferror(file) != 0 { libc::EOF } else { 1 }
    }
}

/// `setvbuf(3)`. A stream's buffer is given to Linux: one in the window is not used, and the
/// stream gets one of its own, of the same kind.
///
/// # Safety
/// 1. As for the C library's function.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn setvbuf(file: *mut FILE, at: *mut c_char, mode: i32, size: size_t) -> i32 {
    let at = if absent(at, size) { core::ptr::null_mut() } else { at };
    // SAFETY: 1.
    unsafe { real!(setvbuf(file => *mut FILE, at => *mut c_char, mode => i32, size => size_t) -> i32) }
}

/// `setbuf(3)`, as [`setvbuf`].
///
/// # Safety
/// 1. As for the C library's function.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn setbuf(file: *mut FILE, at: *mut c_char) {
    let size = libc::BUFSIZ as usize;
    // SAFETY: 1.
    unsafe {
        if absent(at, size) {
            setvbuf(file, at, libc::_IOFBF, size);
        } else {
            real!(setbuf(file => *mut FILE, at => *mut c_char) -> ());
        }
    }
}
