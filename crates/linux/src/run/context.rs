//! What the threads that serve a program share.

use std::cell::Cell;
use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::keeper::Keeper;
use super::notify::{self, Notif, Sent};
use super::options::Options;
use super::space::{Call, Errno, Reply, Space};
use super::vmthread::{Forker, is_vm_thread, program_threads};
use super::{files, options::StatsTo};

/// The address space as the process side holds it.
pub type SharedSpace = Arc<dyn Space + Send + Sync>;

/// What the threads that serve a program share. Its descriptors are in the VM's
/// table.
pub struct Ctx {
    /// The program's address space.
    pub space: SharedSpace,
    /// The seccomp listener.
    pub listener: OwnedFd,
    /// The process that answers for us when we are gone.
    pub keeper: Keeper,
    /// What the user asked for.
    pub options: Options,
    /// The process, and the thread id of the program's main thread.
    pub pid: i32,
    /// What `readlink("/proc/self/exe")` answers.
    pub exe: Mutex<Vec<u8>>,
    forker: Forker,
    report_to: Option<Mutex<File>>,
    reported: AtomicBool,
    /// Calls that may take long: they must not hold up the others.
    slow: Mutex<VecDeque<Notif>>,
    slow_came: Condvar,
}

/// To a thread that is asked to stop this means: make the call again. The kernel's own
/// number; no program ever sees it.
const ERESTARTNOINTR: Errno = Errno(513);

thread_local! {
    /// The notification this thread is answering, until it is answered.
    static CURRENT: Cell<Option<u64>> = const { Cell::new(None) };
}

impl Ctx {
    pub(super) fn new(
        space: SharedSpace,
        listener: OwnedFd,
        keeper: Keeper,
        options: Options,
        forker: Forker,
        exe: Vec<u8>,
        report_to: Option<File>,
    ) -> Ctx {
        Ctx {
            space,
            listener,
            keeper,
            options,
            pid: std::process::id() as i32,
            exe: Mutex::new(exe),
            forker,
            report_to: report_to.map(Mutex::new),
            reported: AtomicBool::new(false),
            slow: Mutex::default(),
            slow_came: Condvar::new(),
        }
    }

    /// Begins answering the notification `id` on this thread.
    pub(super) fn begin(&self, id: u64) {
        CURRENT.set(Some(id));
    }

    /// Answers the call that this thread is handling, once: whatever comes later, the
    /// handler's own return value too, is ignored. `false`: the caller was killed
    /// meanwhile, or was answered before.
    pub fn answer(&self, _call: &Call, reply: Reply) -> bool {
        let Some(id) = CURRENT.take() else {
            return false;
        };
        match notify::send(self.listener.as_fd(), id, reply) {
            Ok(sent) => sent == Sent::Delivered,
            Err(error) => files::give_up(&format!("cannot answer a system call: {error}")),
        }
    }

    fn slow_calls(&self) -> MutexGuard<'_, VecDeque<Notif>> {
        self.slow.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves a call to the thread for slow calls.
    pub(super) fn put_slow(&self, notif: Notif) {
        self.slow_calls().push_back(notif);
        self.slow_came.notify_one();
    }

    /// Waits for a slow call.
    pub(super) fn take_slow(&self) -> Notif {
        let mut queue = self.slow_calls();
        loop {
            if let Some(notif) = queue.pop_front() {
                return notif;
            }
            queue = self.slow_came.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lets go of the slow calls of `threads` that nobody has begun: an execve waits for
    /// those threads to stop. Should they go on after all, they make their calls again.
    ///
    /// => each of `threads` has been asked to stop and has not stopped yet; a thread that
    /// was not asked would see the kernel's own number
    pub fn drop_queued(&self, threads: &BTreeSet<i32>) {
        self.slow_calls().retain(|notif| {
            let stops = threads.contains(&notif.call.tid);
            if stops {
                // A caller that is gone already is what the execve is waiting for.
                let _ = notify::send(self.listener.as_fd(), notif.id, Reply::Error(ERESTARTNOINTR));
            }
            !stops
        });
    }

    /// Runs `body` on a thread that shares the program's descriptors, working
    /// directory and umask; returns what it returned.
    pub fn on_program_files<R: Send>(&self, body: impl FnOnce() -> R + Send) -> R {
        self.forker.run(body)
    }

    /// The thread that runs [`Ctx::on_program_files`].
    #[must_use]
    pub fn forker_tid(&self) -> i32 {
        self.forker.tid()
    }

    /// The descriptor `fd` of the program's thread `tid`, in the VM's table.
    ///
    /// # Errors
    /// EBADF when it has none.
    pub fn program_fd(&self, tid: i32, fd: i32) -> io::Result<OwnedFd> {
        files::program_fd(tid, fd)
    }

    /// Whether the thread `tid` of this process is one of the VM's.
    #[must_use]
    pub fn is_vm_thread(&self, tid: i32) -> bool {
        is_vm_thread(tid)
    }

    /// The program's threads that exist now.
    #[must_use]
    pub fn program_threads(&self) -> Vec<i32> {
        program_threads()
    }

    /// Whether the user wants to hear anything at the end.
    #[must_use]
    pub fn wants_report(&self) -> bool {
        self.report_to.is_some()
    }

    /// The text of `--maps` and `--stats`, as far as asked for.
    #[must_use]
    pub fn report_text(&self) -> String {
        let mut text = String::new();
        if self.options.maps {
            text += &self.space.maps();
        }
        if self.options.stats.is_some() {
            text += &self.space.stats();
        }
        text
    }

    /// Lets the program's control socket go, writes the report, and deletes what is swapped to
    /// other machines, the first time it is called. From then on faults may wait.
    pub fn report(&self) {
        if self.reported.swap(true, Ordering::AcqRel) {
            return;
        }
        // The keeper looks after a trace that is not whole.
        self.space.end();
        self.keeper.exiting();
        if let Some(file) = &self.report_to {
            let text = self.report_text();
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            // The program's end is not the place to fail because a pipe is closed.
            let _ = file.write_all(text.as_bytes());
        }
        self.space.close_swap();
    }
}

/// Opens what the report is written to: in the VM's table, because the program may
/// close its own standard error.
///
/// # Errors
/// The file cannot be created.
pub(super) fn open_report(options: &Options) -> io::Result<Option<File>> {
    match &options.stats {
        Some(StatsTo::File(path)) => File::create(path).map(Some),
        Some(StatsTo::Stderr) => stderr_copy().map(Some),
        None if options.maps => stderr_copy().map(Some),
        None => Ok(None),
    }
}

fn stderr_copy() -> io::Result<File> {
    Ok(File::from(io::stderr().as_fd().try_clone_to_owned()?))
}
