//! What the system keeps for each CPU.

use machvm_sync::atomic::{AtomicU64, Ordering};

use crate::mailbox::Mailbox;
use crate::system::PmapId;

/// CPUs there can be: the bits of [`machvm_hal::CpuSet`].
pub(crate) const MAX_CPUS: usize = 64;
/// Requests that wait for a CPU one by one; more are "everything".
pub(crate) const SLOTS: usize = 4;

/// One CPU's.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct PerCpu {
    /// A frame of zeroes for the next table; 0: none. Swapped, so that a thread that
    /// moved meanwhile takes another CPU's and no harm is done. \[a\]
    pub(crate) spare: AtomicU64,
    /// A [`Loaded`]. Written by this CPU; read by this CPU and its interrupts.
    loaded: AtomicU64,
    /// What others ask of it.
    pub(crate) mail: Mailbox<SLOTS>,
    /// For [`crate::Bug::CpusReadEarly`]: the pmap last flushed here, and whom that
    /// concerned.
    pub(crate) early: [AtomicU64; 2],
}

/// What this CPU walks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Loaded {
    /// No user pmap.
    Idle,
    /// This, under this number.
    User(PmapId, u16),
    /// One or another: interrupted while it was switched.
    Unknown,
}

const UNKNOWN: u64 = 1 << 63;

impl PerCpu {
    pub(crate) fn new() -> Self {
        PerCpu {
            spare: AtomicU64::new(0),
            loaded: AtomicU64::new(0),
            mail: Mailbox::new(),
            early: core::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// => on this CPU.
    #[inline]
    pub(crate) fn loaded(&self) -> Loaded {
        // Relaxed here and a store below: one CPU, whose interrupts see its stores in order.
        match self.loaded.load(Ordering::Relaxed) {
            UNKNOWN => Loaded::Unknown,
            word => match PmapId::from_raw(word as u32) {
                Some(id) => Loaded::User(id, (word >> 32) as u16),
                None => Loaded::Idle,
            },
        }
    }

    /// => on this CPU.
    #[inline]
    pub(crate) fn set_loaded(&self, l: Loaded) {
        let word = match l {
            Loaded::Idle => 0,
            Loaded::User(id, asid) => u64::from(asid) << 32 | u64::from(id.raw()),
            Loaded::Unknown => UNKNOWN,
        };
        // Release: the compiler leaves it behind the switch that came before.
        self.loaded.store(word, Ordering::Release);
    }
}
