//! Frames that several processes have: further memfds beside the process's own.
//!
//! Memory that a child of `fork(2)` is to share with its parent is moved into such a file
//! before the fork, and stays there ([`Vm::object_rehome`](machvm::Vm::object_rehome)).
//! Each process names the file's pages by frame numbers of its own; what is one file for
//! both is the kernel's to keep. So nobody discards a frame here: another process may have
//! it. The memory goes with the file, when the last process lets go of it.

use std::io;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64};

use machvm_hal::{PAGE_SIZE, Pfn};

use crate::sys;

/// The first frame number that names a page of such a file.
pub(crate) const FIRST: u64 = 1 << 49;
/// Frame numbers of one file.
const PAGES: u64 = 1 << 40;
/// Files at once.
const FILES: usize = 256;
/// No file.
const NONE: RawFd = -1;

struct File {
    /// [`NONE`], or the descriptor, which is ours.
    fd: AtomicI32,
    /// Pages that were given out.
    used: AtomicU64,
    /// Extents in use here. The file is closed with the last.
    extents: AtomicU32,
}

/// See the module text.
pub(crate) struct Commons {
    files: [File; FILES],
}

/// Is the frame another process's too?
pub(crate) const fn is_common(frame: Pfn) -> bool {
    frame.0 >= FIRST
}

impl Commons {
    pub(crate) fn new() -> Self {
        let file = || File { fd: AtomicI32::new(NONE), used: AtomicU64::new(0), extents: AtomicU32::new(0) };
        Commons { files: core::array::from_fn(|_| file()) }
    }

    fn file_of(&self, frame: Pfn) -> Option<(&File, u64)> {
        let n = frame.0.checked_sub(FIRST)?;
        Some((self.files.get((n / PAGES) as usize)?, n % PAGES))
    }

    /// The descriptor and the byte in its file where a common frame is.
    pub(crate) fn locate(&self, frame: Pfn) -> Option<(RawFd, u64)> {
        let (file, page) = self.file_of(frame)?;
        Some((file.fd.load(Acquire), page * PAGE_SIZE))
    }

    /// A new file, with nothing in it; its number. [`Commons::close_unused`] must follow.
    ///
    /// # Errors
    /// What `memfd_create` and `ftruncate` say; ENFILE: there are 256 already.
    pub(crate) fn open(&self) -> io::Result<usize> {
        let full = io::Error::from_raw_os_error(libc::ENFILE);
        let number = self.files.iter().position(|f| f.fd.load(Acquire) == NONE).ok_or(full)?;
        let fd = sys::memfd_create(c"machvm-shared")?;
        sys::ftruncate(fd.as_raw_fd(), (PAGES * PAGE_SIZE).cast_signed())?;
        let file = &self.files[number];
        file.used.store(0, Relaxed);
        file.extents.store(0, Relaxed);
        file.fd.store(fd.into_raw_fd(), Release);
        Ok(number)
    }

    /// Frames of a file that nobody has yet. `None`: it has not so many left.
    pub(crate) fn reserve(&self, number: usize, pages: u64) -> Option<Pfn> {
        let file = &self.files[number];
        let at = file.used.load(Relaxed);
        let end = at.checked_add(pages).filter(|e| *e <= PAGES)?;
        file.used.store(end.next_multiple_of(512), Relaxed);
        file.extents.fetch_add(1, Relaxed);
        Some(Pfn(FIRST + number as u64 * PAGES + at))
    }

    /// Undoes [`Commons::reserve`] when this process has no more use for the frames.
    pub(crate) fn release(&self, base: Pfn) {
        let Some((file, _)) = self.file_of(base) else { return };
        if file.extents.fetch_sub(1, AcqRel) == 1 {
            self.close(file);
        }
    }

    /// Closes the file if nothing in it is in use.
    pub(crate) fn close_unused(&self, number: usize) {
        let file = &self.files[number];
        if file.extents.load(Acquire) == 0 {
            self.close(file);
        }
    }

    fn close(&self, file: &File) {
        use std::os::fd::FromRawFd;
        let fd = file.fd.swap(NONE, AcqRel);
        if fd != NONE {
            // SAFETY: the descriptor that `open` made, which is nobody's any more.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
        }
    }
}

impl Drop for Commons {
    fn drop(&mut self) {
        self.files.iter().for_each(|f| self.close(f));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_lives_as_long_as_its_extents() {
        let c = Commons::new();
        let one = c.open().expect("memfd");
        let (a, b) = (c.reserve(one, 10).expect("room"), c.reserve(one, 513).expect("room"));
        assert!(is_common(a) && is_common(b) && a != b && a.0 % 512 == 0 && b.0 % 512 == 0);
        assert!(c.reserve(one, PAGES).is_none(), "not so many left");
        let (fd, byte) = c.locate(b.add(3)).expect("common");
        assert!(fd >= 0 && byte == (512 + 3) * PAGE_SIZE);
        c.release(a);
        c.close_unused(one);
        assert_eq!(c.locate(b).map(|(f, _)| f), Some(fd), "still in use");
        c.release(b);
        assert_eq!(c.locate(b).map(|(f, _)| f), Some(NONE));
        let two = c.open().expect("memfd");
        assert_eq!(two, one, "the number is free again");
        c.close_unused(two);
        assert_eq!(c.locate(Pfn(FIRST - 1)), None);
    }
}
