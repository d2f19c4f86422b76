//! Memory for the compressed pool: frames of the VM's, put side by side in kernel addresses.
//!
//! A piece is taken while memory is short: that is what the reserve is for. It comes back in full, and sooner than it is
//! used up, because the pool refuses pages that hardly shrink.
//!
//! The pool gives pieces back where locks may be held, so they are set aside mapped as they are: the next that is wanted
//! is one of them, or the page daemon's thread unmaps them.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use machvm::page::FrameClass;
use machvm_hal::pmap9::MemAttr;
use machvm_hal::{MaySleep, PAGE_SIZE, Pfn, PhysMem as _, Prot, Va, VaRange};
use machvm_pagers::RegionSource;
use machvm_sync::Rank;

use crate::embed::{pmaps, the_vm};
use crate::lock::IrqSpin;

/// Pages of a piece.
const PAGES: usize = 64;

/// What there is of places for pieces: addresses with page tables. Both lists have room for all.
struct Places {
    free: Vec<Va>,
    /// Pieces that are not used any more.
    aside: Vec<(Va, [Pfn; PAGES])>,
}
static PLACES: IrqSpin<Places> = IrqSpin::new(Rank::Leaf, Places { free: Vec::new(), aside: Vec::new() });
/// Frames in pieces.
static FRAMES: AtomicU64 = AtomicU64::new(0);

/// Makes places for `bytes` bytes. Gives for how many there are some.
///
/// => once.
pub(super) fn reserve(bytes: u64) -> u64 {
    let pieces = bytes / (PAGES as u64 * PAGE_SIZE);
    let start = pmaps().virtual_space().start();
    let mut places = Vec::new();
    for i in 0..pieces {
        let at = start.add(i * PAGES as u64);
        let Ok(_) = pmaps().grow_kernel(at.add(PAGES as u64)) else { break };
        places.push(at);
    }
    let there = places.len() as u64 * PAGES as u64 * PAGE_SIZE;
    *PLACES.lock() = Places { aside: Vec::with_capacity(places.len()), free: places };
    there
}

/// Where pieces come from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pieces;

/// A piece: mapped frames.
pub(super) struct Piece {
    at: Va,
    frames: [Pfn; PAGES],
}

impl RegionSource for Pieces {
    type Region = Piece;

    fn take(&self, bytes: usize) -> Option<Piece> {
        if bytes > PAGES * PAGE_SIZE as usize {
            return None;
        }
        if let Some((at, frames)) = PLACES.lock().aside.pop() {
            return Some(Piece { at, frames });
        }
        let mut frames = [Pfn(0); PAGES];
        for n in 0..PAGES {
            match the_vm().frame_take_wired(FrameClass::System) {
                Some(f) => frames[n] = f,
                None => {
                    give_back(&frames[..n]);
                    return None;
                }
            }
        }
        let Some(at) = PLACES.lock().free.pop() else {
            give_back(&frames);
            return None;
        };
        for (i, f) in frames.iter().enumerate() {
            pmaps().kenter(at.add(i as u64), *f, Prot::RW, MemAttr::WriteBack);
        }
        FRAMES.fetch_add(PAGES as u64, Ordering::Relaxed);
        Some(Piece { at, frames })
    }
}

/// Frames that hold one page of a disk's each.
static SINGLE: AtomicU64 = AtomicU64::new(0);

/// Puts a page into a frame of its own. `None`: memory is short.
pub(super) fn put_single(page: &[u8; PAGE_SIZE as usize]) -> Option<Pfn> {
    let f = the_vm().frame_take_wired(FrameClass::Normal)?;
    the_vm().host().write(f, 0, page);
    SINGLE.fetch_add(1, Ordering::Relaxed);
    Some(f)
}
/// Reads it.
pub(super) fn get_single(f: Pfn, page: &mut [u8; PAGE_SIZE as usize]) {
    the_vm().host().read(f, 0, page);
}
/// The page is no longer wanted.
pub(super) fn free_single(f: Pfn) {
    give_back(&[f]);
    SINGLE.fetch_sub(1, Ordering::Relaxed);
}
/// How many there are.
pub(super) fn single() -> u64 {
    SINGLE.load(Ordering::Relaxed)
}

/// Frames that pieces have.
pub(super) fn frames() -> u64 {
    FRAMES.load(Ordering::Relaxed)
}

/// Gives back what was set aside. => no lock is held.
pub(super) fn tidy() {
    loop {
        let Some((at, frames)) = PLACES.lock().aside.pop() else { return };
        if let Some(range) = VaRange::of_pages(at, PAGES as u64) {
            pmaps().kremove(range);
            // No CPU knows the addresses from here on.
            pmaps().kernel_update(&mut MaySleep::claim());
        }
        give_back(&frames);
        FRAMES.fetch_sub(PAGES as u64, Ordering::Relaxed);
        PLACES.lock().free.push(at);
    }
}

fn give_back(frames: &[Pfn]) {
    for f in frames {
        let given = the_vm().frame_give_back(*f);
        debug_assert!(given.is_ok(), "a frame of a piece was not ours: {given:?}");
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: mapped by `take` until it is dropped, and this piece's alone.
        unsafe { core::slice::from_raw_parts(self.at.get() as *const u8, PAGES * PAGE_SIZE as usize) }
    }
}
impl AsMut<[u8]> for Piece {
    fn as_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { core::slice::from_raw_parts_mut(self.at.get() as *mut u8, PAGES * PAGE_SIZE as usize) }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        PLACES.lock().aside.push((self.at, self.frames));
    }
}
