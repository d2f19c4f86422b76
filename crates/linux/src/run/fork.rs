//! `fork`, and `clone` without shared memory, made by the program.
//!
//! The program's memory is shared mappings of the VM's file, so Linux's own fork of
//! the calling thread would share it. Instead:
//!
//! ```text
//!   caller       keeper          worker (this file)        forker            child
//!   notified --------------------> seize ->
//!                SEIZE+INTERRUPT
//!                                  answer the call
//!   stops  ----> registers ------> freeze the space
//!                                  ------------------------> clone -------> fresh private
//!                                                                           memory at every
//!                                  pages, through a buffer ---------------> address
//!                                  thaw  <-------------------------------- copied
//!   goes on <--- detach <--------- value = pid                              rt_sigreturn into
//!                                                                           the program
//! ```
//!
//! The forker is a thread of this process that shares the program's descriptors,
//! working directory and dispositions and has no filter, so the child runs natively.
//! What a thread has of its own (registers, masks, name, scheduling, credentials) is
//! the caller's in the child.
//!
//! The copy is made at once, not on write. Other threads of the program run
//! meanwhile; as after any fork of a threaded program, the child may count on what
//! its own thread saw. The VM's private memory stays in the child, unused.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Ctx;
use super::files::{copy_out, tell_user};
use super::keeper::{ThreadState, Tracer};
use super::layout::ChildHeap;
use super::space::{Call, Errno, Piece, PieceKind, Reply};
use super::threads::{Kin, kin};

mod buffer;
mod child;
mod frame;
mod likeness;

use buffer::Buffer;
use frame::Frame;
use likeness::Likeness;

/// `clone`'s low byte: the signal the parent gets.
const CSIGNAL: u64 = 0xff;
/// Flags that the forker may pass on: the kernel does the same for it as for the
/// caller. Those that write memory (`*_SETTID`, `CHILD_CLEARTID`) or set registers
/// (`SETTLS`) are ours to do.
const PASSED: u64 = CSIGNAL
    | (libc::CLONE_FS
        | libc::CLONE_FILES
        | libc::CLONE_SIGHAND
        | libc::CLONE_PTRACE
        | libc::CLONE_PARENT
        | libc::CLONE_NEWNS
        | libc::CLONE_SYSVSEM
        | libc::CLONE_PIDFD
        | libc::CLONE_UNTRACED
        | libc::CLONE_NEWCGROUP
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET) as u32 as u64
    | libc::CLONE_IO as u32 as u64;

/// What `clone` was asked for.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    flags: u64,
    stack: u64,
    parent_tid: u64,
    child_tid: u64,
    tls: u64,
}

impl Wanted {
    fn of(call: &Call) -> Self {
        if call.nr == libc::SYS_fork {
            return Self { flags: libc::SIGCHLD as u64, stack: 0, parent_tid: 0, child_tid: 0, tls: 0 };
        }
        let [flags, stack, parent_tid, child_tid, tls, _] = call.args;
        Self { flags: flags & 0xffff_ffff, stack, parent_tid, child_tid, tls }
    }

    fn has(&self, flag: i32) -> bool {
        self.flags & u64::from(flag as u32) != 0
    }
}

/// Answers `fork`, or a `clone` without `CLONE_VM`, of the program.
///
/// => on the process worker, which holds no lock of the VM; it may sleep. Answers the
/// call before it returns.
///
/// # Errors
/// The caller gets clone's own errno, and EAGAIN, with a line on the program's
/// standard error, when it cannot be stopped (a debugger has it) or its child could
/// not be made like it.
pub fn on_fork(ctx: &Ctx, call: &Call) -> Reply {
    match kin(call.tid) {
        Kin::Ours => {}
        Kin::SharesMemory => return refuse("of a process that borrows our memory (vfork)"),
        Kin::Stranger => return Reply::Continue,
    }
    let tracer = ctx.keeper.tracer();
    match tracer.seize(call.tid) {
        Ok(()) => {}
        Err(Errno(libc::ESRCH)) => return Reply::Error(Errno(libc::ESRCH)),
        Err(Errno(libc::EPERM)) => return refuse("while a debugger traces the program"),
        Err(Errno(libc::EPIPE)) => return refuse("without its keeper process, which was killed"),
        Err(e) => return refuse(&format!("because its thread cannot be stopped (errno {})", e.0)),
    }
    // It stops on its way out of the call; the value is replaced before it goes on.
    ctx.answer(call, Reply::Value(0));
    match tracer.wait_stop(call.tid) {
        Ok(true) => {}
        Ok(false) | Err(_) => return Reply::Value(0),
    }
    let value = match fork_stopped(ctx, call, &tracer) {
        Ok(pid) => i64::from(pid),
        Err(Errno(errno)) => -i64::from(errno),
    };
    if let Ok(state) = tracer.state(call.tid) {
        let mut regs = state.regs;
        regs.rax = value as u64;
        // Cannot fail: it is stopped, and only rax changes.
        let _ = tracer.set_regs(call.tid, &regs);
    }
    tracer.detach(call.tid);
    Reply::Value(value)
}

fn refuse(why: &str) -> Reply {
    tell_user(&format!("the program cannot fork {why}"));
    Reply::Error(Errno(libc::EAGAIN))
}

/// Forks with the caller stopped; the child's pid.
fn fork_stopped(ctx: &Ctx, call: &Call, tracer: &Tracer<'_>) -> Result<i32, Errno> {
    let wanted = Wanted::of(call);
    let state = tracer.state(call.tid)?;
    let altstack = altstack(tracer, call.tid)?;
    let likeness = Likeness::between(call.tid, ctx.forker_tid()).map_err(|why| {
        tell_user(&format!("the program cannot fork: {why}"));
        Errno(libc::EAGAIN)
    })?;
    let heap = ChildHeap::new(ctx.space.heap()).ok_or_else(|| {
        tell_user("the program cannot fork: /proc does not tell its layout");
        Errno(libc::EAGAIN)
    })?;
    let frame = Frame::new(&child_state(&wanted, state), altstack);
    let buffer = Buffer::new()?;

    ctx.space.freeze();
    let mut pieces = Vec::new();
    ctx.space.pieces(&mut |piece| pieces.push(*piece));
    let plan = child::Plan {
        pieces: &pieces,
        buffer: &buffer,
        likeness: &likeness,
        heap: &heap,
        frame: &frame,
        set_tid: wanted.has(libc::CLONE_CHILD_SETTID).then_some(wanted.child_tid),
        clear_tid: wanted.has(libc::CLONE_CHILD_CLEARTID).then_some(wanted.child_tid),
    };
    let (pid, pidfd) = ctx.on_program_files(|| clone(&wanted, &plan));
    let copied = match pid {
        pid if pid < 0 => Err(Errno(-pid)),
        pid => send_pages(ctx, &pieces, &buffer, pid),
    };
    ctx.space.thaw();
    if let Err(Errno(errno)) = copied {
        if pid > 0 {
            bury(pid);
            tell_user(&format!("the program's fork failed: no copy of its memory (errno {errno})"));
            return Err(Errno(if errno == libc::ENOMEM { errno } else { libc::EAGAIN }));
        }
        return Err(Errno(errno));
    }
    // As in the kernel, a bad address here does not undo the fork.
    if wanted.has(libc::CLONE_PARENT_SETTID) {
        let _ = copy_out(wanted.parent_tid, &pid.to_ne_bytes());
    } else if wanted.has(libc::CLONE_PIDFD) {
        let _ = copy_out(wanted.parent_tid, &pidfd.to_ne_bytes());
    }
    Ok(pid)
}

/// What `clone` makes of the caller's state.
fn child_state(wanted: &Wanted, mut state: ThreadState) -> ThreadState {
    state.regs.rax = 0;
    if wanted.stack != 0 {
        state.regs.rsp = wanted.stack;
    }
    if wanted.has(libc::CLONE_SETTLS) {
        state.regs.fs_base = wanted.tls;
    }
    state
}

/// The caller's alternate stack (`stack_t`): only the thread itself can ask.
fn altstack(tracer: &Tracer<'_>, tid: i32) -> Result<[u64; 3], Errno> {
    let place = Box::new([const { AtomicU64::new(0) }; 3]);
    let at = place.as_ptr() as u64;
    match tracer.call(tid, libc::SYS_sigaltstack, [0, at, 0, 0, 0, 0]) {
        Ok(0) => Ok(std::array::from_fn(|i| place[i].load(Ordering::Relaxed))),
        Ok(error) => Err(Errno(-error as i32)),
        Err(error) => {
            // Without the keeper nobody knows whether the thread is still to store here.
            Box::leak(place);
            Err(error)
        }
    }
}

/// On the forker: makes the child, which never comes back from here. Its pid or
/// `-errno`, and its pidfd if one was asked for.
fn clone(wanted: &Wanted, plan: &child::Plan<'_>) -> (i32, i32) {
    let mut pidfd = -1i32;
    // SAFETY: without CLONE_VM the child has its own memory, and it runs nothing but
    // child::run, which needs no lock and no heap. The one word the kernel writes here
    // is pidfd.
    let pid = unsafe { libc::syscall(libc::SYS_clone, wanted.flags & PASSED, 0, &raw mut pidfd, 0, 0) };
    match pid {
        0 => child::run(plan),
        pid if pid < 0 => (-super::ptrace::last_errno().0, -1),
        pid => (pid as i32, pidfd),
    }
}

/// Sends every page that is not zero to the child.
fn send_pages(ctx: &Ctx, pieces: &[Piece], buffer: &Buffer, pid: i32) -> Result<(), Errno> {
    let mut to = buffer.sender(pid);
    for piece in pieces {
        let PieceKind::Ours { dont_fork: false, wipe_on_fork: false, .. } = piece.kind else { continue };
        let mut addr = ctx.space.next_data(piece.start, piece.end);
        while addr < piece.end {
            to.page(addr, |page| ctx.space.read_page(addr, page))?;
            addr = ctx.space.next_data(addr + 4096, piece.end);
        }
    }
    to.finish()
}

/// Takes away a child that never became one of the program's.
fn bury(pid: i32) {
    // SAFETY: numbers; nothing is written.
    unsafe {
        libc::kill(pid, libc::SIGKILL);
        let mut info: libc::siginfo_t = std::mem::zeroed();
        libc::waitid(libc::P_PID, pid as u32, &raw mut info, libc::WEXITED | libc::__WALL);
    }
}
