//! The gate: everything that changes the map or moves pages goes through it, and a
//! fork closes it.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Default)]
struct State {
    inside: u32,
    /// Threads that want to close it.
    closing: u32,
    closed: bool,
}

/// Counts who is inside. It closes only when nobody is: somebody inside may wait for
/// a page fault, which another thread must go in to serve. So while somebody wants to
/// close it, threads still go in as long as anybody is inside, and no longer.
#[derive(Default)]
pub(super) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

/// Being inside; leaves when dropped.
pub(super) struct Inside<'a>(&'a Gate);

/// Being inside, on the way from one thread to another.
#[must_use]
pub(super) struct Owed(());

impl Inside<'_> {
    /// Stays inside until another thread takes over with [`Gate::resume`].
    pub(super) fn hand_over(self) -> Owed {
        std::mem::forget(self);
        Owed(())
    }
}

impl Gate {
    /// Being inside as the thread was that handed over.
    pub(super) fn resume(&self, _: Owed) -> Inside<'_> {
        Inside(self)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes in, when it is open.
    pub(super) fn enter(&self) -> Inside<'_> {
        let mut s = self.state();
        while s.closed || (s.closing != 0 && s.inside == 0) {
            s = self.changed.wait(s).unwrap_or_else(PoisonError::into_inner);
        }
        s.inside += 1;
        Inside(self)
    }

    /// Waits for a moment when nobody is inside, and closes it.
    pub(super) fn close(&self) {
        let mut s = self.state();
        s.closing += 1;
        while s.inside != 0 || s.closed {
            s = self.changed.wait(s).unwrap_or_else(PoisonError::into_inner);
        }
        s.closing -= 1;
        s.closed = true;
    }

    /// Opens it.
    pub(super) fn open(&self) {
        self.state().closed = false;
        self.changed.notify_all();
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        let mut s = self.0.state();
        s.inside -= 1;
        if s.inside == 0 {
            drop(s);
            self.0.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn nobody_is_inside_while_it_is_closed() {
        let gate = Gate::default();
        let inside = AtomicU32::new(0);
        std::thread::scope(|s| {
            for _ in 0..2 {
                s.spawn(|| {
                    for _ in 0..2_000 {
                        let _in = gate.enter();
                        inside.fetch_add(1, Ordering::SeqCst);
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
            for _ in 0..200 {
                gate.close();
                assert_eq!(inside.load(Ordering::SeqCst), 0);
                gate.open();
            }
        });
    }
}
