//! Files: a tree in memory that begins as the initial file system, the console, pipes.

mod contents;
mod cpio;
mod pager;
mod pipe;

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::arch::{self, Span};
use crate::errno::{EBADF, EISDIR, EMFILE, ENODEV, ENOENT, ENOTDIR, Result};
use crate::mutex::Mutex;

pub(crate) use contents::Contents;
pub(crate) use pager::{pager, unused as pager_unused, used as pager_used};
pub(crate) use pipe::pipe;

/// What a mapping of a file maps.
#[allow(dead_code, reason = "mmap comes next")]
pub(crate) enum Mappable {
    /// Pages of this object: index `i` is byte `i * PAGE_SIZE`. A reference comes with it.
    Object(machvm_arena::Handle<machvm::object::Object>),
    /// Zeroes, as MAP_ANONYMOUS has them (/dev/zero).
    Zeroes,
}

/// Most open files of a process.
const OPEN_MAX: usize = 1024;

/// What a name leads to.
pub(crate) struct Node {
    /// Type and rights, as stat reports them.
    pub(crate) mode: u32,
    /// Its number.
    pub(crate) number: u64,
    data: Data,
}

enum Data {
    Regular(Contents),
    Directory,
    Console,
    Null,
    Zero,
}

const S_IFMT: u32 = 0o170_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFIFO: u32 = 0o010_000;
const S_IFCHR: u32 = 0o020_000;

static TREE: Mutex<BTreeMap<String, Arc<Node>>> = Mutex::new(BTreeMap::new());
static NUMBERS: AtomicU64 = AtomicU64::new(1);
static SEED: AtomicU64 = AtomicU64::new(0x2545_f491_4f6c_dd1d);

impl Node {
    fn new(mode: u32, data: Data) -> Arc<Node> {
        Arc::new(Node { mode, number: NUMBERS.fetch_add(1, Ordering::Relaxed), data })
    }
    /// What stat says of a pipe.
    pub(crate) fn pipe() -> Arc<Node> {
        Node::new(S_IFIFO | 0o600, Data::Null)
    }
    /// Is it a directory?
    pub(crate) fn is_directory(&self) -> bool {
        self.mode & S_IFMT == S_IFDIR
    }
    /// See [`Open::object`].
    pub(crate) fn object(&self) -> Result<Mappable> {
        match &self.data {
            Data::Regular(c) => Ok(Mappable::Object(c.object())),
            Data::Zero => Ok(Mappable::Zeroes),
            _ => Err(ENODEV),
        }
    }
    /// Bytes in it.
    pub(crate) fn size(&self) -> u64 {
        match &self.data {
            Data::Regular(c) => c.size(),
            _ => 0,
        }
    }
    /// Reads from byte `at`; gives how many bytes there were.
    pub(crate) fn read_at(&self, at: u64, buf: &mut [u8]) -> Result<usize> {
        match &self.data {
            Data::Regular(c) => c.read_at(at, buf),
            Data::Directory => Err(EISDIR),
            Data::Null => Ok(0),
            Data::Zero => {
                buf.fill(0);
                Ok(buf.len())
            }
            Data::Console => {
                let mut n = 0;
                while n < buf.len() {
                    let Some(b) = arch::take() else {
                        if n != 0 {
                            break;
                        }
                        crate::sched::yield_now();
                        continue;
                    };
                    buf[n] = if b == b'\r' { b'\n' } else { b };
                    n += 1;
                }
                Ok(n)
            }
        }
    }
    /// Writes at byte `at`.
    pub(crate) fn write_at(&self, at: u64, data: &[u8]) -> Result<usize> {
        match &self.data {
            Data::Regular(c) => c.write_at(Some(at), data).map(|(_, n)| n),
            Data::Console => {
                for b in data {
                    if *b == b'\n' {
                        arch::put(b'\r');
                    }
                    arch::put(*b);
                }
                Ok(data.len())
            }
            Data::Null | Data::Zero => Ok(data.len()),
            _ => Err(crate::errno::EROFS),
        }
    }
}

/// Puts the initial file system in place.
pub(crate) fn start(initrd: Option<Span>) {
    let mut tree = TREE.lock();
    tree.insert("/".into(), Node::new(S_IFDIR | 0o755, Data::Directory));
    if let Some(span) = initrd {
        // SAFETY: the loader's module, which the VM was not given.
        let bytes = unsafe {
            core::slice::from_raw_parts(arch::direct(span.start), (span.end - span.start) as usize)
        };
        cpio::each(bytes, |name, mode, data| {
            let data = match mode & S_IFMT {
                S_IFREG => match Contents::new(data) {
                    Ok(c) => Data::Regular(c),
                    Err(_) => return crate::say!("machvm: no memory for {name} of the initial file system"),
                },
                S_IFDIR => Data::Directory,
                _ => return,
            };
            tree.insert(normal("/", name), Node::new(mode, data));
        });
    }
    for (name, mode, data) in [
        ("/dev", S_IFDIR | 0o755, Data::Directory),
        ("/dev/console", S_IFCHR | 0o620, Data::Console),
        ("/dev/tty", S_IFCHR | 0o666, Data::Console),
        ("/dev/null", S_IFCHR | 0o666, Data::Null),
        ("/dev/zero", S_IFCHR | 0o666, Data::Zero),
    ] {
        tree.insert(name.into(), Node::new(mode, data));
    }
    SEED.fetch_xor(arch::now_ns() << 7, Ordering::Relaxed);
}

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

/// An absolute path without `.`, `..` and empty parts.
pub(crate) fn normal(cwd: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let whole = if path.starts_with('/') { "" } else { cwd };
    for part in whole.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            p => parts.push(p),
        }
    }
    let mut s = String::from("/");
    s.push_str(&parts.join("/"));
    s
}

/// What a path leads to.
pub(crate) fn lookup(cwd: &str, path: &str) -> Result<Arc<Node>> {
    if path.is_empty() {
        return Err(ENOENT);
    }
    let node = TREE.lock().get(&normal(cwd, path)).cloned().ok_or(ENOENT)?;
    if path.ends_with('/') && !node.is_directory() {
        return Err(ENOTDIR);
    }
    Ok(node)
}

/// An open file.
pub(crate) enum Open {
    /// Of the tree, with a position.
    Node(Arc<Node>, AtomicU64),
    /// An end of a pipe.
    Pipe(pipe::End),
}

#[allow(dead_code, reason = "mmap and the calls on files come next")]
impl Open {
    /// For mmap: what a mapping of it maps. Who may map it how is for the caller to ask.
    pub(crate) fn object(&self) -> Result<Mappable> {
        match self {
            Open::Node(n, _) => n.object(),
            Open::Pipe(_) => Err(ENODEV),
        }
    }
    /// Reads at the position.
    pub(crate) fn read(&self, buf: &mut [u8]) -> Result<usize> {
        match self {
            Open::Node(n, at) => {
                let done = n.read_at(at.load(Ordering::Relaxed), buf)?;
                at.fetch_add(done as u64, Ordering::Relaxed);
                Ok(done)
            }
            Open::Pipe(p) => p.read(buf),
        }
    }
    /// Writes at the position.
    pub(crate) fn write(&self, data: &[u8]) -> Result<usize> {
        match self {
            Open::Node(n, at) => {
                let done = n.write_at(at.load(Ordering::Relaxed), data)?;
                at.fetch_add(done as u64, Ordering::Relaxed);
                Ok(done)
            }
            Open::Pipe(p) => p.write(data),
        }
    }
}

#[derive(Clone)]
struct Slot {
    file: Arc<Open>,
    close_on_exec: bool,
}

/// A process's open files.
pub(crate) struct Files {
    slots: Vec<Option<Slot>>,
    /// The current directory.
    pub(crate) cwd: String,
}

impl Files {
    /// The console three times.
    pub(crate) fn standard() -> Self {
        let mut files = Files { slots: Vec::new(), cwd: "/".into() };
        if let Ok(console) = lookup("/", "/dev/console") {
            let file = Arc::new(Open::Node(console, AtomicU64::new(0)));
            files.slots = alloc::vec![Some(Slot { file, close_on_exec: false }); 3];
        }
        files
    }
    /// A child's.
    pub(crate) fn for_child(&self) -> Self {
        Files { slots: self.slots.clone(), cwd: self.cwd.clone() }
    }
    /// exec closes some.
    pub(crate) fn close_on_exec(&mut self) {
        for s in &mut self.slots {
            if s.as_ref().is_some_and(|s| s.close_on_exec) {
                *s = None;
            }
        }
    }
    /// The process ends.
    pub(crate) fn close_all(&mut self) {
        self.slots = Vec::new();
    }
    /// The file of a number.
    pub(crate) fn get(&self, fd: i32) -> Result<Arc<Open>> {
        let slot = usize::try_from(fd).ok().and_then(|i| self.slots.get(i)?.as_ref());
        slot.map(|s| s.file.clone()).ok_or(EBADF)
    }
    /// The lowest free number from `from` on becomes this file's.
    pub(crate) fn add(&mut self, file: Arc<Open>, close_on_exec: bool, from: usize) -> Result<i32> {
        let at = (from..OPEN_MAX).find(|i| self.slots.get(*i).is_none_or(Option::is_none)).ok_or(EMFILE)?;
        self.put(at, file, close_on_exec);
        Ok(at as i32)
    }
    fn put(&mut self, at: usize, file: Arc<Open>, close_on_exec: bool) {
        if self.slots.len() <= at {
            self.slots.resize(at + 1, None);
        }
        self.slots[at] = Some(Slot { file, close_on_exec });
    }
    /// dup2(2).
    pub(crate) fn place(&mut self, at: i32, file: Arc<Open>, close_on_exec: bool) -> Result<()> {
        let at = usize::try_from(at).ok().filter(|i| *i < OPEN_MAX).ok_or(EBADF)?;
        self.put(at, file, close_on_exec);
        Ok(())
    }
    /// close(2).
    pub(crate) fn close(&mut self, fd: i32) -> Result<()> {
        let slot = usize::try_from(fd).ok().and_then(|i| self.slots.get_mut(i)).ok_or(EBADF)?;
        slot.take().map(|_| ()).ok_or(EBADF)
    }
}
