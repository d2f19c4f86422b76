//! Linux's calls for memory, on memory of the window: the VM carries them out.
//!
//! A range that has parts on both sides is done part by part, from its start on; Linux too
//! leaves what came before an error done.

use core::ffi::c_void;

use libc::{off_t, size_t};
use machvm_hal::PAGE_SIZE;
use machvm_linux::Task;
use machvm_linux::library::copy_some;

use super::real::real;
use super::{fail, ours};
use crate::outside::{Part, parts};
use crate::world::made;

const PAGE: usize = PAGE_SIZE as usize;

/// Makes a call for each part of a range.
fn each(
    at: *const c_void,
    len: usize,
    mut inside: impl FnMut(&Task, usize, usize) -> Result<(), i32>,
    outside: impl Fn(*mut c_void, usize) -> i32,
) -> i32 {
    let addr = at.addr();
    let Some(world) = made().filter(|_| addr.checked_add(len).is_some()) else {
        return fail(libc::ENOMEM) as i32;
    };
    for part in parts(addr as u64, len as u64) {
        let failed = match part {
            Part::Inside(a, n) => match inside(&world.own().task, a as usize, n as usize) {
                Ok(()) => 0,
                Err(e) => fail(e) as i32,
            },
            Part::Outside(a, end) => {
                outside(core::ptr::with_exposed_provenance_mut(a as usize), (end - a) as usize)
            }
        };
        if failed != 0 {
            return failed;
        }
    }
    0
}

/// Calls that are given a range and perhaps a number.
macro_rules! ranges {
    ($($name:ident($at:ty $(, $more:ident: $type:ty)?) by $how:ident;)*) => {$(
        #[doc = concat!("`", stringify!($name), "(2)`.")]
        ///
        /// # Safety
        /// 1. As for the C library's function.
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name(at: $at, len: size_t $(, $more: $type)?) -> i32 {
            // SAFETY: 1.
            let linux = |at: *mut c_void, len| unsafe {
                real!($name(at => *mut c_void, len => size_t $(, $more => $type)?) -> i32)
            };
            if !ours(at.addr(), len) {
                return linux(at.cast_mut(), len);
            }
            each(at, len, |task, a, n| task.$how(a, n $(, $more)?), linux)
        }
    )*};
}

ranges! {
    mlock(*const c_void) by mlock;
    munlock(*const c_void) by munlock;
    madvise(*const c_void, advice: i32) by madvise;
    msync(*const c_void, flags: i32) by msync;
    mprotect(*const c_void, prot: i32) by mprotect;
    munmap(*const c_void) by munmap;
}

/// `mlock2(2)`. What is locked on fault is not kept: it may be paged out.
///
/// # Safety
/// 1. As for the C library's function.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn mlock2(at: *const c_void, len: size_t, flags: u32) -> i32 {
    const ONFAULT: u32 = 1;
    // SAFETY: 1.
    let linux = |at: *mut c_void, len| unsafe {
        real!(mlock2(at => *mut c_void, len => size_t, flags => u32) -> i32)
    };
    if !ours(at.addr(), len) {
        return linux(at.cast_mut(), len);
    }
    if flags & !ONFAULT != 0 {
        return fail(libc::EINVAL) as i32;
    }
    each(
        at,
        len,
        |task, a, n| if flags == 0 { task.mlock(a, n) } else { task.msync(a & !(PAGE - 1), n, 0) },
        linux,
    )
}

/// `posix_madvise(3)`: returns the error.
///
/// # Safety
/// 1. As for the C library's function.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn posix_madvise(at: *mut c_void, len: size_t, advice: i32) -> i32 {
    if !ours(at.addr(), len) {
        // SAFETY: 1.
        return unsafe { real!(posix_madvise(at => *mut c_void, len => size_t, advice => i32) -> i32) };
    }
    // The numbers are madvise's, but DONTNEED loses nothing there.
    let advice = if advice == libc::POSIX_MADV_DONTNEED { libc::MADV_NORMAL } else { advice };
    if !(0..=4).contains(&advice) {
        return libc::EINVAL;
    }
    // SAFETY: every thread has an errno; 1.
    unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        let failed = madvise(at, len, advice) != 0;
        let e = core::mem::replace(&mut *errno, before);
        if failed { e } else { 0 }
    }
}

/// `mincore(2)`.
///
/// # Safety
/// 1. As for the C library's function.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn mincore(at: *mut c_void, len: size_t, vec: *mut u8) -> i32 {
    // SAFETY: 1.
    let linux = |at: *mut c_void, len, vec| unsafe {
        real!(mincore(at => *mut c_void, len => size_t, vec => *mut u8) -> i32)
    };
    if !ours(at.addr(), len) {
        return linux(at, len, vec);
    }
    if !at.addr().is_multiple_of(PAGE) {
        return fail(libc::EINVAL) as i32;
    }
    let first = at.addr();
    let to = |a: usize| vec.wrapping_add((a - first) / PAGE);
    let inside = |task: &Task, a: usize, n: usize| {
        // In pieces: the answer may be in the window itself, where the VM may not write.
        let mut piece = [0u8; 1024];
        for from in (a..a + n).step_by(piece.len() * PAGE) {
            let some = &mut piece[..(a + n - from).div_ceil(PAGE).min(1024)];
            task.mincore(from, some)?;
            // SAFETY: 1.
            if unsafe { copy_some(to(from), some.as_ptr(), some.len()) } != some.len() {
                return Err(libc::EFAULT);
            }
        }
        Ok(())
    };
    each(at, len, inside, |a, n| linux(a, n, to(a.addr())))
}

/// Maps in two names of one function. A mapping over memory of the window would take it from
/// the VM: refused with EINVAL. As a hint such an address is taken.
macro_rules! maps {
    ($($name:ident)*) => {$(
        #[doc = concat!("`", stringify!($name), "(2)`.")]
        ///
        /// # Safety
        /// 1. As for the C library's function.
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name(
            at: *mut c_void,
            len: size_t,
            prot: i32,
            flags: i32,
            fd: i32,
            offset: off_t,
        ) -> *mut c_void {
            if flags & libc::MAP_FIXED != 0 && ours(at.addr(), len) {
                fail(libc::EINVAL);
                return libc::MAP_FAILED;
            }
            // SAFETY: 1.
            unsafe {
                real!($name(at => *mut c_void, len => size_t, prot => i32, flags => i32, fd => i32,
                    offset => off_t) -> *mut c_void)
            }
        }
    )*};
}

maps! { mmap mmap64 }

/// `mremap(2)`. From the window and into it: refused with EINVAL, as for memory that Linux
/// cannot move.
///
/// # Safety
/// 1. As for the C library's function. The last argument counts with MREMAP_FIXED only.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn mremap(
    at: *mut c_void,
    old: size_t,
    new: size_t,
    flags: i32,
    to: *mut c_void,
) -> *mut c_void {
    let fixed = flags & libc::MREMAP_FIXED != 0;
    if ours(at.addr(), old.max(1)) || fixed && ours(to.addr(), new) {
        fail(libc::EINVAL);
        return libc::MAP_FAILED;
    }
    // SAFETY: 1.
    unsafe {
        real!(mremap(at => *mut c_void, old => size_t, new => size_t, flags => i32, to => *mut c_void) -> *mut c_void)
    }
}
