//! Mounts.

use alloc::vec::Vec;

use super::{only, path};
use crate::errno::{EINVAL, ENODEV, Result};
use crate::fs::mount;
use crate::user;

const MS_REMOUNT: u64 = 32;
/// MS_BIND, MS_MOVE, and the kinds of propagation.
const MS_BIND: u64 = 0x1000;
const MS_MOVE: u64 = 0x2000;
const MS_PROPAGATION: u64 = 0x1e_0000;

/// The value of `mode=` in the options of a mount.
fn mode_of(options: &[u8]) -> Result<Option<u32>> {
    let text = core::str::from_utf8(options).map_err(|_| EINVAL)?;
    let mode = text.split(',').find_map(|o| o.strip_prefix("mode="));
    mode.map(|m| u32::from_str_radix(m, 8).map_err(|_| EINVAL)).transpose()
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
    mount::mount(&source, &on, &kind, mode_of(&options)?).map(|()| 0)
}

pub(crate) fn umount2(at: u64, flags: u64) -> Result {
    only(flags, 15)?;
    let lazy = flags & 3 != 0;
    let root = super::inode_of(at)?;
    mount::unmount(&root, lazy).map(|()| 0)
}
