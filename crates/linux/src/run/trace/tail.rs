//! The end of a trace that is not in its file yet, in memory that the keeper has too: so
//! nothing is lost when the program is killed.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};

use machvm_trace::{BLOCK, Kind, stored};

/// Two blocks: one is filled while the other is written. All zero: no trace.
#[repr(C)]
pub(in crate::run) struct Tail {
    /// Bytes of the file that are whole frames; 0: there is no trace.
    end: AtomicU64,
    /// Which file it is: device and inode.
    file: [AtomicU64; 2],
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

fn identity(file: &File) -> io::Result<[u64; 2]> {
    let about = file.metadata()?;
    Ok([about.dev(), about.ino()])
}

impl Tail {
    /// Begins a trace in an empty file.
    pub(super) fn begin(&self, file: &mut File, start: &[u8]) -> io::Result<()> {
        self.file.iter().zip(identity(file)?).for_each(|(to, from)| to.store(from, Relaxed));
        self.append(file, start)
    }

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
    /// The file cannot be opened or written, or another one has its name now.
    pub(in crate::run) fn rescue(&self, path: &Path) -> io::Result<()> {
        let end = self.end.load(Acquire);
        let mut left: Vec<(u32, Vec<u8>)> = self.blocks.iter().filter_map(Block::get).collect();
        if end == 0 || left.is_empty() {
            return Ok(());
        }
        let mut file = OpenOptions::new().write(true).open(path)?;
        if identity(&file)? != self.file.each_ref().map(|n| n.load(Relaxed)) {
            return Err(io::Error::other("another file has its name"));
        }
        // A frame may be half there.
        file.set_len(end)?;
        left.sort_unstable();
        for (sequence, bytes) in left {
            self.append(&mut file, &stored(Kind::Events, sequence, &bytes))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use machvm_trace::{Encoder, Event, Header, LONGEST, ReadError, pack, preamble, read};

    fn tail() -> Box<Tail> {
        let block = || Block {
            len: AtomicU32::new(0),
            sequence: AtomicU32::new(0),
            bytes: [const { AtomicU8::new(0) }; BLOCK],
        };
        let words = || [const { AtomicU64::new(0) }; 2];
        Box::new(Tail { end: AtomicU64::new(0), file: words(), blocks: [block(), block()] })
    }

    fn fill(block: &Block, sequence: u32, pages: std::ops::Range<u32>) {
        let (mut encoder, mut len) = (Encoder::default(), 0);
        block.begin(sequence);
        for page in pages {
            let mut bytes = [0; LONGEST];
            let n = encoder.put(Event::Gone { page }, &mut bytes);
            block.add(len, &bytes[..n]);
            len += n;
        }
    }

    #[test]
    fn what_a_killed_run_left_is_written_in_order_to_its_own_file_only() {
        let dir = std::env::temp_dir().join(format!("machvm-tail-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let (path, other) = (dir.join("trace"), dir.join("other"));
        let tail = tail();
        tail.rescue(&path).expect("there is no trace, and nothing to do");
        let mut file = File::create(&path).expect("created");
        tail.begin(&mut file, &preamble()).expect("begun");
        let header = Header { page_size: 4096, ..Header::default() };
        let frame = pack(Kind::Header, 0, header.to_text().as_bytes()).expect("packed");
        tail.append(&mut file, &frame).expect("written");
        // The second block is the older one, and its frame is half in the file.
        fill(&tail.blocks[1], 3, 0..1000);
        fill(&tail.blocks[0], 4, 1000..1500);
        file.write_all(&[7; 100]).expect("written");
        assert!(matches!(read(&path), Err(ReadError::Damaged(_)) | Ok(_)));

        std::fs::rename(&path, &other).expect("renamed");
        std::fs::write(&path, "precious").expect("written");
        tail.rescue(&path).expect_err("another file");
        assert_eq!(std::fs::read(&path).expect("read"), b"precious");

        tail.rescue(&other).expect("written");
        let trace = read(&other).expect("a trace");
        assert_eq!((trace.cut, trace.header), (None, header));
        assert!(trace.events.into_iter().eq((0..1500).map(|page| Event::Gone { page })));
        std::fs::remove_dir_all(&dir).expect("removed");
    }
}
