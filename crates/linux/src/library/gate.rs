//! The gate around fork: while a thread forks, nobody else is inside the VM.
//!
//! Whoever enters the VM (a call, a fault) passes the gate and is counted; a thread that
//! forks closes it and waits until everybody is out. Threads inside may need the page
//! daemon to get on, so a *helper* still gets in while the others leave, and the gate is
//! shut for helpers only when they have.
//!
//! ```text
//!   state      who gets in       the forking thread waits for
//!   OPEN       everybody
//!   CLOSING    helpers           those inside
//!   CLOSED     nobody            helpers
//! ```
//! Passing costs two additions to a counter that few threads share. Nothing here
//! allocates or takes a lock of the standard library: it runs in signal handlers.
//!
//! => signals from outside are blocked between entering and leaving, else a handler that
//!    forks would wait for its own thread.

use std::cell::Cell;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;

use super::quiet;
use crate::sys;

const OPEN: u32 = 0;
const CLOSING: u32 = 1;
const CLOSED: u32 = 2;

/// Counters, so that threads seldom share one.
const STRIPES: usize = 64;

#[repr(align(64))]
struct Count(AtomicU32);

static STATE: AtomicU32 = AtomicU32::new(OPEN);
static INSIDE: [Count; STRIPES] = [const { Count(AtomicU32::new(0)) }; STRIPES];
/// The thread that closed it; 0: it is not closed.
static CLOSED_BY: AtomicU32 = AtomicU32::new(0);
static HELPERS: Count = Count(AtomicU32::new(0));

thread_local! {
    // Const and without a destructor, as in `quiet`.
    /// This thread closed the gate.
    static CLOSER: Cell<bool> = const { Cell::new(false) };
}

/// The right to be inside the VM.
#[derive(Debug)]
pub(super) struct Pass(Option<&'static AtomicU32>);

impl Drop for Pass {
    fn drop(&mut self) {
        if let Some(count) = self.0 {
            leave(count);
        }
    }
}

fn leave(count: &AtomicU32) {
    count.fetch_sub(1, SeqCst);
    if STATE.load(SeqCst) != OPEN {
        sys::futex_wake(count, u32::MAX);
    }
}

/// The counter of this thread: threads have different thread-local memory.
fn own_count() -> &'static AtomicU32 {
    let at = CLOSER.with(|c| core::ptr::from_ref(c).addr());
    let hash = (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58;
    &INSIDE[hash as usize % STRIPES].0
}

/// Passes when the state is below `shut`. `None`: the process is a copy that was never
/// told so (made by the system call itself), where the state says nothing.
fn pass(count: &'static AtomicU32, shut: u32) -> Option<Pass> {
    if CLOSER.get() {
        return Some(Pass(None)); // nobody else is inside
    }
    loop {
        // SeqCst, with `close`: either it sees this count, or we see the state.
        count.fetch_add(1, SeqCst);
        let state = STATE.load(SeqCst);
        if state < shut {
            return Some(Pass(Some(count)));
        }
        leave(count);
        if quiet::generation() == 0 {
            return None;
        }
        let _ = sys::futex_wait(&STATE, state, None, u32::MAX);
    }
}

/// Enters.
pub(super) fn enter() -> Option<Pass> {
    pass(own_count(), CLOSING)
}

/// Enters to help those inside.
pub(super) fn enter_helper() -> Option<Pass> {
    pass(&HELPERS.0, CLOSED)
}

/// Enters for the thread `tid`, which faulted, unless that would mean to wait. The thread
/// that closed the gate is served behind it.
pub(super) fn try_enter(tid: u32) -> Option<Pass> {
    if tid != 0 && CLOSED_BY.load(SeqCst) == tid {
        return Some(Pass(None));
    }
    let count = own_count();
    count.fetch_add(1, SeqCst);
    if STATE.load(SeqCst) < CLOSING {
        return Some(Pass(Some(count)));
    }
    leave(count);
    None
}

fn wait_for_none(count: &AtomicU32) {
    loop {
        match count.load(SeqCst) {
            0 => return,
            n => drop(sys::futex_wait(count, n, None, u32::MAX)),
        }
    }
}

/// Waits until nobody is inside, and keeps it so until [`open`]. This thread may go in
/// and out meanwhile.
///
/// => the thread is not inside.
pub(super) fn close() {
    while let Err(state) = STATE.compare_exchange(OPEN, CLOSING, SeqCst, SeqCst) {
        let _ = sys::futex_wait(&STATE, state, None, u32::MAX);
    }
    INSIDE.iter().for_each(|c| wait_for_none(&c.0));
    STATE.store(CLOSED, SeqCst);
    wait_for_none(&HELPERS.0);
    CLOSER.set(true);
    // SAFETY: takes nothing.
    CLOSED_BY.store(unsafe { libc::gettid() }.cast_unsigned(), SeqCst);
}

/// Opens the gate that this thread closed; also in the child of a fork that it made.
pub(super) fn open() {
    CLOSER.set(false);
    CLOSED_BY.store(0, SeqCst);
    STATE.store(OPEN, SeqCst);
    sys::futex_wake(&STATE, u32::MAX);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicU64};

    /// Eight threads go in and out, a helper too; whoever closes finds nobody inside. One
    /// test only: the gate is the process's.
    #[test]
    fn whoever_closes_is_alone() {
        quiet::watch_forks().expect("a page");
        let (stop, inside) = (AtomicBool::new(false), AtomicU64::new(0));
        let (calls, helped) = (AtomicU64::new(0), AtomicU64::new(0));
        let visit = |pass: fn() -> Option<Pass>, count: &AtomicU64| {
            while !stop.load(SeqCst) {
                let pass = pass().expect("no fork");
                inside.fetch_add(1, SeqCst);
                std::hint::spin_loop();
                inside.fetch_sub(1, SeqCst);
                count.fetch_add(1, SeqCst);
                drop(pass);
            }
        };
        std::thread::scope(|s| {
            (0..8).for_each(|_| drop(s.spawn(|| visit(enter, &calls))));
            s.spawn(|| visit(enter_helper, &helped));
            while calls.load(SeqCst) == 0 || helped.load(SeqCst) == 0 {
                std::thread::yield_now();
            }
            for _ in 0..300 {
                close();
                for _ in 0..50 {
                    assert_eq!(inside.load(SeqCst), 0);
                }
                drop(enter().expect("the closer passes"));
                open();
            }
            stop.store(true, SeqCst);
        });
    }

    /// A call that waits for the page daemon, which still gets in, ends; then the gate
    /// closes.
    #[test]
    fn helpers_pass_while_the_others_leave() {
        quiet::watch_forks().expect("a page");
        let (entered, helped) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|s| {
            s.spawn(|| {
                let _pass = enter().expect("no fork");
                entered.store(true, SeqCst);
                while !helped.load(SeqCst) {
                    std::thread::yield_now();
                }
            });
            s.spawn(|| {
                while STATE.load(SeqCst) == OPEN {
                    std::thread::yield_now();
                }
                let _pass = enter_helper().expect("no fork");
                helped.store(true, SeqCst);
            });
            while !entered.load(SeqCst) {
                std::thread::yield_now();
            }
            close();
            assert!(helped.load(SeqCst));
            open();
        });
    }
}
