//! The keeper: a small process beside the program that holds what must outlive it
//! and does what only another process can do.
//!
//! - It holds the seccomp listener. Filters survive fork and execve, and a listener
//!   without a holder turns every notified call of the program's children into
//!   ENOSYS. While the program lives the VM answers; afterwards the keeper answers
//!   CONTINUE until the last process with the filter is gone.
//! - It stops threads of the program by ptrace, for fork and execve ([`Tracer`]).
//! - It prints the statistics when the program dies by a signal, and writes the rest of
//!   its trace.
//!
//! It is a child with exit signal 0, so `wait` without `__WALL` or `__WCLONE` never
//! sees it; its session is its own, so no terminal or group signal reaches it. If it
//! dies, the program goes on without fork, without its own execve, and its children
//! get ENOSYS once it has ended.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::ptrace::{Regs, Rseq, Stop, XSTATE_MAX, last_errno};
use super::space::Errno;
use super::trace::Tail;
use super::{Options, StatsTo};

mod serve;

/// What the keeper needs to know before the program starts.
#[derive(Clone, Debug)]
pub struct KeeperConfig {
    /// Where the report of a program killed by a signal goes.
    report_to: ReportTo,
    /// The file of `--trace`.
    trace: Option<PathBuf>,
}

#[derive(Clone, Debug)]
enum ReportTo {
    Nobody,
    Stderr,
    File(PathBuf),
}

impl KeeperConfig {
    /// From the command line's options.
    #[must_use]
    pub fn new(options: &Options) -> Self {
        let report_to = match &options.stats {
            // The keeper's working directory is the root.
            Some(StatsTo::File(path)) => {
                ReportTo::File(std::path::absolute(path).unwrap_or_else(|_| path.clone()))
            }
            Some(StatsTo::Stderr) => ReportTo::Stderr,
            None if options.maps => ReportTo::Stderr,
            None => ReportTo::Nobody,
        };
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        Self { report_to, trace: options.trace.as_ref().map(absolute) }
    }
}

/// Bytes of one copy of the report.
const REPORT_MAX: usize = 256 << 10;

/// Memory that the VM and the keeper share. The texts are written by one side and
/// read by the other only when the writer is dead.
#[repr(C)]
struct Shared {
    /// The program is ending by itself: its report is the VM's business.
    exiting: AtomicBool,
    /// Which text is whole, and its length: `len << 1 | index`; 0: none.
    report: AtomicU64,
    /// The newest notification the VM has received, and whether there was one.
    last_id: AtomicU64,
    any_id: AtomicBool,
    texts: [[AtomicU32; REPORT_MAX / 4]; 2],
    /// What of a trace is not in its file.
    tail: Tail,
}

/// The VM's side of the keeper.
#[derive(Debug)]
pub struct Keeper {
    socket: OwnedFd,
    pid: i32,
    shared: &'static Shared,
    heirs: AtomicBool,
    /// One transaction at a time: the keeper serves in order.
    turn: Mutex<()>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("exiting", &self.exiting).finish_non_exhaustive()
    }
}

#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Op {
    Adopt,
    Seize,
    Wait,
    State,
    SetRegs,
    SetMask,
    Fresh,
    Call,
    End,
    Detach,
    Leave,
}

impl Op {
    const ALL: [Self; 11] = [
        Self::Adopt,
        Self::Seize,
        Self::Wait,
        Self::State,
        Self::SetRegs,
        Self::SetMask,
        Self::Fresh,
        Self::Call,
        Self::End,
        Self::Detach,
        Self::Leave,
    ];
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Request {
    op: u32,
    tid: i32,
    args: [u64; 7],
    regs: Regs,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Response {
    error: i64,
    value: i64,
    regs: Regs,
    mask: u64,
    rseq: Rseq,
    xstate_len: u64,
}

/// A response with the extended state behind it.
#[repr(C)]
struct Packet {
    head: Response,
    xstate: [u8; XSTATE_MAX],
}

impl Packet {
    fn boxed() -> Box<Self> {
        Box::new(Self { head: Response::default(), xstate: [0; XSTATE_MAX] })
    }
}

/// All there is to know about a stopped thread.
#[derive(Clone, Debug)]
pub struct ThreadState {
    /// General registers; `rip` behind the system call.
    pub regs: Regs,
    /// Blocked signals.
    pub mask: u64,
    /// Its restartable-sequences area.
    pub rseq: Rseq,
    /// Extended state in XSAVE's standard format.
    pub xstate: Vec<u8>,
}

/// Starts the keeper.
///
/// => this process has one thread; no file descriptor but the standard ones and the
/// program's is open.
///
/// # Errors
/// What mmap, socketpair or clone say.
pub fn start(config: &KeeperConfig) -> io::Result<Keeper> {
    let shared = map_shared()?;
    let mut pair = [0i32; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: pair has room for two descriptors.
    if unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, pair.as_mut_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: socketpair made both, and nobody else owns them.
    let (ours, theirs) = unsafe { (OwnedFd::from_raw_fd(pair[0]), OwnedFd::from_raw_fd(pair[1])) };
    // SAFETY: no argument. Exit signal 0 is the point: see the module's head.
    let parent = unsafe { libc::getpid() };
    // SAFETY: without CLONE_VM this is fork; we have one thread, so the child may use
    // everything.
    let pid = unsafe { libc::syscall(libc::SYS_clone, 0, 0, 0, 0, 0) };
    match pid {
        0 => {
            drop(ours);
            serve::run(parent, theirs, shared, config)
        }
        pid if pid < 0 => Err(io::Error::last_os_error()),
        pid => {
            // Where Yama restricts ptrace to ancestors; without Yama this fails, and
            // that is right too.
            // SAFETY: arguments are numbers.
            unsafe { libc::prctl(libc::PR_SET_PTRACER, pid, 0, 0, 0) };
            Ok(Keeper {
                socket: ours,
                pid: pid as i32,
                shared,
                heirs: AtomicBool::new(false),
                turn: Mutex::new(()),
            })
        }
    }
}

fn map_shared() -> io::Result<&'static Shared> {
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let rw = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping, wherever the kernel likes.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), size_of::<Shared>(), rw, flags, -1, 0) };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping is page-aligned, as long as Shared, zero (a valid Shared),
    // and never unmapped.
    Ok(unsafe { &*at.cast::<Shared>() })
}

impl Keeper {
    /// The keeper's process.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Hands the keeper its own descriptor of the listener.
    ///
    /// => the filter is installed; call it before the program starts.
    ///
    /// # Errors
    /// EPIPE when the keeper is dead.
    pub fn adopt(&self, listener: BorrowedFd<'_>) -> io::Result<()> {
        let _turn = self.turn();
        let request = Request { op: Op::Adopt as u32, ..Request::default() };
        self.send(&request, Some(listener))
            .and_then(|()| self.receive())
            .map(drop)
            .map_err(|e| io::Error::from_raw_os_error(e.0))
    }

    /// Records that the VM has received notification `id`: should the VM be killed
    /// before it answers, the keeper can.
    pub fn saw(&self, id: u64) {
        self.shared.last_id.store(id, Ordering::Relaxed);
        self.shared.any_id.store(true, Ordering::Relaxed);
    }

    /// Keeps `text` as the report to print should the program die by a signal. One
    /// caller at a time; cut at 256 KiB.
    pub fn note(&self, text: &str) {
        let next = (self.shared.report.load(Ordering::Relaxed) & 1) ^ 1;
        let bytes = &text.as_bytes()[..text.len().min(REPORT_MAX)];
        for (word, chunk) in self.shared.texts[next as usize].iter().zip(bytes.chunks(4)) {
            let mut four = [0u8; 4];
            four[..chunk.len()].copy_from_slice(chunk);
            word.store(u32::from_ne_bytes(four), Ordering::Relaxed);
        }
        self.shared.report.store((bytes.len() as u64) << 1 | next, Ordering::Release);
    }

    /// Where the end of a trace is kept, for the keeper to write should the program be killed.
    pub(super) fn tail(&self) -> &'static Tail {
        &self.shared.tail
    }

    /// A process is being made that inherits the filter (by vfork; a forked child of
    /// ours does not): the keeper must outlive the program.
    pub fn expect_heirs(&self) {
        self.heirs.store(true, Ordering::Relaxed);
    }

    /// The program ends by itself: the VM prints, the keeper does not. Where nobody
    /// inherited the filter the keeper ends here, and leaves no zombie to whoever
    /// adopts orphans.
    pub fn exiting(&self) {
        self.shared.exiting.store(true, Ordering::Release);
        if self.heirs.load(Ordering::Relaxed) {
            return;
        }
        // A fork or execve under way needs the keeper; let it outlive us then.
        let Ok(turn) = self.turn.try_lock() else { return };
        let leave = Request { op: Op::Leave as u32, ..Request::default() };
        if self.send(&leave, None).is_ok() {
            // SAFETY: no status is asked for.
            unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), libc::__WALL) };
        }
        // Nobody begins another.
        std::mem::forget(turn);
    }

    /// Begins a transaction with the keeper's ptrace service. Waits for the one under
    /// way; never call it twice on a thread.
    pub fn tracer(&self) -> Tracer<'_> {
        Tracer { keeper: self, _turn: self.turn() }
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, request: &Request, with: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
        let mut iov = libc::iovec {
            iov_base: std::ptr::from_ref(request).cast_mut().cast(),
            iov_len: size_of::<Request>(),
        };
        // SAFETY: a msghdr of zeros is valid, and means "nothing".
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &raw mut iov;
        message.msg_iovlen = 1;
        let mut control = [0u64; 4];
        if let Some(fd) = with {
            message.msg_control = control.as_mut_ptr().cast();
            // SAFETY: CMSG_* compute; the buffer of 32 bytes holds one header and an
            // int and is aligned for both.
            unsafe {
                message.msg_controllen = libc::CMSG_SPACE(4) as usize;
                let head = libc::CMSG_FIRSTHDR(&raw const message);
                (*head).cmsg_level = libc::SOL_SOCKET;
                (*head).cmsg_type = libc::SCM_RIGHTS;
                (*head).cmsg_len = libc::CMSG_LEN(4) as usize;
                libc::CMSG_DATA(head).cast::<i32>().write_unaligned(fd.as_raw_fd());
            }
        }
        // SAFETY: the message describes memory that lives until the call returns.
        match unsafe { libc::sendmsg(self.socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) } {
            n if n < 0 => Err(last_errno()),
            _ => Ok(()),
        }
    }

    fn receive(&self) -> Result<Box<Packet>, Errno> {
        let mut packet = Packet::boxed();
        let at = (&raw mut *packet).cast();
        loop {
            // SAFETY: the packet has the size given, and any bytes are a valid one.
            let n = unsafe { libc::recv(self.socket.as_raw_fd(), at, size_of::<Packet>(), 0) };
            if n < 0 && last_errno() == Errno(libc::EINTR) {
                continue;
            }
            if n < size_of::<Response>() as isize {
                // The keeper is dead.
                return Err(Errno(libc::EPIPE));
            }
            return match packet.head.error {
                0 => Ok(packet),
                errno => Err(Errno(errno as i32)),
            };
        }
    }
}

/// Stopped threads of the program, for the time of one fork or execve. Every thread
/// that was seized must be ended or detached.
#[derive(Debug)]
pub struct Tracer<'a> {
    keeper: &'a Keeper,
    _turn: MutexGuard<'a, ()>,
}

impl Tracer<'_> {
    fn ask(&self, op: Op, tid: i32, args: &[u64], regs: Regs) -> Result<Box<Packet>, Errno> {
        let mut request = Request { op: op as u32, tid, regs, ..Request::default() };
        request.args[..args.len()].copy_from_slice(args);
        self.keeper.send(&request, None)?;
        self.keeper.receive()
    }

    fn tell(&self, op: Op, tid: i32, args: &[u64]) -> Result<(), Errno> {
        self.ask(op, tid, args, Regs::default()).map(drop)
    }

    /// Seizes `tid` and asks it to stop; it does so when it next returns to user mode.
    ///
    /// # Errors
    /// EPERM: a debugger has it. ESRCH: it is dead. EPIPE: the keeper is.
    pub fn seize(&self, tid: i32) -> Result<(), Errno> {
        self.tell(Op::Seize, tid, &[])
    }

    /// Waits until `tid` stops; `false`: it died.
    ///
    /// => it was seized, and what it waits for has been answered.
    ///
    /// # Errors
    /// EPIPE: the keeper is dead.
    pub fn wait_stop(&self, tid: i32) -> Result<bool, Errno> {
        Ok(self.ask(Op::Wait, tid, &[1], Regs::default())?.head.value == Stop::Stopped as i64)
    }

    /// Where `tid` is now.
    ///
    /// # Errors
    /// EPIPE: the keeper is dead.
    pub fn poll_stop(&self, tid: i32) -> Result<Stop, Errno> {
        let value = self.ask(Op::Wait, tid, &[0], Regs::default())?.head.value;
        Ok([Stop::Running, Stop::Stopped].into_iter().find(|s| *s as i64 == value).unwrap_or(Stop::Gone))
    }

    /// Registers, mask and extended state of a stopped thread.
    ///
    /// # Errors
    /// ESRCH: it is not stopped. EPIPE: the keeper is dead.
    pub fn state(&self, tid: i32) -> Result<ThreadState, Errno> {
        let packet = self.ask(Op::State, tid, &[], Regs::default())?;
        let Packet { head, xstate } = &*packet;
        let len = (head.xstate_len as usize).min(xstate.len());
        Ok(ThreadState { regs: head.regs, mask: head.mask, rseq: head.rseq, xstate: xstate[..len].to_vec() })
    }

    /// Sets the general registers of a stopped thread.
    ///
    /// # Errors
    /// As [`Tracer::state`].
    pub fn set_regs(&self, tid: i32, regs: &Regs) -> Result<(), Errno> {
        self.ask(Op::SetRegs, tid, &[], *regs).map(drop)
    }

    /// Sets the signal mask of a stopped thread.
    ///
    /// # Errors
    /// As [`Tracer::state`].
    pub fn set_mask(&self, tid: i32, mask: u64) -> Result<(), Errno> {
        self.tell(Op::SetMask, tid, &[mask])
    }

    /// Makes a stopped thread begin a program at `rip` with stack `rsp`.
    ///
    /// # Errors
    /// As [`Tracer::state`].
    pub fn fresh(&self, tid: i32, rip: u64, rsp: u64) -> Result<(), Errno> {
        self.tell(Op::Fresh, tid, &[rip, rsp])
    }

    /// Has a stopped thread do system call `nr`, which must not be one that the filter
    /// sends to the thread that calls this. The value is the kernel's (`-errno`).
    ///
    /// # Errors
    /// As [`Tracer::state`].
    pub fn call(&self, tid: i32, nr: i64, args: [u64; 6]) -> Result<i64, Errno> {
        let [a, b, c, d, e, f] = args;
        Ok(self.ask(Op::Call, tid, &[nr as u64, a, b, c, d, e, f], Regs::default())?.head.value)
    }

    /// Sends a stopped thread into `SYS_exit`; [`Tracer::wait_stop`] tells when it is
    /// gone.
    ///
    /// # Errors
    /// As [`Tracer::state`].
    pub fn end(&self, tid: i32) -> Result<(), Errno> {
        self.tell(Op::End, tid, &[])
    }

    /// Lets a stopped thread go on, untraced.
    pub fn detach(&self, tid: i32) {
        // Only the keeper's death can fail here, and that detaches as well.
        let _ = self.tell(Op::Detach, tid, &[]);
    }
}
