//! Process groups and sessions.

use core::sync::atomic::Ordering;

use alloc::sync::Arc;

use super::{Process, all, find, signal};
use crate::errno::{EACCES, EINVAL, EPERM, ESRCH, Result};
use crate::sched;

/// The process that a number of getpgid and its like means; 0: the caller.
fn named(pid: i32) -> Result<Arc<Process>> {
    if pid == 0 { Ok(sched::process().clone()) } else { find(u32::try_from(pid).map_err(|_| ESRCH)?) }
}

/// getpgid(2).
pub(crate) fn getpgid(pid: i32) -> Result {
    Ok(named(pid)?.group().into())
}
/// getsid(2).
pub(crate) fn getsid(pid: i32) -> Result {
    Ok(named(pid)?.session().into())
}

/// setpgid(2).
pub(crate) fn setpgid(pid: i32, group: i32) -> Result {
    let me = sched::process();
    if group < 0 {
        return Err(EINVAL);
    }
    let p = named(pid)?;
    let group = if group == 0 { p.pid } else { group as u32 };
    if !Arc::ptr_eq(&p, me) {
        if p.parent() != me.pid {
            return Err(ESRCH);
        }
        if p.session() != me.session() {
            return Err(EPERM);
        }
        if p.has_execed.load(Ordering::Relaxed) {
            return Err(EACCES);
        }
    }
    if p.session() == p.pid {
        return Err(EPERM);
    }
    if group != p.pid && all(|q| q.group() == group && q.session() == me.session()).is_empty() {
        return Err(EPERM);
    }
    p.group.store(group, Ordering::Relaxed);
    Ok(0)
}

/// setsid(2).
pub(crate) fn setsid() -> Result {
    let me = sched::process();
    if !all(|p| p.group() == me.pid).is_empty() {
        return Err(EPERM);
    }
    me.session.store(me.pid, Ordering::Relaxed);
    me.group.store(me.pid, Ordering::Relaxed);
    Ok(me.pid.into())
}

/// May the terminal's foreground be this group, for a process of `session`?
#[allow(dead_code)]
pub(crate) fn is_in_session(group: u32, session: u32) -> bool {
    !all(|p| p.group() == group && p.session() == session).is_empty()
}

/// Has the group nobody whose parent, of another group of the session, could tell it to go on? The first program's
/// group has somebody: who started the machine.
pub(crate) fn is_orphaned(group: u32) -> bool {
    orphaned_without(group, None)
}

fn orphaned_without(group: u32, but: Option<&Process>) -> bool {
    let members = all(|p| p.group() == group && !p.is_zombie() && but.is_none_or(|b| b.pid != p.pid));
    !members.iter().any(|p| match find(p.parent()) {
        Err(_) => true,
        Ok(parent) => parent.group() != group && parent.session() == p.session(),
    })
}

/// `me` ends: stopped groups that nobody looks after any more are told to go on.
pub(super) fn left_by(me: &Process) {
    let mut groups = alloc::vec![me.group()];
    groups.extend(me.children.lock().iter().map(|c| c.group()));
    groups.dedup();
    for g in groups {
        let stopped = all(|p| p.group() == g && p.pid != me.pid && p.signals.is_stopped());
        if !stopped.is_empty() && orphaned_without(g, Some(me)) {
            for p in all(|p| p.group() == g && p.pid != me.pid) {
                signal::send(&p, signal::SIGHUP);
                signal::send(&p, signal::SIGCONT);
            }
        }
    }
}
