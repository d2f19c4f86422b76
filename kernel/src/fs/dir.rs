//! Directories in memory.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use super::inode::{Inode, Kind};
use crate::errno::{EBUSY, EEXIST, EINVAL, EISDIR, ENOENT, ENOTDIR, ENOTEMPTY, EPERM, EXDEV, Result};
use crate::mutex::Mutex;

/// A name in a directory.
pub(crate) type Name = Box<[u8]>;

/// Names in a directory, in the order in which they came: reading goes on behind the last one that was read, whatever
/// comes and goes meanwhile.
#[derive(Default)]
struct Entries {
    by_name: BTreeMap<Name, (u64, Arc<Inode>)>,
    by_order: BTreeMap<u64, Name>,
    last: u64,
    /// The directory was removed: nothing comes into it any more.
    dead: bool,
}

/// A directory.
pub(crate) struct Directory {
    entries: Mutex<Entries>,
    parent: Mutex<Weak<Inode>>,
    /// The root of what is mounted on it.
    pub(super) mounted: Mutex<Option<Arc<Inode>>>,
    /// Of a root: what it is mounted on.
    pub(super) covers: Mutex<Option<Arc<Inode>>>,
}

/// One line of a listing.
pub(crate) struct Line {
    /// Where reading goes on behind it.
    pub(crate) cookie: u64,
    pub(crate) number: u64,
    /// S_IFMT.
    pub(crate) kind: u32,
    pub(crate) name: Vec<u8>,
}

/// Held by who changes names.
static CHANGES: Mutex<()> = Mutex::new(());

/// Cookies of the first two lines.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;

impl Entries {
    fn put(&mut self, name: &[u8], inode: Arc<Inode>) {
        self.last += 1;
        self.by_order.insert(self.last, name.into());
        self.by_name.insert(name.into(), (self.last, inode));
    }
    fn take(&mut self, name: &[u8]) -> Option<Arc<Inode>> {
        let (order, inode) = self.by_name.remove(name)?;
        self.by_order.remove(&order);
        Some(inode)
    }
}

impl Directory {
    pub(super) fn new(parent: Weak<Inode>) -> Self {
        Directory {
            entries: Mutex::new(Entries { last: DOT_DOT, ..Entries::default() }),
            parent: Mutex::new(parent),
            mounted: Mutex::new(None),
            covers: Mutex::new(None),
        }
    }
    /// What a name in it leads to.
    pub(super) fn get(&self, name: &[u8]) -> Option<Arc<Inode>> {
        self.entries.lock().by_name.get(name).map(|(_, i)| i.clone())
    }
    /// The directory that it is in.
    pub(super) fn parent(&self) -> Option<Arc<Inode>> {
        self.parent.lock().upgrade()
    }
    pub(super) fn set_parent(&self, parent: &Arc<Inode>) {
        *self.parent.lock() = Arc::downgrade(parent);
    }
    /// The name of something in it.
    pub(super) fn name_of(&self, inode: &Arc<Inode>) -> Option<Name> {
        let e = self.entries.lock();
        e.by_name.iter().find(|(_, (_, i))| Arc::ptr_eq(i, inode)).map(|(n, _)| n.clone())
    }
    /// Everything in it.
    pub(super) fn children(&self) -> Vec<Arc<Inode>> {
        self.entries.lock().by_name.values().map(|(_, i)| i.clone()).collect()
    }
    /// What stat says of its size.
    pub(super) fn size(&self) -> u64 {
        40 + 20 * self.entries.lock().by_name.len() as u64
    }
    /// Takes everything out.
    pub(super) fn clear(&self) -> Vec<Arc<Inode>> {
        let mut e = self.entries.lock();
        e.by_order.clear();
        core::mem::take(&mut e.by_name).into_values().map(|(_, i)| i).collect()
    }
    fn is_empty(&self) -> bool {
        self.entries.lock().by_name.is_empty()
    }
    /// At most `most` lines behind `cookie`. `me`: the directory itself.
    pub(super) fn list(&self, me: &Inode, cookie: u64, most: usize) -> Vec<Line> {
        let mut lines = Vec::new();
        if self.entries.lock().dead {
            return lines;
        }
        if cookie < DOT {
            lines.push(Line {
                cookie: DOT,
                number: me.number,
                kind: super::inode::S_IFDIR,
                name: b".".to_vec(),
            });
        }
        if cookie < DOT_DOT {
            let number = self.parent().map_or(me.number, |p| p.number);
            lines.push(Line { cookie: DOT_DOT, number, kind: super::inode::S_IFDIR, name: b"..".to_vec() });
        }
        let e = self.entries.lock();
        for (order, name) in e.by_order.range(cookie.max(DOT_DOT) + 1..).take(most) {
            if let Some((_, i)) = e.by_name.get(name) {
                let (number, kind) = (i.number, i.type_bits());
                lines.push(Line { cookie: *order, number, kind, name: name.to_vec() });
            }
        }
        lines
    }
}

impl Inode {
    /// A directory of ours; `Err`: it is none, or one in which names do not change.
    fn changeable(&self) -> Result<&Directory> {
        match &self.kind {
            Kind::Directory(d) => Ok(d),
            Kind::Proc(_) if self.is_directory() => Err(EPERM),
            _ => Err(ENOTDIR),
        }
    }
    /// Is something mounted on it, or is it the root of something?
    fn is_mount_point(&self) -> bool {
        self.dir().is_some_and(|d| d.mounted.lock().is_some() || d.covers.lock().is_some())
    }

    /// A name for an inode without one of its own, or for another name.
    pub(crate) fn enter(self: &Arc<Self>, name: &[u8], inode: &Arc<Inode>) -> Result<()> {
        let dir = self.changeable()?;
        let _one = CHANGES.lock();
        {
            let mut e = dir.entries.lock();
            if e.by_name.contains_key(name) {
                return Err(EEXIST);
            }
            if e.dead {
                return Err(ENOENT);
            }
            if !Arc::ptr_eq(&self.fs, &inode.fs) {
                return Err(EXDEV);
            }
            e.put(name, inode.clone());
        }
        match inode.dir() {
            Some(d) => {
                *d.parent.lock() = Arc::downgrade(self);
                self.attr.lock().links += 1;
            }
            None => inode.change(|a| a.links += 1),
        }
        self.written();
        Ok(())
    }

    /// unlink(2).
    pub(crate) fn unlink(&self, name: &[u8], slash: bool) -> Result<()> {
        let dir = self.changeable()?;
        let _one = CHANGES.lock();
        let inode = dir.get(name).ok_or(ENOENT)?;
        if slash && !inode.is_directory() {
            return Err(ENOTDIR);
        }
        if inode.is_directory() {
            return Err(EISDIR);
        }
        dir.entries.lock().take(name);
        inode.change(|a| a.links -= 1);
        self.written();
        Ok(())
    }

    /// rmdir(2).
    pub(crate) fn rmdir(&self, name: &[u8]) -> Result<()> {
        let dir = self.changeable()?;
        let _one = CHANGES.lock();
        let inode = dir.get(name).ok_or(ENOENT)?;
        let gone = inode.dir().ok_or(ENOTDIR)?;
        if inode.is_mount_point() {
            return Err(EBUSY);
        }
        if !gone.is_empty() {
            return Err(ENOTEMPTY);
        }
        gone.entries.lock().dead = true;
        dir.entries.lock().take(name);
        inode.change(|a| a.links = 0);
        self.attr.lock().links -= 1;
        self.written();
        Ok(())
    }

    /// renameat2(2) on two names, with what follows each name a slash or not.
    pub(crate) fn rename(
        self: &Arc<Self>,
        (name, slash): (&[u8], bool),
        to: &Arc<Inode>,
        (new, new_slash): (&[u8], bool),
        how: Rename,
    ) -> Result<()> {
        let (from_dir, to_dir) = (self.changeable()?, to.changeable()?);
        if !Arc::ptr_eq(&self.fs, &to.fs) {
            return Err(EXDEV);
        }
        let _one = CHANGES.lock();
        let inode = from_dir.get(name).ok_or(ENOENT)?;
        let old = to_dir.get(new);
        if how == Rename::NoReplace && old.is_some() {
            return Err(EEXIST);
        }
        if !inode.is_directory() && (slash || new_slash) && how != Rename::Exchange {
            return Err(ENOTDIR);
        }
        if how == Rename::Exchange && old.is_none() {
            return Err(ENOENT);
        }
        if old.as_ref().is_some_and(|o| Arc::ptr_eq(o, &inode)) {
            return Ok(());
        }
        // Not into itself, nor what it is in onto it.
        if inode.is_directory() && is_inside(to, &inode) {
            return Err(EINVAL);
        }
        if let Some(o) = &old
            && o.is_directory()
            && is_inside(self, o)
        {
            return Err(if how == Rename::Exchange { EINVAL } else { ENOTEMPTY });
        }
        if inode.is_mount_point() || old.as_ref().is_some_and(|o| o.is_mount_point()) {
            return Err(EBUSY);
        }
        if to_dir.entries.lock().dead {
            return Err(ENOENT);
        }
        if let (Some(o), true) = (&old, how != Rename::Exchange) {
            match (o.dir(), inode.is_directory()) {
                (Some(_), false) => return Err(EISDIR),
                (None, true) => return Err(ENOTDIR),
                (Some(d), true) if !d.is_empty() => return Err(ENOTEMPTY),
                (Some(d), true) => {
                    d.entries.lock().dead = true;
                    o.change(|a| a.links = 0);
                    to.attr.lock().links -= 1;
                }
                (None, false) => o.change(|a| a.links -= 1),
            }
        }
        to_dir.entries.lock().take(new);
        from_dir.entries.lock().take(name);
        to_dir.entries.lock().put(new, inode.clone());
        moved(&inode, self, to);
        if how == Rename::Exchange
            && let Some(o) = old
        {
            from_dir.entries.lock().put(name, o.clone());
            moved(&o, to, self);
        }
        inode.change(|_| {});
        self.written();
        to.written();
        Ok(())
    }
}

impl Drop for Directory {
    /// What nobody else has goes level by level: a deep tree would need a deep stack.
    fn drop(&mut self) {
        let mut rest = self.clear();
        while let Some(i) = rest.pop() {
            if let (1, Some(d)) = (Arc::strong_count(&i), i.dir()) {
                rest.extend(d.clear());
            }
        }
    }
}

/// How rename treats what has the new name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rename {
    Replace,
    NoReplace,
    Exchange,
}

/// A directory has another parent.
fn moved(inode: &Arc<Inode>, from: &Arc<Inode>, to: &Arc<Inode>) {
    if let Some(d) = inode.dir() {
        *d.parent.lock() = Arc::downgrade(to);
        from.attr.lock().links -= 1;
        to.attr.lock().links += 1;
    }
}

/// Is `dir` `of`, or below it?
fn is_inside(dir: &Arc<Inode>, of: &Arc<Inode>) -> bool {
    let mut at = Some(dir.clone());
    while let Some(d) = at {
        if Arc::ptr_eq(&d, of) {
            return true;
        }
        at = d.dir().and_then(Directory::parent).filter(|p| !Arc::ptr_eq(p, &d));
    }
    false
}
