//! [`PmapMachine`] and [`PmapBootstrap`].

use core::ops::Deref;

use machvm_hal::pmap9::{
    Frame, MemAttr, MemAttrFailed, PhysAddr, PhysSegment, PmapBootstrap, PmapCreateFailed, PmapFlags,
    PmapMachine,
};
use machvm_hal::{
    Gather, MaySleep, PAGE_SIZE, PageArray, PageNo, Pfn, PhysMem, PmapPage, Prot, RawAddr, RawSize, RefMod,
    RemoveWhy, Va, VaRange,
};

use super::{Nine, NinePmap, contents};
use crate::handle::PtPmap;
use crate::port::{Port, TableMem};
use crate::pte::{Format, Pte};
use crate::pv::{page_attr, set_page_attr};
use crate::quick::Quick;
use crate::system::System;
use crate::walk::as_leaf;

impl<P, S, A, M> Nine<P, S, A, M>
where
    P: Port,
    S: Deref<Target = System<P>> + Clone + Sync,
    A: Deref<Target: PageArray + Sized> + Clone + Sync,
    M: Deref<Target: PhysMem + Sized> + Sync,
{
    fn frame(&self, page: PageNo) -> Pfn {
        self.pages.pfn(page)
    }
    /// Runs `f` and flushes what it gathered.
    fn at_once<R>(&self, may: &mut MaySleep, f: impl FnOnce(&mut Gather) -> R) -> R {
        let mut g = Gather::new();
        let r = f(&mut g);
        if !g.is_empty() {
            let done = g.finish(&*self.sys, may);
            debug_assert!(done.dead.is_none(), "a page in a gather that is not the core's");
        }
        r
    }
}

impl<P, S, A, M> PmapMachine for Nine<P, S, A, M>
where
    P: Port,
    S: Deref<Target = System<P>> + Clone + Sync,
    A: Deref<Target: PageArray + Sized> + Clone + Sync,
    M: Deref<Target: PhysMem + Sized> + Sync,
{
    type Pmap = NinePmap<P, S, A>;
    type Quick<'a>
        = Quick<'a, P>
    where
        Self: 'a;

    fn pmap_init(&self) {
        self.sys.bootstrapped();
    }
    fn pmap_kernel(&self) -> Self::Pmap {
        self.adopt(PtPmap::kernel(self.sys.clone()))
    }
    fn pmap_create(&self) -> Result<Self::Pmap, PmapCreateFailed> {
        PtPmap::create(self.sys.clone()).map(|pm| self.adopt(pm)).map_err(|_| PmapCreateFailed)
    }

    #[track_caller]
    fn pmap_kenter_pa(&self, va: Va, frame: Frame, prot: Prot, flags: PmapFlags) {
        let (pfn, attr) = match frame {
            Frame::Page(page) if flags.attr() == MemAttr::WriteBack => {
                (self.frame(page), page_attr(self.pages.md(page)))
            }
            Frame::Page(page) => (self.frame(page), flags.attr()),
            Frame::Unmanaged(pfn) => (pfn, flags.attr()),
        };
        self.sys.kenter(va, pfn, prot, attr);
    }
    fn pmap_kremove(&self, range: VaRange) {
        self.sys.kremove(range);
    }
    fn pmap_qenter(&self, va: Va, pages: &[PageNo]) {
        let Some(range) = VaRange::of_pages(va, pages.len() as u64) else { return };
        let id = self.sys.kernel_id();
        if range.iter().any(|at| self.sys.leaf_of(id, at.get()).is_some()) {
            // No CPU may use the old and the new frame at once.
            self.sys.kremove(range);
            self.sys.finish_deferred(id, &mut MaySleep::claim());
        }
        for (at, page) in range.iter().zip(pages) {
            self.pmap_kenter_pa(at, (*page).into(), Prot::RW, PmapFlags::empty());
        }
    }
    fn pmap_kextract(&self, at: RawAddr) -> Option<PhysAddr> {
        if !P::Format::canonical(at.0) || !P::Format::is_kernel(at.0) {
            return None;
        }
        self.sys.physical(self.sys.kernel_id(), at)
    }

    #[track_caller]
    fn pmap_quick_enter_page(&self, page: PageNo) -> Quick<'_, P> {
        self.sys.quick_enter(self.frame(page))
    }

    fn pmap_zero_page(&self, page: PageNo) {
        contents::zero(&*self.mem, self.frame(page), 0, PAGE_SIZE as usize);
    }
    #[track_caller]
    fn pmap_zero_page_area(&self, page: PageNo, off: usize, size: usize) {
        contents::zero(&*self.mem, self.frame(page), off, size);
    }
    fn pmap_copy_page(&self, src: PageNo, dst: PageNo) {
        self.mem.copy(self.frame(src), self.frame(dst));
    }
    #[track_caller]
    fn pmap_copy_pages(&self, src: &[PageNo], src_off: usize, dst: &[PageNo], dst_off: usize, size: usize) {
        contents::copy(
            &*self.mem,
            (src.len(), |i| self.frame(src[i]), src_off),
            (dst.len(), |i| self.frame(dst[i]), dst_off),
            size,
        );
    }

    fn remove_page_mappings(&self, page: PageNo, may: &mut MaySleep) {
        self.at_once(may, |g| self.sys.page_remove(&*self.pages, &[page], RemoveWhy::Sample, g));
    }
    fn pmap_remove_write(&self, page: PageNo, may: &mut MaySleep) {
        self.at_once(may, |g| self.sys.page_write_protect(&*self.pages, &[page], g));
    }

    fn pmap_is_modified(&self, page: PageNo) -> bool {
        self.sys.page_refmod(&*self.pages, page).contains(RefMod::MODIFIED)
    }
    fn pmap_clear_modify(&self, page: PageNo, may: &mut MaySleep) -> bool {
        let bit = RefMod::MODIFIED;
        self.at_once(may, |g| self.sys.page_clear(&*self.pages, page, bit, g)).contains(bit)
    }
    fn pmap_is_referenced(&self, page: PageNo) -> bool {
        self.sys.page_refmod(&*self.pages, page).contains(RefMod::REFERENCED)
    }
    fn pmap_clear_reference(&self, page: PageNo, may: &mut MaySleep) -> bool {
        let bit = RefMod::REFERENCED;
        self.at_once(may, |g| self.sys.page_clear(&*self.pages, page, bit, g)).contains(bit)
    }
    fn pmap_ts_referenced(&self, page: PageNo, may: &mut MaySleep) -> u32 {
        self.at_once(may, |g| self.sys.ts_referenced(&*self.pages, page, g))
    }

    fn pmap_page_is_mapped(&self, page: PageNo) -> bool {
        let mut any = false;
        self.sys.each_mapping(&*self.pages, page, |_, _| {
            any = true;
            true
        });
        any
    }
    fn pmap_page_is_write_mapped(&self, page: PageNo) -> bool {
        let mut any = false;
        self.sys.each_mapping(&*self.pages, page, |l, _| {
            any = l.prot.contains(Prot::W);
            any
        });
        any
    }
    fn pmap_page_wired_mappings(&self, page: PageNo) -> u64 {
        let mut n = 0;
        self.sys.each_mapping(&*self.pages, page, |l, _| {
            n += u64::from(l.wired);
            false
        });
        n
    }

    fn pmap_page_get_memattr(&self, page: PageNo) -> MemAttr {
        page_attr(self.pages.md(page))
    }
    fn pmap_page_set_memattr(&self, page: PageNo, attr: MemAttr) -> Result<(), MemAttrFailed> {
        if !self.pmap_is_valid_memattr(attr) {
            return Err(MemAttrFailed::Unsupported(attr));
        }
        let md = self.pages.md(page);
        if page_attr(md) != attr {
            if !self.sys.is_unmapped(&*self.pages, page) {
                return Err(MemAttrFailed::Mapped(page));
            }
            set_page_attr(md, attr);
        }
        Ok(())
    }
    fn pmap_is_valid_memattr(&self, attr: MemAttr) -> bool {
        // A format has what comes back from it.
        let leaf = crate::kernel::kernel_leaf(Pfn(0), Prot::RW, attr);
        let word = P::Format::emit(Pte::Leaf(leaf), 1);
        as_leaf::<P::Format>(word, 1).is_some_and(|l| l.attr == attr)
    }

    fn superpage_shift(&self, psind: u8) -> Option<u32> {
        System::<P>::large_shift(psind)
    }
    fn direct_map(&self, at: PhysAddr) -> Option<RawAddr> {
        let page = self.sys.port().mem().direct(at.pfn())?;
        Some(RawAddr(page.get() | at.0 & (PAGE_SIZE - 1)))
    }
}

impl<P, S, A, M> PmapBootstrap for Nine<P, S, A, M>
where
    P: Port,
    S: Deref<Target = System<P>> + Clone + Sync,
    A: Deref<Target: PageArray + Sized> + Clone + Sync,
    M: Deref<Target: PhysMem + Sized> + Sync,
{
    fn pmap_virtual_space(&self) -> VaRange {
        self.sys.virtual_space()
    }
    #[track_caller]
    fn pmap_steal_memory(&self, size: RawSize, segments: &mut [PhysSegment]) -> Va {
        let frames = size.0.div_ceil(PAGE_SIZE).max(1);
        match self.sys.steal(frames, segments) {
            Ok((va, first)) => {
                (0..frames).for_each(|i| contents::zero(&*self.mem, first.add(i), 0, PAGE_SIZE as usize));
                va
            }
            Err(e) => panic!("pmap_steal_memory of {:#x} bytes: {e:?}", size.0),
        }
    }
    #[track_caller]
    fn pmap_growkernel(&self, max: RawAddr) -> RawAddr {
        // Rounded up; the top of the address space is no address.
        let page = Va::from_page(max.0.div_ceil(PAGE_SIZE).min(u64::MAX >> 12));
        match self.sys.grow_kernel(page) {
            Ok(end) => RawAddr(end.get()),
            Err(e) => panic!("pmap_growkernel to {:#x}: no page table for {:?}", max.0, e.at),
        }
    }
}
