//! Pipes.

use alloc::collections::VecDeque;
use alloc::sync::Arc;

use machvm_hal::{Event, Woken};

use crate::errno::{EBADF, EPIPE, ERESTARTSYS, Result};
use crate::mutex::Mutex;
use crate::sched;

/// Bytes that a pipe holds.
const CAPACITY: usize = 65_536;

struct Pipe {
    bytes: VecDeque<u8>,
    readers: u32,
    writers: u32,
}

/// An end of a pipe; both ends share it.
pub(crate) struct End {
    pipe: Arc<Mutex<Pipe>>,
    writes: bool,
}

/// A new pipe: the end to read from, the end to write to.
pub(crate) fn pipe() -> (End, End) {
    let pipe = Arc::new(Mutex::new(Pipe { bytes: VecDeque::new(), readers: 1, writers: 1 }));
    (End { pipe: pipe.clone(), writes: false }, End { pipe, writes: true })
}

impl End {
    fn event(&self) -> Event {
        Event(Arc::as_ptr(&self.pipe) as u64)
    }

    /// Waits until the other side did something. => `done` was false a moment ago; it is asked once more.
    fn wait(&self, done: impl Fn(&Pipe) -> bool) -> Result<()> {
        let ticket = sched::assert_wait(self.event());
        let over = match self.pipe.try_lock() {
            Some(p) => done(&p),
            None => true,
        };
        if over {
            sched::cancel(ticket);
            sched::yield_now();
            return Ok(());
        }
        match sched::block_interruptible(ticket, None) {
            Woken::Interrupted => Err(ERESTARTSYS),
            _ => Ok(()),
        }
    }

    /// Reads what is there; waits while nothing is and somebody may still write.
    pub(crate) fn read(&self, buf: &mut [u8]) -> Result<usize> {
        if self.writes {
            return Err(EBADF);
        }
        loop {
            {
                let mut p = self.pipe.lock();
                if !p.bytes.is_empty() || p.writers == 0 || buf.is_empty() {
                    let n = buf.len().min(p.bytes.len());
                    for (to, from) in buf.iter_mut().zip(p.bytes.drain(..n)) {
                        *to = from;
                    }
                    drop(p);
                    sched::wakeup(self.event());
                    return Ok(n);
                }
            }
            self.wait(|p| !p.bytes.is_empty() || p.writers == 0)?;
        }
    }

    /// Writes everything, waiting for room.
    pub(crate) fn write(&self, data: &[u8]) -> Result<usize> {
        if !self.writes {
            return Err(EBADF);
        }
        let mut done = 0;
        while done < data.len() {
            {
                let mut p = self.pipe.lock();
                if p.readers == 0 {
                    return Err(EPIPE);
                }
                let n = (CAPACITY - p.bytes.len()).min(data.len() - done);
                p.bytes.extend(&data[done..done + n]);
                done += n;
            }
            sched::wakeup(self.event());
            if done < data.len()
                && let Err(e) = self.wait(|p| p.bytes.len() < CAPACITY || p.readers == 0)
            {
                return if done != 0 { Ok(done) } else { Err(e) };
            }
        }
        Ok(done)
    }
}

impl Drop for End {
    fn drop(&mut self) {
        {
            let mut p = self.pipe.lock();
            if self.writes {
                p.writers -= 1;
            } else {
                p.readers -= 1;
            }
        }
        sched::wakeup(self.event());
    }
}
