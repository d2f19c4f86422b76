//! The methods of one address space.

use core::ops::Deref;
use core::sync::atomic::Ordering;
use std::sync::Arc;

use machvm_hal::pmap9::{
    Advice, EnterFailed, Frame, Held, InCore, LargeFailed, Mincore, PhysAddr, Pmap9, PmapFlags,
    PmapStatistics,
};
use machvm_hal::{CpuId, MaySleep, PAGE_MASK, PageArray, PageNo, Prot, RawAddr, Va, VaRange};

use super::super::index;
use super::super::shadow::Entry;
use super::{LinuxNinePmap, Ops};

impl<A> LinuxNinePmap<A>
where
    A: Deref<Target: PageArray + Sized> + Clone + Sync,
{
    fn ops(&self) -> Ops<'_, A::Target> {
        Ops { pm: &self.pm, pages: &*self.pages }
    }
    fn entry(&self, va: Va) -> Option<Entry> {
        self.ops().peek(self.place(va)?)
    }
    fn physical(&self, entry: Entry, at: RawAddr) -> PhysAddr {
        let pfn = match entry.frame {
            Frame::Page(page) => self.pages.pfn(page),
            Frame::Unmanaged(pfn) => pfn,
        };
        PhysAddr::new(pfn, at)
    }
    fn enter(&self, va: Va, frame: Frame, prot: Prot, flags: PmapFlags) -> Result<(), EnterFailed> {
        let Some(host) = self.place(va) else { return Err(EnterFailed::Foreign { va }) };
        let wired = flags.contains(PmapFlags::PMAP_WIRED);
        let done = match frame {
            Frame::Page(page) => self.ops().enter(host, page, prot, flags.access(), wired),
            Frame::Unmanaged(pfn) => self.ops().enter_plain(host, pfn, prot, wired, true),
        };
        done.map_err(|short| EnterFailed::NoMemory { va, short })
    }
}

fn managed(entry: Entry) -> bool {
    matches!(entry.frame, Frame::Page(_))
}

impl<A> Pmap9 for LinuxNinePmap<A>
where
    A: Deref<Target: PageArray + Sized> + Clone + Sync,
{
    fn pmap_reference(&self) -> Self {
        LinuxNinePmap { pm: Arc::clone(&self.pm), pages: self.pages.clone(), base: self.base }
    }
    fn pmap_destroy(self, _may: &mut MaySleep) {
        if let Some(last) = Arc::into_inner(self.pm) {
            let left = last.space().resident.load(Ordering::Relaxed);
            debug_assert!(left == 0, "pmap_destroy of {last:?}: {left} pages are mapped");
        }
    }

    #[track_caller]
    fn pmap_enter(
        &self,
        va: Va,
        frame: Frame,
        prot: Prot,
        flags: PmapFlags,
        _may: &mut MaySleep,
    ) -> Result<(), EnterFailed> {
        debug_assert!(prot.contains(flags.access()), "{va:?}: entered {prot:?} for {:?}", flags.access());
        if prot.is_empty() {
            self.pmap_remove(VaRange::page(va));
            return Ok(());
        }
        let done = self.enter(va, frame, prot, flags);
        match done {
            Err(why) if !flags.contains(PmapFlags::PMAP_CANFAIL) => {
                panic!("pmap_enter of {frame:?} at {va:?}, which may not fail: {why:?}")
            }
            _ => done,
        }
    }
    /// Linux has no superpages to ask for.
    fn pmap_enter_psind(
        &self,
        _va: Va,
        _frame: Frame,
        _prot: Prot,
        _flags: PmapFlags,
        psind: u8,
        _may: &mut MaySleep,
    ) -> Result<(), LargeFailed> {
        Err(LargeFailed::NoSuchSize { psind })
    }
    /// Linux does not tell of the first use, so the page counts as used.
    fn pmap_enter_quick(&self, va: Va, page: PageNo, prot: Prot) {
        if !prot.is_empty()
            && let Some(host) = self.place(va)
            && self.ops().peek(host).is_none()
        {
            let _ = self.ops().enter(host, page, prot - Prot::W, Prot::R, false);
        }
    }

    fn pmap_remove(&self, range: VaRange) {
        if let Some(host) = self.place_range(range) {
            self.ops().take(host, |_| true);
        }
    }
    fn pmap_remove_pages(&self, _may: &mut MaySleep) {
        debug_assert!(!self.is_kernel(), "pmap_remove_pages of the kernel's pmap");
        self.ops().take(self.ops().all(), |e| managed(e) && !e.wired);
    }
    fn pmap_protect(&self, range: VaRange, prot: Prot) {
        if !prot.contains(Prot::R) {
            self.pmap_remove(range);
        } else if prot != Prot::ALL
            && let Some(host) = self.place_range(range)
        {
            self.ops().restrict(host, prot);
        }
    }
    fn pmap_unwire(&self, range: VaRange) {
        if let Some(host) = self.place_range(range) {
            self.ops().unwire(host);
        }
    }
    /// Nothing was deferred.
    fn pmap_update(&self, _may: &mut MaySleep) {}
    /// What is managed and not wired goes, and the regions and tables of nothing.
    fn pmap_collect(&self, _may: &mut MaySleep) {
        let (ops, all) = (self.ops(), self.ops().all());
        ops.take(all, |e| managed(e) && !e.wired);
        ops.trim(all);
    }

    fn pmap_extract(&self, at: RawAddr) -> Option<PhysAddr> {
        Some(self.physical(self.entry(Va::containing(at))?, at))
    }
    fn pmap_extract_and_hold(
        &self,
        at: RawAddr,
        prot: Prot,
        hold: &mut dyn FnMut(PageNo) -> bool,
    ) -> Option<Held> {
        let va = Va::containing(at);
        let host = self.place(va)?;
        let leaf = self.pm.lock(host)?;
        let entry = Entry::of(leaf.pte(index(host))).filter(|e| e.rights.contains(prot))?;
        let Frame::Page(page) = entry.frame else { return None };
        hold(page).then(|| Held::new(va, page, false))
    }
    /// Nothing depends on holds here.
    fn pmap_unhold(&self, _held: Held) {}
    fn pmap_statistics(&self) -> PmapStatistics {
        let space = self.pm.space();
        PmapStatistics {
            resident_count: space.resident.load(Ordering::Relaxed),
            wired_count: space.wired.load(Ordering::Relaxed),
        }
    }
    fn pmap_is_prefaultable(&self, va: Va) -> bool {
        let leaf = self.place(va).and_then(|host| Some((self.pm.lock(host)?, host)));
        leaf.is_some_and(|(leaf, host)| !leaf.pte(index(host)).present())
    }
    fn pmap_mincore(&self, va: Va) -> Option<InCore> {
        let entry = self.entry(va)?;
        let mut bits = Mincore::INCORE;
        bits.set(Mincore::REFERENCED, entry.used && managed(entry));
        bits.set(Mincore::MODIFIED, entry.dirty);
        let both = Mincore::REFERENCED | Mincore::MODIFIED;
        let ask_page = managed(entry) && !bits.contains(both);
        Some(InCore { bits, pa: self.physical(entry, RawAddr(va.get() & !PAGE_MASK)), ask_page })
    }
    fn pmap_page_exists_quick(&self, page: PageNo) -> bool {
        self.pm.mmu.mapped_in(&*self.pages, page, self.pm.id())
    }

    fn pmap_advise(&self, range: VaRange, advice: Advice, _may: &mut MaySleep) {
        if let Some(host) = self.place_range(range) {
            self.ops().advise(host, advice == Advice::Free);
        }
    }
    fn pmap_fault(&self, at: RawAddr, access: Prot) -> bool {
        self.place(Va::containing(at)).is_some_and(|host| self.ops().fault(host, access))
    }
    /// A thread is in every pmap at once.
    fn pmap_activate(&self, _cpu: CpuId) {}
    /// See [`Pmap9::pmap_activate`].
    fn pmap_deactivate(&self, _cpu: CpuId) {}
}
