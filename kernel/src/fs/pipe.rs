//! Pipes, with names and without.

use alloc::collections::VecDeque;
use alloc::sync::Arc;

use super::poll::{POLLERR, POLLHUP, POLLIN, POLLOUT, Special};
use super::wait::Waiters;
use crate::errno::{EAGAIN, EBADF, EBUSY, EINVAL, ENXIO, EPIPE, Result};
use crate::mutex::Mutex;

/// Bytes that a pipe holds, unless F_SETPIPE_SZ said so; and the most that it may say.
const CAPACITY: usize = 65_536;
const CAPACITY_MAX: usize = 1 << 20;
/// So many bytes are written at once or not at all.
const PIPE_BUF: usize = 4096;

struct Inner {
    bytes: VecDeque<u8>,
    capacity: usize,
    readers: u32,
    writers: u32,
    /// Ends that were opened ever, for those who wait in open.
    readers_ever: u32,
    writers_ever: u32,
}

/// A pipe.
pub(crate) struct Pipe {
    inner: Mutex<Inner>,
    waiters: Waiters,
    /// It has a name: who opens it waits for the other side.
    named: bool,
}

/// An open end of one, or both ends.
pub(crate) struct End {
    pipe: Arc<Pipe>,
    reads: bool,
    writes: bool,
}

impl Pipe {
    pub(super) fn new(named: bool) -> Arc<Pipe> {
        let inner = Inner {
            bytes: VecDeque::new(),
            capacity: CAPACITY,
            readers: 0,
            writers: 0,
            readers_ever: 0,
            writers_ever: 0,
        };
        Arc::new(Pipe { inner: Mutex::new(inner), waiters: Waiters::new(), named })
    }
    /// An end of it.
    pub(super) fn end(self: &Arc<Self>, reads: bool, writes: bool) -> End {
        {
            let mut p = self.inner.lock();
            p.readers += u32::from(reads);
            p.readers_ever += u32::from(reads);
            p.writers += u32::from(writes);
            p.writers_ever += u32::from(writes);
        }
        self.waiters.wake();
        End { pipe: self.clone(), reads, writes }
    }
    /// open(2) of one with a name: waits for the other side.
    pub(super) fn open(self: &Arc<Self>, reads: bool, writes: bool, nonblock: bool) -> Result<End> {
        let seen = {
            let p = self.inner.lock();
            if self.named && writes && !reads && nonblock && p.readers == 0 {
                return Err(ENXIO);
            }
            (p.readers_ever, p.writers_ever)
        };
        let end = self.end(reads, writes);
        if self.named && !nonblock && reads != writes {
            self.waiters.until(None, || {
                let p = self.inner.lock();
                let there = if reads {
                    p.writers != 0 || p.writers_ever != seen.1
                } else {
                    p.readers != 0 || p.readers_ever != seen.0
                };
                there.then_some(Ok(()))
            })?;
        }
        Ok(end)
    }
}

/// Moves the first bytes of a queue.
pub(super) fn take(from: &mut VecDeque<u8>, to: &mut [u8]) -> usize {
    let n = to.len().min(from.len());
    let (a, b) = from.as_slices();
    let first = n.min(a.len());
    to[..first].copy_from_slice(&a[..first]);
    to[first..n].copy_from_slice(&b[..n - first]);
    from.drain(..n);
    n
}

impl Special for End {
    /// Reads what is there; waits while nothing is and somebody may still write.
    fn read(&self, buf: &mut [u8], nonblock: bool) -> Result<usize> {
        if !self.reads {
            return Err(EBADF);
        }
        if buf.is_empty() {
            return Ok(0);
        }
        let n = self.pipe.waiters.until(None, || {
            let mut p = self.pipe.inner.lock();
            if !p.bytes.is_empty() {
                return Some(Ok(take(&mut p.bytes, buf)));
            }
            if p.writers == 0 {
                return Some(Ok(0));
            }
            nonblock.then_some(Err(EAGAIN))
        })?;
        if n != 0 {
            self.pipe.waiters.wake();
        }
        Ok(n)
    }

    /// Writes everything, waiting for room.
    fn write(&self, data: &[u8], nonblock: bool) -> Result<usize> {
        if !self.writes {
            return Err(EBADF);
        }
        let mut done = 0;
        while done < data.len() {
            let rest = &data[done..];
            let put = self.pipe.waiters.until(None, || {
                let mut p = self.pipe.inner.lock();
                if p.readers == 0 {
                    return Some(Err(EPIPE));
                }
                let room = p.capacity.saturating_sub(p.bytes.len());
                if room == 0 || rest.len() <= PIPE_BUF && room < rest.len() {
                    return nonblock.then_some(Err(EAGAIN));
                }
                let n = room.min(rest.len());
                p.bytes.extend(&rest[..n]);
                Some(Ok(n))
            });
            match put {
                Ok(n) => {
                    done += n;
                    self.pipe.waiters.wake();
                }
                Err(_) if done != 0 => break,
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn turn(&self) -> u32 {
        self.pipe.waiters.turn()
    }
    fn poll(&self) -> u16 {
        let p = self.pipe.inner.lock();
        let mut events = 0;
        if self.reads {
            events |= if p.bytes.is_empty() { 0 } else { POLLIN };
            // A pipe with a name that nobody wrote to yet has not hung up.
            events |= if p.writers == 0 && p.writers_ever != 0 { POLLHUP } else { 0 };
        }
        if self.writes {
            events |= if p.capacity.saturating_sub(p.bytes.len()) >= PIPE_BUF { POLLOUT } else { 0 };
            events |= if p.readers == 0 { POLLERR } else { 0 };
        }
        events
    }
    fn available(&self) -> Option<usize> {
        Some(self.pipe.inner.lock().bytes.len())
    }
    fn capacity(&self, new: Option<usize>) -> Result<usize> {
        let mut p = self.pipe.inner.lock();
        if let Some(n) = new {
            let n = n.max(PIPE_BUF).checked_next_power_of_two().ok_or(EINVAL)?;
            if n > CAPACITY_MAX {
                return Err(crate::errno::EPERM);
            }
            if p.bytes.len() > n {
                return Err(EBUSY);
            }
            p.capacity = n;
        }
        Ok(p.capacity)
    }
}

impl Drop for End {
    fn drop(&mut self) {
        {
            let mut p = self.pipe.inner.lock();
            p.readers -= u32::from(self.reads);
            p.writers -= u32::from(self.writes);
            if p.readers == 0 && p.writers == 0 {
                p.bytes = VecDeque::new();
            }
        }
        self.pipe.waiters.wake();
    }
}
