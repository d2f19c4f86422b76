//! Handles: names that stay while blocks move.
//!
//! A handle is one word, 512 of them fill a frame:
//!
//! ```text
//! 63 ....... 36 | 35 ...... 8 | 7 ..... 0
//!  generation   |    frame    | offset/16    in use
//!  next free    |  all ones   |              free
//! ```
//!
//! The directory says which frame holds the handles `512 n ..`. A frame whose handles
//! are all free goes back; generations are counted per shard, so that a handle born
//! again in a new frame is still not mistaken for the old one.

use alloc::vec::Vec;

use crate::class::UNIT;
use crate::frames::{FRAME, Frames, NONE, Note};
use crate::slot::{GENERATION_BITS, HANDLE_BITS, Name};

/// The owner in the note of a frame of handles.
pub(crate) const OWNER: u16 = u16::MAX;

const PER_FRAME: usize = FRAME / 8;
const FULL: u16 = PER_FRAME as u16;
/// Largest number of frames of handles in a shard.
pub(crate) const MAX_PLACES: usize = 1 << (HANDLE_BITS - PER_FRAME.ilog2());

const OFFSET_BITS: u32 = 8;
const FRAME_BITS: u32 = 28;
const NO_FRAME: u64 = (1 << FRAME_BITS) - 1;
/// Largest number of frames that handles can tell apart.
pub(crate) const MAX_FRAMES: usize = NO_FRAME as usize;

// An unused place of the directory: the number of the next one.
const UNUSED: u32 = 1 << 31;
const LAST: u32 = NONE;

/// Where a block begins: frame and byte.
pub(crate) type Place = (u32, usize);

fn pack(generation: u32, at: Place) -> u64 {
    u64::from(generation) << (FRAME_BITS + OFFSET_BITS)
        | u64::from(at.0) << OFFSET_BITS
        | (at.1 / UNIT) as u64
}
fn pack_free(next: u16) -> u64 {
    u64::from(next) << (FRAME_BITS + OFFSET_BITS) | NO_FRAME << OFFSET_BITS
}
fn unpack(word: u64) -> Option<(u32, Place)> {
    let frame = word >> OFFSET_BITS & NO_FRAME;
    let at = (frame as u32, (word & 0xff) as usize * UNIT);
    (frame != NO_FRAME).then_some(((word >> (FRAME_BITS + OFFSET_BITS)) as u32, at))
}

/// The handles of a shard.
pub(crate) struct Handles {
    directory: Vec<u32>,
    /// First unused place of the directory.
    vacant: u32,
    /// First frame that has a free handle.
    partial: u32,
    generation: u32,
}

impl Handles {
    /// Room for `places` frames of handles.
    pub(crate) fn new(places: usize) -> Self {
        Handles {
            directory: Vec::with_capacity(places.min(MAX_PLACES)),
            vacant: LAST,
            partial: NONE,
            generation: 0,
        }
    }
    /// Frames that [`Handles::alloc`] will take now: 0 or 1.
    pub(crate) fn need(&self) -> usize {
        usize::from(self.partial == NONE)
    }
    /// Is there a number left?
    pub(crate) fn may_alloc(&self) -> bool {
        self.partial != NONE || self.vacant != LAST || self.directory.len() < self.directory.capacity()
    }

    fn word<R: AsRef<[u8]> + AsMut<[u8]>>(&self, frames: &Frames<R>, handle: u32) -> Option<u64> {
        let frame = *self.directory.get(handle as usize / PER_FRAME)?;
        if frame & UNUSED != 0 {
            return None;
        }
        let (words, _) = frames.bytes(frame).as_chunks::<8>();
        Some(u64::from_le_bytes(words[handle as usize % PER_FRAME]))
    }
    fn set_word<R: AsRef<[u8]> + AsMut<[u8]>>(frames: &mut Frames<R>, frame: u32, index: usize, w: u64) {
        let (words, _) = frames.bytes_mut(frame).as_chunks_mut::<8>();
        words[index] = w.to_le_bytes();
    }

    /// Where the block of `name` is. `None`: there is no such block (any more).
    pub(crate) fn find<R: AsRef<[u8]> + AsMut<[u8]>>(&self, frames: &Frames<R>, name: Name) -> Option<Place> {
        let (generation, at) = unpack(self.word(frames, name.handle)?)?;
        (generation == name.generation).then_some(at)
    }
    /// As [`Handles::find`], whatever the generation.
    #[cfg(test)]
    fn find_any<R: AsRef<[u8]> + AsMut<[u8]>>(&self, frames: &Frames<R>, handle: u32) -> Option<Place> {
        Some(unpack(self.word(frames, handle)?)?.1)
    }
    /// The block of `handle` moved. `false`: it was not at `from`.
    #[must_use]
    pub(crate) fn moved<R: AsRef<[u8]> + AsMut<[u8]>>(
        &self,
        frames: &mut Frames<R>,
        handle: u32,
        from: Place,
        to: Place,
    ) -> bool {
        match self.word(frames, handle).and_then(unpack) {
            Some((generation, at)) if at == from => {
                let frame = self.directory[handle as usize / PER_FRAME];
                Self::set_word(frames, frame, handle as usize % PER_FRAME, pack(generation, to));
                true
            }
            _ => false,
        }
    }
    /// A frame of handles moved.
    pub(crate) fn frame_moved(&mut self, from: u32, to: u32, note: Note) {
        self.directory[note.place as usize] = to;
        if self.partial == from {
            self.partial = to;
        }
    }

    /// A new handle for the block at `at`.
    ///
    /// => [`Handles::may_alloc`], and `frames` has [`Handles::need`] to spare.
    pub(crate) fn alloc<R: AsRef<[u8]> + AsMut<[u8]>>(
        &mut self,
        frames: &mut Frames<R>,
        at: Place,
    ) -> Option<Name> {
        if self.partial == NONE {
            self.partial = self.new_frame(frames)?;
        }
        let frame = self.partial;
        let mut note = frames.note(frame);
        let index = note.first;
        let handle = note.place * PER_FRAME as u32 + u32::from(index);
        let free = self.word(frames, handle)?;
        note.first = (free >> (FRAME_BITS + OFFSET_BITS)) as u16;
        note.live += 1;
        frames.set_note(frame, note);
        if note.first == FULL {
            self.unlink(frames, frame);
        }
        self.generation = (self.generation + 1) & ((1 << GENERATION_BITS) - 1);
        Self::set_word(frames, frame, usize::from(index), pack(self.generation, at));
        Some(Name { handle, generation: self.generation })
    }

    /// Frees a handle that is in use. Returns the frame to give up if it was the last
    /// one there.
    #[must_use]
    pub(crate) fn free<R: AsRef<[u8]> + AsMut<[u8]>>(
        &mut self,
        frames: &mut Frames<R>,
        handle: u32,
    ) -> Option<u32> {
        let (place, index) = (handle as usize / PER_FRAME, handle as usize % PER_FRAME);
        let frame = self.directory[place];
        let mut note = frames.note(frame);
        Self::set_word(frames, frame, index, pack_free(note.first));
        let was_full = note.first == FULL;
        note.first = index as u16;
        note.live -= 1;
        frames.set_note(frame, note);
        if was_full {
            self.link(frames, frame);
        }
        if note.live > 0 {
            return None;
        }
        self.unlink(frames, frame);
        self.directory[place] = UNUSED | self.vacant;
        self.vacant = place as u32;
        Some(frame)
    }

    fn new_frame<R: AsRef<[u8]> + AsMut<[u8]>>(&mut self, frames: &mut Frames<R>) -> Option<u32> {
        let (vacant, len) = (self.vacant, self.directory.len() as u32);
        let place = if vacant == LAST { len } else { vacant };
        let note = Note { next: NONE, prev: NONE, owner: OWNER, first: 0, live: 0, place };
        let frame = frames.take(note)?;
        if vacant == LAST {
            self.directory.push(frame);
        } else {
            let next = core::mem::replace(&mut self.directory[vacant as usize], frame);
            // `UNUSED | LAST` is LAST itself: it has all bits set.
            self.vacant = if next == LAST { LAST } else { next & !UNUSED };
        }
        for index in 0..PER_FRAME {
            Self::set_word(frames, frame, index, pack_free(index as u16 + 1));
        }
        Some(frame)
    }
    fn link<R: AsRef<[u8]> + AsMut<[u8]>>(&mut self, frames: &mut Frames<R>, frame: u32) {
        let head = core::mem::replace(&mut self.partial, frame);
        frames.with_note(head, |n| n.prev = frame);
        frames.with_note(frame, |n| (n.prev, n.next) = (NONE, head));
    }
    fn unlink<R: AsRef<[u8]> + AsMut<[u8]>>(&mut self, frames: &mut Frames<R>, frame: u32) {
        let Note { prev, next, .. } = frames.note(frame);
        if self.partial == frame {
            self.partial = next;
        }
        frames.with_note(prev, |n| n.next = next);
        frames.with_note(next, |n| n.prev = prev);
        frames.with_note(frame, |n| (n.prev, n.next) = (NONE, NONE));
    }

    /// Checks the directory, the lists and the counts; returns the handles in use and
    /// the frames they take.
    #[cfg(test)]
    pub(crate) fn check<R: AsRef<[u8]> + AsMut<[u8]>>(
        &self,
        frames: &Frames<R>,
    ) -> (Vec<(u32, Place)>, usize) {
        let (mut all, mut count, mut with_room) = (Vec::new(), 0, 0);
        for (place, &frame) in self.directory.iter().enumerate() {
            if frame & UNUSED != 0 {
                continue;
            }
            let note = frames.note(frame);
            assert_eq!((note.owner, note.place as usize), (OWNER, place));
            let before = all.len();
            for index in 0..PER_FRAME {
                let handle = (place * PER_FRAME + index) as u32;
                all.extend(self.find_any(frames, handle).map(|at| (handle, at)));
            }
            assert_eq!(all.len() - before, usize::from(note.live));
            assert!(note.live > 0, "an empty frame of handles was kept");
            with_room += usize::from(note.live < FULL);
            count += 1;
        }
        let (mut f, mut prev) = (self.partial, NONE);
        while f != NONE {
            let note = frames.note(f);
            assert_eq!(note.prev, prev);
            assert!(note.live < FULL && note.owner == OWNER);
            with_room -= 1;
            (prev, f) = (f, note.next);
        }
        assert_eq!(with_room, 0, "frames with room that are not in the list");
        (all, count)
    }
}
