//! System calls on processes and time.

use core::sync::atomic::Ordering;

use alloc::vec;

use machvm_hal::{Event, Woken};

use crate::arch::{self, Frame};
use crate::errno::{EINTR, EINVAL, ENOSYS, EPERM, Result};
use crate::process::{self, Which};
use crate::{fs, sched, user};

const WNOHANG: u64 = 1;
const CLONE_VM: u64 = 0x100;
const CLONE_VFORK: u64 = 0x4000;
const CLONE_CHILD_SETTID: u64 = 0x0100_0000;
const CLONE_CHILD_CLEARTID: u64 = 0x0020_0000;

pub(super) fn getpid() -> Result {
    Ok(sched::process().pid.into())
}
pub(super) fn getppid() -> Result {
    Ok(sched::process().parent().into())
}
pub(super) fn gettid() -> Result {
    Ok(sched::current().id.into())
}
pub(super) fn sched_yield() -> Result {
    sched::yield_now();
    Ok(0)
}

pub(super) fn fork(f: &Frame) -> Result {
    process::fork(f, 0).map(|p| p.pid.into())
}

pub(super) fn clone(f: &Frame, a: [u64; 6]) -> Result {
    let [flags, stack, _parent_tid, child_tid, ..] = a;
    if flags & CLONE_VM != 0 && flags & CLONE_VFORK == 0 {
        return Err(ENOSYS);
    }
    let child = process::fork(f, stack)?;
    if flags & (CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID) != 0
        && let Some(t) = child.threads.lock().first()
    {
        if flags & CLONE_CHILD_CLEARTID != 0 {
            t.clear_tid.store(child_tid, Ordering::Relaxed);
        }
        if flags & CLONE_CHILD_SETTID != 0 {
            // The child's memory, not ours.
            let va = child_tid;
            let _ = child.space().map().write_in_page(
                va,
                &child.pid.to_le_bytes(),
                &mut machvm_hal::MaySleep::claim(),
            );
        }
    }
    Ok(child.pid.into())
}

pub(super) fn execve(f: &mut Frame, a: [u64; 6]) -> Result<()> {
    let path = user::path(a[0])?;
    let (mut argv, envp) = (user::strings(a[1])?, user::strings(a[2])?);
    if argv.is_empty() {
        argv = vec![vec![]];
    }
    process::exec(f, &path, &argv, &envp)
}

pub(super) fn wait4(pid: i32, status: u64, options: u64) -> Result {
    let which = if pid > 0 { Which::Pid(pid as u32) } else { Which::Any };
    match process::wait(which, options & WNOHANG == 0)? {
        None => Ok(0),
        Some((pid, code)) => {
            if status != 0 {
                user::write(status, &code.to_le_bytes())?;
            }
            Ok(pid.into())
        }
    }
}

pub(super) fn uname(at: u64) -> Result {
    let mut all = [0; 65 * 6];
    let words =
        ["Linux", "machvm", "6.1.0-machvm", concat!("#1 machvm ", env!("CARGO_PKG_VERSION")), "x86_64", ""];
    for (field, word) in all.chunks_exact_mut(65).zip(words) {
        field[..word.len()].copy_from_slice(word.as_bytes());
    }
    user::write(at, &all)?;
    Ok(0)
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

pub(super) fn clock_gettime(at: u64) -> Result {
    let now = arch::now_ns();
    user::write_u64s(at, &[now / 1_000_000_000, now % 1_000_000_000])?;
    Ok(0)
}

pub(super) fn nanosleep(at: u64) -> Result {
    let (s, ns) = (user::read_u64(at)?, user::read_u64(at + 8)?);
    if ns >= 1_000_000_000 {
        return Err(EINVAL);
    }
    let until = arch::now_ns().saturating_add(s.saturating_mul(1_000_000_000)).saturating_add(ns);
    while arch::now_ns() < until {
        let own = core::ptr::from_ref(sched::current()) as u64;
        let ticket = sched::assert_wait(Event(own | 4));
        if sched::block_interruptible(ticket, Some(until)) == Woken::Interrupted {
            return Err(EINTR);
        }
    }
    Ok(0)
}

pub(super) fn getrandom(at: u64, len: u64) -> Result {
    let mut buf = [0; 256];
    let mut done = 0;
    while done < len {
        let n = buf.len().min((len - done) as usize);
        fs::random(&mut buf[..n]);
        user::write(at + done, &buf[..n])?;
        done += n as u64;
    }
    Ok(done as i64)
}
