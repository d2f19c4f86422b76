//! When the daemon works, and how much (D02, D06, D11).

use core::sync::atomic::Ordering::Relaxed;

use machvm_hal::{Host, MaySleep};
use machvm_sync::{Field64, Rank, Spin};

use super::live::Live;
use super::pid::{Gains, INTERVAL, Pid};
use super::scan::{BATCH, launder_ahead};
use super::{Note, Policy, Queue};
use crate::platform::Platform;
use crate::stats::bump;
use crate::vm::Vm;

/// A controller that was not asked for so many intervals starts anew: nobody was short.
const IDLE_INTERVALS: u64 = 10;
/// Batches written ahead in one interval, at most (D06): 10 MiB a second.
const AHEAD: u64 = 8;
/// Nanoseconds between two times that the embedder is told to give memory back (D11).
const LOWMEM_PERIOD: u64 = 10_000_000_000;
/// Scans of the daemon in a row, with nothing freed, after which memory counts as exhausted
/// (D10, `oom_seq`).
const OOM_SCANS: u64 = 12;

/// What page-out remembers.
pub(crate) struct Control {
    /// How pages are chosen. \[I\]
    pub(super) policy: &'static dyn Policy,
    /// Pages evicted so far: the clock of returns. \[a\]
    pub(super) evictions: Field64,
    /// Page-outs refused, less those that were not; at least 0. \[a\]
    pub(super) refusals: Field64,
    /// Pages that came free on swap while some had no room there (D09). \[a\]
    pub(super) room: Field64,
    /// The daemon's. \[its lock\]
    daemon: Spin<Daemon>,
    /// The task that is being ended for its memory. \[its lock\]
    pub(super) victim: Spin<Option<u64>>,
}

/// What the daemon decides: how much to free, and when to write ahead. A simulator asks the
/// same.
#[derive(Debug)]
pub struct Daemon {
    pid: Pid,
    /// When it was asked last.
    asked: u64,
    /// When the embedder was told last.
    lowmem: Option<u64>,
    /// Scans in a row that freed nothing.
    fruitless: u64,
    /// Frames freed since pages were written ahead last.
    freed: u64,
    /// The interval in which pages are written ahead, and batches written in it.
    ahead: (u64, u64),
}

impl Control {
    pub(crate) fn new(policy: &'static dyn Policy) -> Self {
        Control {
            policy,
            evictions: Field64::new(0),
            refusals: Field64::new(0),
            room: Field64::new(0),
            daemon: Spin::new(Rank::PagerTable, Daemon::default()),
            victim: Spin::new(Rank::PagerTable, None),
        }
    }
}

impl Default for Daemon {
    fn default() -> Self {
        Daemon {
            pid: Pid::new(0, INTERVAL, Gains::default()),
            asked: 0,
            lowmem: None,
            fruitless: 0,
            freed: 0,
            ahead: (0, 0),
        }
    }
}

impl Daemon {
    /// Below so many free frames of `limit` the daemon is woken, and up to so many it frees.
    pub fn marks(limit: u64) -> (u64, u64) {
        // A sixty-fourth of all, between 16 and 512 (256 KiB of clusters ahead of faults).
        let low = (limit / 64).clamp(16, 512).min(limit / 4);
        (low, 2 * low)
    }

    /// How many frames to free at `now` (nanoseconds), when so many are free, with
    /// [`Daemon::marks`].
    pub fn want(&mut self, now: u64, free: u64, (low, target): (u64, u64)) -> u64 {
        if now.saturating_sub(self.asked) > IDLE_INTERVALS * INTERVAL {
            self.pid.reset();
        }
        self.asked = now;
        self.pid.aim(target);
        let want = self.pid.daemon(now, free);
        // At least so many that nobody wakes the daemon at once again, and never more than
        // twice the target free.
        want.max(low.saturating_sub(free)).min((2 * target).saturating_sub(free))
    }

    /// So many frames were freed.
    pub fn note_freed(&mut self, pages: u64) {
        self.freed += pages;
    }

    /// Is it time to write a batch ahead (D06), with so many pages in the laundry, and so many
    /// inactive or free? The more was freed lately, the fewer modified pages may wait for one
    /// that is clean.
    pub fn is_time_to_write(
        &mut self,
        now: u64,
        (modified, clean): (u64, u64),
        (low, target): (u64, u64),
    ) -> bool {
        let band = target - low / 4;
        if now / INTERVAL != self.ahead.0 {
            self.ahead = (now / INTERVAL, 0);
        }
        let due = modified != 0 && modified * (self.freed + 1).div_ceil(band.max(1)).isqrt() >= clean;
        if !due || self.ahead.1 >= AHEAD {
            return false;
        }
        self.ahead.1 += 1;
        self.freed = 0;
        true
    }
}

impl<P: Platform> Vm<P> {
    /// One round of the page daemon: frees as many frames as its controller asks for, writes
    /// some modified pages ahead when that is nothing, and gives how many it freed. Zero:
    /// there is nothing to do until memory is low again.
    ///
    /// => no lock is held.
    pub fn pageout_to_target(&self, may: &mut MaySleep) -> u64 {
        let now = self.host().now_ns();
        let limits = (self.frames.low(), self.frames.target());
        let want = self.control.daemon.lock().want(now, self.frames.free(), limits);
        if want == 0 {
            self.write_ahead(now, may);
            return 0;
        }
        bump(&self.stats.daemon_wakeups, 1);
        let freed = self.reclaim(want, may);
        let (tell, exhausted) = {
            let mut d = self.control.daemon.lock();
            d.note_freed(freed);
            d.fruitless = if freed == 0 { d.fruitless + 1 } else { 0 };
            let exhausted = d.fruitless >= OOM_SCANS;
            if exhausted {
                d.fruitless = 0;
            }
            let due = d.lowmem.is_none_or(|then| now.saturating_sub(then) >= LOWMEM_PERIOD);
            let tell = freed < want && due;
            if tell {
                d.lowmem = Some(now);
            }
            (tell, exhausted)
        };
        if freed < want {
            bump(&self.stats.daemon_shortfalls, 1);
        }
        if tell {
            bump(&self.stats.lowmem_events, 1);
            self.plat.lowmem();
        }
        if exhausted && self.vm_page_count_min() {
            self.out_of_memory(OOM_SCANS);
        }
        freed
    }

    /// Writes a batch of modified pages before their turn comes, if it is time to (D06).
    fn write_ahead(&self, now: u64, may: &mut MaySleep) {
        let modified = self.queues.len(Queue::Laundry);
        let clean = self.queues.len(Queue::Inactive) + self.frames.free();
        let marks = (self.frames.low(), self.frames.target());
        if !self.control.daemon.lock().is_time_to_write(now, (modified, clean), marks) {
            return;
        }
        let s = self.privileged(|| launder_ahead(self.control.policy, &mut Live::new(self, may), BATCH));
        self.note_writes(&s);
        bump(&self.stats.laundered_ahead, s.written);
        self.watch_work(Note::Ahead { pages: s.written });
    }

    /// Is free memory below where the daemon should run?
    pub fn memory_is_low(&self) -> bool {
        self.frames.free() < self.frames.low()
    }

    /// So much more was refused than written that every page was tried several times:
    /// what page-out still frees is clean pages that the program needs right back, and
    /// going on would be thrashing without end (D10). Saying so starts the count anew.
    pub(crate) fn is_exhausted(&self) -> bool {
        let streak = self.control.refusals.atomic();
        let limit = self.frames.limit().saturating_mul(super::REFUSALS_PER_FRAME);
        if streak.load(Relaxed) <= limit {
            return false;
        }
        streak.store(0, Relaxed);
        true
    }
}
