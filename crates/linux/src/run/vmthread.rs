//! Threads of the VM inside the program's process.

use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};

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

/// The program's threads that exist now.
#[must_use]
pub fn program_threads() -> Vec<i32> {
    let Ok(tasks) = std::fs::read_dir("/proc/thread-self/../") else {
        return Vec::new();
    };
    let all: Vec<i32> = tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok()).collect();
    let ours = vm_threads();
    all.into_iter().filter(|tid| !ours.contains(tid)).collect()
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
