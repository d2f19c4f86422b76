//! What was removed and may still be cached.
//!
//! A mapping leaves its page's list as a *tombstone* that names the epoch of the
//! gather under which it went. The epoch is over when that gather is finished: then
//! the tombstone is nothing. Until then the page does not look unmapped, and whoever
//! needs it unmapped flushes everything itself.
//!
//! A slot counts up at opening and at closing, so it is odd while open and an epoch
//! is (slot, odd count). More gathers open at once than slots: the last ones share
//! [`Epoch::NEVER`], which is never over; that costs flushes and nothing else.

use core::num::NonZeroU64;

use machvm_hal::Gather;
use machvm_sync::atomic::{AtomicU64, Ordering};

/// Gathers open at once that are told apart: one a CPU.
const SLOTS: u64 = if cfg!(loom) { 2 } else { 64 };

/// Names a gather's life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Epoch(NonZeroU64);

impl Epoch {
    /// Not over until its tombstones are taken over by another.
    pub(crate) const NEVER: Epoch = Epoch(NonZeroU64::MIN);

    #[inline]
    pub(crate) fn raw(self) -> u64 {
        self.0.get()
    }
    /// The inverse of [`Epoch::raw`]; zero names none.
    #[inline]
    pub(crate) fn from_raw(raw: u64) -> Option<Self> {
        NonZeroU64::new(raw).map(Epoch)
    }
}

/// The slots.
#[derive(Debug)]
pub(crate) struct Epochs {
    slots: [AtomicU64; SLOTS as usize],
    /// Slots below this may have been open. It grows before the slot is opened, and hardly ever: a CPU begins its
    /// search with its own number.
    high: AtomicU64,
}

impl Epochs {
    pub(crate) fn new() -> Self {
        Epochs { slots: core::array::from_fn(|_| AtomicU64::new(0)), high: AtomicU64::new(0) }
    }

    /// The gather's epoch; opened now if this is the first thing taken away under it.
    #[inline]
    pub(crate) fn of(&self, g: &mut Gather, cpu: usize) -> Epoch {
        if let Some(e) = g.epoch() {
            return Epoch(e);
        }
        let e = self.open(cpu);
        g.set_epoch(e.0);
        e
    }

    fn open(&self, cpu: usize) -> Epoch {
        for i in 0..SLOTS {
            let at = (cpu as u64 + i) % SLOTS;
            let slot = &self.slots[at as usize];
            let count = slot.load(Ordering::Relaxed);
            if count & 1 == 0 && at >= self.high.load(Ordering::Relaxed) {
                // Before the slot: who looks after the tables were written finds both.
                self.high.fetch_max(at + 1, Ordering::AcqRel);
            }
            // Acquire: the tables are written after the slot is seen open by others
            // (Release, and they read it after the entry).
            if count & 1 == 0
                && slot.compare_exchange(count, count + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok()
                && let Some(e) = NonZeroU64::new((count + 1) << 6 | at)
            {
                return Epoch(e);
            }
        }
        Epoch::NEVER
    }

    /// The gather is flushed.
    #[inline]
    pub(crate) fn close(&self, e: NonZeroU64) {
        if Epoch(e) == Epoch::NEVER {
            return;
        }
        let slot = &self.slots[(e.get() % SLOTS) as usize];
        // Release: who sees it closed sees the flush done. Nobody else writes an open slot.
        slot.store((e.get() >> 6) + 1, Ordering::Release);
    }

    /// Is everything that went under `e` out of every TLB?
    #[inline]
    pub(crate) fn is_over(&self, e: Epoch) -> bool {
        e != Epoch::NEVER && self.slots[(e.raw() % SLOTS) as usize].load(Ordering::Acquire) != e.raw() >> 6
    }

    /// Is any gather open besides `own`? Then rights that are gone from the tables may
    /// still be cached.
    pub(crate) fn others_open(&self, own: Option<NonZeroU64>) -> bool {
        let mine = own.map_or(u64::MAX, |e| e.get() % SLOTS);
        let used = &self.slots[..self.high.load(Ordering::Acquire).min(SLOTS) as usize];
        used.iter().zip(0..).any(|(s, i)| i != mine && s.load(Ordering::Acquire) & 1 != 0)
            || own.is_some_and(|e| Epoch(e) == Epoch::NEVER)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn an_epoch_is_over_when_it_is_closed_and_not_before() {
        let e = Epochs::new();
        let a = e.open(3);
        let b = e.open(3);
        assert!(a != b && !e.is_over(a) && !e.is_over(b));
        assert!(e.others_open(Some(a.0)));
        e.close(b.0);
        assert!(e.is_over(b) && !e.is_over(a));
        assert!(!e.others_open(Some(a.0)) && e.others_open(None));
        e.close(a.0);
        let again = e.open(3);
        assert!(e.is_over(a) && !e.is_over(again) && again != a);
    }

    #[test]
    fn more_gathers_than_slots_share_one_that_never_ends() {
        let e = Epochs::new();
        let all: Vec<_> = (0..SLOTS).map(|i| e.open(i as usize)).collect();
        assert!(all.iter().all(|x| *x != Epoch::NEVER));
        let more = e.open(0);
        assert_eq!(more, Epoch::NEVER);
        e.close(more.0);
        assert!(!e.is_over(more));
        assert!(e.others_open(Some(more.0)));
    }
}
