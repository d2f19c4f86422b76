//! Resource limits and small settings of a process.

use core::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering::Relaxed};

use machvm_hal::{MaySleep, PAGE_SIZE};

use super::{Process, Space};
use crate::errno::{EINVAL, EPERM, Result};

/// How many resources there are.
pub(crate) const RESOURCES: usize = 16;
pub(crate) const INFINITY: u64 = u64::MAX;
pub(crate) const FSIZE: usize = 1;
pub(crate) const DATA: usize = 2;
pub(crate) const STACK: usize = 3;
pub(crate) const NPROC: usize = 6;
pub(crate) const NOFILE: usize = 7;
pub(crate) const MEMLOCK: usize = 8;
pub(crate) const AS: usize = 9;

/// The defaults: soft and hard. Like those of Linux for a machine of some size.
const DEFAULTS: [(u64, u64); RESOURCES] = [
    (INFINITY, INFINITY),
    (INFINITY, INFINITY),
    (INFINITY, INFINITY),
    (8 << 20, INFINITY),
    (0, INFINITY),
    (INFINITY, INFINITY),
    (4096, 4096),
    (1024, 4096),
    (8 << 20, 8 << 20),
    (INFINITY, INFINITY),
    (INFINITY, INFINITY),
    (4096, 4096),
    (819_200, 819_200),
    (0, 0),
    (0, 0),
    (INFINITY, INFINITY),
];

/// The limits of a process.
pub(crate) struct Limits([[AtomicU64; 2]; RESOURCES]);

impl Limits {
    pub(super) fn new() -> Self {
        Limits(DEFAULTS.map(|(soft, hard)| [AtomicU64::new(soft), AtomicU64::new(hard)]))
    }
    pub(super) fn inherit(&self, from: &Limits) {
        for (to, from) in self.0.iter().zip(&from.0) {
            to[0].store(from[0].load(Relaxed), Relaxed);
            to[1].store(from[1].load(Relaxed), Relaxed);
        }
    }
    /// What the core looks after itself, told to a memory of the process's.
    pub(super) fn apply(&self, space: &Space) {
        let (size, stack) = (self.get(AS).0, self.get(STACK).0);
        // By pages, as Linux's stacks grow.
        let limits = machvm::map::Limits { size, stack, stack_step: PAGE_SIZE };
        space.map().set_limits(limits, &mut MaySleep::claim());
    }
    /// Soft and hard limit.
    pub(crate) fn get(&self, resource: usize) -> (u64, u64) {
        (self.0[resource][0].load(Relaxed), self.0[resource][1].load(Relaxed))
    }
}

impl Process {
    /// The soft limit of a resource.
    pub(crate) fn limit(&self, resource: usize) -> u64 {
        self.limits.get(resource).0
    }
    /// Sets both.
    pub(crate) fn set_limit(&self, resource: usize, soft: u64, hard: u64) -> Result<()> {
        if soft > hard {
            return Err(EINVAL);
        }
        if hard > self.limits.get(resource).1 && self.identity.lock().user[1] != 0 {
            return Err(EPERM);
        }
        self.limits.0[resource][0].store(soft, Relaxed);
        self.limits.0[resource][1].store(hard, Relaxed);
        if resource == NOFILE {
            self.files.lock().limit = usize::try_from(soft).unwrap_or(usize::MAX);
        }
        if let Some(space) = self.hold_space() {
            self.limits.apply(&space);
            super::release(space);
        }
        Ok(())
    }
}

/// What prctl, personality and setpriority set.
pub(crate) struct Settings {
    /// The signal at the parent's death.
    pub(crate) death: AtomicU32,
    /// PR_SET_DUMPABLE.
    pub(crate) dumpable: AtomicU32,
    /// PR_SET_CHILD_SUBREAPER.
    pub(crate) reaper: AtomicU32,
    /// PR_SET_NO_NEW_PRIVS.
    pub(crate) no_new_privileges: AtomicU32,
    /// PR_SET_KEEPCAPS.
    pub(crate) keep_capabilities: AtomicU32,
    /// PR_SET_TIMERSLACK, in nanoseconds.
    pub(crate) slack: AtomicU64,
    /// personality(2).
    pub(crate) personality: AtomicU32,
    /// Nice.
    pub(crate) nice: AtomicI32,
}

impl Settings {
    pub(super) fn new() -> Self {
        Settings {
            death: AtomicU32::new(0),
            dumpable: AtomicU32::new(1),
            reaper: AtomicU32::new(0),
            no_new_privileges: AtomicU32::new(0),
            keep_capabilities: AtomicU32::new(0),
            slack: AtomicU64::new(50_000),
            personality: AtomicU32::new(0),
            nice: AtomicI32::new(0),
        }
    }
    /// A child's: without the signal at the parent's death.
    pub(super) fn inherit(&self, from: &Settings) {
        self.dumpable.store(from.dumpable.load(Relaxed), Relaxed);
        self.no_new_privileges.store(from.no_new_privileges.load(Relaxed), Relaxed);
        self.slack.store(from.slack.load(Relaxed), Relaxed);
        self.personality.store(from.personality.load(Relaxed), Relaxed);
        self.nice.store(from.nice.load(Relaxed), Relaxed);
    }
    /// Nice.
    pub(crate) fn nice(&self) -> i32 {
        self.nice.load(Relaxed)
    }
    /// Sets it.
    pub(crate) fn set_nice(&self, nice: i32) {
        self.nice.store(nice, Relaxed);
    }
    pub(super) fn death_signal(&self) -> u32 {
        self.death.load(Relaxed)
    }
}
