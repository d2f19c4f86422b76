//! The lock family (L01 to L09, L15).
//!
//! The guards come from [`machvm_sync`]; dropping one unlocks (L02, L04). The
//! timestamp of a map is the lock's version: it rises by one with every exclusive
//! acquisition (lock, try, upgrade) and never otherwise (Z20).

use machvm_hal::MaySleep;
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
    /// The timestamp (L15). Exact under the lock.
    pub fn timestamp(&self) -> u64 {
        self.lock_word().version()
    }
}
