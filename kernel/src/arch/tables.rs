//! The kernel's own page tables, as far as they are the same on machines with four levels of 512 entries.

use core::sync::atomic::{AtomicU64, Ordering};

use super::direct;
use super::machine::paging::{VALID, frame_of, pointer};

/// An entry of a table at a physical address.
pub(super) fn entry(table: u64, index: usize) -> &'static AtomicU64 {
    // SAFETY: a table of ours in the direct map, which lives for ever; entries are words.
    unsafe { &*direct(table).cast::<AtomicU64>().add(index) }
}

/// The table below an entry; made where there is none.
pub(super) fn below(table: u64, index: usize, frame: &mut dyn FnMut() -> Option<u64>) -> Option<u64> {
    let e = entry(table, index);
    let old = e.load(Ordering::Acquire);
    if old & VALID != 0 {
        return Some(frame_of(old));
    }
    let new = frame()?;
    e.store(pointer(new), Ordering::Release);
    Some(new)
}

/// The entry of the lowest table for an address below a root's entry; tables on the way are made.
pub(super) fn leaf(
    third: u64,
    va: u64,
    frame: &mut dyn FnMut() -> Option<u64>,
) -> Option<&'static AtomicU64> {
    let second = below(third, index(va, 3), frame)?;
    let first = below(second, index(va, 2), frame)?;
    Some(entry(first, index(va, 1)))
}

/// Where a table of a level has the entry for an address.
pub(super) fn index(va: u64, level: u32) -> usize {
    (va >> (12 + 9 * (level - 1)) & 511) as usize
}
