//! What open files that are no inodes can do, and what poll sees.

use crate::errno::{EINVAL, ENOTTY, Result};

pub(crate) const POLLIN: u16 = 1;
pub(crate) const POLLPRI: u16 = 2;
pub(crate) const POLLOUT: u16 = 4;
pub(crate) const POLLERR: u16 = 8;
pub(crate) const POLLHUP: u16 = 0x10;
pub(crate) const POLLNVAL: u16 = 0x20;
pub(crate) const POLLRDHUP: u16 = 0x2000;

/// An open thing without a position: a pipe's end, a socket, a counter.
pub(crate) trait Special: Send + Sync {
    /// Takes bytes out; with `nonblock` EAGAIN instead of waiting.
    ///
    /// # Errors
    /// As read(2).
    fn read(&self, _buf: &mut [u8], _nonblock: bool) -> Result<usize> {
        Err(EINVAL)
    }
    /// As [`Special::read`], of what has bytes at positions.
    ///
    /// # Errors
    /// As pread(2).
    fn read_at(&self, _at: u64, buf: &mut [u8], nonblock: bool) -> Result<usize> {
        self.read(buf, nonblock)
    }
    /// As [`Special::write`], of what has bytes at positions.
    ///
    /// # Errors
    /// As pwrite(2).
    fn write_at(&self, _at: u64, data: &[u8], nonblock: bool) -> Result<usize> {
        self.write(data, nonblock)
    }
    /// How many bytes it has at positions; `None`: it has no positions.
    fn size(&self) -> Option<u64> {
        None
    }
    /// fsync(2).
    ///
    /// # Errors
    /// As fsync(2).
    fn sync(&self) -> Result<()> {
        Ok(())
    }
    /// The disk that it is.
    fn disk(&self) -> Option<&'static crate::dev::Disk> {
        None
    }
    /// Puts bytes in.
    ///
    /// # Errors
    /// As write(2).
    fn write(&self, _data: &[u8], _nonblock: bool) -> Result<usize> {
        Err(EINVAL)
    }
    /// What could be done without waiting. Whatever changes the answer wakes [`super::wait::Waiters`].
    fn poll(&self) -> u16;
    /// Changes whenever something happened that epoll's EPOLLET tells.
    fn turn(&self) -> u32 {
        0
    }
    /// Bytes that could be read (FIONREAD).
    fn available(&self) -> Option<usize> {
        None
    }
    /// Is there something like a position, as /dev/zero pretends?
    fn seeks(&self) -> bool {
        false
    }
    /// Asks for the size of a pipe, or sets it.
    ///
    /// # Errors
    /// It is none.
    fn capacity(&self, _new: Option<usize>) -> Result<usize> {
        Err(crate::errno::EBADF)
    }
    /// ioctl(2).
    ///
    /// # Errors
    /// ENOTTY: not with this.
    fn ioctl(&self, _code: u32, _argument: u64) -> Result {
        Err(ENOTTY)
    }
    /// Longest message that is written at once; `None`: there are none, only bytes.
    fn message_max(&self) -> Option<usize> {
        None
    }
    /// A socket: what else it can do.
    fn socket(&self) -> Option<&super::socket::Socket> {
        None
    }
    /// A timerfd.
    fn timer(&self) -> Option<&super::timerfd::Timer> {
        None
    }
    /// A signalfd.
    fn signals(&self) -> Option<&super::signalfd::Signals> {
        None
    }
    /// An epoll set.
    fn epoll(&self) -> Option<&super::epoll::Set> {
        None
    }
    /// What /proc/PID/fd says of it.
    fn label(&self) -> &'static str {
        "pipe"
    }
}
