//! Letting go of held pages.

use core::sync::atomic::Ordering::Release;

use machvm_arena::Handle;
use machvm_hal::{PhysMem, RefMod};

use super::Page;
use crate::platform::Platform;
use crate::vm::Vm;

/// What was done under a hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Used {
    /// The contents were read.
    Read,
    /// The contents may have been written.
    Written,
}

impl<P: Platform> Vm<P> {
    /// One hold less; the last hold on a page without an owner frees it (Z60). A page
    /// that may have been written is modified from now on, whatever was written back
    /// meanwhile (Z77).
    ///
    /// => the caller has the hold; no spin lock is held.
    pub(crate) fn page_unhold(&self, h: Handle<Page>, used: Used) {
        let page = self.pages.get(h);
        if used == Used::Written {
            page.md.bits.fetch_or(RefMod::MODIFIED.bits(), Release);
        }
        if page.holds.put(1) {
            self.page_free_abandoned(h);
        }
    }

    /// Takes a page from its owner, if it has one still, and leaves it to those who hold
    /// it.
    ///
    /// => the page is busy, on no queue and mapped nowhere.
    pub(super) fn leave_to_holders(&self, h: Handle<Page>) {
        let page = self.pages.get(h);
        if let Some(a) = page.owner.get() {
            if !self.anons.get(a).change_page(Some(h), None) {
                self.page_unbusy(h); // dying: both go there
                return;
            }
            page.owner.set(None);
        }
        self.frames.abandoned_enter();
        // Not busy first: who frees it takes it.
        self.page_unbusy(h);
        if page.holds.abandon() {
            self.page_free_abandoned(h);
        }
    }

    /// => nobody holds the page, and the caller is the one who was told so.
    fn page_free_abandoned(&self, h: Handle<Page>) {
        self.busy_taken(h);
        let page = self.pages.get(h);
        page.holds.reset();
        page.wired.set(0);
        self.plat.mem().discard(page.pfn(), 1);
        self.pages_retire(&[Some(h)]);
        self.frames.abandoned_leave();
        self.uncharge(1);
    }
}
