//! The buffers of a call as one sequence of bytes.

use core::mem::MaybeUninit;

use libc::iovec;
use machvm_hal::Prot;
use machvm_linux::library::copy_some;

use super::{absent, accessible};

/// `IOV_MAX`.
const MOST: usize = 1024;

/// One buffer as a vector.
pub(super) fn one(at: *const libc::c_void, len: usize) -> iovec {
    iovec { iov_base: at.cast_mut(), iov_len: len }
}

/// A program's vector, copied: it may lie in the window itself, and change meanwhile.
pub(super) struct Vector {
    parts: [MaybeUninit<iovec>; MOST],
    count: usize,
}

impl Vector {
    /// Copies it if the call has to be taken over: the vector or a part of it is in the
    /// window. `None`: Linux may have it as it is.
    ///
    /// # Safety
    /// 1. As for [`Vector::copied`].
    #[inline]
    pub(super) unsafe fn taken(at: *const iovec, count: i32) -> Option<Vector> {
        if !super::by_signal() {
            return None;
        }
        // SAFETY: 1.
        let v = unsafe { Vector::copied(at, count) }?;
        let taken = absent(at, v.count * size_of::<iovec>())
            || v.parts().iter().any(|p| absent(p.iov_base, p.iov_len));
        taken.then_some(v)
    }

    /// Copies it. `None`: Linux would refuse the vector.
    ///
    /// # Safety
    /// 1. `at` is a vector that the program gave a system call.
    pub(super) unsafe fn copied(at: *const iovec, count: i32) -> Option<Vector> {
        let count = usize::try_from(count).ok().filter(|n| *n <= MOST)?;
        let mut v = Vector { parts: [const { MaybeUninit::uninit() }; MOST], count };
        let bytes = count * size_of::<iovec>();
        // SAFETY: 1; the array has room.
        let good = unsafe { copy_some(v.parts.as_mut_ptr().cast(), at.cast(), bytes) } == bytes;
        good.then_some(v)
    }

    /// Of nothing.
    pub(super) fn empty() -> Vector {
        Vector { parts: [const { MaybeUninit::uninit() }; MOST], count: 0 }
    }

    pub(super) fn parts(&self) -> &[iovec] {
        // SAFETY: so many were copied; any bytes are a vector.
        unsafe { core::slice::from_raw_parts(self.parts.as_ptr().cast(), self.count) }
    }
}

/// Bytes of all parts; `None`: more than a call can return.
pub(super) fn total(parts: &[iovec]) -> Option<usize> {
    let sum = parts.iter().try_fold(0usize, |n, p| n.checked_add(p.iov_len))?;
    isize::try_from(sum).is_ok().then_some(sum)
}

/// The parts from byte `skip` of the sequence on, of `len` bytes: address and length.
fn pieces(parts: &[iovec], mut skip: usize, mut len: usize) -> impl Iterator<Item = (*mut u8, usize)> {
    parts.iter().filter_map(move |p| {
        let from = skip.min(p.iov_len);
        skip -= from;
        let n = (p.iov_len - from).min(len);
        len -= n;
        (n != 0).then(|| (p.iov_base.cast::<u8>().wrapping_add(from), n))
    })
}

/// Copies up to `len` bytes from byte `skip` on to `to`; gives how many could be read.
///
/// # Safety
/// 1. `to` is good for `len` bytes. 2. The program gave the parts to be read.
pub(super) unsafe fn gather(parts: &[iovec], skip: usize, to: *mut u8, len: usize) -> usize {
    let mut done = 0;
    for (at, n) in pieces(parts, skip, len) {
        // SAFETY: 1, 2.
        let got = unsafe { copy_some(to.add(done), at, n) };
        done += got;
        if got < n {
            break;
        }
    }
    done
}

/// Copies `len` bytes from `from` to byte `skip` on; gives how many could be written.
///
/// # Safety
/// 1. `from` is good for `len` bytes. 2. The program gave the parts to be written.
pub(super) unsafe fn scatter(parts: &[iovec], skip: usize, from: *const u8, len: usize) -> usize {
    let mut done = 0;
    for (at, n) in pieces(parts, skip, len) {
        // SAFETY: 1, 2.
        let put = unsafe { copy_some(at, from.add(done), n) };
        done += put;
        if put < n {
            break;
        }
    }
    done
}

/// How many bytes from byte `skip` on, of at most `len`, may be written.
pub(super) fn writable(parts: &[iovec], skip: usize, len: usize) -> usize {
    let mut sum = 0;
    for (at, n) in pieces(parts, skip, len) {
        let good = accessible(at.addr(), n, Prot::W);
        sum += good;
        if good < n {
            break;
        }
    }
    sum
}
