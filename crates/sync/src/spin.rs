//! The ranked spin lock.

use core::ops::{Deref, DerefMut};
use core::panic::Location;

use crate::held;
use crate::rank::Rank;
use crate::shim::{AtomicU32, Ordering, UnsafeCell, Writing, relax};

/// A spin lock around a `T`. Not recursive. Taking it free is one locked operation,
/// releasing it a plain store.
#[derive(Debug)]
pub struct Spin<T> {
    rank: Rank,
    taken: AtomicU32,
    data: UnsafeCell<T>,
}

// SAFETY: the guard gives exclusive access; `T: Send` lets that access move.
unsafe impl<T: Send> Sync for Spin<T> {}
// SAFETY: owning the lock is owning the `T`.
unsafe impl<T: Send> Send for Spin<T> {}

/// Exclusive access; unlocks when dropped. Not `Send`.
#[must_use]
#[derive(Debug)]
pub struct SpinGuard<'a, T> {
    lock: &'a Spin<T>,
    // Raw pointer inside, so not Send: the held list is the thread's.
    access: Writing<T>,
}

impl<T> Spin<T> {
    /// An open lock.
    #[cfg(not(loom))]
    pub const fn new(rank: Rank, data: T) -> Self {
        Spin { rank, taken: AtomicU32::new(0), data: UnsafeCell::new(data) }
    }
    /// An open lock.
    #[cfg(loom)]
    pub fn new(rank: Rank, data: T) -> Self {
        Spin { rank, taken: AtomicU32::new(0), data: UnsafeCell::new(data) }
    }

    /// Spins until the lock is had.
    ///
    /// => only locks of lower rank are held.
    #[track_caller]
    #[inline]
    pub fn lock(&self) -> SpinGuard<'_, T> {
        held::check(self.rank, Location::caller());
        self.acquire(Location::caller())
    }

    /// Spins for a second lock of a rank of which one is held (the page daemon and
    /// its queues). Which of the two comes first is the rank's rule in `LOCKING.md`,
    /// and the caller's duty.
    ///
    /// => only locks of this rank (at most one) or lower are held.
    #[track_caller]
    #[inline]
    pub fn lock_second(&self) -> SpinGuard<'_, T> {
        held::check_second(self.rank, Location::caller());
        self.acquire(Location::caller())
    }

    /// Takes the lock if it is free; may go against the order.
    #[track_caller]
    #[inline]
    pub fn try_lock(&self) -> Option<SpinGuard<'_, T>> {
        // Acquire as in acquire().
        self.taken.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).ok()?;
        Some(self.guard(Location::caller()))
    }

    #[inline]
    fn acquire(&self, site: &'static Location<'static>) -> SpinGuard<'_, T> {
        // Acquire pairs with the Release in drop: what the last holder wrote is seen.
        if self.taken.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
            self.contend();
        }
        self.guard(site)
    }

    #[cold]
    #[inline(never)]
    fn contend(&self) {
        let mut turn = 0;
        loop {
            // Reading until it looks free leaves the line with its holder.
            while self.taken.load(Ordering::Relaxed) != 0 {
                relax(&mut turn);
            }
            if self.taken.compare_exchange_weak(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                return;
            }
        }
    }

    #[inline]
    fn guard(&self, site: &'static Location<'static>) -> SpinGuard<'_, T> {
        held::push(self.rank, site);
        SpinGuard { lock: self, access: self.data.writing() }
    }

    /// Without locking: nobody else can have it.
    pub fn get_mut(&mut self) -> &mut T {
        self.data.get_mut()
    }
}

impl<T> Drop for SpinGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        held::pop(self.lock.rank);
        self.access.end();
        self.lock.taken.store(0, Ordering::Release);
    }
}

impl<T> Deref for SpinGuard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the guard proves that the lock is ours until it is dropped, and
        // `&self` that nobody has the `&mut T` of deref_mut.
        unsafe { self.access.get(&self.lock.data) }
    }
}
impl<T> DerefMut for SpinGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and `&mut self` makes this the only reference.
        unsafe { self.access.get_mut(&self.lock.data) }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "lock order: Pv wanted")]
    fn a_descent_panics_with_both_sites() {
        let (pv, free) = (Spin::new(Rank::Pv, ()), Spin::new(Rank::Free, ()));
        let _f = free.lock();
        let _p = pv.lock();
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "lock order: PageQueue wanted")]
    fn two_of_a_rank_panic() {
        let (a, b) = (Spin::new(Rank::PageQueue, ()), Spin::new(Rank::PageQueue, ()));
        let _a = a.lock();
        let _b = b.lock();
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "a third PageQueue")]
    fn a_second_is_allowed_and_a_third_panics() {
        let [a, b, c] = [(); 3].map(|()| Spin::new(Rank::PageQueue, ()));
        let _a = a.lock();
        let _b = b.lock_second();
        let _c = c.lock_second();
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "sleeping at")]
    fn sleeping_under_a_spin_lock_panics() {
        let l = Spin::new(Rank::Free, ());
        let _g = l.lock();
        crate::assert_may_sleep();
    }

    #[test]
    fn locks_may_be_dropped_in_any_order() {
        let (a, b) = (Spin::new(Rank::Pmap, ()), Spin::new(Rank::Pv, ()));
        let (ga, gb) = (a.lock(), b.lock());
        drop(ga);
        drop(gb);
        crate::assert_may_sleep();
        let _again = a.lock();
    }

    #[test]
    fn try_lock_goes_against_the_order_and_fails_when_taken() {
        let (pv, free) = (Spin::new(Rank::Pv, 1), Spin::new(Rank::Free, 2));
        let _f = free.lock();
        let g = pv.try_lock().expect("nobody has it");
        assert!(pv.try_lock().is_none());
        assert_eq!(*g, 1);
    }

    #[test]
    fn counts_right_on_two_threads() {
        let l = Spin::new(Rank::Free, 0u64);
        std::thread::scope(|s| {
            for _ in 0..2 {
                s.spawn(|| (0..20_000).for_each(|_| *l.lock() += 1));
            }
        });
        assert_eq!(*l.lock(), 40_000);
    }
}
