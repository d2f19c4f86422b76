//! The root as it is at the start: the initial file system, and what programs expect besides.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicPtr, Ordering};

use super::contents::Contents;
use super::initial::Initial;
use super::inode::{Inode, Kind, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, Time};
use super::pipe::Pipe;
use super::{cpio, device, mount, tty};
use crate::arch::{self, Span};
use crate::dev::{self, Disk};
use crate::errno::{EEXIST, EINVAL, ENOTDIR, Result};

/// The longest target of a symbolic link.
const LONGEST_LINK: u64 = 4095;

/// The directory of a path, made where it is absent, and the path's last name.
fn parent<'n>(root: &Arc<Inode>, path: &'n str) -> Result<(Arc<Inode>, &'n str)> {
    let path = path.trim_matches('/');
    let (dirs, name) = path.rsplit_once('/').unwrap_or(("", path));
    let mut at = root.clone();
    for part in dirs.split('/').filter(|p| !p.is_empty() && *p != ".") {
        at = directory(&at, part, 0o755)?;
    }
    Ok((at, name))
}

/// A directory, made if it is absent.
fn directory(at: &Arc<Inode>, name: &str, rights: u32) -> Result<Arc<Inode>> {
    let d = at.dir().ok_or(ENOTDIR)?;
    if let Some(there) = d.get(name.as_bytes()) {
        return Ok(there);
    }
    let new = Inode::directory(&at.fs, Arc::downgrade(at), rights);
    at.enter(name.as_bytes(), &new)?;
    Ok(new)
}

/// Files with several names: each name is an entry of the archive, and one of them has the bytes.
type Links = BTreeMap<usize, Arc<Inode>>;

fn unpack(root: &Arc<Inode>, e: &cpio::Entry<'_>, links: &mut Links) -> Result<()> {
    let (dir, name) = parent(root, e.name)?;
    let rights = e.mode & 0o7777;
    let inode = match e.mode & S_IFMT {
        S_IFDIR => {
            let d = if matches!(name, "" | ".") { dir.clone() } else { directory(&dir, name, rights)? };
            d.change(|a| a.rights = rights);
            d
        }
        S_IFREG => {
            let known = (e.links > 1).then(|| links.get(&e.number).cloned()).flatten();
            let inode = match known {
                Some(i) => i,
                None => Inode::new(&root.fs, Kind::Regular(Contents::new(Initial::NONE, &root.fs)?), rights),
            };
            if let (Kind::Regular(c), false) = (&inode.kind, e.data.len() == 0) {
                c.begin_as(e.data);
            }
            if e.links > 1 {
                links.insert(e.number, inode.clone());
            }
            inode
        }
        S_IFLNK => {
            let target = e.data.copy(0, e.data.len().min(LONGEST_LINK))?;
            Inode::new(&root.fs, Kind::Link(target.into_boxed_slice()), 0o777)
        }
        S_IFCHR | S_IFBLK => device::node(&root.fs, e.mode, e.device.0, e.device.1),
        S_IFIFO => Inode::new(&root.fs, Kind::Fifo(Pipe::new(true)), rights),
        _ => return Err(EINVAL),
    };
    if e.mode & S_IFMT != S_IFDIR {
        dir.enter(name.as_bytes(), &inode)?;
    }
    let time = Time { s: e.mtime as i64, ns: 0 };
    inode.change(|a| (a.uid, a.gid, a.mtime, a.atime) = (e.uid, e.gid, time, time));
    Ok(())
}

/// A file with this text, unless there is one.
fn provide(root: &Arc<Inode>, path: &str, text: &'static str) -> Result<()> {
    let (dir, name) = parent(root, path)?;
    let inode = Inode::new(
        &root.fs,
        Kind::Regular(Contents::new(Initial::Memory(text.as_bytes()), &root.fs)?),
        0o644,
    );
    match dir.enter(name.as_bytes(), &inode) {
        Err(EEXIST) => Ok(()),
        r => r,
    }
}

fn furnish(root: &Arc<Inode>) -> Result<()> {
    let dev = directory(root, "dev", 0o755)?;
    device::populate(&dev)?;
    directory(root, "tmp", 0o1777)?.change(|a| a.rights = 0o1777);
    directory(root, "etc", 0o755)?;
    let proc = directory(root, "proc", 0o555)?;
    provide(root, "etc/passwd", "root:x:0:0:root:/:/bin/sh\n")?;
    provide(root, "etc/group", "root:x:0:\n")?;
    mount::mount(b"proc", &proc, b"proc", mount::Options::default())
}

/// The disk that has the initial file system.
static DISK: AtomicPtr<Disk> = AtomicPtr::new(core::ptr::null_mut());

/// Without an initial file system from the loader, the first disk that begins as an archive has it.
///
/// => once, after the disks and before swap.
pub(crate) fn find(initrd: Option<Span>) {
    let begins = |d: &&'static Disk| {
        Initial::of_disk(d).copy(0, cpio::MAGIC.len() as u64).is_ok_and(|b| b == cpio::MAGIC)
    };
    if initrd.is_none()
        && let Some(d) = dev::disks().iter().find(begins)
    {
        DISK.store(core::ptr::from_ref(d).cast_mut(), Ordering::Release);
    }
}

/// Files' contents come from this disk: it stays as it is.
pub(crate) fn is_of(disk: &Disk) -> bool {
    core::ptr::eq(DISK.load(Ordering::Acquire), disk)
}

/// The archive that the root is made of.
fn archive(initrd: Option<Span>) -> Option<Initial> {
    if let Some(span) = initrd {
        // SAFETY: the loader's module, which the VM was not given.
        let bytes = unsafe {
            core::slice::from_raw_parts(arch::direct(span.start), (span.end - span.start) as usize)
        };
        return Some(Initial::Memory(bytes));
    }
    dev::disks().iter().find(|d| is_of(d)).map(Initial::of_disk)
}

/// Puts the initial file system in place.
pub(crate) fn start(initrd: Option<Span>) {
    mount::start();
    let root = mount::root();
    let mut links = Links::new();
    let read = archive(initrd).map(|a| {
        cpio::each(a, |e| {
            if let Err(why) = unpack(&root, e, &mut links) {
                crate::say!("machvm: {} of the initial file system: error {}", e.name, why.0);
            }
        })
    });
    match read {
        None => crate::say!("machvm: no initial file system: no initrd, and no disk begins with an archive"),
        Some(Err(e)) => crate::say!("machvm: the initial file system ends early: error {}", e.0),
        Some(Ok(())) => {}
    }
    if let Err(e) = furnish(&root) {
        crate::say!("machvm: the root cannot be furnished: error {}", e.0);
    }
    let mut some = [0; 8];
    super::random(&mut some);
    arch::init_input();
    if crate::sched::Thread::kernel(tty::daemon).is_none() {
        crate::say!("machvm: no memory for the console's thread: nothing can be typed");
    }
}
