//! What names lead to: regular files, directories, links, devices, pipes, sockets.

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use machvm_hal::PAGE_SIZE;

use super::contents::Contents;
use super::dir::Directory;
use super::file::Mappable;
use super::pipe::Pipe;
use super::record::Record;
use super::{device, proc};
use crate::errno::{EINVAL, EISDIR, ENODEV, ENOSPC, Result};
use crate::mutex::Mutex;

pub(crate) const S_IFMT: u32 = 0o170_000;
pub(crate) const S_IFSOCK: u32 = 0o140_000;
pub(crate) const S_IFLNK: u32 = 0o120_000;
pub(crate) const S_IFREG: u32 = 0o100_000;
pub(crate) const S_IFBLK: u32 = 0o060_000;
pub(crate) const S_IFDIR: u32 = 0o040_000;
pub(crate) const S_IFCHR: u32 = 0o020_000;
pub(crate) const S_IFIFO: u32 = 0o010_000;

/// A moment: seconds and nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) struct Time {
    pub(crate) s: i64,
    pub(crate) ns: u32,
}

impl Time {
    /// This one.
    pub(crate) fn now() -> Time {
        let ns = super::real_time_ns();
        Time { s: (ns / 1_000_000_000) as i64, ns: (ns % 1_000_000_000) as u32 }
    }
}

/// What chmod, chown and the clock change.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attr {
    /// Permissions: the low 12 bits of the mode.
    pub(crate) rights: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Names that lead to it.
    pub(crate) links: u32,
    pub(crate) atime: Time,
    pub(crate) mtime: Time,
    pub(crate) ctime: Time,
}

/// A tree of files.
pub(crate) struct FileSystem {
    /// Its number: st_dev.
    pub(crate) device: u64,
    /// As mount names it.
    pub(crate) kind: &'static str,
    next: AtomicU64,
    /// How much may be in its files (tmpfs's `size=`).
    limit: Option<Limit>,
}

/// Pages of files are limited.
struct Limit {
    pages: u64,
    /// At least as many as there were when they were counted last, and have come since.
    used: AtomicU64,
    /// Its regular files.
    files: Mutex<Vec<Weak<Inode>>>,
}

impl FileSystem {
    pub(super) fn new(kind: &'static str) -> Arc<FileSystem> {
        Self::with_limit(kind, None)
    }
    /// Of so many pages at most. Those that are stored through a mapping are counted, but never too many.
    pub(super) fn with_limit(kind: &'static str, pages: Option<u64>) -> Arc<FileSystem> {
        static DEVICES: AtomicU64 = AtomicU64::new(2);
        let device = DEVICES.fetch_add(1, Ordering::Relaxed);
        let limit = |pages| Limit { pages, used: AtomicU64::new(0), files: Mutex::new(Vec::new()) };
        Arc::new(FileSystem { device, kind, next: AtomicU64::new(1), limit: pages.map(limit) })
    }
    pub(super) fn is_limited(&self) -> bool {
        self.limit.is_some()
    }
    /// Pages that there may be, and that there are. `None`: as many as memory has.
    pub(crate) fn pages(&self) -> Option<(u64, u64)> {
        let l = self.limit.as_ref()?;
        let files: Vec<Arc<Inode>> = {
            let mut files = l.files.lock();
            files.retain(|f| f.strong_count() != 0);
            files.iter().filter_map(Weak::upgrade).collect()
        };
        let pages = |f: &Arc<Inode>| match &f.kind {
            Kind::Regular(c) => c.pages(),
            _ => 0,
        };
        let used = files.iter().map(pages).sum();
        l.used.store(used, Ordering::Relaxed);
        Some((l.pages, used))
    }
    /// A page is about to come. => nothing of files is locked but the file that it is for.
    ///
    /// # Errors
    /// ENOSPC: there are too many.
    pub(super) fn charge(&self) -> Result<()> {
        let Some(l) = &self.limit else { return Ok(()) };
        let full = || l.used.fetch_add(1, Ordering::Relaxed) >= l.pages;
        // Those that went are noticed now.
        if full() && self.pages().is_none_or(|_| full()) {
            return Err(ENOSPC);
        }
        Ok(())
    }
}

/// What kind it is, and what is in it.
pub(crate) enum Kind {
    Regular(Contents),
    Directory(Directory),
    Link(Box<[u8]>),
    /// A character or block device.
    Device {
        block: bool,
        major: u32,
        minor: u32,
    },
    Fifo(Arc<Pipe>),
    Socket,
    /// Of /proc.
    Proc(proc::Node),
    /// Something without contents of its own: an eventfd and the like.
    Anonymous,
}

/// What a name leads to.
pub(crate) struct Inode {
    pub(crate) fs: Arc<FileSystem>,
    /// Its number in there.
    pub(crate) number: u64,
    pub(crate) kind: Kind,
    pub(super) attr: Mutex<Attr>,
    /// Of memfd_create: F_ADD_SEALS. Others have F_SEAL_SEAL.
    pub(crate) seals: AtomicU32,
    /// Who has it locked (flock): the number of sharers, or minus one.
    pub(super) flock: Mutex<i32>,
    pub(super) flock_waiters: super::wait::Waiters,
    /// Ranges that are locked (fcntl).
    pub(super) records: Mutex<Vec<Record>>,
}

/// The name that elf.rs and exec know it by.
pub(crate) type Node = Inode;

impl Inode {
    pub(super) fn with_links(fs: &Arc<FileSystem>, kind: Kind, rights: u32, links: u32) -> Arc<Inode> {
        let now = Time::now();
        let limit = fs.limit.as_ref().filter(|_| matches!(kind, Kind::Regular(_)));
        let attr =
            Attr { rights: rights & 0o7777, uid: 0, gid: 0, links, atime: now, mtime: now, ctime: now };
        let inode = Arc::new(Inode {
            number: fs.next.fetch_add(1, Ordering::Relaxed),
            fs: fs.clone(),
            kind,
            attr: Mutex::new(attr),
            seals: AtomicU32::new(1),
            flock: Mutex::new(0),
            flock_waiters: super::wait::Waiters::new(),
            records: Mutex::new(Vec::new()),
        });
        if let Some(l) = limit {
            l.files.lock().push(Arc::downgrade(&inode));
        }
        inode
    }
    /// A new one that no name leads to yet.
    pub(super) fn new(fs: &Arc<FileSystem>, kind: Kind, rights: u32) -> Arc<Inode> {
        Self::with_links(fs, kind, rights, 0)
    }
    /// A directory; `parent`: its `..`.
    pub(super) fn directory(fs: &Arc<FileSystem>, parent: Weak<Inode>, rights: u32) -> Arc<Inode> {
        Self::with_links(fs, Kind::Directory(Directory::new(parent)), rights, 2)
    }

    pub(crate) fn attr(&self) -> Attr {
        *self.attr.lock()
    }
    /// Changes attributes; the time of the change is noted.
    pub(crate) fn change(&self, f: impl FnOnce(&mut Attr)) {
        let mut a = self.attr.lock();
        f(&mut a);
        a.ctime = Time::now();
    }
    /// It was written.
    pub(super) fn written(&self) {
        let now = Time::now();
        let mut a = self.attr.lock();
        (a.mtime, a.ctime) = (now, now);
    }
    /// It was read: noted once after each change, as Linux's relatime does.
    pub(super) fn was_read(&self) {
        let mut a = self.attr.lock();
        if a.atime <= a.mtime || a.atime <= a.ctime {
            a.atime = Time::now();
        }
    }
    /// S_IFMT of it.
    pub(crate) fn type_bits(&self) -> u32 {
        match &self.kind {
            Kind::Regular(_) => S_IFREG,
            Kind::Directory(_) => S_IFDIR,
            Kind::Link(_) => S_IFLNK,
            Kind::Device { block: true, .. } => S_IFBLK,
            Kind::Device { .. } => S_IFCHR,
            Kind::Fifo(_) => S_IFIFO,
            Kind::Socket => S_IFSOCK,
            Kind::Proc(p) => p.type_bits(),
            Kind::Anonymous => 0,
        }
    }
    /// Type and rights, as stat reports them.
    pub(crate) fn mode(&self) -> u32 {
        self.type_bits() | self.attr().rights
    }
    /// Is it a directory?
    pub(crate) fn is_directory(&self) -> bool {
        self.type_bits() == S_IFDIR
    }
    /// May it be run?
    pub(crate) fn is_executable(&self) -> bool {
        let mode = self.mode();
        mode & !0o7777 == S_IFREG && mode & 0o111 != 0
    }
    /// Its directory, if it is one in memory.
    pub(super) fn dir(&self) -> Option<&Directory> {
        match &self.kind {
            Kind::Directory(d) => Some(d),
            _ => None,
        }
    }
    /// Bytes in it.
    pub(crate) fn size(&self) -> u64 {
        match &self.kind {
            Kind::Regular(c) => c.size(),
            Kind::Link(t) => t.len() as u64,
            Kind::Directory(d) => d.size(),
            _ => 0,
        }
    }
    /// Blocks of 512 bytes that it takes.
    pub(crate) fn blocks(&self) -> u64 {
        match &self.kind {
            Kind::Regular(c) => c.blocks(),
            _ => 0,
        }
    }
    /// The device that it is.
    pub(crate) fn device(&self) -> (u32, u32) {
        match self.kind {
            Kind::Device { major, minor, .. } => (major, minor),
            _ => (0, 0),
        }
    }

    /// What a mapping of it maps.
    pub(crate) fn object(&self) -> Result<Mappable> {
        match &self.kind {
            Kind::Regular(c) => Ok(Mappable::Object(c.object())),
            Kind::Device { block: false, major: device::MEMORY, minor: device::ZERO } => Ok(Mappable::Zeroes),
            _ => Err(ENODEV),
        }
    }
    /// Reads from byte `at`, if it is a regular file; gives how many bytes there were.
    pub(crate) fn read_at(&self, at: u64, buf: &mut [u8]) -> Result<usize> {
        match &self.kind {
            Kind::Regular(c) => c.read_at(at, buf),
            Kind::Directory(_) => Err(EISDIR),
            _ => Err(EINVAL),
        }
    }
    /// truncate(2).
    pub(crate) fn truncate(&self, size: u64) -> Result<()> {
        match &self.kind {
            Kind::Regular(c) => {
                self.check_seals(size)?;
                if size > c.size() && super::within_limit(0, size)? < size {
                    return Err(super::too_large());
                }
                let cut = size < c.size();
                c.resize(size)?;
                if cut {
                    crate::mapped::was_cut(self, size);
                }
                self.written();
                Ok(())
            }
            Kind::Directory(_) => Err(EISDIR),
            _ => Err(EINVAL),
        }
    }
    /// May it get this size (F_SEAL_SHRINK, F_SEAL_GROW)?
    pub(super) fn check_seals(&self, size: u64) -> Result<()> {
        let (seals, now) = (self.seals.load(Ordering::Acquire), self.size());
        let refused = size < now && seals & 2 != 0 || size > now && seals & 4 != 0;
        if refused { Err(crate::errno::EPERM) } else { Ok(()) }
    }
    /// What a link says.
    pub(crate) fn target(self: &Arc<Self>) -> Result<Vec<u8>> {
        match &self.kind {
            Kind::Link(t) => Ok(t.to_vec()),
            Kind::Proc(p) => p.target(),
            _ => Err(EINVAL),
        }
    }
    /// st_blksize.
    pub(crate) fn block_size(&self) -> u64 {
        PAGE_SIZE
    }
}
