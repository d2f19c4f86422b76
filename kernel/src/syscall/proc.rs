//! System calls that make, end and await processes and threads.

use core::sync::atomic::Ordering;

use alloc::vec;

use super::time;
use crate::arch::{self, Frame};
use crate::errno::{E2BIG, EINVAL, EPERM, Result};
use crate::process::clone::{CLONE_VFORK, CLONE_VM, Request, clone as make};
use crate::process::signal::SIGCHLD;
use crate::process::wait::{News, Wanted, Which};
use crate::process::{self, exec};
use crate::{sched, user};

const WNOHANG: u64 = 1;
const WUNTRACED: u64 = 2;
const WEXITED: u64 = 4;
const WCONTINUED: u64 = 8;
const WNOWAIT: u64 = 0x0100_0000;
const WNOTHREAD: u64 = 0x2000_0000;
const WALL: u64 = 0x4000_0000;
const WCLONE: u64 = 0x8000_0000;

pub(super) fn getpid() -> Result {
    Ok(sched::process().pid.into())
}
pub(super) fn getppid() -> Result {
    Ok(sched::process().parent().into())
}
pub(super) fn gettid() -> Result {
    Ok(sched::current().id().into())
}

pub(super) fn fork(f: &Frame) -> Result {
    make(f, &Request { exit_signal: SIGCHLD, ..Request::default() })
}
pub(super) fn vfork(f: &Frame) -> Result {
    make(f, &Request { flags: CLONE_VM | CLONE_VFORK, exit_signal: SIGCHLD, ..Request::default() })
}
pub(super) fn clone(f: &Frame, a: [u64; 6]) -> Result {
    let [flags, stack, parent_tid, child_tid, tls, _] = a;
    let (flags, exit_signal) = (flags & 0xffff_ff00, (flags & 0xff) as u32);
    make(f, &Request { flags, stack, parent_tid, child_tid, tls, exit_signal })
}

pub(super) fn clone3(f: &Frame, at: u64, size: u64) -> Result {
    // flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup
    let mut w = [0; 11];
    if size < 64 {
        return Err(EINVAL);
    }
    if size > 4096 {
        return Err(E2BIG);
    }
    for (i, w) in w.iter_mut().enumerate().take(size as usize / 8) {
        *w = user::read_u64(at + 8 * i as u64)?;
    }
    for i in 11..size / 8 {
        if user::read_u64(at + 8 * i)? != 0 {
            return Err(E2BIG);
        }
    }
    let [flags, _, child_tid, parent_tid, signal, stack, stack_size, tls, _, set_tid_size, _] = w;
    if flags & 0xff != 0 || signal > 64 || set_tid_size != 0 || (stack == 0) != (stack_size == 0) {
        return Err(EINVAL);
    }
    let top = stack.checked_add(stack_size).filter(|t| *t <= arch::USER_END).ok_or(EINVAL)?;
    make(f, &Request { flags, stack: top, parent_tid, child_tid, tls, exit_signal: signal as u32 })
}

pub(super) fn execve(f: &mut Frame, a: [u64; 6]) -> Result<()> {
    let path = user::path(a[0])?;
    let (mut argv, envp) = (user::strings(a[1])?, user::strings(a[2])?);
    if argv.is_empty() {
        argv = vec![vec![]];
    }
    exec::exec(f, &path, argv, &envp)
}

fn wanted(which: Which, options: u64) -> Wanted {
    Wanted {
        which,
        exited: options & WEXITED != 0,
        stopped: options & WUNTRACED != 0,
        continued: options & WCONTINUED != 0,
        no_hang: options & WNOHANG != 0,
        keep: options & WNOWAIT != 0,
        clones: options & WCLONE != 0,
        everybody: options & WALL != 0,
    }
}

pub(super) fn wait4(pid: i32, status: u64, options: u64, usage: u64) -> Result {
    let options = options & 0xffff_ffff;
    if options & !(WNOHANG | WUNTRACED | WCONTINUED | WNOTHREAD | WALL | WCLONE) != 0 {
        return Err(EINVAL);
    }
    let which = match pid {
        -1 => Which::Any,
        0 => Which::Group(sched::process().group()),
        i32::MIN => return Err(crate::errno::ESRCH),
        -2_147_483_647..-1 => Which::Group(pid.unsigned_abs()),
        _ => Which::Pid(pid as u32),
    };
    let Some(news) = process::wait::wait(&wanted(which, options | WEXITED))? else { return Ok(0) };
    if status != 0 {
        user::write(status, &news.status.to_le_bytes())?;
    }
    if usage != 0 {
        time::write_rusage(usage, news.times, 0)?;
    }
    Ok(news.pid.into())
}

pub(super) fn waitid(kind: u64, id: u64, info: u64, options: u64, usage: u64) -> Result {
    let options = options & 0xffff_ffff;
    let known = WNOHANG | WUNTRACED | WEXITED | WCONTINUED | WNOWAIT | WNOTHREAD | WALL | WCLONE;
    if options & !known != 0 || options & (WEXITED | WUNTRACED | WCONTINUED) == 0 {
        return Err(EINVAL);
    }
    let which = match (kind, id as i32) {
        (0, _) => Which::Any,
        (1, n) if n > 0 => Which::Pid(n as u32),
        (2, n) if n > 0 => Which::Group(n as u32),
        (2, 0) => Which::Group(sched::process().group()),
        _ => return Err(EINVAL),
    };
    let news = process::wait::wait(&wanted(which, options))?;
    if let Some(n) = news
        && usage != 0
    {
        time::write_rusage(usage, n.times, 0)?;
    }
    if info != 0 {
        // Linux writes these fields and no others.
        let [signo, code, pid, uid, status] = news.map_or([0; 5], |n| describe(&n));
        let first: [i32; 3] = [signo, 0, code];
        for (at, v) in [(0, first[0]), (4, first[1]), (8, first[2]), (16, pid), (20, uid), (24, status)] {
            user::write(info + at, &v.to_le_bytes())?;
        }
    }
    Ok(0)
}

/// Signal, code, number, user and status, as siginfo_t has them.
fn describe(n: &News) -> [i32; 5] {
    let (code, status) = match n.status {
        0xffff => (6, 18),
        s if s & 0xff == 0x7f => (5, s >> 8 & 0xff),
        s if s & 0x7f == 0 => (1, s >> 8 & 0xff),
        s => (2, s & 0x7f),
    };
    [SIGCHLD as i32, code, n.pid as i32, n.uid as i32, status]
}

pub(super) fn arch_prctl(code: u64, value: u64) -> Result {
    const SET_FS: u64 = 0x1002;
    const GET_FS: u64 = 0x1003;
    let t = sched::current();
    match code {
        SET_FS if value >= arch::USER_END => Err(EPERM),
        SET_FS => {
            t.fs.store(value, Ordering::Relaxed);
            arch::set_fs(value);
            Ok(0)
        }
        GET_FS => user::write(value, &t.fs.load(Ordering::Relaxed).to_le_bytes()).map(|()| 0),
        _ => Err(EINVAL),
    }
}

pub(super) fn set_tid_address(at: u64) -> Result {
    sched::current().clear_tid.store(at, Ordering::Relaxed);
    gettid()
}

const ROBUST_HEAD: u64 = 24;

pub(super) fn set_robust_list(at: u64, size: u64) -> Result {
    if size != ROBUST_HEAD {
        return Err(EINVAL);
    }
    let [address, bytes] = &sched::current().robust;
    address.store(at, Ordering::Relaxed);
    bytes.store(size, Ordering::Relaxed);
    Ok(0)
}

pub(super) fn get_robust_list(pid: i32, head: u64, size: u64) -> Result {
    let t = if pid == 0 { None } else { Some(process::find_thread(pid as u32)?) };
    let t = t.as_deref().unwrap_or(sched::current());
    user::write_u64s(size, &[ROBUST_HEAD])?;
    user::write_u64s(head, &[t.robust[0].load(Ordering::Relaxed)])?;
    Ok(0)
}
