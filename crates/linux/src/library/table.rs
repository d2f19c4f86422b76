//! From an address to the task whose window it lies in, without a lock: asked in the
//! handler of every fault.
//!
//! Windows are aligned to a granule, and the table has one word for each granule of
//! user space (1 MiB of zero pages, of which a page is touched for 512 GiB of windows).
//! A word names a slot; slots are never freed, only used again, so that a handler that
//! read the word a moment ago may still count itself into the slot and find out there
//! that the task is gone.

use std::ptr;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64};
use std::sync::{Mutex, PoisonError};

use super::task::Core;

/// Windows start at multiples of this.
pub(super) const GRANULE: u64 = 1 << 30;
/// 47 bits of address.
const GRANULES: usize = 1 << 17;

static WINDOWS: [AtomicPtr<Slot>; GRANULES] = [const { AtomicPtr::new(ptr::null_mut()) }; GRANULES];

/// Slots that no task uses.
static UNUSED: Mutex<Vec<&'static Slot>> = Mutex::new(Vec::new());

/// A place for a task.
#[derive(Default)]
pub(super) struct Slot {
    /// Handlers at work on the task.
    users: AtomicU32,
    /// Null: no task. Set last and cleared first.
    core: AtomicPtr<Core>,
    start: AtomicU64,
    end: AtomicU64,
    /// What was reserved so that an aligned window is in it.
    reserve: [AtomicU64; 2],
}

/// A task that is in the table.
#[derive(Debug)]
pub(super) struct Entry(&'static Slot);

impl core::fmt::Debug for Slot {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "[{:#x}, {:#x})", self.start.load(Relaxed), self.end.load(Relaxed))
    }
}

fn words(start: u64, end: u64) -> &'static [AtomicPtr<Slot>] {
    &WINDOWS[(start / GRANULE) as usize..end.div_ceil(GRANULE) as usize]
}

impl Entry {
    /// Puts a task in: faults in `[start, end)` are its own from now on.
    ///
    /// => `start` is a multiple of the granule; no other window is in these granules.
    ///    `core` stays where it is until [`Entry::close`] has returned. `reserve` reaches
    ///    less than a granule further in each direction.
    pub(super) fn open(core: &Core, start: u64, end: u64, reserve: (u64, u64)) -> Self {
        let slot = UNUSED.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let slot = slot.unwrap_or_else(|| Box::leak(Box::default()));
        slot.start.store(start, Relaxed);
        slot.end.store(end, Relaxed);
        slot.reserve[0].store(reserve.0, Relaxed);
        slot.reserve[1].store(reserve.1, Relaxed);
        slot.core.store(ptr::from_ref(core).cast_mut(), Release);
        words(start, end).iter().for_each(|w| w.store(ptr::from_ref(slot).cast_mut(), Release));
        Entry(slot)
    }

    /// Takes the task out, and waits for the handlers that work on it.
    pub(super) fn close(&self) {
        let slot = self.0;
        let (start, end) = (slot.start.load(Relaxed), slot.end.load(Relaxed));
        words(start, end).iter().for_each(|w| w.store(ptr::null_mut(), Release));
        // SeqCst, with `find`: either the handler sees that the task is gone, or we
        // see the handler.
        slot.core.store(ptr::null_mut(), SeqCst);
        while slot.users.load(SeqCst) != 0 {
            std::thread::yield_now();
        }
        UNUSED.lock().unwrap_or_else(PoisonError::into_inner).push(slot);
    }
}

/// The first window of a task, with what was reserved around it, that reaches into
/// `[addr, end)` of the process: its start and end. For those who go through the process's
/// memory and leave out what tasks have.
#[must_use]
pub fn next_window(addr: u64, end: u64) -> Option<(u64, u64)> {
    // The reserve may begin or end in the granule beside.
    let first = (addr / GRANULE).saturating_sub(1) as usize;
    let last = (end.div_ceil(GRANULE) + 1).min(GRANULES as u64) as usize;
    let words = WINDOWS.get(first..last)?;
    words.iter().find_map(|word| {
        // SAFETY: null, or a slot, which is never freed.
        let slot: &'static Slot = unsafe { word.load(Acquire).as_ref() }?;
        let window = (slot.reserve[0].load(Relaxed), slot.reserve[1].load(Relaxed));
        (window.1 > addr && window.0 < end).then_some(window)
    })
}

/// A task in use by a handler.
pub(super) struct Found {
    slot: &'static Slot,
    core: *const Core,
}

impl Found {
    pub(super) fn core(&self) -> &Core {
        // SAFETY: `find` counted this user in before it read the pointer, and the
        // task is not dropped before the users are gone.
        unsafe { &*self.core }
    }
}

impl Drop for Found {
    fn drop(&mut self) {
        self.slot.users.fetch_sub(1, Release);
    }
}

/// The task in whose window `addr` lies.
pub(super) fn find(addr: u64) -> Option<Found> {
    let word = WINDOWS.get((addr / GRANULE) as usize)?;
    // SAFETY: null, or a slot, which is never freed.
    let slot: &'static Slot = unsafe { word.load(Acquire).as_ref() }?;
    slot.users.fetch_add(1, SeqCst);
    let found = Found { slot, core: slot.core.load(SeqCst) };
    let inside = slot.start.load(Relaxed) <= addr && addr < slot.end.load(Relaxed);
    (inside && !found.core.is_null()).then_some(found)
}
