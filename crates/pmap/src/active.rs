//! The CPUs that one pmap's translations may be on.
//!
//! *used*: may have some under the pmap's present number. *active*: has it loaded, or is
//! about to. *stale*: must flush before it loads it again. A CPU that loads the pmap
//! enters itself, and then looks at what it must flush; who takes rights away writes
//! the tables, and then looks who is entered. Each side writes before it looks, with a
//! full fence in between, so at least one of them sees the other:
//!
//! ```text
//! loading                              taking away
//!   active |= me                         tables
//!   used |= me                           fence 1
//!   fence                                read used, active
//!   read stale, clear it                 stale |= used - active
//!   load the root, walk                  fence 2
//!                                        read active again: ask all of used that were
//!                                        active at either look
//! ```
//!
//! * *used* is read without this CPU: this CPU's fence is after fence 1, so what it
//!   walks from then on has the new tables, and before it had nothing.
//! * It was in *used* but not in *active* at the first look, so it is marked. Either its
//!   fence is after fence 2: it sees the mark and flushes before it loads; or before:
//!   the second look finds it active and it is asked.
//! * It was active at the first look and is not at the second: asked too, for it may
//!   have left without a mark. It flushes by number.
//!
//! No access here is stronger than its own word needs; the fences do the rest.

use machvm_hal::{CpuId, CpuSet};
use machvm_sync::atomic::{AtomicU64, Ordering, fence};

/// See the module text. All \[a\].
#[derive(Debug)]
pub(crate) struct ActiveSet {
    active: AtomicU64,
    used: AtomicU64,
    stale: AtomicU64,
}

const fn bit(cpu: CpuId) -> u64 {
    1 << (cpu.0 % 64)
}

impl ActiveSet {
    pub(crate) fn new() -> Self {
        ActiveSet { active: AtomicU64::new(0), used: AtomicU64::new(0), stale: AtomicU64::new(0) }
    }

    /// `cpu` is about to load the pmap: from here on it is asked to flush.
    pub(crate) fn enter(&self, cpu: CpuId) {
        self.active.fetch_or(bit(cpu), Ordering::Relaxed);
    }

    /// `cpu` loads the pmap next. True: it must flush what it has of it.
    ///
    /// => it has entered, and the pmap has the number that it loads.
    #[inline]
    pub(crate) fn is_stale(&self, cpu: CpuId) -> bool {
        if self.used.load(Ordering::Relaxed) & bit(cpu) == 0 {
            self.used.fetch_or(bit(cpu), Ordering::Relaxed);
        }
        // Against both fences of reach(); orders `active` and the pmap's number too.
        fence(Ordering::SeqCst);
        let stale = self.stale.load(Ordering::Relaxed) & bit(cpu) != 0;
        if stale {
            // Another mark that this takes away with it found the CPU active.
            self.stale.fetch_and(!bit(cpu), Ordering::Relaxed);
        }
        stale
    }

    /// `cpu` has loaded something else.
    pub(crate) fn leave(&self, cpu: CpuId) {
        // Release: who sees it gone sees it gone from the hardware.
        self.active.fetch_and(!bit(cpu), Ordering::Release);
    }

    /// The pmap gets another number: what is cached under the old one is nobody's.
    ///
    /// => no CPU has it loaded; it is released to others with the new number.
    #[inline]
    pub(crate) fn forget(&self) {
        self.used.store(0, Ordering::Relaxed);
        self.stale.store(0, Ordering::Relaxed);
    }

    /// Nobody has it, nobody ever had.
    ///
    /// => nobody else reaches the pmap.
    pub(crate) fn reset(&self) {
        self.active.store(0, Ordering::Relaxed);
        self.forget();
    }

    /// The tables are written: these CPUs must be asked to flush; the others have
    /// nothing, or will flush before they load the pmap again. `online`: CPUs that can be
    /// asked.
    pub(crate) fn reach(&self, online: CpuSet) -> CpuSet {
        fence(Ordering::SeqCst); // 1, against is_stale()
        let used = self.used.load(Ordering::Relaxed);
        let first = self.active.load(Ordering::Relaxed) & online.0;
        let away = used & !first;
        if away == 0 {
            return CpuSet(used);
        }
        self.stale.fetch_or(away, Ordering::Relaxed);
        fence(Ordering::SeqCst); // 2, against is_stale()
        CpuSet(used & online.0 & (first | self.active.load(Ordering::Relaxed)))
    }

    /// The tables are written: every CPU that may have something of it, loaded or not.
    #[inline]
    pub(crate) fn everyone(&self) -> CpuSet {
        fence(Ordering::SeqCst); // as 1 in reach()
        CpuSet(self.used.load(Ordering::Relaxed))
    }

    /// CPUs that have it loaded, a moment ago.
    #[inline]
    pub(crate) fn active(&self) -> CpuSet {
        // Acquire pairs with the Release of leave().
        CpuSet(self.active.load(Ordering::Acquire))
    }
    /// Is it loaded on `cpu`, or about to be? Exact on that CPU.
    #[inline]
    pub(crate) fn is_active(&self, cpu: CpuId) -> bool {
        self.active.load(Ordering::Relaxed) & bit(cpu) != 0
    }
}
