//! Files: trees in memory, of which the first begins as the initial file system; /proc; devices; pipes and sockets.

mod contents;
mod cpio;
pub(crate) mod device;
pub(crate) mod dir;
pub(crate) mod epoll;
pub(crate) mod event;
pub(crate) mod file;
mod initial;
pub(crate) mod inode;
pub(crate) mod mount;
pub(crate) mod names;
mod pager;
pub(crate) mod path;
mod pipe;
pub(crate) mod poll;
mod proc;
pub(crate) mod record;
pub(crate) mod signalfd;
pub(crate) mod socket;
mod start;
mod table;
pub(crate) mod timerfd;
mod tty;
pub(crate) mod wait;

use alloc::string::String;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use crate::arch;
use crate::errno::{EIO, ERESTARTSYS, Result};
use crate::mutex::Mutex;
use crate::process::limits::FSIZE;
use crate::process::signal;

pub(crate) use file::File;
pub(crate) use file::Mappable;
pub(crate) use inode::{Inode, Node};
pub(crate) use names::{make, memory_file, open, pipe};
pub(crate) use pager::{pager, unused as pager_unused, used as pager_used};
pub(crate) use path::{End, Place};
pub(crate) use start::{find, is_of, start};
pub(crate) use table::Files;
pub(crate) use tty::arrived;

/// Bytes that are hard to guess.
pub(crate) fn random(buf: &mut [u8]) {
    crate::random::fill(buf);
}

/// The time of day, for files.
pub(crate) fn real_time_ns() -> u64 {
    arch::now_ns().wrapping_add(arch::epoch_ns())
}

/// The file system of files without names.
fn nameless() -> Arc<inode::FileSystem> {
    static NAMELESS: Mutex<Option<Arc<inode::FileSystem>>> = Mutex::new(None);
    NAMELESS.lock().get_or_insert_with(|| inode::FileSystem::new("anon_inodefs")).clone()
}

/// Takes all trees apart: what nobody has open goes. => no program runs any more.
pub(crate) fn shut_down() {
    for m in mount::all().iter().rev() {
        let mut rest = alloc::vec![m.root.clone()];
        while let Some(i) = rest.pop() {
            rest.extend(i.dir().map(dir::Directory::clear).unwrap_or_default());
        }
    }
}

/// What a path leads to.
pub(crate) fn lookup(place: &Place, path: &str) -> Result<Arc<Inode>> {
    place.find(path.as_bytes(), End::Follow)
}

/// An absolute path without links, as far as there is one.
pub(crate) fn normal(place: &Place, path: &str) -> String {
    let Ok(found) = place.walk(path.as_bytes(), End::Follow) else { return path.into() };
    let mut text = place.path_of(&found.dir).unwrap_or_default();
    if let path::Last::Name(n) = &found.last {
        if text.last() != Some(&b'/') {
            text.push(b'/');
        }
        text.extend_from_slice(n);
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// A key that is a signal was typed.
fn signal_group(group: u32, number: u32) {
    // Where nobody said, it is the first program's.
    signal::send_to_group(group.max(1), number);
}
/// The running thread wants to read from the terminal: its group must be in the foreground, or it is stopped.
fn background_read(foreground: u32) -> Result<()> {
    let me = crate::sched::process();
    if me.group() == foreground || foreground == 0 {
        return Ok(());
    }
    let blocked =
        crate::sched::current().signals.mask.load(Ordering::Relaxed) & signal::bit(signal::SIGTTIN) != 0;
    if blocked || me.signals.ignores(signal::SIGTTIN) || crate::process::group::is_orphaned(me.group()) {
        return Err(EIO);
    }
    signal::send_to_group(me.group(), signal::SIGTTIN);
    Err(ERESTARTSYS)
}
/// The running process's group.
fn own_group() -> u32 {
    crate::sched::process().group()
}
/// Does `f`, which ends the call, with another signal mask.
pub(crate) fn with_mask(mask: u64, f: impl FnOnce() -> Result) -> Result {
    signal::mask_for_call(mask);
    f()
}

/// How many of `n` bytes at byte `at` of a file the caller may write (RLIMIT_FSIZE).
///
/// # Errors
/// EFBIG, with SIGXFSZ: none.
fn within_limit(at: u64, n: u64) -> Result<u64> {
    let limit = crate::sched::current().process.as_ref().map_or(u64::MAX, |p| p.limit(FSIZE));
    match limit.saturating_sub(at) {
        0 if n != 0 => Err(too_large()),
        left => Ok(left.min(n)),
    }
}

/// A file would be larger than the caller may make one.
fn too_large() -> crate::errno::Errno {
    crate::process::signal::raise(crate::process::signal::SIGXFSZ);
    crate::errno::EFBIG
}
