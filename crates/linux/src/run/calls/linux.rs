//! Linux's own mappings: what the program maps shared, read-only or from a device.
//! Their entries are in the map; their pages are Linux's business.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use machvm_hal::VaRange;

use super::args::{MAP_FIXED, MAP_FIXED_NOREPLACE, MAP_LOCKED, MAP_POPULATE};
use super::errno::linux;
use crate::run::space::Errno;
use crate::sys;

/// Maps at a range that our map has just reserved.
pub(super) fn map_at(
    range: VaRange,
    prot: i32,
    flags: u32,
    fd: Option<BorrowedFd<'_>>,
    offset: u64,
) -> Result<(), Errno> {
    let flags = flags & !MAP_FIXED | MAP_FIXED_NOREPLACE;
    let (at, len) = (range.start().get(), range.bytes());
    // SAFETY: MAP_FIXED_NOREPLACE replaces nothing.
    let got = unsafe { sys::mmap(at, len, prot, flags as i32, raw(fd), offset) };
    let got = linux(got)?;
    if got == at {
        return Ok(());
    }
    // Linux before 4.17 takes the address as a hint.
    // SAFETY: nobody knows this mapping yet.
    let _ = unsafe { sys::munmap(got, len) };
    Err(super::errno::ENOMEM)
}

/// Asks Linux whether it would map this, by mapping it somewhere for a moment.
pub(super) fn would_map(
    len: u64,
    prot: i32,
    flags: u32,
    fd: Option<BorrowedFd<'_>>,
    offset: u64,
) -> Result<(), Errno> {
    let quiet = flags & !(MAP_FIXED | MAP_FIXED_NOREPLACE | MAP_POPULATE | MAP_LOCKED);
    // SAFETY: not MAP_FIXED.
    let at = unsafe { sys::mmap(0, len, prot, quiet as i32, raw(fd), offset) };
    let at = linux(at)?;
    // SAFETY: nobody knows this mapping.
    linux(unsafe { sys::munmap(at, len) })
}

/// Ends a mapping of Linux's in a range that our map has given up, or is about to.
pub(super) fn unmap(range: VaRange) {
    // SAFETY: the range held a mapping made for the program, which asked for its end.
    // Cutting a mapping in two can be refused at the limit of mappings: then it stays.
    let _ = unsafe { sys::munmap(range.start().get(), range.bytes()) };
}

pub(super) fn protect(range: VaRange, prot: i32) -> Result<(), Errno> {
    // SAFETY: the range holds a mapping made for the program, which asked for this.
    linux(unsafe { sys::mprotect(range.start().get(), range.bytes(), prot) })
}

pub(super) fn advise(range: VaRange, advice: i32) -> Result<(), Errno> {
    // SAFETY: as for `protect`.
    linux(unsafe { sys::madvise(range.start().get(), range.bytes(), advice) })
}

/// Any call that takes numbers only, about a mapping made for the program.
fn call(nr: libc::c_long, args: [u64; 5]) -> Result<u64, Errno> {
    let [a, b, c, d, e] = args;
    // SAFETY: the callers below pass ranges of mappings made for the program, and
    // buffers of their own with their true sizes.
    let r = unsafe { libc::syscall(nr, a, b, c, d, e) };
    if r < 0 { Err(Errno(sys::errno())) } else { Ok(r as u64) }
}

/// Takes a range in which our map has nothing: refused where Linux has something all
/// the same (the VM itself). What is mapped there next replaces this.
pub(super) fn claim(range: VaRange) -> Result<(), Errno> {
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE) as u32;
    map_at(range, libc::PROT_NONE, flags, None, 0)
}

/// Moves a mapping of Linux's to `to`, which is claimed.
pub(super) fn remap(from: VaRange, to: VaRange) -> Result<(), Errno> {
    const MOVE: u64 = super::args::MREMAP_MAYMOVE | super::args::MREMAP_FIXED;
    let (at, len) = (from.start().get(), from.bytes());
    call(libc::SYS_mremap, [at, len, to.bytes(), MOVE, to.start().get()]).map(|_| ())
}

/// A mapping of Linux's at `to`, which is claimed, of the memory that `from` begins
/// with (mremap with size zero), or, with DONTUNMAP, its move that leaves an empty
/// mapping.
pub(super) fn remap_keeping(at: u64, old: u64, to: VaRange, flags: u64) -> Result<(), Errno> {
    let flags = flags | super::args::MREMAP_MAYMOVE | super::args::MREMAP_FIXED;
    call(libc::SYS_mremap, [at, old, to.bytes(), flags, to.start().get()]).map(|_| ())
}

/// Grows in place, where nothing is behind it.
pub(super) fn extend(from: VaRange, len: u64) -> Result<(), Errno> {
    call(libc::SYS_mremap, [from.start().get(), from.bytes(), len, 0, 0]).map(|_| ())
}

pub(super) fn sync(range: VaRange, flags: u64) -> Result<(), Errno> {
    call(libc::SYS_msync, [range.start().get(), range.bytes(), flags, 0, 0]).map(|_| ())
}

pub(super) fn lock(range: VaRange, on_fault: bool) -> Result<(), Errno> {
    call(libc::SYS_mlock2, [range.start().get(), range.bytes(), u64::from(on_fault), 0, 0]).map(|_| ())
}

pub(super) fn unlock(range: VaRange) -> Result<(), Errno> {
    call(libc::SYS_munlock, [range.start().get(), range.bytes(), 0, 0, 0]).map(|_| ())
}

pub(super) fn pkey_protect(range: VaRange, prot: i32, key: u64) -> Result<(), Errno> {
    let (at, len) = (range.start().get(), range.bytes());
    call(libc::SYS_pkey_mprotect, [at, len, prot as u64, key, 0]).map(|_| ())
}

/// Which pages are resident, one byte each.
pub(super) fn resident(range: VaRange, vec: &mut [u8]) -> Result<(), Errno> {
    debug_assert!(vec.len() as u64 >= range.pages(), "a byte a page");
    let (at, len) = (range.start().get(), range.bytes());
    call(libc::SYS_mincore, [at, len, vec.as_mut_ptr() as u64, 0, 0]).map(|_| ())
}

fn raw(fd: Option<BorrowedFd<'_>>) -> i32 {
    fd.map_or(-1, |fd| fd.as_raw_fd())
}

/// What Linux says of an advice for ordinary memory: hints depend on how the kernel
/// was configured.
pub(super) fn hint(advice: i32) -> Result<(), Errno> {
    let len = machvm_hal::PAGE_SIZE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: not MAP_FIXED.
    let at = linux(unsafe { sys::mmap(0, len, libc::PROT_READ, flags, -1, 0) })?;
    // SAFETY: a page that nobody else knows.
    let said = unsafe { sys::madvise(at, len, advice) };
    // SAFETY: as above.
    let _ = unsafe { sys::munmap(at, len) };
    linux(said)
}

/// Whether the program may use this protection key.
pub(super) fn key_exists(key: u64) -> Result<(), Errno> {
    let len = machvm_hal::PAGE_SIZE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: not MAP_FIXED.
    let at = linux(unsafe { sys::mmap(0, len, libc::PROT_NONE, flags, -1, 0) })?;
    let said = call(libc::SYS_pkey_mprotect, [at, len, 0, key, 0]);
    // SAFETY: a page that nobody else knows.
    let _ = unsafe { sys::munmap(at, len) };
    said.map(|_| ())
}

/// What a descriptor is, as far as a mapping of it is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FileKind {
    /// Private mappings may be ours.
    Regular,
    /// `/dev/zero`: anonymous memory by another name.
    Zero,
    /// Huge pages: Linux's own.
    Huge,
    /// Devices and whatever cannot be mapped.
    Other,
}

pub(super) fn file_kind(fd: BorrowedFd<'_>) -> FileKind {
    const HUGETLBFS_MAGIC: i64 = 0x9584_58f6;
    // SAFETY: an all-zero stat is a valid value.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the buffer is a stat.
    if unsafe { libc::fstat(fd.as_raw_fd(), &raw mut stat) } != 0 {
        return FileKind::Other;
    }
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFREG => {}
        libc::S_IFCHR if stat.st_rdev == libc::makedev(1, 5) => return FileKind::Zero,
        _ => return FileKind::Other,
    }
    // SAFETY: an all-zero statfs is a valid value.
    let mut fs: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the buffer is a statfs.
    let known = unsafe { libc::fstatfs(fd.as_raw_fd(), &raw mut fs) } == 0;
    if known && fs.f_type == HUGETLBFS_MAGIC { FileKind::Huge } else { FileKind::Regular }
}

/// The file behind the mapping of Linux's that contains `addr`, and the offset of
/// `addr` in it. Needs CAP_CHECKPOINT_RESTORE; `None` without.
pub(super) fn mapped_file(addr: u64) -> Option<(OwnedFd, u64)> {
    // The thread's own directory: the process's ends with the program's main thread.
    // SAFETY: the call has no preconditions.
    let me = unsafe { libc::gettid() };
    let maps = std::fs::read_to_string(format!("/proc/{me}/maps")).ok()?;
    let line = maps.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let name = fields.next()?;
        let (start, end) = name.split_once('-')?;
        let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
        let offset = u64::from_str_radix(fields.nth(1)?, 16).ok()?;
        (start <= addr && addr < end).then_some((name, offset + (addr - start)))
    });
    let (name, offset) = line?;
    let path = std::ffi::CString::new(format!("/proc/{me}/map_files/{name}")).ok()?;
    // SAFETY: the path is a C string.
    let fd = unsafe { libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    if fd < 0 {
        return None;
    }
    // SAFETY: the descriptor is new and ours.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    (file_kind(fd.as_fd()) == FileKind::Regular).then_some((fd, offset))
}
