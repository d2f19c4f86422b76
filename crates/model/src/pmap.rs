//! What the core is given: the flat pmap or page tables, whichever the machine has.

use std::sync::Arc;

use machvm_hal::{
    DeviceFrames, EnterError, EnterFlags, Flush, Gather, Invalidations, PageArray, PageNo, Pfn, Pmap,
    PmapPage, Prot, RefMod, Region, RegionError, RemoveWhy, Va, VaRange,
};

use crate::mmu::{FlatFlush, FlatPages, FlatPmap};
use crate::paging::{TablePmap, Tables};

/// One address space.
#[derive(Debug)]
pub enum ModelPmap {
    /// On the flat MMU.
    Flat(FlatPmap),
    /// On page tables.
    Tables(TablePmap),
}

impl ModelPmap {
    /// A number that tells spaces apart.
    pub fn space(&self) -> u32 {
        match self {
            ModelPmap::Flat(p) => p.space(),
            ModelPmap::Tables(p) => p.root().0 as u32,
        }
    }
    /// Forgets the mapping at `va`, as a pmap may at any time. Wired ones stay.
    pub fn forget<A: PageArray>(&self, pages: &A, va: Va) {
        match self {
            ModelPmap::Flat(p) => p.forget(pages, va),
            ModelPmap::Tables(p) => p.forget(pages, va),
        }
    }
    /// Every region: first page, pages, first frame, protection. Page tables have none.
    pub fn regions(&self) -> Vec<(u64, u64, u64, Prot)> {
        match self {
            ModelPmap::Flat(p) => p.regions(),
            ModelPmap::Tables(_) => Vec::new(),
        }
    }
    /// The page tables, if these are.
    pub fn tables(&self) -> Option<&TablePmap> {
        match self {
            ModelPmap::Flat(_) => None,
            ModelPmap::Tables(p) => Some(p),
        }
    }
}

impl Pmap for ModelPmap {
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
        match self {
            ModelPmap::Flat(p) => p.enter(pages, va, run, prot, access, flags, gather),
            ModelPmap::Tables(p) => p.enter(pages, va, run, prot, access, flags, gather),
        }
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
        match self {
            ModelPmap::Flat(p) => p.enter_frames(pages, va, frames, prot, flags, gather),
            ModelPmap::Tables(p) => p.on(|p| p.enter_frames(pages, va, frames, prot, flags, gather)),
        }
    }
    fn remove<A: PageArray>(&self, pages: &A, range: VaRange, gather: &mut Gather) {
        match self {
            ModelPmap::Flat(p) => p.remove(pages, range, gather),
            ModelPmap::Tables(p) => p.on(|p| p.remove(pages, range, gather)),
        }
    }
    fn protect<A: PageArray>(&self, pages: &A, range: VaRange, prot: Prot, gather: &mut Gather) {
        match self {
            ModelPmap::Flat(p) => p.protect(pages, range, prot, gather),
            ModelPmap::Tables(p) => p.on(|p| p.protect(pages, range, prot, gather)),
        }
    }
    fn protect_copy<A: PageArray>(&self, pages: &A, range: VaRange, whole: bool, gather: &mut Gather) {
        match self {
            ModelPmap::Flat(p) => p.protect_copy(pages, range, whole, gather),
            ModelPmap::Tables(p) => p.on(|p| p.protect_copy(pages, range, whole, gather)),
        }
    }
    fn unwire<A: PageArray>(&self, pages: &A, range: VaRange, gather: &mut Gather) {
        match self {
            ModelPmap::Flat(p) => p.unwire(pages, range, gather),
            ModelPmap::Tables(p) => p.on(|p| p.unwire(pages, range, gather)),
        }
    }
    fn extract<A: PageArray>(&self, pages: &A, va: Va) -> Option<(PageNo, Prot)> {
        match self {
            ModelPmap::Flat(p) => p.extract(pages, va),
            // Asked under spin locks too: nobody else runs meanwhile.
            ModelPmap::Tables(p) => p.here(|p| p.extract(pages, va)),
        }
    }
    fn resident_count(&self) -> u64 {
        match self {
            ModelPmap::Flat(p) => p.resident_count(),
            ModelPmap::Tables(p) => p.here(|p| p.resident_count()),
        }
    }
    fn has_regions(&self) -> bool {
        matches!(self, ModelPmap::Flat(_))
    }
    fn region_insert(&self, range: VaRange, region: Region) -> Result<(), RegionError> {
        match self {
            ModelPmap::Flat(p) => p.region_insert(range, region),
            ModelPmap::Tables(p) => p.region_insert(range),
        }
    }
    fn region_remove<A: PageArray>(&self, pages: &A, range: VaRange, gather: &mut Gather) {
        match self {
            ModelPmap::Flat(p) => p.region_remove(pages, range, gather),
            ModelPmap::Tables(p) => p.on(|p| p.remove(pages, range, gather)),
        }
    }
    fn region_protect<A: PageArray>(
        &self,
        pages: &A,
        range: VaRange,
        old: Prot,
        new: Prot,
        gather: &mut Gather,
    ) -> Result<(), RegionError> {
        match self {
            ModelPmap::Flat(p) => p.region_protect(pages, range, old, new, gather),
            ModelPmap::Tables(p) => {
                // What the trait does by itself.
                if !new.contains(old) {
                    p.on(|p| p.protect(pages, range, new, gather));
                }
                Ok(())
            }
        }
    }
}

/// From pages to their mappings.
#[derive(Clone, Debug)]
pub enum ModelPages {
    /// On the flat MMU.
    Flat(FlatPages),
    /// On page tables.
    Tables(Arc<Tables>),
}

impl PmapPage for ModelPages {
    fn page_write_protect<A: PageArray>(&self, pages: &A, list: &[PageNo], gather: &mut Gather) {
        match self {
            ModelPages::Flat(p) => p.page_write_protect(pages, list, gather),
            ModelPages::Tables(t) => t.on(|s, _| s.page_write_protect(pages, list, gather)),
        }
    }
    fn page_remove<A: PageArray>(&self, pages: &A, list: &[PageNo], why: RemoveWhy, gather: &mut Gather) {
        match self {
            ModelPages::Flat(p) => p.page_remove(pages, list, why, gather),
            ModelPages::Tables(t) => t.on(|s, _| s.page_remove(pages, list, why, gather)),
        }
    }
    fn page_refmod<A: PageArray>(&self, pages: &A, page: PageNo) -> RefMod {
        match self {
            ModelPages::Flat(p) => p.page_refmod(pages, page),
            ModelPages::Tables(t) => t.here(|s, _| s.page_refmod(pages, page)),
        }
    }
    fn page_clear<A: PageArray>(
        &self,
        pages: &A,
        page: PageNo,
        clear: RefMod,
        gather: &mut Gather,
    ) -> RefMod {
        match self {
            ModelPages::Flat(p) => p.page_clear(pages, page, clear, gather),
            ModelPages::Tables(t) => t.on(|s, _| s.page_clear(pages, page, clear, gather)),
        }
    }
}

/// Makes stale translations unusable.
#[derive(Clone, Debug)]
pub enum ModelFlush {
    /// On the flat MMU.
    Flat(FlatFlush),
    /// On page tables.
    Tables(Arc<Tables>),
}

impl Flush for ModelFlush {
    fn flush(&self, what: &Invalidations<'_>) {
        match self {
            ModelFlush::Flat(f) => f.flush(what),
            ModelFlush::Tables(t) => t.flush(what),
        }
    }
    fn free_tables(&self, first: Pfn) {
        match self {
            ModelFlush::Flat(f) => f.free_tables(first),
            ModelFlush::Tables(t) => t.on(|s, _| s.free_tables(first)),
        }
    }
    fn epoch_over(&self, epoch: core::num::NonZeroU64) {
        match self {
            ModelFlush::Flat(f) => f.epoch_over(epoch),
            ModelFlush::Tables(t) => t.on(|s, _| s.epoch_over(epoch)),
        }
    }
}
