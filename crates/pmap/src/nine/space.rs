//! [`Pmap9`].

use core::ops::Deref;
use core::sync::atomic::Ordering;

use machvm_hal::pmap9::{
    Advice, EnterFailed, Frame, Held, InCore, LargeFailed, MemAttr, PhysAddr, Pmap9, PmapFlags,
    PmapStatistics, Shortage,
};
use machvm_hal::{
    CpuId, EnterError, EnterFlags, Gather, MaySleep, PageArray, PageNo, Pfn, Pmap, Prot, RawAddr, Va, VaRange,
};

use super::NinePmap;
use crate::enter::Entering;
use crate::large::{NotLarge, Unmanaged};
use crate::port::{Port, TableMem};
use crate::pv::page_attr;
use crate::system::{PmapId, System};

/// Pages entered in one go by [`Pmap9::pmap_enter_object`].
const BATCH: usize = 32;

/// Pages that follow each other, for one [`Pmap::enter`].
struct Batch {
    at: u64,
    run: [Option<PageNo>; BATCH],
    len: usize,
}

impl<P, S, A> NinePmap<P, S, A>
where
    P: Port,
    S: Deref<Target = System<P>> + Clone + Sync,
    A: Deref<Target: PageArray + Sized> + Clone + Sync,
{
    fn sys(&self) -> &System<P> {
        self.pm.system()
    }
    fn id(&self) -> PmapId {
        self.pm.id()
    }
    fn lazily<R>(&self, f: impl FnOnce(&mut Gather) -> R) -> R {
        self.sys().deferring(self.id(), f)
    }
    fn at_once<R>(&self, may: &mut MaySleep, f: impl FnOnce(&mut Gather) -> R) -> R {
        let r = self.lazily(f);
        self.pmap_update(may);
        r
    }

    /// What of an older mapping of the same frame must go first: rights, wiring, or, with
    /// another caching, all of it.
    fn reduce(&self, va: Va, pfn: Pfn, prot: Prot, wired: bool, attr: MemAttr, g: &mut Gather) {
        let Some((old, level)) = self.sys().leaf_of(self.id(), va.get()) else { return };
        if old.pfn != pfn {
            return;
        }
        let page = VaRange::page(va);
        if old.attr != attr && level == 1 {
            return self.pm.remove(&*self.pages, page, g);
        }
        if !prot.hardware().contains(old.prot) {
            self.pm.protect(&*self.pages, page, prot.hardware(), g);
        }
        if old.wired && !wired {
            self.pm.unwire(&*self.pages, page, g);
        }
    }

    fn enter_once(
        &self,
        va: Va,
        frame: Frame,
        prot: Prot,
        flags: PmapFlags,
        g: &mut Gather,
    ) -> Result<(), EnterError> {
        let wired = flags.contains(PmapFlags::PMAP_WIRED);
        if !self.sys().owns(self.id(), va.get()) {
            return Err(EnterError::Foreign(va));
        }
        match frame {
            Frame::Page(page) => {
                let (pfn, attr) = (self.pages.pfn(page), page_attr(self.pages.md(page)));
                if !self.sys().port().mem().has_frames(pfn, 1) {
                    return Err(EnterError::Foreign(va));
                }
                self.reduce(va, pfn, prot, wired, attr, g);
                let mut how = EnterFlags::empty();
                how.set(EnterFlags::WIRED, wired);
                how.set(EnterFlags::PREFAULT, flags.access().is_empty());
                self.pm.enter(&*self.pages, va, &[page], prot, flags.access(), how, g)
            }
            Frame::Unmanaged(pfn) => {
                let what = Unmanaged { pfn, prot, wired, attr: flags.attr() };
                self.reduce(va, pfn, prot, wired, what.attr, g);
                self.sys().enter_unmanaged(self.id(), &*self.pages, va, &what, g)
            }
        }
    }

    fn short_of(&self, va: Va) -> Shortage {
        let w = self.sys().walk(self.sys().pmap(self.id()), va.get());
        if w.is_leaf() { Shortage::Record } else { Shortage::Table }
    }

    fn large_once(
        &self,
        va: Va,
        frame: Frame,
        prot: Prot,
        flags: PmapFlags,
        psind: u8,
        g: &mut Gather,
    ) -> Result<(), NotLarge> {
        let (wired, access) = (flags.contains(PmapFlags::PMAP_WIRED), flags.access());
        let replace = !flags.contains(PmapFlags::PMAP_ENTER_NOREPLACE);
        match frame {
            Frame::Page(page) => {
                // Managed ones can be broken up: they are of the smallest size.
                if psind != 1 || flags.contains(PmapFlags::PMAP_ENTER_LARGEPAGE) {
                    return Err(LargeFailed::NoSuchSize { psind }.into());
                }
                let mut how = EnterFlags::empty();
                how.set(EnterFlags::WIRED, wired);
                how.set(EnterFlags::PREFAULT, access.is_empty());
                let pm = self.sys().pmap(self.id());
                let e = Entering { id: self.id(), pm, pages: &*self.pages, prot, access, flags: how };
                self.sys().enter_super(&e, va, page, replace, g)
            }
            Frame::Unmanaged(pfn) => {
                let what = Unmanaged { pfn, prot, wired, attr: flags.attr() };
                self.sys().enter_large(self.id(), &*self.pages, va, &what, psind, replace, g)
            }
        }
    }

    /// Speculatively; failing is nothing.
    fn enter_batch(&self, start: Va, batch: &mut Batch, prot: Prot, g: &mut Gather) {
        let mut run = [PageNo(core::num::NonZeroU32::MIN); BATCH];
        for (to, page) in run.iter_mut().zip(batch.run.iter().flatten()) {
            *to = *page;
        }
        let run = &run[..batch.len];
        let (va, prot) = (start.add(batch.at), prot - Prot::W);
        batch.len = 0;
        if run.is_empty() || prot.is_empty() {
            return;
        }
        let flags = EnterFlags::PREFAULT;
        // The map is locked against other changes, so nothing is displaced.
        let done = self.pm.enter(&*self.pages, va, run, prot, Prot::NONE, flags, g);
        debug_assert!(!matches!(done, Err(EnterError::Displaced(_))), "{done:?}: mapped meanwhile");
    }
}

#[cold]
#[track_caller]
fn refuse(va: Va, frame: Frame, e: EnterFailed) -> ! {
    panic!("pmap_enter of {frame:?} at {va:?} without PMAP_CANFAIL: {e:?}");
}

impl<P, S, A> Pmap9 for NinePmap<P, S, A>
where
    P: Port,
    S: Deref<Target = System<P>> + Clone + Sync,
    A: Deref<Target: PageArray + Sized> + Clone + Sync,
{
    fn pmap_reference(&self) -> Self {
        NinePmap { pm: self.pm.clone(), pages: self.pages.clone() }
    }
    fn pmap_destroy(self, may: &mut MaySleep) {
        self.pmap_update(may);
    }

    #[track_caller]
    fn pmap_enter(
        &self,
        va: Va,
        frame: Frame,
        prot: Prot,
        flags: PmapFlags,
        may: &mut MaySleep,
    ) -> Result<(), EnterFailed> {
        debug_assert!(prot.contains(flags.access()), "{va:?}: entered {prot:?} for {:?}", flags.access());
        if prot.is_empty() {
            self.pmap_remove(VaRange::page(va));
            return Ok(());
        }
        let failed = loop {
            match self.lazily(|g| self.enter_once(va, frame, prot, flags, g)) {
                Ok(()) => return Ok(()),
                // Clear, flush, set.
                Err(EnterError::Displaced(_)) => self.pmap_update(may),
                Err(EnterError::NoMemory) => break EnterFailed::NoMemory { va, short: self.short_of(va) },
                Err(EnterError::Foreign(_)) => break EnterFailed::Foreign { va },
            }
        };
        if !flags.contains(PmapFlags::PMAP_CANFAIL) {
            refuse(va, frame, failed);
        }
        Err(failed)
    }
    fn pmap_enter_psind(
        &self,
        va: Va,
        frame: Frame,
        prot: Prot,
        flags: PmapFlags,
        psind: u8,
        may: &mut MaySleep,
    ) -> Result<(), LargeFailed> {
        debug_assert!(!prot.is_empty(), "{va:?}: a superpage without rights");
        loop {
            match self.lazily(|g| self.large_once(va, frame, prot, flags, psind, g)) {
                Ok(()) => return Ok(()),
                Err(NotLarge::Displaced) => self.pmap_update(may),
                Err(NotLarge::Failed(e)) => return Err(e),
            }
        }
    }
    fn pmap_enter_quick(&self, va: Va, page: PageNo, prot: Prot) {
        self.pmap_enter_object(VaRange::page(va), &mut core::iter::once((0, page)), prot);
    }
    fn pmap_enter_object(
        &self,
        range: VaRange,
        resident: &mut dyn Iterator<Item = (u64, PageNo)>,
        prot: Prot,
    ) {
        let start = range.start();
        self.lazily(|g| {
            let mut batch = Batch { at: 0, run: [None; BATCH], len: 0 };
            for (i, page) in resident.take_while(|(i, _)| *i < range.pages()) {
                let follows = batch.len != 0 && batch.at + batch.len as u64 == i;
                if batch.len == BATCH || !follows {
                    self.enter_batch(start, &mut batch, prot, g);
                }
                if self.sys().leaf_of(self.id(), start.add(i).get()).is_some() {
                    continue;
                }
                if batch.len == 0 {
                    batch.at = i;
                }
                batch.run[batch.len] = Some(page);
                batch.len += 1;
            }
            self.enter_batch(start, &mut batch, prot, g);
        });
    }
    fn pmap_object_init_pt(&self, range: VaRange, first: Pfn, prot: Prot, attr: MemAttr) -> u64 {
        let last = range.end().sub(1).get();
        let mine = self.sys().owns(self.id(), range.start().get()) && self.sys().owns(self.id(), last);
        if prot.is_empty() || !mine {
            return 0;
        }
        self.lazily(|g| self.sys().preload(self.id(), &*self.pages, range, first, prot, attr, g))
    }

    fn pmap_remove(&self, range: VaRange) {
        self.lazily(|g| self.pm.remove(&*self.pages, range, g));
    }
    fn pmap_remove_pages(&self, may: &mut MaySleep) {
        debug_assert!(self.id() != self.sys().kernel_id(), "pmap_remove_pages of the kernel's pmap");
        self.at_once(may, |g| self.sys().strip(self.id(), &*self.pages, |l| l.managed, g));
    }
    fn pmap_protect(&self, range: VaRange, prot: Prot) {
        self.lazily(|g| self.pm.protect(&*self.pages, range, prot, g));
    }
    fn pmap_unwire(&self, range: VaRange) {
        self.lazily(|g| self.pm.unwire(&*self.pages, range, g));
    }
    fn pmap_update(&self, may: &mut MaySleep) {
        self.sys().finish_deferred(self.id(), may);
    }
    fn pmap_collect(&self, may: &mut MaySleep) {
        self.at_once(may, |g| self.sys().strip(self.id(), &*self.pages, |_| true, g));
    }

    fn pmap_extract(&self, at: RawAddr) -> Option<PhysAddr> {
        self.sys().physical(self.id(), at)
    }
    fn pmap_extract_and_hold(
        &self,
        at: RawAddr,
        prot: Prot,
        hold: &mut dyn FnMut(PageNo) -> bool,
    ) -> Option<Held> {
        let va = Va::containing(at);
        let page = self.lazily(|g| self.sys().hold(self.id(), &*self.pages, va, prot, hold, g))?;
        Some(Held::new(va, page, true))
    }
    fn pmap_unhold(&self, held: Held) {
        if held.counted() {
            self.lazily(|g| self.sys().unhold(self.id(), held.va(), g));
        }
    }
    fn pmap_statistics(&self) -> PmapStatistics {
        let pm = self.sys().pmap(self.id());
        PmapStatistics {
            resident_count: pm.resident.load(Ordering::Relaxed),
            wired_count: pm.wired.load(Ordering::Relaxed),
        }
    }
    fn pmap_is_prefaultable(&self, va: Va) -> bool {
        self.sys().is_prefaultable(self.id(), va)
    }
    fn pmap_mincore(&self, va: Va) -> Option<InCore> {
        self.sys().mincore(self.id(), va)
    }
    fn pmap_page_exists_quick(&self, page: PageNo) -> bool {
        self.sys().exists_quick(self.id(), &*self.pages, page)
    }

    fn pmap_advise(&self, range: VaRange, advice: Advice, may: &mut MaySleep) {
        self.at_once(may, |g| self.sys().advise_range(self.id(), &*self.pages, range, advice, g));
    }
    fn pmap_fault(&self, at: RawAddr, access: Prot) -> bool {
        self.sys().fault(self.id(), at, access)
    }
    fn pmap_activate(&self, cpu: CpuId) {
        self.pm.activate(cpu);
    }
    fn pmap_deactivate(&self, cpu: CpuId) {
        self.pm.deactivate(cpu);
    }
}
