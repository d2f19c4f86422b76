//! System calls on time.

use machvm_hal::{Event, Woken};

use crate::arch;
use crate::errno::{EFAULT, EINVAL, EOPNOTSUPP, EPERM, ERESTARTNOHAND, Result};
use crate::process::signal::{self, SIGALRM};
use crate::process::timer::{Notify, Setting, TICK};
use crate::process::{self, split_time};
use crate::{sched, user};

const SECOND: u64 = 1_000_000_000;
pub(super) const REALTIME: u64 = 0;
pub(super) const MONOTONIC: u64 = 1;
const PROCESS_CPU: u64 = 2;
const THREAD_CPU: u64 = 3;
const TIMER_ABSTIME: u64 = 1;

/// Reads a `struct timespec` as nanoseconds.
pub(super) fn read_timespec(at: u64) -> Result<u64> {
    let (s, ns) = (user::read_u64(at)? as i64, user::read_u64(at + 8)?);
    if s < 0 || ns >= SECOND {
        return Err(EINVAL);
    }
    Ok((s as u64).saturating_mul(SECOND).saturating_add(ns))
}
fn write_timespec(at: u64, ns: u64) -> Result<()> {
    user::write_u64s(at, &[ns / SECOND, ns % SECOND])
}
/// A `struct timeval`.
fn read_timeval(at: u64) -> Result<u64> {
    let (s, us) = (user::read_u64(at)? as i64, user::read_u64(at + 8)?);
    if s < 0 || us >= 1_000_000 {
        return Err(EINVAL);
    }
    Ok((s as u64).saturating_mul(SECOND).saturating_add(us * 1000))
}
pub(super) fn timeval(ns: u64) -> [u64; 2] {
    [ns / SECOND, ns % SECOND / 1000]
}

/// What a clock shows, in nanoseconds.
pub(super) fn clock(id: u64) -> Result<u64> {
    let me = sched::process();
    Ok(match id {
        REALTIME | 5 | 8 | 11 => arch::now_ns().wrapping_add(arch::epoch_ns()),
        MONOTONIC | 4 | 6 | 7 | 9 => arch::now_ns(),
        PROCESS_CPU => {
            let (user, system) = me.times();
            user + system
        }
        THREAD_CPU => arch::ticks_to_ns(sched::current().ran()),
        // The clock of a process or thread: ~number << 3, and in the low bits what of it.
        n if (n as i32) < 0 => {
            let number = !(n as i32 >> 3);
            let of_thread = n & 4 != 0;
            if n & 3 > 2 {
                return Err(EINVAL);
            }
            let pid = number as u32;
            if of_thread {
                let t = if pid == 0 { return clock(THREAD_CPU) } else { process::find_thread(pid) };
                let t = t.map_err(|_| EINVAL)?;
                split_time([t.ran(), 0, 0]).0
            } else if pid == 0 {
                return clock(PROCESS_CPU);
            } else {
                let (user, system) = process::find(pid).map_err(|_| EINVAL)?.times();
                user + system
            }
        }
        _ => return Err(EINVAL),
    })
}

pub(super) fn clock_gettime(id: u64, at: u64) -> Result {
    write_timespec(at, clock(id)?)?;
    Ok(0)
}

pub(super) fn clock_getres(id: u64, at: u64) -> Result {
    clock(id)?;
    if at != 0 {
        write_timespec(at, if matches!(id, 5 | 6) { TICK } else { 1 })?;
    }
    Ok(0)
}

pub(super) fn clock_settime(id: u64, at: u64) -> Result {
    if id != REALTIME {
        return Err(EINVAL);
    }
    let ns = read_timespec(at)?;
    if sched::process().identity.lock().user[1] != 0 {
        return Err(EPERM);
    }
    arch::set_epoch_ns(ns.wrapping_sub(arch::now_ns()));
    Ok(0)
}

pub(super) fn gettimeofday(at: u64, zone: u64) -> Result {
    if at != 0 {
        user::write_u64s(at, &timeval(clock(REALTIME)?))?;
    }
    if zone != 0 {
        user::write_u64s(zone, &[0])?;
    }
    Ok(0)
}

pub(super) fn time(at: u64) -> Result {
    let s = clock(REALTIME)? / SECOND;
    if at != 0 {
        user::write_u64s(at, &[s])?;
    }
    Ok(s as i64)
}

/// Sleeps until a time of the monotonic clock; `false`: a signal came.
fn sleep_until(until: u64) -> bool {
    let own = core::ptr::from_ref(sched::current()) as u64;
    let over = || (arch::now_ns() >= until).then_some(());
    !matches!(sched::wait_for(Event(own | 4), Some(until), over), Err(Woken::Interrupted))
}

/// Sleeps the rest of a relative nap; after a signal without handler it goes on.
fn nap(until: u64, left_to: u64) -> Result {
    if sleep_until(until) {
        return Ok(0);
    }
    if left_to != 0 {
        write_timespec(left_to, until.saturating_sub(arch::now_ns()))?;
    }
    Err(signal::restart_with(move || nap(until, left_to)))
}

pub(super) fn nanosleep(at: u64, left_to: u64) -> Result {
    let ns = read_timespec(at)?;
    nap(arch::now_ns().saturating_add(ns), left_to)
}

pub(super) fn clock_nanosleep(id: u64, flags: u64, at: u64, left_to: u64) -> Result {
    if clock(id).is_err() {
        return Err(EINVAL);
    }
    if !matches!(id, REALTIME | MONOTONIC | 7 | 11) {
        return Err(EOPNOTSUPP);
    }
    let ns = read_timespec(at)?;
    if flags & TIMER_ABSTIME == 0 {
        return nap(arch::now_ns().saturating_add(ns), left_to);
    }
    let until = monotonic(id, ns);
    if sleep_until(until) { Ok(0) } else { Err(ERESTARTNOHAND) }
}

/// A time of a clock as one of the monotonic clock.
pub(super) fn monotonic(id: u64, ns: u64) -> u64 {
    if matches!(id, REALTIME | 8 | 11) { ns.saturating_sub(arch::epoch_ns()) } else { ns }
}

pub(super) fn alarm(seconds: u32) -> Result {
    let (left, _) = sched::process().timers.set(0, u64::from(seconds) * SECOND, 0);
    // To the nearest second, but an alarm that is set is never 0.
    let s = (left + SECOND / 2) / SECOND;
    Ok(if left != 0 { s.max(1) as i64 } else { 0 })
}

fn write_interval(at: u64, (left, interval): (u64, u64)) -> Result<()> {
    let ([s, us], [is, ius]) = (timeval(left), timeval(interval));
    user::write_u64s(at, &[is, ius, s, us])
}

pub(super) fn getitimer(which: u64, at: u64) -> Result {
    if which > 2 {
        return Err(EINVAL);
    }
    write_interval(at, sched::process().timers.get(which as usize))?;
    Ok(0)
}

pub(super) fn setitimer(which: u64, new: u64, old: u64) -> Result {
    let (interval, left) = if new == 0 { (0, 0) } else { (read_timeval(new)?, read_timeval(new + 16)?) };
    if which > 2 {
        return Err(EINVAL);
    }
    let was = sched::process().timers.set(which as usize, left, interval);
    if old != 0 {
        write_interval(old, was)?;
    }
    Ok(0)
}

const SIGEV_NONE: u32 = 1;
const SIGEV_THREAD: u32 = 2;
const SIGEV_THREAD_ID: u32 = 4;

pub(super) fn timer_create(id: u64, event: u64, to: u64) -> Result {
    let mut notify = Notify { signal: SIGALRM, value: 0, thread: 0 };
    if event != 0 {
        let (value, signal, how) =
            (user::read_u64(event)?, user::read_u32(event + 8)?, user::read_u32(event + 12)?);
        notify.value = value;
        notify.signal = if how == SIGEV_NONE { 0 } else { signal };
        if !matches!(how, 0 | SIGEV_NONE | SIGEV_THREAD | SIGEV_THREAD_ID)
            || how != SIGEV_NONE && !(1..=signal::SIGNALS).contains(&signal)
        {
            return Err(EINVAL);
        }
        if how == SIGEV_THREAD_ID {
            notify.thread = user::read_u32(event + 16)?;
            let mine = sched::process().threads.lock().iter().any(|t| t.id() == notify.thread);
            if !mine {
                return Err(EINVAL);
            }
        }
    }
    match id {
        REALTIME | MONOTONIC | 7 | 11 => {}
        _ if clock(id).is_ok() => return Err(EOPNOTSUPP),
        _ => return Err(EINVAL),
    }
    let timers = &sched::process().timers;
    let made = timers.make(id, |number| {
        if event == 0 {
            notify.value = number as u64;
        }
        notify
    })?;
    if user::write(to, &made.to_le_bytes()).is_err() {
        timers.delete(made)?;
        return Err(EFAULT);
    }
    Ok(0)
}

pub(super) fn write_setting(at: u64, (left, interval): (u64, u64)) -> Result<()> {
    write_timespec(at, interval)?;
    write_timespec(at + 16, left)
}

pub(super) fn timer_settime(timer: i32, flags: u64, new: u64, old: u64) -> Result {
    if new == 0 {
        return Err(EINVAL);
    }
    let (interval, first) = (read_timespec(new)?, read_timespec(new + 16)?);
    let now = arch::now_ns();
    let was = sched::process().timers.with(timer, |m| {
        let was = m.setting.left(now);
        let due = match first {
            0 => 0,
            _ if flags & TIMER_ABSTIME != 0 => monotonic(m.clock, first).max(1),
            _ => now.saturating_add(first),
        };
        m.setting = Setting { due, interval };
        m.overrun = 0;
        was
    })?;
    if old != 0 {
        write_setting(old, was)?;
    }
    Ok(0)
}

pub(super) fn timer_gettime(timer: i32, at: u64) -> Result {
    let left = sched::process().timers.with(timer, |m| m.setting.left(arch::now_ns()))?;
    write_setting(at, left)?;
    Ok(0)
}

pub(super) fn timer_getoverrun(timer: i32) -> Result {
    sched::process().timers.with(timer, |m| m.overrun as i64)
}

pub(super) fn timer_delete(timer: i32) -> Result {
    sched::process().timers.delete(timer)?;
    Ok(0)
}

pub(super) fn times(at: u64) -> Result {
    let me = sched::process();
    let ((user, system), (below_user, below_system)) = (me.times(), me.times_of_children());
    let ticks = |ns: u64| ns / 10_000_000;
    if at != 0 {
        user::write_u64s(at, &[user, system, below_user, below_system].map(ticks))?;
    }
    Ok(ticks(arch::now_ns()) as i64)
}

const RUSAGE_CHILDREN: i32 = -1;
const RUSAGE_THREAD: i32 = 1;

/// A `struct rusage`.
pub(super) fn write_rusage(at: u64, (user, system): (u64, u64), resident: u64) -> Result<()> {
    let mut words = [0; 18];
    words[0..2].copy_from_slice(&timeval(user));
    words[2..4].copy_from_slice(&timeval(system));
    words[4] = resident;
    user::write_u64s(at, &words)
}

pub(super) fn getrusage(who: i32, at: u64) -> Result {
    let me = sched::process();
    // In KiB.
    let resident = me.space().resident_count() * 4;
    match who {
        0 => write_rusage(at, me.times(), resident)?,
        RUSAGE_CHILDREN => write_rusage(at, me.times_of_children(), 0)?,
        RUSAGE_THREAD => {
            let t = sched::current();
            let [user, kernel] = t.ticks();
            write_rusage(at, split_time([t.ran(), user, kernel]), resident)?;
        }
        _ => return Err(EINVAL),
    }
    Ok(0)
}
