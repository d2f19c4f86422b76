//! Threads of the VM inside the program's process.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::start::{block_signals, unregister_rseq};

/// The threads of this process that are not the program's.
static VM_THREADS: Mutex<Vec<i32>> = Mutex::new(Vec::new());

fn vm_threads() -> MutexGuard<'static, Vec<i32>> {
    VM_THREADS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The calling thread's id.
#[must_use]
pub fn gettid() -> i32 {
    // SAFETY: the call has no preconditions.
    unsafe { libc::gettid() }
}

/// Whether the thread `tid` of this process is one of the VM's.
#[must_use]
pub fn is_vm_thread(tid: i32) -> bool {
    vm_threads().contains(&tid)
}

/// `/proc/PID/task`, opened before the program could change what `/proc` means.
static TASKS: OnceLock<OwnedFd> = OnceLock::new();

fn open_dir(dir: i32, path: &CStr, flags: i32) -> io::Result<OwnedFd> {
    // SAFETY: `path` is a C string.
    let fd = unsafe { libc::openat(dir, path.as_ptr(), flags | libc::O_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes [`program_threads`] independent of the program's root directory and mounts.
///
/// => once, in the VM's descriptor table, before the program starts
///
/// # Errors
/// There is no `/proc`.
pub fn remember_tasks() -> io::Result<()> {
    let _ = TASKS.set(open_dir(libc::AT_FDCWD, c"/proc/self/task", libc::O_PATH | libc::O_DIRECTORY)?);
    Ok(())
}

/// Opens something below `/proc/PID/task`.
fn open_below_tasks(path: &CStr, flags: i32) -> io::Result<OwnedFd> {
    if let Some(dir) = TASKS.get() {
        return open_dir(dir.as_raw_fd(), path, flags);
    }
    let dir = open_dir(libc::AT_FDCWD, c"/proc/self/task", libc::O_PATH | libc::O_DIRECTORY)?;
    open_dir(dir.as_raw_fd(), path, flags)
}

/// Opens `name` of the thread `tid` of this process, below `/proc`.
///
/// # Errors
/// There is no such thread, or no `/proc`.
pub fn open_in_task(tid: i32, name: &CStr) -> io::Result<File> {
    let path = CString::new(format!("{tid}/{}", name.to_string_lossy()))?;
    open_below_tasks(&path, libc::O_RDONLY).map(File::from)
}

/// The program's threads that exist now.
#[must_use]
pub fn program_threads() -> Vec<i32> {
    let mut all = list_tasks().unwrap_or_default();
    let ours = vm_threads();
    all.retain(|tid| !ours.contains(tid));
    all
}

fn list_tasks() -> io::Result<Vec<i32>> {
    let dir = open_below_tasks(c".", libc::O_RDONLY | libc::O_DIRECTORY)?;
    let mut tids = Vec::new();
    // SAFETY: the directory stream owns the descriptor from here on; an entry is read
    // before the next one is asked for.
    unsafe {
        let stream = libc::fdopendir(dir.into_raw_fd());
        if stream.is_null() {
            return Err(io::Error::last_os_error());
        }
        loop {
            let entry = libc::readdir(stream);
            if entry.is_null() {
                break;
            }
            let name = CStr::from_ptr((*entry).d_name.as_ptr());
            tids.extend(name.to_str().ok().and_then(|name| name.parse::<i32>().ok()));
        }
        libc::closedir(stream);
    }
    Ok(tids)
}

/// Starts a thread of the VM: all signals blocked, so that the program's are
/// delivered to the program's threads; known to [`is_vm_thread`] when this returns.
/// It shares the descriptor table of the caller.
///
/// # Errors
/// The system's limit on threads.
pub fn spawn_vm_thread(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let (started, wait) = sync_channel(1);
    std::thread::Builder::new().name(format!("machvm-{name}")).spawn(move || {
        let _registration = Registration::new();
        let _ = started.send(());
        drop(started);
        body();
    })?;
    wait.recv().map_err(|_| io::Error::other("the thread ended at once"))
}

/// Makes the calling thread, which is new, one of the VM's: as [`spawn_vm_thread`] does, for
/// threads that a library starts.
#[cfg(feature = "remote")]
pub(super) fn enter_vm_thread() {
    std::mem::forget(Registration::new());
}

/// The calling thread ends.
#[cfg(feature = "remote")]
pub(super) fn leave_vm_thread() {
    drop(Registration(gettid()));
}

struct Registration(i32);

impl Registration {
    fn new() -> Registration {
        block_signals();
        let tid = gettid();
        vm_threads().push(tid);
        Registration(tid)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        vm_threads().retain(|&tid| tid != self.0);
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// A thread that goes on sharing the program's descriptors, working directory and
/// umask, for what must be done on the program's behalf: the VM's other threads have
/// a descriptor table of their own.
#[derive(Debug)]
pub struct Forker {
    jobs: Mutex<SyncSender<Job>>,
    tid: i32,
}

impl Forker {
    /// Starts it.
    ///
    /// => on the program's main thread, while that shares its table with nobody
    ///
    /// # Errors
    /// The system's limit on threads.
    pub fn start() -> io::Result<Forker> {
        let (jobs, work) = sync_channel::<Job>(1);
        let (tell, tid) = sync_channel(1);
        spawn_vm_thread("files", move || {
            // A child forked from here must find no rseq area registered.
            unregister_rseq();
            let _ = tell.send(gettid());
            while let Ok(job) = work.recv() {
                job();
            }
        })?;
        let tid = tid.recv().map_err(|_| io::Error::other("the thread ended at once"))?;
        Ok(Forker { jobs: Mutex::new(jobs), tid })
    }

    /// Its thread.
    #[must_use]
    pub fn tid(&self) -> i32 {
        self.tid
    }

    /// Runs `body` there; returns what it returned.
    pub fn run<R: Send>(&self, body: impl FnOnce() -> R + Send) -> R {
        let (done, wait) = sync_channel(1);
        let job: Box<dyn FnOnce() + Send + '_> = Box::new(move || {
            let _ = done.send(body());
        });
        // SAFETY: only the lifetime changes. The job is gone when `wait` returns: it has
        // run, or it was dropped (by unwinding, or unsent), which drops `done`.
        let job: Job = unsafe { std::mem::transmute::<Box<dyn FnOnce() + Send + '_>, Job>(job) };
        let sent = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).send(job);
        match (sent, wait.recv()) {
            (Ok(()), Ok(result)) => result,
            // A panic there was already reported; the process is not whole any more.
            _ => std::process::abort(),
        }
    }
}
