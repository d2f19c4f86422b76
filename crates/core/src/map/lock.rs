//! The lock family (L01 to L16).
//!
//! The guards come from [`machvm_sync`]; dropping one unlocks (L02, L04). The
//! timestamp of a map is the lock's version: it rises by one with every exclusive
//! acquisition (lock, try, upgrade) and never otherwise (Z20).
//!
//! A guard is the proof of a lock (L09). A map has no count of those who work on it
//! unlocked (L12): the entries they work on are marked, and who must not meet them waits
//! for the marks (L13, L16). No lock is recursive (L14): that is how Z22 comes about.

use machvm_hal::{Event, Host, MaySleep, Va, VaRange, Woken};
use machvm_sync::{ReadGuard, WriteGuard};

use super::{Map, MapInner};
use crate::platform::Platform;

/// A map locked exclusively.
pub(super) type Write<'m, P> = WriteGuard<'m, MapInner, <P as Platform>::Host>;

impl<P: Platform> Map<'_, P> {
    /// Exclusive (L01 `vm_map_lock`).
    ///
    /// => no lock is held.
    pub fn lock(&self, may: &mut MaySleep) -> WriteGuard<'_, MapInner, P::Host> {
        self.lock_word().write(self.vm.host(), may)
    }
    /// Shared (L03 `vm_map_lock_read`).
    ///
    /// => no lock is held.
    pub fn lock_read(&self, may: &mut MaySleep) -> ReadGuard<'_, MapInner, P::Host> {
        self.lock_word().read(self.vm.host(), may)
    }
    /// Exclusive, without waiting (L05).
    pub fn trylock(&self) -> Option<WriteGuard<'_, MapInner, P::Host>> {
        self.lock_word().try_write(self.vm.host())
    }
    /// Shared, without waiting (L06).
    pub fn trylock_read(&self) -> Option<ReadGuard<'_, MapInner, P::Host>> {
        self.lock_word().try_read(self.vm.host())
    }
    /// Shared to exclusive (L07). Waits for other readers.
    ///
    /// # Errors
    /// A writer came first: the map is then **not locked at all** (Z21); what was
    /// looked up before must be looked up again.
    #[expect(clippy::result_unit_err, reason = "there is one way to fail, and nothing to tell of it")]
    pub fn lock_upgrade<'m>(
        &self,
        guard: ReadGuard<'m, MapInner, P::Host>,
        may: &mut MaySleep,
    ) -> Result<WriteGuard<'m, MapInner, P::Host>, ()> {
        guard.upgrade_wait(may)
    }
    /// Exclusive to shared; never fails (L08). The timestamp stays.
    pub fn lock_downgrade<'m>(
        &self,
        guard: WriteGuard<'m, MapInner, P::Host>,
    ) -> ReadGuard<'m, MapInner, P::Host> {
        guard.downgrade()
    }
    /// The timestamp (L15 `vm_map_version`). Exact under the lock.
    pub fn timestamp(&self) -> u64 {
        self.lock_word().version()
    }
    /// Shared, if nobody had the map exclusively since it had this timestamp (L15
    /// `vm_map_verify`; dropping the guard is `vm_map_verify_done`).
    ///
    /// => no lock is held; on `None` the map is not locked.
    pub fn verify(&self, timestamp: u64, may: &mut MaySleep) -> Option<ReadGuard<'_, MapInner, P::Host>> {
        let guard = self.lock_read(may);
        (guard.version() == timestamp).then_some(guard)
    }

    /// Unlocks and sleeps until [`Map::wakeup`], or until the deadline in nanoseconds of
    /// the host's clock (L10). A wake-up after the guard was given is not lost (Z24).
    ///
    /// => on return the map is not locked.
    pub fn unlock_and_wait(
        &self,
        guard: WriteGuard<'_, MapInner, P::Host>,
        deadline_ns: Option<u64>,
        _may: &mut MaySleep,
    ) -> Woken {
        let host = self.vm.host();
        let ticket = host.assert_wait(self.room());
        drop(guard);
        machvm_sync::assert_may_sleep();
        host.thread_block(ticket, deadline_ns)
    }
    /// Wakes everybody in [`Map::unlock_and_wait`] (L11). What they wait for was changed
    /// under the lock, which may or may not be held still.
    pub fn wakeup(&self) {
        self.vm.host().thread_wakeup(self.room());
    }
    /// Not the lock's own event: that is woken with every unlock.
    pub(super) fn room(&self) -> Event {
        Event(self.lock_word().event().0 + 1)
    }
    /// Waits until no entry is being wired or unwired (L13).
    ///
    /// => no lock is held, so the next wiring may begin before this returns.
    pub fn wait_busy(&self, may: &mut MaySleep) {
        // No entry is reserved, so this cannot fail.
        if let Ok(edit) = self.edit_range(self.bounds, 0, may) {
            edit.done(may);
        }
    }

    /// Is `[start, end)` inside the map (M06 `vm_map_range_valid`)? Bounds that are equal are
    /// valid.
    pub fn range_valid(&self, start: Va, end: Va) -> bool {
        start <= end && start >= self.min() && end <= self.max()
    }
    /// The part of `range` inside the map (`VM_MAP_RANGE_CHECK`, Z10, M70).
    pub fn range_check(&self, range: VaRange) -> Option<VaRange> {
        range.intersect(self.bounds)
    }
}
