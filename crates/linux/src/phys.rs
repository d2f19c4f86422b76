//! Physical memory: one memfd, sparsely populated.
//!
//! A frame number is an offset in the file, for ever; a frame is resident when the
//! file has a page there. The file is as long as the kernel lets a file be, so
//! numbers never run short, and what an embedder limits is the number of resident
//! frames.
//!
//! There is no direct map: contents go through `pread` and `pwrite`, and zero frames
//! are holes until a pmap enters them (`UFFDIO_ZEROPAGE`). Nanoseconds a page on a busy 2-CPU virtual machine (compare
//! rows, not machines); `cargo run --release -p machvm-linux --example phys_cost`
//! measures the ways taken, those in italics were measured once, beside them:
//!
//! | in runs of | 1 page | 16 | 512 |
//! |---|---|---|---|
//! | *zero: `fallocate`* | 1970 | 1150 | 1100 |
//! | *zero: `pwrite` of zeros* | 2490 | 1670 | 1660 |
//! | *zero: populate a window mapping* | 3930 | 2850 | 2810 |
//! | read: `pread` | 560 | | |
//! | write: `pwrite` into a resident page | 1060 | | |
//! | write: `pwrite` into a hole | 2460 | | |
//! | discard: punch a hole | 2750 | 700 | 570 |
//!
//! A window would save the copy out of the kernel and cost a native fault (900) for
//! the page, and discarding a frame that is mapped there too costs 300-400 more.
//! `pwrite` into a hole allocates without clearing, so [`PhysMem::prepare`] has
//! nothing to do.
//!
//! Everything may be called from a signal handler and from any number of threads.
//! Allocation, writing and discarding take the file's lock in the kernel.

pub(crate) mod commons;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use machvm_hal::{ExtentError, PAGE_SIZE, Pfn, PhysMem, Placement, PopulateError};
use machvm_sync::{Rank, Spin};

use crate::sys;

use commons::{Commons, is_common};

/// Pages in a window; extents are aligned to it, so that a window of an object is a
/// window of the file.
const WINDOW: u64 = 512;
/// Frame numbers of the file: 2^61 bytes. Those above name pages of other files
/// ([`commons`]).
const FRAMES: u64 = commons::FIRST;
/// Extents of `WINDOW << k` pages for `k` below this.
const CLASSES: usize = 42;
/// Released extents remembered in each class. Those beyond are never used again:
/// 2^41 windows of frame numbers outlast any process.
const KEPT: usize = 64;

/// The frame numbers not in use.
struct Numbers {
    next: u64,
    kept: [[u64; KEPT]; CLASSES],
    len: [usize; CLASSES],
}

/// See the module text.
pub struct LinuxMem {
    file: OwnedFd,
    commons: Arc<Commons>,
    frames: u64,
    numbers: Spin<Numbers>,
}

impl core::fmt::Debug for LinuxMem {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "LinuxMem(fd {}, {} frames)", self.file.as_raw_fd(), self.frames)
    }
}

/// The size class that holds `pages`.
fn class(pages: u64) -> Option<usize> {
    let windows = pages.div_ceil(WINDOW).max(1);
    let class = windows.checked_next_power_of_two()?.trailing_zeros() as usize;
    (class < CLASSES).then_some(class)
}

impl LinuxMem {
    /// Memory of which `frames` pages may be resident at once (a number for the core
    /// to enforce; nothing is taken now).
    ///
    /// # Errors
    /// What `memfd_create` and `ftruncate` say. A limit on file sizes
    /// (`RLIMIT_FSIZE`) makes the second fail: raise it first.
    pub fn new(frames: u64) -> io::Result<Self> {
        let (file, commons) = (Self::new_file()?, Arc::new(Commons::new()));
        let numbers = Numbers { next: WINDOW, kept: [[0; KEPT]; CLASSES], len: [0; CLASSES] };
        Ok(LinuxMem { file, commons, frames, numbers: Spin::new(Rank::Free, numbers) })
    }

    fn new_file() -> io::Result<OwnedFd> {
        let file = sys::memfd_create(c"machvm")?;
        sys::ftruncate(file.as_raw_fd(), (FRAMES * PAGE_SIZE).cast_signed())?;
        Ok(file)
    }

    /// In the child of a fork: an empty file takes the place of the parent's, under the same
    /// descriptor. Gives the parent's.
    ///
    /// # Errors
    /// What Linux says. The descriptor may still be the parent's file then.
    pub(crate) fn begin_anew(&self) -> io::Result<OwnedFd> {
        let old = self.file.try_clone()?;
        sys::replace(self.raw(), Self::new_file()?)?;
        Ok(old)
    }

    /// The files that other processes have too.
    pub(crate) fn commons(&self) -> &Arc<Commons> {
        &self.commons
    }

    /// Where a frame is: file and byte.
    fn at(&self, f: Pfn) -> (RawFd, u64) {
        self.commons.locate(f).unwrap_or((self.raw(), f.byte()))
    }

    /// The file.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Frames that are resident, as the kernel counts them.
    ///
    /// # Errors
    /// What `fstat` says.
    pub fn resident_frames(&self) -> io::Result<u64> {
        Ok(sys::allocated_bytes(self.raw())? / PAGE_SIZE)
    }

    fn raw(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// The kernel may refuse a page for a moment (a memory cgroup at its limit while
    /// its victim dies). The traits have no error here, so wait: the budget was
    /// charged long before.
    fn refused(what: &str, why: &io::Error, tries: &mut u32) {
        *tries += 1;
        // Ten seconds of refusal is not a moment. There is no way to go on without
        // the contents of a page.
        assert!(*tries < 10_000, "{what} physical memory: {why}");
        sys::nap(1_000_000);
    }
}

impl PhysMem for LinuxMem {
    fn placement(&self) -> Placement {
        Placement::Sparse { frames: self.frames }
    }

    fn extent_reserve(&self, pages: u64) -> Result<Pfn, ExtentError> {
        let class = class(pages).ok_or(ExtentError)?;
        let mut n = self.numbers.lock();
        if n.len[class] != 0 {
            n.len[class] -= 1;
            return Ok(Pfn(n.kept[class][n.len[class]]));
        }
        let base = n.next;
        let next = base.checked_add(WINDOW << class).filter(|e| *e <= FRAMES).ok_or(ExtentError)?;
        n.next = next;
        Ok(Pfn(base))
    }

    fn extent_release(&self, base: Pfn, pages: u64) {
        if is_common(base) {
            return self.commons.release(base);
        }
        let Some(class) = class(pages) else { return };
        let mut n = self.numbers.lock();
        let len = n.len[class];
        if len < KEPT {
            n.kept[class][len] = base.0;
            n.len[class] = len + 1;
        }
    }

    /// Nothing: a hole of the file is zero for whoever reads it, and entering it in a pmap
    /// allocates, clears and maps its page in one call, which costs half of doing it in
    /// two. So the frame becomes resident when it is first mapped or written.
    fn zero(&self, _first: Pfn, _n: u32) -> Result<(), PopulateError> {
        Ok(())
    }

    /// Nothing: [`PhysMem::write`] and [`PhysMem::copy`] make the frame resident,
    /// without clearing it first. A frame that is prepared and never written stays a
    /// hole; entering it makes it a zero page.
    fn prepare(&self, _first: Pfn, _n: u32) -> Result<(), PopulateError> {
        Ok(())
    }

    /// Of common frames nothing: other processes have them.
    fn discard(&self, first: Pfn, n: u32) {
        if is_common(first) {
            return;
        }
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let mut tries = 0;
        while let Err(e) = sys::fallocate(self.raw(), mode, first.byte(), u64::from(n) * PAGE_SIZE) {
            Self::refused("discarding", &e, &mut tries);
        }
    }

    fn copy(&self, from: Pfn, to: Pfn) {
        let mut page = core::mem::MaybeUninit::<[u8; PAGE_SIZE as usize]>::uninit();
        // SAFETY: any bytes are a valid array of bytes; `read` overwrites all of it
        // before anything looks.
        let page = unsafe { &mut *page.as_mut_ptr() };
        self.read(from, 0, page);
        self.write(to, 0, page);
    }

    /// Several frames in one call of Linux, which copies from page to page and not through a
    /// buffer.
    fn copy_run(&self, from: Pfn, to: Pfn, n: u32) {
        let (mut done, bytes) = (0, u64::from(n) * PAGE_SIZE);
        // Consecutive common frames may be of two files. And one page is faster by hand.
        let own = n > 1 && !is_common(from) && !is_common(to);
        while own && done < bytes {
            let at = |f: Pfn| (self.raw(), f.byte() + done);
            match sys::copy_range(at(from), at(to), bytes - done) {
                Ok(0) | Err(_) => break, // for a moment, or for ever: by hand
                Ok(more) => done += more,
            }
        }
        (done / PAGE_SIZE..u64::from(n)).for_each(|i| self.copy(from.add(i), to.add(i)));
    }

    fn read(&self, f: Pfn, off: usize, buf: &mut [u8]) {
        let (mut at, mut tries) = (0, 0);
        let (fd, byte) = self.at(f);
        while at < buf.len() {
            match sys::pread(fd, &mut buf[at..], byte + (off + at) as u64) {
                // Never 0: the frame lies inside the file.
                Ok(n) => at += n,
                Err(e) if e.raw_os_error() == Some(libc::EINTR) => {}
                Err(e) => Self::refused("reading", &e, &mut tries),
            }
        }
    }

    fn write(&self, f: Pfn, off: usize, buf: &[u8]) {
        let (mut at, mut tries) = (0, 0);
        let (fd, byte) = self.at(f);
        while at < buf.len() {
            match sys::pwrite(fd, &buf[at..], byte + (off + at) as u64) {
                Ok(n) => at += n,
                Err(e) if e.raw_os_error() == Some(libc::EINTR) => {}
                // The process lowered RLIMIT_FSIZE: what is mapped can still be stored to.
                Err(e) if e.raw_os_error() == Some(libc::EFBIG) => {
                    match write_mapped(fd, byte + (off + at) as u64, &buf[at..]) {
                        Ok(()) => return,
                        Err(e) => Self::refused("writing", &e, &mut tries),
                    }
                }
                Err(e) => Self::refused("writing", &e, &mut tries),
            }
        }
    }
}

/// Stores into a memfd at `byte`, inside it.
fn write_mapped(fd: RawFd, byte: u64, buf: &[u8]) -> io::Result<()> {
    let off = byte % PAGE_SIZE;
    let len = (off + buf.len() as u64).next_multiple_of(PAGE_SIZE);
    let read_write = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: it replaces no mapping.
    let at = unsafe { sys::mmap(0, len, read_write, libc::MAP_SHARED, fd, byte - off) };
    let at = at.map_err(io::Error::from_raw_os_error)?;
    let to = core::ptr::with_exposed_provenance_mut::<u8>((at + off) as usize);
    // SAFETY: the pages are mapped for writing and lie inside the file, `off` and the length lie in
    // them; nobody else knows the address, so nobody refers to them, before and after.
    unsafe {
        core::ptr::copy_nonoverlapping(buf.as_ptr(), to, buf.len());
        sys::munmap(at, len).map_err(io::Error::from_raw_os_error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mem() -> LinuxMem {
        LinuxMem::new(1000).expect("memfd")
    }

    #[test]
    fn zero_read_write_discard() {
        let m = mem();
        let base = m.extent_reserve(16).expect("numbers");
        assert_eq!(m.resident_frames().expect("fstat"), 0);
        m.zero(base, 16).expect("memory");
        let mut buf = [1u8; 4096];
        m.read(base.add(15), 0, &mut buf);
        assert!(buf.iter().all(|b| *b == 0));
        assert_eq!(m.resident_frames().expect("fstat"), 0, "a hole is zero");
        (0..16).for_each(|i| m.write(base.add(i), 0, &[0]));
        assert_eq!(m.resident_frames().expect("fstat"), 16);
        m.write(base.add(3), 100, b"hello");
        m.copy(base.add(3), base.add(4));
        m.read(base.add(4), 98, &mut buf[..9]);
        assert_eq!(&buf[..9], b"\0\0hello\0\0");
        m.discard(base, 15);
        assert_eq!(m.resident_frames().expect("fstat"), 1);
        m.discard(base.add(15), 1);
        assert_eq!(m.resident_frames().expect("fstat"), 0);
        m.extent_release(base, 16);
    }

    /// In one call of Linux where both are ours; of holes too.
    #[test]
    fn runs_are_copied_page_for_page() {
        let m = mem();
        let (from, to) = (m.extent_reserve(40).expect("numbers"), m.extent_reserve(40).expect("numbers"));
        (0..40).filter(|i| i % 3 != 0).for_each(|i| m.write(from.add(i), 0, &[i as u8; 4096]));
        m.write(to.add(33), 0, b"stays");
        for (first, n) in [(0u64, 1u32), (1, 16), (17, 16)] {
            m.copy_run(from.add(first), to.add(first), n);
        }
        let mut buf = [7u8; 4096];
        for i in 0..33 {
            m.read(to.add(i), 0, &mut buf);
            let want = if i % 3 == 0 { 0 } else { i as u8 };
            assert!(buf.iter().all(|b| *b == want), "page {i}");
        }
        m.read(to.add(33), 0, &mut buf);
        assert_eq!(&buf[..6], b"stays\0");
    }

    #[test]
    fn a_prepared_frame_is_resident_once_written() {
        let m = mem();
        let base = m.extent_reserve(1).expect("numbers");
        m.prepare(base, 1).expect("memory");
        m.write(base, 4095, b"x");
        assert_eq!(m.resident_frames().expect("fstat"), 1);
        let mut buf = [7u8; 2];
        m.read(base, 4094, &mut buf);
        assert_eq!(&buf, b"\0x");
    }

    #[test]
    fn extents_are_aligned_disjoint_and_recycled() {
        let m = mem();
        let sizes = [1u64, 511, 512, 513, 5_000, 1 << 30];
        let mut got: Vec<(u64, u64)> =
            sizes.iter().map(|s| (m.extent_reserve(*s).expect("numbers").0, *s)).collect();
        assert!(got.iter().all(|(b, _)| b % 512 == 0 && *b != 0));
        got.sort_unstable();
        assert!(got.windows(2).all(|w| w[0].0 + w[0].1 <= w[1].0), "{got:?}");
        m.extent_release(Pfn(got[3].0), got[3].1);
        assert_eq!(m.extent_reserve(got[3].1).expect("numbers"), Pfn(got[3].0));
        assert_eq!(m.extent_reserve(1 << 51), Err(ExtentError));
        assert_eq!(m.extent_reserve(u64::MAX), Err(ExtentError));
    }
}
