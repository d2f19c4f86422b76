//! Devices without much behind them, and what is in /dev.

use alloc::boxed::Box;
use alloc::sync::Arc;

use super::inode::{Inode, Kind, S_IFBLK, S_IFCHR};
use super::poll::{POLLIN, POLLOUT, Special};
use super::tty;
use crate::dev::{self, Disk};
use crate::errno::{ENOSPC, ENOTTY, ENXIO, Result};
use crate::mutex::Mutex;
use crate::user;

/// The major number of the devices here, and the minor of /dev/zero.
pub(super) const MEMORY: u32 = 1;
pub(super) const ZERO: u32 = 5;

/// The major number of disks, and minor numbers that each has.
const DISKS: u32 = 254;
const MINORS: usize = 16;

/// An open disk. There is no cache: what is read comes from the disk, what is written is there.
struct Block(&'static Disk);

/// Writers of parts of sectors take turns.
static WRITER: Mutex<()> = Mutex::new(());

/// BLKGETSIZE, BLKFLSBUF, BLKSSZGET, BLKBSZGET, BLKGETSIZE64.
const GET_SECTORS: u32 = 0x1260;
const FLUSH: u32 = 0x1261;
const GET_SECTOR: u32 = 0x1268;
const GET_BLOCK: u32 = 0x8008_1270;
const GET_BYTES: u32 = 0x8008_1272;

impl Special for Block {
    fn read_at(&self, at: u64, buf: &mut [u8], _nonblock: bool) -> Result<usize> {
        let n = buf.len().min(usize::try_from(self.0.size().saturating_sub(at)).unwrap_or(usize::MAX));
        self.0.read(at, n, |from, piece| buf[from..from + piece.len()].copy_from_slice(piece))?;
        Ok(n)
    }
    fn write_at(&self, at: u64, data: &[u8], _nonblock: bool) -> Result<usize> {
        let n = data.len().min(usize::try_from(self.0.size().saturating_sub(at)).unwrap_or(usize::MAX));
        if n == 0 && !data.is_empty() {
            return Err(ENOSPC);
        }
        let _one = WRITER.lock();
        self.0.write(at, &data[..n])?;
        Ok(n)
    }
    fn size(&self) -> Option<u64> {
        Some(self.0.size())
    }
    fn sync(&self) -> Result<()> {
        self.0.flush()
    }
    fn disk(&self) -> Option<&'static Disk> {
        Some(self.0)
    }
    fn poll(&self) -> u16 {
        POLLIN | POLLOUT
    }
    fn seeks(&self) -> bool {
        true
    }
    fn ioctl(&self, code: u32, argument: u64) -> Result {
        match code {
            GET_SECTORS => user::write_u64s(argument, &[self.0.size() / 512])?,
            GET_BYTES => user::write_u64s(argument, &[self.0.size()])?,
            GET_SECTOR | GET_BLOCK => user::write(argument, &512u32.to_le_bytes())?,
            FLUSH => self.0.flush()?,
            _ => return Err(ENOTTY),
        }
        Ok(0)
    }
}

enum Simple {
    Null,
    Zero,
    Full,
    Random,
}

impl Special for Simple {
    fn read(&self, buf: &mut [u8], _nonblock: bool) -> Result<usize> {
        match self {
            Simple::Null => return Ok(0),
            Simple::Zero | Simple::Full => buf.fill(0),
            Simple::Random => super::random(buf),
        }
        Ok(buf.len())
    }
    fn write(&self, data: &[u8], _nonblock: bool) -> Result<usize> {
        match self {
            Simple::Full => Err(ENOSPC),
            _ => Ok(data.len()),
        }
    }
    fn poll(&self) -> u16 {
        POLLIN | POLLOUT
    }
    fn seeks(&self) -> bool {
        true
    }
}

/// Opens the device of these numbers.
pub(super) fn open(block: bool, major: u32, minor: u32) -> Result<Arc<dyn Special>> {
    if block {
        let disk = dev::disks()
            .get(minor as usize / MINORS)
            .filter(|_| major == DISKS && minor.is_multiple_of(MINORS as u32));
        return Ok(Arc::new(Block(disk.ok_or(ENXIO)?)));
    }
    Ok(match (major, minor) {
        (MEMORY, 3) => Arc::new(Simple::Null),
        (MEMORY, ZERO) => Arc::new(Simple::Zero),
        (MEMORY, 7) => Arc::new(Simple::Full),
        (MEMORY, 8 | 9) => Arc::new(Simple::Random),
        (5, 0 | 1) | (4, 0 | 64) => Arc::new(tty::Tty),
        _ => return Err(ENXIO),
    })
}

/// An inode of a device: `rights` and S_IFCHR or S_IFBLK in `mode`.
pub(crate) fn node(fs: &Arc<super::inode::FileSystem>, mode: u32, major: u32, minor: u32) -> Arc<Inode> {
    let block = mode & super::inode::S_IFMT == S_IFBLK;
    Inode::new(fs, Kind::Device { block, major, minor }, mode)
}

/// What /dev has, where it is not there yet.
pub(super) fn populate(directory: &Arc<Inode>) -> Result<()> {
    let put = |name: &str, inode: Arc<Inode>| match directory.enter(name.as_bytes(), &inode) {
        Ok(()) | Err(crate::errno::EEXIST) => Ok(()),
        Err(e) => Err(e),
    };
    for (name, rights, major, minor) in [
        ("null", 0o666, MEMORY, 3),
        ("zero", 0o666, MEMORY, ZERO),
        ("full", 0o666, MEMORY, 7),
        ("random", 0o666, MEMORY, 8),
        ("urandom", 0o666, MEMORY, 9),
        ("tty", 0o666, 5, 0),
        ("console", 0o600, 5, 1),
        ("ttyS0", 0o620, 4, 64),
    ] {
        put(name, node(&directory.fs, S_IFCHR | rights, major, minor))?;
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        let target: Box<[u8]> = target.as_bytes().into();
        put(name, Inode::new(&directory.fs, Kind::Link(target), 0o777))?;
    }
    for d in dev::disks() {
        put(d.name(), node(&directory.fs, S_IFBLK | 0o660, DISKS, (d.number() * MINORS) as u32))?;
    }
    put("shm", Inode::directory(&directory.fs, Arc::downgrade(directory), 0o1777))
}
