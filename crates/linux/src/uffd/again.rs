//! A userfaultfd for the child of a fork.

use super::{Uffd, UffdError, handshake, new_fd, wanted};
use crate::sys;
use std::io;
use std::os::fd::AsRawFd;

impl Uffd {
    /// In the child of a fork, whose descriptor still acts on the parent's memory: a new one
    /// of the same kind takes its place. Nothing is registered with it.
    ///
    /// # Errors
    /// [`UffdError`]; the descriptor is the parent's still.
    pub(crate) fn begin_anew(&self) -> Result<(), UffdError> {
        // SAFETY: no memory is passed.
        let flags = unsafe { libc::fcntl(self.raw(), libc::F_GETFL) };
        let fd = new_fd(self.mode, flags & libc::O_NONBLOCK != 0)?;
        handshake(fd.as_raw_fd(), wanted(self.mode))
            .map_err(|e| UffdError::Io(io::Error::from_raw_os_error(e)))?;
        sys::replace(self.raw(), fd).map_err(UffdError::Io)
    }
}
