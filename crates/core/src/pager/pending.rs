//! Pages that wait for an answer.
//!
//! They are busy, on no queue, and in a list of the control that the request named, linked by
//! the words that queues use. Whoever takes one out of the list, under the table's lock, is its
//! busy owner: the pager's answer, the end of the object, or the thread that drops the last
//! reference to its contents, which need not wait for the pager then.

use machvm_arena::Handle;
use machvm_hal::{ControlId, Host, MaySleep, PAGE_SHIFT, PageNo, PagerError};

use super::Control;
use crate::page::{PENDING, Page, event, handle};
use crate::platform::Platform;
use crate::vm::Vm;

impl<P: Platform> Vm<P> {
    /// A request's pages wait from here on. `false`: the object has ended; they are the
    /// caller's still.
    ///
    /// => the pages are busy.
    pub(crate) fn pending_add(&self, id: ControlId, offset: u64, pages: &[PageNo]) -> bool {
        let Some(c) = self.control_named(id) else { return false };
        let control = self.controls.get(c);
        {
            let _table = self.memory_objects.lock();
            if self.control_id(c) != id {
                return false;
            }
            for (i, h) in pages.iter().map(|p| handle(*p)).enumerate() {
                let (page, first) = (self.pages.get(h), control.pending.get());
                // A page of a copy waits at the place that it has in the original: the copy may
                // end before the answer comes, the original does not.
                page.home.set(control.object.get());
                page.pindex.set((offset >> PAGE_SHIFT).wrapping_add(i as u64));
                page.q_next.set(first);
                page.q_prev.set(None);
                if let Some(first) = first {
                    self.pages.get(first).q_prev.set(Some(h));
                }
                control.pending.set(Some(h));
                page.queue.set(PENDING);
            }
        }
        for h in pages.iter().map(|p| handle(*p)) {
            // A pager that waits for the page need not (`wait_page_settled`).
            self.host().thread_wakeup(event(h));
            // Who dropped it before it was in the list has left it to its busy owner.
            if self.pages.get(h).busy.is_orphan() {
                self.pending_orphaned(c, h);
            }
        }
        true
    }

    /// Is the page waiting for its pager? It has no contents, and nobody maps it.
    pub(crate) fn page_is_pending(&self, h: Handle<Page>) -> bool {
        self.pages.get(h).queue.get() == PENDING
    }

    /// As [`Vm::wait_page`]; returns also when the page comes to wait for its pager, who may be
    /// the one that calls.
    pub(crate) fn wait_page_settled(&self, p: Handle<Page>, _may: &mut MaySleep) {
        machvm_sync::assert_may_sleep();
        let host = self.plat.host();
        let t = host.assert_wait(event(p));
        if self.pages.get(p).busy.mark_waiting() && !self.page_is_pending(p) {
            host.thread_block(t, None);
        } else {
            host.cancel_wait(t);
        }
    }

    /// The page's contents have no owner any more, and it was busy: if it waits for its pager,
    /// it does not any more.
    ///
    /// => its busy word says so.
    pub(crate) fn pending_drop(&self, h: Handle<Page>) {
        if !self.page_is_pending(h) {
            return;
        }
        let home = self.pages.get(h).home.get();
        let control = home.and_then(|o| self.objects.get(o).control.get());
        if let Some(c) = control {
            self.pending_orphaned(c, h);
        }
    }

    /// Whatever page `h` is by now: if it waits here, and its contents have no owner, both go.
    fn pending_orphaned(&self, c: Handle<Control>, h: Handle<Page>) {
        let taken = {
            let _table = self.memory_objects.lock();
            let there = self.pages.get(h).busy.is_orphan() && self.pending_list(c).any(|p| p == h);
            if there {
                self.pending_unlink(c, h);
            }
            there
        };
        if taken {
            self.page_unbusy(h);
        }
    }

    /// If the page waits, it does not any more: its contents are absent, and whoever needs them
    /// asks again.
    ///
    /// => no spin lock is held.
    pub(crate) fn pending_cancel(&self, h: Handle<Page>) {
        let home = self.pages.get(h).home.get();
        let Some(c) = home.and_then(|o| self.objects.get(o).control.get()) else { return };
        let taken = {
            let _table = self.memory_objects.lock();
            let there = self.pending_list(c).any(|p| p == h);
            if there {
                self.pending_unlink(c, h);
            }
            there
        };
        if taken {
            self.page_abandon(h, None);
        }
    }

    /// => the table is locked.
    fn pending_list(&self, c: Handle<Control>) -> impl Iterator<Item = Handle<Page>> {
        let mut at = self.controls.get(c).pending.get();
        core::iter::from_fn(move || {
            let h = at?;
            at = self.pages.get(h).q_next.get();
            Some(h)
        })
    }

    /// => the table is locked, and the page is in the list. It is the caller's.
    fn pending_unlink(&self, c: Handle<Control>, h: Handle<Page>) {
        let page = self.pages.get(h);
        let (next, prev) = (page.q_next.get(), page.q_prev.get());
        match prev {
            Some(p) => self.pages.get(p).q_next.set(next),
            None => self.controls.get(c).pending.set(next),
        }
        if let Some(n) = next {
            self.pages.get(n).q_prev.set(prev);
        }
        page.queue.set(0);
    }

    /// A page that waits for bytes `[offset, offset + bytes)`, which is the caller's then.
    pub(super) fn pending_take(
        &self,
        c: Handle<Control>,
        id: ControlId,
        offset: u64,
        bytes: u64,
    ) -> Option<Handle<Page>> {
        let _table = self.memory_objects.lock();
        if self.control_id(c) != id {
            return None;
        }
        let inside =
            |h: &Handle<Page>| (self.pages.get(*h).pindex.get() << PAGE_SHIFT).wrapping_sub(offset) < bytes;
        let h = self.pending_list(c).find(inside)?;
        self.pending_unlink(c, h);
        Some(h)
    }

    /// Nothing will come any more.
    ///
    /// => no new request names the control.
    pub(super) fn pending_abandon_all(&self, c: Handle<Control>) {
        loop {
            let h = {
                let _table = self.memory_objects.lock();
                let Some(h) = self.controls.get(c).pending.get() else { return };
                self.pending_unlink(c, h);
                h
            };
            self.page_abandon(h, Some(PagerError::Gone));
        }
    }
}
