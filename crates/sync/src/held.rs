//! The run-time check of the lock order.

use crate::rank::Rank;
use core::panic::Location;

#[cfg(all(feature = "std", debug_assertions, not(loom)))]
mod imp {
    use super::{Location, Rank};
    use std::cell::RefCell;
    use std::vec::Vec;

    std::thread_local! {
        static HELD: RefCell<Vec<(Rank, &'static Location<'static>)>> = const { RefCell::new(Vec::new()) };
    }

    pub(crate) fn check(rank: Rank, site: &'static Location<'static>) {
        let bad = HELD.with_borrow(|h| h.iter().find(|(r, _)| *r >= rank).copied());
        if let Some((r, at)) = bad {
            panic!("lock order: {rank:?} wanted at {site} while {r:?} is held since {at}");
        }
    }
    pub(crate) fn push(rank: Rank, site: &'static Location<'static>) {
        HELD.with_borrow_mut(|h| h.push((rank, site)));
    }
    pub(crate) fn pop(rank: Rank) {
        HELD.with_borrow_mut(|h| {
            if let Some(i) = h.iter().rposition(|(r, _)| *r == rank) {
                h.remove(i);
            }
        });
    }
    pub(crate) fn assert_may_sleep(site: &'static Location<'static>) {
        let bad = HELD.with_borrow(|h| h.iter().find(|(r, _)| !r.sleeps()).copied());
        if let Some((r, at)) = bad {
            panic!("sleeping at {site} with the spin lock {r:?} held since {at}");
        }
    }
}

#[cfg(not(all(feature = "std", debug_assertions, not(loom))))]
mod imp {
    use super::{Location, Rank};
    pub(crate) fn check(_: Rank, _: &'static Location<'static>) {}
    pub(crate) fn push(_: Rank, _: &'static Location<'static>) {}
    pub(crate) fn pop(_: Rank) {}
    pub(crate) fn assert_may_sleep(_: &'static Location<'static>) {}
}

pub(crate) use imp::{check, pop, push};

/// Panics in checked builds when the calling thread holds a spin lock.
#[track_caller]
pub fn assert_may_sleep() {
    imp::assert_may_sleep(Location::caller());
}
