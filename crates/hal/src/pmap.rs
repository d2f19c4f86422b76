//! The machine-dependent layer's contract (Mach `vm/pmap.h`, in traits).
//!
//! A pmap is a cache of the map's decisions: it may forget any mapping that is
//! not wired, at any time, and the fault brings it back. So `enter` and the fault
//! are idempotent.
//!
//! Lock state, for every method: the caller holds the page busy (for methods that
//! name pages) and the map lock, read or write (for methods that name addresses).
//! The pmap takes its own locks (ranks 40 and 50) and nothing below them.

use core::num::NonZeroU32;
use core::sync::atomic::{AtomicU32, AtomicU64};

use crate::addr::{Pfn, Va, VaRange};
use crate::gather::Gather;
use crate::host::CpuId;
use crate::pager::DeviceFrames;
use crate::prot::Prot;

bitflags::bitflags! {
    /// What is known of a page's use.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct RefMod: u32 {
        /// Read, written or executed since last cleared.
        const REFERENCED = 1;
        /// Written since last cleared. Exact: never falsely clear.
        const MODIFIED = 2;
    }
    /// Options of [`Pmap::enter`].
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct EnterFlags: u8 {
        /// `PMAP_WIRED`: the pmap may not forget the mapping.
        const WIRED = 1;
        /// Fault-ahead: nothing was accessed yet.
        const PREFAULT = 2;
    }
}

/// The number of a page structure. Not a frame number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct PageNo(pub NonZeroU32);

/// The machine-dependent part of a page structure (`struct md_page`). The core
/// stores it and never looks inside; all zero means no mapping.
#[derive(Debug, Default)]
pub struct PageMd {
    /// The first mapping, in the pmap's own encoding; 0: none. Not 0 while a removed
    /// translation may still be cached: who sees 0 takes the page for unmapped. \[M\]
    pub pv: AtomicU64,
    /// Further mappings, in the pmap's own encoding; 0: none. \[M\]
    pub more: AtomicU32,
    /// [`RefMod`] bits, and above bit 8 the pmap's own lock and flags. \[a\]
    pub bits: AtomicU32,
}

/// From page numbers to what a pmap needs of a page.
pub trait PageArray: Sync {
    /// The pmap's own part.
    fn md(&self, page: PageNo) -> &PageMd;
    /// The frame; constant while the page is busy or mapped.
    fn pfn(&self, page: PageNo) -> Pfn;
    /// The page whose frame this is. `None`: no page of this array, or the placement
    /// has no way back from frames (sparse).
    fn page_at(&self, frame: Pfn) -> Option<PageNo>;
}

/// Why [`Pmap::enter`] did not do all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EnterError {
    /// A table or a mapping record could not be had: drop all locks, make room
    /// (wait for memory), try again. Nothing was entered from that page on.
    NoMemory,
    /// Another frame was mapped at this address. The mapping is gone and in the
    /// gather; finish it, then enter again (clear, flush, set).
    Displaced(Va),
    /// This machine cannot map this frame at this address (sparse placement, not
    /// the natural frame): copy it to its natural frame first.
    Foreign(Va),
}

/// What the map says about a range, for machines whose "page tables" have a
/// structure of their own per range (Linux: one VMA).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Region {
    /// The natural frame of the first page.
    pub first: Pfn,
    /// Current protection of the entry.
    pub prot: Prot,
}

/// The machine refused the structure for a region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RegionError;

/// Why mappings of a page go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RemoveWhy {
    /// The page stays: the next access must fault (reference sampling).
    Sample,
    /// The frame is discarded next ([`crate::PhysMem::discard`] removes what the
    /// machine still maps), so only the records need to go.
    Free,
}

/// The map of one address space.
pub trait Pmap: Sync + Sized {
    /// Maps `run[i]` at `va + i` with `prot`, because of `access` at some page of
    /// it. Pages already mapped with these rights are left as they are; rights are
    /// only ever added. Entering with [`Prot::W`] in `prot` marks the page modified
    /// where the machine cannot tell later.
    ///
    /// => every page of `run` is busy; the map is at least read locked.
    ///
    /// # Errors
    /// [`EnterError`]; pages before the one named are entered.
    #[expect(clippy::too_many_arguments)]
    fn enter<A: PageArray>(
        &self,
        pages: &A,
        va: Va,
        run: &[PageNo],
        prot: Prot,
        access: Prot,
        flags: EnterFlags,
        gather: &mut Gather,
    ) -> Result<(), EnterError>;

    /// Maps frames that are no pages from `va` on, unmanaged: functions that start from pages do
    /// not reach them, functions that name addresses do. Rights are only ever added.
    ///
    /// => the map is at least read locked.
    ///
    /// # Errors
    /// [`EnterError`]; frames before the one named are entered. [`EnterError::Foreign`]: also a
    /// machine that has no such mappings.
    fn enter_frames<A: PageArray>(
        &self,
        _pages: &A,
        va: Va,
        _frames: DeviceFrames,
        _prot: Prot,
        _flags: EnterFlags,
        _gather: &mut Gather,
    ) -> Result<(), EnterError> {
        Err(EnterError::Foreign(va))
    }

    /// Removes every mapping in the range; wired ones too. Also gathers what others
    /// took away in it and have not flushed.
    fn remove<A: PageArray>(&self, pages: &A, range: VaRange, gather: &mut Gather);

    /// Takes away every right beyond `prot` in the range (copy-on-write).
    /// [`Prot::NONE`] removes.
    fn protect<A: PageArray>(&self, pages: &A, range: VaRange, prot: Prot, gather: &mut Gather);

    /// As `protect` without [`Prot::W`], for copy-on-write. May take write access from
    /// more than the range (a pmap is a cache), so the cost need not depend on how much
    /// is mapped; `whole`: most of the address space is being copied (fork).
    fn protect_copy<A: PageArray>(&self, pages: &A, range: VaRange, _whole: bool, gather: &mut Gather) {
        self.protect(pages, range, Prot::ALL - Prot::W, gather);
    }

    /// The mappings in the range are no longer wired. No right changes; what is gathered
    /// comes from breaking a superpage.
    fn unwire<A: PageArray>(&self, pages: &A, range: VaRange, gather: &mut Gather);

    /// The page mapped at `va` and its rights. Rights are what the machine would grant
    /// at once (the AND over the path).
    fn extract<A: PageArray>(&self, pages: &A, va: Va) -> Option<(PageNo, Prot)>;

    /// Number of pages mapped.
    fn resident_count(&self) -> u64;

    /// This CPU now runs on this pmap.
    fn activate(&self, _cpu: CpuId) {}
    /// This CPU no longer runs on this pmap.
    fn deactivate(&self, _cpu: CpuId) {}

    /// Has the machine a structure for each region, so that nothing can be entered before
    /// [`Pmap::region_insert`]? Who says so implements the three functions below.
    fn has_regions(&self) -> bool {
        false
    }
    /// A map entry now covers the range.
    ///
    /// => the map is write locked; nothing is mapped in the range.
    ///
    /// # Errors
    /// [`RegionError`]; nothing changed.
    fn region_insert(&self, _range: VaRange, _region: Region) -> Result<(), RegionError> {
        Ok(())
    }
    /// No map entry covers the range any more; removes its mappings too.
    ///
    /// => the map is write locked.
    fn region_remove<A: PageArray>(&self, pages: &A, range: VaRange, gather: &mut Gather) {
        self.remove(pages, range, gather);
    }
    /// The protection of the entry that covers the range changed from `old`.
    ///
    /// => the map is write locked.
    ///
    /// # Errors
    /// [`RegionError`]; nothing changed. Never when rights are only taken away and
    /// the range is a whole region.
    fn region_protect<A: PageArray>(
        &self,
        pages: &A,
        range: VaRange,
        old: Prot,
        new: Prot,
        gather: &mut Gather,
    ) -> Result<(), RegionError> {
        if !new.contains(old) {
            self.protect(pages, range, new, gather);
        }
        Ok(())
    }
}

/// Operations that start from pages and reach every mapping of them, in every
/// pmap.
pub trait PmapPage: Sync {
    /// Takes write access from every mapping of the pages.
    ///
    /// => the pages are busy, so nobody enters them meanwhile.
    fn page_write_protect<A: PageArray>(&self, pages: &A, list: &[PageNo], gather: &mut Gather);
    /// Removes every mapping of the pages.
    ///
    /// => as above.
    fn page_remove<A: PageArray>(&self, pages: &A, list: &[PageNo], why: RemoveWhy, gather: &mut Gather);
    /// What is known of the page's use, mapped or not.
    fn page_refmod<A: PageArray>(&self, pages: &A, page: PageNo) -> RefMod;
    /// As `page_refmod`, and forgets `clear` of it. Once the gather is finished the next
    /// use is noticed again.
    ///
    /// => the page is busy.
    fn page_clear<A: PageArray>(&self, pages: &A, page: PageNo, clear: RefMod, gather: &mut Gather)
    -> RefMod;
}
