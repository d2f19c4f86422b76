//! The memory of a shard: a dense array of frames in regions.
//!
//! Frames `0 .. used` are in use and all others are not: whoever gives one up moves
//! the last one into its place. So all free memory is at the end, and a region that
//! is no longer reached goes back to the system.
//!
//! The first frame's worth of each region holds the region's notes, 64 bytes a frame.

use alloc::vec::Vec;

use machvm_hal::PAGE_SIZE;

/// Bytes in a frame.
pub(crate) const FRAME: usize = PAGE_SIZE as usize;
/// Bytes asked from the source at a time.
pub(crate) const REGION: usize = 64 * FRAME;
/// Frames in a region.
pub(crate) const PER_REGION: usize = REGION / FRAME - 1;
/// Free frames that a shard keeps, so that a put and a free at a region's border do
/// not call the system each time.
const SLACK: usize = 8;
/// No frame.
pub(crate) const NONE: u32 = u32::MAX;

const NOTE: usize = FRAME / (PER_REGION + 1);

/// What is known about a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Note {
    /// The next frame of the chain or list.
    pub(crate) next: u32,
    /// The one before.
    pub(crate) prev: u32,
    /// The class of the chain it belongs to, or [`crate::handle::OWNER`].
    pub(crate) owner: u16,
    /// Chain: where the first block that begins here begins. Handles: the first free.
    pub(crate) first: u16,
    /// Handles: how many are in use.
    pub(crate) live: u16,
    /// Handles: its place in the directory.
    pub(crate) place: u32,
}

/// The frames of a shard.
pub(crate) struct Frames<R> {
    regions: Vec<R>,
    used: u32,
}

fn place(frame: u32) -> (usize, usize) {
    (frame as usize / PER_REGION, frame as usize % PER_REGION + 1)
}

impl<R: AsRef<[u8]> + AsMut<[u8]>> Frames<R> {
    /// Room for `regions` regions, none there yet.
    pub(crate) fn new(regions: usize) -> Self {
        Frames { regions: Vec::with_capacity(regions), used: 0 }
    }
    /// Frames in use.
    #[cfg(test)]
    pub(crate) fn used(&self) -> u32 {
        self.used
    }
    /// Regions held.
    #[cfg(test)]
    pub(crate) fn regions(&self) -> usize {
        self.regions.len()
    }
    /// Free frames at hand.
    pub(crate) fn spare(&self) -> usize {
        self.regions.len() * PER_REGION - self.used as usize
    }
    /// Is there a place to note another region?
    pub(crate) fn may_add(&self) -> bool {
        self.regions.len() < self.regions.capacity()
    }
    /// More memory; `Err` returns what there is no place for.
    pub(crate) fn add(&mut self, region: R) -> Result<(), R> {
        if !self.may_add() {
            return Err(region);
        }
        self.regions.push(region);
        Ok(())
    }
    /// A region that is not needed any more.
    pub(crate) fn trim(&mut self) -> Option<R> {
        let spare = self.spare();
        if (self.used == 0 && spare > 0) || spare >= PER_REGION + SLACK { self.regions.pop() } else { None }
    }
    /// The next free frame. Its contents are whatever was there.
    pub(crate) fn take(&mut self, note: Note) -> Option<u32> {
        if self.spare() == 0 {
            return None;
        }
        let f = self.used;
        self.used += 1;
        self.set_note(f, note);
        Some(f)
    }
    /// Gives up frame `f`. Returns the number of the frame that is now called `f`
    /// instead, if one had to move: its links are the caller's to mend.
    #[must_use]
    pub(crate) fn give_up(&mut self, f: u32) -> Option<u32> {
        let last = self.used - 1;
        let moved = f != last;
        if moved {
            let note = self.note(last);
            self.copy((last, 0), (f, 0), FRAME);
            self.set_note(f, note);
        }
        self.used = last;
        moved.then_some(last)
    }

    /// The bytes of a frame.
    pub(crate) fn bytes(&self, f: u32) -> &[u8] {
        let (region, at) = place(f);
        &self.regions[region].as_ref()[at * FRAME..(at + 1) * FRAME]
    }
    /// The bytes of a frame.
    pub(crate) fn bytes_mut(&mut self, f: u32) -> &mut [u8] {
        let (region, at) = place(f);
        &mut self.regions[region].as_mut()[at * FRAME..(at + 1) * FRAME]
    }
    /// The note of a frame.
    pub(crate) fn note(&self, f: u32) -> Note {
        let (region, at) = place(f);
        let n = &self.regions[region].as_ref()[at * NOTE..(at + 1) * NOTE];
        let word = |i: usize| u32::from_le_bytes([n[i], n[i + 1], n[i + 2], n[i + 3]]);
        let half = |i: usize| u16::from_le_bytes([n[i], n[i + 1]]);
        Note {
            next: word(0),
            prev: word(4),
            owner: half(8),
            first: half(10),
            live: half(12),
            place: word(16),
        }
    }
    /// Replaces the note of a frame.
    pub(crate) fn set_note(&mut self, f: u32, note: Note) {
        let (region, at) = place(f);
        let n = &mut self.regions[region].as_mut()[at * NOTE..(at + 1) * NOTE];
        n[0..4].copy_from_slice(&note.next.to_le_bytes());
        n[4..8].copy_from_slice(&note.prev.to_le_bytes());
        n[8..10].copy_from_slice(&note.owner.to_le_bytes());
        n[10..12].copy_from_slice(&note.first.to_le_bytes());
        n[12..14].copy_from_slice(&note.live.to_le_bytes());
        n[16..20].copy_from_slice(&note.place.to_le_bytes());
    }
    /// Changes the note of a frame; nothing for [`NONE`].
    pub(crate) fn with_note(&mut self, f: u32, change: impl FnOnce(&mut Note)) {
        if f != NONE {
            let mut note = self.note(f);
            change(&mut note);
            self.set_note(f, note);
        }
    }
    /// Copies `n` bytes; neither side may cross the end of its frame.
    pub(crate) fn copy(&mut self, from: (u32, usize), to: (u32, usize), n: usize) {
        let ((fr, fa), (tr, ta)) = (place(from.0), place(to.0));
        let (source, target) = (fa * FRAME + from.1, ta * FRAME + to.1);
        match self.regions.get_disjoint_mut([fr, tr]) {
            Ok([a, b]) => b.as_mut()[target..target + n].copy_from_slice(&a.as_ref()[source..source + n]),
            Err(_) => self.regions[fr].as_mut().copy_within(source..source + n, target),
        }
    }
}
