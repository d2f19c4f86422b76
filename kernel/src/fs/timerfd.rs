//! timerfd: a timer that is read. The thread of the timers wakes who waits for one.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use super::poll::{POLLIN, Special};
use super::wait::Waiters;
use crate::arch;
use crate::errno::{EAGAIN, EINVAL, Result};
use crate::mutex::Mutex;
use crate::process::timer::{self, Setting};

/// All there are.
static ALL: Mutex<Vec<Weak<Timer>>> = Mutex::new(Vec::new());

struct Inner {
    setting: Setting,
    /// How often it was due since it was read or set.
    times: u64,
}

/// One.
pub(crate) struct Timer {
    /// The number of its clock.
    pub(crate) clock: u64,
    inner: Mutex<Inner>,
    waiters: Waiters,
}

impl Timer {
    pub(crate) fn new(clock: u64) -> Arc<Timer> {
        let inner = Mutex::new(Inner { setting: Setting::default(), times: 0 });
        let t = Arc::new(Timer { clock, inner, waiters: Waiters::new() });
        ALL.lock().push(Arc::downgrade(&t));
        t
    }
    /// Sets it; gives what was left, and the interval.
    pub(crate) fn set(&self, setting: Setting) -> (u64, u64) {
        let old = self.left();
        *self.inner.lock() = Inner { setting, times: 0 };
        timer::changed();
        old
    }
    /// What is left, and the interval.
    pub(crate) fn left(&self) -> (u64, u64) {
        let now = arch::now_ns();
        self.settle(now);
        self.inner.lock().setting.left(now)
    }
    /// Counts how often it was due; gives when it is next (0: never), and whether it was.
    fn settle(&self, now: u64) -> (u64, bool) {
        let mut i = self.inner.lock();
        let times = i.setting.fire(now);
        i.times += times;
        (i.setting.due, times != 0)
    }
}

/// Wakes those of timers that are due; gives when the next is (`None`: never). => the thread of the timers calls.
pub(crate) fn look(now: u64) -> Option<u64> {
    let all: Vec<Arc<Timer>> = {
        let mut all = ALL.lock();
        all.retain(|t| t.strong_count() != 0);
        all.iter().filter_map(Weak::upgrade).collect()
    };
    let settle = |t: &Arc<Timer>| {
        let (next, was) = t.settle(now);
        if was {
            t.waiters.wake();
        }
        next
    };
    all.iter().map(settle).filter(|due| *due != 0).min()
}

impl Special for Timer {
    fn read(&self, buf: &mut [u8], nonblock: bool) -> Result<usize> {
        let to = buf.get_mut(..8).ok_or(EINVAL)?;
        let times = self.waiters.until(None, || {
            self.settle(arch::now_ns());
            match core::mem::take(&mut self.inner.lock().times) {
                0 => nonblock.then_some(Err(EAGAIN)),
                n => Some(Ok(n)),
            }
        })?;
        to.copy_from_slice(&times.to_le_bytes());
        Ok(8)
    }
    fn poll(&self) -> u16 {
        self.settle(arch::now_ns());
        if self.inner.lock().times != 0 { POLLIN } else { 0 }
    }
    fn turn(&self) -> u32 {
        self.waiters.turn()
    }
    fn label(&self) -> &'static str {
        "anon_inode:[timerfd]"
    }
    fn timer(&self) -> Option<&Timer> {
        Some(self)
    }
}
