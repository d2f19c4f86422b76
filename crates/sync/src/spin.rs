//! The ranked spin lock.

use core::ops::{Deref, DerefMut};
use core::panic::Location;

use crate::held;
use crate::rank::Rank;
use crate::shim::{AtomicU32, Ordering, UnsafeCell, relax};

/// A spin lock around a `T`. Not recursive.
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
    // Not Send: the held list is the thread's.
    _not_send: core::marker::PhantomData<*const ()>,
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
        let site = Location::caller();
        held::check(self.rank, site);
        let mut turn = 0;
        // Acquire pairs with the Release in drop: what the last holder wrote is seen.
        while self.taken.compare_exchange_weak(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
            while self.taken.load(Ordering::Relaxed) != 0 {
                relax(&mut turn);
            }
        }
        held::push(self.rank, site);
        SpinGuard { lock: self, _not_send: core::marker::PhantomData }
    }

    /// Takes the lock if it is free; may go against the order.
    #[track_caller]
    pub fn try_lock(&self) -> Option<SpinGuard<'_, T>> {
        self.taken.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).ok()?;
        held::push(self.rank, Location::caller());
        Some(SpinGuard { lock: self, _not_send: core::marker::PhantomData })
    }

    /// Without locking: nobody else can have it.
    #[cfg(not(loom))]
    pub fn get_mut(&mut self) -> &mut T {
        self.data.get_mut()
    }
}

impl<T> Drop for SpinGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        held::pop(self.lock.rank);
        self.lock.taken.store(0, Ordering::Release);
    }
}

#[cfg(not(loom))]
impl<T> Deref for SpinGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the guard proves that the lock is ours until it is dropped.
        unsafe { &*self.lock.data.get_mut_ptr() }
    }
}
#[cfg(not(loom))]
impl<T> DerefMut for SpinGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and `&mut self` makes this the only reference.
        unsafe { &mut *self.lock.data.get_mut_ptr() }
    }
}

#[cfg(all(test, feature = "std", not(loom)))]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "lock order: Pv wanted")]
    fn a_descent_panics_with_both_sites() {
        let (pv, free) = (Spin::new(Rank::Pv, ()), Spin::new(Rank::Free, ()));
        let _f = free.lock();
        let _p = pv.lock();
    }

    #[test]
    #[should_panic(expected = "sleeping at")]
    fn sleeping_under_a_spin_lock_panics() {
        let l = Spin::new(Rank::Free, ());
        let _g = l.lock();
        crate::assert_may_sleep();
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
