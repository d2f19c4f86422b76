//! The sleeping read-write lock of maps and objects.
//!
//! State word: bit 31 a writer holds it, bit 30 somebody sleeps, bit 29 a writer
//! waits (new readers hold back), below the number of readers.

use core::ops::{Deref, DerefMut};
use core::panic::Location;
use machvm_hal::{Event, Host, MaySleep};

use crate::held;
use crate::rank::Rank;
use crate::shim::{AtomicU32, AtomicU64, Ordering, UnsafeCell};

const WRITER: u32 = 1 << 31;
const SLEEPERS: u32 = 1 << 30;
const WANTED: u32 = 1 << 29;
const READERS: u32 = WANTED - 1;

/// A sleeping read-write lock around a `T`.
#[derive(Debug)]
pub struct RwSleep<T> {
    rank: Rank,
    state: AtomicU32,
    version: AtomicU64,
    data: UnsafeCell<T>,
}

// SAFETY: readers share `&T` (needs Sync), a writer moves access (needs Send).
unsafe impl<T: Send + Sync> Sync for RwSleep<T> {}
// SAFETY: owning the lock is owning the `T`.
unsafe impl<T: Send> Send for RwSleep<T> {}

/// Shared access. Unlocks when dropped.
#[must_use]
pub struct ReadGuard<'a, T, H: Host> {
    lock: &'a RwSleep<T>,
    host: &'a H,
    _not_send: core::marker::PhantomData<*const ()>,
}

/// Exclusive access. Unlocks when dropped.
#[must_use]
pub struct WriteGuard<'a, T, H: Host> {
    lock: &'a RwSleep<T>,
    host: &'a H,
    _not_send: core::marker::PhantomData<*const ()>,
}

impl<T> RwSleep<T> {
    /// An open lock.
    pub fn new(rank: Rank, data: T) -> Self {
        RwSleep {
            rank,
            state: AtomicU32::new(0),
            version: AtomicU64::new(0),
            data: UnsafeCell::new(data),
        }
    }

    /// What a thread that waits for this lock waits for.
    pub fn event(&self) -> Event {
        Event(core::ptr::from_ref(&self.state).addr() as u64)
    }

    /// How often the lock was taken exclusively (lock, try, upgrade; Z20).
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Relaxed)
    }

    /// Shared, no wait (L06). `None` when a writer has it or waits for it.
    #[track_caller]
    #[inline]
    pub fn try_read<'a, H: Host>(&'a self, host: &'a H) -> Option<ReadGuard<'a, T, H>> {
        let mut s = self.state.load(Ordering::Relaxed);
        loop {
            if s & (WRITER | WANTED) != 0 {
                return None;
            }
            // Acquire pairs with the Release of the last writer's unlock.
            match self.state.compare_exchange_weak(s, s + 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => s = now,
            }
        }
        held::push(self.rank, Location::caller());
        Some(ReadGuard { lock: self, host, _not_send: core::marker::PhantomData })
    }

    /// Exclusive, no wait (L05).
    #[track_caller]
    #[inline]
    pub fn try_write<'a, H: Host>(&'a self, host: &'a H) -> Option<WriteGuard<'a, T, H>> {
        let mut s = self.state.load(Ordering::Relaxed);
        loop {
            if s & (WRITER | READERS) != 0 {
                return None;
            }
            let new = (s & SLEEPERS) | WRITER;
            match self.state.compare_exchange_weak(s, new, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => s = now,
            }
        }
        self.version.fetch_add(1, Ordering::Relaxed);
        held::push(self.rank, Location::caller());
        Some(WriteGuard { lock: self, host, _not_send: core::marker::PhantomData })
    }

    /// Shared (L03).
    ///
    /// => no lock of this rank or above is held.
    #[track_caller]
    pub fn read<'a, H: Host>(&'a self, host: &'a H, may: &mut MaySleep) -> ReadGuard<'a, T, H> {
        held::check(self.rank, Location::caller());
        loop {
            if let Some(g) = self.try_read(host) {
                return g;
            }
            self.wait(host, may, 0);
        }
    }

    /// Exclusive (L01).
    ///
    /// => no lock of this rank or above is held.
    #[track_caller]
    pub fn write<'a, H: Host>(&'a self, host: &'a H, may: &mut MaySleep) -> WriteGuard<'a, T, H> {
        held::check(self.rank, Location::caller());
        loop {
            if let Some(g) = self.try_write(host) {
                return g;
            }
            self.wait(host, may, WANTED);
        }
    }

    /// Sleeps until the state may have changed. `mark` is set while waiting.
    fn wait<H: Host>(&self, host: &H, _may: &mut MaySleep, mark: u32) {
        crate::assert_may_sleep();
        let ticket = host.assert_wait(self.event());
        // After assert_wait: a holder that unlocks from here on sees SLEEPERS and
        // wakes the queue this thread is already in.
        let mut s = self.state.load(Ordering::Relaxed);
        loop {
            let free = if mark == WANTED { s & (WRITER | READERS) == 0 } else { s & (WRITER | WANTED) == 0 };
            if free {
                host.cancel_wait(ticket);
                return;
            }
            match self.state.compare_exchange_weak(
                s,
                s | SLEEPERS | mark,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => break,
                Err(now) => s = now,
            }
        }
        host.thread_block(ticket, None);
    }

    /// Registers the caller's interest for a later wait on [`RwSleep::event`]:
    /// `true` when the lock is taken and its release will wake that event.
    pub fn arm_wait(&self) -> bool {
        let mut s = self.state.load(Ordering::Relaxed);
        loop {
            if s & (WRITER | READERS | WANTED) == 0 {
                return false;
            }
            match self.state.compare_exchange_weak(s, s | SLEEPERS, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => s = now,
            }
        }
    }

    /// Takes away `bits`, and when that opened the lock, wakes every sleeper. WANTED
    /// goes with the sleepers: whoever still wants it marks it again.
    fn unlock<H: Host>(&self, host: &H, dec: u32) {
        let mut s = self.state.load(Ordering::Relaxed);
        loop {
            let left = s - dec;
            let open = left & (WRITER | READERS) == 0;
            let new = if open { 0 } else { left };
            // Release: what was done under the lock is seen by the next holder.
            match self.state.compare_exchange_weak(s, new, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => {
                    if open && s & SLEEPERS != 0 {
                        host.thread_wakeup(self.event());
                    }
                    return;
                }
                Err(now) => s = now,
            }
        }
    }
}

impl<'a, T, H: Host> ReadGuard<'a, T, H> {
    /// Shared to exclusive (L07, Z21).
    ///
    /// # Errors
    /// Another reader is in, or a writer came first: the lock is then **not held at
    /// all**.
    pub fn upgrade(self) -> Result<WriteGuard<'a, T, H>, ()> {
        let (lock, host) = (self.lock, self.host);
        let mut s = lock.state.load(Ordering::Relaxed);
        loop {
            if s & READERS != 1 {
                return Err(()); // dropping self unlocks
            }
            let new = (s & SLEEPERS) | WRITER;
            match lock.state.compare_exchange_weak(s, new, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => s = now,
            }
        }
        lock.version.fetch_add(1, Ordering::Relaxed);
        core::mem::forget(self); // the held entry passes to the write guard
        Ok(WriteGuard { lock, host, _not_send: core::marker::PhantomData })
    }
    /// The lock's version while this guard is held.
    pub fn version(&self) -> u64 {
        self.lock.version()
    }
}

impl<'a, T, H: Host> WriteGuard<'a, T, H> {
    /// Exclusive to shared, never fails (L08).
    pub fn downgrade(self) -> ReadGuard<'a, T, H> {
        let (lock, host) = (self.lock, self.host);
        let mut s = lock.state.load(Ordering::Relaxed);
        loop {
            match lock.state.compare_exchange_weak(s, 1, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => s = now,
            }
        }
        if s & SLEEPERS != 0 {
            host.thread_wakeup(lock.event());
        }
        core::mem::forget(self);
        ReadGuard { lock, host, _not_send: core::marker::PhantomData }
    }
    /// The lock's version while this guard is held.
    pub fn version(&self) -> u64 {
        self.lock.version()
    }
}

impl<T, H: Host> Drop for ReadGuard<'_, T, H> {
    #[inline]
    fn drop(&mut self) {
        held::pop(self.lock.rank);
        self.lock.unlock(self.host, 1);
    }
}
impl<T, H: Host> Drop for WriteGuard<'_, T, H> {
    #[inline]
    fn drop(&mut self) {
        held::pop(self.lock.rank);
        self.lock.unlock(self.host, WRITER);
    }
}

#[cfg(not(loom))]
impl<T, H: Host> Deref for ReadGuard<'_, T, H> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: while a reader is counted nobody writes.
        unsafe { &*self.lock.data.get_mut_ptr() }
    }
}
#[cfg(not(loom))]
impl<T, H: Host> Deref for WriteGuard<'_, T, H> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the writer bit is ours.
        unsafe { &*self.lock.data.get_mut_ptr() }
    }
}
#[cfg(not(loom))]
impl<T, H: Host> DerefMut for WriteGuard<'_, T, H> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the writer bit is ours and `&mut self` makes this the only reference.
        unsafe { &mut *self.lock.data.get_mut_ptr() }
    }
}
