//! The mlock family. Locked memory is wired; what is locked "on fault" is brought in at once as well.

use core::sync::atomic::Ordering;

use machvm::map::{Holes, MapFlags, WireError, Wiring};
use machvm_hal::{MaySleep, Prot, VaRange};

use super::{each, each_solid, limit, map, range};
use crate::errno::{EAGAIN, EINTR, EINVAL, ENOMEM, Errno, Result};
use crate::sched;

const MLOCK_ONFAULT: u64 = 1;
const MCL_CURRENT: u64 = 1;
const MCL_FUTURE: u64 = 2;
const MCL_ONFAULT: u64 = 4;

fn error(e: WireError) -> Errno {
    match e {
        WireError::Fault(machvm::FaultError::NoMemory(_)) => EAGAIN,
        _ => ENOMEM,
    }
}

pub(super) fn wire(r: VaRange) -> Result<()> {
    map().wire(r, Wiring::User, Holes::Skip, &mut MaySleep::claim()).map_err(error)
}

/// Of calls that lock: the length counts from the start of the page.
fn whole(at: u64, len: u64) -> Result<Option<VaRange>> {
    let start = at & !0xfff;
    let len = len.checked_add(at - start).ok_or(EINVAL)?;
    // What wraps around is wrong; what ends behind all memory has holes.
    let wrong = if start.checked_add(super::round(len).ok_or(EINVAL)?).is_none_or(|e| e == 0) {
        EINVAL
    } else {
        ENOMEM
    };
    range(start, len, wrong)
}

pub(in crate::syscall) fn mlock(at: u64, len: u64, flags: u64) -> Result {
    if flags & !MLOCK_ONFAULT != 0 {
        return Err(EINVAL);
    }
    limit::may_lock()?;
    // As Linux: a length that becomes zero when it is rounded up is none.
    if (at & 0xfff).checked_add(len).and_then(super::round).is_none() {
        return Ok(0);
    }
    let Some(r) = whole(at, len)? else { return Ok(0) };
    limit::locks_range(r)?;
    each_solid(r, |p| {
        if p.info.attributes.prot == Prot::NONE && flags & MLOCK_ONFAULT == 0 {
            return Err(ENOMEM);
        }
        wire(p.range)
    })?;
    Ok(0)
}

fn unwire(r: VaRange) -> Result<()> {
    map().unwire(r, Wiring::User, Holes::Skip, &mut MaySleep::claim()).map_err(error)
}

pub(in crate::syscall) fn munlock(at: u64, len: u64) -> Result {
    let Some(r) = whole(at, len)? else { return Ok(0) };
    each_solid(r, |p| unwire(p.range))?;
    Ok(0)
}

fn all() -> Result<VaRange> {
    VaRange::between(map().min(), map().max()).ok_or(ENOMEM)
}

/// What is mapped from now on is wired, or not.
fn set_future(on: bool) {
    let (set, clear) = if on {
        (MapFlags::WIREFUTURE, MapFlags::empty())
    } else {
        (MapFlags::empty(), MapFlags::WIREFUTURE)
    };
    map().modflags(set, clear, &mut MaySleep::claim());
}

pub(super) fn future() -> bool {
    map().flags(&mut MaySleep::claim()).contains(MapFlags::WIREFUTURE)
}

pub(in crate::syscall) fn mlockall(flags: u64) -> Result {
    if flags == 0 || flags == MCL_ONFAULT || flags & !(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) != 0 {
        return Err(EINVAL);
    }
    limit::may_lock()?;
    if flags & MCL_CURRENT != 0 {
        limit::locks_all()?;
    }
    set_future(flags & MCL_FUTURE != 0);
    if flags & MCL_CURRENT != 0 {
        // As Linux: what cannot be brought in now is not reported.
        each(all()?, |p| {
            let _ = wire(p.range);
            // A process that is ended meanwhile, for want of memory perhaps, goes.
            if sched::current().doomed.load(Ordering::Acquire) { Err(EINTR) } else { Ok(()) }
        })?;
    }
    Ok(0)
}

pub(in crate::syscall) fn munlockall() -> Result {
    set_future(false);
    each(all()?, |p| unwire(p.range))?;
    Ok(0)
}
