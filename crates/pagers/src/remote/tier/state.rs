//! What the tier knows of its pages and clusters.
//!
//! A cluster is filled page by page, queued, written, and stored; when its last page is
//! freed its key is wiped and its contents are deleted. Pages of a cluster that is not
//! stored yet are *dirty*: the pool has them until it is. Pages of a stored one may be in
//! the pool too, and go from there when room is wanted.
//!
//! ```text
//!   Free -> Filling -> Queued -> Writing -> Stored -> Deleting -> Free
//! ```

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use machvm_hal::{Swap, SwapSlot};

use super::super::seal::Key;
use crate::Pool;
use crate::tier::{PageBytes, PageId};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    Free,
    Filling,
    Queued,
    Writing,
    Stored,
    Deleting,
}

/// A cluster's place in the table, used by one cluster after another.
pub(super) struct Cluster {
    pub(super) phase: Phase,
    /// Which pages are wanted, by bits.
    pub(super) live: u64,
    /// Pages that were ever put there.
    filled: u32,
    /// Its number, never used again. Part of its name on the server.
    pub(super) number: u64,
    pub(super) key: Option<Key>,
    /// Somebody is reading it.
    pub(super) reading: bool,
    /// When the server did not have it, or had something else.
    pub(super) lost: Option<Instant>,
}

/// See the module text.
pub(super) struct State {
    /// Pages of a cluster.
    pub(super) n: usize,
    /// Pages that there may be.
    pub(super) capacity: u64,
    /// Most clusters: twice what the pages need, since clusters do not stay full.
    slots: usize,
    /// By page: whose contents; 0: nobody's.
    owner: Vec<u64>,
    /// By page: its slot in the pool, or 0.
    cached: Vec<u64>,
    pub(super) clusters: Vec<Cluster>,
    free: Vec<u32>,
    filling: Option<u32>,
    queue: VecDeque<u32>,
    pub(super) writing: usize,
    /// Clusters that are being deleted.
    pub(super) deleting: usize,
    /// To be deleted, and what their numbers are.
    pub(super) dead: Vec<(u32, u64)>,
    /// Pages that the pool may give up, the oldest first, with their slots.
    clean: VecDeque<(u32, u64)>,
    pub(super) pages: u64,
    pub(super) dirty: u64,
    /// The next number of a cluster.
    pub(super) next: u64,
    hand: usize,
    pub(super) closed: bool,
    /// The server refuses to store anything.
    pub(super) refused: bool,
}

/// Where a page is.
pub(super) enum Found {
    /// Not here.
    Nothing,
    /// It was in the pool.
    Here,
    /// In this cluster on the server, of that number; somebody may be reading it.
    There { cluster: u32, number: u64, key: Option<Key>, reading: bool },
}

fn slot(word: u64) -> Option<SwapSlot> {
    core::num::NonZeroU64::new(word).map(SwapSlot)
}

impl State {
    pub(super) fn new(n: usize, capacity: u64) -> State {
        let slots = capacity.div_ceil(n as u64) as usize * 2 + 8;
        let words = || vec![0; slots * n];
        State {
            n,
            capacity,
            slots,
            owner: words(),
            cached: words(),
            clusters: Vec::with_capacity(slots),
            free: Vec::with_capacity(slots),
            filling: None,
            queue: VecDeque::new(),
            writing: 0,
            deleting: 0,
            dead: Vec::new(),
            clean: VecDeque::new(),
            pages: 0,
            dirty: 0,
            next: 0,
            hand: 0,
            closed: false,
            refused: false,
        }
    }

    /// Bytes of the tables.
    pub(super) fn bytes(&self) -> u64 {
        (self.clusters.len() * (size_of::<Cluster>() + 16 * self.n) + self.clean.len() * 16) as u64
    }
    /// Clusters that take room on the server, or soon will.
    pub(super) fn in_use(&self) -> usize {
        self.clusters.len() - self.free.len()
    }
    /// A write is under way, or will be.
    pub(super) fn is_busy(&self) -> bool {
        self.writing != 0 || !self.queue.is_empty()
    }
    fn split(&self, place: u32) -> (usize, usize) {
        (place as usize / self.n, place as usize % self.n)
    }

    /// There is a cluster for one more page.
    pub(super) fn has_cluster(&self) -> bool {
        self.filling.is_some() || !self.free.is_empty() || self.clusters.len() < self.slots
    }
    /// The cluster that pages are put into now.
    fn filling(&mut self, encrypt: bool) -> Option<u32> {
        if let Some(c) = self.filling {
            return Some(c);
        }
        let fresh = self.clusters.len();
        if self.free.is_empty() && fresh == self.slots {
            return None;
        }
        let key = if encrypt { Some(Key::random()?) } else { None };
        let number = self.next;
        self.next += 1;
        let made =
            Cluster { phase: Phase::Filling, live: 0, filled: 0, number, key, reading: false, lost: None };
        let c = match self.free.pop() {
            Some(c) => {
                self.clusters[c as usize] = made;
                c
            }
            None => {
                self.clusters.push(made);
                fresh as u32
            }
        };
        self.filling = Some(c);
        self.filling
    }

    /// Gives a page in the pool a place. `None`: there is none. The second value: a cluster
    /// is full now, and queued.
    pub(super) fn add(&mut self, id: PageId, in_pool: SwapSlot, encrypt: bool) -> Option<(u64, bool)> {
        let c = self.filling(encrypt)?;
        let cluster = &mut self.clusters[c as usize];
        let (k, full) = (cluster.filled as usize, cluster.filled as usize + 1 == self.n);
        cluster.filled += 1;
        cluster.live |= 1 << k;
        let place = c as usize * self.n + k;
        self.owner[place] = id.0;
        self.cached[place] = in_pool.0.get();
        self.pages += 1;
        self.dirty += 1;
        Some((place as u64, full && self.close_filling()))
    }

    /// Queues the cluster that was being filled. `false`: there is none.
    pub(super) fn close_filling(&mut self) -> bool {
        let Some(c) = self.filling.take() else { return false };
        self.clusters[c as usize].phase = Phase::Queued;
        self.queue.push_back(c);
        true
    }

    /// The next cluster to be written.
    pub(super) fn begin_write(&mut self) -> Option<u32> {
        while let Some(c) = self.queue.pop_front() {
            let cluster = &mut self.clusters[c as usize];
            if cluster.live != 0 {
                cluster.phase = Phase::Writing;
                self.writing += 1;
                return Some(c);
            }
            // Nobody wants any of it any more.
            self.release(c);
        }
        None
    }

    /// The page `k` of a cluster that is being written, if it is wanted still.
    pub(super) fn dirty_page(&self, c: u32, k: usize, pool: &Pool, to: &mut PageBytes) -> bool {
        let wanted = self.clusters[c as usize].live >> k & 1 != 0;
        wanted && slot(self.cached[c as usize * self.n + k]).is_some_and(|s| pool.get(s, to).is_ok())
    }

    /// A cluster has been written. `true`: it is to be deleted already.
    pub(super) fn end_write(&mut self, c: u32) -> bool {
        self.writing -= 1;
        self.clusters[c as usize].phase = Phase::Stored;
        for place in self.live_pages(c) {
            self.dirty -= 1;
            self.clean.push_back((place, self.cached[place as usize]));
        }
        self.bury(c)
    }

    fn live_pages(&self, c: u32) -> impl Iterator<Item = u32> + use<> {
        let (live, n) = (self.clusters[c as usize].live, self.n as u32);
        (0..n).filter(move |k| live >> k & 1 != 0).map(move |k| c * n + k)
    }

    /// Begins to delete a stored cluster without pages.
    fn bury(&mut self, c: u32) -> bool {
        let cluster = &mut self.clusters[c as usize];
        if cluster.phase != Phase::Stored || cluster.live != 0 {
            return false;
        }
        cluster.phase = Phase::Deleting;
        cluster.key = None;
        self.deleting += 1;
        self.dead.push((c, cluster.number));
        true
    }
    /// Nothing of it is on the server.
    pub(super) fn release(&mut self, c: u32) {
        let cluster = &mut self.clusters[c as usize];
        self.deleting -= usize::from(cluster.phase == Phase::Deleting);
        (cluster.phase, cluster.key) = (Phase::Free, None);
        self.free.push(c);
    }

    fn page_of(&self, id: PageId, place: u64) -> Option<u32> {
        let at = usize::try_from(place).ok()?;
        (id.0 != 0 && *self.owner.get(at)? == id.0).then_some(at as u32)
    }

    /// Looks for a page; if the pool has it, copies it.
    pub(super) fn find(&mut self, id: PageId, place: u64, pool: &Pool, to: &mut PageBytes) -> Found {
        let Some(place) = self.page_of(id, place) else { return Found::Nothing };
        let (c, _) = self.split(place);
        if let Some(s) = slot(self.cached[place as usize]) {
            if pool.get(s, to).is_ok() {
                return Found::Here;
            }
            // Damaged. The server may have it still.
            pool.free(s);
            self.cached[place as usize] = 0;
        }
        let cluster = &self.clusters[c];
        match cluster.phase {
            Phase::Stored => Found::There {
                cluster: c as u32,
                number: cluster.number,
                key: cluster.key.clone(),
                reading: cluster.reading,
            },
            _ => Found::Nothing,
        }
    }

    /// A cluster was read in vain, not longer ago than this.
    pub(super) fn was_lost(&self, c: u32, lately: Duration) -> bool {
        self.clusters[c as usize].lost.is_some_and(|at| at.elapsed() < lately)
    }

    /// Puts a page that was read into the pool, if somebody may want it.
    pub(super) fn keep(&mut self, (c, number): (u32, u64), k: usize, page: &PageBytes, pool: &Pool) {
        let cluster = &self.clusters[c as usize];
        let place = c as usize * self.n + k;
        let wanted = cluster.number == number && cluster.live >> k & 1 != 0 && self.cached[place] == 0;
        if !wanted {
            return;
        }
        let mut kept = pool.put(page);
        while kept.is_err() && self.evict(pool) {
            kept = pool.put(page);
        }
        if let Ok(s) = kept {
            self.cached[place] = s.0.get();
            self.clean.push_back((place as u32, s.0.get()));
        }
    }

    /// Gives up the oldest page in the pool that the server has too. `false`: there is none.
    pub(super) fn evict(&mut self, pool: &Pool) -> bool {
        while let Some((place, word)) = self.clean.pop_front() {
            // Else it was freed meanwhile, or read again.
            if self.cached[place as usize] == word
                && let Some(s) = slot(word)
            {
                pool.free(s);
                self.cached[place as usize] = 0;
                return true;
            }
        }
        false
    }

    /// Forgets a page. Whether it was there, and whether its cluster is to be deleted.
    pub(super) fn forget(&mut self, id: PageId, place: u64, pool: &Pool) -> (bool, bool) {
        let Some(place) = self.page_of(id, place) else { return (false, false) };
        let (c, k) = self.split(place);
        self.owner[place as usize] = 0;
        if let Some(s) = slot(std::mem::take(&mut self.cached[place as usize])) {
            pool.free(s);
        }
        self.pages -= 1;
        let cluster = &mut self.clusters[c];
        cluster.live &= !(1 << k);
        self.dirty -= u64::from(matches!(cluster.phase, Phase::Filling | Phase::Queued | Phase::Writing));
        if self.clean.len() > 1024 && self.clean.len() as u64 > 4 * self.pages {
            let cached = &self.cached;
            self.clean.retain(|(place, word)| cached[*place as usize] == *word);
        }
        (true, self.bury(c as u32))
    }

    /// Pages that should move: all that the server does not take, or those of clusters with
    /// few, when clusters run short.
    pub(super) fn stranded(&mut self, ids: &mut [PageId], away: bool) -> usize {
        let short = self.in_use() + self.slots / 8 >= self.slots;
        if !(away || short) {
            return 0;
        }
        let mut count = 0;
        for _ in 0..self.clusters.len() {
            self.hand = (self.hand + 1) % self.clusters.len();
            let c = &self.clusters[self.hand];
            let sparse = c.phase == Phase::Stored && c.live.count_ones() as usize <= self.n / 2;
            let stuck = matches!(c.phase, Phase::Filling | Phase::Queued | Phase::Writing);
            if !(if away { stuck } else { sparse }) {
                continue;
            }
            for place in self.live_pages(self.hand as u32) {
                if count == ids.len() {
                    return count;
                }
                ids[count] = PageId(self.owner[place as usize]);
                count += 1;
            }
        }
        count
    }

    /// The numbers of clusters that may be on the server.
    pub(super) fn on_server(&self) -> Vec<u64> {
        let there = |c: &&Cluster| matches!(c.phase, Phase::Writing | Phase::Stored | Phase::Deleting);
        self.clusters.iter().filter(there).map(|c| c.number).collect()
    }
    /// The lowest of them, or of those to come.
    pub(super) fn lowest(&self) -> u64 {
        let used = self.clusters.iter().filter(|c| c.phase != Phase::Free).map(|c| c.number);
        used.min().unwrap_or(self.next)
    }
}
