//! /proc: what it has is made when somebody looks.

mod task;
mod text;

use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::dir::Line;
use super::inode::{FileSystem, Inode, Kind, S_IFDIR, S_IFLNK, S_IFREG};
use crate::errno::{EACCES, EINVAL, ENOENT, Result};
use crate::mutex::Mutex;
use crate::{process, sched};

use task::{TASK_FILES, TaskFile};
use text::{ROOT, Text};

/// What of it something is.
#[derive(Clone, Copy)]
enum What {
    Dir(&'static [(&'static str, Fixed)]),
    Text(Text),
    /// `self`, `thread-self`, `mounts`.
    Link(&'static str),
    /// A process, or a thread of it.
    Task(u32),
    Threads(u32),
    Fds(u32),
    FdInfos(u32),
    Fd(u32, i32),
    FdInfo(u32, i32),
    TaskText(u32, TaskFile),
    Cwd(u32),
    Root(u32),
    Exe(u32),
}

/// What is there always.
#[derive(Clone, Copy)]
enum Fixed {
    Dir(&'static [(&'static str, Fixed)]),
    Text(Text),
    Link(&'static str),
}

/// Something of /proc.
pub(crate) struct Node {
    what: What,
    up: Option<Arc<Inode>>,
    name: Vec<u8>,
    /// Of the root: what it is mounted on.
    covers: Mutex<Option<Arc<Inode>>>,
}

fn make(fs: &Arc<FileSystem>, what: What, up: Option<Arc<Inode>>, name: &[u8]) -> Arc<Inode> {
    let rights = match what {
        What::Text(t) => t.rights(),
        What::TaskText(_, f) => f.rights(),
        What::Fds(_) => 0o500,
        What::Link(_) | What::Cwd(_) | What::Root(_) | What::Exe(_) => 0o777,
        What::Fd(..) => 0o700,
        What::FdInfo(..) => 0o444,
        _ => 0o555,
    };
    let links = if matches!(what, What::Text(_) | What::TaskText(..) | What::Link(_)) { 1 } else { 2 };
    let node = Node { what, up, name: name.to_vec(), covers: Mutex::new(None) };
    Inode::with_links(fs, Kind::Proc(node), rights, links)
}

/// A new tree.
pub(super) fn new_root() -> Arc<Inode> {
    make(&FileSystem::new("proc"), What::Dir(ROOT), None, b"")
}
/// It is mounted there.
pub(super) fn cover(root: &Inode, on: &Arc<Inode>) {
    if let Kind::Proc(p) = &root.kind {
        *p.covers.lock() = Some(on.clone());
    }
}
/// What it is mounted on.
pub(super) fn covered(root: &Inode) -> Option<Arc<Inode>> {
    match &root.kind {
        Kind::Proc(p) => p.covers.lock().clone(),
        _ => None,
    }
}
/// It is mounted no more.
pub(super) fn uncover(root: &Inode) -> Option<Arc<Inode>> {
    match &root.kind {
        Kind::Proc(p) => p.covers.lock().take(),
        _ => None,
    }
}

fn number(name: &[u8]) -> Option<u32> {
    let text = core::str::from_utf8(name).ok().filter(|t| !t.starts_with(['+', '0']) || *t == "0")?;
    text.parse().ok()
}

/// The process of a process or thread number.
fn find(pid: u32) -> Result<Arc<process::Process>> {
    process::find(pid).map_err(|_| ENOENT)
}

/// A name of a listing, and S_IFMT of it.
type Named = (Vec<u8>, u32);

impl Node {
    pub(super) fn type_bits(&self) -> u32 {
        match self.what {
            What::Dir(_) | What::Task(_) | What::Threads(_) | What::Fds(_) | What::FdInfos(_) => S_IFDIR,
            What::Text(_) | What::TaskText(..) | What::FdInfo(..) => S_IFREG,
            What::Link(_) | What::Fd(..) | What::Cwd(_) | What::Root(_) | What::Exe(_) => S_IFLNK,
        }
    }
    pub(super) fn parent(&self) -> Option<Arc<Inode>> {
        self.up.clone()
    }
    pub(super) fn name(&self) -> Vec<u8> {
        self.name.clone()
    }
    pub(super) fn is_writable(&self) -> bool {
        match self.what {
            What::Text(t) => t.rights() & 0o200 != 0,
            What::TaskText(_, f) => f.rights() & 0o200 != 0,
            _ => false,
        }
    }

    /// What a name in it leads to. `me`: its inode.
    pub(super) fn get(&self, me: &Arc<Inode>, name: &[u8]) -> Result<Option<Arc<Inode>>> {
        let what = match self.what {
            What::Dir(list) => {
                let fixed = list.iter().find(|(n, _)| n.as_bytes() == name).map(|(_, f)| *f);
                match (fixed, self.up.is_none(), number(name)) {
                    (Some(Fixed::Dir(d)), ..) => Some(What::Dir(d)),
                    (Some(Fixed::Text(t)), ..) => Some(What::Text(t)),
                    (Some(Fixed::Link(l)), ..) => Some(What::Link(l)),
                    (None, true, Some(pid)) => find(pid).ok().map(|_| What::Task(pid)),
                    _ => None,
                }
            }
            What::Task(pid) => {
                find(pid)?;
                let of_process = !matches!(
                    self.up.as_ref().map(|u| &u.kind),
                    Some(Kind::Proc(Node { what: What::Threads(_), .. }))
                );
                match name {
                    b"task" if of_process => Some(What::Threads(pid)),
                    b"fd" => Some(What::Fds(pid)),
                    b"fdinfo" => Some(What::FdInfos(pid)),
                    b"cwd" => Some(What::Cwd(pid)),
                    b"root" => Some(What::Root(pid)),
                    b"exe" => Some(What::Exe(pid)),
                    n => TASK_FILES
                        .iter()
                        .find(|(t, _)| t.as_bytes() == n)
                        .map(|(_, f)| What::TaskText(pid, *f)),
                }
            }
            What::Threads(pid) => {
                let p = find(pid)?;
                let there = number(name).filter(|n| p.threads.lock().iter().any(|t| t.id() == *n));
                // A thread shows its process.
                there.map(|_| What::Task(pid))
            }
            What::Fds(pid) | What::FdInfos(pid) => {
                let fd = number(name).and_then(|n| i32::try_from(n).ok());
                let fd = fd.filter(|fd| find(pid).is_ok_and(|p| p.files.lock().get(*fd).is_ok()));
                let info = matches!(self.what, What::FdInfos(_));
                fd.map(|fd| if info { What::FdInfo(pid, fd) } else { What::Fd(pid, fd) })
            }
            _ => return Err(crate::errno::ENOTDIR),
        };
        Ok(what.map(|w| make(&me.fs, w, Some(me.clone()), name)))
    }

    /// Everything in it.
    fn names(&self) -> Vec<Named> {
        let plain = |f: &Fixed| match f {
            Fixed::Dir(_) => S_IFDIR,
            Fixed::Text(_) => S_IFREG,
            Fixed::Link(_) => S_IFLNK,
        };
        match self.what {
            What::Dir(list) => {
                let mut all: Vec<Named> =
                    list.iter().map(|(n, f)| (n.as_bytes().to_vec(), plain(f))).collect();
                if self.up.is_none() {
                    all.extend(process::numbers().iter().map(|p| (format!("{p}").into_bytes(), S_IFDIR)));
                }
                all
            }
            What::Task(_) => {
                let dirs = ["task", "fd", "fdinfo"].map(|n| (n.as_bytes().to_vec(), S_IFDIR));
                let links = ["cwd", "root", "exe"].map(|n| (n.as_bytes().to_vec(), S_IFLNK));
                let files = TASK_FILES.iter().map(|(n, _)| (n.as_bytes().to_vec(), S_IFREG));
                dirs.into_iter().chain(links).chain(files).collect()
            }
            What::Threads(pid) => {
                let Ok(p) = find(pid) else { return Vec::new() };
                let threads = p.threads.lock();
                threads.iter().map(|t| (format!("{}", t.id()).into_bytes(), S_IFDIR)).collect()
            }
            What::Fds(pid) | What::FdInfos(pid) => {
                let Ok(p) = find(pid) else { return Vec::new() };
                let files = p.files.lock();
                let mut all = Vec::new();
                let mut next = 0;
                while let Some(fd) = files.next(next) {
                    all.push((format!("{fd}").into_bytes(), S_IFLNK));
                    next = fd + 1;
                }
                all
            }
            _ => Vec::new(),
        }
    }

    /// At most `most` lines behind `cookie`.
    pub(super) fn list(&self, me: &Inode, cookie: u64, most: usize) -> Vec<Line> {
        let dots = [(b".".to_vec(), S_IFDIR), (b"..".to_vec(), S_IFDIR)];
        let all = dots.into_iter().chain(self.names());
        let from = usize::try_from(cookie).unwrap_or(usize::MAX);
        all.enumerate()
            .skip(from)
            .take(most)
            .map(|(i, (name, kind))| Line {
                cookie: i as u64 + 1,
                // Inodes are made when they are looked at: a number of the name's own.
                number: me.number << 32 | (i as u64 + 1),
                kind,
                name,
            })
            .collect()
    }

    /// What a link says.
    pub(super) fn target(&self) -> Result<Vec<u8>> {
        let mine = || sched::process().pid;
        match self.what {
            What::Link("self") => Ok(format!("{}", mine()).into_bytes()),
            What::Link("thread-self") => {
                Ok(format!("{}/task/{}", mine(), sched::current().id()).into_bytes())
            }
            What::Link(to) => Ok(to.as_bytes().to_vec()),
            What::Fd(pid, fd) => {
                let file = find(pid)?.files.lock().get(fd).map_err(|_| ENOENT)?;
                Ok(label(&file))
            }
            What::Cwd(_) | What::Root(_) => {
                let inode = self.leads_to()?.ok_or(ENOENT)?;
                let place = sched::process().files.lock().cwd.clone();
                Ok(place.path_of(&inode).unwrap_or_else(|| b"(unreachable)".to_vec()))
            }
            What::Exe(pid) => task::program(&*find(pid)?),
            _ => Err(EINVAL),
        }
    }
    /// What following a link leads to, if that is not what it says.
    pub(super) fn leads_to(&self) -> Result<Option<Arc<Inode>>> {
        match self.what {
            What::Fd(pid, fd) => {
                let file = find(pid)?.files.lock().get(fd).map_err(|_| ENOENT)?;
                Ok(Some(file.inode.clone()))
            }
            What::Cwd(pid) => Ok(Some(find(pid)?.files.lock().cwd.cwd.clone())),
            What::Root(pid) => Ok(Some(find(pid)?.files.lock().cwd.root.clone())),
            _ => Ok(None),
        }
    }

    /// The text of a file as it is now.
    pub(super) fn text(&self) -> Result<Option<Vec<u8>>> {
        match self.what {
            What::Text(t) => Ok(Some(t.text())),
            What::TaskText(pid, f) => f.text(&*find(pid)?).map(Some),
            What::FdInfo(pid, fd) => {
                let file = find(pid)?.files.lock().get(fd).map_err(|_| ENOENT)?;
                let at = *file.position();
                let text = format!(
                    "pos:\t{at}\nflags:\t0{:o}\nmnt_id:\t1\nino:\t{}\n",
                    file.flags(),
                    file.inode.number
                );
                Ok(Some(text.into_bytes()))
            }
            _ => Ok(None),
        }
    }
    /// A file is written.
    pub(super) fn write(&self, data: &[u8]) -> Result<usize> {
        match self.what {
            What::Text(t) => t.write(data),
            What::TaskText(pid, f) => f.write(&*find(pid)?, data),
            _ => Err(EACCES),
        }
    }
}

/// What /proc/PID/fd says of an open file.
pub(crate) fn label(file: &super::File) -> Vec<u8> {
    if let Some((dir, name)) = &file.at {
        let place = super::Place::first();
        let mut path = place.path_of(dir).unwrap_or_default();
        if path.last() != Some(&b'/') {
            path.push(b'/');
        }
        path.extend_from_slice(name.strip_prefix(b"/").unwrap_or(name));
        // Its name may lead to something else by now.
        let gone = match dir.dir() {
            Some(d) => d.get(name).is_none_or(|i| !Arc::ptr_eq(&super::mount::top(i), &file.inode)),
            None => false,
        };
        if gone {
            path.extend_from_slice(b" (deleted)");
        }
        return path;
    }
    if file.inode.is_directory() {
        return super::Place::first().path_of(&file.inode).unwrap_or_default();
    }
    match file.special() {
        Some(s) if s.label().starts_with(['/', 'a']) => s.label().as_bytes().to_vec(),
        Some(s) => format!("{}:[{}]", s.label(), file.inode.number).into_bytes(),
        None => format!("/#{} (deleted)", file.inode.number).into_bytes(),
    }
}
