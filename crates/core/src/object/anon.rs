//! Anons: reference-counted slots of contents.
//!
//! An anon is named by slots of leaves; `refs` counts those leaves. Its contents
//! are a resident page, a copy on swap, both (the page is clean), or nothing (then
//! they come from the object's pager, or are zero).
//!
//! Protocol of the word `page` (`LOCKING.md`, "anon page word"):
//! * 0 -> p: by compare-exchange, by a thread whose object lock keeps a slot that
//!   names the anon, with p busy.
//! * p -> 0 or q: by compare-exchange, by the busy owner of p.
//! * DYING is set by whoever drops the last reference. From then on the two steps
//!   above fail, so p stays the anon's until its busy owner, told by the busy word
//!   (ORPHAN), destroys both.

use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use machvm_arena::{Handle, HandleField};
use machvm_hal::{Host, PagerError, SwapSlot};
use machvm_sync::{Field32, Field64};

use crate::page::{self, FreeBatch, Page};
use crate::platform::Platform;
use crate::vm::Vm;

const DYING: u32 = 1 << 31;

/// See the module text.
#[derive(Debug, Default)]
pub struct Anon {
    /// Leaves that name it. \[a\]
    pub(crate) refs: Field32,
    /// The page, and DYING. \[a\], the protocol above
    page: HandleField<Page>,
    /// The slot on swap; 0: none. \[B\] of the page, or the last reference's
    swap: Field64,
    /// Why the pager failed last, for the next fault; 0: it did not.
    error: Field32,
    /// One more than the number of pages that were evicted before this one's was; 0: it was
    /// not, or is not to be remembered. \[B\] of the page that goes or comes
    evicted: Field32,
}

/// How [`Anon`] keeps an error.
fn code(e: PagerError) -> u32 {
    match e {
        PagerError::Beyond => 1,
        PagerError::Gone => 2,
        PagerError::Io => 3,
    }
}

impl Anon {
    /// The resident page, if any.
    pub(crate) fn page(&self) -> Option<Handle<Page>> {
        let raw = self.page.atomic().load(Acquire) & !DYING;
        core::num::NonZeroU32::new(raw).map(Handle::from_raw)
    }
    /// Is `h` the page?
    pub(crate) fn holds(&self, h: Handle<Page>) -> bool {
        self.page.atomic().load(Acquire) & !DYING == h.get()
    }
    /// The page changes from `old` to `new`. `false`: it was not `old`, or the anon
    /// is dying.
    pub(crate) fn change_page(&self, old: Option<Handle<Page>>, new: Option<Handle<Page>>) -> bool {
        let raw = |h: Option<Handle<Page>>| h.map_or(0, Handle::get);
        self.page.atomic().compare_exchange(raw(old), raw(new), AcqRel, Acquire).is_ok()
    }
    pub(crate) fn swap(&self) -> Option<SwapSlot> {
        core::num::NonZeroU64::new(self.swap.get()).map(SwapSlot)
    }
    pub(crate) fn set_swap(&self, s: Option<SwapSlot>) {
        self.swap.set(s.map_or(0, |s| s.0.get()));
    }
    /// What the next fault here reports, instead of asking the pager.
    pub(crate) fn set_error(&self, e: Option<PagerError>) {
        self.error.set(e.map_or(0, code));
    }
    /// Forgets an error of this kind, if there is one.
    pub(crate) fn clear_error(&self, e: PagerError) {
        // Another one stays.
        let _ = self.error.atomic().compare_exchange(code(e), 0, AcqRel, Relaxed);
    }
    /// Takes the error: the access after this one asks again.
    pub(crate) fn take_error(&self) -> Option<PagerError> {
        match self.error.atomic().swap(0, AcqRel) {
            0 => None,
            1 => Some(PagerError::Beyond),
            2 => Some(PagerError::Gone),
            _ => Some(PagerError::Io),
        }
    }
    /// Its page is evicted, as the one of that number, if that is to be remembered.
    pub(crate) fn set_evicted(&self, number: Option<u32>) {
        self.evicted.set(number.map_or(0, |n| n.wrapping_add(1)));
    }
    /// Takes what was remembered of its eviction.
    pub(crate) fn take_evicted(&self) -> Option<u32> {
        let n = self.evicted.get();
        if n == 0 {
            return None;
        }
        self.evicted.set(0);
        Some(n.wrapping_sub(1))
    }
    /// More than one leaf names it.
    pub(crate) fn is_shared(&self) -> bool {
        self.refs.atomic().load(Acquire) > 1
    }
    /// One more leaf names it.
    ///
    /// => the caller has a leaf that names it.
    pub(crate) fn reference(&self) {
        self.refs.atomic().fetch_add(1, Relaxed);
    }
    /// A fresh anon for one slot.
    pub(crate) fn reset(&self, page: Option<Handle<Page>>) {
        self.refs.set(1);
        self.swap.set(0);
        self.error.set(0);
        self.evicted.set(0);
        self.page.set(page);
    }
}

impl<P: Platform> Vm<P> {
    /// One leaf less names the anon; the last one destroys it.
    pub(crate) fn anon_release(&self, h: Handle<Anon>, batch: &mut FreeBatch<'_, P>) {
        let anon = self.anons.get(h);
        // AcqRel: what every former holder did is seen by the last.
        if anon.refs.atomic().fetch_sub(1, AcqRel) != 1 {
            return;
        }
        let raw = anon.page.atomic().fetch_or(DYING, AcqRel);
        match core::num::NonZeroU32::new(raw).map(Handle::from_raw) {
            None => self.anon_free(h),
            // The page is the anon's until its busy owner destroys both: if it was
            // busy that owner was just told, if not it is the caller now.
            Some(p) => {
                self.limbo_enter();
                if self.pages.get(p).busy.orphan() {
                    batch.orphaned = true;
                    self.pending_drop(p);
                } else {
                    self.limbo_leave();
                    self.anon_destroy(h, p, batch);
                }
            }
        }
    }

    /// => `p` is busy by the caller and belongs to `h`, which has no reference.
    fn anon_destroy(&self, h: Handle<Anon>, p: Handle<Page>, batch: &mut FreeBatch<'_, P>) {
        self.queues.dequeue(&self.pages, p);
        self.pages.get(p).owner.set(None);
        batch.push(p);
        self.anon_free(h);
    }

    fn anon_free(&self, h: Handle<Anon>) {
        self.watch_gone(h);
        let anon = self.anons.get(h);
        if let Some(slot) = anon.swap() {
            self.swap_free(slot);
        }
        anon.set_swap(None);
        anon.page.set(None);
        self.anons.free(h);
    }

    /// Ends busy. When the page's anon lost its last reference meanwhile, both go.
    pub(crate) fn page_unbusy(&self, h: Handle<Page>) {
        let page = self.pages.get(h);
        let r = page.busy.unlock();
        if r.orphan {
            self.page_end_orphan(h);
        }
        if r.wake {
            self.plat.host().thread_wakeup(page::event(h));
        }
    }

    /// The page's anon lost its last reference while the page was busy: both go.
    ///
    /// => `h` is busy, held alone, and the busy word said ORPHAN.
    pub(crate) fn page_end_orphan(&self, h: Handle<Page>) {
        let mut batch = FreeBatch::new(self);
        if let Some(anon) = self.pages.get(h).owner.get() {
            self.anon_destroy(anon, h, &mut batch);
        }
        drop(batch);
        self.limbo_leave();
    }

    /// Takes the anon's page busy. `Err(Some(p))`: p is busy elsewhere; `Err(None)`:
    /// the page changed, look again.
    pub(crate) fn anon_busy_page(
        &self,
        h: Handle<Anon>,
        p: Handle<Page>,
    ) -> Result<(), Option<Handle<Page>>> {
        let page = self.pages.get(p);
        if !page.busy.try_lock() {
            return Err(Some(p));
        }
        if page.owner.get() == Some(h) && self.anons.get(h).holds(p) {
            return Ok(());
        }
        self.page_unbusy(p);
        Err(None)
    }
}
