//! `userfaultfd`: the system call, its ioctls and its messages.
//!
//! The structures and numbers are written by hand: C libraries and kernel headers
//! lag behind the kernel by years (`CONTINUE_MODE_WP` is of Linux 6.4, `POISON` of
//! 6.6).

mod again;

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use machvm_hal::{PAGE_SIZE, Va, VaRange};

use crate::sys;

/// `UFFD_API`.
const API: u64 = 0xaa;
/// `UFFD_USER_MODE_ONLY`.
const USER_MODE_ONLY: i32 = 1;

/// `UFFD_FEATURE_*`.
pub mod feature {
    /// `PAGEFAULT_FLAG_WP`: write protection.
    pub const WP: u64 = 1 << 0;
    /// `MISSING_SHMEM`: faults on holes of a memfd.
    pub const MISSING_SHMEM: u64 = 1 << 5;
    /// `SIGBUS`: a signal instead of a wait.
    pub const SIGBUS: u64 = 1 << 7;
    /// `THREAD_ID`: messages name the thread.
    pub const THREAD_ID: u64 = 1 << 8;
    /// `MINOR_SHMEM`: faults on pages that the memfd has.
    pub const MINOR_SHMEM: u64 = 1 << 10;
    /// `EXACT_ADDRESS`: messages name the byte, not the page.
    pub const EXACT_ADDRESS: u64 = 1 << 11;
    /// `WP_HUGETLBFS_SHMEM`: write protection of a memfd.
    pub const WP_SHMEM: u64 = 1 << 12;
    /// `WP_UNPOPULATED`: came with `CONTINUE_MODE_WP`, which has no bit of its own.
    pub const WP_UNPOPULATED: u64 = 1 << 13;
    /// `POISON`.
    pub const POISON: u64 = 1 << 14;

    pub(super) const NAMES: [(u64, &str); 9] = [
        (WP, "PAGEFAULT_FLAG_WP (Linux 5.7)"),
        (MISSING_SHMEM, "MISSING_SHMEM (Linux 4.11)"),
        (SIGBUS, "SIGBUS (Linux 4.14)"),
        (THREAD_ID, "THREAD_ID (Linux 4.14)"),
        (MINOR_SHMEM, "MINOR_SHMEM (Linux 5.14)"),
        (EXACT_ADDRESS, "EXACT_ADDRESS (Linux 5.18)"),
        (WP_SHMEM, "WP_HUGETLBFS_SHMEM (Linux 5.19)"),
        (WP_UNPOPULATED, "WP_UNPOPULATED (Linux 6.4)"),
        (POISON, "POISON (Linux 6.6)"),
    ];
}

const REGISTER_MISSING: u64 = 1;
const REGISTER_WP: u64 = 2;
const REGISTER_MINOR: u64 = 4;
const CONTINUE_DONTWAKE: u64 = 1;
const ZEROPAGE_DONTWAKE: u64 = 1;
const CONTINUE_WP: u64 = 2;
const WRITEPROTECT_WP: u64 = 1;
const WRITEPROTECT_DONTWAKE: u64 = 2;
const EVENT_PAGEFAULT: u8 = 0x12;
const PAGEFAULT_WRITE: u64 = 1;
const PAGEFAULT_WP: u64 = 2;
const PAGEFAULT_MINOR: u64 = 4;

/// `struct uffdio_range`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Range {
    start: u64,
    len: u64,
}
/// `struct uffdio_api`.
#[repr(C)]
struct ApiArg {
    api: u64,
    features: u64,
    ioctls: u64,
}
/// `struct uffdio_register`.
#[repr(C)]
struct RegisterArg {
    range: Range,
    mode: u64,
    ioctls: u64,
}
/// `struct uffdio_writeprotect`.
#[repr(C)]
struct WriteProtectArg {
    range: Range,
    mode: u64,
}
/// `struct uffdio_zeropage`, `_continue` and `_poison`: the same shape.
#[repr(C)]
struct ProgressArg {
    range: Range,
    mode: u64,
    /// Bytes done, or minus an errno.
    done: i64,
}
/// `struct uffd_msg` of a page fault.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Msg {
    event: u8,
    _reserved: [u8; 7],
    flags: u64,
    address: u64,
    tid: u32,
    _pad: u32,
}

/// `_IOC(dir, 0xaa, nr, size)`.
const fn ioc(dir: u64, nr: u64, size: usize) -> u64 {
    (dir << 30) | ((size as u64) << 16) | (0xaa << 8) | nr
}
const IOC_READ: u64 = 2;
const IOC_BOTH: u64 = 3;
const UFFDIO_API: u64 = ioc(IOC_BOTH, 0x3f, size_of::<ApiArg>());
const UFFDIO_REGISTER: u64 = ioc(IOC_BOTH, 0x00, size_of::<RegisterArg>());
const UFFDIO_UNREGISTER: u64 = ioc(IOC_READ, 0x01, size_of::<Range>());
const UFFDIO_WAKE: u64 = ioc(IOC_READ, 0x02, size_of::<Range>());
const UFFDIO_WRITEPROTECT: u64 = ioc(IOC_BOTH, 0x06, size_of::<WriteProtectArg>());
const UFFDIO_ZEROPAGE: u64 = ioc(IOC_BOTH, 0x04, size_of::<ProgressArg>());
const UFFDIO_CONTINUE: u64 = ioc(IOC_BOTH, 0x07, size_of::<ProgressArg>());
const UFFDIO_POISON: u64 = ioc(IOC_BOTH, 0x08, size_of::<ProgressArg>());
/// `USERFAULTFD_IOC_NEW` of `/dev/userfaultfd`.
const USERFAULTFD_IOC_NEW: u64 = ioc(0, 0x00, 0);

/// How a fault is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// As SIGBUS in the faulting thread. Needs no privilege; a system call given an
    /// absent page fails with EFAULT.
    Signal,
    /// As a message, while the thread (in user mode or in a system call) waits.
    Blocking,
}

/// Why there is no userfaultfd, and what to do.
#[derive(Debug)]
pub enum UffdError {
    /// The kernel was built without it.
    Absent,
    /// The kernel lacks features; their names.
    Features(Vec<&'static str>),
    /// The process may not have one that sees faults in system calls.
    Denied,
    /// Something else.
    Io(io::Error),
}

impl core::fmt::Display for UffdError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            UffdError::Absent => f.write_str(
                "this kernel has no userfaultfd (CONFIG_USERFAULTFD), or a seccomp filter hides it",
            ),
            UffdError::Features(names) => {
                write!(f, "this kernel's userfaultfd lacks {}; use Linux 6.4 or later", names.join(", "))
            }
            UffdError::Denied => f.write_str(
                "no permission for a userfaultfd that sees faults in system calls: \
                 run as root or with CAP_SYS_PTRACE, or `sysctl vm.unprivileged_userfaultfd=1`, \
                 or make /dev/userfaultfd readable and writable",
            ),
            UffdError::Io(e) => write!(f, "userfaultfd: {e}"),
        }
    }
}
impl std::error::Error for UffdError {}

/// Why [`Uffd::continue_range`] stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// No memory for page tables.
    NoMemory,
    /// The memfd has no page there.
    Hole,
    /// No mapping of ours is there (`errno`).
    NoRegion(i32),
}

/// One message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The byte that was accessed.
    pub address: u64,
    /// A write, or a read (or instruction fetch).
    pub write: bool,
    /// The page is there but write-protected.
    pub protected: bool,
    /// The memfd has the page; otherwise it is a hole.
    pub minor: bool,
    /// The thread, as the opener's PID namespace numbers it; 0: not told.
    pub tid: u32,
}

/// What [`WATCHED`] is when nothing is, or when it was woken.
const NOT_WATCHED: u64 = u64::MAX;

thread_local! {
    /// The page whose waiters this thread is about to serve.
    static WATCHED: Cell<u64> = const { Cell::new(NOT_WATCHED) };
}

/// From here on this thread notes whether an operation of its own wakes who waits for
/// the page at `va`; [`watched_waits`] tells.
pub fn watch(va: Va) {
    WATCHED.set(va.get());
}

/// Nothing since [`watch`] woke who waits for the page: [`Uffd::wake`] must.
pub fn watched_waits() -> bool {
    WATCHED.replace(NOT_WATCHED) != NOT_WATCHED
}

/// A userfaultfd of this process.
#[derive(Debug)]
pub struct Uffd {
    fd: OwnedFd,
    mode: Mode,
    features: u64,
}

fn new_fd(mode: Mode, nonblocking: bool) -> Result<OwnedFd, UffdError> {
    let mut flags = libc::O_CLOEXEC;
    if nonblocking {
        flags |= libc::O_NONBLOCK;
    }
    if mode == Mode::Signal {
        // Faults of the kernel become EFAULT in either case with SIGBUS; so say
        // from the start that we do not want them, and need no privilege.
        flags |= USER_MODE_ONLY;
    }
    let e = match sys::userfaultfd(flags) {
        Ok(fd) => return Ok(fd),
        Err(e) => e,
    };
    match e.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => device_fd(flags & !USER_MODE_ONLY),
        Some(libc::ENOSYS) => Err(UffdError::Absent),
        _ => Err(UffdError::Io(e)),
    }
}

/// The way of Linux 6.1: who may open the device may have a userfaultfd.
fn device_fd(flags: i32) -> Result<OwnedFd, UffdError> {
    use std::os::fd::FromRawFd;
    let dev = std::fs::File::options().read(true).write(true).open("/dev/userfaultfd");
    let dev = dev.map_err(|_| UffdError::Denied)?;
    // SAFETY: the argument is a number.
    let fd = unsafe { libc::ioctl(dev.as_raw_fd(), USERFAULTFD_IOC_NEW, flags) };
    if fd < 0 {
        return Err(UffdError::Io(io::Error::last_os_error()));
    }
    // SAFETY: the call made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The features that a mode needs.
fn wanted(mode: Mode) -> u64 {
    use feature::{EXACT_ADDRESS, MINOR_SHMEM, MISSING_SHMEM, WP, WP_SHMEM, WP_UNPOPULATED};
    let base = WP | MISSING_SHMEM | MINOR_SHMEM | EXACT_ADDRESS | WP_SHMEM | WP_UNPOPULATED;
    match mode {
        Mode::Signal => base | feature::SIGBUS,
        Mode::Blocking => base | feature::THREAD_ID,
    }
}

/// The handshake, once for each descriptor: every feature the kernel has.
fn handshake(fd: RawFd, features: u64) -> Result<u64, i32> {
    let mut arg = ApiArg { api: API, features, ioctls: 0 };
    // SAFETY: 1: its structure; 2: nothing is mapped or unmapped.
    unsafe { sys::ioctl(fd, UFFDIO_API, &mut arg) }?;
    Ok(arg.features)
}

impl Uffd {
    /// Opens one. With `nonblocking`, [`Uffd::read_faults`] does not wait (and the
    /// descriptor can be polled).
    ///
    /// # Errors
    /// [`UffdError`], which says what to do.
    pub fn open(mode: Mode, nonblocking: bool) -> Result<Self, UffdError> {
        let wanted = wanted(mode);
        let fd = new_fd(mode, nonblocking)?;
        match handshake(fd.as_raw_fd(), wanted) {
            Ok(features) => Ok(Uffd { fd, mode, features }),
            Err(libc::EINVAL) => {
                // Asking for nothing always succeeds and tells what there is.
                let probe = new_fd(mode, nonblocking)?;
                let has = handshake(probe.as_raw_fd(), 0).unwrap_or(0);
                let lacks = feature::NAMES.iter().filter(|(bit, _)| wanted & bit & !has != 0);
                Err(UffdError::Features(lacks.map(|(_, name)| *name).collect()))
            }
            Err(e) => Err(UffdError::Io(io::Error::from_raw_os_error(e))),
        }
    }

    /// How faults are told.
    pub fn mode(&self) -> Mode {
        self.mode
    }
    /// Does the kernel have all of these ([`feature`])?
    pub fn has(&self, features: u64) -> bool {
        self.features & features == features
    }
    /// Its number.
    pub(crate) fn raw(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// From here on every absent or write-protected access in the range is ours.
    ///
    /// # Errors
    /// The `errno`: EBUSY another userfaultfd has the range, EINVAL it is not all
    /// mapped, ENOMEM too many mappings.
    pub fn register(&self, range: VaRange) -> Result<(), i32> {
        let mode = REGISTER_MISSING | REGISTER_WP | REGISTER_MINOR;
        let mut arg = RegisterArg { range: raw_range(range), mode, ioctls: 0 };
        // SAFETY: 1: its structure; 2: no contents change.
        unsafe { sys::ioctl(self.raw(), UFFDIO_REGISTER, &mut arg) }.map(drop)
    }

    /// The range is Linux's again; who waits for a page in it is woken.
    ///
    /// # Errors
    /// The `errno`.
    pub fn unregister(&self, range: VaRange) -> Result<(), i32> {
        let mut arg = raw_range(range);
        // SAFETY: as above.
        unsafe { sys::ioctl(self.raw(), UFFDIO_UNREGISTER, &mut arg) }.map(drop)
    }

    /// Maps the pages that the memfd has, skips those that are mapped. In
    /// [`Mode::Blocking`] it wakes who waits for the pages it maps. `wp`:
    /// write-protected. Returns how many were mapped already.
    ///
    /// => the range lies in one VMA.
    ///
    /// # Errors
    /// The number of pages done, and [`Refusal`] for the next.
    pub fn continue_range(&self, range: VaRange, wp: bool) -> Result<u64, (u64, Refusal)> {
        let mode = self.dont_wake(CONTINUE_DONTWAKE) | if wp { CONTINUE_WP } else { 0 };
        let (mut done, mut there) = (0u64, 0u64);
        while done < range.bytes() {
            let rest = Range { start: range.start().get() + done, len: range.bytes() - done };
            let mut arg = ProgressArg { range: rest, mode, done: 0 };
            // SAFETY: 1: its structure; 2: only absent pages change, to those that
            // the mapping's own file has there.
            match unsafe { sys::ioctl(self.raw(), UFFDIO_CONTINUE, &mut arg) } {
                Ok(_) => {
                    self.woke(rest.start, rest.len);
                    break;
                }
                // Stopped at a mapped page, or (nothing done) a fork is under way.
                Err(libc::EAGAIN | libc::EINTR) => {
                    let part = u64::try_from(arg.done).unwrap_or(0);
                    self.woke(rest.start, part);
                    done += part;
                }
                Err(libc::EEXIST) => {
                    done += PAGE_SIZE;
                    there += 1;
                }
                Err(e) => {
                    let why = match e {
                        libc::ENOMEM => Refusal::NoMemory,
                        libc::EFAULT => Refusal::Hole,
                        other => Refusal::NoRegion(other),
                    };
                    return Err((done / PAGE_SIZE, why));
                }
            }
        }
        Ok(there)
    }

    /// Gives the holes at the start of the range zero pages and maps them, writable, up to
    /// the first page that is no hole. One call where allocating and mapping would be two.
    /// Returns how many were mapped.
    ///
    /// => as for [`Uffd::continue_range`].
    ///
    /// # Errors
    /// The `errno` for the first page.
    pub fn zero_range(&self, range: VaRange) -> Result<u64, i32> {
        let mode = self.dont_wake(ZEROPAGE_DONTWAKE);
        let mut done = 0;
        while done < range.bytes() {
            let rest = Range { start: range.start().get() + done, len: range.bytes() - done };
            let mut arg = ProgressArg { range: rest, mode, done: 0 };
            // SAFETY: 1: its structure; 2: only absent pages change, to zeroes.
            let part = match unsafe { sys::ioctl(self.raw(), UFFDIO_ZEROPAGE, &mut arg) } {
                Ok(_) => rest.len,
                // Stopped somewhere, or (nothing done) a fork is under way.
                Err(libc::EAGAIN | libc::EINTR) => u64::try_from(arg.done).unwrap_or(0),
                Err(e) if done == 0 => return Err(e),
                Err(_) => break,
            };
            self.woke(rest.start, part);
            done += part;
        }
        Ok(done / PAGE_SIZE)
    }

    /// Takes the mark away that stays where a write-protected page was; wakes nobody.
    ///
    /// => the pages are absent.
    pub(crate) fn clear_marks(&self, range: VaRange) {
        // Fails only where no mapping of ours is, and so no mark.
        let _ = self.protection(range, WRITEPROTECT_DONTWAKE);
    }

    /// Protects mapped pages against writing, or no longer. In [`Mode::Blocking`],
    /// unprotecting wakes who waits for the pages.
    ///
    /// => `on`: every page of the range is mapped, else page tables are built for
    /// nothing.
    ///
    /// # Errors
    /// The `errno`: ENOENT no mapping of ours is there.
    pub fn write_protect(&self, range: VaRange, on: bool) -> Result<(), i32> {
        let mode = if on { WRITEPROTECT_WP } else { self.dont_wake(WRITEPROTECT_DONTWAKE) };
        self.protection(range, mode)?;
        if !on {
            self.woke(range.start().get(), range.bytes());
        }
        Ok(())
    }

    fn protection(&self, range: VaRange, mode: u64) -> Result<(), i32> {
        loop {
            let mut arg = WriteProtectArg { range: raw_range(range), mode };
            // SAFETY: 1: its structure; 2: contents stay.
            match unsafe { sys::ioctl(self.raw(), UFFDIO_WRITEPROTECT, &mut arg) } {
                Err(libc::EAGAIN | libc::EINTR) => {}
                r => return r.map(drop),
            }
        }
    }

    fn dont_wake(&self, flag: u64) -> u64 {
        if self.mode == Mode::Signal { flag } else { 0 }
    }

    fn woke(&self, start: u64, len: u64) {
        if WATCHED.get().wrapping_sub(start) < len {
            WATCHED.set(NOT_WATCHED);
        }
    }

    /// Everybody who waits for a page of the range tries again.
    pub fn wake(&self, range: VaRange) {
        let mut arg = raw_range(range);
        // SAFETY: 1: its structure; 2: no memory changes. Fails only for an unmapped
        // range, where unmapping woke them.
        let _ = unsafe { sys::ioctl(self.raw(), UFFDIO_WAKE, &mut arg) };
    }

    /// From here on accesses to the absent pages of the range raise SIGBUS, in both
    /// modes, until the page is mapped or removed.
    ///
    /// # Errors
    /// The `errno`; EINVAL on kernels without [`feature::POISON`].
    pub fn poison(&self, range: VaRange) -> Result<(), i32> {
        let mut done = 0;
        while done < range.bytes() {
            let rest = Range { start: range.start().get() + done, len: range.bytes() - done };
            let mut arg = ProgressArg { range: rest, mode: 0, done: 0 };
            // SAFETY: 1: its structure; 2: only absent pages change.
            match unsafe { sys::ioctl(self.raw(), UFFDIO_POISON, &mut arg) } {
                Ok(_) => break,
                Err(libc::EAGAIN | libc::EINTR) => done += u64::try_from(arg.done).unwrap_or(0),
                Err(libc::EEXIST) => done += PAGE_SIZE,
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Reads messages ([`Mode::Blocking`]): at least one, unless the descriptor is
    /// non-blocking and there is none. Returns how many.
    ///
    /// # Errors
    /// What `read` says; EINTR and EAGAIN are 0 messages.
    pub fn read_faults(&self, faults: &mut [Fault]) -> io::Result<usize> {
        let mut msgs = [Msg::default(); 16];
        let want = faults.len().min(msgs.len()) * size_of::<Msg>();
        // SAFETY: room for `want` bytes, and any bytes are a `Msg`.
        let n = unsafe { libc::read(self.raw(), msgs.as_mut_ptr().cast(), want) };
        let Ok(n) = usize::try_from(n) else {
            return match sys::errno() {
                libc::EAGAIN | libc::EINTR => Ok(0),
                e => Err(io::Error::from_raw_os_error(e)),
            };
        };
        let mut count = 0;
        // No other event was asked for in the handshake.
        for m in msgs[..n / size_of::<Msg>()].iter().filter(|m| m.event == EVENT_PAGEFAULT) {
            faults[count] = Fault {
                address: m.address,
                write: m.flags & PAGEFAULT_WRITE != 0,
                protected: m.flags & PAGEFAULT_WP != 0,
                minor: m.flags & PAGEFAULT_MINOR != 0,
                tid: m.tid,
            };
            count += 1;
        }
        Ok(count)
    }
}

impl AsFd for Uffd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn raw_range(r: VaRange) -> Range {
    Range { start: r.start().get(), len: r.bytes() }
}

/// The page that a message or a signal names.
pub fn page_of(address: u64) -> Va {
    Va::containing(machvm_hal::RawAddr(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_the_kernels() {
        assert_eq!(UFFDIO_API, 0xc018_aa3f);
        assert_eq!(UFFDIO_REGISTER, 0xc020_aa00);
        assert_eq!(UFFDIO_UNREGISTER, 0x8010_aa01);
        assert_eq!(UFFDIO_WAKE, 0x8010_aa02);
        assert_eq!(UFFDIO_WRITEPROTECT, 0xc018_aa06);
        assert_eq!(UFFDIO_CONTINUE, 0xc020_aa07);
        assert_eq!(UFFDIO_POISON, 0xc020_aa08);
        assert_eq!(USERFAULTFD_IOC_NEW, 0xaa00);
        assert_eq!(size_of::<Msg>(), 32);
    }

    #[test]
    fn both_modes_open_and_say_what_they_have() {
        for mode in [Mode::Signal, Mode::Blocking] {
            let u = Uffd::open(mode, true).expect("root on Linux 6.4 or later");
            assert!(u.has(feature::MINOR_SHMEM | feature::WP_SHMEM));
            let none = Fault { address: 0, write: false, protected: false, minor: false, tid: 0 };
            assert_eq!(u.read_faults(&mut [none; 4]).expect("nothing to read"), 0);
        }
    }

    #[test]
    fn errors_name_what_is_missing_and_what_to_do() {
        let text = UffdError::Features(vec![feature::NAMES[4].1]).to_string();
        assert!(text.contains("MINOR_SHMEM") && text.contains("6.4"), "{text}");
        assert!(UffdError::Denied.to_string().contains("unprivileged_userfaultfd"));
    }

    #[test]
    fn ranges_that_are_not_ours_are_refused_not_touched() {
        let u = Uffd::open(Mode::Signal, true).expect("userfaultfd");
        let nowhere = VaRange::page(Va::from_page(1));
        assert_eq!(u.register(nowhere), Err(libc::EINVAL));
        assert!(matches!(u.continue_range(nowhere, false), Err((0, Refusal::NoRegion(_)))));
        assert!(u.write_protect(nowhere, true).is_err());
        u.wake(nowhere);
    }
}
