//! Devices without much behind them, and what is in /dev.

use alloc::boxed::Box;
use alloc::sync::Arc;

use super::inode::{Inode, Kind, S_IFBLK, S_IFCHR};
use super::poll::{POLLIN, POLLOUT, Special};
use super::tty;
use crate::errno::{ENOSPC, ENXIO, Result};

/// The major number of the devices here, and the minor of /dev/zero.
pub(super) const MEMORY: u32 = 1;
pub(super) const ZERO: u32 = 5;

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
        return Err(ENXIO);
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
pub(super) fn populate(dev: &Arc<Inode>) -> Result<()> {
    let put = |name: &str, inode: Arc<Inode>| match dev.enter(name.as_bytes(), &inode) {
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
        put(name, node(&dev.fs, S_IFCHR | rights, major, minor))?;
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        let target: Box<[u8]> = target.as_bytes().into();
        put(name, Inode::new(&dev.fs, Kind::Link(target), 0o777))?;
    }
    put("shm", Inode::directory(&dev.fs, Arc::downgrade(dev), 0o1777))
}
