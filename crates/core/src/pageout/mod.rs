//! The page daemon's work (D03-D09): clock over active, inactive and laundry.
//!
//! There is no thread here: [`Vm::pageout`] does one round on the caller's thread,
//! whoever that is: a daemon, or a fault that found no frame.
//!
//! ```text
//!  active --(not referenced since last look)--> unmapped --clean--> inactive --> free
//!     ^                                             +-----modified--> laundry --write--> free
//!     +------------- touched again -----------------+------------------+
//! ```
//!
//! A machine without readable reference bits (Linux) learns of use only by faults,
//! so setting a page aside unmaps it and a fault on it is the reference.

use core::sync::atomic::Ordering::Relaxed;

use machvm_arena::Handle;
use machvm_hal::{
    Gather, MaySleep, PAGE_SIZE, PageNo, PagerError, PhysMem, PmapPage, RefMod, RemoveWhy, Return,
};

use crate::object::{Object, Source};
use crate::page::{FreeBatch, Page, PageFlags, QueueId, number};
use crate::pager::ReturnRun;
use crate::platform::Platform;
use crate::stats::bump;
use crate::vm::Vm;

/// Pages looked at together: their mappings go in few calls and their frames in one.
const BATCH: usize = 32;

/// Refused writes per frame, without one that succeeded, after which memory counts as
/// exhausted. Four: each page has been tried, used again, and tried again.
const REFUSALS_PER_FRAME: u64 = 4;

type Batch = [Option<Handle<Page>>; BATCH];

impl<P: Platform> Vm<P> {
    /// Frees up to about `want` frames; gives how many. Zero: everything left is
    /// wired, busy, or modified with no room to write it.
    ///
    /// => no lock is held.
    pub fn pageout(&self, want: u64, may: &mut MaySleep) -> u64 {
        // Contents that nobody needs go before anything is written.
        let mut freed = self.free_replaced_first(may);
        freed += self.purge_volatile(want.saturating_sub(freed), may);
        // Twice around the active queue: once to clear references, once to unmap.
        let mut budget = 2 * self.queues.len(QueueId::Active) / BATCH as u64 + 4;
        loop {
            let mut got = 0;
            if freed < want {
                got = self.free_inactive(may) + self.launder(QueueId::Laundry, may);
                freed += got;
            }
            // What is set aside now is freed by a later round: until then a fault may
            // call it back.
            let aside = self.queues.len(QueueId::Inactive) + self.queues.len(QueueId::Laundry);
            let short = aside < self.aside_target();
            if freed >= want && !short {
                break;
            }
            if short || got == 0 {
                if budget == 0 {
                    break;
                }
                budget -= 1;
                if self.deactivate(may) == 0 && got == 0 {
                    break;
                }
            }
        }
        if freed == 0 {
            // Room may have come back since these were refused.
            freed = self.launder(QueueId::Unswappable, may);
        }
        freed
    }

    /// Frees all that copies replaced; gives how many frames, about.
    fn free_replaced_first(&self, may: &mut MaySleep) -> u64 {
        let before = self.frames.charged();
        while self.free_replaced(may) {}
        before.saturating_sub(self.frames.charged())
    }

    /// Nothing could be written for so long that every page was tried several times:
    /// what page-out still frees is clean pages that the program needs right back, and
    /// going on would be thrashing without end (D10). Saying so starts the count anew.
    pub(crate) fn is_exhausted(&self) -> bool {
        let streak = self.refusals.atomic();
        let limit = self.frames.limit().saturating_mul(REFUSALS_PER_FRAME);
        if streak.load(Relaxed) <= limit {
            return false;
        }
        streak.store(0, Relaxed);
        true
    }

    /// One round of the page daemon: frees until the target is met.
    ///
    /// => no lock is held.
    pub fn pageout_to_target(&self, may: &mut MaySleep) -> u64 {
        let (free, target) = (self.frames.free(), self.frames.target());
        if free >= target { 0 } else { self.pageout(target - free, may) }
    }

    /// Is free memory below where the daemon should run?
    pub fn memory_is_low(&self) -> bool {
        self.frames.free() < self.frames.low()
    }

    /// A fault found no frame: frees some on this thread. `false`: it could not.
    pub(crate) fn make_room(&self, may: &mut MaySleep) -> bool {
        bump(&self.stats.memory_waits, 1);
        for _ in 0..200 {
            if self.frames.free() != 0 || self.pageout(BATCH as u64, may) != 0 {
                return true;
            }
            // Everything may be busy for a moment on other threads: wait for one of
            // them to let go.
            if !self.wait_memory(may) {
                return true;
            }
        }
        false
    }

    /// Sleeps until a frame is free, a few milliseconds at most. `false`: one is.
    fn wait_memory(&self, _may: &mut MaySleep) -> bool {
        use machvm_hal::Host;
        machvm_sync::assert_may_sleep();
        let host = self.plat.host();
        let t = host.assert_wait(crate::page::FREE_EVENT);
        if !self.frames_mark_waiting() {
            host.cancel_wait(t);
            return false;
        }
        host.thread_block(t, Some(host.now_ns() + 5_000_000));
        true
    }

    /// How many pages should wait unmapped: enough to notice use, few enough to keep
    /// refaults cheap. One eighth; of a small memory a batch, but at most a quarter.
    fn aside_target(&self) -> u64 {
        let limit = self.frames.limit();
        (limit / 8).max(BATCH as u64).min(limit / 4)
    }

    /// Looks at a batch of active pages; gives how many were looked at.
    fn deactivate(&self, may: &mut MaySleep) -> usize {
        let mut batch: Batch = [None; BATCH];
        let n = self.queues.take_busy(&self.pages, QueueId::Active, 2 * BATCH, &mut batch);
        // Used since the last look: another round. Wired or held: no business here. Nobody
        // holds it from now on, since it is busy (Z78).
        let mut g = Gather::new();
        for slot in &mut batch[..n] {
            let Some(h) = *slot else { continue };
            let page = self.pages.get(h);
            let refs = self.plat.pmap_page().page_clear(&self.pages, number(h), RefMod::REFERENCED, &mut g);
            if refs.contains(RefMod::REFERENCED) || page.is_kept() {
                self.queues.enqueue(&self.pages, h, QueueId::Active);
                self.page_unbusy(h);
                *slot = None;
            }
        }
        self.unmap(&batch[..n], g, may);
        for h in batch[..n].iter().flatten() {
            let q = if self.page_is_dirty(*h) { QueueId::Laundry } else { QueueId::Inactive };
            self.queues.enqueue(&self.pages, *h, q);
            bump(&self.stats.deactivated, 1);
            self.page_unbusy(*h);
        }
        n
    }

    /// Removes every mapping of busy pages, and finishes what was gathered before.
    fn unmap(&self, list: &[Option<Handle<Page>>], mut g: Gather, may: &mut MaySleep) {
        let mut mapped = [PageNo(core::num::NonZeroU32::MIN); BATCH];
        let mut m = 0;
        for h in list.iter().flatten() {
            if self.pages.get(*h).is_mapped() {
                mapped[m] = number(*h);
                m += 1;
            }
        }
        if m != 0 {
            self.plat.pmap_page().page_remove(&self.pages, &mapped[..m], RemoveWhy::Sample, &mut g);
        }
        self.finish(g, may);
    }

    /// Takes a batch from a queue; those used meanwhile, wired or held go back to active,
    /// the rest is unmapped and kept busy.
    fn take_unused(&self, q: QueueId, batch: &mut Batch, may: &mut MaySleep) -> usize {
        let n = self.queues.take_busy(&self.pages, q, 2 * BATCH, batch);
        let mut g = Gather::new();
        for slot in &mut batch[..n] {
            let Some(h) = *slot else { continue };
            let refs = self.plat.pmap_page().page_clear(&self.pages, number(h), RefMod::REFERENCED, &mut g);
            if refs.contains(RefMod::REFERENCED) || self.pages.get(h).is_kept() {
                self.queues.enqueue(&self.pages, h, QueueId::Active);
                self.page_unbusy(h);
                *slot = None;
            }
        }
        self.unmap(&batch[..n], g, may);
        n
    }

    /// Frees clean pages that were set aside.
    fn free_inactive(&self, may: &mut MaySleep) -> u64 {
        let mut batch: Batch = [None; BATCH];
        let n = self.take_unused(QueueId::Inactive, &mut batch, may);
        let mut free = FreeBatch::new(self);
        let mut freed = 0;
        for h in batch[..n].iter().flatten() {
            // After the unmapping: nobody writes any more (D04, Z74).
            if self.page_is_dirty(*h) {
                self.queues.enqueue(&self.pages, *h, QueueId::Laundry);
                self.page_unbusy(*h);
            } else {
                freed += self.evict(*h, &mut free);
            }
        }
        bump(&self.stats.dropped, freed);
        freed
    }

    /// Writes modified pages that were set aside, and frees them.
    fn launder(&self, from: QueueId, may: &mut MaySleep) -> u64 {
        let mut batch: Batch = [None; BATCH];
        let n = self.take_unused(from, &mut batch, may);
        let mut free = FreeBatch::new(self);
        let mut freed = 0;
        for h in batch[..n].iter().flatten() {
            if self.clean(*h, may) {
                self.refusals.atomic().store(0, Relaxed);
                freed += self.evict(*h, &mut free);
            } else {
                bump(&self.refusals, 1);
                self.queues.enqueue(&self.pages, *h, QueueId::Unswappable);
                self.page_unbusy(*h);
            }
        }
        freed
    }

    /// Takes the contents from an unmapped clean page and the page from its anon.
    fn evict(&self, h: Handle<Page>, free: &mut FreeBatch<'_, P>) -> u64 {
        if self.pages.get(h).owner.get().is_none() {
            self.page_unbusy(h);
            return 0;
        }
        free.push(h);
        1
    }

    /// Writes a page where its contents belong. `false`: there is no room.
    ///
    /// => the page is busy and not mapped for writing.
    fn clean(&self, h: Handle<Page>, may: &mut MaySleep) -> bool {
        let page = self.pages.get(h);
        let Some(a) = page.owner.get() else { return true };
        if !self.page_is_dirty(h) {
            return true;
        }
        if let Some((object, source, index)) = self.write_back_place(h, may) {
            return self.page_clean(h, (object, source, index), may).is_ok();
        }
        let Some(swap) = self.plat.swap() else { return false };
        let mut buf = [0u8; PAGE_SIZE as usize];
        self.plat.mem().read(page.pfn(), 0, &mut buf);
        let Ok(slot) = swap.put(&buf) else { return false };
        let anon = self.anons.get(a);
        if let Some(old) = anon.swap() {
            swap.free(old);
        }
        anon.set_swap(Some(slot));
        self.mark_clean(h, may);
        bump(&self.stats.swapouts, 1);
        true
    }

    /// Where a page of a shared pager-backed object is written.
    fn write_back_place(&self, h: Handle<Page>, may: &mut MaySleep) -> Option<(Handle<Object>, Source, u64)> {
        let page = self.pages.get(h);
        let home = page.home.get()?;
        let object = self.objects.get(home);
        if !object.flags().contains(crate::object::ObjectFlags::WRITE_BACK) {
            return None;
        }
        let inner = object.lock.read(self.plat.host(), may);
        // The page knows its object by a hint only: believe it if the object does.
        let index = page.pindex.get();
        let (a, _) = self.tree_lookup(&inner.tree, index);
        (a.is_some() && a == page.owner.get()).then_some((home, inner.source?, index))
    }

    /// => nothing can write the page: it is mapped nowhere, or everywhere without write
    /// access and flushed.
    pub(crate) fn mark_clean(&self, h: Handle<Page>, may: &mut MaySleep) {
        self.pages.get(h).remove_flags(PageFlags::DIRTY | PageFlags::PRECIOUS);
        let mut g = Gather::new();
        self.plat.pmap_page().page_clear(&self.pages, number(h), RefMod::MODIFIED, &mut g);
        self.finish(g, may);
    }

    /// Writes a page to its pager if it is modified.
    ///
    /// => the page is busy; write access is taken from its mappings first (Z75).
    ///
    /// # Errors
    /// The pager's; the page stays modified (Z80).
    pub(crate) fn page_clean(
        &self,
        h: Handle<Page>,
        (object, source, index): (Handle<Object>, Source, u64),
        may: &mut MaySleep,
    ) -> Result<(), PagerError> {
        let mut run = ReturnRun::new(index);
        run.push(number(h));
        self.return_run(object, source, &mut run, (Return::All, false), may);
        run.results().try_for_each(|(_, done)| done)
    }

    /// Forgets a clean page.
    ///
    /// => the page is busy and has an owner; on return it is not busy.
    pub(crate) fn page_forget_clean(&self, h: Handle<Page>) {
        let mut free = FreeBatch::new(self);
        self.queues.dequeue(&self.pages, h);
        self.evict(h, &mut free);
    }
}
