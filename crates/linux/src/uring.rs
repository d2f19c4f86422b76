//! Writes by io_uring.
//!
//! A ring for each file: a write is one entry that names a buffer, which is held until
//! the kernel has told of its end. Reads are waited for by whoever makes them, so they
//! are `pread(2)`. Where the kernel or a container refuses io_uring,
//! [`machvm_pagers::FileBlock`] does the same with `pwrite(2)`.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use io_uring::{IoUring, opcode, types};
use machvm_pagers::{Block, Buffer, Done};

/// Entries of a ring, and most writes at a time.
const ENTRIES: u32 = 64;

/// A file or device whose writes go through a ring.
pub struct UringBlock {
    ring: Mutex<Ring>,
    // After the ring: it goes first.
    file: Arc<File>,
}

struct Ring {
    io: IoUring,
    /// By token: what the kernel may read at any time.
    held: [Option<Arc<Buffer>>; ENTRIES as usize],
}

impl UringBlock {
    /// A ring for `file`, whose own offset is not used.
    ///
    /// # Errors
    /// There is no io_uring here, or it is refused.
    pub fn new(file: Arc<File>) -> io::Result<Self> {
        let io = IoUring::new(ENTRIES)?;
        let mut probe = io_uring::Probe::new();
        io.submitter().register_probe(&mut probe)?;
        if !probe.is_supported(opcode::Write::CODE) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(UringBlock { ring: Mutex::new(Ring { io, held: [const { None }; ENTRIES as usize] }), file })
    }
    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    fn next(&mut self) -> Option<Done> {
        let entry = self.io.completion().next()?;
        let token = entry.user_data() as usize;
        if let Some(held) = self.held.get_mut(token) {
            *held = None;
        }
        let n = entry.result();
        let result = if n < 0 { Err(io::Error::from_raw_os_error(-n)) } else { Ok(n as usize) };
        Some(Done { token, result })
    }
    fn is_idle(&self) -> bool {
        self.held.iter().all(Option::is_none)
    }
    /// Waits until a write has ended.
    fn wait(&mut self) {
        // EINTR, or EBUSY while completions are to be taken: the caller looks and asks again.
        let _ = self.io.submit_and_wait(1);
    }
}

impl Block for UringBlock {
    fn read_at(&self, to: &mut [u8], at: u64) -> io::Result<usize> {
        self.file.read_at(to, at)
    }
    fn begin_write(&self, token: usize, from: &Arc<Buffer>, part: Range<usize>, at: u64) -> io::Result<()> {
        let bytes = from.bytes().get(part).ok_or(io::ErrorKind::InvalidInput)?;
        let ring = &mut *self.ring();
        let held = ring.held.get_mut(token).filter(|h| h.is_none()).ok_or(io::ErrorKind::InvalidInput)?;
        let write = opcode::Write::new(types::Fd(self.file.as_raw_fd()), bytes.as_ptr(), bytes.len() as u32);
        let entry = write.offset(at).build().user_data(token as u64);
        // SAFETY: the bytes are those of a buffer that `held` keeps, unchanged as it is
        // shared, until the completion is taken; the file is open as long as the ring.
        unsafe { ring.io.submission().push(&entry) }.map_err(|_| io::ErrorKind::WouldBlock)?;
        *held = Some(Arc::clone(from));
        // An entry that is not taken now is taken by the next call that submits or waits.
        let _ = ring.io.submit();
        Ok(())
    }
    fn finished(&self, wait: bool) -> Option<Done> {
        let mut ring = match self.ring.try_lock() {
            Ok(ring) => ring,
            Err(TryLockError::Poisoned(ring)) => ring.into_inner(),
            Err(TryLockError::WouldBlock) if wait => self.ring(),
            // Who has it is told.
            Err(TryLockError::WouldBlock) => return None,
        };
        if let Some(done) = ring.next() {
            return Some(done);
        }
        if wait && !ring.is_idle() {
            ring.wait();
            return ring.next();
        }
        None
    }
    fn method(&self) -> &'static str {
        "io_uring"
    }
}

impl Drop for UringBlock {
    /// The buffers are the kernel's until it has told of their writes.
    fn drop(&mut self) {
        let ring = self.ring.get_mut().unwrap_or_else(PoisonError::into_inner);
        while !ring.is_idle() {
            if ring.next().is_none() {
                ring.wait();
            }
        }
    }
}

impl std::fmt::Debug for UringBlock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UringBlock").field("file", &self.file).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s08_writes_end_once_and_are_there() {
        let dir = std::env::temp_dir();
        let path = dir.join(format!("machvm-uring-{}", std::process::id()));
        let file = File::options().read(true).write(true).create_new(true).open(&path).expect("made");
        std::fs::remove_file(&path).expect("removed");
        let Ok(block) = UringBlock::new(Arc::new(file)) else {
            println!("no io_uring here");
            return;
        };
        let buffers: Vec<_> = (0..8u8)
            .map(|n| {
                let mut b = Buffer::new(2);
                b.bytes_mut().fill(n + 1);
                Arc::new(b)
            })
            .collect();
        for (token, b) in buffers.iter().enumerate() {
            block.begin_write(token, b, 0..8192, token as u64 * 8192).expect("begun");
        }
        assert!(block.begin_write(64, &buffers[0], 0..10, 0).is_err());
        assert!(block.begin_write(0, &buffers[0], 0..9000, 0).is_err());
        let mut seen = [false; 8];
        while seen.contains(&false) {
            let Some(done) = block.finished(true) else { continue };
            assert_eq!(done.result.expect("written"), 8192);
            assert!(!std::mem::replace(&mut seen[done.token], true), "told once");
        }
        assert!(block.finished(true).is_none() && block.finished(false).is_none());
        let mut back = [0; 8192];
        for n in 0..8u8 {
            assert_eq!(block.read_at(&mut back, u64::from(n) * 8192).expect("read"), 8192);
            assert!(back.iter().all(|b| *b == n + 1));
        }
        assert!(buffers.iter().all(|b| Arc::strong_count(b) == 1));
    }
}
