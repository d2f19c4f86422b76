//! Open files.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use machvm_arena::Handle;
use machvm_hal::PAGE_SIZE;

use super::contents::{Contents, LARGEST};
use super::device;
use super::dir::{Line, Name};
use super::inode::{Inode, Kind};
use super::poll::{POLLIN, POLLOUT, Special};
use crate::arch::{O_DIRECT, O_LARGEFILE};
pub(crate) use crate::arch::{O_DIRECTORY, O_NOFOLLOW};
use crate::errno::{EAGAIN, EBADF, EFBIG, EINVAL, EISDIR, ENODEV, ENOTDIR, ENXIO, EPERM, ESPIPE, Result};
use crate::mutex::{Guard, Mutex};

pub(crate) const O_ACCMODE: u32 = 3;
pub(crate) const O_WRONLY: u32 = 1;
pub(crate) const O_RDWR: u32 = 2;
pub(crate) const O_CREAT: u32 = 0o100;
pub(crate) const O_EXCL: u32 = 0o200;
pub(crate) const O_TRUNC: u32 = 0o1000;
pub(crate) const O_APPEND: u32 = 0o2000;
pub(crate) const O_NONBLOCK: u32 = 0o4000;
pub(crate) const O_CLOEXEC: u32 = 0o2_000_000;
pub(crate) const O_PATH: u32 = 0o10_000_000;
pub(crate) const O_TMPFILE: u32 = 0o20_000_000;
/// What F_GETFL tells besides the access mode: all but what only open looks at.
const O_OPEN_ONLY: u32 = O_CREAT | O_EXCL | 0o400 | O_TRUNC | O_CLOEXEC;
/// What F_SETFL changes: O_APPEND, O_NONBLOCK, O_ASYNC, O_DIRECT, O_NOATIME.
const O_SETTABLE: u32 = O_APPEND | O_NONBLOCK | 0o20_000 | O_DIRECT | 0o1_000_000;

/// What a mapping of a file maps.
pub(crate) enum Mappable {
    /// Pages of this object: index `i` is byte `i * PAGE_SIZE`. A reference comes with it.
    Object(Handle<machvm::object::Object>),
    /// Zeroes, as MAP_ANONYMOUS has them (/dev/zero).
    Zeroes,
}

/// An open file (an *open file description*): descriptors name it.
pub(crate) struct File {
    pub(crate) inode: Arc<Inode>,
    /// The directory and the name where it was found, if it was.
    pub(crate) at: Option<(Arc<Inode>, Name)>,
    flags: AtomicU32,
    position: Mutex<u64>,
    special: Option<Arc<dyn Special>>,
    /// A file of /proc: its text as of the open.
    text: Option<Vec<u8>>,
    /// flock(2): 0: none, 1: shared, -1: alone.
    locked: AtomicI32,
}

impl File {
    /// Opens what a path led to.
    ///
    /// => O_TRUNC is the caller's.
    pub(super) fn open(inode: Arc<Inode>, at: Option<(Arc<Inode>, Name)>, flags: u32) -> Result<File> {
        let mut f = File::plain(inode, at, flags);
        if flags & O_PATH != 0 {
            f.flags = AtomicU32::new(flags & (O_PATH | O_DIRECTORY | O_NOFOLLOW));
            return Ok(f);
        }
        f.special = match &f.inode.kind {
            Kind::Device { block, major, minor } => Some(device::open(*block, *major, *minor)?),
            Kind::Fifo(p) => {
                Some(Arc::new(p.open(f.is_readable(), f.is_writable(), flags & O_NONBLOCK != 0)?))
            }
            Kind::Socket => return Err(ENXIO),
            _ => None,
        };
        if let Kind::Proc(p) = &f.inode.kind {
            if f.is_writable() && !p.is_writable() {
                return Err(crate::errno::EACCES);
            }
            f.text = p.text()?;
        }
        Ok(f)
    }
    fn plain(inode: Arc<Inode>, at: Option<(Arc<Inode>, Name)>, flags: u32) -> File {
        File {
            inode,
            at,
            flags: AtomicU32::new(flags & !O_OPEN_ONLY | O_LARGEFILE),
            position: Mutex::new(0),
            special: None,
            text: None,
            locked: AtomicI32::new(0),
        }
    }
    /// Something without a name.
    pub(crate) fn of_special(kind: Kind, special: Arc<dyn Special>, flags: u32) -> Arc<File> {
        let rights = if matches!(kind, Kind::Socket) { 0o777 } else { 0o600 };
        let inode = Inode::new(&super::nameless(), kind, rights);
        inode.attr.lock().links = 1;
        let mut f = File::plain(inode, None, flags);
        f.special = Some(special);
        f.flags.fetch_and(!O_LARGEFILE, Ordering::Relaxed);
        Arc::new(f)
    }
    /// A regular file without a name.
    pub(super) fn of_inode(inode: Arc<Inode>, at: Option<(Arc<Inode>, Name)>, flags: u32) -> File {
        File::plain(inode, at, flags)
    }

    pub(crate) fn flags(&self) -> u32 {
        self.flags.load(Ordering::Relaxed)
    }
    /// F_SETFL.
    pub(crate) fn set_flags(&self, flags: u32) {
        let _ = self.flags.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |f| {
            Some(f & !O_SETTABLE | flags & O_SETTABLE)
        });
    }
    pub(crate) fn is_path(&self) -> bool {
        self.flags() & O_PATH != 0
    }
    /// May it be read? The mode 3 is for neither.
    pub(crate) fn is_readable(&self) -> bool {
        matches!(self.flags() & O_ACCMODE, 0 | O_RDWR) && !self.is_path()
    }
    pub(crate) fn is_writable(&self) -> bool {
        matches!(self.flags() & O_ACCMODE, O_WRONLY | O_RDWR) && !self.is_path()
    }
    fn is_nonblocking(&self) -> bool {
        self.flags() & O_NONBLOCK != 0
    }
    pub(crate) fn special(&self) -> Option<&dyn Special> {
        self.special.as_deref()
    }
    pub(crate) fn contents(&self) -> Option<&Contents> {
        match &self.inode.kind {
            Kind::Regular(c) if self.special.is_none() => Some(c),
            _ => None,
        }
    }
    /// The position, held. => nothing else of files is locked.
    pub(crate) fn position(&self) -> Guard<'_, u64> {
        self.position.lock()
    }
    /// Has it a position?
    pub(crate) fn seeks(&self) -> bool {
        self.special.as_ref().is_none_or(|s| s.seeks())
    }

    /// For mmap: what a mapping of it maps. Who may map it how is for the caller to ask.
    pub(crate) fn object(&self) -> Result<Mappable> {
        if self.is_path() {
            return Err(EBADF);
        }
        self.inode.object()
    }

    /// Reads from byte `at`, or where there is no position from what is there.
    pub(crate) fn read_at(&self, at: u64, buf: &mut [u8]) -> Result<usize> {
        if !self.is_readable() {
            return Err(EBADF);
        }
        if let Some(s) = &self.special {
            return s.read_at(at, buf, self.is_nonblocking());
        }
        if let Some(text) = &self.text {
            let from = usize::try_from(at).unwrap_or(usize::MAX).min(text.len());
            let n = buf.len().min(text.len() - from);
            buf[..n].copy_from_slice(&text[from..from + n]);
            return Ok(n);
        }
        match &self.inode.kind {
            Kind::Regular(c) => {
                let n = c.read_at(at, buf)?;
                if n != 0 {
                    self.inode.was_read();
                }
                Ok(n)
            }
            _ if self.inode.is_directory() => Err(EISDIR),
            _ => Err(EINVAL),
        }
    }

    /// Writes at byte `at`, or at the end with O_APPEND; gives where that was and how much was written.
    pub(crate) fn write_at(&self, at: u64, data: &[u8]) -> Result<(u64, usize)> {
        if !self.is_writable() {
            return Err(EBADF);
        }
        if let Some(s) = &self.special {
            return s.write_at(at, data, self.is_nonblocking()).map(|n| (at, n));
        }
        match &self.inode.kind {
            Kind::Regular(c) => {
                let seals = self.inode.seals.load(Ordering::Acquire);
                if seals & (8 | 0x10) != 0 {
                    return Err(EPERM);
                }
                let append = self.flags() & O_APPEND != 0;
                let start = if append { c.size() } else { at };
                let data = &data[..super::within_limit(start, data.len() as u64)? as usize];
                if seals & 4 != 0 {
                    self.inode.check_seals(start.saturating_add(data.len() as u64).max(c.size()))?;
                }
                let done = c.write_at((!append).then_some(at), data)?;
                if done.1 != 0 {
                    self.inode.written();
                }
                Ok(done)
            }
            Kind::Proc(p) => p.write(data).map(|n| (at, n)),
            _ => Err(EINVAL),
        }
    }

    /// lseek(2).
    pub(crate) fn seek(&self, offset: i64, from: u64) -> Result {
        if self.is_path() {
            return Err(EBADF);
        }
        if !self.seeks() {
            return Err(ESPIPE);
        }
        let of_special = self.special.as_ref().map(|s| s.size());
        if of_special == Some(None) {
            return Ok(0); // /dev/null and its sisters
        }
        let mut position = self.position();
        let size = of_special
            .flatten()
            .unwrap_or_else(|| self.text.as_ref().map_or_else(|| self.inode.size(), |t| t.len() as u64));
        let base = match from {
            0 => 0,
            1 => *position as i64,
            2 if self.inode.is_directory() => return Err(EINVAL),
            2 => size as i64,
            3 | 4 => {
                let at = u64::try_from(offset).ok().filter(|at| *at < size).ok_or(ENXIO)?;
                let to = match &self.inode.kind {
                    Kind::Regular(c) => c.seek(at, from == 3).ok_or(ENXIO)?,
                    _ if from == 3 => at,
                    _ => size,
                };
                *position = to;
                return Ok(to as i64);
            }
            _ => return Err(EINVAL),
        };
        let to = base.checked_add(offset).ok_or(crate::errno::EOVERFLOW)?;
        if to < 0 || to as u64 > LARGEST && self.contents().is_some() {
            return Err(EINVAL);
        }
        *position = to as u64;
        Ok(to)
    }

    /// Lines of a directory behind the position.
    pub(crate) fn list(&self, cookie: u64, most: usize) -> Result<Vec<Line>> {
        match &self.inode.kind {
            Kind::Directory(d) => {
                self.inode.was_read();
                Ok(d.list(&self.inode, cookie, most))
            }
            Kind::Proc(p) if self.inode.is_directory() => Ok(p.list(&self.inode, cookie, most)),
            _ => Err(ENOTDIR),
        }
    }

    /// What could be done without waiting.
    pub(crate) fn poll(&self) -> u16 {
        self.special.as_ref().map_or(POLLIN | POLLOUT, |s| s.poll())
    }
    /// May epoll have it? Regular files are always ready: they are refused.
    pub(super) fn can_poll(&self) -> bool {
        self.special.is_some()
    }

    /// ftruncate(2).
    pub(crate) fn truncate(&self, size: u64) -> Result<()> {
        if self.is_path() {
            return Err(EBADF);
        }
        if self.contents().is_none() || !self.is_writable() {
            return Err(EINVAL);
        }
        self.inode.truncate(size)
    }
    /// fallocate(2).
    pub(crate) fn allocate(&self, mode: u32, at: u64, len: u64) -> Result<()> {
        const KEEP_SIZE: u32 = 1;
        const PUNCH_HOLE: u32 = 2;
        const ZERO_RANGE: u32 = 0x10;
        if !self.is_writable() {
            return Err(EBADF);
        }
        let Some(c) = self.contents() else {
            return Err(match self.inode.kind {
                _ if self.special.as_ref().is_some_and(|s| !s.seeks()) => ESPIPE,
                Kind::Directory(_) => EISDIR,
                _ => ENODEV,
            });
        };
        let end = at.checked_add(len).filter(|e| *e <= LARGEST).ok_or(EFBIG)?;
        if end > self.inode.size() && super::within_limit(at, len)? < len {
            return Err(super::too_large());
        }
        let seals = self.inode.seals.load(Ordering::Acquire);
        let keep = mode & KEEP_SIZE != 0;
        match mode & !KEEP_SIZE {
            PUNCH_HOLE if keep => {
                if seals & (8 | 0x10) != 0 {
                    return Err(EPERM);
                }
                c.punch(at, end)?;
            }
            0 | ZERO_RANGE => {
                if !keep {
                    self.inode.check_seals(end.max(c.size()))?;
                }
                if mode & ZERO_RANGE != 0 {
                    c.punch(at, end.min(c.size()))?;
                }
                c.allocate(at, end, keep)?;
            }
            _ => return Err(crate::errno::EOPNOTSUPP),
        }
        self.inode.written();
        Ok(())
    }

    /// flock(2): 1: shared, -1: alone, 0: let go.
    pub(crate) fn lock(&self, how: i32, nonblock: bool) -> Result<()> {
        let i = &self.inode;
        let r = i.flock_waiters.until(None, || {
            let mut held = i.flock.lock();
            let mine = self.locked.load(Ordering::Relaxed);
            // Without mine.
            let others = *held - mine;
            let free = match how {
                0 => true,
                1 => others >= 0,
                _ => others == 0,
            };
            if free {
                *held = others + how;
                self.locked.store(how, Ordering::Relaxed);
                return Some(Ok(()));
            }
            nonblock.then_some(Err(EAGAIN))
        });
        if r.is_ok() {
            i.flock_waiters.wake();
        }
        r
    }
}

impl Drop for File {
    fn drop(&mut self) {
        if self.locked.load(Ordering::Relaxed) != 0 {
            let _ = self.lock(0, true);
        }
        self.inode.unlock_record(super::record::owner_of(self), 0, u64::MAX);
    }
}

/// Bytes that one read or write moves at most.
pub(crate) const MOST: u64 = 0x7fff_ffff & !(PAGE_SIZE - 1);
