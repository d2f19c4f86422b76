//! Sections without interrupts, and spin locks that are taken with interrupts off.

use core::ops::{Deref, DerefMut};

use machvm_sync::{Rank, Spin, SpinGuard};

use crate::arch;

/// Interrupts are off on this CPU while it lives, so the thread stays here too.
pub(crate) struct NoInterrupts {
    were_on: bool,
    _here: core::marker::PhantomData<*mut ()>,
}

impl NoInterrupts {
    pub(crate) fn new() -> Self {
        NoInterrupts { were_on: arch::interrupts_off(), _here: core::marker::PhantomData }
    }
}

impl Drop for NoInterrupts {
    fn drop(&mut self) {
        arch::interrupts_restore(self.were_on);
    }
}

/// A spin lock that is taken with interrupts off.
pub(crate) struct IrqSpin<T>(Spin<T>);

/// Holds it. The lock goes first, then interrupts come on.
pub(crate) struct IrqGuard<'a, T> {
    guard: SpinGuard<'a, T>,
    _off: NoInterrupts,
}

impl<T> IrqSpin<T> {
    pub(crate) const fn new(rank: Rank, data: T) -> Self {
        IrqSpin(Spin::new(rank, data))
    }
    pub(crate) fn lock(&self) -> IrqGuard<'_, T> {
        let off = NoInterrupts::new();
        IrqGuard { guard: self.0.lock(), _off: off }
    }
}

impl<T> Deref for IrqGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.guard
    }
}
impl<T> DerefMut for IrqGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}
