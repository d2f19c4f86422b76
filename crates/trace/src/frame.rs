//! Frames: what a trace is made of.

use std::io;

/// The first bytes of every trace.
pub(crate) const MAGIC: &[u8; 8] = b"machvmtr";
/// The version that is written, and read.
pub(crate) const VERSION: u32 = 1;
/// Bytes of a frame before its data.
pub(crate) const HEAD: usize = 20;

/// Bytes of events in a block, at most.
pub const BLOCK: usize = 256 << 10;
/// Bytes that a frame may hold when it is unpacked, and in the file.
pub(crate) const MOST: u32 = 1 << 20;

/// How hard zstd tries: about 100 MB/s, and there is a thread for it.
const LEVEL: i32 = 9;

/// What a frame holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Lines about the run, before it.
    Header = b'H' as isize,
    /// Events.
    Events = b'E' as isize,
    /// Lines about the run, after it.
    Summary = b'S' as isize,
}

impl Kind {
    pub(crate) fn of(byte: u8) -> Option<Kind> {
        [Kind::Header, Kind::Events, Kind::Summary].into_iter().find(|k| *k as u8 == byte)
    }
}

/// How a frame's data are packed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Packing {
    Stored = 0,
    Zstd = 1,
}

/// What comes before the first frame.
#[must_use]
pub fn preamble() -> [u8; 12] {
    let mut all = [0; 12];
    all[..8].copy_from_slice(MAGIC);
    all[8..].copy_from_slice(&VERSION.to_le_bytes());
    all
}

/// The checksum of a frame with this head.
pub(crate) fn checksum(head: &[u8], data: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&head[..HEAD - 4]);
    crc.update(data);
    crc.finalize()
}

fn frame(kind: Kind, packing: Packing, sequence: u32, raw: usize, data: &[u8]) -> Vec<u8> {
    let mut all = Vec::with_capacity(HEAD + data.len());
    all.extend_from_slice(&[kind as u8, packing as u8, 0, 0]);
    for n in [sequence, raw as u32, data.len() as u32, 0] {
        all.extend_from_slice(&n.to_le_bytes());
    }
    let sum = checksum(&all[..HEAD], data);
    all[HEAD - 4..].copy_from_slice(&sum.to_le_bytes());
    all.extend_from_slice(data);
    all
}

/// A frame of these data, at most [`BLOCK`] bytes, compressed. `sequence` rises from 0 with
/// the header by one a frame.
///
/// # Errors
/// No memory.
pub fn pack(kind: Kind, sequence: u32, data: &[u8]) -> io::Result<Vec<u8>> {
    let packed = zstd::bulk::compress(data, LEVEL)?;
    Ok(if packed.len() < data.len() {
        frame(kind, Packing::Zstd, sequence, data.len(), &packed)
    } else {
        stored(kind, sequence, data)
    })
}

/// As [`pack`], not compressed.
#[must_use]
pub fn stored(kind: Kind, sequence: u32, data: &[u8]) -> Vec<u8> {
    frame(kind, Packing::Stored, sequence, data.len(), data)
}
