//! Requests to one CPU, and their acknowledgement.
//!
//! Who wants something flushed puts requests ([`Mailbox::put`]), rings once
//! ([`Mailbox::ring`]), interrupts the CPU and waits until as much is done as was rung
//! for ([`Mailbox::rung`], [`Mailbox::is_done`]). The CPU serves: it reads how often was
//! rung, *then* carries out everything that is there, *then* says done up to what it
//! read. A request is there before its ring, so it is carried out before its ring is
//! done. Nothing is lost when the slots are full: one word stands for "everything".
//!
//! No lock, because two sides meet here that may not wait for each other: an interrupt
//! handler, and a CPU that has interrupts off and serves while it waits itself. Of two
//! that serve at once (the handler came while its CPU served) the second returns: the
//! first looks again when it is through.
//!
//! | written | read | order |
//! |---|---|---|
//! | a slot's words, then FULL | FULL, then the words | Release, Acquire |
//! | taken words, then EMPTY | EMPTY, then new words | Release, Acquire |
//! | requests and the tables before them, then `posted` | `posted`, then requests, flush | Release, Acquire |
//! | the flush, then `done` | `done`, then frames are freed | Release, Acquire |
//! | `posted`, then a look at `serving` | `serving` cleared, then a look at `posted` | both of `serving` are read-modify-write, AcqRel |

use machvm_hal::{Va, VaRange};
use machvm_sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// What one CPU is asked to forget.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Request {
    /// The pmap's number.
    pub(crate) tag: u32,
    /// `None`: all of it, tables on the way too.
    pub(crate) range: Option<VaRange>,
    /// Tables on the way too.
    pub(crate) walks: bool,
}

/// What a round of serving finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mail {
    /// Of every space. Nothing follows.
    Everything,
    /// This.
    One(Request),
}

/// `state` of a slot: bits as below, the tag above bit 32.
const EMPTY: u64 = 0;
/// A writer has it.
const TAKEN: u64 = 1;
const FULL: u64 = 2;
const WALKS: u64 = 4;

#[derive(Debug)]
struct Slot {
    state: AtomicU64,
    start: AtomicU64,
    /// 0: the whole space.
    pages: AtomicU64,
}

impl Slot {
    fn put(&self, r: Request) -> bool {
        // Acquire pairs with the Release of take(): the old words were read before they
        // are written here.
        if self.state.compare_exchange(EMPTY, TAKEN, Ordering::Acquire, Ordering::Relaxed).is_err() {
            return false;
        }
        let (start, pages) = r.range.map_or((0, 0), |range| (range.start().page(), range.pages()));
        self.start.store(start, Ordering::Relaxed);
        self.pages.store(pages, Ordering::Relaxed);
        let walks = if r.walks { WALKS } else { 0 };
        self.state.store(u64::from(r.tag) << 32 | walks | FULL, Ordering::Release);
        true
    }

    /// => the caller serves, so nobody else empties.
    fn take(&self) -> Option<Request> {
        let state = self.state.load(Ordering::Acquire);
        if state & FULL == 0 {
            return None;
        }
        let start = Va::from_page(self.start.load(Ordering::Relaxed));
        let range = VaRange::of_pages(start, self.pages.load(Ordering::Relaxed));
        self.state.store(EMPTY, Ordering::Release);
        Some(Request { tag: (state >> 32) as u32, range, walks: state & WALKS != 0 })
    }
}

/// See the module text. One a CPU. All \[a\].
#[derive(Debug)]
pub(crate) struct Mailbox<const SLOTS: usize> {
    slots: [Slot; SLOTS],
    /// 1: more was asked than there are slots.
    everything: AtomicU32,
    /// 1: somebody serves.
    serving: AtomicU32,
    /// How often was rung.
    posted: AtomicU64,
    /// Everything up to that ring is carried out. Written by who serves.
    done: AtomicU64,
}

impl<const SLOTS: usize> Mailbox<SLOTS> {
    pub(crate) fn new() -> Self {
        Mailbox {
            slots: core::array::from_fn(|_| Slot {
                state: AtomicU64::new(EMPTY),
                start: AtomicU64::new(0),
                pages: AtomicU64::new(0),
            }),
            everything: AtomicU32::new(0),
            serving: AtomicU32::new(0),
            posted: AtomicU64::new(0),
            done: AtomicU64::new(0),
        }
    }

    /// Leaves a request. Carried out at some time; [`Mailbox::ring`] says when.
    pub(crate) fn put(&self, r: Request) {
        if !self.slots.iter().any(|s| s.put(r)) {
            self.put_everything();
        }
    }
    /// As [`Mailbox::put`], for everything of every space.
    pub(crate) fn put_everything(&self) {
        // A store would do. The model checker lets the swaps of two rounds pass it by.
        self.everything.swap(1, Ordering::Release);
    }
    /// What was put until now is to be acknowledged.
    pub(crate) fn ring(&self) {
        // Release: requests, and the table writes before them, come first. Rings are
        // read-modify-writes, so who reads a later one sees those before it.
        self.posted.fetch_add(1, Ordering::Release);
    }
    /// How often was rung, the caller's own included.
    pub(crate) fn rung(&self) -> u64 {
        self.posted.load(Ordering::Relaxed)
    }
    /// Is what was rung for up to `ring` carried out?
    pub(crate) fn is_done(&self, ring: u64) -> bool {
        // Acquire pairs with the Release in serve(): the CPU's last use of what it forgot
        // comes before what the caller does next.
        self.done.load(Ordering::Acquire) >= ring
    }

    /// Carries out what was asked; `round` flushes what [`Round::each`] gives it and
    /// returns when that is complete. Returns at once when this CPU is serving already.
    ///
    /// => on the mailbox's CPU, which the thread does not leave meanwhile.
    pub(crate) fn serve(&self, mut round: impl FnMut(Round<'_, SLOTS>)) {
        while self.posted.load(Ordering::Relaxed) != self.done.load(Ordering::Relaxed) {
            if self.serving.swap(1, Ordering::AcqRel) != 0 {
                return;
            }
            // Before the slots are looked at: what is rung for later may be missed now.
            let upto = self.posted.load(Ordering::Acquire);
            round(Round(self));
            self.done.store(upto, Ordering::Release);
            self.serving.swap(0, Ordering::AcqRel);
        }
    }
}

/// One look through the mailbox.
#[derive(Debug)]
pub(crate) struct Round<'a, const SLOTS: usize>(&'a Mailbox<SLOTS>);

impl<const SLOTS: usize> Round<'_, SLOTS> {
    /// Empties the mailbox into `f`.
    pub(crate) fn each(self, mut f: impl FnMut(Mail)) {
        let slots = self.0.slots.iter().filter_map(Slot::take);
        // The flush comes after the taking, so it covers what was taken.
        if self.0.everything.swap(0, Ordering::Acquire) != 0 {
            slots.for_each(drop);
            return f(Mail::Everything);
        }
        slots.for_each(|r| f(Mail::One(r)));
    }
}
