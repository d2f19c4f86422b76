//! The mlock family. Locked memory is wired; what is locked "on fault" is brought in at once as well.

use machvm::map::{Holes, MapFlags, WireError, Wiring};
use machvm_hal::{MaySleep, Prot, VaRange};

use super::{each, each_solid, map, range};
use crate::errno::{EAGAIN, EINVAL, ENOMEM, Errno, Result};

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
    range(start, len.checked_add(at - start).ok_or(EINVAL)?, EINVAL)
}

pub(in crate::syscall) fn mlock(at: u64, len: u64, flags: u64) -> Result {
    if flags & !MLOCK_ONFAULT != 0 {
        return Err(EINVAL);
    }
    let Some(r) = whole(at, len).map_err(|_| ENOMEM)? else { return Ok(0) };
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
    set_future(flags & MCL_FUTURE != 0);
    if flags & MCL_CURRENT != 0 {
        // As Linux: what cannot be brought in now is not reported.
        each(all()?, |p| {
            let _ = wire(p.range);
            Ok(())
        })?;
    }
    Ok(0)
}

pub(in crate::syscall) fn munlockall() -> Result {
    set_future(false);
    each(all()?, |p| unwire(p.range))?;
    Ok(0)
}
