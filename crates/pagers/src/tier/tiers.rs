//! The ordered list of tiers, and the swap that it is.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use machvm_hal::{EachPage, MAX_RUN, PageRun, Swap, SwapError, SwapSlot};

use super::table::{Freed, Spot, Table};
use super::{PAGE, PageBytes, PageId, Place, Speed, Tier, TierError, TierStats};
use crate::slot::{self, Meaning};
use crate::sum::repeated_word;

/// Most tiers at a time.
pub(super) const MAX_TIERS: usize = 32;
/// The clock of ages goes on with every so many pages that are stored.
pub(super) const TURN: u64 = 256;
/// How often a page is read where it is when the device fails.
const ATTEMPTS: u32 = 4;
/// Entries are reserved for no more pages than this (256 GiB), and of a tier in memory for
/// no more than that (64 GiB).
const MOST_PAGES: [u64; 2] = [64 << 20, 16 << 20];

/// A tier in use.
pub(super) struct Held {
    pub(super) tier: Box<dyn Tier>,
    pub(super) number: u8,
    pub(super) prio: i32,
    /// Nothing is stored there any more.
    pub(super) leaving: AtomicBool,
    /// Runs that are being stored there.
    putting: AtomicU32,
    /// Pages read again because the device failed.
    pub(super) retried: AtomicU64,
    /// Pages refused for want of room when the mover last looked.
    pub(super) refused: AtomicU64,
}

/// The right to store something in a tier.
struct Putting<'a>(&'a Held);

impl Held {
    pub(super) fn new(tier: Box<dyn Tier>, number: u8, prio: i32) -> Self {
        let (leaving, putting) = (false.into(), 0.into());
        Held { tier, number, prio, leaving, putting, retried: 0.into(), refused: 0.into() }
    }
    /// `None`: nothing is stored there any more.
    fn begin_put(&self) -> Option<Putting<'_>> {
        // SeqCst, with `leave`: either it sees this run, or we see that the tier leaves.
        self.putting.fetch_add(1, SeqCst);
        let putting = Putting(self);
        (!self.leaving.load(SeqCst)).then_some(putting)
    }
    /// From now on nothing more begins to be stored there, or is again.
    pub(super) fn leave(&self, leaving: bool) {
        self.leaving.store(leaving, SeqCst);
    }
    /// While it leaves: it has no pages, and gets none any more.
    pub(super) fn is_empty_for_good(&self) -> bool {
        // In this order: what was being stored counts as soon as it has been.
        self.putting.load(SeqCst) == 0 && self.tier.stats().pages == 0
    }
}

impl Drop for Putting<'_> {
    fn drop(&mut self) {
        self.0.putting.fetch_sub(1, SeqCst);
    }
}

#[derive(Default)]
pub(super) struct List {
    pub(super) at: [Option<Arc<Held>>; MAX_TIERS],
    /// Numbers, by falling priority, then in the order of their coming.
    pub(super) order: Vec<u8>,
}

/// Swap in several places; see the text of `tier`. Priorities are as those of
/// `swapon(8)`: the tier with the highest that has room gets a page, and those of one
/// priority take turns.
pub struct Tiers {
    pub(super) table: Table,
    list: RwLock<List>,
    turn: AtomicU32,
    pub(super) stored: AtomicU64,
    filled: AtomicU64,
    filled_puts: AtomicU64,
    full: AtomicU64,
    pub(super) lost: AtomicU64,
    pub(super) moved: AtomicU64,
    /// Tiers come, go, and contents move, one at a time.
    pub(super) changes: Mutex<super::moves::Sweep>,
    wanted: Mutex<bool>,
    called: Condvar,
}

/// A tier, as the user sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TierInfo {
    /// What the user calls it.
    pub name: String,
    /// What it is.
    pub kind: &'static str,
    /// How long a page takes to come back.
    pub speed: Speed,
    /// Higher ones are filled first.
    pub prio: i32,
    /// It is being emptied.
    pub leaving: bool,
    /// Reads that were tried again because the device failed.
    pub retried: u64,
    /// Its figures.
    pub stats: TierStats,
}

/// What [`Tiers`] count themselves.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct TiersStats {
    /// Pages that repeat one word, which are nowhere.
    pub same_filled: u64,
    /// Such pages ever put.
    pub put_same_filled: u64,
    /// Slots of pages that are in a tier.
    pub slots: u64,
    /// Pages ever stored in a tier.
    pub stored: u64,
    /// Pages refused by all of them.
    pub full: u64,
    /// Pages that moved from one tier to another.
    pub moved: u64,
    /// Pages that could not be read back.
    pub lost: u64,
    /// Bytes of the table of slots.
    pub table_bytes: u64,
}

/// Some pages of a run.
pub(super) struct Subset<'a> {
    pub(super) run: &'a dyn PageRun,
    pub(super) which: &'a [u8],
}

impl PageRun for Subset<'_> {
    fn pages(&self) -> usize {
        self.which.len()
    }
    fn read(&self, i: usize, to: &mut PageBytes) {
        self.run.read(usize::from(self.which[i]), to);
    }
}

struct One<'a>(&'a PageBytes);
impl PageRun for One<'_> {
    fn pages(&self) -> usize {
        1
    }
    fn read(&self, _: usize, to: &mut PageBytes) {
        *to = *self.0;
    }
}

impl Default for Tiers {
    fn default() -> Self {
        Tiers::new()
    }
}

impl Tiers {
    /// No tier yet: only pages that repeat one word can be kept.
    pub fn new() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Tiers {
            table: Table::new(threads),
            list: RwLock::default(),
            turn: AtomicU32::new(0),
            stored: AtomicU64::new(0),
            filled: AtomicU64::new(0),
            filled_puts: AtomicU64::new(0),
            full: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            moved: AtomicU64::new(0),
            changes: Mutex::default(),
            wanted: Mutex::new(false),
            called: Condvar::new(),
        }
    }

    pub(super) fn list(&self) -> RwLockReadGuard<'_, List> {
        self.list.read().unwrap_or_else(PoisonError::into_inner)
    }
    pub(super) fn list_mut(&self) -> RwLockWriteGuard<'_, List> {
        self.list.write().unwrap_or_else(PoisonError::into_inner)
    }
    pub(super) fn held(&self, number: u8) -> Option<Arc<Held>> {
        self.list().at.get(usize::from(number))?.clone()
    }
    /// The tiers, in the order in which they are filled.
    pub(super) fn in_order(&self) -> ([Option<Arc<Held>>; MAX_TIERS], usize) {
        let list = self.list();
        let mut all = [const { None }; MAX_TIERS];
        let mut n = 0;
        for held in list.order.iter().filter_map(|i| list.at[usize::from(*i)].as_ref()) {
            all[n] = Some(Arc::clone(held));
            n += 1;
        }
        (all, n)
    }
    /// Entries for all that the tiers may hold.
    pub(super) fn reserve(&self) {
        let (all, n) = self.in_order();
        let room = |h: &Arc<Held>| {
            // Compressed pages are seldom less than an eighth.
            let s = h.tier.stats();
            match h.tier.speed() {
                Speed::Fast => s.capacity.saturating_mul(8).min(MOST_PAGES[1]),
                Speed::Slow => s.capacity,
            }
        };
        let pages = all[..n].iter().flatten().map(room).fold(0, u64::saturating_add);
        self.table.reserve(pages.min(MOST_PAGES[0]));
    }

    /// The tiers, in the order in which they are filled.
    pub fn tiers(&self) -> Vec<TierInfo> {
        let (all, n) = self.in_order();
        let info = |h: &Arc<Held>| TierInfo {
            name: h.tier.name().to_owned(),
            kind: h.tier.kind(),
            speed: h.tier.speed(),
            prio: h.prio,
            leaving: h.leaving.load(Relaxed),
            retried: h.retried.load(Relaxed),
            stats: h.tier.stats(),
        };
        all[..n].iter().flatten().map(info).collect()
    }
    /// The figures of the moment.
    pub fn stats(&self) -> TiersStats {
        TiersStats {
            same_filled: self.filled.load(Relaxed),
            put_same_filled: self.filled_puts.load(Relaxed),
            slots: self.table.live_entries(),
            stored: self.stored.load(Relaxed),
            full: self.full.load(Relaxed),
            moved: self.moved.load(Relaxed),
            lost: self.lost.load(Relaxed),
            table_bytes: self.table.bytes(),
        }
    }
    /// Waits until everything stored has reached its device.
    ///
    /// # Errors
    /// The first failure, with the name of the tier.
    pub fn drain(&self) -> Result<(), (String, TierError)> {
        let (all, n) = self.in_order();
        for h in all[..n].iter().flatten() {
            h.tier.drain().map_err(|e| (h.tier.name().to_owned(), e))?;
        }
        Ok(())
    }
    /// The run ends: tiers delete what would outlive it.
    pub fn close(&self) {
        let (all, n) = self.in_order();
        all[..n].iter().flatten().for_each(|h| h.tier.close());
    }
    pub(super) fn age(&self) -> u16 {
        (self.stored.load(Relaxed) / TURN) as u16
    }

    /// Stores pages in the first tiers with room of those that `may` be used.
    pub(super) fn store(
        &self,
        run: &dyn PageRun,
        ids: &[PageId],
        spots: &mut [Option<Spot>],
        may: &dyn Fn(&Held) -> bool,
    ) {
        let (mut all, n) = self.in_order();
        take_turns(&mut all[..n], self.turn.fetch_add(1, Relaxed));
        let mut left: [u8; MAX_RUN] = core::array::from_fn(|i| i as u8);
        let mut count = ids.len().min(MAX_RUN);
        for held in all[..n].iter().flatten() {
            if count == 0 {
                break;
            }
            let Some(_putting) = may(held).then(|| held.begin_put()).flatten() else { continue };
            let mut names = [PageId(0); MAX_RUN];
            let mut places = [None; MAX_RUN];
            for (to, i) in names.iter_mut().zip(&left[..count]) {
                *to = ids[usize::from(*i)];
            }
            let part = Subset { run, which: &left[..count] };
            if held.tier.put_run(&part, &names[..count], &mut places[..count]).is_err() {
                self.call_mover();
            }
            let mut still = 0;
            for k in 0..count {
                match places[k] {
                    Some(place) => spots[usize::from(left[k])] = Some(Spot { tier: held.number, place }),
                    None => {
                        left[still] = left[k];
                        still += 1;
                    }
                }
            }
            count = still;
        }
    }

    /// Somebody should look after the tiers.
    pub(super) fn call_mover(&self) {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::replace(&mut *wanted, true) {
            self.called.notify_one();
        }
    }
    /// Waits until a tier is short of room or has trouble, or for so long.
    pub(super) fn wait_for_call(&self, longest: std::time::Duration) {
        let wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut wanted, _) =
            self.called.wait_timeout_while(wanted, longest, |w| !*w).unwrap_or_else(PoisonError::into_inner);
        *wanted = false;
    }

    fn read(&self, id: PageId, page: &mut PageBytes) -> Result<(), SwapError> {
        let (mut before, mut failures) = (None, 0);
        while let Some(spot) = self.table.look(id) {
            // What moved meanwhile is looked for where it is now, however often.
            failures = if before == Some(spot) { failures + 1 } else { 0 };
            let error = match self.held_for(id, spot) {
                Some(held) => match held.tier.get(id, spot.place, page) {
                    Ok(()) => return Ok(()),
                    Err(e) => {
                        held.retried.fetch_add(1, Relaxed);
                        e
                    }
                },
                None => TierError::Lost,
            };
            let most = if matches!(error, TierError::Io(_)) { ATTEMPTS } else { 2 };
            if failures + 1 >= most {
                break;
            }
            before = Some(spot);
        }
        self.lost.fetch_add(1, Relaxed);
        Err(SwapError::Lost)
    }
    /// The tier of `spot`, if the page is there. It may go at any time; then the tier says
    /// that it has not got it, as it is still the same one.
    fn held_for(&self, id: PageId, spot: Spot) -> Option<Arc<Held>> {
        let held = self.held(spot.tier)?;
        // Else the tier may be a new one under the number of the one that had it.
        (self.table.look(id) == Some(spot)).then_some(held)
    }
}

/// Tiers of one priority change places.
fn take_turns(all: &mut [Option<Arc<Held>>], turn: u32) {
    let prio = |h: &Option<Arc<Held>>| h.as_ref().map(|h| h.prio);
    for group in all.chunk_by_mut(|a, b| prio(a) == prio(b)) {
        let n = group.len();
        group.rotate_left(turn as usize % n);
    }
}

fn filled_slot(page: &PageBytes) -> Option<SwapSlot> {
    repeated_word(page).and_then(|word| slot::filled(u64::from_le(word)))
}

impl Swap for Tiers {
    fn put(&self, data: &PageBytes) -> Result<SwapSlot, SwapError> {
        let mut slots = [None];
        self.put_run(&One(data), &mut slots);
        slots[0].ok_or(SwapError::Full)
    }

    fn put_run(&self, run: &dyn PageRun, slots: &mut [Option<SwapSlot>]) -> usize {
        let pages = run.pages().min(slots.len()).min(MAX_RUN);
        let (mut rest, mut count, mut kept) = ([0u8; MAX_RUN], 0, 0);
        {
            let mut page = [0; PAGE];
            for (i, slot) in slots.iter_mut().enumerate().take(pages) {
                run.read(i, &mut page);
                *slot = filled_slot(&page);
                if slot.is_none() {
                    rest[count] = i as u8;
                    count += 1;
                }
            }
        }
        kept += pages - count;
        self.filled.fetch_add(kept as u64, Relaxed);
        self.filled_puts.fetch_add(kept as u64, Relaxed);
        let mut ids = [PageId(0); MAX_RUN];
        let named = self.table.take(&mut ids[..count]);
        let mut spots = [None; MAX_RUN];
        if named != 0 {
            let part = Subset { run, which: &rest[..named] };
            self.store(&part, &ids[..named], &mut spots[..named], &|_| true);
        }
        let age = self.age();
        let mut stored = 0;
        for k in 0..named {
            match spots[k] {
                Some(spot) => {
                    self.table.fill(ids[k], spot, age);
                    slots[usize::from(rest[k])] = core::num::NonZeroU64::new(ids[k].0).map(SwapSlot);
                    stored += 1;
                }
                None => drop(self.table.free(ids[k])),
            }
        }
        self.stored.fetch_add(stored as u64, Relaxed);
        self.full.fetch_add((count - stored) as u64, Relaxed);
        kept + stored
    }

    fn get(&self, slot: SwapSlot, data: &mut PageBytes) -> Result<(), SwapError> {
        match slot::meaning(slot) {
            Some(Meaning::Filled(word)) => {
                data.as_chunks_mut::<8>().0.fill(word.to_le_bytes());
                Ok(())
            }
            Some(Meaning::Stored(..)) => self.read(PageId(slot.0.get()), data),
            None => Err(SwapError::Lost),
        }
    }

    fn get_run(&self, slots: &[SwapSlot], each: &mut EachPage<'_>) {
        let mut begin = 0;
        while begin < slots.len() {
            let part = &slots[begin..slots.len().min(begin + MAX_RUN)];
            self.get_part(part, &mut |i, read| each(begin + i, read));
            begin += part.len();
        }
    }

    fn is_slow(&self, slot: SwapSlot) -> bool {
        let spot = matches!(slot::meaning(slot), Some(Meaning::Stored(..)))
            .then(|| self.table.look(PageId(slot.0.get())))
            .flatten();
        spot.and_then(|s| self.held(s.tier)).is_some_and(|h| h.tier.speed() == Speed::Slow)
    }

    /// A slot that is not in use is ignored.
    fn free(&self, slot: SwapSlot) {
        match slot::meaning(slot) {
            Some(Meaning::Filled(_)) => {
                let _ = self.filled.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1));
            }
            Some(Meaning::Stored(..)) => {
                let id = PageId(slot.0.get());
                if let Freed::Place(spot) = self.table.free(id) {
                    self.free_spot(id, spot);
                }
            }
            None => {}
        }
    }
}

impl Tiers {
    pub(super) fn free_spot(&self, id: PageId, spot: Spot) {
        if let Some(held) = self.held(spot.tier) {
            held.tier.free(id, spot.place);
        }
    }

    /// At most [`MAX_RUN`] slots: those of one tier together.
    fn get_part(&self, slots: &[SwapSlot], each: &mut EachPage<'_>) {
        let mut spots = [None; MAX_RUN];
        for (spot, slot) in spots.iter_mut().zip(slots) {
            if matches!(slot::meaning(*slot), Some(Meaning::Stored(..))) {
                *spot = self.table.look(PageId(slot.0.get()));
            }
        }
        let mut done = [false; MAX_RUN];
        for first in 0..slots.len() {
            let Some(Spot { tier, .. }) = spots[first].filter(|_| !done[first]) else { continue };
            let Some(held) = self.held(tier).filter(|h| h.tier.speed() == Speed::Slow) else { continue };
            let (mut wanted, mut which, mut n) = ([(PageId(0), Place(0)); MAX_RUN], [0; MAX_RUN], 0);
            for i in first..slots.len() {
                let id = PageId(slots[i].0.get());
                // As in `held_for`.
                let here = |s: &Spot| s.tier == tier && !done[i] && self.table.look(id) == Some(*s);
                if let Some(spot) = spots[i].filter(here) {
                    (wanted[n], which[n]) = ((id, spot.place), i);
                    n += 1;
                }
            }
            held.tier.get_run(&wanted[..n], &mut |k, read| {
                if let (Some(i), Ok(page)) = (which.get(k), read) {
                    done[*i] = true;
                    each(*i, Ok(page));
                }
            });
        }
        // What is in memory, and what failed: that is looked up again.
        let mut page = [0; PAGE];
        for (i, slot) in slots.iter().enumerate().filter(|(i, _)| !done[*i]) {
            match self.get(*slot, &mut page) {
                Ok(()) => each(i, Ok(&page)),
                Err(e) => each(i, Err(e)),
            }
        }
    }
}

impl core::fmt::Debug for Tiers {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Tiers").field("tiers", &self.tiers()).field("stats", &self.stats()).finish()
    }
}
