//! Trees mounted on directories of others.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use super::inode::{FileSystem, Inode, Kind};
use super::proc;
use crate::errno::{EBUSY, EINVAL, ENODEV, ENOTDIR, Result};
use crate::mutex::Mutex;

/// A tree in place.
#[derive(Clone)]
pub(crate) struct Mount {
    /// What it was mounted from, as the caller called it.
    pub(crate) source: Vec<u8>,
    pub(crate) root: Arc<Inode>,
}

/// All, in the order in which they came; the first is the root of all.
static MOUNTS: Mutex<Vec<Mount>> = Mutex::new(Vec::new());

/// A directory that is its own parent.
pub(super) fn new_root(fs: &Arc<FileSystem>, rights: u32) -> Arc<Inode> {
    let root = Inode::directory(fs, Weak::new(), rights);
    if let Some(d) = root.dir() {
        d.set_parent(&root);
    }
    root
}

/// Makes the root of all.
pub(super) fn start() {
    let root = new_root(&FileSystem::new("rootfs"), 0o755);
    MOUNTS.lock().push(Mount { source: b"rootfs".to_vec(), root });
}

/// The root of all.
pub(crate) fn root() -> Arc<Inode> {
    MOUNTS.lock()[0].root.clone()
}

/// All mounts.
pub(crate) fn all() -> Vec<Mount> {
    MOUNTS.lock().clone()
}

/// What is seen of a directory: what is mounted on it.
pub(super) fn top(mut at: Arc<Inode>) -> Arc<Inode> {
    while let Some(over) = at.dir().and_then(|d| d.mounted.lock().clone()) {
        at = over;
    }
    at
}

/// What a new tree in memory is like.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Options {
    /// Rights of its root.
    pub(crate) rights: Option<u32>,
    /// Pages that may be in its files.
    pub(crate) pages: Option<u64>,
}

/// Mounts a new tree on a directory.
pub(crate) fn mount(source: &[u8], on: &Arc<Inode>, kind: &[u8], options: Options) -> Result<()> {
    let dir = on.dir().ok_or(ENOTDIR)?;
    let root = match kind {
        b"tmpfs" | b"ramfs" | b"devtmpfs" => {
            let name = if kind == b"ramfs" { "ramfs" } else { "tmpfs" };
            let fs = FileSystem::with_limit(name, options.pages.filter(|_| name == "tmpfs"));
            let root = new_root(&fs, options.rights.unwrap_or(0o1777));
            if kind == b"devtmpfs" {
                super::device::populate(&root)?;
            }
            root
        }
        b"proc" => proc::new_root(),
        _ => return Err(ENODEV),
    };
    match &root.kind {
        Kind::Directory(d) => *d.covers.lock() = Some(on.clone()),
        _ => proc::cover(&root, on),
    }
    *dir.mounted.lock() = Some(root.clone());
    MOUNTS.lock().push(Mount { source: source.to_vec(), root });
    Ok(())
}

/// Takes away what `root` is the root of.
pub(crate) fn unmount(root: &Arc<Inode>, lazy: bool) -> Result<()> {
    let mut mounts = MOUNTS.lock();
    let at = mounts.iter().position(|m| Arc::ptr_eq(&m.root, root)).ok_or(EINVAL)?;
    if at == 0 {
        return Err(EBUSY);
    }
    // The list, what it is mounted on, and the caller have a reference each.
    if !lazy && (Arc::strong_count(root) > 3 || is_used(root)) {
        return Err(EBUSY);
    }
    let below = match &root.kind {
        Kind::Directory(d) => d.covers.lock().take(),
        _ => proc::uncover(root),
    };
    if let Some(d) = below.as_ref().and_then(|b| b.dir()) {
        *d.mounted.lock() = None;
    }
    let gone = mounts.remove(at);
    drop(mounts);
    drop(gone);
    Ok(())
}

/// Has anybody something of it open, or something mounted in it?
fn is_used(root: &Arc<Inode>) -> bool {
    let mut rest = alloc::vec![root.clone()];
    while let Some(d) = rest.pop() {
        for c in d.dir().map(super::dir::Directory::children).unwrap_or_default() {
            let names = if c.is_directory() { 1 } else { c.attr().links as usize };
            // Its names, and we.
            if Arc::strong_count(&c) > names + 1 || c.dir().is_some_and(|d| d.mounted.lock().is_some()) {
                return true;
            }
            if c.is_directory() {
                rest.push(c);
            }
        }
    }
    false
}
