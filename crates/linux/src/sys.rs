//! The system calls this crate makes, one thin function each, and the kernel
//! constants and structures that the C library of the day may be too old to know.
//!
//! Every function here is async-signal-safe: no allocation, no lock, nothing of
//! thread-local storage but `errno`.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// `MADV_POPULATE_WRITE` (Linux 5.14).
pub(crate) const MADV_POPULATE_WRITE: i32 = 23;
/// `MAP_FIXED_NOREPLACE` (Linux 4.17).
pub(crate) const MAP_FIXED_NOREPLACE: i32 = 0x10_0000;

const FUTEX_WAIT_BITSET_PRIVATE: i32 = 9 | 128;
const FUTEX_WAKE_BITSET_PRIVATE: i32 = 10 | 128;

/// The calling thread's `errno`.
pub(crate) fn errno() -> i32 {
    // SAFETY: the C library gives every thread a valid errno.
    unsafe { *libc::__errno_location() }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    match RawFd::try_from(result) {
        // SAFETY: the call just made this descriptor and gave it to us alone.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// `memfd_create(2)`.
pub(crate) fn memfd_create(name: &core::ffi::CStr) -> io::Result<OwnedFd> {
    // SAFETY: `name` ends in a zero byte.
    owned(unsafe { libc::syscall(libc::SYS_memfd_create, name.as_ptr(), libc::MFD_CLOEXEC) })
}

/// `dup3(2)`: what `fd` named is closed, and it names what `new` did.
pub(crate) fn replace(fd: RawFd, new: OwnedFd) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: no memory is passed; `fd` is the caller's.
    check(unsafe { libc::dup3(new.as_raw_fd(), fd, libc::O_CLOEXEC) })
}

/// The next byte from `from` on that the file has a page for, or (`hole`) has none for.
/// `None`: there is none before the end.
pub(crate) fn seek(fd: RawFd, from: u64, hole: bool) -> io::Result<Option<u64>> {
    let whence = if hole { libc::SEEK_HOLE } else { libc::SEEK_DATA };
    // SAFETY: no memory is passed. Nobody uses the descriptor's own offset.
    match unsafe { libc::lseek(fd, from.cast_signed(), whence) } {
        at if at >= 0 => Ok(Some(at.cast_unsigned())),
        _ if errno() == libc::ENXIO => Ok(None),
        _ => Err(io::Error::last_os_error()),
    }
}

/// `copy_file_range(2)` from a byte of one file to a byte of another; how many went.
pub(crate) fn copy_range(from: (RawFd, u64), to: (RawFd, u64), len: u64) -> io::Result<u64> {
    let (mut read, mut write) = (from.1.cast_signed(), to.1.cast_signed());
    // SAFETY: the two offsets are ours.
    let n = unsafe { libc::copy_file_range(from.0, &raw mut read, to.0, &raw mut write, len as usize, 0) };
    u64::try_from(n).map_err(|_| io::Error::last_os_error())
}

/// `ftruncate(2)`.
pub(crate) fn ftruncate(fd: RawFd, size: i64) -> io::Result<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::ftruncate(fd, size) })
}

/// `userfaultfd(2)`.
pub(crate) fn userfaultfd(flags: i32) -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed.
    owned(unsafe { libc::syscall(libc::SYS_userfaultfd, flags) })
}

/// `fallocate(2)`; again after EINTR.
pub(crate) fn fallocate(fd: RawFd, mode: i32, offset: u64, len: u64) -> io::Result<()> {
    loop {
        // SAFETY: no memory is passed.
        if unsafe { libc::fallocate(fd, mode, offset.cast_signed(), len.cast_signed()) } == 0 {
            return Ok(());
        }
        if errno() != libc::EINTR {
            return Err(io::Error::last_os_error());
        }
    }
}

/// `pread(2)`; how many bytes came.
pub(crate) fn pread(fd: RawFd, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    // SAFETY: the buffer is ours for its whole length.
    let n = unsafe { libc::pread(fd, buf.as_mut_ptr().cast(), buf.len(), offset.cast_signed()) };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

/// `pwrite(2)`; how many bytes went.
pub(crate) fn pwrite(fd: RawFd, buf: &[u8], offset: u64) -> io::Result<usize> {
    // SAFETY: the buffer is valid for its whole length.
    let n = unsafe { libc::pwrite(fd, buf.as_ptr().cast(), buf.len(), offset.cast_signed()) };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

/// `fstat(2)`: bytes of storage the file occupies.
pub(crate) fn allocated_bytes(fd: RawFd) -> io::Result<u64> {
    let mut st = core::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: room for one `stat`.
    check(unsafe { libc::fstat(fd, st.as_mut_ptr()) })?;
    // SAFETY: fstat succeeded and filled it.
    let blocks = unsafe { st.assume_init() }.st_blocks;
    Ok(blocks.cast_unsigned() * 512)
}

/// `rt_sigprocmask(2)`: the mask of this thread that was in force.
pub(crate) fn sigmask(how: i32, set: &libc::sigset_t) -> libc::sigset_t {
    /// The kernel's set has 64 signals, the C library's has room for more.
    const BYTES: usize = 8;
    // SAFETY: all zero is the empty set.
    let mut old: libc::sigset_t = unsafe { core::mem::zeroed() };
    // SAFETY: good sets; fails for a wrong `how` only.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, how, core::ptr::from_ref(set), &raw mut old, BYTES) };
    old
}

/// `ioctl(2)` with a structure.
///
/// # Safety
/// 1. `arg` is the structure that `request` names.
/// 2. What the kernel does to memory because of it is the caller's to answer for.
pub(crate) unsafe fn ioctl<T>(fd: RawFd, request: u64, arg: &mut T) -> Result<i32, i32> {
    // SAFETY: 1 makes the size right; 2 the rest.
    let r = unsafe { libc::ioctl(fd, request, core::ptr::from_mut(arg)) };
    if r < 0 { Err(errno()) } else { Ok(r) }
}

/// `mmap(2)`. The address, or `errno`.
///
/// # Safety
/// With `MAP_FIXED` in `flags`, whatever is mapped in the range is the caller's to
/// replace and nobody refers to it.
pub(crate) unsafe fn mmap(
    addr: u64,
    len: u64,
    prot: i32,
    flags: i32,
    fd: RawFd,
    offset: u64,
) -> Result<u64, i32> {
    let at = core::ptr::without_provenance_mut::<u8>(addr as usize);
    // SAFETY: passed on.
    let p = unsafe { libc::syscall(libc::SYS_mmap, at, len, prot, flags, fd, offset) };
    if p == -1 { Err(errno()) } else { Ok(p.cast_unsigned()) }
}

/// `munmap(2)`.
///
/// # Safety
/// The range is the caller's and nobody refers to it.
pub(crate) unsafe fn munmap(addr: u64, len: u64) -> Result<(), i32> {
    let at = core::ptr::without_provenance_mut::<u8>(addr as usize);
    // SAFETY: passed on.
    if unsafe { libc::syscall(libc::SYS_munmap, at, len) } < 0 { Err(errno()) } else { Ok(()) }
}

/// `mprotect(2)`.
///
/// # Safety
/// The range is the caller's; nobody relies on the rights it takes away.
pub(crate) unsafe fn mprotect(addr: u64, len: u64, prot: i32) -> Result<(), i32> {
    let at = core::ptr::without_provenance_mut::<u8>(addr as usize);
    // SAFETY: passed on.
    if unsafe { libc::syscall(libc::SYS_mprotect, at, len, prot) } < 0 { Err(errno()) } else { Ok(()) }
}

/// `madvise(2)`.
///
/// # Safety
/// The range is the caller's, and nobody relies on what `advice` undoes.
pub(crate) unsafe fn madvise(addr: u64, len: u64, advice: i32) -> Result<(), i32> {
    let at = core::ptr::without_provenance_mut::<u8>(addr as usize);
    // SAFETY: passed on.
    if unsafe { libc::syscall(libc::SYS_madvise, at, len, advice) } < 0 { Err(errno()) } else { Ok(()) }
}

/// `futex(FUTEX_WAIT_BITSET)` until the absolute monotonic time. `errno` when the
/// word differs (EAGAIN), a signal came (EINTR) or the time passed (ETIMEDOUT).
pub(crate) fn futex_wait(
    word: &core::sync::atomic::AtomicU32,
    value: u32,
    deadline_ns: Option<u64>,
    bits: u32,
) -> Result<(), i32> {
    let ts = deadline_ns.map(|ns| libc::timespec {
        tv_sec: (ns / 1_000_000_000).cast_signed(),
        tv_nsec: (ns % 1_000_000_000).cast_signed(),
    });
    let ts = ts.as_ref().map_or(core::ptr::null(), core::ptr::from_ref);
    let none = core::ptr::null::<u32>();
    // SAFETY: the word and the time outlive the call.
    let r = unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), FUTEX_WAIT_BITSET_PRIVATE, value, ts, none, bits)
    };
    if r < 0 { Err(errno()) } else { Ok(()) }
}

/// `futex(FUTEX_WAKE_BITSET)` of everybody whose bits meet `bits`.
pub(crate) fn futex_wake(word: &core::sync::atomic::AtomicU32, bits: u32) {
    let none = core::ptr::null::<u32>();
    // SAFETY: the word is only a name here; nothing is read or written.
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), FUTEX_WAKE_BITSET_PRIVATE, i32::MAX, none, none, bits)
    };
}

/// `clock_gettime(CLOCK_MONOTONIC)` in nanoseconds.
pub(crate) fn monotonic_ns() -> u64 {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: room for one `timespec`; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut ts) };
    ts.tv_sec.cast_unsigned() * 1_000_000_000 + ts.tv_nsec.cast_unsigned()
}

/// `sched_getcpu(3)`.
pub(crate) fn current_cpu() -> u16 {
    // SAFETY: takes nothing.
    u16::try_from(unsafe { libc::sched_getcpu() }).unwrap_or(0)
}

/// `nanosleep(2)` for `ns` below a second, or until a signal.
pub(crate) fn nap(ns: u32) {
    let ts = libc::timespec { tv_sec: 0, tv_nsec: i64::from(ns) };
    // SAFETY: the time outlives the call.
    unsafe { libc::nanosleep(&raw const ts, core::ptr::null_mut()) };
}
