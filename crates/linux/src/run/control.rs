//! The control socket: what `machvm objects` and `machvm swap` ask of a run.
//!
//! One connection is one request: a line, answered by `ok` or `error`, a line end and text
//! (`docs/control.md`). Only the user himself and root are heard, and a client that says
//! nothing holds up nobody for long.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{ffi::CString, os::unix::ffi::OsStrExt};

use super::error::RunError;
use super::objects;
use super::options::Options;
use super::vmspace::VmSpace;
use super::vmthread::spawn_vm_thread;

/// Longest request.
const LONGEST: u64 = 4096;
/// A client that is silent so long is hung up on.
const SILENCE: Duration = Duration::from_secs(5);
/// Requests carried out at a time: taking a place of swap away may take long.
const SERVERS: usize = 2;

/// Where runs are found that are not told where: one socket for each, named after its process.
#[must_use]
pub fn directory() -> Option<PathBuf> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from)?;
    runtime.is_absolute().then(|| runtime.join("machvm"))
}

/// A socket in the file system, until it is [removed](Control::remove).
#[derive(Debug)]
pub(super) struct Control {
    /// The program may change its root and working directories, which are ours too.
    dir: File,
    name: CString,
}

/// Opens the socket that the user asked for, or the usual one if there is a place for it.
///
/// => in the VM's descriptor table
///
/// # Errors
/// The socket that was asked for cannot be made.
pub(super) fn open(options: &Options) -> Result<Option<(Control, UnixListener)>, RunError> {
    if let Some(path) = &options.control {
        let what = format!("cannot listen at {} (--control)", path.display());
        return listen(path).map(Some).map_err(|e| RunError::host(&what, &e));
    }
    let Some(dir) = directory() else { return Ok(None) };
    // It may be there.
    let _ = DirBuilder::new().mode(0o700).create(&dir);
    sweep(&dir);
    // Without it everything but questions works.
    Ok(listen(&dir.join(format!("{}.sock", std::process::id()))).ok())
}

fn listen(path: &Path) -> io::Result<(Control, UnixListener)> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(dir)?;
    if is_dead(path) {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    // Who comes before this is asked who he is.
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok((Control { dir: opened, name: CString::new(name.as_bytes())? }, listener))
}

/// A socket at which nobody listens.
fn is_dead(path: &Path) -> bool {
    UnixStream::connect(path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused)
}

/// Removes what runs left that were killed.
fn sweep(dir: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for path in entries.flatten().map(|e| e.path()) {
        if path.extension().is_some_and(|e| e == "sock") && is_dead(&path) {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Control {
    /// The name goes.
    pub(super) fn remove(&self) {
        // SAFETY: a descriptor and a C string.
        unsafe { libc::unlinkat(self.dir.as_raw_fd(), self.name.as_ptr(), 0) };
    }
}

/// Starts the threads that answer.
///
/// => in the VM's descriptor table
///
/// # Errors
/// The system's limit on threads.
pub(super) fn serve(space: &Arc<VmSpace>, listener: UnixListener) -> Result<(), RunError> {
    let listener = Arc::new(listener);
    for _ in 0..SERVERS {
        let (space, listener) = (Arc::clone(space), Arc::clone(&listener));
        spawn_vm_thread("control", move || {
            loop {
                match listener.accept() {
                    Ok((client, _)) => drop(answer(&space, &client)),
                    // No descriptors, perhaps.
                    Err(_) => std::thread::sleep(Duration::from_millis(100)),
                }
            }
        })
        .map_err(|e| RunError::host("cannot start a thread (see ulimit -u)", &e))?;
    }
    Ok(())
}

fn answer(space: &Arc<VmSpace>, mut client: &UnixStream) -> io::Result<()> {
    client.set_read_timeout(Some(SILENCE))?;
    client.set_write_timeout(Some(SILENCE))?;
    let reply = match (is_friend(client)?, request(client)?) {
        (false, _) => Err("this run is another user's".to_owned()),
        (true, None) => Err("a request is one line of text".to_owned()),
        (true, Some(line)) => carry_out(space, &line),
    };
    let (word, text) = match reply {
        Ok(text) => ("ok", text),
        Err(text) => ("error", text),
    };
    client.write_all(format!("{word}\n{text}").as_bytes())
}

fn request(client: &UnixStream) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    BufReader::new(client.take(LONGEST)).read_until(b'\n', &mut line)?;
    let whole = line.pop() == Some(b'\n');
    Ok(String::from_utf8(line).ok().filter(|_| whole))
}

fn carry_out(space: &Arc<VmSpace>, line: &str) -> Result<String, String> {
    match line.split_once(' ').unwrap_or((line, "")) {
        ("objects", "") => Ok(objects::table(space)),
        ("stats", "") => Ok(super::report::stats(space)),
        ("maps", "") => Ok(super::report::maps(space)),
        ("swap", rest) => space.swap_request(rest),
        _ => Err(format!("{line:?} is no request: there are objects, stats, maps, swap")),
    }
}

/// The user whose run it is, or root.
fn is_friend(client: &UnixStream) -> io::Result<bool> {
    let mut who = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: a structure of this size.
    let failed = unsafe {
        libc::getsockopt(
            client.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut who).cast(),
            &raw mut len,
        )
    };
    if failed != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it only asks.
    Ok(who.uid == 0 || who.uid == unsafe { libc::geteuid() })
}
