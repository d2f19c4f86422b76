//! Swap on a disk: a page has a place, neighbours have neighbouring ones and go with one request.

use alloc::vec::Vec;

use machvm_hal::{EachPage, PAGE_SIZE, PageRun, SwapError};
use machvm_sync::Rank;

use crate::dev::{BUFFER, Disk};
use crate::lock::IrqSpin;

const PAGE: usize = PAGE_SIZE as usize;
/// Pages that go with one request.
const TOGETHER: usize = BUFFER / PAGE;

/// A disk, or the part of one, that takes pages.
pub(crate) struct Area {
    disk: &'static Disk,
    priority: i32,
    places: IrqSpin<Places>,
}

/// Which places are taken.
struct Places {
    /// A bit for each, set if it is taken.
    words: Vec<u64>,
    count: u64,
    used: u64,
    /// Where the next run is looked for.
    next: u64,
    /// It takes no more pages: it is on its way out, or writing to it failed.
    closed: bool,
}

impl Places {
    fn is_free(&self, i: u64) -> bool {
        i < self.count && self.words[(i / 64) as usize] & 1 << (i % 64) == 0
    }
    /// The first free place from `from` on.
    fn first_free(&self, from: u64) -> Option<u64> {
        let mut i = from;
        while i < self.count {
            let free = !self.words[(i / 64) as usize] & (u64::MAX << (i % 64));
            if free != 0 {
                return Some(i / 64 * 64 + u64::from(free.trailing_zeros())).filter(|i| *i < self.count);
            }
            i = (i / 64 + 1) * 64;
        }
        None
    }
    /// Takes up to `most` places side by side: behind those taken last where so many are free, else the first there are.
    fn take(&mut self, most: usize) -> Option<(u64, usize)> {
        if self.closed {
            return None;
        }
        let start = self.first_free(self.next).or_else(|| self.first_free(0))?;
        let n = (0..most as u64).take_while(|i| self.is_free(start + i)).count();
        (start..start + n as u64).for_each(|i| self.words[(i / 64) as usize] |= 1 << (i % 64));
        self.used += n as u64;
        self.next = start + n as u64;
        Some((start, n))
    }
    /// `false`: it was not taken.
    fn give_back(&mut self, i: u64) -> bool {
        let taken = i < self.count && !self.is_free(i);
        if taken {
            self.words[(i / 64) as usize] &= !(1 << (i % 64));
            self.used -= 1;
        }
        taken
    }
}

impl Area {
    /// All of a disk but its first page, which says what it is. `None`: that is nothing.
    pub(super) fn new(disk: &'static Disk, pages: u64, priority: i32) -> Option<Area> {
        let count = pages.min(disk.size() / PAGE_SIZE);
        if count < 2 {
            return None;
        }
        let mut words = Vec::new();
        words.try_reserve_exact(count.div_ceil(64) as usize).ok()?;
        words.resize(count.div_ceil(64) as usize, 0);
        words[0] = 1;
        let places = IrqSpin::new(Rank::Leaf, Places { words, count, used: 0, next: 1, closed: false });
        Some(Area { disk, priority, places })
    }

    /// The disk that it is on.
    pub(crate) fn disk(&self) -> &'static Disk {
        self.disk
    }
    /// Higher ones are filled first.
    pub(crate) fn priority(&self) -> i32 {
        self.priority
    }
    /// Pages there is room for, and those that are there.
    pub(crate) fn pages(&self) -> (u64, u64) {
        let p = self.places.lock();
        (p.count - 1, p.used)
    }
    /// It takes no more pages, or does again.
    pub(super) fn close(&self, closed: bool) {
        self.places.lock().closed = closed;
    }

    /// Writes those pages of the run that `which` names; gives the place of each to `placed`. What has none by the end
    /// found no room.
    pub(super) fn put(&self, run: &dyn PageRun, which: &[u8], mut placed: impl FnMut(u8, u64)) {
        let mut left = which;
        while !left.is_empty() {
            let Some((start, n)) = self.places.lock().take(left.len().min(TOGETHER)) else { return };
            let now;
            (now, left) = left.split_at(n);
            let mut buffer = self.disk.buffer();
            for (i, to) in now.iter().zip(buffer.bytes_mut().as_chunks_mut::<PAGE>().0) {
                run.read(usize::from(*i), to);
            }
            match buffer.write(start * PAGE_SIZE, n * PAGE) {
                Ok(()) => now.iter().zip(start..).for_each(|(i, place)| placed(*i, place)),
                Err(e) => {
                    crate::say!("machvm: swap on {} takes no more pages: error {}", self.disk.name(), e.0);
                    self.close(true);
                    let mut places = self.places.lock();
                    (start..start + n as u64).for_each(|i| {
                        places.give_back(i);
                    });
                }
            }
        }
    }

    /// Reads `n` neighbours: `each` is given the index and the page, or why not.
    pub(super) fn get(&self, start: u64, n: usize, each: &mut EachPage<'_>) {
        let there = |i: usize| {
            let p = self.places.lock();
            start + (i as u64) < p.count && !p.is_free(start + i as u64)
        };
        let mut done = 0;
        while done < n {
            let now = (n - done).min(TOGETHER);
            let mut buffer = self.disk.buffer();
            let read = buffer.read((start + done as u64) * PAGE_SIZE, now * PAGE);
            for (i, page) in buffer.bytes().as_chunks::<PAGE>().0.iter().take(now).enumerate() {
                let good = read.is_ok() && there(done + i);
                each(done + i, if good { Ok(page) } else { Err(SwapError::Lost) });
            }
            done += now;
        }
    }

    /// The page is no longer wanted. A place that nobody has is left as it is.
    pub(super) fn free(&self, place: u64) {
        if place != 0 {
            self.places.lock().give_back(place);
        }
    }
}
