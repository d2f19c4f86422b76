//! The end of a trace that is not in its file yet, in memory that the keeper has too: so
//! nothing is lost when the program is killed.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};

use machvm_trace::{BLOCK, Kind, stored};

/// Two blocks: one is filled while the other is written. All zero: no trace.
#[repr(C)]
pub(in crate::run) struct Tail {
    /// Bytes of the file that are whole frames; 0: there is no trace.
    end: AtomicU64,
    pub(super) blocks: [Block; 2],
}

/// Events that are not in the file.
#[repr(C)]
pub(super) struct Block {
    /// Bytes of whole events; 0: there is nothing to be written.
    len: AtomicU32,
    /// The sequence number of its frame.
    sequence: AtomicU32,
    bytes: [AtomicU8; BLOCK],
}

impl Block {
    /// Begins it anew.
    ///
    /// => it is empty.
    pub(super) fn begin(&self, sequence: u32) {
        self.sequence.store(sequence, Relaxed);
    }
    /// Adds an event behind the first `len` bytes.
    pub(super) fn add(&self, len: usize, event: &[u8]) {
        for (to, from) in self.bytes[len..].iter().zip(event) {
            to.store(*from, Relaxed);
        }
        self.len.store((len + event.len()) as u32, Release);
    }
    /// What it holds, and its sequence number. `None`: nothing.
    pub(super) fn get(&self) -> Option<(u32, Vec<u8>)> {
        let len = (self.len.load(Acquire) as usize).min(BLOCK);
        let bytes = self.bytes[..len].iter().map(|b| b.load(Relaxed)).collect();
        (len != 0).then(|| (self.sequence.load(Relaxed), bytes))
    }
    pub(super) fn empty(&self) {
        self.len.store(0, Release);
    }
    pub(super) fn is_empty(&self) -> bool {
        self.len.load(Relaxed) == 0
    }
}

impl Tail {
    /// Writes a frame behind the others.
    pub(super) fn append(&self, file: &mut File, frame: &[u8]) -> io::Result<()> {
        let end = self.end.load(Relaxed);
        file.seek(SeekFrom::Start(end))?;
        file.write_all(frame)?;
        self.end.store(end + frame.len() as u64, Release);
        Ok(())
    }

    /// Nothing more is written: there is an error.
    pub(super) fn give_up(&self) {
        self.end.store(0, Release);
    }

    /// Writes what a run left that was killed.
    ///
    /// => nobody else uses it any more.
    ///
    /// # Errors
    /// The file cannot be opened or written.
    pub(in crate::run) fn rescue(&self, path: &Path) -> io::Result<()> {
        let end = self.end.load(Acquire);
        let mut left: Vec<(u32, Vec<u8>)> = self.blocks.iter().filter_map(Block::get).collect();
        if end == 0 || left.is_empty() {
            return Ok(());
        }
        let mut file = OpenOptions::new().write(true).open(path)?;
        // A frame may be half there.
        file.set_len(end)?;
        left.sort_unstable();
        for (sequence, bytes) in left {
            self.append(&mut file, &stored(Kind::Events, sequence, &bytes))?;
        }
        Ok(())
    }
}
