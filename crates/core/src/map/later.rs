//! Freeing what a copy replaced, later.
//!
//! To free a page costs several times what it costs to replace it, at least where frames
//! are Linux's: whoever copies over a large range in use would wait for that and not for
//! the copy. An embedder with a thread to spare has such contents freed by that thread.
//!
//! What waits is the entry that mapped the contents, unlinked, with its reference. Nothing
//! maps its indices, so nobody sees the contents, and they stay charged. No mapping grows
//! over indices of an object of which something waits (Z56), and no copy of a whole object
//! is made: either would make what waits visible, or have what is new freed with it.
//!
//! => an entry that waits belongs to no map; only who takes it off the chain touches it.

use core::sync::atomic::Ordering::{AcqRel, Acquire};
use machvm_arena::Handle;
use machvm_hal::{Event, Host, MaySleep, Pindex};
use machvm_sync::{Field64, Rank, Spin};

use super::entry::Entry;
use crate::object::Object;
use crate::platform::Platform;
use crate::vm::Vm;

/// Pages of a range below which freeing costs little (16 MiB: about 10 ms).
const WORTH: u64 = 4096;
/// Pages freed under one hold of the object's lock: faults elsewhere in the object wait
/// that long.
const PART: u64 = 4096;
/// What waits for the last of those that free.
const EVENT: Event = Event(5 << 60);
/// A bound on one sleep, as for faults.
const WAIT_LIMIT_NS: u64 = 50_000_000;

/// What waits.
pub(crate) struct Later {
    /// Chained through `links.next`.
    chain: Spin<Option<Handle<Entry>>>,
    /// Pages of the ranges that wait or are being freed. \[L\] to grow, \[a\] else
    pages: Field64,
    /// What `pages` may be. \[a\]
    most: Field64,
}

impl Default for Later {
    fn default() -> Self {
        Later { chain: Spin::new(Rank::PagerTable, None), pages: Field64::new(0), most: Field64::new(0) }
    }
}

impl<P: Platform> Vm<P> {
    /// What copies replace may wait for [`Vm::free_replaced`], as long as it is no more than
    /// this many pages; none at first. The frames stay charged meanwhile; page-out frees
    /// them before any other.
    ///
    /// Who looks at pages of an object by index, or maps an object that other maps have
    /// mapped, calls [`Vm::free_all_replaced`] first: else it may find replaced contents.
    pub fn set_replaced_limit(&self, pages: u64) {
        self.later.most.set(pages);
    }

    /// Pages that wait for [`Vm::free_replaced`] or are being freed by it, at most: of their
    /// ranges not all may be in memory.
    pub fn replaced_pages(&self) -> u64 {
        self.later.pages.atomic().load(Acquire)
    }

    /// Frees one of the ranges that wait. `false`: none does; others may be freeing theirs.
    ///
    /// => no object is locked. A map may be: what waits has no pager.
    pub fn free_replaced(&self, may: &mut MaySleep) -> bool {
        let taken = {
            let mut chain = self.later.chain.lock();
            let head = *chain;
            *chain = head.and_then(|h| self.entries.get(h).links.next.get());
            head
        };
        let Some(h) = taken else { return false };
        let e = self.entries.get(h);
        let pages = e.pages();
        if let Some(o) = e.object.get() {
            e.object.set(None);
            self.free_contents(o, e.offset.get(), pages, may);
            self.object_replaced_free(o);
            self.object_deallocate(o, may);
        }
        self.entries.free(h);
        self.later.pages.atomic().fetch_sub(pages, AcqRel);
        self.host().thread_wakeup(EVENT);
        true
    }

    /// Of an object that lives on; else the contents go with it, as they do where there is
    /// no memory for a shared path of its tree.
    fn free_contents(&self, o: Handle<Object>, first: u64, pages: u64, may: &mut MaySleep) {
        let mut done = 0;
        while done < pages && !self.object_is_private_sole(o) {
            let part = (pages - done).min(PART);
            if self.object_drop_range(o, Pindex(first + done), part, may).is_err() {
                return;
            }
            done += part;
        }
    }

    /// Returns when nothing waits any more and nothing is being freed.
    ///
    /// => no object is locked; a map may be.
    pub fn free_all_replaced(&self, may: &mut MaySleep) {
        self.free_replaced_until(&|| self.replaced_pages() == 0, may);
    }

    /// As [`Vm::free_all_replaced`], for what waits of one object.
    pub(crate) fn free_replaced_of(&self, o: Handle<Object>, may: &mut MaySleep) {
        self.free_replaced_until(&|| !self.object_has_replaced(o), may);
    }

    fn free_replaced_until(&self, done: &dyn Fn() -> bool, may: &mut MaySleep) {
        while !done() {
            if self.free_replaced(may) {
                continue;
            }
            // Others are at it. First into the queue, then look: a wake-up in between is
            // not lost.
            let host = self.host();
            let ticket = host.assert_wait(EVENT);
            if done() {
                host.cancel_wait(ticket);
            } else {
                host.thread_block(ticket, Some(host.now_ns() + WAIT_LIMIT_NS));
            }
        }
    }

    /// Lets an unlinked entry of replaced contents wait. `false`: it must be buried.
    ///
    /// => the map is write locked; nothing maps the range.
    pub(super) fn put_off(&self, h: Handle<Entry>) -> bool {
        let (e, most) = (self.entries.get(h), self.later.most.get());
        let pages = e.pages();
        if most == 0 || pages < WORTH || e.wired.get() != 0 || e.submap.get().is_some() {
            return false;
        }
        let Some(o) = e.object.get().filter(|o| self.object_may_wait(*o)) else { return false };
        let mut chain = self.later.chain.lock();
        if self.replaced_pages().saturating_add(pages) > most {
            return false;
        }
        self.object_replaced(o);
        self.later.pages.atomic().fetch_add(pages, AcqRel);
        e.links.next.set(*chain);
        *chain = Some(h);
        true
    }
}
