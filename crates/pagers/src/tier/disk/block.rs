//! The device below a [`super::Disk`], and the buffers that go to it.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::super::PAGE;

/// Memory for requests: whole pages, aligned as O_DIRECT wants it.
#[derive(Debug)]
pub struct Buffer {
    memory: Box<[u8]>,
    start: usize,
    len: usize,
}

impl Buffer {
    /// `pages` pages of zero.
    pub fn new(pages: usize) -> Self {
        let len = pages * PAGE;
        let memory = vec![0; len + PAGE].into_boxed_slice();
        let start = memory.as_ptr().align_offset(PAGE).min(PAGE);
        Buffer { memory, start, len }
    }
    /// All of it.
    pub fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }
    /// All of it.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

/// A write that has ended.
#[derive(Debug)]
pub struct Done {
    /// The number that it was begun under.
    pub token: usize,
    /// How many bytes were written, perhaps not all.
    pub result: io::Result<usize>,
}

/// Something with bytes that can be written and read at an offset, from any thread.
pub trait Block: Send + Sync {
    /// As `pread(2)`.
    ///
    /// # Errors
    /// As `pread(2)`.
    fn read_at(&self, to: &mut [u8], at: u64) -> io::Result<usize>;
    /// Begins to write a part of `from` at byte `at`; [`Block::finished`] tells of the end.
    /// The buffer is held until then, and its contents do not change.
    ///
    /// # Errors
    /// It was not begun.
    fn begin_write(&self, token: usize, from: &Arc<Buffer>, part: Range<usize>, at: u64) -> io::Result<()>;
    /// A write that has ended. With `wait` one is waited for if none has, for a few
    /// milliseconds or for ever; but if none is under way (others may be told of it), not
    /// at all.
    fn finished(&self, wait: bool) -> Option<Done>;
    /// How it is done, for people.
    fn method(&self) -> &'static str;
}

/// A file or device by `pread(2)` and `pwrite(2)`: a write is over when it is begun.
#[derive(Debug)]
pub struct FileBlock {
    file: Arc<File>,
    done: Mutex<Vec<Done>>,
    ended: Condvar,
}

impl FileBlock {
    /// The file's own offset is not used.
    pub fn new(file: Arc<File>) -> Self {
        FileBlock { file, done: Mutex::new(Vec::with_capacity(64)), ended: Condvar::new() }
    }
}

impl Block for FileBlock {
    fn read_at(&self, to: &mut [u8], at: u64) -> io::Result<usize> {
        self.file.read_at(to, at)
    }
    fn begin_write(&self, token: usize, from: &Arc<Buffer>, part: Range<usize>, at: u64) -> io::Result<()> {
        let result = self.file.write_at(&from.bytes()[part], at);
        self.done.lock().unwrap_or_else(PoisonError::into_inner).push(Done { token, result });
        self.ended.notify_one();
        Ok(())
    }
    fn finished(&self, wait: bool) -> Option<Done> {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        if wait && done.is_empty() {
            // Somebody is just writing.
            let patience = Duration::from_millis(2);
            (done, _) = self.ended.wait_timeout(done, patience).unwrap_or_else(PoisonError::into_inner);
        }
        done.pop()
    }
    fn method(&self) -> &'static str {
        "pwrite"
    }
}
