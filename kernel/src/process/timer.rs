//! Interval timers (setitimer, alarm) and those of timer_create: a thread of the kernel sleeps until the next is due.

use core::sync::atomic::{AtomicU64, Ordering};

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use machvm_hal::Event;

use super::signal::{self, Info, SI_TIMER, SIGALRM, SIGPROF, SIGVTALRM};
use super::{Process, all};
use crate::arch;
use crate::errno::{EAGAIN, EINVAL, Result};
use crate::mutex::Mutex;
use crate::sched::{self, Thread};

/// Nanoseconds of a tick, by which the timers of consumed time count.
pub(crate) const TICK: u64 = 1_000_000_000 / arch::HZ;
/// Most timers of timer_create in a process.
const MOST: usize = 1024;

/// What the thread of the timers waits for besides time.
const CHANGED: Event = Event(0x20);

/// When a timer is due next (by the monotonic clock; 0: never), and how often after that.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Setting {
    /// Nanoseconds.
    pub(crate) due: u64,
    /// Nanoseconds; 0: once.
    pub(crate) interval: u64,
}

impl Setting {
    /// Moves on behind `now`; gives how often it was due. 0: it is not.
    pub(crate) fn fire(&mut self, now: u64) -> u64 {
        if self.due == 0 || self.due > now {
            return 0;
        }
        if self.interval == 0 {
            self.due = 0;
            return 1;
        }
        let times = (now - self.due) / self.interval + 1;
        self.due += times * self.interval;
        times
    }
    /// What is left, and the interval.
    pub(crate) fn left(&self, now: u64) -> (u64, u64) {
        (if self.due == 0 { 0 } else { self.due.saturating_sub(now).max(1) }, self.interval)
    }
}

/// Whom a timer of timer_create tells.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Notify {
    /// 0: nobody.
    pub(crate) signal: u32,
    /// si_value.
    pub(crate) value: u64,
    /// One thread, or 0: the process.
    pub(crate) thread: u32,
}

/// A timer of timer_create.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Made {
    /// Its clock is the real one.
    pub(crate) clock: u64,
    pub(crate) notify: Notify,
    pub(crate) setting: Setting,
    /// How often it was due more than the program was told.
    pub(crate) overrun: u64,
}

struct Inner {
    real: Setting,
    made: BTreeMap<i32, Made>,
    next: i32,
}

/// A process's timers.
pub(crate) struct Timers {
    inner: Mutex<Inner>,
    /// Left and interval, of consumed time: the program's own, and all.
    consumed: [[AtomicU64; 2]; 2],
}

impl Timers {
    pub(super) fn new() -> Self {
        Timers {
            inner: Mutex::new(Inner { real: Setting::default(), made: BTreeMap::new(), next: 0 }),
            consumed: [const { [const { AtomicU64::new(0) }; 2] }; 2],
        }
    }
    /// Those of timer_create go with the program; alarms stay (a process that ended has none).
    pub(super) fn forget(&self) {
        self.inner.lock().made.clear();
    }
    /// Sets one of setitimer's: what is left (0: off) and the interval. Gives what was.
    pub(crate) fn set(&self, which: usize, left: u64, interval: u64) -> (u64, u64) {
        let old = self.get(which);
        if which == 0 {
            let due = if left == 0 { 0 } else { arch::now_ns().saturating_add(left) };
            self.inner.lock().real = Setting { due, interval };
            sched::wakeup(CHANGED);
        } else {
            let [l, i] = &self.consumed[which - 1];
            l.store(left, Ordering::Relaxed);
            i.store(interval, Ordering::Relaxed);
        }
        old
    }
    /// What is left, and the interval.
    pub(crate) fn get(&self, which: usize) -> (u64, u64) {
        if which == 0 {
            return self.inner.lock().real.left(arch::now_ns());
        }
        let [l, i] = &self.consumed[which - 1];
        (l.load(Ordering::Relaxed), i.load(Ordering::Relaxed))
    }
    /// timer_create(2).
    pub(crate) fn make(&self, clock: u64, notify: impl FnOnce(i32) -> Notify) -> Result<i32> {
        let mut inner = self.inner.lock();
        if inner.made.len() >= MOST {
            return Err(EAGAIN);
        }
        let id = inner.next;
        inner.next = inner.next.wrapping_add(1) & i32::MAX;
        let notify = notify(id);
        inner.made.insert(id, Made { clock, notify, setting: Setting::default(), overrun: 0 });
        Ok(id)
    }
    /// timer_delete(2).
    pub(crate) fn delete(&self, id: i32) -> Result<()> {
        self.inner.lock().made.remove(&id).map(|_| ()).ok_or(EINVAL)
    }
    /// Looks at a timer and changes it.
    pub(crate) fn with<R>(&self, id: i32, f: impl FnOnce(&mut Made) -> R) -> Result<R> {
        let r = self.inner.lock().made.get_mut(&id).map(f).ok_or(EINVAL);
        sched::wakeup(CHANGED);
        r
    }
}

impl Process {
    /// A tick found `t` of it. => interrupts are off.
    pub(crate) fn tick(&self, t: &Thread, in_program: bool) {
        for (i, signal) in [SIGVTALRM, SIGPROF].into_iter().enumerate() {
            let [left, interval] = &self.timers.consumed[i];
            if left.load(Ordering::Relaxed) == 0 || i == 0 && !in_program {
                continue;
            }
            // Its other threads' ticks may come at the same time.
            let over = |l| if l > TICK { l - TICK } else { interval.load(Ordering::Relaxed) };
            let before =
                left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |l| (l != 0).then(|| over(l)));
            if before.is_ok_and(|l| l <= TICK) {
                t.due.fetch_or(signal::bit(signal), Ordering::Relaxed);
            }
        }
    }
}

/// Sends what ticks made due. => the running thread's.
pub(crate) fn send_due(t: &Thread) {
    let both = signal::bit(SIGVTALRM) | signal::bit(SIGPROF);
    let due = t.due.fetch_and(!both, Ordering::Relaxed);
    for signal in [SIGVTALRM, SIGPROF] {
        if due & signal::bit(signal) != 0 {
            signal::send(sched::process(), signal);
        }
    }
}

/// A timer that the thread of the timers looks at was set.
pub(crate) fn changed() {
    sched::wakeup(CHANGED);
}

/// Fires what is due of a process; gives when the next is (0: never).
fn look(p: &Arc<Process>, now: u64) -> u64 {
    let mut next = 0;
    let mut later = |due: u64| {
        if due != 0 && (next == 0 || due < next) {
            next = due;
        }
    };
    let mut alarm = false;
    let mut told = alloc::vec::Vec::new();
    {
        let mut inner = p.timers.inner.lock();
        alarm |= inner.real.fire(now) != 0;
        later(inner.real.due);
        for (id, m) in &mut inner.made {
            let times = m.setting.fire(now);
            if times != 0 {
                m.overrun = times - 1;
                told.push((*id, *m));
            }
            later(m.setting.due);
        }
    }
    if alarm {
        signal::send(p, SIGALRM);
    }
    for (id, m) in told.into_iter().filter(|(_, m)| m.notify.signal != 0) {
        let mut info = Info::from(m.notify.signal, SI_TIMER, id as u32, m.overrun as u32);
        info.words[1] = m.notify.value;
        let thread = p.threads.lock().iter().find(|t| t.id() == m.notify.thread).cloned();
        let _ = match thread {
            Some(t) => signal::send_to_thread(&t, info),
            None => signal::send_info(p, info),
        };
    }
    next
}

/// The thread of the timers, for ever.
pub(super) fn serve() -> ! {
    let _big = sched::big::hold();
    loop {
        let seen = sched::wakeups(CHANGED);
        let now = arch::now_ns();
        let everybody = all(|p| !p.is_zombie());
        let of_files = crate::fs::timerfd::look(now);
        let next = everybody.iter().map(|p| look(p, now)).filter(|due| *due != 0).chain(of_files).min();
        drop(everybody);
        sched::sleep_unless(CHANGED, seen, next);
    }
}
