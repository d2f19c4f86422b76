//! The indirection: from slots to tiers and places.
//!
//! An entry is 16 bytes. Those in use carry the tier, the place and an age; free ones
//! are linked. An entry's generation grows when it is freed, so an old slot finds
//! nothing. While an entry's contents move (MOVING) it goes on naming the old place; if
//! it is freed meanwhile it is only marked (DEAD), and whoever moves it frees it.

use machvm_sync::{Rank, Spin};

use super::{PageId, Place};
use crate::slot::{self, GENERATION_BITS, HANDLE_BITS, MAX_SHARDS, Meaning, Name};
use machvm_hal::SwapSlot;

/// Entries that are reserved together: 4 MiB of addresses.
const CHUNK: usize = 256 * 1024;
const NONE: u32 = u32::MAX;

const USED: u8 = 1;
const MOVING: u8 = 2;
const DEAD: u8 = 4;
/// Stored under way: the entry has a slot and no contents yet.
const FILLING: u8 = 8;

/// Where the contents of a slot are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Spot {
    pub(super) tier: u8,
    pub(super) place: Place,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// The place; the next free entry.
    place: u64,
    generation: u32,
    tier: u8,
    flags: u8,
    /// When it was stored, in turns of the clock.
    age: u16,
}

struct Shard {
    chunks: Vec<Vec<Entry>>,
    /// Entries that were ever used.
    used: u32,
    free: u32,
    live: u64,
}

/// See the module text.
pub(super) struct Table {
    shards: Box<[Spin<Shard>]>,
}

/// What freeing an entry leaves to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Freed {
    /// The place is to be freed.
    Place(Spot),
    /// Whoever moves the contents frees everything.
    Later,
    /// There is no such entry.
    Unknown,
}

/// What came of a move.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Moved {
    /// The entry names the new place: free this one.
    Done(Spot),
    /// It was freed meanwhile: free both places.
    Dead(Spot),
}

impl Shard {
    fn entry(&self, handle: u32) -> Option<&Entry> {
        let h = handle as usize;
        self.chunks.get(h / CHUNK)?.get(h % CHUNK)
    }
    fn entry_mut(&mut self, handle: u32) -> Option<&mut Entry> {
        let h = handle as usize;
        self.chunks.get_mut(h / CHUNK)?.get_mut(h % CHUNK)
    }
    fn live(&self, name: Name) -> Option<&Entry> {
        let e = self.entry(name.handle)?;
        (e.flags & (USED | DEAD) == USED && e.generation == name.generation).then_some(e)
    }
    fn live_mut(&mut self, name: Name) -> Option<&mut Entry> {
        self.live(name)?;
        self.entry_mut(name.handle)
    }

    fn take(&mut self) -> Option<Name> {
        let handle = if self.free == NONE {
            let h = self.used;
            let chunk = self.chunks.get_mut(h as usize / CHUNK)?;
            if chunk.len() == chunk.capacity() || h >> HANDLE_BITS != 0 {
                return None;
            }
            chunk.push(Entry { place: 0, generation: 0, tier: 0, flags: 0, age: 0 });
            self.used += 1;
            h
        } else {
            self.free
        };
        let was_free = self.free == handle;
        let e = self.entry_mut(handle)?;
        let (next, generation) = (e.place, e.generation);
        (e.flags, e.place) = (USED | FILLING, 0);
        if was_free {
            self.free = next as u32;
        }
        self.live += 1;
        Some(Name { handle, generation })
    }

    fn give_back(&mut self, handle: u32) {
        let free = self.free;
        if let Some(e) = self.entry_mut(handle) {
            e.flags = 0;
            e.place = u64::from(free);
            e.generation = (e.generation + 1) & ((1 << GENERATION_BITS) - 1);
            self.free = handle;
            self.live -= 1;
        }
    }
}

impl Table {
    pub(super) fn new(threads: usize) -> Self {
        let shard = || Shard { chunks: Vec::new(), used: 0, free: NONE, live: 0 };
        let count = threads.clamp(1, MAX_SHARDS);
        Table { shards: (0..count).map(|_| Spin::new(Rank::Leaf, shard())).collect() }
    }

    /// Makes room for `pages` entries in all, so that requests need not. The room is
    /// address space until it is used; less if the system has not got it.
    pub(super) fn reserve(&self, pages: u64) {
        let most = (1u64 << HANDLE_BITS) / CHUNK as u64;
        let chunks = (pages.div_ceil(self.shards.len() as u64).div_ceil(CHUNK as u64)).min(most) as usize;
        for shard in &self.shards {
            let have = shard.lock().chunks.len();
            let chunk = |_| {
                let mut entries = Vec::new();
                entries.try_reserve_exact(CHUNK).ok().map(|()| entries)
            };
            let mut more: Vec<Vec<Entry>> = (have..chunks).map_while(chunk).collect();
            // The list is replaced by a longer one, made without the lock.
            let mut list = Vec::with_capacity(chunks.max(have));
            let mut locked = shard.lock();
            list.append(&mut locked.chunks);
            list.append(&mut more);
            let old = std::mem::replace(&mut locked.chunks, list);
            drop(locked);
            drop(old);
        }
    }

    /// Entries for `ids.len()` pages; returns how many there were.
    pub(super) fn take(&self, ids: &mut [PageId]) -> usize {
        let first = self.shards.iter().position(|s| s.try_lock().is_some()).unwrap_or(0);
        let mut n = 0;
        for turn in 0..self.shards.len() {
            let index = (first + turn) % self.shards.len();
            let mut shard = self.shards[index].lock();
            while n < ids.len() {
                let Some(name) = shard.take() else { break };
                let Some(slot) = slot::stored(index, name) else {
                    shard.give_back(name.handle);
                    break;
                };
                ids[n] = PageId(slot.0.get());
                n += 1;
            }
        }
        n
    }

    fn at(&self, id: PageId) -> Option<(&Spin<Shard>, Name)> {
        match slot::meaning(SwapSlot(core::num::NonZeroU64::new(id.0)?))? {
            Meaning::Stored(shard, name) => Some((self.shards.get(shard)?, name)),
            Meaning::Filled(_) => None,
        }
    }

    /// The contents are stored.
    pub(super) fn fill(&self, id: PageId, spot: Spot, age: u16) {
        let Some((shard, name)) = self.at(id) else { return };
        if let Some(e) = shard.lock().live_mut(name) {
            (e.place, e.tier, e.age) = (spot.place.0, spot.tier, age);
            e.flags &= !FILLING;
        }
    }

    /// Where the contents are.
    pub(super) fn look(&self, id: PageId) -> Option<Spot> {
        let (shard, name) = self.at(id)?;
        let shard = shard.lock();
        let e = shard.live(name).filter(|e| e.flags & FILLING == 0)?;
        Some(Spot { tier: e.tier, place: Place(e.place) })
    }

    /// The entry goes; for one that was taken and not filled, too.
    pub(super) fn free(&self, id: PageId) -> Freed {
        let Some((shard, name)) = self.at(id) else { return Freed::Unknown };
        let mut shard = shard.lock();
        let Some(e) = shard.live_mut(name) else { return Freed::Unknown };
        let spot = Spot { tier: e.tier, place: Place(e.place) };
        if e.flags & MOVING != 0 {
            e.flags |= DEAD;
            return Freed::Later;
        }
        let filled = e.flags & FILLING == 0;
        shard.give_back(name.handle);
        if filled { Freed::Place(spot) } else { Freed::Unknown }
    }

    /// The contents are about to move: where they are. `None`: they are gone, or somebody
    /// else moves them.
    pub(super) fn begin_move(&self, id: PageId) -> Option<Spot> {
        let (shard, name) = self.at(id)?;
        let mut shard = shard.lock();
        let e = shard.live_mut(name).filter(|e| e.flags & (MOVING | FILLING) == 0)?;
        e.flags |= MOVING;
        Some(Spot { tier: e.tier, place: Place(e.place) })
    }

    /// Ends a move; `to`: where the contents are now, `None`: where they were.
    ///
    /// => the caller began it.
    pub(super) fn end_move(&self, id: PageId, to: Option<Spot>) -> Option<Moved> {
        let (shard, name) = self.at(id)?;
        let mut shard = shard.lock();
        let e = shard.entry_mut(name.handle).filter(|e| e.generation == name.generation)?;
        let from = Spot { tier: e.tier, place: Place(e.place) };
        e.flags &= !MOVING;
        if e.flags & DEAD != 0 {
            shard.give_back(name.handle);
            return Some(Moved::Dead(from));
        }
        let to = to?;
        (e.tier, e.place) = (to.tier, to.place.0);
        Some(Moved::Done(from))
    }

    /// The entries of `tier` that were stored at least `turns` turns of the clock before
    /// `now`, from `cursor` on, as many as fit. The cursor comes to the end of what was
    /// looked at; `None` when the table is through.
    pub(super) fn scan(
        &self,
        cursor: &mut Option<(usize, u32)>,
        tier: u8,
        (now, turns): (u16, u16),
        ids: &mut [PageId],
    ) -> usize {
        let mut n = 0;
        while let Some((index, from)) = *cursor {
            let Some(shard) = self.shards.get(index) else {
                *cursor = None;
                break;
            };
            let shard = shard.lock();
            // A bounded stretch under the lock.
            let end = shard.used.min(from.saturating_add(4096));
            let mut h = from;
            while h < end && n < ids.len() {
                if let Some(e) = shard.entry(h)
                    && e.flags & (USED | MOVING | DEAD | FILLING) == USED
                    && e.tier == tier
                    && now.wrapping_sub(e.age) >= turns
                    && let Some(slot) = slot::stored(index, Name { handle: h, generation: e.generation })
                {
                    ids[n] = PageId(slot.0.get());
                    n += 1;
                }
                h += 1;
            }
            *cursor = Some(if h >= shard.used { (index + 1, 0) } else { (index, h) });
            if n == ids.len() {
                break;
            }
        }
        n
    }

    /// Entries in use.
    pub(super) fn live_entries(&self) -> u64 {
        self.shards.iter().map(|s| s.lock().live).sum()
    }
    /// Bytes of entries that were ever used.
    pub(super) fn bytes(&self) -> u64 {
        self.shards.iter().map(|s| u64::from(s.lock().used) * size_of::<Entry>() as u64).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spot(n: u64) -> Spot {
        Spot { tier: 1, place: Place(n) }
    }
    fn one(t: &Table) -> PageId {
        let mut ids = [PageId(0)];
        assert_eq!(t.take(&mut ids), 1);
        ids[0]
    }

    #[test]
    fn s11_an_old_slot_finds_nothing() {
        let t = Table::new(1);
        t.reserve(10);
        let a = one(&t);
        assert_eq!(t.look(a), None, "nothing stored yet");
        t.fill(a, spot(7), 0);
        assert_eq!(t.look(a), Some(spot(7)));
        assert_eq!(t.free(a), Freed::Place(spot(7)));
        let b = one(&t);
        t.fill(b, spot(8), 0);
        assert_ne!(a, b);
        assert_eq!((t.look(a), t.free(a)), (None, Freed::Unknown));
        assert_eq!((t.look(b), t.live_entries()), (Some(spot(8)), 1));
    }

    #[test]
    fn what_is_freed_while_it_moves_is_freed_by_the_mover() {
        let t = Table::new(2);
        t.reserve(10);
        let a = one(&t);
        t.fill(a, spot(1), 0);
        assert_eq!(t.begin_move(a), Some(spot(1)));
        assert_eq!(t.begin_move(a), None, "one mover");
        assert_eq!(t.free(a), Freed::Later);
        assert_eq!((t.look(a), t.free(a)), (None, Freed::Unknown), "it is gone");
        assert_eq!(t.end_move(a, Some(spot(2))), Some(Moved::Dead(spot(1))));
        assert_eq!(t.live_entries(), 0);
        let b = one(&t);
        t.fill(b, spot(3), 0);
        assert_eq!(t.begin_move(b), Some(spot(3)));
        assert_eq!(t.end_move(b, Some(spot(4))), Some(Moved::Done(spot(3))));
        assert_eq!(t.look(b), Some(spot(4)));
    }

    #[test]
    fn s11_there_are_no_more_entries_than_were_reserved() {
        let t = Table::new(1);
        let mut ids = vec![PageId(0); CHUNK + 1];
        assert_eq!(t.take(&mut ids), 0);
        t.reserve(1);
        assert_eq!(t.take(&mut ids), CHUNK);
        t.reserve(CHUNK as u64 + 1);
        assert_eq!(t.take(&mut ids[..1]), 1);
        for id in &ids[..1] {
            t.free(*id);
        }
    }

    #[test]
    fn a_scan_sees_each_old_entry_of_its_tier_once() {
        let t = Table::new(2);
        t.reserve(20_000);
        let mut ids = vec![PageId(0); 10_000];
        assert_eq!(t.take(&mut ids), 10_000);
        for (i, id) in ids.iter().enumerate() {
            t.fill(*id, Spot { tier: (i % 2) as u8, place: Place(0) }, (i % 10) as u16);
        }
        let (mut cursor, mut found) = (Some((0, 0)), 0);
        let mut some = [PageId(0); 32];
        while cursor.is_some() {
            found += t.scan(&mut cursor, 1, (9, 4), &mut some);
        }
        assert_eq!(found, 3000, "ages 1, 3, 5");
    }
}
