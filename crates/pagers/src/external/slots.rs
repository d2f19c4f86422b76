//! Which slots of the pager's part of the shared memory are free.

use std::sync::{Mutex, PoisonError};

/// What a slot holds: nothing, something being sent, or the data for a place of an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Use {
    Free,
    Taken,
    Lent(u64, u64),
}

/// See the module text.
#[derive(Debug)]
pub(super) struct Slots(Mutex<Vec<Use>>);

impl Slots {
    pub(super) fn new(slots: u64) -> Slots {
        Slots(Mutex::new(vec![Use::Free; slots as usize]))
    }
    fn with<R>(&self, f: impl FnOnce(&mut Vec<Use>) -> R) -> R {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
    /// A free one.
    pub(super) fn take(&self) -> Option<u64> {
        self.with(|all| {
            let i = all.iter().position(|u| *u == Use::Free)?;
            all[i] = Use::Taken;
            Some(i as u64)
        })
    }
    /// It is the kernel's until it says that it has the data.
    pub(super) fn lend(&self, object: u64, offset: u64, slot: u64) {
        self.with(|all| all[slot as usize] = Use::Lent(object, offset));
    }
    /// It was not used.
    pub(super) fn give(&self, slot: u64) {
        self.with(|all| all[slot as usize] = Use::Free);
    }
    /// The kernel has the data for that place.
    pub(super) fn returned(&self, object: u64, offset: u64) {
        self.with(|all| {
            if let Some(u) = all.iter_mut().find(|u| **u == Use::Lent(object, offset)) {
                *u = Use::Free;
            }
        });
    }
}
