//! Out of memory: who goes (D10, Z97).
//!
//! The core ends nobody. It asks the platform how large the tasks are, names the one whose
//! end gives most, and says so once; while that one is on its way out no other is named, and when it is gone what
//! failed is tried once more first.

use core::sync::atomic::Ordering::Relaxed;

use machvm_hal::{Host, MaySleep};

use super::Queue;
use crate::platform::Platform;
use crate::stats::bump;
use crate::vm::Vm;

/// Rounds of a fault that freed nothing, after which it fails.
const FAULT_SCANS: u64 = 4;
/// Waits for memory of a task that ends, of 5 ms each.
const RELIEF_WAITS: u32 = 200;

/// A task of the embedder, as [`Platform::for_each_task`] names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TaskSize {
    /// The embedder's name for it.
    pub id: u64,
    /// Pages in memory.
    pub resident: u64,
    /// Pages on swap.
    pub swapped: u64,
    /// It is never ended for its memory: the system's, a pager, the first program.
    pub protected: bool,
}

impl TaskSize {
    /// Pages that its end would give back.
    pub const fn pages(&self) -> u64 {
        self.resident.saturating_add(self.swapped)
    }
}

/// What there was too little of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shortage {
    /// Memory (`VM_OOM_MEM`): what is in it is wired, or busy.
    Memory,
    /// Room on swap (`VM_OOM_SWAPZ`): memory is full of modified pages.
    Swap,
}

/// What the platform is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfMemory {
    /// What there was too little of.
    pub why: Shortage,
    /// The task whose end gives most; none may be ended.
    pub victim: Option<TaskSize>,
    /// Tasks there are.
    pub tasks: u64,
    /// Scans in a row that freed nothing, or not enough.
    pub scans: u64,
    /// Frames in all.
    pub limit: u64,
    /// Pages that no swap has room for.
    pub unswappable: u64,
}

impl<P: Platform> Vm<P> {
    /// A fault found no memory: is a task being ended, so that some will come? Waits for it,
    /// a second at most.
    ///
    /// => no lock is held.
    pub(crate) fn wait_relief(&self, may: &mut MaySleep) -> bool {
        // Page-out waits for nobody's end, and nobody ends for it.
        let comes = !self.host().is_privileged() && self.out_of_memory(FAULT_SCANS);
        comes && {
            (0..RELIEF_WAITS).any(|_| !self.wait_memory(may));
            true
        }
    }

    /// Memory is exhausted. `true`: a task is being ended, and its memory will come.
    ///
    /// => no lock is held.
    pub(crate) fn out_of_memory(&self, scans: u64) -> bool {
        let pending = *self.control.victim.lock();
        let (mut victim, mut tasks, mut going) = (None::<TaskSize>, 0, false);
        self.plat.for_each_task(&mut |t| {
            tasks += 1;
            going |= Some(t.id) == pending;
            if !t.protected && t.pages() != 0 && victim.is_none_or(|v| v.pages() < t.pages()) {
                victim = Some(t);
            }
        });
        if going {
            return true;
        }
        {
            let mut pending_now = self.control.victim.lock();
            if *pending_now != pending {
                return pending_now.is_some(); // another thread named one meanwhile
            }
            if pending.is_some() {
                // It is gone, and what it had is there: that is to be tried before another goes. What was refused
                // meanwhile says nothing of what is now.
                *pending_now = None;
                self.control.refusals.atomic().store(0, Relaxed);
                return true;
            }
            *pending_now = victim.map(|v| v.id);
        }
        let unswappable = self.queues.len(Queue::Unswappable);
        let refused = unswappable != 0 || self.control.refusals.atomic().load(Relaxed) != 0;
        let why = if refused { Shortage::Swap } else { Shortage::Memory };
        let report = OutOfMemory { why, victim, tasks, scans, limit: self.frames.limit(), unswappable };
        let ends = self.plat.out_of_memory(&report) && victim.is_some();
        if ends {
            bump(&self.stats.oom_victims, 1);
        } else {
            *self.control.victim.lock() = None;
        }
        ends
    }
}
