//! Faults that wait: for a device, or for another fault that does.
//!
//! ```text
//!   fault thread:  step, step -> done
//!                        |-> contents are on a device -> readers: read, step -> done
//!                        |-> must wait for something --> waiters: the whole fault, sleeping
//! ```
//!
//! The thread that reads the messages never waits itself, so that a fault whose page is in
//! memory is not held up by one whose page is on a disk. Readers wait for devices only:
//! what a waiter waits for always goes on, however many wait.

use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use machvm::fault::{Step, SwapIn};
use machvm::pager::Unlock;
use machvm::{FaultError, PagerId, Platform};
use machvm_hal::{MaySleep, PageIn, PagerError, RawAddr, Va};

use super::error::RunError;
use super::faults::{Place, answer, fault_of, is_memory_error, place_of};
use super::gate::Owed;
use super::vmspace::VmSpace;
use super::vmthread::spawn_vm_thread;
use crate::uffd;

/// Reads at a time.
const READERS: usize = 4;
/// Faults that wait at a time; further ones queue.
const WAITERS: usize = 4;

/// A fault on its way from one thread to another.
struct Job {
    waiting: Waiting,
    what: What,
}

/// The thread that faulted.
struct Waiting {
    message: uffd::Fault,
    begun: Instant,
    /// What the map had there when somebody was asked for the page, if that is known.
    place: Place,
    /// A fork waits until it goes on.
    inside: Owed,
}

/// What is to be done next.
enum What {
    Swap(SwapIn),
    Pager(PagerId, PageIn<'static>),
    Unlock(Unlock),
    /// All of it, waiting where it must.
    Fault,
}

/// A queue that threads wait at.
#[derive(Default)]
struct Queue {
    jobs: Mutex<VecDeque<Job>>,
    came: Condvar,
}

impl Queue {
    fn put(&self, job: Job) {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).push_back(job);
        self.came.notify_one();
    }
    fn take(&self) -> Job {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(job) = jobs.pop_front() {
                return job;
            }
            jobs = self.came.wait(jobs).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// See the module text.
#[derive(Default)]
pub(super) struct Slow {
    started: AtomicBool,
    reads: Queue,
    waits: Queue,
}

impl Slow {
    /// Whether there are threads for faults that wait.
    pub(super) fn is_started(&self) -> bool {
        self.started.load(Acquire)
    }

    /// Starts the threads, if they are not there yet.
    ///
    /// # Errors
    /// The system's limit on threads.
    pub(super) fn start(&self, space: &Arc<VmSpace>) -> Result<(), RunError> {
        let thread = |name: &str, body: fn(&VmSpace)| {
            let space = Arc::clone(space);
            spawn_vm_thread(name, move || body(&space))
                .map_err(|e| RunError::host("cannot start a thread (see ulimit -u)", &e))
        };
        if self.is_started() {
            return Ok(());
        }
        (0..READERS).try_for_each(|_| thread("reads", read))?;
        (0..WAITERS).try_for_each(|_| thread("waits", wait))?;
        self.started.store(true, Release);
        Ok(())
    }

    /// Serves a fault as far as that needs no waiting; the rest is done by others.
    pub(super) fn serve(&self, space: &VmSpace, message: &uffd::Fault, begun: Instant, may: &mut MaySleep) {
        let inside = space.enter().hand_over();
        self.go_on(space, Waiting { message: *message, begun, place: None, inside }, may);
    }

    /// Steps until the fault is done or somebody else must go on.
    fn go_on(&self, space: &VmSpace, mut waiting: Waiting, may: &mut MaySleep) {
        let fault = fault_of(&waiting.message);
        let va = Va::containing(RawAddr(waiting.message.address));
        uffd::watch(va);
        waiting.place = None;
        let mut version;
        let (queue, what) = loop {
            version = space.map.timestamp();
            match space.map.fault_step(&fault) {
                Ok(Step::Done) => return done(space, waiting, Ok(()), may),
                // Once more, by somebody who knows the place first.
                Err(e) if is_memory_error(e) => break (&self.waits, What::Fault),
                Err(e) => return done(space, waiting, Err(e), may),
                Ok(Step::Again) => {}
                Ok(Step::SwapIn(s)) if space.vm.swap_in_is_slow(&s) => break (&self.reads, What::Swap(s)),
                Ok(Step::SwapIn(s)) => {
                    if space.vm.swap_in(s, va).is_err() {
                        break (&self.waits, What::Fault);
                    }
                }
                Ok(Step::Unlock(u)) => break (&self.reads, What::Unlock(u)),
                Ok(Step::PageIn(id, req)) => break (&self.reads, What::Pager(id, req)),
                Ok(Step::Wait(_) | Step::Grow | Step::Submap) => break (&self.waits, What::Fault),
            }
        };
        // Who maps the page watches it himself.
        uffd::watched_waits();
        let place = place_of(space, &waiting.message, may);
        waiting.place = place.filter(|_| space.map.timestamp() == version);
        queue.put(Job { waiting, what });
    }
}

fn done(space: &VmSpace, waiting: Waiting, result: Result<(), FaultError>, may: &mut MaySleep) {
    drop(space.resume(waiting.inside));
    answer(space, &waiting.message, (result, waiting.place), may);
    space.faults.busy_ns.fetch_add(waiting.begun.elapsed().as_nanos() as u64, Relaxed);
}

/// A reader, for ever.
fn read(space: &VmSpace) {
    let mut may = MaySleep::claim();
    loop {
        let Job { waiting, what } = space.slow.reads.take();
        let va = Va::containing(RawAddr(waiting.message.address));
        let read = match what {
            What::Swap(s) => space.vm.swap_in(s, va),
            What::Pager(id, req) => {
                match space.platform().pager(id) {
                    Some(pager) => pager.page_in(req),
                    None => req.failed(0, PagerError::Gone),
                }
                Ok(())
            }
            What::Unlock(u) => space.vm.ask_unlock(&u, va),
            What::Fault => Ok(()),
        };
        match read {
            Ok(()) => space.slow.go_on(space, waiting, &mut may),
            Err(e) if is_memory_error(e) && waiting.place.is_none() => {
                space.slow.waits.put(Job { waiting, what: What::Fault });
            }
            Err(e) => {
                uffd::watch(va);
                done(space, waiting, Err(e), &mut may);
            }
        }
    }
}

/// A waiter, for ever.
fn wait(space: &VmSpace) {
    let mut may = MaySleep::claim();
    loop {
        let Job { mut waiting, .. } = space.slow.waits.take();
        uffd::watch(Va::containing(RawAddr(waiting.message.address)));
        waiting.place = place_of(space, &waiting.message, &mut may);
        let result = space.map.fault(&fault_of(&waiting.message), &mut may);
        done(space, waiting, result, &mut may);
    }
}
