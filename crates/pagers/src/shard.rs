//! A shard: handles and chains over the same frames.
//!
//! ```text
//! slot -> handle -> block in the chain of its class -> data
//!           ^____________|  (a block knows its handle)
//! ```
//!
//! Two moves keep everything dense, each O(1): the last block of a class fills the
//! hole of a freed one, and the last frame of the shard fills the hole of a freed one.

#[cfg(test)]
use alloc::vec::Vec;

use crate::chain::{self, Chain, HEADER, Header, Kind};
use crate::class::{self, CLASSES};
use crate::frames::{FRAME, Frames, NONE, Note};
use crate::handle::{self, Handles};
use crate::slot::Name;

/// Why [`Shard::insert`] refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum InsertError {
    /// Another region would help.
    NoFrames,
    /// All names are taken.
    NoNames,
}

/// What a shard holds, and what went wrong in it.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Tally {
    pub(crate) puts: u64,
    pub(crate) gets: u64,
    pub(crate) frees: u64,
    pub(crate) put_bytes: u64,
    pub(crate) put_raw: u64,
    pub(crate) put_words: u64,
    pub(crate) pages: u64,
    pub(crate) raw: u64,
    pub(crate) words: u64,
    pub(crate) bytes: u64,
    pub(crate) damaged: u64,
}

/// A part of the pool under one lock.
pub(crate) struct Shard<R> {
    frames: Frames<R>,
    handles: Handles,
    chains: [Chain; CLASSES],
    pub(crate) tally: Tally,
}

impl<R: AsRef<[u8]> + AsMut<[u8]>> Shard<R> {
    /// An empty shard that can grow to `regions` regions.
    pub(crate) fn new(regions: usize) -> Self {
        let regions = regions.min(handle::MAX_FRAMES / crate::frames::PER_REGION);
        Shard {
            frames: Frames::new(regions),
            handles: Handles::new(regions.saturating_mul(crate::frames::PER_REGION)),
            chains: [Chain::EMPTY; CLASSES],
            tally: Tally::default(),
        }
    }
    /// Regions held.
    #[cfg(test)]
    pub(crate) fn regions(&self) -> usize {
        self.frames.regions()
    }
    /// Is there a place to note another region?
    pub(crate) fn may_add(&self) -> bool {
        self.frames.may_add()
    }
    /// More memory; `Err` returns what there is no place for.
    pub(crate) fn add(&mut self, region: R) -> Result<(), R> {
        self.frames.add(region)
    }
    /// A region to give back, if one is free.
    pub(crate) fn trim(&mut self) -> Option<R> {
        self.frames.trim()
    }

    /// Stores a block. `sum` is the checksum of `bytes`.
    ///
    /// # Errors
    /// [`InsertError`]; nothing has changed.
    pub(crate) fn insert(&mut self, kind: Kind, bytes: &[u8], sum: u64) -> Result<Name, InsertError> {
        let class = class::class_of(HEADER + bytes.len()).ok_or(InsertError::NoNames)?;
        let size = class::size_of(class);
        if !self.handles.may_alloc() {
            return Err(InsertError::NoNames);
        }
        let need = self.chains[usize::from(class)].need(size) + self.handles.need();
        if self.frames.spare() < need {
            return Err(InsertError::NoFrames);
        }
        // From here on nothing fails: names and frames are there.
        let at = self.append(class, size).ok_or(InsertError::NoFrames)?;
        let name = self.handles.alloc(&mut self.frames, at).ok_or(InsertError::NoNames)?;
        Header::new(name.handle, bytes.len() as u16, kind, sum ^ seal(name)).write(&mut self.frames, at);
        chain::set_data(&mut self.frames, at, bytes);
        self.count(kind, bytes.len(), 1);
        let t = &mut self.tally;
        t.puts += 1;
        t.put_bytes += bytes.len() as u64;
        t.put_raw += u64::from(kind == Kind::Raw);
        t.put_words += u64::from(kind == Kind::Word);
        Ok(name)
    }

    /// Hands kind, checksum and the two parts of the data to `look`. `None`: there is
    /// no such block, or its header is damaged.
    pub(crate) fn look<T>(&mut self, name: Name, look: impl FnOnce(Kind, u64, [&[u8]; 2]) -> T) -> Option<T> {
        let at = self.handles.find(&self.frames, name)?;
        let header = Header::read(&self.frames, at);
        let class = self.frames.note(at.0).owner;
        let (Some(kind), true) = (header.kind(), usize::from(header.len) + HEADER <= class::size_of(class))
        else {
            self.tally.damaged += 1;
            return None;
        };
        self.tally.gets += 1;
        Some(look(kind, header.sum ^ seal(name), chain::data(&self.frames, at, usize::from(header.len))))
    }

    /// Forgets a block. `false`: there is no such block.
    #[must_use]
    pub(crate) fn remove(&mut self, name: Name) -> bool {
        let Some(at) = self.handles.find(&self.frames, name) else { return false };
        let class = self.frames.note(at.0).owner;
        let size = class::size_of(class);
        let header = Header::read(&self.frames, at);
        self.count(header.kind().unwrap_or(Kind::Lz4), usize::from(header.len), -1);
        self.tally.frees += 1;

        let last = self.chains[usize::from(class)].last(&self.frames, size);
        if last != at {
            chain::copy(&mut self.frames, last, at, size);
            let owner = Header::read(&self.frames, at).handle;
            self.tally.damaged += u64::from(!self.handles.moved(&mut self.frames, owner, last, at));
        }
        self.shorten(class, size);
        if let Some(empty) = self.handles.free(&mut self.frames, name.handle) {
            self.give_up(empty);
        }
        true
    }

    fn count(&mut self, kind: Kind, len: usize, by: i64) {
        let t = &mut self.tally;
        t.pages = t.pages.wrapping_add_signed(by);
        t.bytes = t.bytes.wrapping_add_signed(by * len as i64);
        match kind {
            Kind::Lz4 | Kind::Zstd => {}
            Kind::Raw => t.raw = t.raw.wrapping_add_signed(by),
            Kind::Word => t.words = t.words.wrapping_add_signed(by),
        }
    }

    /// Room for one more block of `class` at the end of its chain.
    fn append(&mut self, class: u16, size: usize) -> Option<(u32, usize)> {
        let mut chain = self.chains[usize::from(class)];
        if chain.end == FRAME {
            chain = Chain { tail: self.extend(class, chain.tail, 0)?, end: 0 };
        }
        let at = (chain.tail, chain.end);
        chain.end += size;
        if chain.end > FRAME {
            chain.end -= FRAME;
            chain.tail = self.extend(class, chain.tail, chain.end)?;
        }
        self.chains[usize::from(class)] = chain;
        Some(at)
    }
    fn extend(&mut self, class: u16, tail: u32, first: usize) -> Option<u32> {
        let note = Note { next: NONE, prev: tail, owner: class, first: first as u16, live: 0, place: 0 };
        let f = self.frames.take(note)?;
        self.frames.with_note(tail, |n| n.next = f);
        Some(f)
    }

    /// Cuts the last block of `class` off, and the frames that it leaves empty.
    fn shorten(&mut self, class: u16, size: usize) {
        let i = usize::from(class);
        let mut cut = size;
        while cut >= self.chains[i].end {
            let Chain { tail, end } = self.chains[i];
            let prev = self.frames.note(tail).prev;
            cut -= end;
            // The end must be right before a frame moves, which looks at the blocks up
            // to it. It is 0 when the block took the whole of this frame as well.
            self.chains[i] = Chain { tail: prev, end: FRAME - cut };
            cut = 0;
            self.frames.with_note(prev, |n| n.next = NONE);
            self.give_up(tail);
        }
        self.chains[i].end -= cut;
    }

    /// Gives up a frame that nothing refers to; mends what refers to the one that
    /// moved into its place.
    fn give_up(&mut self, frame: u32) {
        let Some(old) = self.frames.give_up(frame) else { return };
        let note = self.frames.note(frame);
        self.frames.with_note(note.prev, |n| n.next = frame);
        self.frames.with_note(note.next, |n| n.prev = frame);
        if note.owner == handle::OWNER {
            self.handles.frame_moved(old, frame, note);
            return;
        }
        let chain = &mut self.chains[usize::from(note.owner)];
        let end = if chain.tail == old { chain.end } else { FRAME };
        if chain.tail == old {
            chain.tail = frame;
        }
        for off in (usize::from(note.first)..end).step_by(class::size_of(note.owner)) {
            let owner = Header::read(&self.frames, (frame, off)).handle;
            let told = self.handles.moved(&mut self.frames, owner, (old, off), (frame, off));
            self.tally.damaged += u64::from(!told);
        }
    }

    /// Checks chains, handles and counts against each other.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        let (handles, mut frames) = self.handles.check(&self.frames);
        let (mut blocks, mut bytes) = (Vec::new(), 0);
        for (class, chain) in self.chains.iter().enumerate() {
            let size = class::size_of(class as u16);
            let (mut f, mut end, mut next) = (chain.tail, chain.end, NONE);
            assert!(0 < end && end <= FRAME && (f != NONE || end == FRAME));
            while f != NONE {
                let note = self.frames.note(f);
                assert_eq!((usize::from(note.owner), note.next), (class, next));
                for off in (usize::from(note.first)..end).step_by(size) {
                    let header = Header::read(&self.frames, (f, off));
                    blocks.push((header.handle, (f, off)));
                    bytes += u64::from(header.len);
                }
                frames += 1;
                (next, f, end) = (f, note.prev, FRAME);
            }
        }
        blocks.sort_unstable();
        assert!(blocks == handles, "blocks and handles disagree");
        assert_eq!(frames, self.frames.used() as usize, "frames that nobody owns");
        assert_eq!((self.tally.pages, self.tally.bytes), (blocks.len() as u64, bytes));
    }
    /// Damages byte `at` of a block's data.
    #[cfg(test)]
    pub(crate) fn flip(&mut self, name: Name, at: usize, bits: u8) {
        let place = self.handles.find(&self.frames, name).expect("a live block");
        let (f, off) = match place.1 + HEADER + at {
            off if off < FRAME => (place.0, off),
            off => (self.frames.note(place.0).next, off - FRAME),
        };
        self.frames.bytes_mut(f)[off] ^= bits;
    }
}

/// Mixed into the checksum, so that a block in the wrong place is noticed.
fn seal(name: Name) -> u64 {
    u64::from(name.handle) << 32 | u64::from(name.generation)
}
