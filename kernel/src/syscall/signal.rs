//! System calls on signals.

use core::sync::atomic::Ordering;

use machvm_hal::Event;

use super::time;
use crate::arch::{self, Frame};
use crate::errno::{EAGAIN, EFAULT, EINTR, EINVAL, ENOMEM, EPERM, ERESTARTNOHAND, ESRCH, Result};
use crate::process::signal::{self, Action, Info, SI_TKILL, SI_USER, SIGNALS, UNBLOCKABLE};
use crate::process::{self, Process};
use crate::{sched, user};

/// Sets of signals have this many bytes.
const SET: u64 = 8;
/// Words of `struct sigaction`: handler, flags, what handlers return to (not everywhere), mask.
const ACTION: usize = if arch::HAS_RESTORER { 4 } else { 3 };
/// The smallest alternate stack.
const MINSIGSTKSZ: u64 = arch::MINSIGSTKSZ;
const SS_ONSTACK: u64 = 1;
const SS_AUTODISARM: u64 = 1 << 31;

fn number(signal: u64) -> Result<u32> {
    let n = signal as i32;
    if (0..=SIGNALS as i32).contains(&n) { Ok(n as u32) } else { Err(EINVAL) }
}

pub(super) fn sigaction(signal: u64, new: u64, old: u64, size: u64) -> Result {
    if size != SET {
        return Err(EINVAL);
    }
    let n = number(signal)?;
    let mut words = [0; 4];
    if new != 0 {
        for (i, w) in words[..ACTION].iter_mut().enumerate() {
            *w = user::read_u64(new + 8 * i as u64)?;
        }
    }
    if n == 0 || new != 0 && UNBLOCKABLE & signal::bit(n) != 0 {
        return Err(EINVAL);
    }
    let me = sched::process();
    let was = if new == 0 {
        me.signals.action(n)
    } else {
        let (handler, flags, mask) = (words[0], words[1], words[ACTION - 1]);
        let restorer = if arch::HAS_RESTORER { words[2] } else { 0 };
        let flags = flags & signal::SA_KNOWN;
        me.signals.set_action(me, n, Action { handler, flags, restorer, mask: mask & !UNBLOCKABLE })
    };
    if old != 0 {
        let mut words = [was.handler, was.flags, was.restorer, 0];
        words[ACTION - 1] = was.mask;
        user::write_u64s(old, &words[..ACTION])?;
    }
    Ok(0)
}

pub(super) fn sigprocmask(how: u64, new: u64, old: u64, size: u64) -> Result {
    if size != SET {
        return Err(EINVAL);
    }
    let s = &sched::current().signals;
    let was = s.mask.load(Ordering::Relaxed);
    if new != 0 {
        let set = user::read_u64(new)?;
        s.set_mask(match how as i32 {
            0 => was | set,
            1 => was & !set,
            2 => set,
            _ => return Err(EINVAL),
        });
    }
    if old != 0 {
        user::write_u64s(old, &[was])?;
    }
    Ok(0)
}

pub(super) fn sigpending(at: u64, size: u64) -> Result {
    if size > SET {
        return Err(EINVAL);
    }
    user::write(at, &signal::pending().to_le_bytes()[..size as usize])?;
    Ok(0)
}

/// Sleeps until a signal comes.
fn sleep_for_signal(until: Option<u64>) {
    let own = core::ptr::from_ref(sched::current()) as u64;
    let _ = sched::wait_for(Event(own | 1), until, || None::<()>);
}

pub(super) fn pause() -> Result {
    sleep_for_signal(None);
    Err(ERESTARTNOHAND)
}

pub(super) fn sigsuspend(set: u64, size: u64) -> Result {
    if size != SET {
        return Err(EINVAL);
    }
    signal::mask_for_call(user::read_u64(set)?);
    pause()
}

pub(super) fn sigtimedwait(set: u64, info: u64, timeout: u64, size: u64) -> Result {
    if size != SET {
        return Err(EINVAL);
    }
    let set = user::read_u64(set)? & !UNBLOCKABLE;
    let until = match timeout {
        0 => None,
        t => Some(arch::now_ns().saturating_add(time::read_timespec(t)?)),
    };
    let mut got = signal::take(set);
    if got.is_none() && until.is_none_or(|u| u > arch::now_ns()) {
        // Unblocked meanwhile, they end the sleep.
        let s = &sched::current().signals;
        let mask = s.mask.load(Ordering::Relaxed);
        s.awaited.store(set, Ordering::Relaxed);
        s.set_mask(mask & !set);
        sleep_for_signal(until);
        s.set_mask(mask);
        s.awaited.store(0, Ordering::Relaxed);
        got = signal::take(set);
        if got.is_none() && signal::interrupted() {
            return Err(EINTR);
        }
    }
    let got = got.ok_or(EAGAIN)?;
    if info != 0 {
        user::write(info, &got.bytes())?;
    }
    Ok(got.signal.into())
}

pub(super) fn sigaltstack(new: u64, old: u64, sp: u64) -> Result {
    let s = &sched::current().signals;
    let was = s.alternate();
    let on = arch::is_on(was, sp);
    let mut to = None;
    if new != 0 {
        let (base, flags, size) =
            (user::read_u64(new)?, u64::from(user::read_u32(new + 8)?), user::read_u64(new + 16)?);
        if on {
            return Err(EPERM);
        }
        to = Some(match flags & !SS_AUTODISARM {
            signal::SS_DISABLE => [0, 0, flags],
            0 | SS_ONSTACK if size < MINSIGSTKSZ => return Err(ENOMEM),
            0 | SS_ONSTACK => [base, size, flags & SS_AUTODISARM],
            _ => return Err(EINVAL),
        });
    }
    if let Some(to) = to {
        s.set_alternate(to);
    }
    if old != 0 {
        let flags = if on { was[2] | SS_ONSTACK } else { was[2] };
        user::write_u64s(old, &[was[0], flags, was[1]])?;
    }
    Ok(0)
}

pub(super) fn sigreturn(f: &mut Frame) {
    if arch::pop_signal(f).is_err() {
        signal::force_segv();
    }
}

fn sender(signal: u32, code: i32) -> Info {
    let me = sched::process();
    Info::from(signal, code, me.pid, me.uid())
}

/// May the caller send a signal to it?
fn allowed(p: &Process, signal: u32) -> bool {
    let me = sched::process();
    // One lock at a time: it may be the same one.
    let mine = me.identity.lock().user;
    let his = p.identity.lock().user;
    mine[1] == 0
        || [his[0], his[2]].iter().any(|u| *u == mine[0] || *u == mine[1])
        || signal == signal::SIGCONT && me.session() == p.session()
}

fn kill_one(p: &Process, signal: u32) -> Result<()> {
    if !allowed(p, signal) {
        return Err(EPERM);
    }
    if signal == 0 { Ok(()) } else { signal::send_info(p, sender(signal, SI_USER)).or(Ok(())) }
}

pub(super) fn kill(pid: i32, signal: u64) -> Result {
    let n = number(signal)?;
    let me = sched::process();
    let several = match pid {
        1.. => {
            kill_one(&*process::find(pid as u32)?, n)?;
            return Ok(0);
        }
        0 => process::all(|p| p.group() == me.group()),
        -1 => process::all(|p| p.pid != 1 && p.pid != me.pid),
        i32::MIN => return Err(ESRCH),
        _ => process::all(|p| p.group() == pid.unsigned_abs()),
    };
    if several.is_empty() {
        return Err(ESRCH);
    }
    let done: alloc::vec::Vec<_> = several.iter().map(|p| kill_one(p, n)).collect();
    if done.iter().any(Result::is_ok) { Ok(0) } else { Err(EPERM) }
}

/// tgkill(2), and tkill(2) with `group` = -1.
pub(super) fn tgkill(group: i32, thread: i32, signal: u64) -> Result {
    if thread <= 0 || group <= 0 && group != -1 {
        return Err(EINVAL);
    }
    let n = number(signal)?;
    send_to_thread(group, thread, n, |n| sender(n, SI_TKILL))
}

fn send_to_thread(group: i32, thread: i32, n: u32, info: impl FnOnce(u32) -> Info) -> Result {
    let t = process::find_thread(thread as u32)?;
    let p = t.process.as_ref().ok_or(ESRCH)?;
    if group != -1 && p.pid != group as u32 {
        return Err(ESRCH);
    }
    if !allowed(p, n) {
        return Err(EPERM);
    }
    if n != 0 {
        signal::send_to_thread(&t, info(n))?;
    }
    Ok(0)
}

/// A program may not pretend to be the kernel or kill(2) to others.
fn read_info(at: u64, n: u32, target: i32) -> Result<Info> {
    let info = Info::read(at, n)?;
    if (info.code >= 0 || info.code == SI_TKILL) && sched::process().pid as i32 != target {
        return Err(EPERM);
    }
    Ok(info)
}

pub(super) fn sigqueueinfo(pid: i32, signal: u64, at: u64) -> Result {
    let info = read_info(at, signal as u32, pid)?;
    let n = number(signal)?;
    let p = process::find(u32::try_from(pid).map_err(|_| ESRCH)?)?;
    if !allowed(&p, n) {
        return Err(EPERM);
    }
    if n != 0 {
        signal::send_info(&p, info)?;
    }
    Ok(0)
}

pub(super) fn tgsigqueueinfo(group: i32, thread: i32, signal: u64, at: u64) -> Result {
    let info = read_info(at, signal as u32, group)?;
    if thread <= 0 || group <= 0 {
        return Err(EINVAL);
    }
    let n = number(signal)?;
    send_to_thread(group, thread, n, |_| info)
}

/// For calls whose pointer to a set is optional (ppoll, pselect6): the set is the call's.
#[allow(dead_code)]
pub(super) fn optional_mask(at: u64, size: u64) -> Result<()> {
    if at == 0 {
        return Ok(());
    }
    if size != SET {
        return Err(EINVAL);
    }
    signal::mask_for_call(user::read_u64(at).map_err(|_| EFAULT)?);
    Ok(())
}
