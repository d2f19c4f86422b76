//! The page daemon's work (D01 to D14).
//!
//! There is no thread here: [`Vm::pageout`] and [`Vm::pageout_to_target`] do one round on
//! the caller's thread, whoever that is: a daemon, or a fault that found no frame.
//!
//! ```text
//!  in use --(policy)--> unmapped --clean--> inactive --> free
//!     ^                     +-----modified--> laundry --write--> free
//!     +--- touched again ---+                    +--no room--> unswappable
//! ```
//!
//! A machine without readable reference bits (Linux) learns of use only by faults, so
//! setting a page aside unmaps it and a fault on it is the reference.
//!
//! Who decides which page goes is a [`Policy`]; [`scan()`] carries it out, over the pages
//! of a [`Vm`] or a simulator's; [`Pid`] says how many. A pager or swap that needs a frame
//! while it is written to gets one of the reserve ([`FrameClass::System`]), and never waits
//! for page-out, which waits for it (Z82, Z83).
//!
//! [`FrameClass::System`]: crate::page::FrameClass::System

mod clock;
mod control;
mod live;
mod oom;
mod pid;
mod policy;
mod s3fifo;
mod scan;
#[cfg(test)]
mod tests;
mod watch;
mod write;

use core::sync::atomic::Ordering::Relaxed;

use machvm_arena::Handle;
use machvm_hal::{Host, MaySleep, PageNo, SwapSlot};

pub use clock::Clock;
pub(crate) use control::Control;
pub use control::Daemon;
pub use oom::{OutOfMemory, Shortage, TaskSize};
pub use pid::{Gains, INTERVAL, Pid};
pub use policy::{Policy, Queue, Replacement, Shape, Tag, Verdict};
pub use s3fifo::S3Fifo;
pub use scan::{BATCH, Frames, Scanned, Written, launder_ahead, retry_unswappable, scan};
pub use watch::{Note, Rotation, Watch};

use crate::object::Anon;
use crate::page::Page;
use crate::platform::Platform;
use crate::stats::bump;
use crate::vm::Vm;
use live::Live;

/// Refused writes per frame, more than there were writes, after which memory counts as
/// exhausted. Four: each page has been tried, used again, and tried again.
const REFUSALS_PER_FRAME: u64 = 4;

impl<P: Platform> Vm<P> {
    /// Frees up to about `want` frames; gives how many. Zero: everything left is
    /// wired, busy, or modified with no room to write it.
    ///
    /// => no lock is held.
    pub fn pageout(&self, want: u64, may: &mut MaySleep) -> u64 {
        match self.reclaim(want, may) {
            0 if self.queues.has_unswappable() => {
                // Room may have come back without anybody saying so.
                self.control.room.atomic().fetch_max(BATCH as u64, Relaxed);
                self.reclaim(want, may)
            }
            freed => freed,
        }
    }

    /// As [`Vm::pageout`]; pages that had no room are tried again only as far as room was
    /// said to have come back.
    fn reclaim(&self, want: u64, may: &mut MaySleep) -> u64 {
        if self.host().is_privileged() {
            return 0; // page-out itself needs memory: it does not wait for itself
        }
        self.queues.settle(&self.pages);
        // Contents that nobody needs go before anything is written.
        let mut purged = self.free_replaced_first(may);
        purged += self.purge_volatile(want.saturating_sub(purged), may);
        let s = self.privileged(|| {
            let mut live = Live::new(self, may);
            let room = &self.control.room;
            if room.get() != 0 {
                let moved = retry_unswappable(&mut live, room.atomic().swap(0, Relaxed));
                bump(&self.stats.unswappable_retried, moved);
            }
            scan(self.control.policy, &mut live, want.saturating_sub(purged))
        });
        self.note_writes(&s);
        bump(&self.stats.laundered_short, s.written);
        bump(&self.stats.dropped, s.dropped);
        bump(&self.stats.deactivated, s.aside);
        bump(&self.stats.scanned, s.looked);
        purged + s.freed
    }

    /// Frees all that copies replaced; gives how many frames, about.
    fn free_replaced_first(&self, may: &mut MaySleep) -> u64 {
        let before = self.frames.charged();
        while self.free_replaced(may) {}
        before.saturating_sub(self.frames.charged())
    }

    /// Does what page-out does with the right to the reserve.
    fn privileged<R>(&self, f: impl FnOnce() -> R) -> R {
        let was = self.host().set_privileged(true);
        let r = f();
        self.host().set_privileged(was);
        r
    }

    /// Counts what could not be written, less what could: one page written is no sign of room,
    /// since one page read back makes the room for it.
    fn note_writes(&self, s: &Scanned) {
        let streak = self.control.refusals.atomic();
        let _ = streak.fetch_update(Relaxed, Relaxed, |n| Some((n + s.refused).saturating_sub(s.written)));
    }

    /// A fault found no frame: frees some on this thread. `false`: it could not.
    pub(crate) fn make_room(&self, may: &mut MaySleep) -> bool {
        bump(&self.stats.memory_waits, 1);
        for _ in 0..200 {
            // Looked at each time: a thread that is ended meanwhile, so that its memory comes back, does not wait.
            if self.host().is_privileged() {
                return false;
            }
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

    /// Swap has room again for `pages` more: a device was added, or something else was
    /// deleted from it. Pages that found none are tried again (D09).
    ///
    /// => locks may be held.
    pub fn swap_room_came(&self, pages: u64) {
        let more = |room: u64| Some(room.saturating_add(pages));
        let _ = self.control.room.atomic().fetch_update(Relaxed, Relaxed, more);
    }

    /// The contents of a slot are not wanted any more.
    ///
    /// => locks may be held.
    pub(crate) fn swap_free(&self, slot: SwapSlot) {
        let Some(swap) = self.plat.swap() else { return };
        swap.free(slot);
        if self.queues.has_unswappable() {
            self.swap_room_came(1);
        }
    }

    /// A page has its contents for the first time: it goes where the policy says.
    ///
    /// => it is busy.
    pub(crate) fn page_fresh(&self, h: Handle<Page>) {
        self.page_arrives(h, self.control.policy.fresh());
        self.watch_in(h, false);
    }

    /// As [`Vm::page_fresh`], of pages that are on no queue yet.
    pub(crate) fn pages_fresh(&self, run: &[PageNo]) {
        let all = run.iter().map(|p| crate::page::handle(*p));
        self.queues.enqueue_new(&self.pages, self.host().cpu(), all, self.control.policy.fresh());
        if self.plat.watch().is_some() {
            run.iter().for_each(|p| self.watch_in(crate::page::handle(*p), false));
        }
    }

    /// As [`Vm::page_fresh`]; contents of `a` that were in memory before.
    pub(crate) fn page_returned(&self, h: Handle<Page>, a: Handle<Anon>) {
        let now = self.control.evictions.get() as u32;
        let age = self.anons.get(a).take_evicted().map(|then| now.wrapping_sub(then));
        self.page_arrives(h, self.control.policy.returned(age, self.frames.limit()));
        self.watch_in(h, true);
    }

    fn page_arrives(&self, h: Handle<Page>, whereto: (Queue, Tag)) {
        self.queues.dequeue(&self.pages, h);
        self.queues.enqueue_new(&self.pages, self.host().cpu(), core::iter::once(h), whereto);
    }

    /// A page that was set aside is used: it goes where the policy says.
    ///
    /// => it is busy.
    pub(crate) fn page_called_back(&self, h: Handle<Page>) {
        let page = self.pages.get(h);
        let (q, tag) = self.control.policy.called_back(page.tag());
        page.set_tag(tag);
        self.queues.enqueue(&self.pages, h, q);
        bump(&self.stats.reactivated, 1);
    }

    /// A page of `a` is evicted: when, if that is to be remembered.
    ///
    /// => it is busy.
    fn note_eviction(&self, a: Handle<Anon>, remember: bool) {
        let now = self.control.evictions.atomic().fetch_add(1, Relaxed) as u32;
        self.anons.get(a).set_evicted(remember.then_some(now));
    }
}
