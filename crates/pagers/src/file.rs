//! A file as the backing store of an object (rows G05, G07, G08, G13).
//!
//! One [`FilePager`] serves all who map a file: there is one object for each [`FileId`], so they
//! see each other's stores. Linux's own page cache is underneath, where `read(2)` and `write(2)`
//! look: what is stored in the mapping gets there with page-out, [`Pager::synchronize`] or
//! `msync`, and what is written there is seen by pages that are read in afterwards.

mod errors;
mod runs;

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, TryLockError};

use machvm_hal::{
    ControlId, HasPage, MAX_CLUSTER, PAGE_SHIFT, PAGE_SIZE, PageIn, PageOut, PageOutSource, Pager, PagerError,
};

pub use errors::{Seen, WriteError};
use runs::{Stopped, supply, write_back};

const PAGE: usize = PAGE_SIZE as usize;

/// Where runs of pages are put together, so that each is one write: whoever comes second uses
/// the stack. What is in it is in the file, too.
static BUFFER: Mutex<[u8; MAX_CLUSTER * PAGE]> = Mutex::new([0; MAX_CLUSTER * PAGE]);

/// Which file it is, whoever opened it, under whatever name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// Of an open file.
    ///
    /// # Errors
    /// Those of fstat(2).
    pub fn of(file: &File) -> io::Result<Self> {
        let m = file.metadata()?;
        Ok(FileId { device: m.dev(), inode: m.ino() })
    }
}

/// Who writes.
#[derive(Debug)]
enum Writer {
    /// The descriptor that reads.
    Reader,
    /// Another one of the same file.
    Other(File),
}

/// What a file pager did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FileTraffic {
    /// Requests for pages.
    pub requests: u64,
    /// Runs that were written back.
    pub runs: u64,
    /// Pages in them.
    pub pages_out: u64,
    /// System calls that wrote them.
    pub writes: u64,
    /// Runs, and flushes to the device, that failed.
    pub errors: u64,
}

#[derive(Debug, Default)]
struct Counters {
    requests: AtomicU64,
    runs: AtomicU64,
    pages_out: AtomicU64,
    writes: AtomicU64,
    errors: AtomicU64,
}

/// Pages of a file. Byte `n` of the object is byte `n` of the file.
///
/// The file may grow and shrink at any time: its size is asked at every request. The
/// part of the last page behind the end reads as zeros and is never written.
#[derive(Debug)]
pub struct FilePager {
    file: File,
    /// Not set: read only.
    writer: OnceLock<Writer>,
    /// Held for reading while pages are written, so that [`FilePager::set_len`] is not undone.
    resize: RwLock<()>,
    errors: errors::WriteErrors,
    count: Counters,
}

impl FilePager {
    /// A pager that reads only: modified pages belong elsewhere (private mappings).
    /// [`Pager::page_out`] answers [`PagerError::Gone`].
    pub fn read_only(file: File) -> Self {
        let (writer, resize) = (OnceLock::new(), RwLock::new(()));
        FilePager { file, writer, resize, errors: Default::default(), count: Counters::default() }
    }

    /// A pager that also writes back.
    ///
    /// # Errors
    /// `InvalidInput` for a descriptor with `O_APPEND`, where Linux appends whatever
    /// offset it is given (pwrite(2), BUGS); and the errors of reading
    /// `/proc/self/fdinfo`, which tells.
    pub fn shared(file: File) -> io::Result<Self> {
        check_writer(&file)?;
        let pager = Self::read_only(file);
        let _ = pager.writer.set(Writer::Reader);
        Ok(pager)
    }

    /// From now on it writes back, too, through `file`, which is the same file opened for
    /// writing; where it writes already nothing changes.
    ///
    /// # Errors
    /// As [`FilePager::shared`]; `InvalidInput` for another file.
    pub fn write_through(&self, file: File) -> io::Result<()> {
        check_writer(&file)?;
        if FileId::of(&file)? != FileId::of(&self.file)? {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is another file"));
        }
        let _ = self.writer.set(Writer::Other(file));
        Ok(())
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Does it write back?
    pub fn is_writable(&self) -> bool {
        self.writer.get().is_some()
    }

    /// Bytes of the file now.
    ///
    /// # Errors
    /// Those of fstat(2).
    pub fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Cuts the file, or makes it longer with zeros. No page that is on its way to the file
    /// undoes it. Pages in memory behind the end are the caller's
    /// (`Vm::vm_object_set_size`), after this returned.
    ///
    /// # Errors
    /// Those of ftruncate(2); `PermissionDenied`: it does not write.
    pub fn set_len(&self, bytes: u64) -> io::Result<()> {
        let writer = self.writer().ok_or(io::ErrorKind::PermissionDenied)?;
        let _alone = self.resize.write().unwrap_or_else(PoisonError::into_inner);
        writer.set_len(bytes)
    }

    /// For one who opened the file: what [`FilePager::new_error`] has told.
    pub fn opened(&self) -> Seen {
        self.errors.opened()
    }

    /// The write error that happened after the last call with this `seen`, once to each: also
    /// those of page-out, of which nobody was told when they happened.
    pub fn new_error(&self, seen: &Seen) -> Option<WriteError> {
        self.errors.take(seen)
    }

    /// Waits until what was written is on the device (fdatasync(2)).
    ///
    /// # Errors
    /// [`WriteError`]; it is recorded as one, too, for all who have the file open.
    pub fn flush(&self) -> Result<(), WriteError> {
        let Some(writer) = self.writer() else { return Ok(()) };
        writer.sync_data().map_err(|e| {
            let errno = e.raw_os_error().unwrap_or(0);
            self.count.errors.fetch_add(1, Relaxed);
            self.errors.record_sync(errno);
            WriteError { errno, offset: None }
        })
    }

    /// What it did so far.
    pub fn traffic(&self) -> FileTraffic {
        let c = &self.count;
        FileTraffic {
            requests: c.requests.load(Relaxed),
            runs: c.runs.load(Relaxed),
            pages_out: c.pages_out.load(Relaxed),
            writes: c.writes.load(Relaxed),
            errors: c.errors.load(Relaxed),
        }
    }

    fn writer(&self) -> Option<&File> {
        self.writer.get().map(|w| match w {
            Writer::Reader => &self.file,
            Writer::Other(file) => file,
        })
    }

    fn hold_size(&self) -> RwLockReadGuard<'_, ()> {
        self.resize.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, run: &mut PageOut<'_>) -> Result<(), PagerError> {
        let file = self.writer().ok_or(PagerError::Gone)?;
        let _size = self.hold_size();
        let size = self.size().map_err(|_| PagerError::Io)?;
        let c = &self.count;
        let write = &mut |buf: &[u8], at| {
            c.writes.fetch_add(1, Relaxed);
            file.write_at(buf, at)
        };
        let done = match BUFFER.try_lock() {
            Ok(mut buf) => write_back(size, write, &mut *buf, run),
            Err(TryLockError::Poisoned(buf)) => write_back(size, write, &mut *buf.into_inner(), run),
            Err(TryLockError::WouldBlock) => write_small(size, write, run),
        };
        c.runs.fetch_add(1, Relaxed);
        c.pages_out.fetch_add(run.pages() as u64, Relaxed);
        if let Err(stopped) = done {
            c.errors.fetch_add(1, Relaxed);
            self.errors.record(stopped);
        }
        Ok(())
    }
}

/// Through a buffer on the stack.
#[inline(never)]
fn write_small(
    size: u64,
    write: &mut dyn FnMut(&[u8], u64) -> io::Result<usize>,
    run: &mut PageOut<'_>,
) -> Result<(), Stopped> {
    write_back(size, write, &mut [0; 4 * PAGE], run)
}

fn check_writer(file: &File) -> io::Result<()> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
    if status_flags(&info)? & O_APPEND != 0 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the file is open for appending: pages cannot be written to their place",
        ));
    }
    Ok(())
}

// Octal, as fdinfo prints it; the same on all Linux architectures but alpha, hppa,
// mips and sparc.
const O_APPEND: u64 = 0o2000;

/// The flags in an fdinfo file (proc(5)).
fn status_flags(info: &str) -> io::Result<u64> {
    info.lines()
        .find_map(|line| line.strip_prefix("flags:"))
        .and_then(|flags| u64::from_str_radix(flags.trim(), 8).ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "fdinfo without flags"))
}

/// One page that is in a buffer.
struct Page<'a>(&'a [u8; PAGE]);

impl PageOutSource for Page<'_> {
    fn read(&self, _: machvm_hal::PageNo, off: usize, buf: &mut [u8]) {
        buf.copy_from_slice(&self.0[off..off + buf.len()]);
    }
}

impl Pager for FilePager {
    /// Completes before it returns. Needs up to 36 KiB of stack.
    fn page_in(&self, req: PageIn<'_>) {
        self.count.requests.fetch_add(1, Relaxed);
        let read = &mut |buf: &mut [u8], at| self.file.read_at(buf, at);
        // A fault on one page should not clear a buffer for eight.
        match req.pages() {
            0..=1 => supply::<PAGE>(read, req),
            2..=4 => supply::<{ 4 * PAGE }>(read, req),
            _ => supply::<{ 8 * PAGE }>(read, req),
        }
    }

    /// As [`Pager::page_out_run`], of one page.
    fn page_out(&self, offset: u64, data: &[u8; PAGE]) -> Result<(), PagerError> {
        let source = Page(data);
        let mut run = PageOut::new(&source, None, offset, true);
        run.push(machvm_hal::PageNo(core::num::NonZeroU32::MIN), true);
        self.page_out_run(&mut run);
        run.results().try_for_each(|(_, done)| done)
    }

    /// Writes what lies inside the file, the run with one system call unless Linux takes less at
    /// once. A page wholly behind the end, as after a truncation, answers
    /// [`PagerError::Beyond`]: nobody will ever read it. Errors are kept, too
    /// ([`FilePager::new_error`]).
    ///
    /// Of a truncation by others than [`FilePager::set_len`], between the look at the size and
    /// the write, the write undoes as much as it reaches (Linux has no write that cannot extend).
    fn page_out_run(&self, run: &mut PageOut<'_>) {
        if let Err(e) = self.put(run) {
            (0..run.pages()).for_each(|i| run.done(i, Err(e)));
        }
    }

    fn has_page(&self, offset: u64) -> HasPage {
        let Ok(size) = self.size() else { return HasPage::Unknown };
        if offset >= size {
            return HasPage::No;
        }
        let (page, pages) = (offset >> PAGE_SHIFT, size.div_ceil(PAGE_SIZE));
        let most = |n: u64| n.min(MAX_CLUSTER as u64 - 1) as u32;
        HasPage::Yes { before: most(page), after: most(pages - page - 1) }
    }

    /// Waits until what was written is on the device.
    fn synchronize(&self, _: ControlId, _: u64, _: u64) -> Result<(), PagerError> {
        self.flush().map_err(|_| PagerError::Io)
    }
}

#[cfg(test)]
mod tests;
