//! The one type parameter.

use machvm_arena::{ChunkSource, NoMemory};
use machvm_hal::{Flush, Host, Pager, PhysMem, Pmap, PmapPage, Swap};

use crate::pageout::{OutOfMemory, Policy, Replacement, TaskSize, Watch};

/// Names a pager of the embedder; see [`Platform::pager`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(transparent)]
pub struct PagerId(pub core::num::NonZeroU32);

/// Everything the core needs from the world around it.
pub trait Platform: Sized + Sync {
    /// Waiting and time.
    type Host: Host;
    /// Frames.
    type Mem: PhysMem;
    /// One address space's translations.
    type Pmap: Pmap;
    /// From pages to all their mappings.
    type PmapPage: PmapPage;
    /// Carries out deferred invalidations.
    type Flush: Flush;
    /// Memory for the core's own structures.
    type Chunks: ChunkSource;

    /// See [`Platform::Host`].
    fn host(&self) -> &Self::Host;
    /// See [`Platform::Mem`].
    fn mem(&self) -> &Self::Mem;
    /// See [`Platform::PmapPage`].
    fn pmap_page(&self) -> &Self::PmapPage;
    /// See [`Platform::Flush`].
    fn flush(&self) -> &Self::Flush;
    /// See [`Platform::Chunks`].
    fn chunks(&self) -> Self::Chunks;

    /// Where anonymous pages go when memory is short. `None`: they stay.
    fn swap(&self) -> Option<&dyn Swap> {
        None
    }
    /// The pager of that name. `None` when it is gone: its pages cannot be had.
    fn pager(&self, _id: PagerId) -> Option<&dyn Pager> {
        None
    }
    /// One more object takes its absent pages from the pager.
    fn pager_used(&self, _id: PagerId) {}
    /// One object less uses the pager.
    ///
    /// => no lock of the core is held.
    fn pager_unused(&self, _id: PagerId) {}
    /// A copy is to be made of an object whose pager's data others may change: those bytes
    /// from `offset` on as they are now, as the data of another pager (at the same offsets),
    /// with one use. `None`: nobody changes them behind the object, so the copy takes what
    /// is absent from the same pager.
    ///
    /// => a map may be write locked; what is asked for waits for no lock of the core.
    ///
    /// # Errors
    /// [`NoMemory`].
    fn pager_snapshot(&self, _id: PagerId, _offset: u64, _bytes: u64) -> Option<Result<PagerId, NoMemory>> {
        None
    }
    /// Free memory fell below the target: wake the page daemon, if there is one.
    ///
    /// => spin locks may be held: must not block.
    fn memory_low(&self) {}
    /// How the pages that go are chosen; asked once, when the system is made.
    fn policy(&self) -> &'static dyn Policy {
        Replacement::default().policy()
    }
    /// Who is told how memory is used.
    #[inline]
    fn watch(&self) -> Option<&dyn Watch> {
        None
    }
    /// The daemon could not free what is needed: the embedder should give back memory of
    /// its own that it can spare (D11 `vm_lowmem`). Told every ten seconds at most.
    ///
    /// => no lock of the core is held.
    fn lowmem(&self) {}
    /// Names every task with its size, for the out-of-memory policy. A task that was ended
    /// is named until its memory is free.
    ///
    /// => no lock of the core is held.
    fn for_each_task(&self, _f: &mut dyn FnMut(TaskSize)) {}
    /// Memory is exhausted (D10). `true`: the victim is being ended, so those who need
    /// memory wait for it; else their faults fail.
    ///
    /// => no lock of the core is held.
    fn out_of_memory(&self, _report: &OutOfMemory) -> bool {
        false
    }
}
