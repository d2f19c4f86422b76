//! System calls on users, groups, capabilities, and groups of processes.

use alloc::vec::Vec;

use crate::errno::{EINVAL, EPERM, ESRCH, Result};
use crate::process::{self, Identity};
use crate::{sched, user};

/// "Leave it" where a number is expected.
const KEEP: u32 = u32::MAX;
/// Real, effective, saved, of files.
const REAL: usize = 0;
const EFFECTIVE: usize = 1;
const SAVED: usize = 2;
const FILES: usize = 3;
/// Most further groups.
const NGROUPS_MAX: u64 = 65_536;

/// Users or groups.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    User,
    Group,
}

fn ids(i: &mut Identity, kind: Kind) -> &mut [u32; 4] {
    match kind {
        Kind::User => &mut i.user,
        Kind::Group => &mut i.group,
    }
}

pub(super) fn get(kind: Kind, effective: bool) -> Result {
    let mut i = sched::process().identity.lock();
    Ok(ids(&mut i, kind)[usize::from(effective)].into())
}

/// Changes numbers: `f` is told whether the caller is privileged, and its numbers.
fn change(kind: Kind, f: impl FnOnce(bool, &mut [u32; 4]) -> Result<()>) -> Result {
    let mut i = sched::process().identity.lock();
    let privileged = i.user[EFFECTIVE] == 0;
    let ids = ids(&mut i, kind);
    f(privileged, ids)?;
    ids[FILES] = ids[EFFECTIVE];
    Ok(0)
}

pub(super) fn set(kind: Kind, id: u32) -> Result {
    if id == KEEP {
        return Err(EINVAL);
    }
    change(kind, |privileged, ids| {
        if privileged {
            *ids = [id; 4];
        } else if id == ids[REAL] || id == ids[SAVED] {
            ids[EFFECTIVE] = id;
        } else {
            return Err(EPERM);
        }
        Ok(())
    })
}

pub(super) fn set_re(kind: Kind, real: u32, effective: u32) -> Result {
    change(kind, |privileged, ids| {
        let old = *ids;
        if real != KEEP && !privileged && real != old[REAL] && real != old[EFFECTIVE] {
            return Err(EPERM);
        }
        if effective != KEEP && !privileged && !old[..FILES].contains(&effective) {
            return Err(EPERM);
        }
        if real != KEEP {
            ids[REAL] = real;
        }
        if effective != KEEP {
            ids[EFFECTIVE] = effective;
        }
        if real != KEEP || effective != KEEP && effective != old[REAL] {
            ids[SAVED] = ids[EFFECTIVE];
        }
        Ok(())
    })
}

pub(super) fn set_res(kind: Kind, new: [u32; 3]) -> Result {
    change(kind, |privileged, ids| {
        let old = *ids;
        if !privileged && new.iter().any(|n| *n != KEEP && !old[..FILES].contains(n)) {
            return Err(EPERM);
        }
        ids.iter_mut().zip(new).filter(|(_, n)| *n != KEEP).for_each(|(id, n)| *id = n);
        Ok(())
    })
}

pub(super) fn get_res(kind: Kind, at: [u64; 3]) -> Result {
    let ids = *ids(&mut sched::process().identity.lock(), kind);
    for (at, id) in at.into_iter().zip(ids) {
        user::write(at, &id.to_le_bytes())?;
    }
    Ok(0)
}

/// setfsuid and setfsgid: give the old number, and say nothing of errors.
pub(super) fn set_files(kind: Kind, id: u32) -> Result {
    let mut i = sched::process().identity.lock();
    let privileged = i.user[EFFECTIVE] == 0;
    let ids = ids(&mut i, kind);
    let old = ids[FILES];
    if id != KEEP && (privileged || ids.contains(&id)) {
        ids[FILES] = id;
    }
    Ok(old.into())
}

pub(super) fn getgroups(n: i32, at: u64) -> Result {
    let groups = sched::process().identity.lock().groups.clone();
    if n < 0 || n != 0 && (n as usize) < groups.len() {
        return Err(EINVAL);
    }
    if n != 0 {
        let bytes: Vec<u8> = groups.iter().flat_map(|g| g.to_le_bytes()).collect();
        user::write(at, &bytes)?;
    }
    Ok(groups.len() as i64)
}

pub(super) fn setgroups(n: u64, at: u64) -> Result {
    let me = sched::process();
    if me.identity.lock().user[EFFECTIVE] != 0 {
        return Err(EPERM);
    }
    if n > NGROUPS_MAX {
        return Err(EINVAL);
    }
    let groups: Vec<u32> = (0..n).map(|i| user::read_u32(at + 4 * i)).collect::<Result<_>>()?;
    me.identity.lock().groups = groups;
    Ok(0)
}

/// Versions of the structures of capget: one word of each set, or two.
const CAP_1: u32 = 0x1998_0330;
const CAP_2: u32 = 0x2007_1026;
const CAP_3: u32 = 0x2008_0522;
/// Every capability of Linux 6.
const ALL: u64 = (1 << 41) - 1;

/// The words of each set for a version; an unknown one is answered with the best.
fn cap_words(header: u64, get: bool, data: u64) -> Result<Option<usize>> {
    match user::read_u32(header)? {
        CAP_1 => Ok(Some(1)),
        CAP_2 | CAP_3 => Ok(Some(2)),
        _ => {
            user::write(header, &CAP_3.to_le_bytes())?;
            if get && data == 0 { Ok(None) } else { Err(EINVAL) }
        }
    }
}

pub(super) fn capget(header: u64, data: u64) -> Result {
    let Some(words) = cap_words(header, true, data)? else { return Ok(0) };
    let pid = user::read_u32(header + 4)? as i32;
    if pid < 0 {
        return Err(EINVAL);
    }
    let p = if pid == 0 { sched::process().clone() } else { process::find(pid as u32)? };
    let identity = p.identity.lock().clone();
    let permitted = if identity.user[..FILES].contains(&0) { ALL } else { 0 };
    let effective = if identity.user[EFFECTIVE] == 0 { ALL } else { 0 };
    for i in 0..words {
        let half = |set: u64| ((set >> (32 * i)) as u32).to_le_bytes();
        let at = data + 12 * i as u64;
        user::write(at, &half(effective))?;
        user::write(at + 4, &half(permitted))?;
        user::write(at + 8, &0u32.to_le_bytes())?;
    }
    Ok(0)
}

/// Capabilities follow the user here: what asks for no more than there is, is granted.
pub(super) fn capset(header: u64, data: u64) -> Result {
    let Some(words) = cap_words(header, false, data)? else { return Err(EINVAL) };
    let pid = user::read_u32(header + 4)?;
    let me = sched::process();
    if pid != 0 && pid != me.pid {
        return Err(EPERM);
    }
    let has = me.identity.lock().user[..FILES].contains(&0);
    for i in 0..words as u64 * 3 {
        if user::read_u32(data + 4 * i)? != 0 && !has {
            return Err(EPERM);
        }
    }
    Ok(0)
}

pub(super) fn getpriority(which: u64, who: i32) -> Result {
    let best = chosen(which, who)?.iter().map(|p| p.settings.nice()).min().ok_or(ESRCH)?;
    Ok(i64::from(20 - best))
}

pub(super) fn setpriority(which: u64, who: i32, nice: i32) -> Result {
    let chosen = chosen(which, who)?;
    if chosen.is_empty() {
        return Err(ESRCH);
    }
    let privileged = sched::process().identity.lock().user[EFFECTIVE] == 0;
    let nice = nice.clamp(-20, 19);
    for p in chosen {
        if nice < p.settings.nice() && !privileged {
            return Err(crate::errno::EACCES);
        }
        p.settings.set_nice(nice);
    }
    Ok(0)
}

fn chosen(which: u64, who: i32) -> Result<Vec<alloc::sync::Arc<process::Process>>> {
    let me = sched::process();
    let n = who as u32;
    Ok(match which {
        0 if who == 0 => alloc::vec![me.clone()],
        0 => process::find(n)
            .or_else(|e| process::find_thread(n).ok().and_then(|t| t.process.clone()).ok_or(e))
            .into_iter()
            .collect(),
        1 => {
            let group = if who == 0 { me.group() } else { n };
            process::all(|p| p.group() == group)
        }
        2 => {
            let uid = if who == 0 { me.uid() } else { n };
            process::all(|p| p.uid() == uid)
        }
        _ => return Err(EINVAL),
    })
}
