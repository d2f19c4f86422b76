//! Files: trees in memory, of which the first begins as the initial file system; /proc; devices; pipes and sockets.

mod contents;
mod cpio;
pub(crate) mod device;
pub(crate) mod dir;
pub(crate) mod epoll;
pub(crate) mod event;
pub(crate) mod file;
pub(crate) mod inode;
pub(crate) mod mount;
pub(crate) mod names;
mod pager;
pub(crate) mod path;
mod pipe;
pub(crate) mod poll;
mod proc;
pub(crate) mod socket;
mod start;
mod table;
mod tty;
pub(crate) mod wait;

use alloc::string::String;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::arch;
use crate::errno::Result;
use crate::mutex::Mutex;
use crate::process::signal;

pub(crate) use file::File;
#[allow(unused_imports, reason = "mmap comes next")]
pub(crate) use file::Mappable;
pub(crate) use inode::{Inode, Node};
pub(crate) use names::{make, memory_file, open, pipe};
pub(crate) use pager::{pager, unused as pager_unused, used as pager_used};
pub(crate) use path::{End, Place};
pub(crate) use start::start;
pub(crate) use table::Files;
pub(crate) use tty::arrived;

static SEED: AtomicU64 = AtomicU64::new(0x2545_f491_4f6c_dd1d);

/// Some bytes that are hard to guess for a program (not for a cryptographer).
pub(crate) fn random(buf: &mut [u8]) {
    for b in buf {
        let mut x = SEED.load(Ordering::Relaxed) ^ arch::now_ns();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        SEED.store(x, Ordering::Relaxed);
        *b = (x >> 32) as u8;
    }
}

/// The time of day, for files.
pub(crate) fn real_time_ns() -> u64 {
    arch::now_ns()
}

/// The file system of files without names.
fn nameless() -> Arc<inode::FileSystem> {
    static NAMELESS: Mutex<Option<Arc<inode::FileSystem>>> = Mutex::new(None);
    NAMELESS.lock().get_or_insert_with(|| inode::FileSystem::new("anon_inodefs")).clone()
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
    if let Ok(p) = crate::process::find(group) {
        signal::send(&p, number);
    }
}
/// The running thread wants to read from the terminal.
fn background_read(_foreground: u32) -> Result<()> {
    Ok(())
}
/// The running process's group.
fn own_group() -> u32 {
    crate::sched::process().pid
}
/// Does `f` with another signal mask.
pub(crate) fn with_mask(mask: u64, f: impl FnOnce() -> Result) -> Result {
    let t = crate::sched::current();
    let old = t.mask.swap(mask, Ordering::AcqRel);
    let r = f();
    t.mask.store(old, Ordering::Release);
    r
}
