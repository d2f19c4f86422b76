//! Swap on a disk: a page has a place, neighbours have neighbouring ones and go with one request.
//!
//! A disk that is taken out of use gives its pages away. Whoever has a slot does not hear of it: the place is taken until
//! the slot is freed, and leads to the page's new slot.

use alloc::vec::Vec;

use core::sync::atomic::{AtomicBool, Ordering};

use machvm_hal::{EachPage, Event, PAGE_SIZE, PageRun, SwapError};
use machvm_sync::Rank;

use crate::dev::{BUFFER, Disk};
use crate::errno::{ENOMEM, Result};
use crate::lock::IrqSpin;
use crate::sched;

const PAGE: usize = PAGE_SIZE as usize;
/// Pages that go with one request.
const TOGETHER: usize = BUFFER / PAGE;

/// A disk, or the part of one, that takes pages.
pub(crate) struct Area {
    disk: &'static Disk,
    priority: i32,
    places: IrqSpin<Places>,
    /// It is not in use any more. Its places may still lead to others.
    off: AtomicBool,
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
    /// Writes and reads under way.
    writes: u32,
    reads: u32,
    /// The new slots of pages that were given away, by place; 0: it is here. Empty: all are.
    moved: Vec<u64>,
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
        self.writes += 1;
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
    /// The slot that the page at this place was moved to; 0: none.
    fn moved(&self, i: u64) -> u64 {
        self.moved.get(i as usize).copied().unwrap_or(0)
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
        let places = IrqSpin::new(
            Rank::Leaf,
            Places { words, count, used: 0, next: 1, closed: false, writes: 0, reads: 0, moved: Vec::new() },
        );
        Some(Area { disk, priority, places, off: AtomicBool::new(false) })
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
    /// It takes no more pages, or does again; gives how it was.
    pub(super) fn close(&self, closed: bool) -> bool {
        core::mem::replace(&mut self.places.lock().closed, closed)
    }

    /// It is not in use any more.
    pub(super) fn is_off(&self) -> bool {
        self.off.load(Ordering::Acquire)
    }
    /// See [`Area::is_off`]. => it is empty.
    pub(super) fn turn_off(&self) {
        self.off.store(true, Ordering::Release);
    }

    /// Who waits for the end of writes.
    fn event(&self) -> Event {
        Event(core::ptr::from_ref(self) as u64)
    }
    /// Changes what there is; who waits for that is woken.
    fn over(&self, f: impl FnOnce(&mut Places)) {
        let closed = {
            let mut p = self.places.lock();
            f(&mut p);
            p.closed
        };
        if closed {
            sched::wakeup(self.event());
        }
    }
    /// Waits until `done`. => closed.
    fn wait_until(&self, done: impl Fn(&Places) -> bool) {
        loop {
            let seen = sched::wakeups(self.event());
            if done(&self.places.lock()) {
                return;
            }
            sched::sleep_unless(self.event(), seen, None);
        }
    }

    /// Gives all its pages away: `elsewhere` takes one and gives its slot, `forget` frees a slot.
    ///
    /// => closed; no lock is held.
    ///
    /// # Errors
    /// ENOMEM: one was not taken; EIO: the disk cannot be read. What was given away stays where it is.
    pub(super) fn empty(
        &self,
        elsewhere: impl Fn(&[u8; PAGE]) -> Option<u64>,
        forget: impl Fn(u64),
    ) -> Result<()> {
        let count = self.make_moved()?;
        self.wait_until(|p| p.writes == 0);
        let mut at = 1;
        while at < count {
            let n = {
                let p = self.places.lock();
                let here = |i: &u64| *i < p.count && !p.is_free(*i) && p.moved(*i) == 0;
                (at..count).take_while(here).take(TOGETHER).count()
            };
            if n == 0 {
                at += 1;
                continue;
            }
            let mut buffer = self.disk.buffer();
            buffer.read(at * PAGE_SIZE, n * PAGE)?;
            for (page, i) in buffer.bytes().as_chunks::<PAGE>().0.iter().take(n).zip(at..) {
                let new = elsewhere(page).ok_or(ENOMEM)?;
                let unwanted = {
                    let mut p = self.places.lock();
                    // It was freed meanwhile.
                    let gone = p.is_free(i);
                    if !gone {
                        p.moved[i as usize] = new;
                    }
                    gone
                };
                if unwanted {
                    forget(new);
                }
            }
            at += n as u64;
        }
        // The disk may be used for something else.
        self.wait_until(|p| p.reads == 0);
        Ok(())
    }

    /// Room for the new slots of all pages; gives how many places there are.
    fn make_moved(&self) -> Result<u64> {
        let count = self.places.lock().count;
        let mut list = Vec::new();
        list.try_reserve_exact(count as usize).map_err(|_| ENOMEM)?;
        list.resize(count as usize, 0);
        let mut p = self.places.lock();
        if p.moved.is_empty() {
            core::mem::swap(&mut p.moved, &mut list);
        }
        drop(p);
        Ok(count)
    }

    /// The slot that the page at this place was moved to; 0: it is here.
    pub(super) fn moved(&self, place: u64) -> u64 {
        self.places.lock().moved(place)
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
            drop(buffer);
            // Who gets the slots has them.
            self.over(|p| p.writes -= 1);
        }
    }

    /// Reads `n` neighbours: `each` is given the index and the page, or why not. `false`: nothing was read, because one
    /// of them is elsewhere by now.
    pub(super) fn get(&self, start: u64, n: usize, each: &mut EachPage<'_>) -> bool {
        {
            let mut p = self.places.lock();
            if (start..start + n as u64).any(|i| p.moved(i) != 0) {
                return false;
            }
            p.reads += 1;
        }
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
        self.over(|p| p.reads -= 1);
        true
    }

    /// The page is no longer wanted. A place that nobody has is left as it is. Gives the slot that is to be freed in
    /// its place; 0: none.
    pub(super) fn free(&self, place: u64) -> u64 {
        if place == 0 {
            return 0;
        }
        let mut p = self.places.lock();
        if !p.give_back(place) {
            return 0;
        }
        p.moved.get_mut(place as usize).map_or(0, core::mem::take)
    }
}
