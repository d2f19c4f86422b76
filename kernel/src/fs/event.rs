//! eventfd: a counter.

use super::poll::{POLLERR, POLLIN, POLLOUT, Special};
use super::wait::Waiters;
use crate::errno::{EAGAIN, EINVAL, Result};
use crate::mutex::Mutex;

/// A counter.
pub(crate) struct Counter {
    value: Mutex<u64>,
    semaphore: bool,
    waiters: Waiters,
}

impl Counter {
    pub(crate) fn new(value: u64, semaphore: bool) -> Self {
        Counter { value: Mutex::new(value), semaphore, waiters: Waiters::new() }
    }
}

impl Special for Counter {
    fn read(&self, buf: &mut [u8], nonblock: bool) -> Result<usize> {
        let to = buf.get_mut(..8).ok_or(EINVAL)?;
        let got = self.waiters.until(None, || {
            let mut v = self.value.lock();
            if *v == 0 {
                return nonblock.then_some(Err(EAGAIN));
            }
            let n = if self.semaphore { 1 } else { *v };
            *v -= n;
            Some(Ok(n))
        })?;
        to.copy_from_slice(&got.to_le_bytes());
        self.waiters.wake();
        Ok(8)
    }
    fn write(&self, data: &[u8], nonblock: bool) -> Result<usize> {
        let n = data.get(..8).and_then(|d| d.try_into().ok()).map(u64::from_le_bytes).ok_or(EINVAL)?;
        if n == u64::MAX {
            return Err(EINVAL);
        }
        self.waiters.until(None, || {
            let mut v = self.value.lock();
            if u64::MAX - *v <= n {
                return nonblock.then_some(Err(EAGAIN));
            }
            *v += n;
            Some(Ok(()))
        })?;
        self.waiters.wake();
        Ok(8)
    }
    fn turn(&self) -> u32 {
        self.waiters.turn()
    }
    fn poll(&self) -> u16 {
        let v = *self.value.lock();
        (if v != 0 { POLLIN } else { 0 })
            | (if v < u64::MAX - 1 { POLLOUT } else { 0 })
            | (if v == u64::MAX { POLLERR } else { 0 })
    }
    fn label(&self) -> &'static str {
        "anon_inode:[eventfd]"
    }
}
