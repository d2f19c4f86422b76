//! A file as the backing store of an object (rows G05, G07, G13).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use machvm_hal::{PAGE_SIZE, PageIn, Pager, PagerError, Supply};

const PAGE: usize = PAGE_SIZE as usize;

/// How often in a row a system call may be interrupted before it counts as failed.
const PATIENCE: u32 = 1000;

/// Pages of a file. Byte `n` of the object is byte `n` of the file.
///
/// The file may grow and shrink at any time: its size is asked at every request. The
/// part of the last page behind the end reads as zeros and is never written.
#[derive(Debug)]
pub struct FilePager {
    file: File,
    writable: bool,
}

impl FilePager {
    /// A pager that reads only: modified pages belong elsewhere (private mappings).
    /// [`Pager::page_out`] answers [`PagerError::Gone`].
    pub fn read_only(file: File) -> Self {
        FilePager { file, writable: false }
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// A pager that also writes back.
    ///
    /// # Errors
    /// `InvalidInput` for a descriptor with `O_APPEND`, where Linux appends whatever
    /// offset it is given (pwrite(2), BUGS); and the errors of reading
    /// `/proc/self/fdinfo`, which tells.
    pub fn shared(file: File) -> io::Result<Self> {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
        if status_flags(&info)? & O_APPEND != 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the file is open for appending: pages cannot be written to their place",
            ));
        }
        Ok(FilePager { file, writable: true })
    }
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

impl Pager for FilePager {
    /// Completes before it returns. Needs up to 36 KiB of stack.
    fn page_in(&self, req: PageIn<'_>) {
        let read = &mut |buf: &mut [u8], at| self.file.read_at(buf, at);
        // A fault on one page should not clear a buffer for eight.
        match req.pages() {
            0..=1 => supply::<PAGE>(read, req),
            2..=4 => supply::<{ 4 * PAGE }>(read, req),
            _ => supply::<{ 8 * PAGE }>(read, req),
        }
    }

    /// Writes what lies inside the file. A page wholly behind the end, as after a
    /// truncation, answers [`PagerError::Beyond`]: nobody will ever read it.
    ///
    /// The size is looked up first; a truncation between that and the write is undone
    /// by the write, as far as this page reaches (Linux has no write that cannot extend).
    fn page_out(&self, offset: u64, data: &[u8; PAGE]) -> Result<(), PagerError> {
        if !self.writable {
            return Err(PagerError::Gone);
        }
        let size = self.file.metadata().map_err(|_| PagerError::Io)?.len();
        write_back(size, &mut |buf: &[u8], at| self.file.write_at(buf, at), offset, data)
    }
}

/// How a read ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// All bytes are there.
    Full,
    /// The data ends here.
    OfFile,
    /// An error.
    Error,
}

/// Reads until `buf` is full, the file ends or an error comes. Returns how far it got.
fn read_run(
    read: &mut dyn FnMut(&mut [u8], u64) -> io::Result<usize>,
    buf: &mut [u8],
    offset: u64,
) -> (usize, End) {
    let (mut got, mut patience) = (0, PATIENCE);
    while got < buf.len() {
        // No file has bytes beyond the largest off_t, and Linux refuses to read across it.
        let at = offset.saturating_add(got as u64);
        let room = (i64::MAX as u64).saturating_sub(at);
        if room == 0 {
            return (got, End::OfFile);
        }
        let stop = buf.len().min(got.saturating_add(usize::try_from(room).unwrap_or(usize::MAX)));
        match read(&mut buf[got..stop], at) {
            Ok(0) => return (got, End::OfFile),
            Ok(n) => (got, patience) = ((got + n).min(buf.len()), PATIENCE),
            Err(e) if e.kind() == io::ErrorKind::Interrupted && patience > 0 => patience -= 1,
            Err(_) => return (got, End::Error),
        }
    }
    (got, End::Full)
}

/// Serves a request through a buffer of `N` bytes.
#[inline(never)]
fn supply<const N: usize>(read: &mut dyn FnMut(&mut [u8], u64) -> io::Result<usize>, mut req: PageIn<'_>) {
    let mut buf = [0; N];
    let want = req.pages() * PAGE;
    let (mut got, mut end) = (0, End::Full);
    while got < want && end == End::Full {
        let n = N.min(want - got);
        let bytes;
        (bytes, end) = match req.offset().checked_add(got as u64) {
            Some(at) => read_run(read, &mut buf[..n], at),
            None => (0, End::OfFile),
        };
        req.write(got as u64, &buf[..bytes]);
        got += bytes;
    }
    if end == End::OfFile && !got.is_multiple_of(PAGE) {
        let tail = PAGE - got % PAGE;
        buf[..tail].fill(0);
        req.write(got as u64, &buf[..tail]);
        got += tail;
    }
    let pages = got / PAGE;
    match end {
        End::Error => req.failed(pages, PagerError::Io),
        End::OfFile if pages == 0 => req.failed(0, PagerError::Beyond),
        // Pages behind the end were only asked for ahead of time.
        End::OfFile | End::Full => req.supplied(pages, Supply::Clean),
    }
}

/// Writes the part of a page that lies below `size`.
fn write_back(
    size: u64,
    write: &mut dyn FnMut(&[u8], u64) -> io::Result<usize>,
    offset: u64,
    data: &[u8; PAGE],
) -> Result<(), PagerError> {
    let inside = size.checked_sub(offset).filter(|n| *n > 0).ok_or(PagerError::Beyond)?;
    let data = &data[..inside.min(PAGE_SIZE) as usize];
    let (mut done, mut patience) = (0, PATIENCE);
    while done < data.len() {
        match write(&data[done..], offset + done as u64) {
            Ok(n) if n > 0 => (done, patience) = ((done + n).min(data.len()), PATIENCE),
            Err(e) if e.kind() == io::ErrorKind::Interrupted && patience > 0 => patience -= 1,
            _ => return Err(PagerError::Io),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
