//! The methods of the machine.

use core::ops::Deref;
use std::sync::Arc;

use machvm_hal::pmap9::{
    Frame, MemAttr, MemAttrFailed, PhysAddr, Pmap9, PmapCreateFailed, PmapFlags, PmapMachine,
};
use machvm_hal::{MaySleep, PAGE_SIZE, PageArray, PageNo, PhysMem, Prot, RawAddr, RefMod, Va, VaRange};

use super::super::shadow::Entry;
use super::super::{Mmu, Window};
use super::{LinuxNine, LinuxNinePmap, LinuxQuick, Ops};
use crate::phys::LinuxMem;

/// Bytes of a page.
const BYTES: usize = PAGE_SIZE as usize;

impl<A, M> LinuxNine<A, M>
where
    A: Deref<Target: PageArray + Sized> + Clone + Sync,
    M: Deref<Target = LinuxMem> + Sync,
{
    fn mmu(&self) -> &Mmu {
        &self.pv.0
    }
    /// => `range` lies in the kernel's pmap.
    #[track_caller]
    fn kernel_ops(&self, range: VaRange) -> Ops<'_, A::Target> {
        let all = self.kernel.window();
        assert!(all.intersect(range) == Some(range), "no page tables for {range:?}: the kernel has {all:?}");
        Ops { pm: &self.kernel, pages: &*self.pages }
    }
}

fn managed(entry: &Entry) -> bool {
    matches!(entry.frame, Frame::Page(_))
}

impl<A, M> PmapMachine for LinuxNine<A, M>
where
    A: Deref<Target: PageArray + Sized> + Clone + Sync,
    M: Deref<Target = LinuxMem> + Sync,
{
    type Pmap = LinuxNinePmap<A>;
    type Quick<'a>
        = LinuxQuick<'a>
    where
        Self: 'a;

    fn pmap_kernel(&self) -> Self::Pmap {
        LinuxNinePmap { pm: Arc::clone(&self.kernel), pages: self.pages.clone(), base: 0 }
    }
    fn pmap_create(&self) -> Result<Self::Pmap, PmapCreateFailed> {
        let pm = self.pv.pmap(Window::Reserve(self.user)).map_err(|_| PmapCreateFailed)?;
        let base = pm.window().start().page();
        Ok(LinuxNinePmap { pm: Arc::new(pm), pages: self.pages.clone(), base })
    }

    /// # Panics
    /// As the trait says, and when Linux refuses the mapping (`vm.max_map_count`).
    #[track_caller]
    fn pmap_kenter_pa(&self, va: Va, frame: Frame, prot: Prot, _flags: PmapFlags) {
        let ops = self.kernel_ops(VaRange::page(va));
        if let Some(there) = ops.peek(va).filter(managed) {
            debug_assert!(false, "pmap_kenter_pa at {va:?}: pmap_enter mapped {:?} there", there.frame);
            return;
        }
        let pfn = match frame {
            Frame::Page(page) => self.pages.pfn(page),
            Frame::Unmanaged(pfn) => pfn,
        };
        let done = ops.enter_plain(va, pfn, prot, true, false);
        assert!(done.is_ok(), "pmap_kenter_pa of {frame:?} at {va:?}: {done:?}");
    }
    #[track_caller]
    fn pmap_kremove(&self, range: VaRange) {
        let ops = self.kernel_ops(range);
        let mistake = range.iter().find_map(|va| Some((va, ops.peek(va).filter(managed)?)));
        if let Some((va, there)) = mistake {
            debug_assert!(false, "pmap_kremove of {va:?}: pmap_enter mapped {:?} there", there.frame);
        }
        ops.take(range, |e| !managed(&e));
    }
    fn pmap_kextract(&self, at: RawAddr) -> Option<PhysAddr> {
        self.pmap_kernel().pmap_extract(at)
    }

    #[track_caller]
    fn pmap_quick_enter_page(&self, page: PageNo) -> LinuxQuick<'_> {
        self.quick.enter(&self.mem, self.pages.pfn(page))
    }

    fn pmap_zero_page(&self, page: PageNo) {
        self.pmap_zero_page_area(page, 0, BYTES);
    }
    #[track_caller]
    fn pmap_zero_page_area(&self, page: PageNo, off: usize, size: usize) {
        assert!(off <= BYTES && size <= BYTES - off, "{size} bytes from {off} leave the page");
        self.mem.write(self.pages.pfn(page), off, &[0; BYTES][..size]);
    }
    fn pmap_copy_page(&self, src: PageNo, dst: PageNo) {
        debug_assert!(src != dst, "pmap_copy_page of {src:?} to itself");
        self.mem.copy(self.pages.pfn(src), self.pages.pfn(dst));
    }
    #[track_caller]
    fn pmap_copy_pages(&self, src: &[PageNo], src_off: usize, dst: &[PageNo], dst_off: usize, size: usize) {
        for (off, run) in [(src_off, src), (dst_off, dst)] {
            let room = run.len() * BYTES;
            assert!(off <= room && size <= room - off, "{size} bytes from {off} leave {} pages", run.len());
        }
        let mut buf = [0; BYTES];
        let mut done = 0;
        while done < size {
            let (s, d) = (src_off + done, dst_off + done);
            let n = (size - done).min(BYTES - s % BYTES).min(BYTES - d % BYTES);
            self.mem.read(self.pages.pfn(src[s / BYTES]), s % BYTES, &mut buf[..n]);
            self.mem.write(self.pages.pfn(dst[d / BYTES]), d % BYTES, &buf[..n]);
            done += n;
        }
    }

    fn remove_page_mappings(&self, page: PageNo, _may: &mut MaySleep) {
        self.mmu().page_take(&*self.pages, page);
    }
    fn pmap_remove_write(&self, page: PageNo, _may: &mut MaySleep) {
        self.mmu().page_read_only(&*self.pages, page);
    }

    fn pmap_is_modified(&self, page: PageNo) -> bool {
        self.mmu().page_knows(&*self.pages, page, RefMod::MODIFIED)
    }
    fn pmap_clear_modify(&self, page: PageNo, _may: &mut MaySleep) -> bool {
        self.mmu().page_clear_modified(&*self.pages, page)
    }
    fn pmap_is_referenced(&self, page: PageNo) -> bool {
        self.mmu().page_knows(&*self.pages, page, RefMod::REFERENCED)
    }
    fn pmap_clear_reference(&self, page: PageNo, _may: &mut MaySleep) -> bool {
        self.mmu().page_clear_referenced(&*self.pages, page, u32::MAX) != 0
    }
    fn pmap_ts_referenced(&self, page: PageNo, _may: &mut MaySleep) -> u32 {
        self.mmu().page_ts_referenced(&*self.pages, page)
    }

    fn pmap_page_is_mapped(&self, page: PageNo) -> bool {
        self.mmu().mapped(&*self.pages, page)
    }
    fn pmap_page_is_write_mapped(&self, page: PageNo) -> bool {
        self.mmu().entries(&*self.pages, page).any(|e| e.rights.contains(Prot::W))
    }
    fn pmap_page_wired_mappings(&self, page: PageNo) -> u64 {
        self.mmu().entries(&*self.pages, page).filter(|e| e.wired).count() as u64
    }

    fn pmap_page_get_memattr(&self, _page: PageNo) -> MemAttr {
        MemAttr::WriteBack
    }
    fn pmap_page_set_memattr(&self, _page: PageNo, attr: MemAttr) -> Result<(), MemAttrFailed> {
        if self.pmap_is_valid_memattr(attr) { Ok(()) } else { Err(MemAttrFailed::Unsupported(attr)) }
    }
    fn pmap_is_valid_memattr(&self, attr: MemAttr) -> bool {
        attr == MemAttr::WriteBack
    }
    fn superpage_shift(&self, _psind: u8) -> Option<u32> {
        None
    }
}
