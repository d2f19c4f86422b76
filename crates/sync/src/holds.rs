//! Holds: who keeps a frame although its owner may let it go (F04, Z60).
//!
//! The owner takes holds for others while it owns the page. When it has no more use
//! for the page and somebody holds it, it abandons the page to the holders, and the
//! last of them frees it. A page that nobody holds is its owner's to free, without a
//! locked instruction.

use crate::shim::{AtomicU32, Ordering};

/// The owner has let go.
const ABANDONED: u32 = 1 << 31;

/// The number of holds, and whether the owner is gone.
#[derive(Debug)]
#[repr(transparent)]
pub struct Holds(AtomicU32);

impl Default for Holds {
    fn default() -> Self {
        Holds::new()
    }
}

impl Holds {
    /// None.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Holds(AtomicU32::new(0))
    }
    /// None.
    #[cfg(loom)]
    pub fn new() -> Self {
        Holds(AtomicU32::new(0))
    }

    /// How many there are, a moment ago.
    #[inline]
    pub fn count(&self) -> u32 {
        // Acquire pairs with the Release of put: who finds no hold finds what the
        // holders did.
        self.0.load(Ordering::Acquire) & !ABANDONED
    }
    /// Only holders keep it.
    pub fn is_abandoned(&self) -> bool {
        self.0.load(Ordering::Acquire) & ABANDONED != 0
    }

    /// So many more.
    ///
    /// => the caller owns the page, or has a hold on it.
    #[inline]
    pub fn get(&self, n: u32) {
        // Relaxed: what the caller has keeps the page, and orders nothing.
        let was = self.0.fetch_add(n, Ordering::Relaxed);
        debug_assert!((was & !ABANDONED) + n < ABANDONED, "too many holds");
    }

    /// One more, if somebody holds it and the owner has not let go.
    #[must_use]
    pub fn try_get(&self) -> bool {
        let mut n = self.0.load(Ordering::Relaxed);
        while n != 0 && n & ABANDONED == 0 {
            // Relaxed: the hold that is there already keeps the page.
            match self.0.compare_exchange_weak(n, n + 1, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => n = now,
            }
        }
        false
    }

    /// So many less. `true` exactly once, for the last hold on an abandoned page: the
    /// caller frees it, and sees everything that the owner and the other holders did.
    #[must_use]
    #[inline]
    pub fn put(&self, n: u32) -> bool {
        // Release: what was done under this hold comes before the end. Acquire pairs
        // with the Release of the other puts and of abandon.
        let was = self.0.fetch_sub(n, Ordering::AcqRel);
        debug_assert!(was & !ABANDONED >= n, "a hold was dropped twice");
        n != 0 && was == ABANDONED | n
    }

    /// The owner lets go. `true`: nobody holds it (any more), the caller frees it.
    ///
    /// => the caller owns the page: no hold is taken meanwhile but by holders.
    #[must_use]
    pub fn abandon(&self) -> bool {
        // As put.
        self.0.fetch_or(ABANDONED, Ordering::AcqRel) == 0
    }

    /// The page is free: it is nobody's.
    ///
    /// => [`Holds::put`] or [`Holds::abandon`] said `true` to the caller.
    pub fn reset(&self) {
        debug_assert_eq!(self.count(), 0, "a held page is freed");
        // Relaxed: whoever owns the page next gets it through the free list.
        self.0.store(0, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn ends_with_the_last_hold_or_the_owner() {
        let h = Holds::new();
        assert!(!h.try_get(), "nobody holds it");
        h.get(2);
        assert!(h.try_get());
        assert!(!h.put(1) && h.count() == 2);
        assert!(!h.abandon(), "held");
        assert!(!h.try_get(), "abandoned");
        assert!(!h.put(1) && h.put(1) && h.is_abandoned());
        h.reset();
        assert!(!h.put(0) && h.abandon(), "not held");
        h.reset();
        assert!(!h.is_abandoned());
    }
}
