//! Tiers come and go, and contents move between them.
//!
//! A page moves in four steps: its entry is marked, the page is read from the old place,
//! stored in another tier, and then the entry names the new place. Reads go on meanwhile
//! and find the page at either place; a page that is freed meanwhile is freed at both.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use machvm_hal::{MAX_RUN, PageRun};

use super::table::{Moved, Spot};
use super::tiers::{Held, MAX_TIERS, TURN, Tiers};
use super::{PAGE, PageBytes, PageId, Place, Speed, Tier, TierError};

/// The tier of contents that are known to be lost.
const NOWHERE: u8 = u8::MAX;
/// How long a tier that leaves waits for pages that were just being stored.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the mover is in the table, and its buffers.
#[derive(Default)]
pub(super) struct Sweep {
    cursor: Option<(usize, u32)>,
    /// The number of the tier that came last.
    last: usize,
    pages: Vec<PageBytes>,
}

/// Why a tier was not taken into use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OnError {
    /// One of this name is in use already.
    Present(String),
    /// There are as many as there may be.
    TooMany,
}

/// Why a tier stays in use. Its contents, and those that moved already, are where they
/// can be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OffError {
    /// There is none of that name.
    Unknown(String),
    /// The others cannot hold what it has: so many pages have no place.
    NoRoom {
        /// Pages that are still there.
        left: u64,
        /// Pages that the others had room for at the beginning, about.
        room: u64,
    },
    /// A page could not be read, with this errno; nothing is given up before it can be.
    Io(i32),
    /// Pages are there that no slot names.
    Busy(u64),
}

impl core::fmt::Display for OnError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            OnError::Present(name) => write!(f, "{name} is in use for swap already"),
            OnError::TooMany => write!(f, "there are {MAX_TIERS} places for swap already"),
        }
    }
}
impl std::error::Error for OnError {}

impl core::fmt::Display for OffError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            OffError::Unknown(name) => write!(f, "{name} is not in use for swap"),
            OffError::NoRoom { left, room } => write!(
                f,
                "the other places cannot hold its contents: {left} pages are left, and there was room for about \
                 {room}; it stays in use"
            ),
            OffError::Io(errno) => write!(
                f,
                "a page in it cannot be read now ({}); it stays in use",
                std::io::Error::from_raw_os_error(*errno)
            ),
            OffError::Busy(n) => write!(f, "{n} pages in it are still being stored; it stays in use"),
        }
    }
}
impl std::error::Error for OffError {}

/// Pages in the mover's buffers.
struct Copies<'a> {
    pages: &'a [PageBytes],
    which: &'a [usize],
}
impl PageRun for Copies<'_> {
    fn pages(&self) -> usize {
        self.which.len()
    }
    fn read(&self, i: usize, to: &mut PageBytes) {
        *to = self.pages[self.which[i]];
    }
}

/// What came of a batch.
#[derive(Default)]
struct Batch {
    moved: usize,
    no_room: usize,
    io: Option<i32>,
}

impl Tiers {
    fn sweep(&self) -> MutexGuard<'_, Sweep> {
        let mut sweep = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        if sweep.pages.is_empty() {
            sweep.pages = vec![[0; PAGE]; MAX_RUN];
        }
        sweep
    }

    /// Takes a tier into use (S09). Of two tiers the one with the higher `prio` is filled
    /// first; those of one priority take turns.
    ///
    /// # Errors
    /// [`OnError`]; the tier is dropped.
    pub fn on(&self, tier: Box<dyn Tier>, prio: i32) -> Result<(), OnError> {
        let mut sweep = self.sweep();
        let (all, n) = self.in_order();
        if all[..n].iter().flatten().any(|h| h.tier.name() == tier.name()) {
            return Err(OnError::Present(tier.name().to_owned()));
        }
        // In turn, so that a number that some reader still looks at does not mean another
        // tier so soon.
        let free = |i: &usize| self.list().at[*i].is_none();
        let number = (1..=MAX_TIERS).map(|i| (sweep.last + i) % MAX_TIERS).find(free);
        sweep.last = number.ok_or(OnError::TooMany)?;
        let number = sweep.last as u8;
        let held = Held::new(tier, number, prio);
        {
            let mut list = self.list_mut();
            list.at[usize::from(number)] = Some(Arc::new(held));
            list.order.push(number);
            let prios = list.at.each_ref().map(|h| h.as_ref().map_or(i32::MIN, |h| h.prio));
            list.order.sort_by_key(|i| core::cmp::Reverse(prios[usize::from(*i)]));
        }
        self.reserve();
        Ok(())
    }

    /// Takes a tier out of use: its contents move to the others, and requests go on
    /// meanwhile (S09). Returns how many pages moved.
    ///
    /// # Errors
    /// [`OffError`]; the tier stays in use.
    pub fn off(&self, name: &str) -> Result<u64, OffError> {
        let mut sweep = self.sweep();
        let (all, n) = self.in_order();
        let Some(held) = all[..n].iter().flatten().find(|h| h.tier.name() == name).cloned() else {
            return Err(OffError::Unknown(name.to_owned()));
        };
        let others = all[..n].iter().flatten().filter(|h| h.number != held.number);
        let room: u64 = others.map(|h| room(h)).sum();
        drop(all);
        let need = held.tier.stats();
        // Compressed pages are counted by what they take.
        let need = if held.tier.speed() == Speed::Fast { need.bytes / PAGE as u64 } else { need.pages };
        if need / 16 > room {
            return Err(OffError::NoRoom { left: held.tier.stats().pages, room });
        }
        held.leave(true);
        match self.empty(&held, &mut sweep, room) {
            Ok(moved) => {
                let mut list = self.list_mut();
                list.at[usize::from(held.number)] = None;
                list.order.retain(|i| *i != held.number);
                drop(list);
                close(held);
                Ok(moved)
            }
            Err(e) => {
                held.leave(false);
                Err(e)
            }
        }
    }

    fn empty(&self, held: &Arc<Held>, sweep: &mut Sweep, room: u64) -> Result<u64, OffError> {
        let mut moved = 0;
        let mut ids = [PageId(0); MAX_RUN];
        let begun = Instant::now();
        for pass in 1u64.. {
            let mut cursor = Some((0, 0));
            while cursor.is_some() {
                let n = self.table.scan(&mut cursor, held.number, (0, 0), &mut ids);
                let batch = self.move_batch(&ids[..n], held, &mut sweep.pages, &|h| h.number != held.number);
                moved += batch.moved as u64;
                if let Some(errno) = batch.io {
                    return Err(OffError::Io(errno));
                }
                if batch.no_room != 0 {
                    return Err(OffError::NoRoom { left: held.tier.stats().pages, room });
                }
            }
            if held.is_empty_for_good() {
                return Ok(moved);
            }
            // A put that had chosen this tier before it was leaving.
            if begun.elapsed() > PATIENCE {
                break;
            }
            std::thread::sleep(Duration::from_micros(pass.min(100) * 10));
        }
        Err(OffError::Busy(held.tier.stats().pages))
    }

    /// Moves pages to other tiers.
    fn move_batch(
        &self,
        ids: &[PageId],
        from: &Held,
        pages: &mut [PageBytes],
        may: &dyn Fn(&Held) -> bool,
    ) -> Batch {
        let mut result = Batch::default();
        let (mut which, mut names, mut count) = ([0; MAX_RUN], [PageId(0); MAX_RUN], 0);
        for (i, id) in ids.iter().enumerate().take(pages.len()) {
            let Some(spot) = self.table.begin_move(*id) else { continue };
            if spot.tier != from.number {
                self.moved_to(*id, None); // it was moved already
                continue;
            }
            match read(from, *id, spot, &mut pages[i]) {
                Ok(()) => {
                    (which[count], names[count]) = (i, *id);
                    count += 1;
                }
                Err(TierError::Io(errno)) => {
                    result.io = Some(errno);
                    self.moved_to(*id, None);
                }
                Err(TierError::Lost | TierError::Full) => {
                    // An error for whoever wants it; it does not keep the device in use.
                    self.lost.fetch_add(1, Relaxed);
                    self.moved_to(*id, Some(Spot { tier: NOWHERE, place: Place(0) }));
                }
            }
        }
        let mut spots = [None; MAX_RUN];
        if count != 0 {
            let copies = Copies { pages, which: &which[..count] };
            self.store(&copies, &names[..count], &mut spots[..count], may);
        }
        for (id, spot) in names[..count].iter().zip(spots) {
            result.no_room += usize::from(spot.is_none());
            result.moved += usize::from(spot.is_some());
            self.moved_to(*id, spot);
        }
        self.moved.fetch_add(result.moved as u64, Relaxed);
        result
    }

    /// Ends a move and frees what is not used any more.
    fn moved_to(&self, id: PageId, to: Option<Spot>) {
        match self.table.end_move(id, to) {
            Some(Moved::Done(old)) => self.free_spot(id, old),
            Some(Moved::Dead(old)) => {
                self.free_spot(id, old);
                if let Some(new) = to {
                    self.free_spot(id, new);
                }
            }
            None => {
                if let Some(new) = to {
                    self.free_spot(id, new);
                }
            }
        }
    }

    /// One round of looking after the tiers: pages whose place cannot be written move
    /// elsewhere, and from a tier in memory that is nearly full, or refused pages, its
    /// oldest pages move to those behind it. Returns how many pages moved.
    pub fn settle(&self) -> usize {
        let mut sweep = self.sweep();
        let (all, n) = self.in_order();
        let mut moved = 0;
        for held in all[..n].iter().flatten() {
            let mut ids = [PageId(0); MAX_RUN];
            let stranded = held.tier.stranded(&mut ids);
            let elsewhere = self.move_batch(&ids[..stranded], held, &mut sweep.pages, &|_| true).moved;
            if stranded != 0 && elsewhere == 0 {
                held.tier.try_again();
            }
            moved += elsewhere;
        }
        for (i, held) in all[..n].iter().enumerate() {
            let Some(held) = held else { continue };
            if held.tier.speed() != Speed::Fast || i + 1 == n {
                continue;
            }
            let behind = |h: &Held| all[i + 1..n].iter().flatten().any(|b| b.number == h.number);
            for _ in 0..batches(held) {
                moved += self.demote(held, &mut sweep, &behind);
            }
        }
        moved
    }

    /// Moves some of the oldest pages.
    fn demote(&self, held: &Held, sweep: &mut Sweep, may: &dyn Fn(&Held) -> bool) -> usize {
        // Older than half of what is there.
        let turns = (held.tier.stats().pages / 2 / TURN).min(u64::from(u16::MAX / 2)) as u16;
        let mut ids = [PageId(0); MAX_RUN];
        let mut n = 0;
        for old in [turns, turns / 4, 0] {
            // Once around, from where the last round ended.
            for _ in 0..2 {
                let mut cursor = Some(sweep.cursor.unwrap_or((0, 0)));
                while n == 0 && cursor.is_some() {
                    n = self.table.scan(&mut cursor, held.number, (self.age(), old), &mut ids);
                }
                sweep.cursor = cursor;
                if n != 0 {
                    return self.move_batch(&ids[..n], held, &mut sweep.pages, may).moved;
                }
            }
        }
        0
    }

    /// The mover, until `ended`: for a thread of the embedder's.
    pub fn serve(&self, ended: &dyn Fn() -> bool) {
        while !ended() {
            self.wait_for_call(Duration::from_millis(200));
            while !ended() && self.settle() != 0 {}
        }
    }
}

fn read(from: &Held, id: PageId, spot: Spot, page: &mut PageBytes) -> Result<(), TierError> {
    let mut result = Err(TierError::Lost);
    for _ in 0..3 {
        result = from.tier.get(id, spot.place, page);
        if result.is_ok() {
            break;
        }
    }
    result
}

/// About how many pages would fit.
fn room(h: &Held) -> u64 {
    let s = h.tier.stats();
    if h.leaving.load(Relaxed) {
        0
    } else if h.tier.speed() == Speed::Fast {
        s.capacity.saturating_sub(s.bytes / PAGE as u64)
    } else {
        s.capacity.saturating_sub(s.pages + s.retired)
    }
}

/// How many batches are to leave a tier in memory now. It may refuse pages though bytes are
/// left, because it takes them in larger pieces.
fn batches(h: &Held) -> u32 {
    let s = h.tier.stats();
    let refused = h.refused.swap(s.full, Relaxed) != s.full;
    let nearly_full = s.bytes / PAGE as u64 >= s.capacity - s.capacity / 8;
    if refused { 4 } else { u32::from(nearly_full) }
}

/// Waits for requests that are still in the tier, and ends it.
fn close(mut held: Arc<Held>) {
    loop {
        match Arc::try_unwrap(held) {
            Ok(last) => return drop(last),
            Err(shared) => held = shared,
        }
        std::thread::sleep(Duration::from_micros(50));
    }
}
