//! `execve` by the program: a new program in the same process, under the same VM.
//!
//! Linux's own execve would throw the VM out with the program. So the VM does what
//! the kernel does: everything that can fail is tried first; then all the program's
//! threads are stopped and all but the main one ended; what execve resets is reset;
//! the address space is emptied and filled again; and the main thread, stopped all
//! the time, goes on at the new program's entry.
//!
//! Different from Linux: the thread that remains keeps its own scheduling and
//! credentials when another one called execve, signals pending for that one are lost,
//! and a program whose main thread has ended cannot execve (EAGAIN).

use std::collections::BTreeSet;
use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::PoisonError;
use std::time::Duration;

use super::Ctx;
use super::files::{close_if, copy_in, copy_in_string, program_fd, tell_user};
use super::keeper::Tracer;
use super::load::{Image, Prepared, Source, prepare, stack_limit};
use super::ptrace::{Stop, last_errno};
use super::signals;
use super::space::{Call, Errno, Reply};
use super::start::reset_dispositions;
use super::threads::{exec_begins, exec_ends};

/// The kernel's `MAX_ARG_STRLEN` and `PATH_MAX`, without the NUL.
const LONGEST_STRING: usize = 131_071;
const LONGEST_PATH: usize = 4095;
/// Arguments and environment never exceed three quarters of 8 MiB, whatever the stack
/// limit is.
const MOST_BYTES: usize = 6 << 20;
/// How often to look whether a thread has stopped.
const POLL: Duration = Duration::from_micros(100);
const RSEQ_FLAG_UNREGISTER: u64 = 1;
/// An argument vector nobody can read.
const BAD_POINTER: usize = 8;

/// `stack_t`: no alternate stack.
static NO_ALTSTACK: [u64; 3] = [0, libc::SS_DISABLE as u64, 0];

/// Answers `execve` and `execveat` of a thread of the program.
///
/// => on the process worker, which holds no lock of the VM; it may sleep. Answers the
/// call before it returns.
///
/// # Errors
/// The caller gets execve's own errno, or EAGAIN, with a line on the program's
/// standard error, when the threads cannot be stopped.
pub fn on_execve(ctx: &Ctx, call: &Call) -> Reply {
    match read_request(ctx, call).and_then(Request::prepare).and_then(|new| replace(ctx, call, new)) {
        Ok(()) => Reply::Value(0),
        Err(errno) => Reply::Error(errno),
    }
}

/// What execve was asked for.
struct Request {
    source: Source,
    argv: Vec<Vec<u8>>,
    envp: Vec<Vec<u8>>,
}

fn read_request(ctx: &Ctx, call: &Call) -> Result<Request, Errno> {
    let [a, b, c, d, e, _] = call.args;
    let (dir, path, argv, envp, flags) = match call.nr {
        libc::SYS_execve => (libc::AT_FDCWD, a, b, c, 0),
        _ => (a as i32, b, c, d, e as i32),
    };
    let path = read_string(path, LONGEST_PATH, libc::ENAMETOOLONG)?;
    let source = match is_own_link(ctx, &path) {
        true => find_own(ctx, call.tid, path)?,
        false => find(call.tid, dir, path, flags)?,
    };
    let mut room = MOST_BYTES;
    Ok(Request { source, argv: read_strings(argv, &mut room)?, envp: read_strings(envp, &mut room)? })
}

fn read_string(addr: u64, longest: usize, too_long: i32) -> Result<Vec<u8>, Errno> {
    copy_in_string(addr, longest).ok_or_else(|| {
        let readable = copy_in(addr, &mut vec![0; longest + 1]) == longest + 1;
        Errno(if readable { too_long } else { libc::EFAULT })
    })
}

/// The strings of a vector of the program; a null vector is empty, as in Linux.
fn read_strings(vector: u64, room: &mut usize) -> Result<Vec<Vec<u8>>, Errno> {
    let mut strings = Vec::new();
    if vector == 0 {
        return Ok(strings);
    }
    loop {
        let mut word = [0; 8];
        if copy_in(vector + 8 * strings.len() as u64, &mut word) != word.len() {
            return Err(Errno(libc::EFAULT));
        }
        match u64::from_ne_bytes(word) {
            0 => return Ok(strings),
            at => {
                let string = read_string(at, LONGEST_STRING, libc::E2BIG)?;
                *room = room.checked_sub(string.len() + 9).ok_or(Errno(libc::E2BIG))?;
                strings.push(string);
            }
        }
    }
}

/// Whether `path` is the link that names the program itself.
fn is_own_link(ctx: &Ctx, path: &[u8]) -> bool {
    let name = path.strip_prefix(b"/proc/").and_then(|rest| rest.strip_suffix(b"/exe"));
    name.is_some_and(|name| {
        name == b"self" || name == b"thread-self" || name == ctx.pid.to_string().as_bytes()
    })
}

/// The program itself, also where the kernel's link could not be changed and names
/// `machvm`.
fn find_own(ctx: &Ctx, tid: i32, path: Vec<u8>) -> Result<Source, Errno> {
    let exe = ctx.exe.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let exe = CString::new(exe).map_err(|_| Errno(libc::ENOENT))?;
    may_execute(libc::AT_FDCWD, &exe, 0)?;
    Ok(Source { path, file: Some(open(libc::AT_FDCWD, &exe)?), tid })
}

/// Finds the file, and has the kernel say whether it may be executed.
fn find(tid: i32, dir: i32, path: Vec<u8>, flags: i32) -> Result<Source, Errno> {
    let c_path = CString::new(path.as_slice()).map_err(|_| Errno(libc::ENOENT))?;
    if flags & !(libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW) != 0 {
        return Err(Errno(libc::EINVAL));
    }
    if path.is_empty() && flags & libc::AT_EMPTY_PATH == 0 {
        return Err(Errno(libc::ENOENT));
    }
    let by_dir = dir != libc::AT_FDCWD && !path.starts_with(b"/");
    let dir_fd = match by_dir {
        true => Some(program_fd(tid, dir).map_err(|e| Errno(e.raw_os_error().unwrap_or(libc::EBADF)))?),
        false => None,
    };
    let at = dir_fd.as_ref().map_or(libc::AT_FDCWD, AsRawFd::as_raw_fd);
    may_execute(at, &c_path, flags)?;
    if !by_dir && flags & libc::AT_SYMLINK_NOFOLLOW == 0 && !path.is_empty() {
        return Ok(Source { path, file: None, tid });
    }
    let mut name = if by_dir { format!("/dev/fd/{dir}").into_bytes() } else { Vec::new() };
    let file = if path.is_empty() {
        // By its link, because the descriptor may be one of O_PATH.
        let link = if by_dir { format!("/proc/thread-self/fd/{at}") } else { ".".to_string() };
        open(libc::AT_FDCWD, &CString::new(link).map_err(|_| Errno(libc::EINVAL))?)?
    } else {
        if by_dir {
            name.push(b'/');
        }
        name.extend_from_slice(&path);
        open(at, &c_path)?
    };
    Ok(Source { path: name, file: Some(file), tid })
}

fn open(dir: i32, path: &CString) -> Result<OwnedFd, Errno> {
    // SAFETY: the path is a C string; the descriptor is new and ours.
    unsafe {
        match libc::openat(dir, path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) {
            fd if fd < 0 => Err(last_errno()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

/// Has the kernel open the file as execve does (rights, mount flags, links, writers)
/// and then stop at an argument vector that it cannot read.
fn may_execute(dir: i32, path: &CString, flags: i32) -> Result<(), Errno> {
    // SAFETY: with an unreadable vector execveat always fails, and changes nothing.
    unsafe { libc::syscall(libc::SYS_execveat, dir, path.as_ptr(), BAD_POINTER, 0, flags) };
    match last_errno() {
        Errno(libc::EFAULT) => Ok(()),
        other => Err(other),
    }
}

impl Request {
    /// Everything that can fail for want of a good file.
    fn prepare(self) -> Result<Prepared, Errno> {
        prepare(self.source, &self.argv, &self.envp, stack_limit()).map_err(|e| Errno(e.errno()))
    }
}

/// Replaces the program. An error comes back only while nothing has changed.
fn replace(ctx: &Ctx, call: &Call, new: Prepared) -> Result<(), Errno> {
    let main = ctx.pid;
    if has_ended(main) {
        tell_user("the program cannot execve: its main thread has ended");
        return Err(Errno(libc::EAGAIN));
    }
    let tracer = ctx.keeper.tracer();
    let mut stopped = Stopped { ctx, call, tracer: &tracer, threads: BTreeSet::new(), answered: false };
    if let Err(errno) = stopped.stop_all() {
        stopped.give_back(errno);
        return Err(errno);
    }
    // From here on there is no way back.
    let done = tracer.state(call.tid).and_then(|caller| {
        exec_begins();
        stopped.end_all_but(main)?;
        strip(&tracer, main)?;
        reset_process(ctx);
        exec_ends(ctx);
        ctx.space.clear();
        let image = new.map(&*ctx.space).map_err(|e| Errno(e.errno()))?;
        dress(ctx, main, &image);
        tracer.fresh(main, image.entry, image.sp)?;
        tracer.set_mask(main, caller.mask)
    });
    match done {
        Ok(()) => {
            tracer.detach(main);
            Ok(())
        }
        Err(Errno(errno)) => {
            // As Linux ends a process whose execve fails half way.
            tell_user(&format!("the program's execve failed half way (errno {errno}); it is ended"));
            // SAFETY: numbers.
            unsafe { libc::kill(main, libc::SIGKILL) };
            Err(Errno(errno))
        }
    }
}

/// Whether thread `tid` is a zombie, or gone.
fn has_ended(tid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{tid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map_or("X", |(_, rest)| rest);
    state.starts_with(['Z', 'X'])
}

/// The program's threads as they come to a stop.
struct Stopped<'a> {
    ctx: &'a Ctx,
    call: &'a Call,
    tracer: &'a Tracer<'a>,
    threads: BTreeSet<i32>,
    answered: bool,
}

impl Stopped<'_> {
    /// Stops every thread of the program, also those that others make meanwhile.
    fn stop_all(&mut self) -> Result<(), Errno> {
        let mut gone = BTreeSet::new();
        self.seize(self.call.tid, &mut gone)?;
        loop {
            let known = self.threads.len() + gone.len();
            for tid in self.ctx.program_threads() {
                if !self.threads.contains(&tid) && !gone.contains(&tid) {
                    self.seize(tid, &mut gone)?;
                }
            }
            if self.answered && known == self.threads.len() + gone.len() {
                return Ok(());
            }
            self.answer();
            self.wait_until_stopped()?;
        }
    }

    fn seize(&mut self, tid: i32, gone: &mut BTreeSet<i32>) -> Result<(), Errno> {
        match self.tracer.seize(tid) {
            Ok(()) => {
                self.threads.insert(tid);
                Ok(())
            }
            // A thread on its way out cannot be seized, for either reason.
            Err(Errno(libc::ESRCH | libc::EPERM)) if has_ended(tid) => {
                gone.insert(tid);
                Ok(())
            }
            Err(Errno(errno)) => {
                let why = match errno {
                    libc::EPERM => "while a debugger traces it",
                    libc::EPIPE => "without its keeper process, which was killed",
                    _ => "because its threads cannot be stopped",
                };
                tell_user(&format!("the program cannot execve {why}"));
                Err(Errno(libc::EAGAIN))
            }
        }
    }

    /// The caller stops when its call is answered.
    fn answer(&mut self) {
        if !self.answered {
            self.answered = true;
            self.ctx.answer(self.call, Reply::Value(0));
        }
    }

    fn wait_until_stopped(&mut self) -> Result<(), Errno> {
        let mut running = self.threads.clone();
        loop {
            for tid in running.clone() {
                match self.tracer.poll_stop(tid)? {
                    Stop::Running => continue,
                    Stop::Stopped => {}
                    Stop::Gone => {
                        self.threads.remove(&tid);
                    }
                }
                running.remove(&tid);
            }
            if running.is_empty() {
                return Ok(());
            }
            // A thread that waits for us to fork it does not stop before it is answered.
            self.ctx.drop_queued(&running);
            std::thread::sleep(POLL);
        }
    }

    /// Lets everything go on as it was; the caller's execve has failed with `errno`.
    fn give_back(mut self, errno: Errno) {
        if self.threads.is_empty() {
            return;
        }
        self.answer();
        if self.wait_until_stopped().is_err() {
            return;
        }
        if let Ok(state) = self.tracer.state(self.call.tid) {
            let mut regs = state.regs;
            regs.rax = i64::from(-errno.0) as u64;
            let _ = self.tracer.set_regs(self.call.tid, &regs);
        }
        self.threads.iter().for_each(|tid| self.tracer.detach(*tid));
    }

    fn end_all_but(&mut self, main: i32) -> Result<(), Errno> {
        self.threads.remove(&main);
        for tid in &self.threads {
            match self.tracer.end(*tid) {
                Ok(()) | Err(Errno(libc::ESRCH)) => {}
                Err(other) => return Err(other),
            }
        }
        for tid in &self.threads {
            while self.tracer.wait_stop(*tid)? {
                self.tracer.end(*tid)?;
            }
        }
        Ok(())
    }
}

/// Undoes what the old program had the kernel know of the main thread, while the
/// memory that the kernel writes to is still there.
fn strip(tracer: &Tracer<'_>, main: i32) -> Result<(), Errno> {
    let rseq = tracer.state(main)?.rseq;
    if rseq.ptr != 0 {
        let args = [rseq.ptr, rseq.size.into(), RSEQ_FLAG_UNREGISTER, rseq.signature.into(), 0, 0];
        let result = tracer.call(main, libc::SYS_rseq, args)?;
        if result < 0 {
            // The kernel would go on writing to memory of the new program.
            return Err(Errno(-result as i32));
        }
    }
    let no_altstack = NO_ALTSTACK.as_ptr() as u64;
    tracer.call(main, libc::SYS_sigaltstack, [no_altstack, 0, 0, 0, 0, 0])?;
    tracer.call(main, libc::SYS_set_robust_list, [0, 24, 0, 0, 0, 0])?;
    tracer.call(main, libc::SYS_set_tid_address, [0; 6])?;
    tracer.call(main, libc::SYS_prctl, [libc::PR_SET_KEEPCAPS as u64, 0, 0, 0, 0, 0])?;
    Ok(())
}

/// What execve resets in the whole process.
fn reset_process(ctx: &Ctx) {
    reset_dispositions();
    signals::forget();
    // Timers of timer_create go, those of setitimer and alarm stay.
    let timers = std::fs::read_to_string("/proc/thread-self/../../timers").unwrap_or_default();
    for id in timers.lines().filter_map(|line| line.strip_prefix("ID: ")?.parse::<i32>().ok()) {
        // SAFETY: numbers.
        unsafe { libc::syscall(libc::SYS_timer_delete, id) };
    }
    ctx.on_program_files(|| {
        close_if(|fd| {
            // SAFETY: F_GETFD only asks.
            let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
            flags >= 0 && flags & libc::FD_CLOEXEC != 0
        });
    });
}

/// Names, and what /proc shows.
fn dress(ctx: &Ctx, main: i32, image: &Image) {
    ctx.exe.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&image.exe_path);
    // Names are for people; nothing depends on them.
    let _ = std::fs::write(format!("/proc/self/task/{main}/comm"), &image.comm);
    image.mm.apply();
    // SAFETY: numbers.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) };
}
