//! Reservations: an object's 2 MiB window gets a 2 MiB run of frames (R01-R07).
//!
//! The first page of a window takes a whole free run and sets it aside: page `n` of
//! the window then gets frame `n` of the run, whenever it is faulted in. Contiguous
//! pages so have contiguous frames without any page being moved, which is what lets
//! the pmap map them by one large entry. Frames that are set aside are not charged:
//! they are free, only not on the free lists.
//!
//! ```text
//!   idle --first page--> partial <--last free frame / first freed frame--> full
//!     ^                     |
//!     +--last page freed----+   broken: frames are short, or the object is gone
//! ```
//!
//! * idle: the run is the buddy allocator's, or its frames are single pages.
//! * partial: on the queue; the one that was not populated for longest is broken
//!   when no frame is on the free lists. Breaking costs nobody a page: the unused
//!   frames become free, the used ones single pages.
//! * full: 512 pages. It may outlive its object, when a copy still has the pages;
//!   the object that then writes them takes it over (R06).
//!
//! There is one structure for each aligned run of memory, so a frame's is found by a
//! shift. Active ones are also in a hash table by (object, window), whose buckets lie in
//! the same structures, and on a list of their object. All of it is guarded by the
//! free-frames lock.

mod audit;

use machvm_arena::{ChunkSource, Handle, HandleField, NoMemory, Slab};
use machvm_sync::{Field32, Field64, SpinGuard};

use super::Page;
use super::buddy::Buddy;
use crate::object::Object;

/// log2 of the frames in a run: the span of one entry of a level-2 page table with
/// 4 KiB pages (`VM_LEVEL_0_ORDER`).
pub(crate) const RUN_ORDER: u32 = 9;
/// Frames in a run.
pub(crate) const RUN: u64 = 1 << RUN_ORDER;

/// One aligned run of frames (R01). \[F\], all of it; `populated` may be read without.
#[derive(Debug, Default)]
pub(crate) struct Reserv {
    /// Who the run is set aside for. None while idle, and when the object is gone.
    object: HandleField<Object>,
    /// Pages that have a frame of it (`popcnt`); 0: idle.
    populated: Field32,
    /// Which window of the object.
    window: Field64,
    /// One bit for each frame that a page has (`popmap`).
    map: [Field64; RUN as usize / 64],
    /// On the queue of partial ones: next, younger.
    next: HandleField<Reserv>,
    /// On the queue of partial ones: previous, older.
    prev: HandleField<Reserv>,
    /// On the list of the object.
    mate_next: HandleField<Reserv>,
    /// On the list of the object; none: the first.
    mate_prev: HandleField<Reserv>,
    /// Next in the same bucket.
    chain: HandleField<Reserv>,
    /// The head of the bucket that lies here.
    bucket: HandleField<Reserv>,
}

impl Reserv {
    fn word(&self, n: u64) -> (&Field64, u64) {
        (&self.map[(n % RUN) as usize / 64], 1 << (n % 64))
    }
    /// Has a page frame `n` of the run?
    fn has(&self, n: u64) -> bool {
        let (word, bit) = self.word(n);
        word.get() & bit != 0
    }
    fn is_active(&self) -> bool {
        self.populated.get() != 0
    }
    pub(super) fn is_full(&self) -> bool {
        self.populated.get() == RUN as u32
    }
    /// Pages that have a frame of it.
    pub(super) fn populated(&self) -> u32 {
        self.populated.get()
    }
    fn is_partial(&self) -> bool {
        self.is_active() && !self.is_full()
    }
}

/// What the free-frames lock guards in the dense placement.
#[derive(Debug, Default)]
pub(super) struct Pool {
    pub(super) buddy: Buddy,
    /// The queue of partial reservations: oldest first.
    oldest: Option<Handle<Reserv>>,
    youngest: Option<Handle<Reserv>>,
    /// Unused frames in partial reservations.
    aside: u64,
    /// Reservations that are not idle.
    active: u64,
    /// Reservations made since the start.
    made: u64,
    /// Reservations broken since the start.
    broken: u64,
    /// Frames that the embedder has.
    pub(super) system: u64,
}

/// A reading of the reservations.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct ReservStats {
    pub(crate) active: u64,
    pub(crate) made: u64,
    pub(crate) broken: u64,
}

impl Pool {
    /// Over `frames` frames from `first` on, all free. Makes the structures of the runs
    /// they lie in, and gives how many.
    ///
    /// => the page structures are made, numbered from 1.
    ///
    /// # Errors
    /// [`NoMemory`].
    pub(super) fn new<C: ChunkSource>(
        pages: &Slab<Page, C>,
        runs: &Slab<Reserv, C>,
        first: u64,
        frames: u32,
    ) -> Result<(Self, u32), NoMemory> {
        let mut pool = Pool { buddy: Buddy::new(first, u64::from(frames)), ..Pool::default() };
        pool.buddy.free_run(pages, first, u64::from(frames));
        let Some(last) = u64::from(frames).checked_sub(1) else { return Ok((pool, 0)) };
        let count = ((first + last) >> RUN_ORDER) - (first >> RUN_ORDER) + 1;
        for _ in 0..count {
            runs.alloc()?;
        }
        Ok((pool, count as u32))
    }
    /// Frames that nobody has: free, and set aside.
    pub(super) fn unused(&self) -> u64 {
        self.buddy.free_frames() + self.aside
    }
    pub(super) fn reserv_stats(&self) -> ReservStats {
        ReservStats { active: self.active, made: self.made, broken: self.broken }
    }
}

/// Where the object of a fault wants a page: the frame of its reservation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    pub(crate) object: Handle<Object>,
    /// Page index and colour of the object: the index rule (R07).
    pub(crate) place: u64,
}

impl Wish {
    fn window(self) -> u64 {
        self.place >> RUN_ORDER
    }
}

/// The free frames, locked.
pub(super) struct Dense<'a, C: ChunkSource> {
    pub(super) pool: SpinGuard<'a, Pool>,
    pub(super) pages: &'a Slab<Page, C>,
    pub(super) runs: &'a Slab<Reserv, C>,
    pub(super) objects: &'a Slab<Object, C>,
    /// Number of runs that memory touches.
    pub(super) count: u32,
}

impl<'a, C: ChunkSource> Dense<'a, C> {
    fn run(&self, h: Handle<Reserv>) -> &'a Reserv {
        self.runs.get(h)
    }
    /// The structure of the run that `frame` lies in.
    fn of_frame(&self, frame: u64) -> Option<Handle<Reserv>> {
        let n = (frame >> RUN_ORDER).checked_sub(self.pool.buddy.first() >> RUN_ORDER)? + 1;
        core::num::NonZeroU32::new(n as u32).map(Handle::from_raw)
    }
    /// The first frame of a run.
    fn base(&self, h: Handle<Reserv>) -> u64 {
        ((self.pool.buddy.first() >> RUN_ORDER) + u64::from(h.get() - 1)) << RUN_ORDER
    }
    /// The reservation that `frame` lies in, if its run is not idle.
    fn active_of(&self, frame: u64) -> Option<Handle<Reserv>> {
        self.of_frame(frame).filter(|h| self.run(*h).is_active())
    }

    /// The bucket of (object, window): as many as there are runs, so chains are short.
    fn bucket(&self, object: Handle<Object>, window: u64) -> Option<Handle<Reserv>> {
        // Fibonacci hashing; the upper half, scaled.
        let key = window ^ u64::from(object.get()).rotate_left(40);
        let hash = key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        core::num::NonZeroU32::new(((hash * u64::from(self.count)) >> 32) as u32 + 1).map(Handle::from_raw)
    }

    fn find(&self, object: Handle<Object>, window: u64) -> Option<Handle<Reserv>> {
        let first = self.run(self.bucket(object, window)?).bucket.get();
        core::iter::successors(first, |h| self.run(*h).chain.get()).find(|h| {
            let r = self.run(*h);
            r.window.get() == window && r.object.get() == Some(object)
        })
    }

    /// A frame for the page that `wish` says: of its reservation; of a new one when
    /// there is none, a run is free and `fresh` says that the window is not in use by
    /// single pages already; any frame else (R02). `None`: no frame is unused.
    pub(super) fn take_near(&mut self, wish: Wish, fresh: impl FnOnce() -> bool) -> Option<u64> {
        let r = self
            .find(wish.object, wish.window())
            .or_else(|| if self.pool.buddy.has(RUN_ORDER) && fresh() { self.reserve(wish) } else { None });
        match r {
            Some(h) if !self.run(h).has(wish.place) => {
                self.populate(h, wish.place);
                Some(self.base(h) + wish.place % RUN)
            }
            _ => self.take_any(),
        }
    }

    /// A frame off the free lists; when they are empty, the oldest partial reservation
    /// is broken (R05). `None`: no frame is unused.
    pub(super) fn take_any(&mut self) -> Option<u64> {
        if !self.pool.buddy.has(0) {
            let oldest = self.pool.oldest?;
            self.break_run(oldest);
        }
        self.pool.buddy.alloc(self.pages, 0)
    }

    /// A frame has no page any more (R03 depopulate, R04).
    pub(super) fn put(&mut self, frame: u64) {
        match self.active_of(frame) {
            Some(h) => self.depopulate(h, frame),
            None => self.pool.buddy.free(self.pages, frame, 0),
        }
    }

    /// Sets a free run aside.
    ///
    /// => it has no page yet: populate it next.
    fn reserve(&mut self, wish: Wish) -> Option<Handle<Reserv>> {
        let base = self.pool.buddy.alloc(self.pages, RUN_ORDER)?;
        let h = self.of_frame(base)?;
        debug_assert!(!self.run(h).is_active(), "a free run is reserved");
        self.own(h, wish);
        self.enqueue(h);
        self.pool.aside += RUN;
        self.pool.active += 1;
        self.pool.made += 1;
        Some(h)
    }

    fn populate(&mut self, h: Handle<Reserv>, place: u64) {
        let r = self.run(h);
        let (word, bit) = r.word(place);
        word.set(word.get() | bit);
        r.populated.add(1);
        let full = r.is_full();
        self.pool.aside -= 1;
        // Who is in use is broken last.
        if full || self.pool.youngest != Some(h) {
            self.dequeue(h);
            if !full {
                self.enqueue(h);
            }
        }
    }

    fn depopulate(&mut self, h: Handle<Reserv>, frame: u64) {
        let r = self.run(h);
        let (word, bit) = r.word(frame);
        debug_assert!(word.get() & bit != 0, "frame {frame:#x} of a reservation is freed twice");
        let full = r.is_full();
        word.set(word.get() & !bit);
        r.populated.sub(1);
        let (left, orphan) = (r.populated.get(), r.object.get().is_none());
        self.pool.aside += 1;
        if full {
            self.enqueue(h);
        }
        if left == 0 {
            let base = self.base(h);
            self.release(h);
            self.pool.buddy.free(self.pages, base, RUN_ORDER);
        } else if orphan {
            self.break_run(h); // nobody can fill it again
        }
    }

    /// A partial reservation is idle again; its frames are the caller's to give away.
    fn release(&mut self, h: Handle<Reserv>) {
        self.disown(h);
        self.dequeue(h);
        let r = self.run(h);
        self.pool.aside -= RUN - u64::from(r.populated.get());
        r.populated.set(0);
        r.map.iter().for_each(|w| w.set(0));
        self.pool.active -= 1;
    }

    /// The unused frames of a partial reservation are free, the others are single
    /// pages (R05).
    fn break_run(&mut self, h: Handle<Reserv>) {
        let r = self.run(h);
        let used: [u64; RUN as usize / 64] = core::array::from_fn(|i| r.map[i].get());
        let base = self.base(h);
        self.release(h);
        self.pool.broken += 1;
        let mut at = 0;
        while let Some(start) = scan(&used, at, false) {
            at = scan(&used, start, true).unwrap_or(RUN);
            self.pool.buddy.free_run(self.pages, base + start, at - start);
        }
    }

    /// The object ends: its partial reservations are broken, and full ones are
    /// nobody's (R05 `break_all`).
    pub(super) fn break_all(&mut self, object: Handle<Object>) {
        while let Some(h) = self.objects.get(object).reservs.get() {
            if self.run(h).is_full() {
                self.disown(h);
            } else {
                self.break_run(h);
            }
        }
    }

    /// A full reservation whose object is gone becomes that of the object that has the
    /// page at `frame` now, if the page is at its place there (R06 `rename`).
    pub(super) fn rename(&mut self, frame: u64, wish: Wish) {
        let Some(h) = self.active_of(frame) else { return };
        let orphan = self.run(h).object.get().is_none();
        if orphan && wish.place % RUN == frame % RUN && self.find(wish.object, wish.window()).is_none() {
            self.own(h, wish);
        }
    }

    /// Nobody has the frame: it is free or set aside. Gives the end of the stretch of
    /// which that is known at once.
    pub(super) fn unused_until(&self, frame: u64) -> Option<u64> {
        match self.active_of(frame) {
            Some(h) => (!self.run(h).has(frame)).then_some(frame + 1),
            None => self.pool.buddy.block_of(self.pages, frame).map(|b| b.end()),
        }
    }

    /// Takes exactly these frames, breaking what is set aside there (R05
    /// `reclaim_contig`).
    ///
    /// => nobody has any of them.
    pub(super) fn take_exactly(&mut self, start: u64, frames: u64) {
        let mut at = start;
        while at < start + frames {
            if let Some(h) = self.active_of(at) {
                self.break_run(h);
            }
            at = (at | (RUN - 1)) + 1;
        }
        self.pool.buddy.carve(self.pages, start, frames);
    }

    /// Enters it under (object, window) and on the object's list.
    fn own(&mut self, h: Handle<Reserv>, wish: Wish) {
        let (r, window) = (self.run(h), wish.window());
        r.object.set(Some(wish.object));
        r.window.set(window);
        if let Some(b) = self.bucket(wish.object, window) {
            let bucket = &self.run(b).bucket;
            r.chain.set(bucket.get());
            bucket.set(Some(h));
        }
        let head = &self.objects.get(wish.object).reservs;
        r.mate_prev.set(None);
        r.mate_next.set(head.get());
        if let Some(n) = head.get() {
            self.run(n).mate_prev.set(Some(h));
        }
        head.set(Some(h));
    }

    /// Undoes [`Dense::own`]; nothing when it is nobody's.
    fn disown(&mut self, h: Handle<Reserv>) {
        let r = self.run(h);
        let Some(object) = r.object.get() else { return };
        r.object.set(None);
        if let Some(b) = self.bucket(object, r.window.get()) {
            let mut link = &self.run(b).bucket;
            while let Some(at) = link.get().filter(|at| *at != h) {
                link = &self.run(at).chain;
            }
            link.set(r.chain.get());
        }
        let (next, prev) = (r.mate_next.get(), r.mate_prev.get());
        match prev {
            Some(p) => self.run(p).mate_next.set(next),
            None => self.objects.get(object).reservs.set(next),
        }
        if let Some(n) = next {
            self.run(n).mate_prev.set(prev);
        }
    }

    /// Puts it at the young end of the queue.
    fn enqueue(&mut self, h: Handle<Reserv>) {
        let r = self.run(h);
        r.next.set(None);
        r.prev.set(self.pool.youngest);
        match self.pool.youngest {
            Some(y) => self.run(y).next.set(Some(h)),
            None => self.pool.oldest = Some(h),
        }
        self.pool.youngest = Some(h);
    }

    fn dequeue(&mut self, h: Handle<Reserv>) {
        let r = self.run(h);
        let (next, prev) = (r.next.get(), r.prev.get());
        match prev {
            Some(p) => self.run(p).next.set(next),
            None => self.pool.oldest = next,
        }
        match next {
            Some(n) => self.run(n).prev.set(prev),
            None => self.pool.youngest = prev,
        }
    }
}

/// The first bit from `at` on that is `set`.
fn scan(map: &[u64], at: u64, set: bool) -> Option<u64> {
    (at / 64..map.len() as u64).find_map(|i| {
        let word = if set { map[i as usize] } else { !map[i as usize] };
        let word = if i == at / 64 { word & (u64::MAX << (at % 64)) } else { word };
        (word != 0).then(|| i * 64 + u64::from(word.trailing_zeros()))
    })
}
