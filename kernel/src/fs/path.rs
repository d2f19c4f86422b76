//! From paths to inodes.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::dir::Name;
use super::inode::{Inode, Kind};
use super::{mount, proc};
use crate::errno::{ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, Result};

/// Most links on the way.
const LINKS_MAX: u32 = 40;
/// Most bytes of a name.
const NAME_MAX: usize = 255;

/// Where a process's paths begin.
#[derive(Clone)]
pub(crate) struct Place {
    /// Of absolute ones.
    pub(crate) root: Arc<Inode>,
    /// Of the others: the current directory.
    pub(crate) cwd: Arc<Inode>,
}

/// The last part of a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Last {
    Name(Name),
    Dot,
    DotDot,
    /// There is none: the path is `/`.
    Root,
}

/// Where a path ends.
pub(crate) struct Found {
    /// The directory of the last part.
    pub(crate) dir: Arc<Inode>,
    pub(crate) last: Last,
    /// What is there.
    pub(crate) inode: Option<Arc<Inode>>,
    /// A slash follows.
    pub(crate) slash: bool,
}

/// What becomes of a link at the end of a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    Follow,
    /// Not even when a slash follows, for calls that take a name away or make one.
    Name,
    /// The link itself, unless a slash follows.
    Stay,
}

impl Place {
    /// Of the first process.
    pub(crate) fn first() -> Place {
        let root = mount::root();
        Place { root: root.clone(), cwd: root }
    }

    /// Follows a path to its end; the last part need not exist.
    pub(crate) fn walk(&self, path: &[u8], end: End) -> Result<Found> {
        if path.is_empty() {
            return Err(ENOENT);
        }
        let mut links = 0;
        let mut rest: Vec<u8> = path.to_vec();
        let mut at = if path[0] == b'/' { self.root.clone() } else { self.cwd.clone() };
        let mut last_dir = at.clone();
        loop {
            let skip = rest.iter().take_while(|b| **b == b'/').count();
            rest.drain(..skip);
            if rest.is_empty() {
                // A path of slashes, or a link to one.
                return Ok(Found { dir: last_dir, last: Last::Root, inode: Some(at), slash: true });
            }
            let len = rest.iter().position(|b| *b == b'/').unwrap_or(rest.len());
            let name: Vec<u8> = rest.drain(..len).collect();
            let slash = rest.first() == Some(&b'/');
            let is_last = rest.iter().all(|b| *b == b'/');
            if !at.is_directory() {
                return Err(ENOTDIR);
            }
            if name.len() > NAME_MAX {
                return Err(ENAMETOOLONG);
            }
            last_dir = at.clone();
            let (last, next) = match &name[..] {
                b"." => (Last::Dot, Some(at.clone())),
                b".." => (Last::DotDot, Some(self.up(&at)?)),
                n => (Last::Name(n.into()), step(&at, n)?),
            };
            let is_link = next.as_ref().is_some_and(|i| is_link(i));
            let follow = !is_last || end == End::Follow || end == End::Stay && slash;
            if is_link && follow {
                links += 1;
                if links > LINKS_MAX {
                    return Err(ELOOP);
                }
                // Links of /proc lead to what they stand for, whatever its name.
                if let Some(Kind::Proc(p)) = next.as_ref().map(|i| &i.kind)
                    && let Some(inode) = p.leads_to()?
                {
                    if is_last {
                        return Ok(Found { dir: last_dir, last, inode: Some(inode), slash });
                    }
                    at = inode;
                    continue;
                }
                let mut target = match &next {
                    Some(i) => i.target()?,
                    None => Vec::new(),
                };
                if target.is_empty() {
                    return Err(ENOENT);
                }
                if target[0] == b'/' {
                    at = self.root.clone();
                    last_dir = at.clone();
                }
                if !rest.is_empty() {
                    target.push(b'/');
                    target.extend_from_slice(&rest);
                }
                rest = target;
                continue;
            }
            if is_last {
                return Ok(Found { dir: last_dir, last, inode: next, slash });
            }
            at = next.ok_or(ENOENT)?;
        }
    }

    /// The directory above, not above the root.
    fn up(&self, at: &Arc<Inode>) -> Result<Arc<Inode>> {
        let mut at = at.clone();
        loop {
            if Arc::ptr_eq(&at, &self.root) {
                return Ok(at);
            }
            let covered = at.dir().and_then(|d| d.covers.lock().clone()).or_else(|| proc::covered(&at));
            match covered {
                Some(below) => at = below,
                None => break,
            }
        }
        match &at.kind {
            Kind::Directory(d) => d.parent().map(mount::top).ok_or(ENOENT),
            Kind::Proc(p) => Ok(p.parent().unwrap_or(at.clone())),
            _ => Err(ENOTDIR),
        }
    }

    /// What is at the end of a path.
    pub(crate) fn find(&self, path: &[u8], end: End) -> Result<Arc<Inode>> {
        let found = self.walk(path, end)?;
        let inode = found.inode.ok_or(ENOENT)?;
        if found.slash && !inode.is_directory() {
            return Err(ENOTDIR);
        }
        Ok(inode)
    }

    /// The path of a directory from this root; `None`: it has none any more.
    pub(crate) fn path_of(&self, dir: &Arc<Inode>) -> Option<Vec<u8>> {
        let mut names: Vec<Name> = Vec::new();
        let mut at = dir.clone();
        while !Arc::ptr_eq(&at, &self.root) {
            let covered = at.dir().and_then(|d| d.covers.lock().clone()).or_else(|| proc::covered(&at));
            if let Some(below) = covered {
                at = below;
                continue;
            }
            let (parent, name) = match &at.kind {
                Kind::Directory(d) => {
                    let parent = d.parent()?;
                    if Arc::ptr_eq(&parent, &at) {
                        break; // the root of all, above this root
                    }
                    let name = parent.dir()?.name_of(&at)?;
                    (parent, name)
                }
                Kind::Proc(p) => (p.parent()?, p.name().into_boxed_slice()),
                _ => return None,
            };
            names.push(name);
            at = mount::top(parent);
        }
        let mut path = Vec::new();
        for n in names.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(n);
        }
        if path.is_empty() {
            path.push(b'/');
        }
        Some(path)
    }
}

fn is_link(i: &Inode) -> bool {
    i.type_bits() == super::inode::S_IFLNK
}

/// What a name in a directory leads to, through mounts.
fn step(at: &Arc<Inode>, name: &[u8]) -> Result<Option<Arc<Inode>>> {
    match &at.kind {
        Kind::Directory(d) => Ok(d.get(name).map(mount::top)),
        Kind::Proc(p) => p.get(at, name),
        _ => Err(ENOTDIR),
    }
}
