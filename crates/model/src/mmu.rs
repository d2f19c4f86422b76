//! The flat pmap: a plain map from addresses to pages that forgets.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use machvm_hal::{
    EnterError, EnterFlags, Flush, Gather, Invalidations, PageArray, PageNo, Pmap, PmapPage, Prot, RefMod,
    Region, RegionError, RemoveWhy, Va, VaRange,
};

use crate::hardware::{Hardware, Pte, RegionEntry, Space, State};
use crate::inject::Point;

/// One address space.
#[derive(Debug)]
pub struct FlatPmap {
    hw: Arc<Hardware>,
    space: u32,
}

impl FlatPmap {
    pub(crate) fn new(hw: Arc<Hardware>) -> Self {
        let space = {
            let mut s = hw.state();
            let n = s.next_space;
            s.next_space += 1;
            s.spaces.insert(n, Space::default());
            n
        };
        FlatPmap { hw, space }
    }
    /// The number by which [`Hardware`] knows this space.
    pub fn space(&self) -> u32 {
        self.space
    }
    /// Forgets the mapping at `va`, as a pmap may at any time. Wired ones stay.
    pub fn forget<A: PageArray>(&self, pages: &A, va: Va) {
        let mut s = self.hw.state();
        if s.spaces.get(&self.space).and_then(|sp| sp.ptes.get(&va.page())).is_some_and(|p| !p.wired) {
            s.unmap(pages, self.space, va.page(), false);
        }
    }
    /// Every mapping: address, rights, wired.
    pub fn mappings(&self) -> Vec<(Va, PageNo, Prot, bool)> {
        let s = self.hw.state();
        let sp = s.spaces.get(&self.space);
        sp.into_iter()
            .flat_map(|sp| &sp.ptes)
            .map(|(v, p)| (Va::from_page(*v), p.page, p.prot, p.wired))
            .collect()
    }
    /// Every region: first page, pages, protection.
    pub fn regions(&self) -> Vec<(u64, u64, u64, Prot)> {
        let s = self.hw.state();
        let sp = s.spaces.get(&self.space);
        sp.into_iter().flat_map(|sp| &sp.regions).map(|(v, r)| (*v, r.end - v, r.first.0, r.prot)).collect()
    }

    /// What is not flushed in the range, whoever took it away.
    fn gather_pending(&self, s: &State, range: VaRange, gather: &mut Gather) {
        for (_, va) in s.stale.keys().filter(|(t, va)| *t == self.space && range.contains(Va::from_page(*va)))
        {
            gather.invalidate(self.space, VaRange::page(Va::from_page(*va)));
        }
    }

    fn forget_some<A: PageArray>(&self, pages: &A) {
        let mut s = self.hw.state();
        if self.hw.forget == 0 || !s.rng.one_in(self.hw.forget) {
            return;
        }
        let from = s.rng.bits() % (1 << 36);
        let Some(sp) = s.spaces.get(&self.space) else { return };
        let found = sp.ptes.range(from..).chain(sp.ptes.range(..from)).find(|(_, p)| !p.wired);
        if let Some((va, _)) = found {
            let va = *va;
            s.unmap(pages, self.space, va, false);
        }
    }

    /// One page; `Ok(true)`: another frame was there and is gone now.
    fn enter_one(&self, pages: &impl PageArray, va: Va, page: PageNo, prot: Prot, wired: bool) -> bool {
        let mut s = self.hw.state();
        let pfn = pages.pfn(page);
        let region = s.region(self.space, va.page());
        let Some((start, r)) = region else { panic!("{va:?} is entered outside every region") };
        assert!(
            !s.sparse || r.first.add(va.page() - start) == pfn,
            "{va:?}: frame {:#x} is not the natural one, {:#x}",
            pfn.0,
            r.first.add(va.page() - start).0
        );
        assert!(r.prot.hardware().contains(prot), "{va:?}: {prot:?} exceeds the region's {:?}", r.prot);
        assert!(s.frames.contains_key(&pfn.0), "{va:?}: frame {:#x} is entered but not resident", pfn.0);
        if let Some(st) = s.stale.get(&(self.space, va.page())) {
            assert!(st.pfn == pfn, "{va:?}: frame {:#x} is entered while {st:?} is not flushed", pfn.0);
        }
        match s.spaces.get_mut(&self.space).and_then(|sp| sp.ptes.get_mut(&va.page())) {
            Some(old) if old.page == page && old.pfn == pfn => {
                old.prot |= prot;
                old.wired |= wired;
                false
            }
            Some(_) => {
                s.unmap(pages, self.space, va.page(), true);
                true
            }
            None => {
                s.map(pages, self.space, va.page(), Pte { page, pfn, prot, wired });
                false
            }
        }
    }
}

impl Drop for FlatPmap {
    fn drop(&mut self) {
        let sp = self.hw.state().spaces.remove(&self.space);
        if let Some(sp) = sp
            && !std::thread::panicking()
        {
            assert!(sp.ptes.is_empty(), "a pmap ends with mappings: {:?}", sp.ptes);
            assert!(sp.regions.is_empty(), "a pmap ends with regions: {:?}", sp.regions);
        }
    }
}

impl Pmap for FlatPmap {
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
        self.hw.host.preempt();
        assert!(
            prot.contains(access) || flags.contains(EnterFlags::PREFAULT),
            "entered with {prot:?} for {access:?}"
        );
        self.forget_some(pages);
        for (i, page) in run.iter().enumerate() {
            if self.hw.inject.fails(Point::Enter) {
                return Err(EnterError::NoMemory);
            }
            let at = va.add(i as u64);
            if self.enter_one(pages, at, *page, prot, flags.contains(EnterFlags::WIRED)) {
                gather.invalidate(self.space, VaRange::page(at));
                return Err(EnterError::Displaced(at));
            }
            if !flags.contains(EnterFlags::PREFAULT) {
                pages.md(*page).bits.fetch_or(RefMod::REFERENCED.bits(), SeqCst);
            }
        }
        Ok(())
    }

    fn remove<A: PageArray>(&self, pages: &A, range: VaRange, gather: &mut Gather) {
        self.hw.host.preempt();
        let mut s = self.hw.state();
        let Some(sp) = s.spaces.get(&self.space) else { return };
        let list: Vec<u64> =
            sp.ptes.range(range.start().page()..range.end().page()).map(|(v, _)| *v).collect();
        for va in list {
            s.unmap(pages, self.space, va, true);
        }
        self.gather_pending(&s, range, gather);
    }

    fn protect<A: PageArray>(&self, pages: &A, range: VaRange, prot: Prot, gather: &mut Gather) {
        if prot.is_empty() {
            return self.remove(pages, range, gather);
        }
        self.hw.host.preempt();
        let mut s = self.hw.state();
        let Some(sp) = s.spaces.get_mut(&self.space) else { return };
        let mut weaker = Vec::new();
        for (va, pte) in sp.ptes.range_mut(range.start().page()..range.end().page()) {
            if !prot.contains(pte.prot) {
                weaker.push((*va, *pte));
                pte.prot &= prot;
            }
        }
        for (va, old) in weaker {
            s.note_stale(self.space, va, old);
        }
        self.gather_pending(&s, range, gather);
    }

    fn unwire<A: PageArray>(&self, _pages: &A, range: VaRange, _gather: &mut Gather) {
        let mut s = self.hw.state();
        let Some(sp) = s.spaces.get_mut(&self.space) else { return };
        for (_, pte) in sp.ptes.range_mut(range.start().page()..range.end().page()) {
            pte.wired = false;
        }
    }

    fn extract<A: PageArray>(&self, _pages: &A, va: Va) -> Option<(PageNo, Prot)> {
        let s = self.hw.state();
        s.spaces.get(&self.space)?.ptes.get(&va.page()).map(|p| (p.page, p.prot))
    }

    fn resident_count(&self) -> u64 {
        self.hw.state().spaces.get(&self.space).map_or(0, |sp| sp.ptes.len() as u64)
    }

    fn has_regions(&self) -> bool {
        true
    }
    fn region_insert(&self, range: VaRange, region: Region) -> Result<(), RegionError> {
        self.hw.host.preempt();
        if self.hw.inject.fails(Point::Region) {
            return Err(RegionError);
        }
        let mut s = self.hw.state();
        let old = s.regions_in(self.space, range);
        assert!(old.is_empty(), "region {range:?} is inserted over another");
        let sp = s.spaces.get_mut(&self.space).expect("a live space");
        let (from, to) = (range.start().page(), range.end().page());
        assert!(sp.ptes.range(from..to).next().is_none(), "region {range:?} is inserted over mappings");
        sp.regions.insert(from, RegionEntry { end: to, first: region.first, prot: region.prot });
        Ok(())
    }

    fn region_remove<A: PageArray>(&self, pages: &A, range: VaRange, gather: &mut Gather) {
        self.remove(pages, range, gather);
        let mut s = self.hw.state();
        for start in s.regions_in(self.space, range) {
            s.spaces.get_mut(&self.space).expect("a live space").regions.remove(&start);
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
        self.hw.host.preempt();
        if self.hw.inject.fails(Point::RegionProtect) {
            return Err(RegionError);
        }
        {
            let mut s = self.hw.state();
            let list = s.regions_in(self.space, range);
            let sp = s.spaces.get_mut(&self.space).expect("a live space");
            for start in list {
                let r = sp.regions.get_mut(&start).expect("just listed");
                assert!(r.prot == old, "region {range:?} had {:?}, not {old:?}", r.prot);
                r.prot = new;
            }
        }
        if !new.hardware().contains(old.hardware()) {
            self.protect(pages, range, new.hardware(), gather);
        }
        Ok(())
    }
}

/// From pages to their mappings.
#[derive(Clone, Debug)]
pub struct FlatPages {
    pub(crate) hw: Arc<Hardware>,
}

/// Others took translations of the page away and have not flushed them yet: whoever
/// relies on them being gone must flush them too.
fn gather_pending(s: &State, page: PageNo, gather: &mut Gather) {
    for ((space, va), _) in s.stale.iter().filter(|(_, p)| p.page == page) {
        gather.invalidate(*space, VaRange::page(Va::from_page(*va)));
    }
}

impl PmapPage for FlatPages {
    fn page_write_protect<A: PageArray>(&self, _pages: &A, list: &[PageNo], gather: &mut Gather) {
        self.hw.host.preempt();
        let mut s = self.hw.state();
        for page in list {
            gather_pending(&s, *page, gather);
            for (space, va) in s.mappings.get(&page.0.get()).cloned().unwrap_or_default() {
                let pte = s.spaces.get_mut(&space).and_then(|sp| sp.ptes.get_mut(&va)).expect("recorded");
                if pte.prot.contains(Prot::W) {
                    let old = *pte;
                    pte.prot -= Prot::W;
                    s.note_stale(space, va, old);
                    gather.invalidate(space, VaRange::page(Va::from_page(va)));
                }
            }
        }
    }

    fn page_remove<A: PageArray>(&self, pages: &A, list: &[PageNo], _why: RemoveWhy, gather: &mut Gather) {
        self.hw.host.preempt();
        let mut s = self.hw.state();
        for page in list {
            for (space, va) in s.mappings.get(&page.0.get()).cloned().unwrap_or_default() {
                s.unmap(pages, space, va, true);
            }
            gather_pending(&s, *page, gather);
            // The caller holds the page busy until it has flushed.
            pages.md(*page).pv.store(0, SeqCst);
        }
    }

    fn page_refmod<A: PageArray>(&self, pages: &A, page: PageNo) -> RefMod {
        self.page_clear(pages, page, RefMod::empty(), &mut Gather::new())
    }
    fn page_clear<A: PageArray>(
        &self,
        pages: &A,
        page: PageNo,
        clear: RefMod,
        _gather: &mut Gather,
    ) -> RefMod {
        RefMod::from_bits_truncate(pages.md(page).bits.fetch_and(!clear.bits(), SeqCst))
    }
}

/// Makes stale translations unusable.
#[derive(Clone, Debug)]
pub struct FlatFlush {
    pub(crate) hw: Arc<Hardware>,
}

impl Flush for FlatFlush {
    fn flush(&self, what: &Invalidations<'_>) {
        self.hw.host.preempt();
        let mut s = self.hw.state();
        if what.all {
            s.stale.clear();
        } else {
            s.stale.retain(|(space, va), _| {
                !what.ranges.iter().any(|(t, r)| t == space && r.contains(Va::from_page(*va)))
            });
        }
    }
}
