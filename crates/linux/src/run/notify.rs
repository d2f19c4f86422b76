//! The kernel's seccomp user-notification interface: structures, ioctls, and the
//! listener as a value.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::space::{Call, Errno, Reply};

/// `AUDIT_ARCH_X86_64`: the only architecture whose calls we decode.
pub const ARCH_X86_64: u32 = 0xc000_003e;

/// `struct seccomp_notif`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct RawNotif {
    id: u64,
    pid: u32,
    flags: u32,
    nr: i32,
    arch: u32,
    ip: u64,
    args: [u64; 6],
}

/// `struct seccomp_notif_resp`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct RawResp {
    id: u64,
    val: i64,
    error: i32,
    flags: u32,
}

const fn ioc(dir: u64, nr: u64, size: usize) -> u64 {
    (dir << 30) | ((size as u64) << 16) | ((b'!' as u64) << 8) | nr
}
const NOTIF_RECV: u64 = ioc(3, 0, size_of::<RawNotif>());
const NOTIF_SEND: u64 = ioc(3, 1, size_of::<RawResp>());
const NOTIF_SET_FLAGS: u64 = ioc(1, 4, 8);
const NOTIF_FD_SYNC_WAKE_UP: u64 = 1;
const RESP_CONTINUE: u32 = 1;

/// One call that waits for our answer.
#[derive(Clone, Copy, Debug)]
pub struct Notif {
    /// Names it towards the kernel.
    pub id: u64,
    /// `AUDIT_ARCH_*` of the call.
    pub arch: u32,
    /// What was called.
    pub call: Call,
}

/// Whether the answer found its thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sent {
    /// The thread goes on with our answer.
    Delivered,
    /// The thread was killed meanwhile, or somebody answered before us.
    Gone,
}

/// Wakes the caller on our CPU: a notified call costs 4 us that way and three
/// times as much across CPUs. Kernels before 6.6 do not know the flag, and nothing
/// but the time depends on it.
pub fn wake_on_this_cpu(listener: BorrowedFd<'_>) {
    // SAFETY: the ioctl takes its argument by value.
    unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_SET_FLAGS, NOTIF_FD_SYNC_WAKE_UP) };
}

/// Waits for the next call.
///
/// # Errors
/// ENOTCONN when no process has the filter any more; otherwise what
/// `SECCOMP_IOCTL_NOTIF_RECV` says. EINTR and ENOENT (the caller was killed before we
/// saw it) are handled here.
pub fn receive(listener: BorrowedFd<'_>) -> io::Result<Notif> {
    loop {
        // The kernel refuses a buffer that is not zero.
        let mut raw = RawNotif::default();
        // SAFETY: the buffer has the size the ioctl number names.
        if unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_RECV, &raw mut raw) } == 0 {
            return Ok(Notif {
                id: raw.id,
                arch: raw.arch,
                call: Call { tid: raw.pid as i32, nr: i64::from(raw.nr), args: raw.args, ip: raw.ip },
            });
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            // Kernels differ in what they say when nobody is left.
            Some(libc::ENOENT) if !is_abandoned(listener) => {}
            Some(libc::ENOENT) => return Err(io::Error::from_raw_os_error(libc::ENOTCONN)),
            _ => return Err(error),
        }
    }
}

/// No process has the filter any more.
#[must_use]
pub fn is_abandoned(listener: BorrowedFd<'_>) -> bool {
    let mut poll = libc::pollfd { fd: listener.as_raw_fd(), events: 0, revents: 0 };
    // SAFETY: one valid entry.
    let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
    ready > 0 && poll.revents & libc::POLLHUP != 0
}

/// Answers the call `id`.
///
/// # Errors
/// Anything but "the caller is gone".
pub fn send(listener: BorrowedFd<'_>, id: u64, reply: Reply) -> io::Result<Sent> {
    let mut raw = match reply {
        Reply::Value(val) => RawResp { id, val, ..RawResp::default() },
        Reply::Error(Errno(errno)) => RawResp { id, error: -errno, ..RawResp::default() },
        Reply::Continue => RawResp { id, flags: RESP_CONTINUE, ..RawResp::default() },
    };
    loop {
        // SAFETY: the buffer has the size the ioctl number names.
        if unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_SEND, &raw mut raw) } == 0 {
            return Ok(Sent::Delivered);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::ENOENT | libc::EINPROGRESS) => return Ok(Sent::Gone),
            _ => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ioctl_numbers_are_the_kernels() {
        assert_eq!(NOTIF_RECV, 0xc050_2100);
        assert_eq!(NOTIF_SEND, 0xc018_2101);
        assert_eq!(NOTIF_SET_FLAGS, 0x4008_2104);
    }
}
