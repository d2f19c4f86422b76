//! What a disk knows of its blocks, and the buffers on their way.

use std::io;
use std::sync::Arc;

use super::super::{PAGE, PageBytes, PageId, TierError};
use super::blist::Blist;
use super::block::Buffer;
use super::crypt::{Key, REGION_PAGES, Region, Seal};
use super::{CLUSTER, FLIGHTS};

/// How often a write is tried.
const TRIES: u8 = 3;
/// After so many clusters in a row that could not be written the device is not believed to
/// work: what it is given would only cost blocks.
const DOUBT: usize = FLIGHTS;
/// Then one page in so many attempts finds out whether it works again.
const PROBE: u32 = 16;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Nobody's.
    Idle,
    /// Somebody puts pages in.
    Filling,
    /// The device has it.
    Flying,
    /// It cannot be written: it keeps its pages.
    Stuck,
}

/// A buffer, and which blocks it is for.
struct Flight {
    phase: Phase,
    buffer: Option<Arc<Buffer>>,
    place: u64,
    pages: usize,
    ids: [PageId; CLUSTER],
    /// Pages that were not freed meanwhile.
    live: u32,
    written: usize,
    tries: u8,
}

/// A buffer to fill.
pub(super) struct Job {
    pub(super) token: usize,
    /// Nobody else has it.
    pub(super) buffer: Arc<Buffer>,
    pub(super) place: u64,
    pub(super) pages: usize,
    /// Of the first page's write.
    pub(super) number: u64,
    pub(super) key: Option<Key>,
}

/// Where a page is, and how it is opened.
pub(super) enum Found {
    Nothing,
    /// Its bytes were copied.
    InBuffer(Seal, Option<Key>),
    OnDisk(Seal, Option<Key>),
}

/// What is to be done after a write.
pub(super) enum Next {
    Over,
    /// Write again, from this byte of the buffer on.
    Again(usize, Arc<Buffer>, usize),
}

/// See the module text. One lock guards it all.
pub(super) struct State {
    blocks: Blist,
    /// Number of the write and tag, by block: zero where nothing is. (Words, so that the
    /// memory comes zeroed and is there only once it is used.)
    seals: Vec<[u64; 3]>,
    regions: Vec<Region>,
    number: u64,
    flights: [Flight; FLIGHTS],
    pages: u64,
    retired: u64,
    write_errors: u64,
    /// The buffer that was tried again last.
    tried: usize,
    /// Clusters in a row that could not be written, and attempts to store since.
    failed: usize,
    attempts: u32,
}

fn bits(pages: usize) -> u32 {
    if pages >= 32 { u32::MAX } else { (1 << pages) - 1 }
}

impl State {
    pub(super) fn new(blocks: u64) -> Self {
        let flight = |_| Flight {
            phase: Phase::Idle,
            buffer: Some(Arc::new(Buffer::new(CLUSTER))),
            place: 0,
            pages: 0,
            ids: [PageId(0); CLUSTER],
            live: 0,
            written: 0,
            tries: 0,
        };
        State {
            blocks: Blist::new(blocks),
            seals: vec![[0; 3]; blocks as usize],
            regions: (0..blocks.div_ceil(REGION_PAGES)).map(|_| Region::UNUSED).collect(),
            number: 1,
            flights: core::array::from_fn(flight),
            pages: 0,
            retired: 0,
            write_errors: 0,
            tried: 0,
            failed: 0,
            attempts: 0,
        }
    }

    fn count(&self, phase: Phase) -> usize {
        self.flights.iter().filter(|f| f.phase == phase).count()
    }
    /// Buffers that the device has.
    pub(super) fn flying(&self) -> usize {
        self.count(Phase::Flying)
    }
    /// Buffers that the device has, or will have.
    pub(super) fn busy(&self) -> usize {
        self.count(Phase::Flying) + self.count(Phase::Filling)
    }
    /// Buffers that could not be written.
    pub(super) fn stuck(&self) -> usize {
        self.count(Phase::Stuck)
    }
    pub(super) fn pages(&self) -> u64 {
        self.pages
    }
    pub(super) fn retired(&self) -> u64 {
        self.retired
    }
    pub(super) fn write_errors(&self) -> u64 {
        self.write_errors
    }
    pub(super) fn in_flight(&self) -> u64 {
        self.flights.iter().filter(|f| f.phase != Phase::Idle).map(|f| f.pages as u64).sum()
    }
    /// Bytes of the tables.
    pub(super) fn bytes(&self) -> u64 {
        self.blocks.blocks() / 8 + size_of_val(&*self.seals) as u64 + size_of_val(&*self.regions) as u64
    }

    fn region(&mut self, place: u64) -> Option<&mut Region> {
        self.regions.get_mut((place / REGION_PAGES) as usize)
    }
    fn key(&self, place: u64, encrypt: bool) -> Option<Key> {
        let region = self.regions.get((place / REGION_PAGES) as usize)?;
        encrypt.then(|| region.key())
    }

    /// Blocks for at most `most` pages, in one run: fewer if the free ones are scattered
    /// (S07). `None`: every buffer is in use. A device that does not work is full.
    pub(super) fn begin(&mut self, most: usize, encrypt: bool) -> Result<Option<Job>, TierError> {
        if self.stuck() == FLIGHTS {
            return Err(TierError::Full);
        }
        // Whoever began the last write may be about to let go of the buffer.
        let free =
            |f: &mut Flight| f.phase == Phase::Idle && f.buffer.as_mut().and_then(Arc::get_mut).is_some();
        let Some(token) = self.flights.iter_mut().position(free) else { return Ok(None) };
        let mut n = most.min(CLUSTER);
        if self.failed >= DOUBT {
            self.attempts = self.attempts.wrapping_add(1);
            if !self.attempts.is_multiple_of(PROBE) {
                return Err(TierError::Full);
            }
            n = 1;
        }
        let place = loop {
            match self.blocks.alloc(n) {
                Some(place) => break place,
                None if n <= 1 => return Err(TierError::Full),
                None => n /= 2,
            }
        };
        for k in 0..n {
            if !self.region(place).is_some_and(Region::join) {
                (0..k).for_each(|_| self.leave(place));
                (0..n as u64).for_each(|i| self.give_back(place + i));
                return Err(TierError::Io(5));
            }
        }
        let number = self.number;
        self.number += n as u64;
        let key = self.key(place, encrypt);
        let f = &mut self.flights[token];
        let Some(buffer) = f.buffer.take() else { return Ok(None) };
        (f.phase, f.place, f.pages, f.live) = (Phase::Filling, place, n, 0);
        (f.written, f.tries) = (0, 0);
        Ok(Some(Job { token, buffer, place, pages: n, number, key }))
    }

    fn leave(&mut self, place: u64) {
        if let Some(region) = self.region(place) {
            region.leave();
        }
    }
    fn give_back(&mut self, place: u64) {
        let was_taken = self.blocks.free(place);
        debug_assert!(was_taken, "block {place} is freed twice");
    }

    /// The buffer is filled; with `whole` it is to be written. `false`: nothing was stored.
    pub(super) fn commit(&mut self, job: Job, ids: &[PageId], seals: &[Seal], whole: bool) -> bool {
        let f = &mut self.flights[job.token];
        f.buffer = Some(job.buffer);
        if !whole {
            f.phase = Phase::Idle;
            for k in 0..job.pages as u64 {
                self.leave(job.place);
                self.give_back(job.place + k);
            }
            return false;
        }
        f.ids[..ids.len()].copy_from_slice(ids);
        f.live = bits(job.pages);
        f.phase = Phase::Flying;
        for (k, seal) in seals.iter().enumerate() {
            if let Some(to) = self.seals.get_mut(job.place as usize + k) {
                *to = seal.words();
            }
        }
        self.pages += job.pages as u64;
        true
    }

    /// What is to be written of a buffer from byte `from` on: the end of it, and the first
    /// block of all. `None`: nothing.
    pub(super) fn part(&self, token: usize, from: usize) -> Option<(usize, u64)> {
        let f = self.flights.get(token).filter(|f| f.phase == Phase::Flying)?;
        let end = f.pages * PAGE;
        (from < end).then_some((end, f.place))
    }

    /// A write has ended.
    pub(super) fn ended(&mut self, token: usize, result: io::Result<usize>) -> Next {
        let Some(f) = self.flights.get_mut(token).filter(|f| f.phase == Phase::Flying) else {
            return Next::Over;
        };
        let Some(buffer) = f.buffer.clone() else { return Next::Over };
        match result {
            Ok(n) if n != 0 => {
                // O_DIRECT goes on at whole blocks only.
                f.written = (f.written + n) / PAGE * PAGE;
                if f.written < f.pages * PAGE {
                    // A device that never writes a whole page is not asked for ever.
                    f.tries += u8::from(n < PAGE);
                    if f.tries < TRIES {
                        return Next::Again(token, buffer, f.written);
                    }
                    self.write_errors += 1;
                    self.strand(token);
                    return Next::Over;
                }
            }
            _ => {
                self.write_errors += 1;
                f.tries += 1;
                if f.tries < TRIES {
                    return Next::Again(token, buffer, f.written);
                }
                self.strand(token);
                return Next::Over;
            }
        }
        let (place, pages, live) = (f.place, f.pages, f.live);
        f.phase = Phase::Idle;
        self.failed = 0;
        for k in (0..pages).filter(|k| live >> k & 1 == 0) {
            self.give_back(place + k as u64);
        }
        Next::Over
    }

    /// The blocks are not used again; pages that are still wanted stay in the buffer.
    fn strand(&mut self, token: usize) {
        let f = &mut self.flights[token];
        f.phase = if f.live == 0 { Phase::Idle } else { Phase::Stuck };
        self.retired += f.pages as u64;
        self.failed += 1;
    }

    pub(super) fn stranded(&self, ids: &mut [PageId]) -> usize {
        let stuck = self.flights.iter().filter(|f| f.phase == Phase::Stuck);
        let live = stuck.flat_map(|f| (0..f.pages).filter(|k| f.live >> k & 1 != 0).map(|k| f.ids[k]));
        ids.iter_mut().zip(live).map(|(to, id)| *to = id).count()
    }

    /// A buffer that could not be written, to be written once more: the device may work
    /// again. Another one each time.
    pub(super) fn try_again(&mut self) -> Option<(usize, Arc<Buffer>)> {
        let stuck = |i: &usize| self.flights[*i].phase == Phase::Stuck;
        let token = (1..=FLIGHTS).map(|i| (self.tried + i) % FLIGHTS).find(stuck)?;
        self.tried = token;
        let f = &mut self.flights[token];
        let buffer = f.buffer.clone()?;
        (f.phase, f.written, f.tries) = (Phase::Flying, 0, TRIES - 1);
        self.retired -= f.pages as u64;
        Some((token, buffer))
    }

    /// The buffer in which the page at `place` still is.
    fn flight_of(&self, place: u64) -> Option<(usize, usize)> {
        let on_way = |f: &Flight| matches!(f.phase, Phase::Flying | Phase::Stuck);
        self.flights.iter().enumerate().filter(|(_, f)| on_way(f)).find_map(|(token, f)| {
            let k = place.checked_sub(f.place)? as usize;
            (k < f.pages).then_some((token, k))
        })
    }

    /// As [`State::find`], without the bytes.
    pub(super) fn note(&self, id: PageId, place: u64, encrypt: bool) -> Found {
        let Some(seal) = self.seals.get(place as usize).and_then(Seal::of_words) else {
            return Found::Nothing;
        };
        let key = self.key(place, encrypt);
        match self.flight_of(place) {
            Some((token, k))
                if self.flights[token].ids[k] != id || self.flights[token].live >> k & 1 == 0 =>
            {
                Found::Nothing
            }
            Some(_) => Found::InBuffer(seal, key),
            None => Found::OnDisk(seal, key),
        }
    }

    /// Where the page is; if it is in a buffer, its bytes are copied to `page`.
    pub(super) fn find(&self, id: PageId, place: u64, page: &mut PageBytes, encrypt: bool) -> Found {
        let found = self.note(id, place, encrypt);
        if let (Found::InBuffer(..), Some((token, k))) = (&found, self.flight_of(place))
            && let Some(buffer) = &self.flights[token].buffer
        {
            page.copy_from_slice(&buffer.bytes()[k * PAGE..(k + 1) * PAGE]);
        }
        found
    }

    /// `false`: the page is not there.
    pub(super) fn free(&mut self, id: PageId, place: u64) -> bool {
        let Some(seal) = self.seals.get_mut(place as usize).filter(|s| s[0] != 0) else { return false };
        let flight = {
            *seal = [0; 3];
            self.flight_of(place)
        };
        self.leave(place);
        self.pages -= 1;
        match flight {
            None => self.give_back(place),
            Some((token, k)) => {
                let f = &mut self.flights[token];
                debug_assert_eq!(f.ids[k], id, "another page is at block {place}");
                f.live &= !(1 << k);
                if f.phase == Phase::Stuck && f.live == 0 {
                    f.phase = Phase::Idle;
                }
            }
        }
        true
    }
}

impl Seal {
    fn words(self) -> [u64; 3] {
        let (tag, _) = self.tag.as_chunks::<8>();
        [self.number, u64::from_le_bytes(tag[0]), u64::from_le_bytes(tag[1])]
    }
    fn of_words(words: &[u64; 3]) -> Option<Self> {
        let mut tag = [0; 16];
        tag[..8].copy_from_slice(&words[1].to_le_bytes());
        tag[8..].copy_from_slice(&words[2].to_le_bytes());
        (words[0] != 0).then_some(Seal { number: words[0], tag })
    }
}
