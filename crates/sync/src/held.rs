//! The run-time check of the lock order: what the calling thread holds.
//!
//! The list is a fixed array of cells in a thread-local without a destructor: it
//! allocates nothing, works in a signal handler and while a thread is torn down.

use crate::rank::Rank;
use core::panic::Location;

#[cfg(all(any(test, feature = "std"), debug_assertions, not(loom)))]
mod imp {
    use super::{Location, Rank};
    use std::cell::Cell;

    type Site = &'static Location<'static>;
    const MOST: usize = 32;

    struct Held {
        len: Cell<usize>,
        locks: [Cell<Option<(Rank, Site)>>; MOST],
    }

    std::thread_local! {
        static HELD: Held = const { Held { len: Cell::new(0), locks: [const { Cell::new(None) }; MOST] } };
    }

    fn find(bad: impl Fn(Rank) -> bool) -> Option<(Rank, Site)> {
        HELD.with(|h| h.locks[..h.len.get()].iter().filter_map(Cell::get).find(|(r, _)| bad(*r)))
    }

    pub(crate) fn check(rank: Rank, site: Site) {
        if let Some((r, at)) = find(|r| r >= rank) {
            panic!("lock order: {rank:?} wanted at {site} while {r:?} is held since {at}");
        }
    }
    pub(crate) fn check_second(rank: Rank, site: Site) {
        if let Some((r, at)) = find(|r| r > rank) {
            panic!("lock order: {rank:?} wanted at {site} while {r:?} is held since {at}");
        }
        let same = HELD.with(|h| {
            h.locks[..h.len.get()].iter().filter_map(Cell::get).filter(|(r, _)| *r == rank).count()
        });
        assert!(same < 2, "lock order: a third {rank:?} wanted at {site}");
    }
    pub(crate) fn push(rank: Rank, site: Site) {
        HELD.with(|h| {
            let n = h.len.get();
            assert!(n < MOST, "more than {MOST} locks held at {site}");
            h.locks[n].set(Some((rank, site)));
            h.len.set(n + 1);
        });
    }
    pub(crate) fn pop(rank: Rank) {
        HELD.with(|h| {
            let n = h.len.get();
            // Locks may be dropped in any order: the newest of this rank goes.
            let at = (0..n).rev().find(|&i| h.locks[i].get().is_some_and(|(r, _)| r == rank));
            if let Some(i) = at {
                for k in i + 1..n {
                    h.locks[k - 1].set(h.locks[k].get());
                }
                h.len.set(n - 1);
            }
        });
    }
    pub(crate) fn assert_may_sleep(site: Site) {
        if let Some((r, at)) = find(|r| !r.sleeps()) {
            panic!("sleeping at {site} with the spin lock {r:?} held since {at}");
        }
    }
}

#[cfg(not(all(any(test, feature = "std"), debug_assertions, not(loom))))]
mod imp {
    use super::{Location, Rank};
    #[inline(always)]
    pub(crate) fn check(_: Rank, _: &'static Location<'static>) {}
    #[inline(always)]
    pub(crate) fn check_second(_: Rank, _: &'static Location<'static>) {}
    #[inline(always)]
    pub(crate) fn push(_: Rank, _: &'static Location<'static>) {}
    #[inline(always)]
    pub(crate) fn pop(_: Rank) {}
    #[inline(always)]
    pub(crate) fn assert_may_sleep(_: &'static Location<'static>) {}
}

pub(crate) use imp::{check, check_second, pop, push};

/// Panics in checked builds when the calling thread holds a spin lock.
#[track_caller]
#[inline]
pub fn assert_may_sleep() {
    imp::assert_may_sleep(Location::caller());
}
