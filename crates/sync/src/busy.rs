//! The busy word of a page: a lock without a rank, a queue or an owner on record.
//!
//! Busy says that a page is in transit (being filled, paged out, moved) and that
//! nobody else may touch its contents or its identity. It is held across I/O with
//! every lock released, may be released by another thread than the one that took it
//! (a pager's completion), and is taken by try only when a lock is held.
//!
//! | bits | meaning | set by | cleared by |
//! |---|---|---|---|
//! | `EXCL` | one holds it, alone | [`Busy::try_lock`], [`Busy::orphan`], [`Busy::try_upgrade`] | [`Busy::unlock`], [`Busy::downgrade`] |
//! | `WAITERS` | somebody sleeps on it | [`Busy::mark_waiting`] | [`Busy::unlock`], [`Busy::unshare`], [`Busy::downgrade`] |
//! | `ORPHAN` | the last holder frees the page | [`Busy::orphan`] | [`Busy::unlock`] |
//! | the rest | how many share it | [`Busy::try_share`], [`Busy::downgrade`] | [`Busy::unshare`], [`Busy::try_upgrade`] |
//!
//! `EXCL` and sharers exclude each other. `WAITERS` and `ORPHAN` are never set while
//! nobody holds it: that is what every method keeps, and what lets `try_lock` compare
//! with zero.
//!
//! # How to wait
//! ```text
//! ticket = host.assert_wait(event of the page)
//! if busy.mark_waiting() { drop the locks; host.thread_block(ticket, ..) }
//! else                   { host.cancel_wait(ticket) }
//! start over: the page may be somebody else's by now
//! ```
//! Registering comes first. `mark_waiting` is a read-modify-write even when the bit is
//! already set, so it is before or after the holder's `unlock` in the word's one order
//! of modifications: before, and `unlock` reads it, acquires the registration with it
//! and is told to wake; after, and it finds the word free and the thread does not
//! sleep. No fence is needed on either side, nor in the host's wake-up.

use crate::shim::{AtomicU32, Ordering};

const EXCL: u32 = 1 << 0;
const WAITERS: u32 = 1 << 1;
const ORPHAN: u32 = 1 << 2;
/// One sharer.
const SHARER: u32 = 1 << 3;
/// The count of sharers.
const SHARERS: u32 = !(SHARER - 1);
/// Somebody holds it.
const HELD: u32 = EXCL | SHARERS;

/// What [`Busy::unlock`] leaves to its caller.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Released {
    /// Somebody waits: wake the event of the page.
    pub wake: bool,
    /// The page lost its owner while it was busy: it is **still held busy**, by the
    /// caller, who frees it and then unlocks again.
    pub orphan: bool,
}

/// See the module text.
#[derive(Debug)]
#[repr(transparent)]
pub struct Busy(AtomicU32);

impl Default for Busy {
    fn default() -> Self {
        Self::new()
    }
}

impl Busy {
    /// Free.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Busy(AtomicU32::new(0))
    }
    /// Free.
    #[cfg(loom)]
    pub fn new() -> Self {
        Busy(AtomicU32::new(0))
    }

    /// Takes it when it is free. One locked operation.
    ///
    /// => `true`: the caller holds it, and sees everything the last holder did.
    #[must_use]
    #[inline]
    pub fn try_lock(&self) -> bool {
        // Acquire pairs with the Release of unlock.
        self.0.compare_exchange(0, EXCL, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Does anybody hold it? A hint unless the answer cannot change (the caller holds
    /// it, or holds the lock under which it is taken). No locked operation.
    #[inline]
    pub fn is_busy(&self) -> bool {
        // Acquire: who is told "free" under that lock sees what the last holder did.
        self.0.load(Ordering::Acquire) & HELD != 0
    }

    /// Does anybody hold it alone? A hint as [`Busy::is_busy`].
    pub fn is_exclusive(&self) -> bool {
        self.0.load(Ordering::Acquire) & EXCL != 0
    }

    /// Does somebody sleep until it is free? A hint unless the caller holds it: then a `true`
    /// stays true.
    pub fn is_wanted(&self) -> bool {
        self.0.load(Ordering::Relaxed) & WAITERS != 0
    }

    /// Shares it with others who only read, when nobody holds it alone and nobody waits
    /// to (who waits goes first, or sharers that follow one another would starve it).
    ///
    /// => `true`: the caller is a sharer until [`Busy::unshare`], and sees everything the
    ///    last who held it alone did.
    #[must_use]
    pub fn try_share(&self) -> bool {
        let free = |s: u32| s & (EXCL | WAITERS | ORPHAN) == 0;
        // Acquire, as try_lock.
        self.0
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, |s| {
                if free(s) { s.checked_add(SHARER) } else { None }
            })
            .is_ok()
    }

    /// One sharer less.
    ///
    /// => the caller is one.
    /// => as [`Busy::unlock`]; with `orphan` it is now held alone, by the caller.
    pub fn unshare(&self) -> Released {
        let mut s = self.0.load(Ordering::Relaxed);
        loop {
            debug_assert!(s & SHARERS != 0, "a page is let go that nobody shares");
            let last = s & SHARERS == SHARER;
            let orphan = last && s & ORPHAN != 0;
            let new = match (last, orphan) {
                (false, _) => s - SHARER,
                (true, true) => EXCL,
                (true, false) => 0,
            };
            // AcqRel, as unlock: the next holder sees this one done, and the last sharer
            // sees what waiters, the owner and the other sharers did.
            match self.0.compare_exchange_weak(s, new, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Released { wake: last && s & WAITERS != 0, orphan },
                Err(now) => s = now,
            }
        }
    }

    /// The only sharer holds it alone from now on. `false`: there are others, and nothing
    /// changed.
    ///
    /// => the caller is a sharer.
    #[must_use]
    pub fn try_upgrade(&self) -> bool {
        let alone = |s: u32| (s & SHARERS == SHARER).then_some((s & !SHARERS) | EXCL);
        // Acquire pairs with the unshare of the others.
        self.0.fetch_update(Ordering::Acquire, Ordering::Relaxed, alone).is_ok()
    }

    /// Who held it alone is a sharer from now on. `true`: somebody waits, who may want to
    /// share it too: wake the event of the page.
    ///
    /// => the caller holds it alone.
    #[must_use]
    pub fn downgrade(&self) -> bool {
        let mut s = self.0.load(Ordering::Relaxed);
        loop {
            debug_assert!(s & EXCL != 0, "a page is downgraded that nobody holds");
            // Release: sharers see what was done to the page.
            match self.0.compare_exchange_weak(s, (s & ORPHAN) | SHARER, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => return s & WAITERS != 0,
                Err(now) => s = now,
            }
        }
    }

    /// Announces that the caller is about to sleep. Call it **after**
    /// `Host::assert_wait`; see the module text.
    ///
    /// => `true`: it is busy, and its `unlock` will say `wake`; block.
    /// => `false`: it is free; cancel the wait.
    #[must_use]
    pub fn mark_waiting(&self) -> bool {
        let mut s = self.0.load(Ordering::Relaxed);
        while s & HELD != 0 {
            // Release: the registration made before is seen by the unlock that reads
            // this. Written even when WAITERS is there already: a plain load could be
            // stale, and would publish nothing.
            match self.0.compare_exchange_weak(s, s | WAITERS, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => s = now,
            }
        }
        false
    }

    /// The owner dropped the last reference to the page.
    ///
    /// => `true`: somebody else holds it busy and will free the page; the caller must
    ///    not touch it any more.
    /// => `false`: it was free and is now held by the caller, who frees the page.
    #[must_use]
    pub fn orphan(&self) -> bool {
        let mut s = self.0.load(Ordering::Relaxed);
        loop {
            debug_assert!(s & ORPHAN == 0, "a page lost its last reference twice");
            let (new, order) = if s & HELD == 0 {
                (EXCL, Ordering::Acquire) // as try_lock
            } else {
                // Release: who frees the page sees what its owner did to it.
                (s | ORPHAN, Ordering::Release)
            };
            match self.0.compare_exchange_weak(s, new, order, Ordering::Relaxed) {
                Ok(_) => return s & HELD != 0,
                Err(now) => s = now,
            }
        }
    }

    /// Did the owner drop the last reference while somebody held it busy? A hint, unless the
    /// caller holds what keeps the holder from letting go.
    pub fn is_orphan(&self) -> bool {
        // Acquire: as the holder that is told.
        self.0.load(Ordering::Acquire) & ORPHAN != 0
    }

    /// Gives it back, or takes over the page when it lost its owner meanwhile. One
    /// locked operation when nobody waits.
    ///
    /// => the caller holds it.
    /// => [`Released`] says what is left to do; with `orphan` it is still held.
    #[inline]
    pub fn unlock(&self) -> Released {
        // Release: the next holder sees what was done under it.
        match self.0.compare_exchange(EXCL, 0, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => Released { wake: false, orphan: false },
            Err(s) => self.unlock_slow(s),
        }
    }

    #[cold]
    fn unlock_slow(&self, mut s: u32) -> Released {
        loop {
            debug_assert!(s & EXCL != 0, "unlocked a page that is not busy");
            // An orphan stays busy: its name is dead, and nobody may take it between
            // here and the moment it is on the free list.
            let new = if s & ORPHAN != 0 { EXCL } else { 0 };
            // Acquire pairs with mark_waiting (the waiter is in the queue that the
            // caller is about to wake) and orphan (the owner is done with the page).
            match self.0.compare_exchange_weak(s, new, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Released { wake: s & WAITERS != 0, orphan: s & ORPHAN != 0 },
                Err(now) => s = now,
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const QUIET: Released = Released { wake: false, orphan: false };

    #[test]
    fn only_one_holder() {
        let b = Busy::new();
        assert!(b.try_lock() && b.is_busy());
        assert!(!b.try_lock());
        assert_eq!(b.unlock(), QUIET);
        assert!(!b.is_busy() && b.try_lock());
    }

    #[test]
    fn waiters_are_told_once() {
        let b = Busy::new();
        assert!(!b.mark_waiting(), "nothing to wait for");
        assert!(b.try_lock());
        assert!(!b.is_wanted());
        assert!(b.mark_waiting() && b.mark_waiting());
        assert!(b.is_wanted());
        assert_eq!(b.unlock(), Released { wake: true, orphan: false });
        assert!(b.try_lock() && !b.is_wanted());
        assert_eq!(b.unlock(), QUIET);
    }

    #[test]
    fn an_orphan_stays_with_its_holder() {
        let b = Busy::new();
        assert!(b.try_lock());
        assert!(b.orphan() && b.mark_waiting());
        assert_eq!(b.unlock(), Released { wake: true, orphan: true });
        assert!(b.is_busy() && !b.try_lock(), "nobody takes it before it is freed");
        assert_eq!(b.unlock(), QUIET);
        assert!(!b.is_busy());
    }

    #[test]
    fn p14_sharers_exclude_who_wants_it_alone() {
        let b = Busy::new();
        assert!(b.try_share() && b.try_share());
        assert!(b.is_busy() && !b.is_exclusive() && !b.try_lock() && !b.try_upgrade());
        assert!(b.mark_waiting());
        assert!(!b.try_share(), "who waits goes first");
        assert_eq!(b.unshare(), QUIET);
        assert_eq!(b.unshare(), Released { wake: true, orphan: false });
        assert!(b.try_lock() && !b.try_share());
        assert_eq!(b.unlock(), QUIET);
    }

    #[test]
    fn p14_the_only_sharer_upgrades_and_anybody_downgrades() {
        let b = Busy::new();
        assert!(b.try_share() && b.try_upgrade() && b.is_exclusive());
        assert!(b.mark_waiting());
        assert!(b.downgrade(), "who waits may want to share it");
        assert!(b.try_share());
        assert!(!b.try_upgrade());
        assert_eq!((b.unshare(), b.unshare()), (QUIET, QUIET));
        assert!(!b.is_busy());
    }

    #[test]
    fn the_last_sharer_of_an_orphan_holds_it_alone() {
        let b = Busy::new();
        assert!(b.try_share() && b.try_share());
        assert!(b.orphan(), "somebody holds it");
        assert!(!b.try_share());
        assert_eq!(b.unshare(), QUIET);
        assert_eq!(b.unshare(), Released { wake: false, orphan: true });
        assert!(b.is_exclusive() && !b.try_lock());
        assert_eq!(b.unlock(), QUIET);
        let b = Busy::new();
        assert!(b.try_share() && b.orphan() && b.try_upgrade());
        assert_eq!(b.unlock(), Released { wake: false, orphan: true });
    }

    #[test]
    fn orphan_of_a_quiet_page_takes_it() {
        let b = Busy::new();
        assert!(!b.orphan());
        assert!(b.is_busy() && !b.try_lock());
        assert_eq!(b.unlock(), QUIET);
    }
}
