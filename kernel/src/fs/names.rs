//! Opening files by name, and making what names lead to.

use alloc::sync::Arc;

use super::contents::Contents;
use super::file::{
    File, O_ACCMODE, O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_PATH, O_RDWR, O_TMPFILE, O_TRUNC, O_WRONLY,
};
use super::initial::Initial;
use super::inode::{Inode, Kind, S_IFLNK};
use super::path::{End, Found, Last, Place};
use super::pipe::Pipe;
use crate::errno::{EEXIST, EINVAL, EISDIR, ELOOP, ENOENT, ENOTDIR, EOPNOTSUPP, Result};

/// open(2). `rights`: of a file that is made, the umask taken away.
pub(crate) fn open(place: &Place, path: &[u8], flags: u32, rights: u32) -> Result<Arc<File>> {
    if flags & O_PATH != 0 {
        let end = if flags & O_NOFOLLOW != 0 { End::Stay } else { End::Follow };
        let found = place.walk(path, end)?;
        return opened(found, flags);
    }
    if flags & O_TMPFILE != 0 {
        return open_nameless(place, path, flags, rights);
    }
    if flags & (O_CREAT | O_DIRECTORY) == O_CREAT | O_DIRECTORY {
        return Err(EINVAL);
    }
    let end = match flags {
        f if f & (O_CREAT | O_EXCL) == O_CREAT | O_EXCL => End::Name,
        f if f & O_NOFOLLOW != 0 => End::Stay,
        _ => End::Follow,
    };
    loop {
        let found = place.walk(path, end)?;
        if found.inode.is_some() || flags & O_CREAT == 0 {
            if flags & (O_CREAT | O_EXCL) == O_CREAT | O_EXCL {
                return Err(EEXIST);
            }
            return opened(found, flags);
        }
        if found.slash {
            return Err(EISDIR);
        }
        let Last::Name(name) = found.last else { return Err(EISDIR) };
        if found.dir.dir().is_none() {
            return Err(ENOENT); // as /proc has it
        }
        let inode =
            Inode::new(&found.dir.fs, Kind::Regular(Contents::new(Initial::NONE, &found.dir.fs)?), rights);
        match found.dir.enter(&name, &inode) {
            // Somebody was first: it is opened, or refused.
            Err(EEXIST) => continue,
            r => r?,
        }
        return Ok(Arc::new(File::of_inode(inode, Some((found.dir, name)), flags)));
    }
}

/// Opens what is there.
fn opened(found: Found, flags: u32) -> Result<Arc<File>> {
    let inode = found.inode.ok_or(ENOENT)?;
    let is_directory = inode.is_directory();
    if !is_directory && (found.slash || flags & O_DIRECTORY != 0) {
        return Err(ENOTDIR);
    }
    if flags & O_PATH == 0 {
        if inode.type_bits() == S_IFLNK {
            return Err(ELOOP);
        }
        if is_directory && (flags & (O_CREAT | O_TRUNC) != 0 || flags & O_ACCMODE != 0) {
            return Err(EISDIR);
        }
    }
    let at = match found.last {
        Last::Name(name) => Some((found.dir, name)),
        _ => None,
    };
    let file = File::open(inode, at, flags)?;
    if flags & (O_PATH | O_TRUNC) == O_TRUNC && file.contents().is_some() {
        file.inode.truncate(0)?;
    }
    Ok(Arc::new(file))
}

/// O_TMPFILE.
fn open_nameless(place: &Place, path: &[u8], flags: u32, rights: u32) -> Result<Arc<File>> {
    if flags & O_DIRECTORY == 0 || !matches!(flags & O_ACCMODE, O_WRONLY | O_RDWR) {
        return Err(EINVAL);
    }
    let dir = place.find(path, End::Follow)?;
    if !dir.is_directory() {
        return Err(ENOTDIR);
    }
    if dir.dir().is_none() {
        return Err(EOPNOTSUPP);
    }
    let inode = Inode::new(&dir.fs, Kind::Regular(Contents::new(Initial::NONE, &dir.fs)?), rights);
    Ok(Arc::new(File::of_inode(inode, None, flags)))
}

/// What mkdir, mknod and symlink make.
pub(crate) enum What<'a> {
    Directory,
    Link(&'a [u8]),
    Regular,
    Fifo,
    Socket,
    /// S_IFCHR or S_IFBLK, and its numbers.
    Device(u32, u32, u32),
}

/// Makes something new at a path.
pub(crate) fn make(place: &Place, path: &[u8], what: &What<'_>, rights: u32) -> Result<()> {
    let found = place.walk(path, End::Name)?;
    if found.inode.is_some() {
        return Err(EEXIST);
    }
    let Last::Name(name) = &found.last else { return Err(EEXIST) };
    if found.slash && !matches!(what, What::Directory) {
        return Err(ENOENT);
    }
    let dir = &found.dir;
    if dir.dir().is_none() {
        return Err(ENOENT); // as /proc has it
    }
    let inode = match what {
        What::Directory => Inode::directory(&dir.fs, Arc::downgrade(dir), rights),
        What::Link(to) => Inode::new(&dir.fs, Kind::Link((*to).into()), 0o777),
        What::Regular => Inode::new(&dir.fs, Kind::Regular(Contents::new(Initial::NONE, &dir.fs)?), rights),
        What::Fifo => Inode::new(&dir.fs, Kind::Fifo(Pipe::new(true)), rights),
        What::Socket => Inode::new(&dir.fs, Kind::Socket, rights),
        What::Device(kind, major, minor) => super::device::node(&dir.fs, kind | rights, *major, *minor),
    };
    dir.enter(name, &inode)
}

/// memfd_create(2).
pub(crate) fn memory_file(name: &[u8], rights: u32, seals: u32) -> Result<Arc<File>> {
    let fs = super::nameless();
    let inode = Inode::new(&fs, Kind::Regular(Contents::new(Initial::NONE, &fs)?), rights);
    inode.seals.store(seals, core::sync::atomic::Ordering::Release);
    let root = super::mount::root();
    let mut label = b"/memfd:".to_vec();
    label.extend_from_slice(name);
    let mut file = File::of_inode(inode, None, O_RDWR);
    file.at = Some((root, label.into_boxed_slice()));
    Ok(Arc::new(file))
}

/// A pipe: the file to read from, the file to write to.
pub(crate) fn pipe(flags: u32) -> (Arc<File>, Arc<File>) {
    let pipe = Pipe::new(false);
    let file = |reads: bool| {
        let end = pipe.end(reads, !reads);
        let mode = if reads { 0 } else { O_WRONLY };
        File::of_special(Kind::Fifo(pipe.clone()), Arc::new(end), mode | flags)
    };
    (file(true), file(false))
}
