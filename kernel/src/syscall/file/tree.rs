//! Mounts.

use alloc::vec::Vec;

use super::{only, path};
use crate::dev::Disk;
use crate::errno::{EINVAL, ENODEV, EPERM, Result};
use crate::fs::file::O_RDWR;
use crate::fs::mount;
use crate::sched;
use crate::user;

const MS_REMOUNT: u64 = 32;
/// MS_BIND, MS_MOVE, and the kinds of propagation.
const MS_BIND: u64 = 0x1000;
const MS_MOVE: u64 = 0x2000;
const MS_PROPAGATION: u64 = 0x1e_0000;

/// A number, perhaps with K, M or G behind it.
fn number(text: &str) -> Result<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match &text[digits.len()..] {
        "" => 0,
        "k" | "K" => 10,
        "m" | "M" => 20,
        "g" | "G" => 30,
        _ => return Err(EINVAL),
    };
    digits.parse::<u64>().map_err(|_| EINVAL)?.checked_mul(1 << shift).ok_or(EINVAL)
}

/// The pages of a size: bytes, or a part of memory in percent.
fn pages_of(text: &str) -> Result<u64> {
    match text.strip_suffix('%') {
        Some(part) => Ok(crate::embed::the_vm().frame_limit().saturating_mul(number(part)?) / 100),
        None => Ok(number(text)?.div_ceil(4096)),
    }
}

/// `mode=`, `size=` and `nr_blocks=` in the options of a mount. No size, or 0: without limit.
fn options_of(options: &[u8]) -> Result<mount::Options> {
    let text = core::str::from_utf8(options).map_err(|_| EINVAL)?;
    let mut found = mount::Options::default();
    for o in text.split(',') {
        match o.split_once('=') {
            Some(("mode", m)) => found.rights = Some(u32::from_str_radix(m, 8).map_err(|_| EINVAL)?),
            Some(("size", n)) => found.pages = Some(pages_of(n)?).filter(|n| *n != 0),
            Some(("nr_blocks", n)) => found.pages = Some(number(n)?).filter(|n| *n != 0),
            _ => {}
        }
    }
    Ok(found)
}

pub(crate) fn mount_at(source: u64, at: u64, kind: u64, flags: u64, options: u64) -> Result {
    let on = super::inode_of(at)?;
    if flags & MS_PROPAGATION != 0 || flags & MS_REMOUNT != 0 {
        // One name space, and nothing that could be set otherwise.
        return Ok(0);
    }
    if flags & (MS_BIND | MS_MOVE) != 0 {
        return Err(EINVAL);
    }
    let kind = if kind == 0 { return Err(EINVAL) } else { user::string(kind, 4096)? };
    let source = if source == 0 { b"none".to_vec() } else { path(source)? };
    let options: Vec<u8> = if options == 0 { Vec::new() } else { user::string(options, 4096)? };
    if kind.is_empty() {
        return Err(ENODEV);
    }
    mount::mount(&source, &on, &kind, options_of(&options)?).map(|()| 0)
}

/// A disk by its path, for root.
fn disk_at(at: u64) -> Result<&'static Disk> {
    let path = path(at)?;
    if sched::process().identity.lock().user[1] != 0 {
        return Err(EPERM);
    }
    let place = super::place(-100, &path)?;
    let file = crate::fs::open(&place, &path, O_RDWR, 0)?;
    file.special().and_then(|s| s.disk()).ok_or(EINVAL)
}

/// Where the first page of a disk says that it is for swap, and how many pages it has.
const SIGNATURE: &[u8] = b"SWAPSPACE2";
const LAST_PAGE: usize = 1024 + 4;

pub(crate) fn swapon(at: u64, flags: u64) -> Result {
    const PREFER: u64 = 0x8000;
    const PRIORITY: u64 = 0x7fff;
    only(flags, PREFER | PRIORITY | 0x10000 | 0x20000 | 0x40000)?;
    let disk = disk_at(at)?;
    let mut first = [0; 4096];
    disk.read(0, first.len().min(disk.size() as usize), |i, piece| {
        first[i..i + piece.len()].copy_from_slice(piece)
    })?;
    if !first.ends_with(SIGNATURE) {
        return Err(EINVAL);
    }
    let last = u32::from_le_bytes([0, 1, 2, 3].map(|i| first[LAST_PAGE + i]));
    let priority = (flags & PREFER != 0).then_some((flags & PRIORITY) as i32);
    crate::swap::add(disk, u64::from(last) + 1, priority).map(|()| 0)
}

pub(crate) fn swapoff(at: u64) -> Result {
    crate::swap::remove(disk_at(at)?).map(|()| 0)
}

pub(crate) fn umount2(at: u64, flags: u64) -> Result {
    only(flags, 15)?;
    let lazy = flags & 3 != 0;
    let root = super::inode_of(at)?;
    mount::unmount(&root, lazy).map(|()| 0)
}
