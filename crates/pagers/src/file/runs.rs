//! Reading and writing runs of pages, with what Linux may do to a request: less than asked,
//! nothing because of a signal, an error in the middle.

use std::io;

use machvm_hal::{PageIn, PageOut, PagerError, Supply};

use super::PAGE;

/// How often in a row a system call may be interrupted before it counts as failed.
const PATIENCE: u32 = 1000;

/// How a read ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
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
pub(super) fn supply<const N: usize>(
    read: &mut dyn FnMut(&mut [u8], u64) -> io::Result<usize>,
    mut req: PageIn<'_>,
) {
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

/// A write that stopped: the error, 0 when the file takes no more and does not say why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stopped {
    pub(super) errno: i32,
    /// The byte that was not written.
    pub(super) at: u64,
}

/// Writes `data` to `offset`; gives how much of it was written.
fn write_run(
    write: &mut dyn FnMut(&[u8], u64) -> io::Result<usize>,
    data: &[u8],
    offset: u64,
) -> (usize, Result<(), Stopped>) {
    let (mut done, mut patience) = (0, PATIENCE);
    while done < data.len() {
        let at = offset + done as u64;
        let errno = match write(&data[done..], at) {
            Ok(n) if n > 0 => {
                (done, patience) = ((done + n).min(data.len()), PATIENCE);
                continue;
            }
            Ok(_) => 0,
            Err(e) if e.kind() == io::ErrorKind::Interrupted && patience > 0 => {
                patience -= 1;
                continue;
            }
            Err(e) => e.raw_os_error().unwrap_or(0),
        };
        return (done, Err(Stopped { errno, at }));
    }
    (done, Ok(()))
}

/// Writes the part of a run that lies below `size` through `buf`, as much at a time as fits, and
/// says of each page how it went: behind the end, [`PagerError::Beyond`]. After an error nothing
/// more is tried.
///
/// => `buf` has room for a page.
pub(super) fn write_back(
    size: u64,
    write: &mut dyn FnMut(&[u8], u64) -> io::Result<usize>,
    buf: &mut [u8],
    run: &mut PageOut<'_>,
) -> Result<(), Stopped> {
    let bytes = usize::try_from(size.saturating_sub(run.offset())).unwrap_or(usize::MAX);
    let inside = run.pages().min(bytes.div_ceil(PAGE));
    (inside..run.pages()).for_each(|i| run.done(i, Err(PagerError::Beyond)));
    let mut first = 0;
    while first < inside {
        let n = (inside - first).min(buf.len() / PAGE);
        for (i, page) in buf.chunks_exact_mut(PAGE).take(n).enumerate() {
            run.read(first + i, 0, page);
        }
        let len = (n * PAGE).min(bytes - first * PAGE);
        let (done, how) = write_run(write, &buf[..len], run.offset_of(first));
        let whole = if done == len { n } else { done / PAGE };
        (first..first + whole).for_each(|i| run.done(i, Ok(())));
        first += n;
        if let Err(stopped) = how {
            (first - n + whole..inside).for_each(|i| run.done(i, Err(PagerError::Io)));
            return Err(stopped);
        }
    }
    Ok(())
}
