//! Waiting for any of several files.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use super::file;
use crate::errno::{EBADF, EFAULT, EINVAL, ETIMEDOUT, Result};
use crate::fs::epoll::{Change, Set};
use crate::fs::file::{File, O_CLOEXEC, O_RDWR};
use crate::fs::inode::Kind;
use crate::fs::poll::{POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT, POLLPRI};
use crate::fs::wait;
use crate::{arch, sched, user};

/// The normal and the urgent kinds of poll that select and programs ask for beside the plain ones.
const POLLRDNORM: u16 = 0x40;
const POLLWRNORM: u16 = 0x100;

/// The events of a file that are asked for, and those that always are.
fn events_of(file: &File, wanted: u16) -> u16 {
    let mut now = file.poll();
    if now & POLLIN != 0 {
        now |= POLLRDNORM;
    }
    if now & POLLOUT != 0 {
        now |= POLLWRNORM;
    }
    now & (wanted | POLLERR | POLLHUP)
}

/// `{seconds, nanoseconds}` from now, as a moment. `None`: no limit.
fn deadline(at: u64, per_unit: u64) -> Result<Option<u64>> {
    if at == 0 {
        return Ok(None);
    }
    let (s, part) = (user::read_u64(at)?, user::read_u64(at + 8)?);
    let limit = 1_000_000_000 / per_unit;
    if s > i64::MAX as u64 || part >= limit {
        return Err(EINVAL);
    }
    let ns = s.saturating_mul(1_000_000_000).saturating_add(part * per_unit);
    Ok(Some(arch::now_ns().saturating_add(ns)))
}

/// Waits until `look` counts something, or the deadline; then 0.
fn wait_for(until: Option<u64>, mut look: impl FnMut() -> i64) -> Result {
    let over = until.is_some_and(|u| u <= arch::now_ns());
    let r = wait::poll(until, || match look() {
        0 if over => Some(Ok(0)),
        0 => None,
        n => Some(Ok(n)),
    });
    match r {
        Err(ETIMEDOUT) => Ok(look()),
        r => r,
    }
}

fn poll_until(list: u64, n: u64, until: Option<u64>) -> Result {
    if n > (sched::process().files.lock().limit as u64).min(1 << 20) {
        return Err(EINVAL);
    }
    let mut bytes = vec![0; 8 * n as usize];
    user::read(list, &mut bytes)?;
    let mut all: Vec<(i32, u16, Option<Arc<File>>)> = Vec::new();
    for b in bytes.chunks_exact(8) {
        let fd = i32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        let wanted = u16::from_le_bytes([b[4], b[5]]);
        let f = if fd < 0 { None } else { file(fd).ok().filter(|f| !f.is_path()) };
        all.push((fd, wanted, f));
    }
    let mut found = vec![0u16; all.len()];
    let count = wait_for(until, || {
        let mut count = 0;
        for ((fd, wanted, f), events) in all.iter().zip(&mut found) {
            *events = match f {
                None if *fd < 0 => 0,
                None => POLLNVAL,
                Some(f) => events_of(f, *wanted),
            };
            count += i64::from(*events != 0);
        }
        count
    })?;
    for (b, events) in bytes.chunks_exact_mut(8).zip(&found) {
        b[6..].copy_from_slice(&events.to_le_bytes());
    }
    user::write(list, &bytes)?;
    Ok(count)
}

pub(crate) fn poll(list: u64, n: u64, milliseconds: i32) -> Result {
    let ns = u64::try_from(milliseconds).ok().map(|ms| ms * 1_000_000);
    poll_until(list, n, ns.map(|ns| arch::now_ns().saturating_add(ns)))
}

/// A signal mask of the caller's, in force while the call waits.
fn masked(mask: u64, size: u64, f: impl FnOnce() -> Result) -> Result {
    if mask == 0 {
        return f();
    }
    if size != 8 {
        return Err(EINVAL);
    }
    let mask = user::read_u64(mask)?;
    crate::fs::with_mask(mask, f)
}

/// What is left of the time is written back.
fn put_rest(at: u64, until: Option<u64>, per_unit: u64) {
    if let Some(u) = until {
        let left = u.saturating_sub(arch::now_ns());
        // A program whose structure cannot be written does not hear of it, as with Linux.
        let _ = user::write_u64s(at, &[left / 1_000_000_000, left % 1_000_000_000 / per_unit]);
    }
}

pub(crate) fn ppoll(list: u64, n: u64, time: u64, mask: u64, size: u64) -> Result {
    let until = deadline(time, 1)?;
    let r = masked(mask, size, || poll_until(list, n, until));
    put_rest(time, until, 1);
    r
}

/// The three sets of select: read, write, exceptional.
const WANTED: [u16; 3] = [POLLIN | POLLHUP | POLLERR, POLLOUT | POLLERR, POLLPRI];

fn select_until(n: i32, sets: [u64; 3], until: Option<u64>) -> Result {
    let n = usize::try_from(n).map_err(|_| EINVAL)?.min(sched::process().files.lock().limit);
    let bytes = n.div_ceil(64) * 8;
    let mut asked = [const { Vec::new() }; 3];
    for (set, at) in asked.iter_mut().zip(sets) {
        *set = vec![0; bytes];
        if at != 0 {
            user::read(at, set)?;
        }
    }
    let mut all: Vec<(usize, usize, Arc<File>)> = Vec::new();
    for fd in 0..n {
        for (which, set) in asked.iter().enumerate() {
            if set[fd / 8] & 1 << (fd % 8) != 0 {
                let f = file(fd as i32)?;
                if f.is_path() {
                    return Err(EBADF);
                }
                all.push((fd, which, f));
            }
        }
    }
    let mut found = [const { Vec::new() }; 3];
    let count = wait_for(until, || {
        found.iter_mut().for_each(|f| *f = vec![0u8; bytes]);
        let mut count = 0;
        for (fd, which, f) in &all {
            if f.poll() & WANTED[*which] != 0 {
                found[*which][fd / 8] |= 1 << (fd % 8);
                count += 1;
            }
        }
        count
    })?;
    for (set, at) in found.iter().zip(sets) {
        if at != 0 {
            user::write(at, set)?;
        }
    }
    Ok(count)
}

pub(crate) fn select(n: i32, sets: [u64; 3], time: u64) -> Result {
    let until = deadline_us(time)?;
    let r = select_until(n, sets, until);
    put_rest(time, until, 1000);
    r
}

/// As select has it: more than a second's microseconds are carried.
fn deadline_us(at: u64) -> Result<Option<u64>> {
    if at == 0 {
        return Ok(None);
    }
    let (s, us) = (user::read_u64(at)?, user::read_u64(at + 8)?);
    if s > i64::MAX as u64 || us > i64::MAX as u64 {
        return Err(EINVAL);
    }
    let ns = s.saturating_mul(1_000_000_000).saturating_add(us.saturating_mul(1000));
    Ok(Some(arch::now_ns().saturating_add(ns)))
}

pub(crate) fn pselect6(n: i32, sets: [u64; 3], time: u64, mask: u64) -> Result {
    let until = deadline(time, 1)?;
    let (mask, size) = if mask == 0 { (0, 8) } else { (user::read_u64(mask)?, user::read_u64(mask + 8)?) };
    let r = masked(mask, size, || select_until(n, sets, until));
    put_rest(time, until, 1);
    r
}

/// Bytes of `struct epoll_event`: packed on x86-64.
const EVENT: usize = if arch::GENERIC_CALLS { 16 } else { 12 };

pub(crate) fn epoll_create1(flags: u64) -> Result {
    super::only(flags, O_CLOEXEC.into())?;
    let file = File::of_special(Kind::Anonymous, Arc::new(Set::new()), O_RDWR);
    sched::process().files.lock().add(file, flags != 0, 0).map(i64::from)
}

pub(crate) fn epoll_create(size: i32) -> Result {
    if size <= 0 { Err(EINVAL) } else { epoll_create1(0) }
}

pub(crate) fn epoll_ctl(set: i32, what: u64, fd: i32, event: u64) -> Result {
    let set = file(set)?;
    let f = file(fd)?;
    let change = match what {
        1 => Change::Add,
        2 => Change::Delete,
        3 => Change::Modify,
        _ => return Err(EINVAL),
    };
    let (mut events, mut data) = (0, 0);
    if change != Change::Delete {
        (events, data) = (user::read_u32(event)?, user::read_u64(event + EVENT as u64 - 8)?);
    }
    let set = set.special().and_then(|s| s.epoll()).ok_or(EINVAL)?;
    set.change(change, fd, &f, events, data).map(|()| 0)
}

fn epoll_until(set: i32, list: u64, most: i32, until: Option<u64>) -> Result {
    let set = file(set)?;
    let set = set.special().and_then(|s| s.epoll()).ok_or(EINVAL)?;
    let most = usize::try_from(most).ok().filter(|m| *m > 0 && *m < 1 << 24).ok_or(EINVAL)?;
    let mut ready = Vec::new();
    wait_for(until, || {
        ready = set.ready(most);
        ready.len() as i64
    })?;
    for (i, (events, data)) in ready.iter().enumerate() {
        let mut b = [0; EVENT];
        b[..4].copy_from_slice(&events.to_le_bytes());
        b[EVENT - 8..].copy_from_slice(&data.to_le_bytes());
        user::write(list + (EVENT * i) as u64, &b).map_err(|_| EFAULT)?;
    }
    Ok(ready.len() as i64)
}

pub(crate) fn epoll_pwait(a: [u64; 6]) -> Result {
    let [set, list, most, ms, mask, size] = a;
    let until = u64::try_from(ms as i32).ok().map(|ms| arch::now_ns().saturating_add(ms * 1_000_000));
    masked(mask, size, || epoll_until(set as i32, list, most as i32, until))
}

pub(crate) fn epoll_pwait2(a: [u64; 6]) -> Result {
    let [set, list, most, time, mask, size] = a;
    let until = deadline(time, 1)?;
    masked(mask, size, || epoll_until(set as i32, list, most as i32, until))
}
