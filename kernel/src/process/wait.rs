//! wait4(2) and waitid(2).

use core::sync::atomic::Ordering;

use alloc::sync::Arc;
use machvm_hal::Woken;

use super::{ALL, Process};
use crate::errno::{ECHILD, ERESTARTSYS, Result};
use crate::sched;

/// Which children one waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Which {
    /// Any.
    Any,
    /// This one.
    Pid(u32),
    /// Those of a group.
    Group(u32),
}

/// What one waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// Whose news.
    pub(crate) which: Which,
    /// That they ended.
    pub(crate) exited: bool,
    /// That they stopped.
    pub(crate) stopped: bool,
    /// That they went on.
    pub(crate) continued: bool,
    /// Do not wait.
    pub(crate) no_hang: bool,
    /// Leave the news for the next one who asks.
    pub(crate) keep: bool,
    /// Children that end with another signal than SIGCHLD (`__WCLONE`), or all (`__WALL`).
    pub(crate) clones: bool,
    pub(crate) everybody: bool,
}

/// News of a child.
#[derive(Clone, Copy, Debug)]
pub(crate) struct News {
    /// Whose.
    pub(crate) pid: u32,
    pub(crate) uid: u32,
    /// As wait4 reports it.
    pub(crate) status: i32,
    /// Nanoseconds in its program and in the kernel, with its children's.
    pub(crate) times: (u64, u64),
}

impl Wanted {
    fn matches(&self, c: &Process) -> bool {
        let clone = c.exit_signal.load(Ordering::Relaxed) != super::signal::SIGCHLD;
        (self.everybody || clone == self.clones)
            && match self.which {
                Which::Any => true,
                Which::Pid(pid) => c.pid == pid,
                Which::Group(g) => c.group() == g,
            }
    }
}

/// Waits for news of a child. `None`: there is none, and `no_hang` is set.
pub(crate) fn wait(w: &Wanted) -> Result<Option<News>> {
    let me = sched::process();
    let found = sched::wait_for(me.family_event(), None, || match look(me, w) {
        Ok(None) if !w.no_hang => None,
        other => Some(other),
    });
    // What ended threads of children had.
    sched::bury();
    match found {
        Ok(found) => found,
        Err(Woken::TimedOut | Woken::Interrupted | Woken::Event) => Err(ERESTARTSYS),
    }
}

fn look(me: &Process, w: &Wanted) -> Result<Option<News>> {
    let mut children = me.children.lock();
    if !children.iter().any(|c| w.matches(c)) {
        return Err(ECHILD);
    }
    let ended = |c: &Process| w.exited && c.is_zombie();
    if let Some(at) = children.iter().position(|c| w.matches(c) && ended(c)) {
        let c: Arc<Process> = if w.keep { children[at].clone() } else { children.remove(at) };
        drop(children);
        let status = c.status.load(Ordering::Relaxed);
        let ((user, system), (below_user, below_system)) = (c.times(), c.times_of_children());
        let times = (user + below_user, system + below_system);
        if !w.keep {
            ALL.lock().remove(&c.pid);
            me.of_children[0].fetch_add(times.0, Ordering::Relaxed);
            me.of_children[1].fetch_add(times.1, Ordering::Relaxed);
        }
        return Ok(Some(News { pid: c.pid, uid: c.uid(), status, times }));
    }
    let news = children.iter().filter(|c| w.matches(c) && !c.is_zombie()).find_map(|c| {
        let status = c.news(w.stopped, w.continued, w.keep)?;
        Some(News { pid: c.pid, uid: c.uid(), status, times: c.times() })
    });
    Ok(news)
}
