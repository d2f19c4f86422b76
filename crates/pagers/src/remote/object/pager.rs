//! An object as a pager of the core.
//!
//! The core may ask in the middle of anything, also of a signal handler that interrupted
//! `malloc`. So who asks only copies pages and waits; threads of ours do the rest.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use machvm_hal::{ControlId, MAX_CLUSTER, PageIn, PageOut, Pager, PagerError, Supply};

use super::{ObjectError, RemoteObject};
use crate::tier::PAGE;

/// Requests at a time, and threads.
const SLOTS: usize = 4;

#[derive(Clone, Copy)]
enum What {
    Read,
    Write,
    Commit,
}

enum Phase {
    Idle,
    /// Somebody is filling it in, or takes the answer.
    Taken,
    Asked(What),
    Doing,
    Done(Result<(), PagerError>),
}

struct Slot {
    phase: Phase,
    at: u64,
    len: usize,
    buffer: Box<[u8]>,
    /// Who asked does not wait any more.
    left: bool,
}

struct Desk {
    slots: Mutex<[Slot; SLOTS]>,
    changed: Condvar,
    ended: Mutex<bool>,
}

/// A [`RemoteObject`] as a [`Pager`]. What the core writes back is committed by its
/// `synchronize` (msync), when nothing maps the object any more, and by [`RemotePager::commit`].
///
/// In a child of `fork(2)` it answers errors only: there are no threads there.
pub struct RemotePager {
    object: Arc<RemoteObject>,
    desk: Arc<Desk>,
    /// A request that is not answered by then has failed.
    deadline: Duration,
    process: u32,
}

fn error(e: &ObjectError) -> PagerError {
    match e {
        ObjectError::Beyond(_) => PagerError::Beyond,
        ObjectError::LeaseLost { .. } | ObjectError::ReadOnly | ObjectError::Unknown(_) => PagerError::Gone,
        _ => PagerError::Io,
    }
}

impl Desk {
    fn slots(&self) -> MutexGuard<'_, [Slot; SLOTS]> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn wait<'a>(&self, slots: MutexGuard<'a, [Slot; SLOTS]>) -> MutexGuard<'a, [Slot; SLOTS]> {
        let longest = Duration::from_millis(200);
        self.changed.wait_timeout(slots, longest).unwrap_or_else(PoisonError::into_inner).0
    }
    fn has_ended(&self) -> bool {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread of ours.
    fn serve(&self, object: &RemoteObject) {
        let mut spare = vec![0; MAX_CLUSTER * PAGE].into_boxed_slice();
        while !self.has_ended() {
            let mut slots = self.slots();
            let asked = |s: &Slot| if let Phase::Asked(what) = s.phase { Some(what) } else { None };
            let Some((i, what)) = slots.iter().enumerate().find_map(|(i, s)| Some((i, asked(s)?))) else {
                drop(self.wait(slots));
                continue;
            };
            let slot = &mut slots[i];
            slot.phase = Phase::Doing;
            let (at, len) = (slot.at, slot.len);
            std::mem::swap(&mut slot.buffer, &mut spare);
            drop(slots);
            let done = match what {
                What::Read => object.read(at, &mut spare[..len]),
                What::Write => object.write(at, &spare[..len]),
                What::Commit => object.commit(),
            };
            let mut slots = self.slots();
            let slot = &mut slots[i];
            std::mem::swap(&mut slot.buffer, &mut spare);
            slot.phase = if slot.left { Phase::Idle } else { Phase::Done(done.map_err(|e| error(&e))) };
            slot.left = false;
            drop(slots);
            self.changed.notify_all();
        }
    }
}

impl RemotePager {
    /// Starts its threads.
    ///
    /// # Errors
    /// The system's limit on threads.
    pub fn new(object: Arc<RemoteObject>) -> io::Result<RemotePager> {
        let slot = |_| Slot {
            phase: Phase::Idle,
            at: 0,
            len: 0,
            buffer: vec![0; MAX_CLUSTER * PAGE].into_boxed_slice(),
            left: false,
        };
        let slots = Mutex::new(std::array::from_fn(slot));
        let desk = Arc::new(Desk { slots, changed: Condvar::new(), ended: Mutex::new(false) });
        // A commit is several requests.
        let deadline = object.shared.engine.patience().whole * 4 + Duration::from_secs(1);
        let pager = RemotePager { object, desk, deadline, process: std::process::id() };
        for _ in 0..SLOTS {
            let (desk, object) = (Arc::clone(&pager.desk), Arc::clone(&pager.object));
            std::thread::Builder::new().name("machvm-object".into()).spawn(move || desk.serve(&object))?;
        }
        Ok(pager)
    }
    /// The object.
    pub fn object(&self) -> &Arc<RemoteObject> {
        &self.object
    }
    /// Commits what was written back so far.
    ///
    /// # Errors
    /// As [`RemoteObject::commit`].
    pub fn commit(&self) -> Result<(), ObjectError> {
        self.object.commit()
    }

    /// Has something done: `fill` prepares the buffer, `take` gets it afterwards.
    fn ask(
        &self,
        what: What,
        (at, len): (u64, usize),
        fill: impl FnOnce(&mut [u8]),
        take: impl FnOnce(&[u8]),
    ) -> Result<(), PagerError> {
        if std::process::id() != self.process {
            return Err(PagerError::Gone);
        }
        let begun = Instant::now();
        let mut slots = self.desk.slots();
        let i = loop {
            if let Some(i) = slots.iter().position(|s| matches!(s.phase, Phase::Idle)) {
                break i;
            }
            if begun.elapsed() > self.deadline {
                return Err(PagerError::Io);
            }
            slots = self.desk.wait(slots);
        };
        let slot = &mut slots[i];
        slot.phase = Phase::Taken;
        fill(&mut slot.buffer[..len]);
        (slot.at, slot.len, slot.phase) = (at, len, Phase::Asked(what));
        self.desk.changed.notify_all();
        loop {
            let slot = &mut slots[i];
            if let Phase::Done(done) = slot.phase {
                if done.is_ok() {
                    take(&slot.buffer[..len]);
                }
                slot.phase = Phase::Idle;
                drop(slots);
                self.desk.changed.notify_all();
                return done;
            }
            if begun.elapsed() > self.deadline {
                if matches!(slot.phase, Phase::Asked(_)) {
                    slot.phase = Phase::Idle;
                } else {
                    slot.left = true;
                }
                return Err(PagerError::Io);
            }
            slots = self.desk.wait(slots);
        }
    }
}

impl Drop for RemotePager {
    fn drop(&mut self) {
        *self.desk.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.desk.changed.notify_all();
    }
}

impl Pager for RemotePager {
    fn page_in(&self, mut req: PageIn<'_>) {
        let (at, size) = (req.offset(), self.object.size());
        // Pages beyond the end are given up; if the first is, there are none.
        let inside = size.saturating_sub(at) / PAGE as u64;
        let pages = (req.pages() as u64).min(inside) as usize;
        if pages == 0 {
            return req.failed(0, PagerError::Beyond);
        }
        match self.ask(What::Read, (at, pages * PAGE), |_| {}, |data| req.write(0, data)) {
            Ok(()) => req.supplied(pages, Supply::Clean),
            Err(e) => req.failed(0, e),
        }
    }

    fn page_out(&self, offset: u64, data: &[u8; PAGE]) -> Result<(), PagerError> {
        self.ask(What::Write, (offset, PAGE), |to| to.copy_from_slice(data), |_| {})
    }

    fn page_out_run(&self, run: &mut PageOut<'_>) {
        let n = run.pages();
        let fill = |to: &mut [u8]| {
            for (i, page) in to.chunks_mut(PAGE).enumerate() {
                run.read(i, 0, page);
            }
        };
        let done = self.ask(What::Write, (run.offset(), n * PAGE), fill, |_| {});
        (0..n).for_each(|i| run.done(i, done));
    }

    fn synchronize(&self, _: ControlId, _: u64, _: u64) -> Result<(), PagerError> {
        self.ask(What::Commit, (0, 0), |_| {}, |_| {})
    }

    fn last_unmap(&self, _: ControlId) {
        // An error is reported by who commits next.
        let _ = self.ask(What::Commit, (0, 0), |_| {}, |_| {});
    }
}
