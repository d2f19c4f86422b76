//! Waiting for files: for one, or for any of several.
//!
//! Each thing that can be waited for counts its turns. Who waits looks at the count, then at the thing, and sleeps only
//! if the count is still the same: so no lock is held between the look and the sleep, and no change is missed.

use core::sync::atomic::{AtomicU32, Ordering};

use machvm_hal::{Event, Woken};

use crate::errno::{ERESTARTNOHAND, ERESTARTSYS, ETIMEDOUT, Errno, Result};
use crate::sched;

/// What a call gives that a signal ended.
pub(crate) const INTERRUPTED: Errno = ERESTARTSYS;

/// Those who wait for a change of something.
pub(crate) struct Waiters {
    turn: AtomicU32,
}

/// Those who poll several files.
static POLLERS: Waiters = Waiters::new();
/// How many sleep there.
static SLEEPERS: AtomicU32 = AtomicU32::new(0);

impl Waiters {
    pub(crate) const fn new() -> Self {
        Waiters { turn: AtomicU32::new(0) }
    }
    fn event(&self) -> Event {
        Event(core::ptr::from_ref(self) as u64)
    }
    /// How often something changed.
    pub(crate) fn turn(&self) -> u32 {
        self.turn.load(Ordering::Acquire)
    }
    /// Something changed. => interrupts may be off; spin locks of lower rank may be held.
    pub(crate) fn wake(&self) {
        self.turn.fetch_add(1, Ordering::AcqRel);
        sched::wakeup(self.event());
        changed();
    }
    /// Waits until `look` gives something. => nothing is locked.
    ///
    /// # Errors
    /// [`INTERRUPTED`]; ETIMEDOUT at `deadline`.
    pub(crate) fn until<T>(
        &self,
        deadline: Option<u64>,
        mut look: impl FnMut() -> Option<Result<T>>,
    ) -> Result<T> {
        loop {
            let turn = self.turn.load(Ordering::Acquire);
            if let Some(r) = look() {
                return r;
            }
            let ticket = sched::assert_wait(self.event());
            if self.turn.load(Ordering::Acquire) != turn {
                sched::cancel(ticket);
                continue;
            }
            match sched::block_interruptible(ticket, deadline) {
                Woken::Event => {}
                Woken::TimedOut => return Err(ETIMEDOUT),
                Woken::Interrupted => return Err(INTERRUPTED),
            }
        }
    }
}

/// What pollers see may be another.
pub(crate) fn changed() {
    POLLERS.turn.fetch_add(1, Ordering::AcqRel);
    if SLEEPERS.load(Ordering::Acquire) != 0 {
        sched::wakeup(POLLERS.event());
    }
}

/// Waits until `look`, which asks several files, gives something. => as [`Waiters::until`].
///
/// # Errors
/// As [`Waiters::until`].
pub(crate) fn poll<T>(deadline: Option<u64>, look: impl FnMut() -> Option<Result<T>>) -> Result<T> {
    SLEEPERS.fetch_add(1, Ordering::AcqRel);
    let r = POLLERS.until(deadline, look);
    SLEEPERS.fetch_sub(1, Ordering::AcqRel);
    // Not made again after a handler, whatever SA_RESTART says.
    r.map_err(|e| if e == INTERRUPTED { ERESTARTNOHAND } else { e })
}
