//! Flushes put off until `pmap_update` (PM42), for the interface of `pmap(9)`.
//!
//! Each pmap has one gather. Whoever changes the pmap lazily does so under its lock
//! (rank `Deferred`, below every lock of a pmap); the update takes the gather out and
//! finishes it with no lock held.
//!
//! Two updates at once: the second finds an empty gather while the first still waits for
//! CPUs. It may not return before they obey, so it flushes the whole pmap itself. That
//! is rare, and shorter than a protocol for waiting.

use machvm_hal::{Gather, MaySleep, VaRange};

use crate::port::Port;
use crate::pte::Format;
use crate::system::{PmapId, System};

/// See the module text.
#[derive(Debug, Default)]
pub(crate) struct Deferred {
    pub(crate) gather: Gather,
    /// Gathers taken out and not finished yet.
    finishing: u32,
}

impl Drop for Deferred {
    fn drop(&mut self) {
        // The machine ends with its memory: nothing is left that could obey.
        core::mem::forget(core::mem::take(&mut self.gather));
    }
}

impl<P: Port> System<P> {
    /// Changes a pmap; what is to be flushed waits for the update.
    ///
    /// => no lock of a rank from `Deferred` on is held.
    #[track_caller]
    pub(crate) fn deferring<R>(&self, id: PmapId, f: impl FnOnce(&mut Gather) -> R) -> R {
        f(&mut self.pmap(id).deferred.lock().gather)
    }

    /// `pmap_update`: when it returns every CPU obeys what was put off before.
    pub(crate) fn finish_deferred(&self, id: PmapId, may: &mut MaySleep) {
        let pm = self.pmap(id);
        let (mut gather, others) = {
            let mut d = pm.deferred.lock();
            if self.is_kernel(id)
                && let Some(range) = self.kernel_dirty()
            {
                d.gather.invalidate(id.raw(), range);
            }
            let others = d.finishing != 0;
            if d.gather.is_empty() && !others {
                return;
            }
            d.finishing += 1;
            (core::mem::take(&mut d.gather), others)
        };
        if others {
            gather.invalidate(id.raw(), self.whole(id));
            gather.invalidate_walks();
        }
        let done = gather.finish(self, may);
        debug_assert!(done.dead.is_none(), "a page in a gather that is not the core's");
        pm.deferred.lock().finishing -= 1;
    }

    /// All addresses of a pmap.
    pub(crate) fn whole(&self, id: PmapId) -> VaRange {
        if self.is_kernel(id) {
            return self.kernel_range();
        }
        let level = P::Format::LEVELS;
        let half = u32::from(!P::Format::SPLIT_ROOT);
        let pages = (P::Format::entries(level) as u64 >> half) << (P::Format::shift(level) - 12);
        VaRange::of_pages(machvm_hal::Va::ZERO, pages).unwrap_or(self.kernel_range())
    }
}
