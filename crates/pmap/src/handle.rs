//! One address space, as the core sees it.

use core::ops::Deref;
use core::sync::atomic::Ordering;

use machvm_hal::{
    CpuId, DeviceFrames, EnterError, EnterFlags, Gather, PageArray, PageNo, Pfn, Pmap, Prot, Va, VaRange,
};

use crate::enter::Entering;
use crate::large::Unmanaged;
use crate::port::Port;
use crate::pte::Format;
use crate::system::{CreateError, PmapId, System};

/// A reference to a pmap of `*S`; dropping the last one destroys it (PM08). `S` is
/// `&'static System<P>` in a kernel, an `Arc` in tests.
pub struct PtPmap<P: Port, S: Deref<Target = System<P>>> {
    sys: S,
    id: PmapId,
}

impl<P: Port, S: Deref<Target = System<P>>> PtPmap<P, S> {
    /// `pmap_create` (PM05): a new empty user pmap.
    ///
    /// # Errors
    /// [`CreateError`]; nothing is left over.
    pub fn create(sys: S) -> Result<Self, CreateError> {
        let id = sys.create_raw()?;
        Ok(PtPmap { sys, id })
    }
    /// `pmap_kernel()` (PM10): another handle of the kernel's pmap.
    pub fn kernel(sys: S) -> Self {
        let id = sys.kernel_id();
        sys.pmap(id).refs.get();
        PtPmap { sys, id }
    }
    /// All pmaps.
    pub fn system(&self) -> &System<P> {
        &self.sys
    }
    /// The frame of its root table.
    pub fn root(&self) -> Pfn {
        self.sys.pmap(self.id).root()
    }
    /// The tag of its ranges in a gather.
    pub fn id(&self) -> PmapId {
        self.id
    }
    /// `pmap_wired_count` (PM45), in pages.
    pub fn wired_count(&self) -> u64 {
        self.sys.pmap(self.id).wired.load(Ordering::Relaxed)
    }
    /// Asserts in debug builds that a range is this half's.
    #[track_caller]
    fn own(&self, range: VaRange) {
        let (first, last) = (range.start().get(), range.end().sub(1).get());
        let canonical = P::Format::canonical(first) && P::Format::canonical(last);
        let kernel = self.id == self.sys.kernel_id();
        debug_assert!(
            canonical && P::Format::is_kernel(first) == kernel && P::Format::is_kernel(last) == kernel,
            "{range:?} is not in the {} half of {}",
            if kernel { "kernel" } else { "user" },
            P::Format::NAME
        );
    }
}

impl<P: Port, S: Deref<Target = System<P>>> core::fmt::Debug for PtPmap<P, S> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "PtPmap({:?})", self.id)
    }
}

impl<P: Port, S: Deref<Target = System<P>> + Clone> Clone for PtPmap<P, S> {
    /// `pmap_reference` (PM07).
    fn clone(&self) -> Self {
        self.sys.pmap(self.id).refs.get();
        PtPmap { sys: self.sys.clone(), id: self.id }
    }
}

impl<P: Port, S: Deref<Target = System<P>>> Drop for PtPmap<P, S> {
    fn drop(&mut self) {
        if self.sys.pmap(self.id).refs.put() {
            self.sys.destroy_raw(self.id);
        }
    }
}

impl<P: Port, S: Deref<Target = System<P>> + Sync> Pmap for PtPmap<P, S> {
    fn enter<A: PageArray>(
        &self,
        pages: &A,
        va: Va,
        run: &[PageNo],
        prot: Prot,
        access: Prot,
        flags: EnterFlags,
        gather: &mut Gather,
    ) -> Result<(), EnterError> {
        let Some(range) = VaRange::of_pages(va, run.len() as u64) else { return Ok(()) };
        self.own(range);
        let e = Entering { id: self.id, pm: self.sys.pmap(self.id), pages, prot, access, flags };
        self.sys.enter_run(&e, va, run, gather)
    }
    fn enter_frames<A: PageArray>(
        &self,
        pages: &A,
        va: Va,
        frames: DeviceFrames,
        prot: Prot,
        flags: EnterFlags,
        gather: &mut Gather,
    ) -> Result<(), EnterError> {
        let Some(range) = VaRange::of_pages(va, frames.pages) else { return Ok(()) };
        self.own(range);
        let wired = flags.contains(EnterFlags::WIRED);
        for (i, va) in range.iter().enumerate() {
            let pfn = frames.first.add(i as u64);
            let what = Unmanaged { pfn, prot, wired, attr: frames.attr };
            self.sys.enter_unmanaged(self.id, pages, va, &what, gather)?;
        }
        Ok(())
    }
    fn remove<A: PageArray>(&self, pages: &A, range: VaRange, gather: &mut Gather) {
        self.own(range);
        self.sys.remove_range(self.id, pages, range, gather);
    }
    fn protect<A: PageArray>(&self, pages: &A, range: VaRange, prot: Prot, gather: &mut Gather) {
        self.own(range);
        self.sys.protect_range(self.id, pages, range, prot, gather);
    }
    fn protect_copy<A: PageArray>(&self, pages: &A, range: VaRange, whole: bool, gather: &mut Gather) {
        self.own(range);
        self.sys.protect_copy_range(self.id, pages, range, whole, gather);
    }
    fn unwire<A: PageArray>(&self, pages: &A, range: VaRange, gather: &mut Gather) {
        self.own(range);
        self.sys.unwire_range(self.id, pages, range, gather);
    }
    fn extract<A: PageArray>(&self, pages: &A, va: Va) -> Option<(PageNo, Prot)> {
        self.sys.extract_page(self.id, pages, va)
    }
    fn resident_count(&self) -> u64 {
        self.sys.pmap(self.id).resident.load(Ordering::Relaxed)
    }
    fn activate(&self, cpu: CpuId) {
        self.sys.activate(self.id, cpu);
    }
    fn deactivate(&self, cpu: CpuId) {
        self.sys.deactivate(self.id, cpu);
    }
}
