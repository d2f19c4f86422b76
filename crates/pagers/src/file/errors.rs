//! Write errors, told once to each who has the file open.
//!
//! The idea is Linux's errseq: one word counts the errors that somebody was told of, and who has
//! the file open remembers the word as it was when it last looked. Recording allocates nothing
//! and takes no lock: page-out may run in a signal handler.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use super::runs::Stopped;

/// The low bits: `errno`.
const ERRNO: u64 = 0xffff;
/// Somebody was told: the next error counts as another one.
const TOLD: u64 = 1 << 16;
/// One error more.
const ONE: u64 = 1 << 17;

/// A write of a file that failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WriteError {
    /// What Linux said; 0: it took less than all, and gave no reason.
    pub errno: i32,
    /// About where: the byte of the file at which the last error that was recorded happened.
    /// `None`: the data was taken, but did not reach the device.
    pub offset: Option<u64>,
}

impl core::fmt::Display for WriteError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let why = std::io::Error::from_raw_os_error(self.errno);
        match self.offset {
            Some(at) => write!(f, "writing the file at byte {at:#x}: {why}"),
            None => write!(f, "the file's data did not reach the device: {why}"),
        }
    }
}
impl std::error::Error for WriteError {}

/// The errors of one file.
#[derive(Debug, Default)]
pub(super) struct WriteErrors {
    word: AtomicU64,
    /// Where, plus one; 0: nowhere in particular.
    place: AtomicU64,
}

/// How far one who has the file open was told of its errors; see
/// [`FilePager::opened`](super::FilePager::opened).
#[derive(Debug, Default)]
pub struct Seen(AtomicU64);

impl WriteErrors {
    pub(super) fn record(&self, e: Stopped) {
        self.record_at(e.errno, e.at.wrapping_add(1));
    }
    /// The data was taken before, and is now known not to have arrived.
    pub(super) fn record_sync(&self, errno: i32) {
        self.record_at(errno, 0);
    }
    fn record_at(&self, errno: i32, place: u64) {
        self.place.store(place, Relaxed);
        let errno = u64::from(errno.unsigned_abs()) & ERRNO;
        let add = |old: u64| {
            let count = old & !(ERRNO | TOLD);
            // Of an error that nobody was told of yet only the last is kept.
            let count = if old & TOLD != 0 || count == 0 { count.wrapping_add(ONE) } else { count };
            Some(count | errno)
        };
        // `add` never refuses.
        let _ = self.word.fetch_update(AcqRel, Acquire, add);
    }
    /// For one who opens the file now: an error that nobody was told of is told to this one, too.
    pub(super) fn opened(&self) -> Seen {
        let now = self.word.load(Acquire);
        Seen(AtomicU64::new(if now & TOLD != 0 { now } else { 0 }))
    }
    /// The error that came after the last look, if there was one.
    pub(super) fn take(&self, seen: &Seen) -> Option<WriteError> {
        let now = self.word.load(Acquire);
        if now == 0 {
            return None;
        }
        let now = now | TOLD;
        if seen.0.swap(now, AcqRel) == now {
            return None;
        }
        // Of another error since then the next look tells.
        let _ = self.word.compare_exchange(now & !TOLD, now, Release, Relaxed);
        let place = self.place.load(Relaxed);
        Some(WriteError { errno: (now & ERRNO) as i32, offset: place.checked_sub(1) })
    }
}
