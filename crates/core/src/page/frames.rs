//! Frames: how many there are, how many are taken, and giving them back in runs.
//!
//! What is counted is charges, not addresses (decision 18): in the sparse placement
//! a page names its own frame and only the number of resident ones is limited; in
//! the dense placement frames wait on a free list.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use machvm_arena::Handle;
use machvm_hal::{Event, Gather, Host, MaySleep, PageNo, Pfn, PhysMem, Placement, PmapPage, RemoveWhy};
use machvm_sync::{Rank, Spin};

use super::{Page, PageTable, number};
use crate::platform::Platform;
use crate::vm::Vm;

/// What a thread that waits for a free frame waits for.
pub(crate) const FREE_EVENT: Event = Event(2 << 60);

/// What a thread that waits for pages in limbo waits for.
pub(crate) const LIMBO_EVENT: Event = Event(3 << 60);
/// Size of the number space of stray frames (never used twice; 4 PiB).
const STRAYS: u64 = 1 << 40;

/// The account of frames.
pub(crate) struct Frames {
    /// Dense: unused pages, linked through `q_next`. \[F\]
    free: Spin<Option<Handle<Page>>>,
    /// Frames resident or about to be. \[a\]
    charged: AtomicU64,
    /// The largest value `charged` had. \[a\]
    peak: AtomicU64,
    /// Never exceeded. \[a\], changed by the embedder
    limit: AtomicU64,
    /// Threads wait for FREE_EVENT. \[a\]
    waiting: AtomicU32,
    /// Pages whose owner is gone but that are busy still. Their frames are not free
    /// yet, so natural frames are not taken while there are any. \[a\]
    limbo: AtomicU32,
    sparse: bool,
}

impl Frames {
    /// Dense: makes every page structure now.
    pub(crate) fn new<P: Platform>(plat: &P, pages: &PageTable<P>) -> Result<Self, machvm_arena::NoMemory> {
        let (sparse, limit) = match plat.mem().placement() {
            Placement::Sparse { frames } => (true, frames),
            Placement::Dense { frames, .. } => (false, u64::from(frames)),
        };
        let mut head = None;
        if let Placement::Dense { first, frames } = plat.mem().placement() {
            for i in 0..u64::from(frames) {
                let h = pages.slab.alloc()?;
                let page = pages.get(h);
                page.pfn.set(first.add(i).0);
                page.q_next.set(head);
                head = Some(h);
            }
        }
        Ok(Frames {
            free: Spin::new(Rank::Free, head),
            charged: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            limit: AtomicU64::new(limit),
            waiting: AtomicU32::new(0),
            limbo: AtomicU32::new(0),
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
    pub(crate) fn free(&self) -> u64 {
        self.limit().saturating_sub(self.charged())
    }
    /// Below this many free frames the daemon is woken: a sixty-fourth of all,
    /// between 16 and 512 (256 KiB of clusters ahead of the faults).
    pub(crate) fn low(&self) -> u64 {
        (self.limit() / 64).clamp(16, 512).min(self.limit() / 4)
    }
    /// Up to here the daemon frees.
    pub(crate) fn target(&self) -> u64 {
        self.low() * 2
    }

    /// Takes `n` frames into account, or none.
    fn charge(&self, n: u64) -> bool {
        let limit = self.limit();
        let r = self
            .charged
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |c| (c + n <= limit).then_some(c + n));
        match r {
            Ok(before) => {
                self.peak.fetch_max(before + n, Ordering::Relaxed);
                true
            }
            Err(_) => false,
        }
    }
}

impl<P: Platform> Vm<P> {
    /// A page for the frame `at` (sparse) or any frame (dense): busy, without
    /// owner, clean. `None`: no frame is free (or no page structure).
    pub(crate) fn page_take(&self, at: Pfn) -> Option<Handle<Page>> {
        if !self.frames.charge(1) {
            return None;
        }
        let h = if self.frames.sparse {
            match self.pages.slab.alloc() {
                Ok(h) => h,
                Err(_) => {
                    self.uncharge(1);
                    return None;
                }
            }
        } else {
            let mut head = self.frames.free.lock();
            let h = (*head)?; // charged, so there is one
            *head = self.pages.get(h).q_next.get();
            h
        };
        let page = self.pages.get(h);
        // A stale finder may hold busy for a moment: it sees that the page is not
        // what it looked for and lets go.
        while !page.busy.try_lock() {
            core::hint::spin_loop();
        }
        if self.frames.sparse {
            page.pfn.set(at.0);
        }
        page.owner.set(None);
        page.home.set(None);
        page.flags.set(0);
        page.wired.set(0);
        page.md.bits.store(0, Ordering::Relaxed);
        if self.frames.free() < self.frames.low() {
            self.plat.memory_low();
        }
        Some(h)
    }

    fn uncharge(&self, n: u64) {
        self.frames.charged.fetch_sub(n, Ordering::Release);
        if self.frames.waiting.swap(0, Ordering::AcqRel) != 0 {
            self.plat.host().thread_wakeup(FREE_EVENT);
        }
    }

    /// Gives a page back that was never filled, mapped, owned or queued.
    ///
    /// => the page is busy; its frame is not resident (sparse).
    pub(crate) fn page_untake(&self, h: Handle<Page>) {
        self.page_retire(h);
        self.uncharge(1);
    }

    fn page_retire(&self, h: Handle<Page>) {
        let page = self.pages.get(h);
        page.owner.set(None);
        if page.busy.unlock().wake {
            self.plat.host().thread_wakeup(super::event(h));
        }
        if self.frames.sparse {
            self.pages.slab.free(h);
        } else {
            let mut head = self.frames.free.lock();
            page.q_next.set(*head);
            *head = Some(h);
        }
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
        let mut next = self.strays.lock();
        if *next == 0 {
            *next = self.plat.mem().extent_reserve(STRAYS).ok()?.0;
        }
        let h = self.page_take(Pfn(*next))?;
        *next += 1;
        Some(h)
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

/// Pages in a [`FreeBatch`]: a sixteenth of a leaf; 128 bytes of stack.
const BATCH: usize = 32;

/// Pages on their way to the free list: unmapped, flushed, discarded and uncharged
/// together, contiguous frames in one call.
pub(crate) struct FreeBatch<'a, P: Platform> {
    vm: &'a Vm<P>,
    pages: [Option<Handle<Page>>; BATCH],
    len: usize,
    /// Some page was busy elsewhere; its holder frees it.
    pub(crate) orphaned: bool,
}

impl<'a, P: Platform> FreeBatch<'a, P> {
    pub(crate) fn new(vm: &'a Vm<P>) -> Self {
        FreeBatch { vm, pages: [None; BATCH], len: 0, orphaned: false }
    }

    /// Adds a page. If it still has an owner, the contents are taken from that anon.
    ///
    /// => the page is busy and on no queue.
    pub(crate) fn push(&mut self, h: Handle<Page>) {
        if self.len == BATCH {
            self.flush();
        }
        self.pages[self.len] = Some(h);
        self.len += 1;
    }

    fn flush(&mut self) {
        let vm = self.vm;
        let list = &mut self.pages[..self.len];
        let mut mapped = [PageNo(core::num::NonZeroU32::MIN); BATCH];
        let mut m = 0;
        for h in list.iter().flatten() {
            if vm.pages.get(*h).is_mapped() {
                mapped[m] = number(*h);
                m += 1;
            }
        }
        if m != 0 {
            let mut g = Gather::new();
            vm.plat.pmap_page().page_remove(&vm.pages, &mapped[..m], RemoveWhy::Free, &mut g);
            // Waits for other CPUs at most, and no spin lock is held here.
            vm.finish(g, &mut MaySleep::claim());
        }
        // One discard for each run of frames.
        let mut run: Option<(u64, u32)> = None;
        for h in list.iter().flatten() {
            let f = vm.pages.get(*h).pfn.get();
            run = match run {
                Some((first, n)) if first + u64::from(n) == f => Some((first, n + 1)),
                other => {
                    if let Some((first, n)) = other {
                        vm.plat.mem().discard(Pfn(first), n);
                    }
                    Some((f, 1))
                }
            };
        }
        if let Some((first, n)) = run {
            vm.plat.mem().discard(Pfn(first), n);
        }
        let mut n = 0;
        for h in list.iter_mut().filter_map(Option::take) {
            // An anon that is still named gives its page up only now: earlier, a fault
            // would find it empty and fill the frame again before the discard.
            if let Some(a) = vm.pages.get(h).owner.get()
                && !vm.anons.get(a).change_page(Some(h), None)
            {
                vm.page_unbusy(h); // dying: both go there
                continue;
            }
            vm.page_retire(h);
            n += 1;
        }
        self.len = 0;
        if n != 0 {
            vm.uncharge(n);
        }
    }
}

impl<P: Platform> Drop for FreeBatch<'_, P> {
    fn drop(&mut self) {
        self.flush();
    }
}
