//! A socket of packets, with deadlines.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType,
};

use super::wire::{MESSAGE, Message, WireError};

/// One end of a connection.
#[derive(Debug)]
pub(super) struct Link {
    socket: OwnedFd,
}

/// What came.
#[derive(Debug)]
pub(super) enum Received {
    /// A message.
    Message(Message),
    /// Bytes that are none.
    Garbage(WireError),
    /// Nothing yet.
    Nothing,
    /// The other side closed, or is no more.
    End,
}

/// Neither broken pipes as signals nor waiting in the call.
const SEND: SendFlags = SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT);
const RECEIVE: RecvFlags = RecvFlags::DONTWAIT.union(RecvFlags::CMSG_CLOEXEC).union(RecvFlags::TRUNC);

/// Time until `end`, for `poll`.
fn left(end: Instant) -> Timespec {
    let left = end.saturating_duration_since(Instant::now()).min(Duration::from_hours(1));
    // A nanosecond more, so that the deadline is over when the wait is.
    Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) }
}

/// Waits until one of the descriptors has something to read (or, with `write`, room), or
/// until `end`. A signal ends it early.
pub(super) fn wait(fds: &[BorrowedFd<'_>], write: bool, end: Instant) -> io::Result<()> {
    let events = if write { PollFlags::OUT } else { PollFlags::IN };
    let mut all = [const { None }; 2];
    for (to, fd) in all.iter_mut().zip(fds) {
        *to = Some(PollFd::from_borrowed_fd(*fd, events));
    }
    let done = match &mut all {
        [Some(a), Some(b)] => poll(&mut [a.clone(), b.clone()], Some(&left(end))),
        [Some(a), None] => poll(&mut [a.clone()], Some(&left(end))),
        _ => Ok(0),
    };
    match done {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

impl Link {
    pub(super) fn new(socket: OwnedFd) -> Link {
        Link { socket }
    }

    /// A connection to the pager that listens at `path`.
    pub(super) fn connect(path: &Path) -> io::Result<Link> {
        let flags = SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Link { socket })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Sends a message; waits for room until `end`.
    ///
    /// # Errors
    /// `TimedOut`: the other side does not read. Anything else: it is no more.
    pub(super) fn send(&self, m: &Message, end: Instant) -> io::Result<()> {
        self.retry(end, || rustix::net::send(&self.socket, &m.encode(), SEND))
    }

    /// As [`Link::send`], with a descriptor.
    pub(super) fn send_with(&self, m: &Message, fd: BorrowedFd<'_>, end: Instant) -> io::Result<()> {
        let fds = [fd];
        self.retry(end, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
                return Err(Errno::NOBUFS);
            }
            rustix::net::sendmsg(&self.socket, &[IoSlice::new(&m.encode())], &mut control, SEND)
        })
    }

    fn retry(&self, end: Instant, mut send: impl FnMut() -> Result<usize, Errno>) -> io::Result<()> {
        loop {
            match send() {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN | Errno::NOBUFS) if Instant::now() < end => {
                    wait(&[self.fd()], true, end)?;
                }
                Err(Errno::AGAIN | Errno::NOBUFS) => return Err(io::ErrorKind::TimedOut.into()),
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// What is there now. Descriptors that come with it are closed.
    pub(super) fn receive(&self) -> Received {
        // A byte more, so that longer messages are seen to be longer.
        let mut bytes = [0; MESSAGE + 1];
        loop {
            return match rustix::net::recv(&self.socket, &mut bytes[..], RECEIVE) {
                Ok((_, 0)) => Received::End,
                Ok((_, n)) => Self::decode(&bytes, n),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => Received::Nothing,
                Err(_) => Received::End,
            };
        }
    }

    fn decode(bytes: &[u8], n: usize) -> Received {
        match bytes.get(..n).ok_or(WireError::Length(n)).and_then(Message::decode) {
            Ok(m) => Received::Message(m),
            Err(e) => Received::Garbage(e),
        }
    }

    /// Waits for one message until `end`.
    pub(super) fn receive_until(&self, end: Instant) -> io::Result<Received> {
        loop {
            match self.receive() {
                Received::Nothing if Instant::now() < end => wait(&[self.fd()], false, end)?,
                Received::Nothing => return Err(io::ErrorKind::TimedOut.into()),
                other => return Ok(other),
            }
        }
    }

    /// As [`Link::receive_until`], with the descriptor that came along, if it is one.
    pub(super) fn receive_with(&self, end: Instant) -> io::Result<(Received, Option<OwnedFd>)> {
        loop {
            let mut bytes = [0; MESSAGE + 1];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut to = [IoSliceMut::new(&mut bytes)];
            let got = rustix::net::recvmsg(&self.socket, &mut to, &mut control, RECEIVE);
            let n = match got {
                Ok(r) if r.bytes == 0 => return Ok((Received::End, None)),
                Ok(r) => r.bytes,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) if Instant::now() < end => {
                    wait(&[self.fd()], false, end)?;
                    continue;
                }
                Err(Errno::AGAIN) => return Err(io::ErrorKind::TimedOut.into()),
                Err(e) => return Err(e.into()),
            };
            let mut fds: Vec<OwnedFd> = Vec::new();
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(rights) = message {
                    fds.extend(rights);
                }
            }
            let fd = if fds.len() == 1 { fds.pop() } else { None };
            return Ok((Self::decode(&bytes, n), fd));
        }
    }

    /// Ends the connection for both sides; what waits on it learns so.
    pub(super) fn hang_up(&self) {
        // Fails where the other side is gone already.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
    }
}
