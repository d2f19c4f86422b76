//! Chains: the blocks of one class, densely packed.
//!
//! A chain is a row of frames seen as one run of bytes; blocks follow each other
//! without a gap and may cross from one frame into the next. Only the last frame is
//! partly filled. The blocks of a class stay dense because a freed block is replaced
//! by the last one, whose handle is told.
//!
//! A block: header (handle, length, kind, checksum), then the data, then what rounding
//! up to the class left over.

use crate::frames::{FRAME, Frames, NONE};
use crate::handle::Place;

/// Bytes before a block's data.
pub(crate) const HEADER: usize = 16;

/// How a block's data is to be understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// An LZ4 block.
    Lz4 = 1,
    /// The page itself.
    Raw = 2,
    /// The word that the page repeats.
    Word = 3,
    /// A zstd frame.
    Zstd = 4,
}

/// The header of a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    pub(crate) handle: u32,
    pub(crate) len: u16,
    kind: u16,
    pub(crate) sum: u64,
}

impl Header {
    pub(crate) fn new(handle: u32, len: u16, kind: Kind, sum: u64) -> Self {
        Header { handle, len, kind: kind as u16, sum }
    }
    /// `None`: the header is damaged.
    pub(crate) fn kind(&self) -> Option<Kind> {
        [Kind::Lz4, Kind::Raw, Kind::Word, Kind::Zstd].into_iter().find(|k| *k as u16 == self.kind)
    }
    /// Reads the header of the block at `at`.
    pub(crate) fn read<R: AsRef<[u8]> + AsMut<[u8]>>(frames: &Frames<R>, at: Place) -> Self {
        let b = &frames.bytes(at.0)[at.1..at.1 + HEADER];
        let (words, _) = b.as_chunks::<8>();
        let (first, sum) = (u64::from_le_bytes(words[0]), u64::from_le_bytes(words[1]));
        Header { handle: first as u32, len: (first >> 32) as u16, kind: (first >> 48) as u16, sum }
    }
    /// Writes the header of the block at `at`.
    pub(crate) fn write<R: AsRef<[u8]> + AsMut<[u8]>>(self, frames: &mut Frames<R>, at: Place) {
        let first = u64::from(self.handle) | u64::from(self.len) << 32 | u64::from(self.kind) << 48;
        let b = &mut frames.bytes_mut(at.0)[at.1..at.1 + HEADER];
        b[..8].copy_from_slice(&first.to_le_bytes());
        b[8..].copy_from_slice(&self.sum.to_le_bytes());
    }
}

/// The end of a chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Chain {
    /// The last frame, [`NONE`] when the chain is empty.
    pub(crate) tail: u32,
    /// Where the last block ends in it: never 0.
    pub(crate) end: usize,
}

impl Chain {
    /// No blocks.
    pub(crate) const EMPTY: Chain = Chain { tail: NONE, end: FRAME };

    /// Frames that another block of `size` bytes takes: 0 to 2.
    pub(crate) fn need(self, size: usize) -> usize {
        (self.end + size).div_ceil(FRAME) - 1
    }
    /// Where the last block, of `size` bytes, begins.
    ///
    /// => the chain is not empty.
    pub(crate) fn last<R: AsRef<[u8]> + AsMut<[u8]>>(self, frames: &Frames<R>, size: usize) -> Place {
        if self.end >= size {
            (self.tail, self.end - size)
        } else {
            (frames.note(self.tail).prev, FRAME + self.end - size)
        }
    }
}

/// The two parts of `n` bytes that begin `skip` bytes after `at`; the second is in the
/// next frame and may be empty.
fn parts<R: AsRef<[u8]> + AsMut<[u8]>>(
    frames: &Frames<R>,
    at: Place,
    skip: usize,
    n: usize,
) -> [(u32, usize, usize); 2] {
    let (mut frame, mut off) = (at.0, at.1 + skip);
    if off >= FRAME {
        (frame, off) = (frames.note(frame).next, off - FRAME);
    }
    let here = n.min(FRAME - off);
    let next = if here < n { frames.note(frame).next } else { frame };
    [(frame, off, here), (next, 0, n - here)]
}

/// The first `n` bytes of a block's data.
pub(crate) fn data<R: AsRef<[u8]> + AsMut<[u8]>>(frames: &Frames<R>, at: Place, n: usize) -> [&[u8]; 2] {
    parts(frames, at, HEADER, n).map(|(f, off, n)| &frames.bytes(f)[off..off + n])
}

/// Stores a block's data.
pub(crate) fn set_data<R: AsRef<[u8]> + AsMut<[u8]>>(frames: &mut Frames<R>, at: Place, data: &[u8]) {
    let mut rest = data;
    for (f, off, n) in parts(frames, at, HEADER, data.len()) {
        let (now, later) = rest.split_at(n);
        frames.bytes_mut(f)[off..off + n].copy_from_slice(now);
        rest = later;
    }
}

/// Copies a whole block of `size` bytes over another.
pub(crate) fn copy<R: AsRef<[u8]> + AsMut<[u8]>>(
    frames: &mut Frames<R>,
    from: Place,
    to: Place,
    size: usize,
) {
    let mut done = 0;
    while done < size {
        let [(from_frame, from_off, n), _] = parts(frames, from, done, size - done);
        let [(to_frame, to_off, n), _] = parts(frames, to, done, n);
        frames.copy((from_frame, from_off), (to_frame, to_off), n);
        done += n;
    }
}
