//! A lock that sleeps, for everything of the kernel's that is not the VM's.

use machvm_hal::MaySleep;
use machvm_sync::{Rank, RwSleep, WriteGuard};

use crate::embed::{Kernel, the_vm};

/// A sleeping lock.
pub(crate) struct Mutex<T>(RwSleep<T>);

/// Holds it.
pub(crate) type Guard<'a, T> = WriteGuard<'a, T, Kernel>;

impl<T> Mutex<T> {
    pub(crate) const fn new(data: T) -> Self {
        Mutex(RwSleep::new(Rank::Map, data))
    }
    /// => no spin lock is held.
    pub(crate) fn lock(&self) -> Guard<'_, T> {
        self.0.write(the_vm().host(), &mut MaySleep::claim())
    }
}
