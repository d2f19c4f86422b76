//! A device that does everything wrong, and keeps account of what it did: so a test knows
//! which page may be lost, and that every other one must not be.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use machvm_pagers::{Block, Buffer, Disk, Done, Opened};

use super::{PAGE, Random};

/// What can go wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// A write fails: EIO.
    WriteError,
    /// A write fails: ENOSPC, half of it done.
    DiskFull,
    /// A part of a write is done, as it says.
    ShortWrite,
    /// Half of a write is done, and it says all.
    Torn,
    /// Nothing of a write is done, and it says all.
    Forgotten,
    /// A write goes to another place, and says nothing.
    Misplaced,
    /// A write that was told of as done is done later, perhaps after a newer one.
    Overtaken,
    /// Writes are told of late, in any order.
    Late,
    /// A read fails: EIO.
    ReadError,
    /// A part of a read is done, as it says.
    ShortRead,
    /// One bit of a read is wrong, once.
    Flip,
    /// A bit of what is stored turns.
    Rot,
}

impl Kind {
    pub(crate) const ALL: [Kind; 12] = [
        Kind::WriteError,
        Kind::DiskFull,
        Kind::ShortWrite,
        Kind::Torn,
        Kind::Forgotten,
        Kind::Misplaced,
        Kind::Overtaken,
        Kind::Late,
        Kind::ReadError,
        Kind::ShortRead,
        Kind::Flip,
        Kind::Rot,
    ];
    /// The device says what it did: nothing may be lost.
    pub(crate) fn is_told(self) -> bool {
        use Kind::*;
        matches!(self, WriteError | DiskFull | ShortWrite | Late | ShortRead)
    }
}

/// A write on its way: number, buffer, its part, first byte on the device.
type Write = (usize, Arc<Buffer>, Range<usize>, u64);

/// A write that was told of and is not done: its bytes, where, and the order it came in.
struct Limbo {
    bytes: Vec<u8>,
    at: usize,
    order: u64,
}

struct Inner {
    data: Vec<u8>,
    /// By page: what is there is not what was written last.
    hurt: Vec<bool>,
    /// By page: the order of the last write.
    newest: Vec<u64>,
    order: u64,
    random: Random,
    begun: Vec<Write>,
    done: Vec<Done>,
    limbo: Vec<Limbo>,
    happened: [u64; Kind::ALL.len()],
    /// Reads that were given something wrong, or nothing.
    blamed: u64,
}

struct Shared {
    inner: Mutex<Inner>,
    /// One request in so many; 0: never.
    rates: [AtomicU32; Kind::ALL.len()],
    /// The server is not there.
    away: AtomicBool,
    /// No read is longer; 0: as long as wanted.
    longest_read: AtomicU32,
}

/// A device in memory; clones are the same one.
#[derive(Clone)]
pub(crate) struct ChaosBlock(Arc<Shared>);

impl ChaosBlock {
    /// For so many pages behind the first.
    pub(crate) fn new(pages: u64, seed: u64) -> Self {
        let all = pages as usize + 1;
        let inner = Inner {
            data: vec![0x5a; all * PAGE],
            hurt: vec![false; all],
            newest: vec![0; all],
            order: 0,
            random: Random(seed | 1),
            begun: Vec::new(),
            done: Vec::new(),
            limbo: Vec::new(),
            happened: [0; Kind::ALL.len()],
            blamed: 0,
        };
        ChaosBlock(Arc::new(Shared {
            inner: Mutex::new(inner),
            rates: [const { AtomicU32::new(0) }; Kind::ALL.len()],
            away: AtomicBool::new(false),
            longest_read: AtomicU32::new(0),
        }))
    }
    /// Swap on it.
    pub(crate) fn disk(&self, name: &str, encrypt: bool) -> Box<Disk> {
        let file = Arc::new(std::fs::File::open("/dev/null").expect("/dev/null"));
        let pages = self.inner().hurt.len() as u64 - 1;
        let opened = Opened { name: name.into(), kind: "file", file, pages };
        Box::new(Disk::new(opened, Box::new(self.clone()), encrypt))
    }
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// From now on it goes wrong in one request of so many; 0: never.
    pub(crate) fn set(&self, kind: Kind, one_in: u32) {
        self.0.rates[kind as usize].store(one_in, Relaxed);
    }
    /// It does what it is asked to; what is damaged stays so.
    pub(crate) fn calm(&self) {
        Kind::ALL.iter().for_each(|k| self.set(*k, 0));
        self.0.away.store(false, Relaxed);
        self.0.longest_read.store(0, Relaxed);
        let i = &mut *self.inner();
        while let Some(Limbo { bytes, at, order }) = i.limbo.pop() {
            i.put(at, &bytes, order);
        }
    }
    /// The server dies, or is back with what it had.
    pub(crate) fn set_away(&self, away: bool) {
        self.0.away.store(away, Relaxed);
    }
    pub(crate) fn set_longest_read(&self, bytes: u32) {
        self.0.longest_read.store(bytes, Relaxed);
    }
    /// How often that happened.
    pub(crate) fn happened(&self, kind: Kind) -> u64 {
        self.inner().happened[kind as usize]
    }
    /// Reads that were given something wrong, or nothing.
    pub(crate) fn blamed(&self) -> u64 {
        self.inner().blamed
    }
    fn goes(&self, i: &mut Inner, kind: Kind) -> bool {
        let rate = self.0.rates[kind as usize].load(Relaxed);
        let goes = rate != 0 && i.random.below(rate as usize) == 0;
        i.happened[kind as usize] += u64::from(goes);
        goes
    }
    /// A write ends.
    fn carry_out(&self, i: &mut Inner, (token, from, part, at): Write) {
        let (bytes, at) = (&from.bytes()[part], at as usize);
        let whole = bytes.len();
        i.order += 1;
        let order = i.order;
        let mut say = Ok(whole);
        if self.0.away.load(Relaxed) {
            say = Err(io::Error::from(io::ErrorKind::NotConnected));
        } else if self.goes(i, Kind::WriteError) {
            say = Err(io::Error::from_raw_os_error(5));
        } else if self.goes(i, Kind::DiskFull) {
            i.put(at, &bytes[..whole / 2], order);
            say = Err(io::Error::from_raw_os_error(28));
        } else if self.goes(i, Kind::ShortWrite) {
            let n = i.random.below(whole);
            i.put(at, &bytes[..n], order);
            say = Ok(n);
        } else if self.goes(i, Kind::Torn) {
            i.put(at, &bytes[..whole / 2], order);
            i.skipped(at + whole / 2, whole - whole / 2, order);
        } else if self.goes(i, Kind::Forgotten) {
            i.skipped(at, whole, order);
        } else if self.goes(i, Kind::Misplaced) {
            i.skipped(at, whole, order);
            let most = (i.data.len() - whole) / PAGE;
            let wrong = i.random.below(most) * PAGE;
            // Whatever was there.
            i.put(wrong, bytes, order);
            i.hurt[wrong / PAGE..(wrong + whole).div_ceil(PAGE)].fill(true);
        } else if self.goes(i, Kind::Overtaken) {
            i.skipped(at, whole, order);
            i.limbo.push(Limbo { bytes: bytes.to_vec(), at, order });
        } else {
            i.put(at, bytes, order);
        }
        // The buffer is let go of before anybody is told.
        drop(from);
        i.done.push(Done { token, result: say });
    }
    /// What happens without being asked for.
    fn time_passes(&self, i: &mut Inner) {
        if self.goes(i, Kind::Rot) {
            let bit = PAGE * 8 + i.random.below((i.data.len() - PAGE) * 8);
            i.data[bit / 8] ^= 1 << (bit % 8);
            i.hurt[bit / 8 / PAGE] = true;
        }
        if i.limbo.len() > 8 || (!i.limbo.is_empty() && i.random.below(64) == 0) {
            let n = i.random.below(i.limbo.len());
            let Limbo { bytes, at, order } = i.limbo.swap_remove(n);
            i.put(at, &bytes, order);
        }
    }
}

impl Inner {
    /// Bytes come to the device, written in that order.
    fn put(&mut self, at: usize, bytes: &[u8], order: u64) {
        self.data[at..at + bytes.len()].copy_from_slice(bytes);
        for page in at / PAGE..(at + bytes.len()).div_ceil(PAGE) {
            let whole = page * PAGE >= at && (page + 1) * PAGE <= at + bytes.len();
            self.hurt[page] = order < self.newest[page] || (!whole && self.hurt[page]);
            self.newest[page] = self.newest[page].max(order);
        }
    }
    /// Bytes that should have come did not.
    fn skipped(&mut self, at: usize, n: usize, order: u64) {
        let pages = at / PAGE..(at + n).div_ceil(PAGE);
        self.hurt[pages.clone()].fill(true);
        self.newest[pages].fill(order);
    }
}

impl Block for ChaosBlock {
    fn read_at(&self, to: &mut [u8], at: u64) -> io::Result<usize> {
        let i = &mut *self.inner();
        self.time_passes(i);
        if self.0.away.load(Relaxed) {
            i.blamed += 1;
            return Err(io::Error::from(io::ErrorKind::NotConnected));
        }
        if self.goes(i, Kind::ReadError) {
            i.blamed += 1;
            return Err(io::Error::from_raw_os_error(5));
        }
        let mut n = to.len();
        if self.goes(i, Kind::ShortRead) {
            n = 1 + i.random.below(n);
        }
        if let longest @ 1.. = self.0.longest_read.load(Relaxed) as usize {
            n = n.min(longest);
        }
        let at = at as usize;
        to[..n].copy_from_slice(&i.data[at..at + n]);
        i.blamed += u64::from(i.hurt[at / PAGE..(at + n).div_ceil(PAGE)].contains(&true));
        if self.goes(i, Kind::Flip) {
            let bit = i.random.below(n * 8);
            to[bit / 8] ^= 1 << (bit % 8);
            i.blamed += 1;
        }
        Ok(n)
    }
    fn begin_write(&self, token: usize, from: &Arc<Buffer>, part: Range<usize>, at: u64) -> io::Result<()> {
        let i = &mut *self.inner();
        self.time_passes(i);
        i.begun.push((token, Arc::clone(from), part, at));
        while !i.begun.is_empty() && !self.goes(i, Kind::Late) {
            let n = i.random.below(i.begun.len());
            let write = i.begun.swap_remove(n);
            self.carry_out(i, write);
        }
        Ok(())
    }
    fn finished(&self, wait: bool) -> Option<Done> {
        let i = &mut *self.inner();
        if wait && i.done.is_empty() && !i.begun.is_empty() {
            let n = i.random.below(i.begun.len());
            let write = i.begun.swap_remove(n);
            self.carry_out(i, write);
        }
        let n = i.done.len();
        (n != 0).then(|| {
            let n = i.random.below(n);
            i.done.swap_remove(n)
        })
    }
    fn method(&self) -> &'static str {
        "chaos"
    }
}
