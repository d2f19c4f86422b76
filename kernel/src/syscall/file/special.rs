//! Descriptors of timers and signals.

use alloc::sync::Arc;

use super::descriptor::add;
use super::{file, only};
use crate::arch;
use crate::errno::{EINVAL, Result};
use crate::fs::file::{File, O_CLOEXEC, O_NONBLOCK, O_RDWR};
use crate::fs::inode::Kind;
use crate::fs::signalfd::Signals;
use crate::fs::timerfd::Timer;
use crate::process::timer::Setting;
use crate::syscall::time;
use crate::user;

pub(crate) fn timerfd_create(clock: u64, flags: u64) -> Result {
    only(flags, (O_CLOEXEC | O_NONBLOCK).into())?;
    // Real, monotonic, since the start; and those that wake a machine that sleeps.
    if !matches!(clock as u32, 0 | 1 | 7 | 8 | 9) {
        return Err(EINVAL);
    }
    let timer = Timer::new(u64::from(clock as u32));
    let f = File::of_special(Kind::Anonymous, timer, O_RDWR | flags as u32 & O_NONBLOCK);
    add(f, flags as u32 & O_CLOEXEC != 0)
}

pub(crate) fn timerfd_settime(fd: i32, flags: u64, new: u64, old: u64) -> Result {
    const ABSTIME: u64 = 1;
    const CANCEL_ON_SET: u64 = 2;
    let (interval, first) = (time::read_timespec(new)?, time::read_timespec(new + 16)?);
    only(flags, ABSTIME | CANCEL_ON_SET)?;
    let f = file(fd)?;
    let timer = f.special().and_then(|s| s.timer()).ok_or(EINVAL)?;
    let due = match first {
        0 => 0,
        _ if flags & ABSTIME != 0 => time::monotonic(timer.clock, first).max(1),
        _ => arch::now_ns().saturating_add(first),
    };
    let was = timer.set(Setting { due, interval });
    if old != 0 {
        time::write_setting(old, was)?;
    }
    Ok(0)
}

pub(crate) fn timerfd_gettime(fd: i32, at: u64) -> Result {
    let f = file(fd)?;
    time::write_setting(at, f.special().and_then(|s| s.timer()).ok_or(EINVAL)?.left())?;
    Ok(0)
}

pub(crate) fn signalfd(fd: i32, set: u64, size: u64, flags: u64) -> Result {
    if size != 8 {
        return Err(EINVAL);
    }
    let set = user::read_u64(set)?;
    only(flags, (O_CLOEXEC | O_NONBLOCK).into())?;
    if fd == -1 {
        let f = File::of_special(
            Kind::Anonymous,
            Arc::new(Signals::new(set)),
            O_RDWR | flags as u32 & O_NONBLOCK,
        );
        return add(f, flags as u32 & O_CLOEXEC != 0);
    }
    let f = file(fd)?;
    f.special().and_then(|s| s.signals()).ok_or(EINVAL)?.set(set);
    Ok(fd.into())
}
