//! Frames: how many there are, how many are taken, and taking them.
//!
//! What is counted is charges, not addresses (decision 18): in the sparse placement
//! a page names its own frame and only the number of resident ones is limited; in
//! the dense placement unused frames are in free blocks ([`super::buddy`]) or set
//! aside ([`super::reserv`]). Charging comes first, so whoever has a charge finds a
//! frame.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use machvm_arena::{ChunkSource, Handle, NoMemory, Slab};
use machvm_hal::{Event, Host, PageNo, Pfn, PhysMem, Placement};
use machvm_sync::{Rank, Spin};

use super::reserv::{Dense, Pool, RUN_ORDER, Reserv, ReservStats, Wish};
use super::{Page, PageTable, number};
use crate::object::Object;
use crate::pageout::Daemon;
use crate::platform::Platform;
use crate::vm::Vm;

/// What a thread that waits for a free frame waits for.
pub(crate) const FREE_EVENT: Event = Event(2 << 60);

/// What a thread that waits for pages in limbo waits for.
pub(crate) const LIMBO_EVENT: Event = Event(3 << 60);
/// Size of the number space of stray frames (never used twice; 4 PiB).
const STRAYS: u64 = 1 << 40;

/// Frames of the reserve that only [`FrameClass::Interrupt`] gets
/// (`v_interrupt_free_min`).
const INTERRUPT_MIN: u64 = 2;

/// Most frames taken under one hold of the free-frames lock: a few microseconds.
const HOLD: usize = 64;

/// How far down the pool a request may go (Y06; `VM_ALLOC_*`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum FrameClass {
    /// Leaves the reserve ([`Vm::set_frame_reserve`]). What pages of programs are.
    Normal,
    /// Leaves two frames: what programs need to go on, such as page tables.
    System,
    /// Takes the last one.
    Interrupt,
}

/// Which frame a page gets.
#[derive(Clone, Copy, Debug)]
pub(crate) enum At {
    /// Sparse: this one.
    Frame(Pfn),
    /// Dense: the one at its place in a reservation, if that can be had.
    Near(Wish),
    /// Dense: any.
    Any,
}

impl At {
    /// For the page `n` behind the one that this is for.
    fn next(self, n: u64) -> At {
        match self {
            At::Frame(f) => At::Frame(f.add(n)),
            At::Near(w) => At::Near(Wish { place: w.place + n, ..w }),
            At::Any => At::Any,
        }
    }
}

/// The account of frames.
pub(crate) struct Frames<C: ChunkSource> {
    /// Dense: free blocks and reservations.
    dense: Spin<Pool>,
    /// Dense: one for each aligned run that memory touches, from number 1 on. \[F\]
    runs: Slab<Reserv, C>,
    /// How many of them. \[I\]
    run_count: u32,
    /// The first frame. \[I\]
    first: u64,
    /// Frames resident or about to be. \[a\]
    charged: AtomicU64,
    /// The largest value `charged` had. \[a\]
    peak: AtomicU64,
    /// Never exceeded. \[a\], changed by the embedder
    limit: AtomicU64,
    /// How much of `limit` pages of programs leave. \[a\], changed by the embedder
    reserve: AtomicU64,
    /// Threads wait for FREE_EVENT. \[a\]
    waiting: AtomicU32,
    /// Pages whose owner is gone but that are busy still. Their frames are not free
    /// yet, so natural frames are not taken while there are any. \[a\]
    limbo: AtomicU32,
    /// Pages that only holders keep. \[a\]
    abandoned: AtomicU32,
    sparse: bool,
}

impl<C: ChunkSource> Frames<C> {
    /// Dense: makes every page structure and every reservation now.
    pub(crate) fn new<P>(plat: &P, pages: &PageTable<P>) -> Result<Self, NoMemory>
    where
        P: Platform<Chunks = C>,
    {
        let runs = Slab::new(plat.chunks(), u32::MAX);
        let (mut pool, mut start, mut run_count) = (Pool::default(), 0, 0);
        let (sparse, limit) = match plat.mem().placement() {
            Placement::Sparse { frames } => (true, frames),
            Placement::Dense { first, frames } => {
                for i in 0..u64::from(frames) {
                    pages.get(pages.slab.alloc()?).pfn.set(first.add(i).0);
                }
                start = first.0;
                (pool, run_count) = Pool::new(&pages.slab, &runs, start, frames)?;
                (false, u64::from(frames))
            }
        };
        Ok(Frames {
            dense: Spin::new(Rank::Free, pool),
            runs,
            run_count,
            first: start,
            charged: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            limit: AtomicU64::new(limit),
            reserve: AtomicU64::new(0),
            waiting: AtomicU32::new(0),
            limbo: AtomicU32::new(0),
            abandoned: AtomicU32::new(0),
            sparse,
        })
    }
    pub(crate) fn is_sparse(&self) -> bool {
        self.sparse
    }
    pub(crate) fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }
    pub(crate) fn charged(&self) -> u64 {
        self.charged.load(Ordering::Relaxed)
    }
    pub(crate) fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }
    /// Frames that pages of programs may take.
    pub(crate) fn free(&self) -> u64 {
        self.limit_of(FrameClass::Normal).saturating_sub(self.charged())
    }
    /// Below this many free frames the daemon is woken.
    pub(crate) fn low(&self) -> u64 {
        Daemon::marks(self.limit()).0
    }
    /// Up to here the daemon frees.
    pub(crate) fn target(&self) -> u64 {
        Daemon::marks(self.limit()).1
    }
    /// What pages of programs leave.
    pub(crate) fn reserve(&self) -> u64 {
        self.reserve.load(Ordering::Relaxed)
    }
    /// A page is left to its holders.
    pub(super) fn abandoned_enter(&self) {
        self.abandoned.fetch_add(1, Ordering::Relaxed);
    }
    /// The last of them let it go.
    pub(super) fn abandoned_leave(&self) {
        self.abandoned.fetch_sub(1, Ordering::Relaxed);
    }
    /// Is some page kept by holders only?
    pub(super) fn any_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed) != 0
    }
    /// Bytes of the reservations.
    pub(crate) fn touched_bytes(&self) -> usize {
        self.runs.touched_bytes()
    }
    pub(crate) fn reserv_stats(&self) -> ReservStats {
        self.dense.lock().reserv_stats()
    }
    /// Pages in the reservation around `frame`; 0: there is none. A hint: no lock.
    pub(crate) fn run_populated(&self, frame: Pfn) -> u32 {
        let n = (frame.0 >> RUN_ORDER).wrapping_sub(self.first >> RUN_ORDER);
        if n < u64::from(self.run_count) {
            self.runs.lookup(n as u32 + 1).map_or(0, Reserv::populated)
        } else {
            0
        }
    }

    fn limit_of(&self, class: FrameClass) -> u64 {
        let reserve = self.reserve.load(Ordering::Relaxed);
        self.limit().saturating_sub(match class {
            FrameClass::Normal => reserve,
            FrameClass::System => reserve.min(INTERRUPT_MIN),
            FrameClass::Interrupt => 0,
        })
    }

    /// Takes up to `most` frames into account, `least` or more, or none. Gives how many.
    pub(super) fn charge(&self, least: u64, most: u64, class: FrameClass) -> u64 {
        let limit = self.limit_of(class);
        let part = |c| {
            let n = most.min(limit.saturating_sub(c));
            if n >= least { n } else { 0 }
        };
        let more = |c| (part(c) != 0).then(|| c + part(c));
        match self.charged.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(before) => {
                let n = part(before);
                self.peak.fetch_max(before + n, Ordering::Relaxed);
                n
            }
            Err(_) => 0,
        }
    }
}

impl<P: Platform> Vm<P> {
    /// The free frames. Dense only.
    pub(super) fn dense(&self) -> Dense<'_, P::Chunks> {
        Dense {
            pool: self.frames.dense.lock(),
            pages: &self.pages.slab,
            runs: &self.frames.runs,
            objects: &self.objects,
            count: self.frames.run_count,
        }
    }

    /// How many frames pages of programs leave to [`FrameClass::System`]. None at
    /// first; a pmap that takes its tables from the pool needs some, since a fault
    /// cannot be finished without. Frames that are taken already stay so.
    pub fn set_frame_reserve(&self, frames: u64) {
        self.frames.reserve.store(frames, Ordering::Relaxed);
    }

    /// Pages for a run of frames: busy, without owner, clean. `fresh` tells for a place
    /// whose window has no reservation whether it should get one (R02); it is asked
    /// with the free-frames lock held. Gives how many there are: fewer than
    /// `out` holds when frames, or page structures, run out.
    pub(crate) fn page_take_run(&self, at: At, out: &mut [PageNo], fresh: impl Fn(u64) -> bool) -> usize {
        self.page_take_run_as(FrameClass::Normal, at, out, fresh)
    }

    /// As [`Vm::page_take_run`], going as far down the pool as `class` may.
    pub(crate) fn page_take_run_as(
        &self,
        class: FrameClass,
        at: At,
        out: &mut [PageNo],
        fresh: impl Fn(u64) -> bool,
    ) -> usize {
        let mut charged = self.frames.charge(1, out.len() as u64, class) as usize;
        if charged == 0 && class == FrameClass::Normal && self.plat.host().is_privileged() {
            charged = self.frames.charge(1, 1, FrameClass::System) as usize;
        }
        if charged == 0 {
            return 0;
        }
        let got = match at {
            At::Frame(_) => self.take_natural(at, &mut out[..charged]),
            At::Near(_) | At::Any => self.take_dense(at, &mut out[..charged], fresh),
        };
        if got < charged {
            self.uncharge((charged - got) as u64);
        }
        out[..got].iter().for_each(|p| self.page_reset(super::handle(*p)));
        self.tell_low();
        got
    }

    /// Nothing is known of a page that was just taken.
    pub(super) fn page_reset(&self, h: Handle<Page>) {
        let page = self.pages.get(h);
        page.owner.set(None);
        page.home.set(None);
        page.flags.set(0);
        page.wired.set(0);
        debug_assert!(!page.is_kept(), "a free page is held");
        page.md.bits.store(0, Ordering::Relaxed);
    }

    fn take_natural(&self, at: At, out: &mut [PageNo]) -> usize {
        for (i, p) in out.iter_mut().enumerate() {
            let (At::Frame(frame), Ok(h)) = (at.next(i as u64), self.pages.slab.alloc()) else { return i };
            *p = number(h);
            self.busy_taken(h);
            self.pages.get(h).pfn.set(frame.0);
        }
        out.len()
    }

    fn take_dense(&self, at: At, out: &mut [PageNo], fresh: impl Fn(u64) -> bool) -> usize {
        let mut got = 0;
        {
            let mut dense = self.dense();
            while got < out.len() {
                if got % HOLD == HOLD - 1 {
                    drop(dense); // others wait for it with interrupts off
                    dense = self.dense();
                }
                let frame = match at.next(got as u64) {
                    At::Near(w) => dense.take_near(w, || fresh(got as u64)),
                    _ => dense.take_any(),
                };
                let Some(h) = frame.and_then(|f| dense.pool.buddy.page(f)) else { break };
                out[got] = number(h);
                got += 1;
            }
        }
        debug_assert!(got == out.len(), "frames were charged that are not there");
        out[..got].iter().for_each(|p| self.busy_taken(super::handle(*p)));
        got
    }

    /// A stale finder may hold busy for a moment: it sees that the page is not what it
    /// looked for and lets go.
    pub(super) fn busy_taken(&self, h: Handle<Page>) {
        while !self.pages.get(h).busy.try_lock() {
            core::hint::spin_loop();
        }
    }

    /// One page, as [`Vm::page_take_run`]. `None`: no frame is free (or no page
    /// structure).
    pub(crate) fn page_take(&self, at: At, fresh: impl Fn(u64) -> bool) -> Option<Handle<Page>> {
        self.page_take_as(FrameClass::Normal, at, fresh)
    }

    /// As [`Vm::page_take`], going as far down the pool as `class` may.
    pub(crate) fn page_take_as(
        &self,
        class: FrameClass,
        at: At,
        fresh: impl Fn(u64) -> bool,
    ) -> Option<Handle<Page>> {
        let mut one = [PageNo(core::num::NonZeroU32::MIN)];
        (self.page_take_run_as(class, at, &mut one, fresh) == 1).then(|| super::handle(one[0]))
    }

    /// Wakes the daemon when frames are getting few.
    pub(super) fn tell_low(&self) {
        if self.frames.free() < self.frames.low() {
            self.plat.memory_low();
        }
    }

    pub(super) fn uncharge(&self, n: u64) {
        self.frames.charged.fetch_sub(n, Ordering::Release);
        if self.frames.waiting.swap(0, Ordering::AcqRel) != 0 {
            self.plat.host().thread_wakeup(FREE_EVENT);
        }
    }

    /// Gives a page back that was never filled, mapped, owned or queued.
    ///
    /// => the page is busy; its frame is not resident (sparse).
    pub(crate) fn page_untake(&self, h: Handle<Page>) {
        self.pages_retire(&[Some(h)]);
        self.uncharge(1);
    }

    /// => the pages are busy and clear of everything. They are not charged any more
    ///    when the caller has uncharged them.
    pub(super) fn pages_retire(&self, list: &[Option<Handle<Page>>]) {
        for h in list.iter().flatten() {
            let page = self.pages.get(*h);
            page.owner.set(None);
            if page.busy.unlock().wake {
                self.plat.host().thread_wakeup(super::event(*h));
            }
        }
        if self.frames.sparse {
            list.iter().flatten().for_each(|h| self.pages.slab.free(*h));
        } else {
            let mut dense = self.dense();
            list.iter().flatten().for_each(|h| dense.put(self.pages.get(*h).pfn.get()));
        }
    }

    /// The object has no contents any more: its reservations are given up (R05).
    ///
    /// => it still has its number.
    pub(crate) fn reserv_break_all(&self, object: Handle<Object>) {
        if self.objects.get(object).reservs.get().is_some() {
            self.dense().break_all(object);
        }
    }

    /// A page that a copy left behind is this object's alone now (R06 `rename`).
    ///
    /// => the page is busy and `at` is where the object has it.
    pub(crate) fn reserv_rename(&self, h: Handle<Page>, at: At) {
        if let At::Near(wish) = at {
            self.dense().rename(self.pages.get(h).pfn.get(), wish);
        }
    }

    /// Every frame is accounted for exactly once; gives how many are pages' (dense).
    pub(crate) fn check_frames(&self) -> Result<u64, &'static str> {
        let dense = self.dense();
        let used = dense.check()?;
        let (unused, system) = (dense.pool.unused(), dense.pool.system);
        if unused + used + system != self.frames.limit() || used + system != self.frames.charged() {
            return Err("frames in use and charges differ");
        }
        Ok(used)
    }

    /// A page lost its owner while busy elsewhere.
    ///
    /// => called before the lock that guarded its slot is released.
    pub(crate) fn limbo_enter(&self) {
        self.frames.limbo.fetch_add(1, Ordering::SeqCst);
    }
    /// Such a page is free now.
    pub(crate) fn limbo_leave(&self) {
        if self.frames.limbo.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.plat.host().thread_wakeup(LIMBO_EVENT);
        }
    }
    /// May natural frames be taken?
    pub(crate) fn limbo_is_empty(&self) -> bool {
        !self.frames.sparse || self.frames.limbo.load(Ordering::SeqCst) == 0
    }

    /// A page at a frame of no object (sparse), as [`Vm::page_take`].
    pub(crate) fn stray_take(&self) -> Option<Handle<Page>> {
        self.stray_take_as(FrameClass::Normal)
    }

    /// As [`Vm::stray_take`], going as far down the pool as `class` may.
    pub(crate) fn stray_take_as(&self, class: FrameClass) -> Option<Handle<Page>> {
        let mut next = self.strays.lock();
        if *next == 0 {
            *next = self.plat.mem().extent_reserve(STRAYS).ok()?.0;
        }
        let h = self.page_take_as(class, At::Frame(Pfn(*next)), |_| false)?;
        *next += 1;
        Some(h)
    }

    /// Pages at consecutive frames of no object (sparse), as [`Vm::page_take_run`].
    pub(crate) fn stray_take_run(&self, out: &mut [PageNo]) -> usize {
        let mut next = self.strays.lock();
        if *next == 0 {
            let Ok(base) = self.plat.mem().extent_reserve(STRAYS) else { return 0 };
            *next = base.0;
        }
        let got = self.page_take_run(At::Frame(Pfn(*next)), out, |_| false);
        *next += got as u64;
        got
    }

    /// Says that the caller is about to wait for [`FREE_EVENT`]. `false`: a frame is
    /// free, do not wait.
    ///
    /// => the caller is in the event's queue already.
    pub(crate) fn frames_mark_waiting(&self) -> bool {
        self.frames.waiting.store(1, Ordering::SeqCst);
        self.frames.free() == 0
    }
}
