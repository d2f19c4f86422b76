//! Stopping and going on (job control).

use core::sync::atomic::Ordering;

use machvm_hal::Event;

use super::{Info, SA_NOCLDSTOP, SIGCHLD, SIGKILL, bit};
use crate::process::{self, Process};
use crate::sched::{self, Thread};

const CLD_STOPPED: i32 = 5;
const CLD_CONTINUED: i32 = 6;
/// As wait4 reports a child that goes on.
const CONTINUED: u32 = 0xffff;

/// Where the threads of a stopped process sleep.
fn event(p: &Process) -> Event {
    Event(core::ptr::from_ref(&p.signals.stopped) as u64 | 1)
}

/// The running thread's process stops, by `signal`.
pub(super) fn stop(p: &Process, signal: u32) {
    if p.signals.stopped.swap(true, Ordering::AcqRel) {
        return;
    }
    p.signals.news.store(signal << 8 | 0x7f, Ordering::Release);
    for t in p.threads.lock().iter() {
        sched::interrupt(t);
    }
    tell(p, CLD_STOPPED, signal);
}

/// A thread of a stopped process stays here until the process goes on or dies.
pub(super) fn stay(p: &Process, t: &Thread) {
    loop {
        let ticket = sched::assert_wait(event(p));
        let dies = t.doomed.load(Ordering::Acquire) || p.signals.waiting(t) & bit(SIGKILL) != 0;
        if dies || !p.signals.is_stopped() {
            sched::cancel(ticket);
            return;
        }
        sched::block(ticket, None);
    }
}

/// SIGCONT came. => the process's signals are locked.
pub(super) fn go_on(p: &Process) {
    if p.signals.stopped.swap(false, Ordering::AcqRel) {
        p.signals.news.store(CONTINUED, Ordering::Release);
        sched::wakeup(event(p));
        tell(p, CLD_CONTINUED, super::SIGCONT);
    }
}

/// Its stopped threads look whether they must die.
pub(super) fn wake(p: &Process) {
    sched::wakeup(event(p));
}

impl Process {
    /// All its stopped threads look whether they must die.
    pub(crate) fn wake_stopped(&self) {
        wake(self);
    }
    /// What wait may report of a process that stopped or went on; `keep`: it may be reported again.
    pub(crate) fn news(&self, stopped: bool, continued: bool, keep: bool) -> Option<i32> {
        let news = self.signals.news.load(Ordering::Acquire);
        let wanted = match news {
            0 => false,
            CONTINUED => continued,
            _ => stopped,
        };
        if !wanted {
            return None;
        }
        if !keep {
            self.signals.news.store(0, Ordering::Release);
        }
        Some(news as i32)
    }
}

/// The parent hears that a child stopped or went on.
fn tell(p: &Process, code: i32, status: u32) {
    let Ok(parent) = process::find(p.parent()) else { return };
    if parent.signals.action(SIGCHLD).flags & SA_NOCLDSTOP == 0 {
        let _ = super::send_info(&parent, parent_hears(p, SIGCHLD, code, status as i32));
    }
    sched::wakeup(parent.family_event());
}

/// What comes with SIGCHLD.
pub(crate) fn parent_hears(p: &Process, signal: u32, code: i32, status: i32) -> Info {
    let (user, system) = p.times();
    // In the ticks of times(2).
    let ticks = |ns: u64| ns / 10_000_000;
    let mut info = Info::from(signal, code, p.pid, p.uid());
    info.words[1] = u64::from(status as u32);
    info.words[2] = ticks(user);
    info.words[3] = ticks(system);
    info
}
