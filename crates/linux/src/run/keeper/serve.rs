//! The keeper's own process: its loop while the program lives, and after.

use std::io::Write;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::Ordering;

use super::super::notify;
use super::super::ptrace::{self, Held, last_errno};
use super::super::space::{Errno, Reply};
use super::{KeeperConfig, Op, Packet, ReportTo, Request, Response, Shared};

const NOTIF_RECV: u64 = 0xc050_2100;
/// `PIDFD_GET_INFO` and its `PIDFD_INFO_EXIT` (Linux 6.15).
const PIDFD_GET_INFO: u64 = 0xc040_ff0b;
const PIDFD_INFO_EXIT: u64 = 1 << 3;
/// Ids are consecutive in a listener. A call that the VM received and never answered
/// is at most this many before, or after, the last one it told us of: more supervisors
/// and queued calls than this do not exist.
const SWEEP_BACK: u64 = 4096;
const SWEEP_AHEAD: u64 = 64;
/// A call can be killed between poll and RECV, which then sleeps: look again.
const RECV_PATIENCE_US: i64 = 200_000;

/// Becomes the keeper of process `main`.
pub(super) fn run(main: i32, socket: OwnedFd, shared: &'static Shared, config: &KeeperConfig) -> ! {
    let stderr = leave_the_program(&config.report_to, &socket);
    let pidfd = pidfd_open(main);
    let mut listener = None;
    // A parent that died before pidfd_open has no pidfd, or its successor's.
    // SAFETY: no argument.
    if unsafe { libc::getppid() } == main
        && let Some(pidfd) = &pidfd
    {
        while_it_lives(pidfd, &socket, &mut listener);
    }
    drop(socket);
    if !shared.exiting.load(Ordering::Acquire)
        && let Some(signal) = pidfd.as_ref().and_then(|fd| death_signal(main, fd))
    {
        print_report(&config.report_to, stderr.as_ref(), shared, signal);
    }
    drop(stderr);
    if let Some(path) = &config.trace {
        // Nobody is left to tell of an error.
        let _ = shared.tail.rescue(path);
    }
    if let Some(listener) = &listener {
        let last = shared.any_id.load(Ordering::Relaxed).then(|| shared.last_id.load(Ordering::Relaxed));
        serve_children(listener, last);
    }
    // SAFETY: ends this process; nothing of ours needs a destructor.
    unsafe { libc::_exit(0) }
}

/// A session of our own, no signals, no descriptors but ours, no working directory.
/// The descriptor of standard error is kept only while a report may have to go there:
/// its reader waits for us otherwise.
fn leave_the_program(report_to: &ReportTo, socket: &OwnedFd) -> Option<OwnedFd> {
    // SAFETY: calls on our own process with numbers, a full signal set and constant
    // strings.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
        libc::setsid();
        libc::chdir(c"/".as_ptr());
        libc::prctl(libc::PR_SET_NAME, c"machvm-keeper".as_ptr(), 0, 0, 0);
        let stderr = match report_to {
            ReportTo::Stderr => libc::fcntl(2, libc::F_DUPFD_CLOEXEC, 3),
            ReportTo::Nobody | ReportTo::File(_) => -1,
        };
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
        for fd in 0..3 {
            if null < 0 || libc::dup2(null, fd) < 0 {
                libc::close(fd);
            }
        }
        close_all_but(&mut [socket.as_raw_fd(), stderr]);
        (stderr >= 0).then(|| OwnedFd::from_raw_fd(stderr))
    }
}

fn close_all_but(keep: &mut [RawFd; 2]) {
    keep.sort_unstable();
    let mut from = 3;
    for fd in keep.iter().copied().filter(|fd| *fd >= 3) {
        if fd > from {
            close_range(from as u32, fd as u32 - 1);
        }
        from = fd + 1;
    }
    close_range(from as u32, u32::MAX);
}

fn close_range(first: u32, last: u32) {
    // SAFETY: none of these descriptors is owned by a value that lives on.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
}

fn pidfd_open(pid: i32) -> Option<OwnedFd> {
    // SAFETY: numbers; the descriptor is new and ours.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        (fd >= 0).then(|| OwnedFd::from_raw_fd(fd as RawFd))
    }
}

/// Serves requests until the program's process is dead.
fn while_it_lives(pidfd: &OwnedFd, socket: &OwnedFd, listener: &mut Option<OwnedFd>) {
    let mut held = Held::default();
    let mut packet = Packet::boxed();
    let Some(deaths) = child_signals() else { return };
    let mut socket_fd = socket.as_raw_fd();
    loop {
        let mut polls = [
            libc::pollfd { fd: pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 },
            libc::pollfd { fd: socket_fd, events: libc::POLLIN, revents: 0 },
            libc::pollfd { fd: deaths.as_raw_fd(), events: libc::POLLIN, revents: 0 },
        ];
        // SAFETY: three pollfds.
        unsafe { libc::poll(polls.as_mut_ptr(), 3, -1) };
        if polls[0].revents != 0 {
            return;
        }
        if polls[2].revents != 0 {
            drain(&deaths);
            held.reap();
        }
        if polls[1].revents == 0 {
            continue;
        }
        match receive(socket) {
            Ok((request, fd)) => {
                let len = answer(&request, fd, &mut held, listener, &mut packet);
                // SAFETY: the packet is at least `len` bytes.
                unsafe {
                    let at = (&raw const *packet).cast();
                    libc::send(socket.as_raw_fd(), at, len, libc::MSG_NOSIGNAL);
                }
            }
            // The VM closed its end: nothing more to ask, but we still wait. A
            // negative descriptor is skipped by poll.
            Err(()) => socket_fd = -1,
        }
    }
}

/// Readable when a thread we hold has died (or stopped): as long as its tracer has
/// not waited for it, the program's process does not end.
fn child_signals() -> Option<OwnedFd> {
    // SAFETY: the set lives through the call; the descriptor is new and ours.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        (fd >= 0).then(|| OwnedFd::from_raw_fd(fd))
    }
}

fn drain(signals: &OwnedFd) {
    let mut one = [0u8; 128];
    // SAFETY: the buffer's size is given; the descriptor does not block.
    while unsafe { libc::read(signals.as_raw_fd(), one.as_mut_ptr().cast(), one.len()) } > 0 {}
}

fn receive(socket: &OwnedFd) -> Result<(Request, Option<OwnedFd>), ()> {
    let mut request = Request::default();
    let mut iov = libc::iovec { iov_base: (&raw mut request).cast(), iov_len: size_of::<Request>() };
    let mut control = [0u64; 4];
    // SAFETY: zeros are a valid msghdr; it describes request and control.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: as above.
    let n = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    if n != size_of::<Request>() as isize {
        return Err(());
    }
    // SAFETY: the kernel filled the control buffer; a SCM_RIGHTS message holds at least
    // one descriptor, which is now ours.
    let fd = unsafe {
        let head = libc::CMSG_FIRSTHDR(&raw const message);
        (!head.is_null() && (*head).cmsg_type == libc::SCM_RIGHTS)
            .then(|| OwnedFd::from_raw_fd(libc::CMSG_DATA(head).cast::<i32>().read_unaligned()))
    };
    Ok((request, fd))
}

/// Does one request; how many bytes of the packet answer it.
fn answer(
    request: &Request,
    fd: Option<OwnedFd>,
    held: &mut Held,
    listener: &mut Option<OwnedFd>,
    packet: &mut Packet,
) -> usize {
    packet.head = Response::default();
    if let Err(Errno(errno)) = perform(request, fd, held, listener, packet) {
        packet.head.error = i64::from(errno);
    }
    size_of::<Response>() + packet.head.xstate_len as usize
}

fn perform(
    request: &Request,
    fd: Option<OwnedFd>,
    held: &mut Held,
    listener: &mut Option<OwnedFd>,
    packet: &mut Packet,
) -> Result<(), Errno> {
    let Request { tid, args, regs, .. } = *request;
    let op = Op::ALL.into_iter().find(|op| *op as u32 == request.op).ok_or(Errno(libc::EINVAL))?;
    match op {
        Op::Adopt => *listener = Some(fd.ok_or(Errno(libc::EBADF))?),
        Op::Seize => held.seize(tid)?,
        Op::Wait => packet.head.value = held.wait(tid, args[0] != 0) as i64,
        Op::State => {
            packet.head.regs = ptrace::regs(tid)?;
            packet.head.mask = ptrace::sigmask(tid)?;
            packet.head.rseq = ptrace::rseq(tid);
            packet.head.xstate_len = ptrace::xstate(tid, &mut packet.xstate)? as u64;
        }
        Op::SetRegs => ptrace::set_regs(tid, &regs)?,
        Op::SetMask => ptrace::set_sigmask(tid, args[0])?,
        Op::Fresh => ptrace::fresh(tid, args[0], args[1])?,
        Op::Call => {
            let [nr, a, b, c, d, e, f] = args;
            packet.head.value = held.call(tid, nr as i64, [a, b, c, d, e, f])?;
        }
        Op::End => held.end(tid)?,
        Op::Detach => held.detach(tid),
        // SAFETY: ends this process; nothing of ours needs a destructor.
        Op::Leave => unsafe { libc::_exit(0) },
    }
    Ok(())
}

/// The signal that killed `main`, `None` when it exited. Its zombie tells, and when
/// its parent was quick to reap it, the pidfd does.
fn death_signal(main: i32, pidfd: &OwnedFd) -> Option<i32> {
    let status = zombie_status(main).or_else(|| reaped_status(pidfd))?;
    libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status))
}

fn zombie_status(main: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{main}/stat")).ok()?;
    // Behind the name, which may hold anything: state is field 3, exit_code field 52.
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    (fields.next()? == "Z").then(|| fields.nth(48)?.parse().ok())?
}

fn reaped_status(pidfd: &OwnedFd) -> Option<i32> {
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        mask: u64,
        cgroup: u64,
        ids: [u32; 11],
        exit_code: i32,
    }
    let mut info = Info { mask: PIDFD_INFO_EXIT, ..Info::default() };
    // SAFETY: the size of Info is in the request's number.
    let done = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO, &raw mut info) } == 0;
    (done && info.mask & PIDFD_INFO_EXIT != 0).then_some(info.exit_code)
}

fn print_report(to: &ReportTo, stderr: Option<&OwnedFd>, shared: &Shared, signal: i32) {
    let report = shared.report.load(Ordering::Acquire);
    let words = &shared.texts[(report & 1) as usize];
    let mut text: Vec<u8> = words
        .iter()
        .flat_map(|w| w.load(Ordering::Relaxed).to_ne_bytes())
        .take((report >> 1) as usize)
        .collect();
    if !text.is_empty() && text.last() != Some(&b'\n') {
        text.push(b'\n');
    }
    text.extend_from_slice(format!("machvm: the program was ended by signal {signal}\n").as_bytes());
    // Nobody is left to tell of an error.
    let _ = match to {
        ReportTo::Nobody => Ok(()),
        ReportTo::File(path) => std::fs::write(path, &text),
        ReportTo::Stderr => match stderr.map(OwnedFd::try_clone) {
            Some(Ok(fd)) => std::fs::File::from(fd).write_all(&text),
            _ => Ok(()),
        },
    };
}

extern "C" fn woken(_signal: i32) {}

/// Answers CONTINUE to all that still have the filter, until nobody has.
fn serve_children(listener: &OwnedFd, last: Option<u64>) {
    let listener = std::os::fd::AsFd::as_fd(listener);
    if let Some(last) = last {
        // Most of these ids are answered or were never given out: ENOENT.
        for back in 0..SWEEP_BACK + SWEEP_AHEAD {
            let id = last.wrapping_add(SWEEP_AHEAD).wrapping_sub(back);
            let _ = notify::send(listener, id, Reply::Continue);
        }
    }
    // SAFETY: a handler that does nothing, without SA_RESTART; then its signal only.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = woken as *const () as usize;
        libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut());
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigaddset(&raw mut set, libc::SIGALRM);
        libc::sigprocmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
    }
    loop {
        let mut poll = libc::pollfd { fd: listener.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd.
        if unsafe { libc::poll(&raw mut poll, 1, -1) } < 0 {
            continue;
        }
        if poll.revents & libc::POLLIN == 0 {
            return;
        }
        if let Some(id) = receive_soon(listener) {
            let _ = notify::send(listener, id, Reply::Continue);
        }
    }
}

/// The next call that waits, `None` when it was killed meanwhile.
fn receive_soon(listener: BorrowedFd<'_>) -> Option<u64> {
    set_timer(RECV_PATIENCE_US);
    let mut notif = [0u64; 10];
    // SAFETY: the request's number names 80 bytes.
    let got = unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_RECV, notif.as_mut_ptr()) };
    let fatal = got < 0 && !matches!(last_errno(), Errno(libc::EINTR | libc::ENOENT));
    set_timer(0);
    if fatal {
        // SAFETY: ends this process; without a listener there is nothing to keep.
        unsafe { libc::_exit(1) }
    }
    (got == 0).then_some(notif[0])
}

fn set_timer(us: i64) {
    let once = libc::timeval { tv_sec: 0, tv_usec: us };
    // SAFETY: the value lives through the call.
    unsafe {
        let timer = libc::itimerval { it_interval: std::mem::zeroed(), it_value: once };
        libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut());
    }
}
