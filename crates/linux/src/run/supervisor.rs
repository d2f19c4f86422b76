//! The loop that answers the program's system calls.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::context::Ctx;
use super::files::{copy_in, copy_in_string, copy_out};
use super::filter::{MEMORY_CALLS, PR_SET_MDWE, SYS_MAP_SHADOW_STACK, X32_BIT};
use super::notify::{self, ARCH_X86_64, Notif};
use super::space::{Call, Errno, Reply};
use super::threads::{self, Kin};
use super::vmthread::spawn_vm_thread;
use super::{exec, fork, signals};

/// How often the keeper gets the report that it prints should the program be killed.
const NOTE_INTERVAL: Duration = Duration::from_millis(200);
/// Longer than any name of `/proc/self/exe`.
const LONGEST_EXE_NAME: usize = 64;

const CLONE_VM: u64 = libc::CLONE_VM as u64;
const CLONE_THREAD: u64 = libc::CLONE_THREAD as u64;

/// Answers calls until the listener ends.
pub struct Supervisor {
    ctx: Arc<Ctx>,
    /// A process that shares our memory may exist (a child of vfork).
    shared: AtomicBool,
}

impl Supervisor {
    /// Starts the thread for slow calls and the one that keeps the keeper informed.
    ///
    /// # Errors
    /// The system's limit on threads.
    pub fn new(ctx: Arc<Ctx>) -> std::io::Result<Supervisor> {
        let worker = Arc::clone(&ctx);
        spawn_vm_thread("process", move || {
            loop {
                let notif = worker.take_slow();
                worker.begin(notif.id);
                let reply = make_process(&worker, &notif.call);
                worker.answer(&notif.call, reply);
            }
        })?;
        if ctx.wants_report() {
            let ctx = Arc::clone(&ctx);
            spawn_vm_thread("report", move || {
                loop {
                    ctx.keeper.note(&ctx.report_text());
                    std::thread::sleep(NOTE_INTERVAL);
                }
            })?;
        }
        Ok(Supervisor { ctx, shared: AtomicBool::new(false) })
    }

    /// Answers calls; returns only when the listener fails.
    pub fn run(&self) -> std::io::Error {
        loop {
            let notif = match notify::receive(self.ctx.listener.as_fd()) {
                Ok(notif) => notif,
                Err(error) => return error,
            };
            self.ctx.keeper.saw(notif.id);
            self.ctx.begin(notif.id);
            if let Some(reply) = self.handle(&notif) {
                self.ctx.answer(&notif.call, reply);
            }
        }
    }

    fn kin(&self, tid: i32) -> Kin {
        // SAFETY: signal 0 only asks whether the thread is one of this process.
        let here = unsafe { libc::syscall(libc::SYS_tgkill, self.ctx.pid, tid, 0) } == 0;
        match here {
            true => Kin::Ours,
            false if self.shared.load(Ordering::Relaxed) => threads::kin(tid),
            false => Kin::Stranger,
        }
    }

    /// `None`: another thread answers.
    fn handle(&self, notif: &Notif) -> Option<Reply> {
        let call = &notif.call;
        let kin = self.kin(call.tid);
        if kin == Kin::Stranger {
            return Some(Reply::Continue);
        }
        if notif.arch != ARCH_X86_64 || call.nr as u32 & X32_BIT != 0 {
            return Some(Reply::Error(Errno(libc::ENOSYS)));
        }
        if MEMORY_CALLS.contains(&call.nr) {
            return Some(self.ctx.space.memory_call(call));
        }
        if kin == Kin::SharesMemory {
            return Some(self.by_vfork_child(call));
        }
        match call.nr {
            libc::SYS_execve | libc::SYS_execveat | libc::SYS_fork => self.later(notif),
            libc::SYS_clone => self.on_clone(notif),
            libc::SYS_vfork => {
                self.ctx.keeper.expect_heirs();
                self.shared.store(true, Ordering::Relaxed);
                Some(Reply::Continue)
            }
            libc::SYS_exit => Some(threads::on_exit(&self.ctx, call)),
            libc::SYS_rt_sigaction => Some(signals::on_sigaction(call)),
            libc::SYS_exit_group => {
                self.ctx.report();
                Some(Reply::Continue)
            }
            _ => Some(self.refused_or_fixed(call)),
        }
    }

    fn later(&self, notif: &Notif) -> Option<Reply> {
        self.ctx.put_slow(*notif);
        None
    }

    fn on_clone(&self, notif: &Notif) -> Option<Reply> {
        let flags = notif.call.args[0];
        if flags & CLONE_VM == 0 {
            return self.later(notif);
        }
        if flags & CLONE_THREAD == 0 {
            self.shared.store(true, Ordering::Relaxed);
        }
        Some(threads::on_clone(&self.ctx, &notif.call))
    }

    /// Between vfork and exec a child runs in our memory, but it is its own process.
    fn by_vfork_child(&self, call: &Call) -> Reply {
        match call.nr {
            libc::SYS_fork => Reply::Error(Errno(libc::EAGAIN)),
            libc::SYS_clone if call.args[0] & CLONE_VM == 0 => Reply::Error(Errno(libc::EAGAIN)),
            libc::SYS_execve
            | libc::SYS_execveat
            | libc::SYS_clone
            | libc::SYS_vfork
            | libc::SYS_exit
            | libc::SYS_exit_group => Reply::Continue,
            _ => self.refused_or_fixed(call),
        }
    }

    /// What our memory cannot do, and what Linux would answer wrongly.
    fn refused_or_fixed(&self, call: &Call) -> Reply {
        match call.nr {
            // clone's flags are visible to the filter, clone3's are not; C libraries fall
            // back. Rings and gifts pin pages behind the map's back.
            libc::SYS_clone3 | libc::SYS_io_uring_setup | libc::SYS_io_setup | SYS_MAP_SHADOW_STACK => {
                Reply::Error(Errno(libc::ENOSYS))
            }
            // The filter reports only the forms that are refused.
            libc::SYS_open
            | libc::SYS_openat
            | libc::SYS_open_by_handle_at
            | libc::SYS_fcntl
            | libc::SYS_vmsplice
            | libc::SYS_seccomp => Reply::Error(Errno(libc::EINVAL)),
            libc::SYS_openat2 => openat2(call),
            libc::SYS_prctl => prctl(call),
            libc::SYS_readlink => self.readlink(call.args[0], call.args[1], call.args[2] as i32),
            libc::SYS_readlinkat => self.readlink(call.args[1], call.args[2], call.args[3] as i32),
            _ => Reply::Continue,
        }
    }

    /// `/proc/self/exe` is `machvm`; programs find their files by it.
    fn readlink(&self, path: u64, buf: u64, len: i32) -> Reply {
        let Some(path) = copy_in_string(path, LONGEST_EXE_NAME) else {
            return Reply::Continue;
        };
        let pid = self.ctx.pid;
        let is_exe = path == b"/proc/self/exe"
            || path == b"/proc/thread-self/exe"
            || (path.starts_with(b"/proc/") && path == format!("/proc/{pid}/exe").as_bytes());
        if !is_exe || len <= 0 {
            return Reply::Continue;
        }
        let exe = self.ctx.exe.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if exe.is_empty() {
            return Reply::Continue;
        }
        let answer = &exe[..exe.len().min(len as usize)];
        match copy_out(buf, answer) {
            Ok(()) => Reply::Value(answer.len() as i64),
            Err(errno) => Reply::Error(errno),
        }
    }
}

/// On the thread for slow calls.
fn make_process(ctx: &Ctx, call: &Call) -> Reply {
    match call.nr {
        libc::SYS_execve | libc::SYS_execveat => exec::on_execve(ctx, call),
        _ => fork::on_fork(ctx, call),
    }
}

/// Direct I/O writes to pages behind the pager's back: refused, as file systems
/// without it do.
fn openat2(call: &Call) -> Reply {
    let mut flags = [0; 8];
    let whole = copy_in(call.args[2], &mut flags) == flags.len();
    if whole && u64::from_le_bytes(flags) & libc::O_DIRECT as u64 != 0 {
        return Reply::Error(Errno(libc::EINVAL));
    }
    Reply::Continue
}

fn prctl(call: &Call) -> Reply {
    // The heap's bounds are the VM's and the mode would bind the VM too; the rest of
    // the layout is the program's own business.
    const PR_SET_MM_START_BRK: u64 = 6;
    const PR_SET_MM_BRK: u64 = 7;
    const PR_SET_MM_MAP: u64 = 14;
    let heap = matches!(call.args[1], PR_SET_MM_START_BRK | PR_SET_MM_BRK | PR_SET_MM_MAP);
    if call.args[0] as u32 == PR_SET_MDWE || heap {
        Reply::Error(Errno(libc::EINVAL))
    } else {
        Reply::Continue
    }
}
