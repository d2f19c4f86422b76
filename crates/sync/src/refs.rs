//! A reference count that ends exactly once.
//!
//! A count that is reached through a type-stable handle may be found at zero, or
//! recycled: whoever holds no reference takes one with [`Refs::try_get`], which never
//! raises zero (Z38), and then re-checks the identity of what it found.

use crate::shim::{AtomicU32, Ordering, fence};

/// The number of references.
#[derive(Debug)]
#[repr(transparent)]
pub struct Refs(AtomicU32);

impl Refs {
    /// `n` references; a free object of a slab has none.
    #[cfg(not(loom))]
    pub const fn new(n: u32) -> Self {
        Refs(AtomicU32::new(n))
    }
    /// `n` references; a free object of a slab has none.
    #[cfg(loom)]
    pub fn new(n: u32) -> Self {
        Refs(AtomicU32::new(n))
    }

    /// The number, a moment ago.
    pub fn count(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Brings a dead object to life with one reference.
    ///
    /// => the count is zero and the caller alone allocates the object; everything
    ///    that its finder reads was written before this call.
    pub fn revive(&self) {
        debug_assert_eq!(self.count(), 0, "revived a live object");
        // Release pairs with the Acquire of try_get.
        self.0.store(1, Ordering::Release);
    }

    /// One more, for a caller that has one already.
    #[inline]
    pub fn get(&self) {
        // Relaxed: the caller's own reference keeps the object, and orders nothing.
        let was = self.0.fetch_add(1, Ordering::Relaxed);
        debug_assert!(was != 0 && was != u32::MAX, "a reference out of nothing");
    }

    /// One more, unless there is none.
    #[must_use]
    #[inline]
    pub fn try_get(&self) -> bool {
        let mut n = self.0.load(Ordering::Relaxed);
        while n != 0 {
            // Acquire pairs with the Release of revive.
            match self.0.compare_exchange_weak(n, n + 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => n = now,
            }
        }
        false
    }

    /// One less. `true` exactly once: the caller destroys the object, and sees
    /// everything that the other references' holders did to it.
    #[must_use]
    #[inline]
    pub fn put(&self) -> bool {
        // Release: what was done under this reference comes before the end.
        let was = self.0.fetch_sub(1, Ordering::Release);
        debug_assert!(was != 0, "a reference was dropped twice");
        if was != 1 {
            return false;
        }
        fence(Ordering::Acquire); // pairs with the Release of the other puts
        true
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn ends_once_and_is_not_raised_from_zero() {
        let r = Refs::new(1);
        r.get();
        assert!(r.try_get());
        assert_eq!(r.count(), 3);
        assert!(!r.put() && !r.put() && r.put());
        assert!(!r.try_get(), "z38: a dead object stays dead");
        assert_eq!(r.count(), 0);
        r.revive();
        assert!(r.try_get());
    }
}
