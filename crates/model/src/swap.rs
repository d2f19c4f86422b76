//! Swap in memory.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use machvm_hal::{PAGE_SIZE, Swap, SwapError, SwapSlot};

use crate::host::ModelHost;
use crate::inject::{Injector, Point};

type Page = Box<[u8; PAGE_SIZE as usize]>;

#[derive(Debug)]
struct Slots {
    next: u64,
    kept: HashMap<u64, Page>,
}

/// A store of at most so many pages. Panics at a slot that is freed twice or read
/// after it was freed.
#[derive(Debug)]
pub struct MemSwap {
    slots: Mutex<Slots>,
    limit: usize,
    host: Arc<ModelHost>,
    inject: &'static Injector,
}

impl MemSwap {
    pub(crate) fn new(limit: usize, host: Arc<ModelHost>, inject: &'static Injector) -> Self {
        MemSwap { slots: Mutex::new(Slots { next: 1, kept: HashMap::new() }), limit, host, inject }
    }
    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Pages kept now.
    pub fn kept(&self) -> usize {
        self.lock().kept.len()
    }
}

impl Swap for MemSwap {
    fn put(&self, data: &[u8; PAGE_SIZE as usize]) -> Result<SwapSlot, SwapError> {
        self.host.preempt();
        if self.inject.fails(Point::SwapPut) {
            return Err(SwapError::Full);
        }
        let mut s = self.lock();
        if s.kept.len() >= self.limit {
            return Err(SwapError::Full);
        }
        let n = s.next;
        s.next += 1;
        s.kept.insert(n, Box::new(*data));
        NonZeroU64::new(n).map(SwapSlot).ok_or(SwapError::Full)
    }

    fn get(&self, slot: SwapSlot, data: &mut [u8; PAGE_SIZE as usize]) -> Result<(), SwapError> {
        self.host.preempt();
        if self.inject.fails(Point::SwapGet) {
            return Err(SwapError::Lost);
        }
        let s = self.lock();
        match s.kept.get(&slot.0.get()) {
            Some(page) => *data = **page,
            None => panic!("{slot:?} is read but was freed"),
        }
        Ok(())
    }

    fn free(&self, slot: SwapSlot) {
        let gone = self.lock().kept.remove(&slot.0.get());
        assert!(gone.is_some(), "{slot:?} is freed twice");
    }
}
