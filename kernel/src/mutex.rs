//! A lock that sleeps, for everything of the kernel's that is not the VM's.

use machvm_hal::MaySleep;
use machvm_sync::{Rank, ReadGuard, RwSleep, WriteGuard};

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

/// A sleeping lock without contents that many may share, or one have alone.
pub(crate) struct Gate(RwSleep<()>);

impl Gate {
    pub(crate) const fn new() -> Self {
        Gate(RwSleep::new(Rank::Map, ()))
    }
    /// Shared. => as [`Mutex::lock`].
    pub(crate) fn pass(&self) -> ReadGuard<'_, (), Kernel> {
        self.0.read(the_vm().host(), &mut MaySleep::claim())
    }
    /// Alone. => as [`Mutex::lock`].
    pub(crate) fn close(&self) -> WriteGuard<'_, (), Kernel> {
        self.0.write(the_vm().host(), &mut MaySleep::claim())
    }
}
