//! System calls on files.

mod descriptor;
mod io;
mod names;
mod poll;
mod record;
mod socket;
mod special;
mod stat;
mod tree;

pub(super) use descriptor::*;
pub(super) use io::*;
pub(super) use names::*;
pub(super) use poll::*;
pub(super) use socket::*;
pub(super) use special::*;
pub(super) use stat::*;
pub(super) use tree::*;

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::errno::{EINVAL, ENOENT, ENOTDIR, Result};
use crate::fs::{End, File, Inode, Place};
use crate::{sched, user};

const AT_FDCWD: i32 = -100;
const AT_SYMLINK_NOFOLLOW: u64 = 0x100;
const AT_REMOVEDIR: u64 = 0x200;
const AT_EACCESS: u64 = 0x200;
const AT_SYMLINK_FOLLOW: u64 = 0x400;
const AT_NO_AUTOMOUNT: u64 = 0x800;
const AT_EMPTY_PATH: u64 = 0x1000;
const AT_STATX_SYNC_TYPE: u64 = 0x6000;

/// The open file of a descriptor.
fn file(fd: i32) -> Result<Arc<File>> {
    sched::process().files.lock().get(fd)
}

/// A path of the caller's.
fn path(at: u64) -> Result<Vec<u8>> {
    user::string(at, 4096)
}

/// Where a path with a directory's descriptor begins.
fn place(dir: i32, path: &[u8]) -> Result<Place> {
    let files = sched::process().files.lock();
    let mut place = files.cwd.clone();
    if dir != AT_FDCWD && !path.starts_with(b"/") {
        place.cwd = files.get(dir)?.inode.clone();
        if !path.is_empty() && !place.cwd.is_directory() {
            return Err(ENOTDIR);
        }
    }
    Ok(place)
}

/// What the pair of a directory and a path means, with the flags of the `at` calls.
fn inode_at(dir: i32, at: u64, flags: u64) -> Result<Arc<Inode>> {
    let path = if at == 0 && flags & AT_EMPTY_PATH != 0 { Vec::new() } else { path(at)? };
    if path.is_empty() {
        if flags & AT_EMPTY_PATH == 0 {
            return Err(ENOENT);
        }
        if dir == AT_FDCWD {
            return Ok(place(dir, &path)?.cwd);
        }
        return file(dir).map(|f| f.inode.clone());
    }
    let end = if flags & AT_SYMLINK_NOFOLLOW != 0 { End::Stay } else { End::Follow };
    place(dir, &path)?.find(&path, end)
}

/// Only these flags are known.
fn only(flags: u64, known: u64) -> Result<()> {
    if flags & !known != 0 { Err(EINVAL) } else { Ok(()) }
}

/// A structure's bytes, field by field.
struct Bytes(Vec<u8>);

impl Bytes {
    fn new() -> Self {
        Bytes(Vec::new())
    }
    fn u16(&mut self, v: u16) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }
    fn u32(&mut self, v: u32) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }
    fn u64(&mut self, v: u64) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }
    /// Zeroes up to this length.
    fn fill(&mut self, len: usize) {
        self.0.resize(len, 0);
    }
    fn put(&self, at: u64) -> Result {
        user::write(at, &self.0)?;
        Ok(0)
    }
}
