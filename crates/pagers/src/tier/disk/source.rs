//! Opening what swap goes to.
//!
//! A file without a name is best: Linux frees it when the process ends, however it ends.
//! So a file that is given by name loses it as soon as it is locked and its first page says
//! whose it is. If its owner died before that, or could not remove it, the next run that is
//! given this name takes it over.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, OFlags, fallocate};

use super::super::PAGE;
use super::block::Buffer;

const MAGIC: &[u8] = b"machvm swap 1\n";
/// What mkswap(8) writes at the end of the first page.
const LINUX_SWAP: &[u8] = b"SWAPSPACE2";
/// Least useful size: the first page, and a cluster.
const LEAST: u64 = 33 * PAGE as u64;
/// Most of one file or device, 64 GiB: each page needs 24 bytes of memory.
const MOST: u64 = 64 << 30;

/// What the user wants to swap to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// A file of this name and size, at most 64 GiB (made, or taken over from a run that died), or in a
    /// directory one without a name.
    File(PathBuf, u64),
    /// A block device, of which at most 64 GiB are used. With `force` even if there seems to be something on it.
    Device(PathBuf, bool),
}

/// An open file or device.
#[derive(Debug)]
pub struct Opened {
    /// What the user calls it.
    pub name: String,
    /// `file` or `device`.
    pub kind: &'static str,
    /// The file itself.
    pub file: Arc<File>,
    /// Pages there is room for, behind the first one.
    pub pages: u64,
}

/// Why swap cannot go there.
#[derive(Debug)]
pub enum DiskError {
    /// What was tried, and what the system said.
    Io(PathBuf, &'static str, io::Error),
    /// Another run uses it: its process.
    InUse(PathBuf, String),
    /// It is something else: what, and what to do.
    NotSwap(PathBuf, &'static str),
    /// So many bytes are too few.
    TooSmall(PathBuf, u64),
    /// So many bytes are more than is of use.
    TooLarge(PathBuf, u64),
    /// No random numbers, or no memory.
    Lacks(&'static str),
}

impl core::fmt::Display for DiskError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            DiskError::Io(path, what, e) => write!(f, "cannot {what} {}: {e}", path.display()),
            DiskError::InUse(path, who) => write!(f, "{} is in use for swap by {who}", path.display()),
            DiskError::NotSwap(path, what) => write!(f, "{} {what}", path.display()),
            DiskError::TooSmall(path, bytes) => {
                write!(f, "{} has {bytes} bytes; swap needs at least {LEAST}", path.display())
            }
            DiskError::TooLarge(path, bytes) => write!(
                f,
                "{bytes} bytes for {} are more than the {MOST} that one file can have: use several",
                path.display()
            ),
            DiskError::Lacks(what) => write!(f, "the system has no {what}"),
        }
    }
}
impl std::error::Error for DiskError {}

impl Source {
    /// Opens it, and makes it swap of this process.
    ///
    /// # Errors
    /// [`DiskError`]; nothing was changed on it.
    pub fn open(&self) -> Result<Opened, DiskError> {
        match self {
            Source::File(path, bytes) if path.is_dir() => unnamed(path, *bytes),
            Source::File(path, bytes) => named(path, *bytes),
            Source::Device(path, force) => device(path, *force),
        }
    }
}

fn failed<'a>(path: &'a Path, what: &'static str) -> impl Fn(io::Error) -> DiskError + 'a {
    move |e| DiskError::Io(path.to_owned(), what, e)
}

fn sized(path: &Path, bytes: u64) -> Result<u64, DiskError> {
    match bytes {
        ..LEAST => Err(DiskError::TooSmall(path.to_owned(), bytes)),
        LEAST..=MOST => Ok(bytes / PAGE as u64 - 1),
        _ => Err(DiskError::TooLarge(path.to_owned(), bytes)),
    }
}

/// Opens past the page cache where the file system can do it: what is swapped out is not
/// to stay in memory.
fn open(options: &mut OpenOptions, path: &Path, flags: OFlags) -> io::Result<File> {
    let direct = (flags | OFlags::DIRECT).bits() as i32;
    match options.custom_flags(direct).open(path) {
        Err(e) if e.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {
            options.custom_flags(flags.bits() as i32).open(path)
        }
        done => done,
    }
}

/// Takes the blocks from the file system now: a full disk is told at once.
fn allocate(file: &File, path: &Path, bytes: u64) -> Result<(), DiskError> {
    match fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
            file.set_len(bytes).map_err(failed(path, "set the size of"))
        }
        Err(e) => Err(failed(path, "find room on the disk for")(e.into())),
    }
}

fn unnamed(dir: &Path, bytes: u64) -> Result<Opened, DiskError> {
    let pages = sized(dir, bytes)?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    let made = open(&mut options, dir, OFlags::TMPFILE).or_else(|_| {
        // Not every file system has files without a name.
        let path = dir.join(format!(".machvm-swap.{}.{:p}", std::process::id(), &raw const options));
        options.create_new(true);
        let file = open(&mut options, &path, OFlags::empty())?;
        std::fs::remove_file(&path)?;
        Ok(file)
    });
    let file = made.map_err(failed(dir, "make a file in"))?;
    allocate(&file, dir, bytes)?;
    let name = dir.to_string_lossy().into_owned();
    Ok(Opened { name, kind: "file", file: Arc::new(file), pages })
}

fn named(path: &Path, bytes: u64) -> Result<Opened, DiskError> {
    let pages = sized(path, bytes)?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).mode(0o600);
    let file = open(&mut options, path, OFlags::NOFOLLOW).map_err(failed(path, "open"))?;
    let about = file.metadata().map_err(failed(path, "look at"))?;
    if !about.is_file() {
        return Err(DiskError::NotSwap(path.to_owned(), "is not a file (a device is given as dev:PATH)"));
    }
    lock(&file, path)?;
    // Before the lock it may have been another run's that has just ended.
    let still =
        std::fs::symlink_metadata(path).is_ok_and(|now| (now.dev(), now.ino()) == (about.dev(), about.ino()));
    if !still {
        return Err(DiskError::InUse(path.to_owned(), "a run that is just ending; try again".into()));
    }
    let mut page = Buffer::new(1);
    let got = file.read_at(page.bytes_mut(), 0).map_err(failed(path, "read"))?;
    if about.len() != 0 && !page.bytes()[..got].starts_with(MAGIC) {
        let what = "is not empty and not a swap file of machvm: remove it, or name another";
        return Err(DiskError::NotSwap(path.to_owned(), what));
    }
    // What a dead run left goes back to the file system first.
    file.set_len(0).map_err(failed(path, "empty"))?;
    let ready = allocate(&file, path, bytes).and_then(|()| sign(&file, path));
    // Where it cannot go it stays, locked and signed.
    let _ = std::fs::remove_file(path);
    ready?;
    let name = path.to_string_lossy().into_owned();
    Ok(Opened { name, kind: "file", file: Arc::new(file), pages })
}

fn lock(file: &File, path: &Path) -> Result<(), DiskError> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            let mut page = Buffer::new(1);
            let got = file.read_at(page.bytes_mut(), 0).unwrap_or(0);
            Err(DiskError::InUse(path.to_owned(), owner(&page.bytes()[..got])))
        }
        Err(TryLockError::Error(e)) => Err(failed(path, "lock")(e)),
    }
}

/// Whose the first page says it is.
fn owner(page: &[u8]) -> String {
    let text = page.strip_prefix(MAGIC).and_then(|rest| rest.split(|b| *b == b'\n').next());
    text.and_then(|t| std::str::from_utf8(t).ok()).map_or_else(|| "another process".into(), str::to_owned)
}

fn sign(file: &File, path: &Path) -> Result<(), DiskError> {
    let mut page = Buffer::new(1);
    let record = [MAGIC, format!("process {}\n", std::process::id()).as_bytes()].concat();
    page.bytes_mut()[..record.len()].copy_from_slice(&record);
    file.write_all_at(page.bytes(), 0).map_err(failed(path, "write"))
}

fn device(path: &Path, force: bool) -> Result<Opened, DiskError> {
    let about = std::fs::metadata(path).map_err(failed(path, "find"))?;
    if !about.file_type().is_block_device() {
        let what = "is not a block device (a file is given as file:PATH:SIZE)";
        return Err(DiskError::NotSwap(path.to_owned(), what));
    }
    let mut options = OpenOptions::new();
    // With O_EXCL Linux refuses a device that is mounted or otherwise in use.
    options.read(true).write(true);
    let mut file = open(&mut options, path, OFlags::EXCL).map_err(failed(path, "open"))?;
    lock(&file, path)?;
    let bytes = file.seek(SeekFrom::End(0)).map_err(failed(path, "measure"))?;
    let pages = sized(path, bytes.min(MOST))?;
    let mut page = Buffer::new(1);
    let got = file.read_at(page.bytes_mut(), 0).map_err(failed(path, "read"))?;
    let first = &page.bytes()[..got];
    let free = first.iter().all(|b| *b == 0) || first.starts_with(MAGIC) || first.ends_with(LINUX_SWAP);
    if !free && !force {
        let what =
            "has something on it that is not swap: clear it (wipefs -a), or add `,force` to overwrite it";
        return Err(DiskError::NotSwap(path.to_owned(), what));
    }
    sign(&file, path)?;
    let name = path.to_string_lossy().into_owned();
    Ok(Opened { name, kind: "device", file: Arc::new(file), pages })
}

#[cfg(test)]
impl Opened {
    /// Of a device that is in memory.
    pub(super) fn for_tests(name: &str, file: Arc<File>, pages: u64) -> Self {
        Opened { name: name.into(), kind: "file", file, pages }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("machvm-source-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).expect("a directory");
        dir
    }
    const SIZE: u64 = 1 << 20;

    #[test]
    fn s13_a_file_of_a_dead_run_is_taken_over() {
        let dir = scratch("dead");
        let path = dir.join("swap");
        // As a run leaves it that is killed before it removed the name: signed, not locked.
        let mut left = [MAGIC, b"process 12345\n"].concat();
        left.resize(3 * SIZE as usize, 7);
        std::fs::write(&path, left).expect("written");
        let locked = File::open(&path).expect("open");
        locked.lock().expect("locked");
        let error = Source::File(path.clone(), SIZE).open().expect_err("in use").to_string();
        assert!(error.contains("process 12345"), "{error}");
        drop(locked);
        let first = Source::File(path.clone(), SIZE).open().expect("taken over");
        assert_eq!((first.pages, first.file.metadata().expect("metadata").len()), (SIZE / 4096 - 1, SIZE));
        assert!(!path.exists(), "it goes with the process, however that ends");
        let second = Source::File(path.clone(), SIZE).open().expect("another run, another file");
        drop((first, second));
        std::fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn s13_what_is_not_swap_is_not_overwritten() {
        let dir = scratch("not");
        let path = dir.join("letter");
        std::fs::write(&path, "Dear all").expect("written");
        let error = Source::File(path.clone(), SIZE).open().expect_err("a letter").to_string();
        assert!(error.contains("not a swap file"), "{error}");
        assert_eq!(std::fs::read(&path).expect("there"), b"Dear all");
        let error = Source::Device(path, false).open().expect_err("no device").to_string();
        assert!(error.contains("not a block device"), "{error}");
        let error = Source::File(dir.join("x"), 4096).open().expect_err("tiny").to_string();
        assert!(error.contains("at least"), "{error}");
        let error = Source::Device(dir.join("none"), false).open().expect_err("none").to_string();
        assert!(error.contains("cannot find"), "{error}");
        std::fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn s13_in_a_directory_the_file_has_no_name() {
        let dir = scratch("unnamed");
        let a = Source::File(dir.clone(), SIZE).open().expect("made");
        assert_eq!(std::fs::read_dir(&dir).expect("read").count(), 0);
        assert_eq!(a.file.metadata().expect("metadata").len(), SIZE);
        drop(a);
        std::fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn s02_a_file_takes_its_blocks_when_it_is_taken_into_use() {
        let dir = scratch("blocks");
        let probe = File::create(dir.join("probe")).expect("made");
        let can = fallocate(&probe, FallocateFlags::empty(), 0, SIZE).is_ok();
        let opened = Source::File(dir.clone(), SIZE).open().expect("made");
        let about = opened.file.metadata().expect("metadata");
        assert_eq!(about.len(), SIZE);
        assert!(!can || about.blocks() * 512 >= SIZE, "{} blocks", about.blocks());
        let error = Source::File(dir.join("huge"), 1 << 60).open().expect_err("too much").to_string();
        assert!(error.contains("use several"), "{error}");
        assert!(!dir.join("huge").exists());
        drop(opened);
        std::fs::remove_dir_all(dir).expect("removed");
    }
}
