//! Linux's own paging, to compare with: memory cgroups, swap files, zram. All of it goes when its
//! value does.
//!
//! Swap is of the whole machine: for as long as a [`On`] lives, everybody's memory may go there
//! (which happens on a machine that is short of memory only).

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const CONTROL: &str = "/sys/class/zram-control";
/// `SWAP_FLAG_PREFER`, with the highest priority there is.
const FIRST_OF_ALL: libc::c_int = 0x8000 | 0x7fff;
/// What is given up at last; nothing here takes long.
const PATIENCE: Duration = Duration::from_secs(10);

/// Writes what a file of the kernel takes; says what was refused.
fn tell(file: &Path, text: &str) -> Result<(), String> {
    fs::write(file, text).map_err(|e| format!("{text:?} to {}: {e}", file.display()))
}

/// Until it works, or `PATIENCE` is over.
fn insist(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        if Instant::now() > end {
            eprintln!("machvm-bench: {what}");
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A compressed disk in memory.
pub(crate) struct Zram {
    number: String,
    sys: PathBuf,
    /// Its device.
    pub(crate) device: PathBuf,
}

impl Zram {
    /// One more than there are.
    ///
    /// # Errors
    /// Why the machine has none.
    pub(crate) fn new(algorithm: &str, bytes: u64) -> Result<Zram, String> {
        let add = Path::new(CONTROL).join("hot_add");
        let number = fs::read_to_string(&add).map_err(|e| format!("no zram: {}: {e}", add.display()))?;
        let number = number.trim().to_owned();
        let zram = Zram {
            sys: format!("/sys/block/zram{number}").into(),
            device: format!("/dev/zram{number}").into(),
            number,
        };
        tell(&zram.sys.join("comp_algorithm"), algorithm)?;
        tell(&zram.sys.join("disksize"), &bytes.to_string())?;
        Ok(zram)
    }
    /// Bytes stored, bytes after compression, bytes of memory in all (`mm_stat`).
    pub(crate) fn sizes(&self) -> Result<[u64; 3], String> {
        let file = self.sys.join("mm_stat");
        let text = fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
        let mut numbers = text.split_whitespace().map(|n| n.parse().unwrap_or(0));
        Ok(std::array::from_fn(|_| numbers.next().unwrap_or(0)))
    }
}

impl Drop for Zram {
    fn drop(&mut self) {
        insist(&format!("{} could not be removed", self.device.display()), || {
            // Without contents it can go; somebody (udev) may have it open still.
            let _ = fs::write(self.sys.join("reset"), "1");
            fs::write(Path::new(CONTROL).join("hot_remove"), &self.number).is_ok()
        });
    }
}

/// Something that Linux swaps to before everything else.
pub(crate) struct On {
    path: CString,
    file: Option<PathBuf>,
    /// Removed after it is not in use any more.
    zram: Option<Zram>,
}

impl On {
    /// A compressed disk.
    ///
    /// # Errors
    /// What this machine refuses.
    pub(crate) fn zram(algorithm: &str, bytes: u64) -> Result<On, String> {
        let zram = Zram::new(algorithm, bytes)?;
        let mut on = On::start(&zram.device.clone())?;
        on.zram = Some(zram);
        Ok(on)
    }

    /// A file with all its blocks.
    ///
    /// # Errors
    /// What this machine refuses.
    pub(crate) fn file(dir: &Path, bytes: u64) -> Result<On, String> {
        let path = dir.join(format!("machvm-bench-swap-{}", std::process::id()));
        let file = File::options().write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(|e| format!("{}: {e}", path.display()))?;
        let piece = vec![0; 1 << 20];
        let written = (0..bytes >> 20).try_for_each(|n| file.write_all_at(&piece, n << 20));
        let on = written.and_then(|()| file.sync_all()).map_err(|e| format!("{}: {e}", path.display()));
        match on.and_then(|()| On::start(&path)) {
            Ok(mut on) => {
                on.file = Some(path);
                Ok(on)
            }
            Err(e) => {
                let _ = fs::remove_file(&path);
                Err(e)
            }
        }
    }

    fn start(path: &Path) -> Result<On, String> {
        let made = Command::new("mkswap").arg(path).stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !made.is_ok_and(|s| s.success()) {
            return Err(format!("mkswap {} failed", path.display()));
        }
        let name = CString::new(path.as_os_str().as_bytes()).map_err(|e| e.to_string())?;
        // SAFETY: a path that ends.
        let failed = unsafe { libc::swapon(name.as_ptr(), FIRST_OF_ALL) };
        if failed != 0 {
            return Err(format!("swapon {}: {}", path.display(), io::Error::last_os_error()));
        }
        Ok(On { path: name, file: None, zram: None })
    }
}

impl Drop for On {
    fn drop(&mut self) {
        // SAFETY: a path that ends.
        if unsafe { libc::swapoff(self.path.as_ptr()) } != 0 {
            eprintln!("machvm-bench: swapoff {:?}: {}", self.path, io::Error::last_os_error());
        }
        if let Some(file) = self.file.take() {
            let _ = fs::remove_file(file);
        }
    }
}

/// A memory cgroup with a limit, for as long as the value lives: of version 1 where that has
/// memory, else of version 2.
pub(crate) struct Cgroup(PathBuf);

impl Cgroup {
    /// # Errors
    /// What this machine refuses.
    pub(crate) fn new(limit: u64) -> Result<Cgroup, String> {
        let (first, second) = (Path::new("/sys/fs/cgroup/memory"), Path::new("/sys/fs/cgroup"));
        let (root, file) =
            if first.is_dir() { (first, "memory.limit_in_bytes") } else { (second, "memory.max") };
        let dir = root.join(format!("machvm-bench-{}", std::process::id()));
        fs::create_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        let group = Cgroup(dir);
        tell(&group.0.join(file), &limit.to_string())?;
        Ok(group)
    }
    /// The command's process, and what comes of it, will be in it.
    pub(crate) fn run(&self, command: &mut Command) {
        let procs = self.0.join("cgroup.procs");
        // SAFETY: only system calls between fork and exec, and memory that was made before: a
        // path as short as this is copied to the stack.
        unsafe { command.pre_exec(move || fs::write(&procs, "0")) };
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The last process may be a moment in leaving.
        insist(&format!("{} could not be removed", self.0.display()), || fs::remove_dir(&self.0).is_ok());
    }
}
