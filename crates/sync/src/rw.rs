//! The sleeping read-write lock of maps and objects (rows L01-L08, Z20, Z21).
//!
//! State word: bit 31 a writer holds it, bit 30 somebody sleeps, bit 29 a writer
//! waits (new readers hold back), below the number of readers.
//!
//! The two marks are never there without a holder: they are set on a word that has
//! one, and the last holder to leave clears them together with itself and wakes
//! everybody. Whoever still wants the lock marks again. So an open lock is zero, and
//! taking or leaving it uncontended is one locked operation.
//!
//! Not losing a wake-up: a waiter enters the event's queue first and then sets the
//! mark by read-modify-write (Release); the leaving holder's read-modify-write either
//! reads the mark, acquires the queue entry with it and wakes, or came first, and
//! then the waiter finds the lock open. No fence, and nothing asked of the host but
//! that it wakes what it can see.

use core::ops::{Deref, DerefMut};
use core::panic::Location;
use machvm_hal::{Event, Host, MaySleep};

use crate::held;
use crate::rank::Rank;
use crate::shim::{AtomicU32, AtomicU64, Ordering, Reading, UnsafeCell, Writing, fence};

const WRITER: u32 = 1 << 31;
const SLEEPERS: u32 = 1 << 30;
const WANTED: u32 = 1 << 29;
const READERS: u32 = WANTED - 1;

/// A sleeping read-write lock around a `T`.
#[derive(Debug)]
pub struct RwSleep<T> {
    rank: Rank,
    state: AtomicU32,
    /// Written by the writer only.
    version: AtomicU64,
    data: UnsafeCell<T>,
}

// SAFETY: readers share `&T` (needs Sync), a writer moves access (needs Send).
unsafe impl<T: Send + Sync> Sync for RwSleep<T> {}
// SAFETY: owning the lock is owning the `T`.
unsafe impl<T: Send> Send for RwSleep<T> {}

/// Shared access. Unlocks when dropped (L04). Not `Send`.
#[must_use]
pub struct ReadGuard<'a, T, H: Host> {
    lock: &'a RwSleep<T>,
    host: &'a H,
    access: Reading<T>,
}

/// Exclusive access. Unlocks when dropped (L02). Not `Send`.
#[must_use]
pub struct WriteGuard<'a, T, H: Host> {
    lock: &'a RwSleep<T>,
    host: &'a H,
    access: Writing<T>,
}

impl<T> RwSleep<T> {
    /// An open lock.
    #[cfg(not(loom))]
    pub const fn new(rank: Rank, data: T) -> Self {
        RwSleep { rank, state: AtomicU32::new(0), version: AtomicU64::new(0), data: UnsafeCell::new(data) }
    }
    /// An open lock.
    #[cfg(loom)]
    pub fn new(rank: Rank, data: T) -> Self {
        RwSleep { rank, state: AtomicU32::new(0), version: AtomicU64::new(0), data: UnsafeCell::new(data) }
    }

    /// What a thread that waits for this lock waits for. The lock must not move
    /// while anybody waits.
    pub fn event(&self) -> Event {
        Event(core::ptr::from_ref(&self.state).addr() as u64)
    }

    /// How often the lock was taken exclusively (lock, try, upgrade; Z20).
    ///
    /// Under the lock it is exact: equal to a value read under an earlier lock (or one
    /// more, when this lock is exclusive) proves that no writer came between. Without
    /// the lock it may be stale, and differing proves that a writer came.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Relaxed)
    }

    /// Shared, no wait (L06); may go against the order. `None` when a writer has it
    /// or waits for it.
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
        Some(ReadGuard { lock: self, host, access: self.data.reading() })
    }

    /// Exclusive, no wait (L05); may go against the order.
    #[track_caller]
    #[inline]
    pub fn try_write<'a, H: Host>(&'a self, host: &'a H) -> Option<WriteGuard<'a, T, H>> {
        // Zero is the only open state (see the module text). Acquire pairs with the
        // Release of every unlock since: readers' too, as all are read-modify-writes.
        self.state.compare_exchange(0, WRITER, Ordering::Acquire, Ordering::Relaxed).ok()?;
        held::push(self.rank, Location::caller());
        Some(self.written(host))
    }

    /// The guard of a writer that has just set WRITER.
    #[inline]
    fn written<'a, H: Host>(&'a self, host: &'a H) -> WriteGuard<'a, T, H> {
        // Under the lock, so a load and a store.
        self.version.store(self.version.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        WriteGuard { lock: self, host, access: self.data.writing() }
    }

    /// Shared (L03).
    ///
    /// => no lock of this rank or above is held.
    #[track_caller]
    pub fn read<'a, H: Host>(&'a self, host: &'a H, may: &mut MaySleep) -> ReadGuard<'a, T, H> {
        held::check(self.rank, Location::caller());
        self.read_loop(host, may)
    }

    /// Exclusive (L01).
    ///
    /// => no lock of this rank or above is held.
    #[track_caller]
    pub fn write<'a, H: Host>(&'a self, host: &'a H, may: &mut MaySleep) -> WriteGuard<'a, T, H> {
        held::check(self.rank, Location::caller());
        self.write_loop(host, may)
    }

    /// Shared, as the second lock of its rank. Which of the two comes first is the
    /// rank's rule in `LOCKING.md` and the caller's duty.
    ///
    /// => at most one lock of this rank and none above is held.
    #[track_caller]
    pub fn read_second<'a, H: Host>(&'a self, host: &'a H, may: &mut MaySleep) -> ReadGuard<'a, T, H> {
        held::check_second(self.rank, Location::caller());
        self.read_loop(host, may)
    }

    /// Exclusive, as the second lock of its rank; see [`RwSleep::read_second`].
    ///
    /// => at most one lock of this rank and none above is held.
    #[track_caller]
    pub fn write_second<'a, H: Host>(&'a self, host: &'a H, may: &mut MaySleep) -> WriteGuard<'a, T, H> {
        held::check_second(self.rank, Location::caller());
        self.write_loop(host, may)
    }

    #[track_caller]
    fn read_loop<'a, H: Host>(&'a self, host: &'a H, may: &mut MaySleep) -> ReadGuard<'a, T, H> {
        loop {
            if let Some(g) = self.try_read(host) {
                return g;
            }
            self.wait(host, may, Self::arm_read);
        }
    }

    #[track_caller]
    fn write_loop<'a, H: Host>(&'a self, host: &'a H, may: &mut MaySleep) -> WriteGuard<'a, T, H> {
        loop {
            if let Some(g) = self.try_write(host) {
                return g;
            }
            self.wait(host, may, Self::arm_wait);
        }
    }

    /// Sleeps until the state may have changed.
    #[cold]
    #[track_caller]
    fn wait<H: Host>(&self, host: &H, _may: &mut MaySleep, arm: fn(&Self) -> bool) {
        crate::assert_may_sleep();
        let ticket = host.assert_wait(self.event());
        if arm(self) {
            // Why it came back does not matter: the caller looks again.
            host.thread_block(ticket, None);
        } else {
            host.cancel_wait(ticket);
        }
    }

    /// For a caller that wants the lock exclusively, or just open, and does its own
    /// waiting. Also holds new readers back until those inside have left.
    ///
    /// => the caller **has entered** the queue of [`RwSleep::event`] (`assert_wait`).
    /// => `true`: it is taken, and the event will be woken; block.
    /// => `false`: it is open; cancel the wait and try again.
    pub fn arm_wait(&self) -> bool {
        self.arm(WRITER | READERS, SLEEPERS | WANTED)
    }

    /// For a caller that wants the lock shared and does its own waiting.
    ///
    /// => as [`RwSleep::arm_wait`], but `false` means that a reader can enter.
    pub fn arm_read(&self) -> bool {
        self.arm(WRITER | WANTED, SLEEPERS)
    }

    /// Sets `mark` while any of `closed` is set.
    fn arm(&self, closed: u32, mark: u32) -> bool {
        let mut s = self.state.load(Ordering::Relaxed);
        while s & closed != 0 {
            // Release: the queue entry made before is seen by the unlock that reads
            // this. Written even when the marks are there: a plain load could be stale.
            match self.state.compare_exchange_weak(s, s | mark, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => s = now,
            }
        }
        false
    }

    /// One reader leaves. The last one clears the marks and wakes.
    #[inline]
    fn unlock_read<H: Host>(&self, host: &H) {
        let event = self.event(); // once it is open the lock may be gone
        let mut s = self.state.load(Ordering::Relaxed);
        loop {
            let left = s - 1;
            let last = left & READERS == 0;
            let new = if last { 0 } else { left };
            // Release: a writer comes after everything that was read here.
            match self.state.compare_exchange_weak(s, new, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => {
                    if last && s & SLEEPERS != 0 {
                        wake(host, event);
                    }
                    return;
                }
                Err(now) => s = now,
            }
        }
    }

    /// The writer leaves `new` behind: nobody, or itself as a reader. Marks go, so
    /// sleepers are woken.
    #[inline]
    fn unlock_write<H: Host>(&self, host: &H, new: u32) {
        let event = self.event(); // once it is open the lock may be gone
        // Release: what was done under the lock is seen by the next holder.
        if self.state.swap(new, Ordering::Release) & SLEEPERS != 0 {
            wake(host, event);
        }
    }
}

#[cold]
fn wake<H: Host>(host: &H, event: Event) {
    // Pairs with the Release in arm(): the sleepers' queue entries are seen.
    fence(Ordering::Acquire);
    host.thread_wakeup(event);
}

impl<'a, T, H: Host> ReadGuard<'a, T, H> {
    /// Shared to exclusive, without waiting (Z21). The version rises by one.
    ///
    /// # Errors
    /// Another reader is in: the lock is then **not held at all**, and what was read
    /// under it must be looked up again.
    #[expect(clippy::result_unit_err, reason = "there is one way to fail, and nothing to tell of it")]
    #[inline]
    pub fn upgrade(mut self) -> Result<WriteGuard<'a, T, H>, ()> {
        let (lock, host) = (self.lock, self.host);
        let mut s = lock.state.load(Ordering::Relaxed);
        loop {
            if s & READERS != 1 {
                return Err(()); // dropping self unlocks
            }
            // The marks stay: who waits for this reader now waits for the writer.
            let new = (s & !READERS) | WRITER;
            // Acquire pairs with the Release of the readers that left.
            match lock.state.compare_exchange_weak(s, new, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => s = now,
            }
        }
        self.access.end();
        core::mem::forget(self); // the held entry passes to the write guard
        Ok(lock.written(host))
    }

    /// Shared to exclusive, waiting for other readers (L07).
    ///
    /// # Errors
    /// A writer came first: the lock is then **not held at all** (Z21).
    #[expect(clippy::result_unit_err, reason = "as upgrade")]
    #[track_caller]
    pub fn upgrade_wait(self, may: &mut MaySleep) -> Result<WriteGuard<'a, T, H>, ()> {
        let (lock, host, seen) = (self.lock, self.host, self.version());
        if let Ok(g) = self.upgrade() {
            return Ok(g);
        }
        let g = lock.write(host, may);
        if g.version() == seen + 1 { Ok(g) } else { Err(()) }
    }

    /// The lock's version while this guard is held.
    #[inline]
    pub fn version(&self) -> u64 {
        self.lock.version()
    }
}

impl<'a, T, H: Host> WriteGuard<'a, T, H> {
    /// Exclusive to shared, never fails (L08). The version stays.
    #[inline]
    pub fn downgrade(mut self) -> ReadGuard<'a, T, H> {
        let (lock, host) = (self.lock, self.host);
        self.access.end();
        core::mem::forget(self); // the held entry passes to the read guard
        lock.unlock_write(host, 1);
        ReadGuard { lock, host, access: lock.data.reading() }
    }
    /// The lock's version while this guard is held.
    #[inline]
    pub fn version(&self) -> u64 {
        self.lock.version()
    }
}

impl<T, H: Host> Drop for ReadGuard<'_, T, H> {
    #[inline]
    fn drop(&mut self) {
        held::pop(self.lock.rank);
        self.access.end();
        self.lock.unlock_read(self.host);
    }
}
impl<T, H: Host> Drop for WriteGuard<'_, T, H> {
    #[inline]
    fn drop(&mut self) {
        held::pop(self.lock.rank);
        self.access.end();
        self.lock.unlock_write(self.host, 0);
    }
}

impl<T, H: Host> Deref for ReadGuard<'_, T, H> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: while a reader is counted nobody writes.
        unsafe { self.access.get(&self.lock.data) }
    }
}
impl<T, H: Host> Deref for WriteGuard<'_, T, H> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the writer bit is ours, and `&self` says that nobody has the
        // `&mut T` of deref_mut.
        unsafe { self.access.get(&self.lock.data) }
    }
}
impl<T, H: Host> DerefMut for WriteGuard<'_, T, H> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the writer bit is ours and `&mut self` makes this the only reference.
        unsafe { self.access.get_mut(&self.lock.data) }
    }
}
