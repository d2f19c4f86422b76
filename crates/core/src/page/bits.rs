//! Dirty and valid; taking mappings away (P22 to P25).
//!
//! A page is valid and dirty as a whole. Dirty is what the page's owner said, or what the
//! pmap knows of its mappings, which is exact.

use machvm_arena::Handle;
use machvm_hal::{Gather, MaySleep, Pindex, PmapPage, RefMod};

use super::{PageFlags, RUN, XBusy, number};
use crate::object::Object;
use crate::platform::Platform;
use crate::vm::Vm;

bitflags::bitflags! {
    /// What [`Vm::vm_page_ps_test`] asks (`PS_*`).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct PsTest: u32 {
        /// Every page is dirty.
        const ALL_DIRTY = 1;
        /// Every page has contents.
        const ALL_VALID = 2;
        /// No page is busy.
        const NONE_BUSY = 4;
    }
}

impl<P: Platform> XBusy<'_, P> {
    /// Its contents differ from those on backing store (`vm_page_dirty`).
    pub fn dirty(&mut self) {
        self.structure().insert_flags(PageFlags::DIRTY);
    }

    /// As [`XBusy::dirty`]; was it known already (`vm_page_set_dirty`)?
    pub fn set_dirty(&mut self) -> bool {
        let was = self.structure().flags().contains(PageFlags::DIRTY);
        self.dirty();
        was
    }

    /// Takes back what [`XBusy::dirty`] said (`vm_page_undirty`). What the pmap knows stays.
    pub fn undirty(&mut self) {
        self.structure().remove_flags(PageFlags::DIRTY | PageFlags::PRECIOUS);
    }

    /// Do its contents differ from those on backing store, as its owner said or its mappings
    /// wrote (`vm_page_test_dirty`)? Then it is dirty from now on whatever becomes of them.
    pub fn test_dirty(&mut self) -> bool {
        let dirty = self.vm.page_is_dirty(self.page);
        if dirty {
            self.dirty();
        }
        dirty
    }

    /// Its contents are those on backing store, also for the pmap (`vm_page_clear_dirty` of
    /// the whole page); tells whether they were not. Write access goes first, so that no
    /// write is lost: the next is noticed again (Z75).
    pub fn clear_dirty(&mut self, may: &mut MaySleep) -> bool {
        self.remove_write(may);
        let dirty = self.vm.page_is_dirty(self.page);
        self.undirty();
        let mut g = Gather::new();
        let pmaps = self.vm.plat.pmap_page();
        pmaps.page_clear(&self.vm.pages, number(self.page), RefMod::MODIFIED, &mut g);
        self.vm.finish(g, may);
        dirty
    }

    /// Its contents are complete, and those on backing store (`vm_page_set_validclean` of the
    /// whole page).
    pub fn set_validclean(&mut self, may: &mut MaySleep) {
        self.clear_dirty(may);
        self.set_valid();
    }

    /// Its contents count no more (`vm_page_set_invalid` of the whole page): mappings go, and
    /// unless it is made valid again, the object has at this index what is on backing store,
    /// or zero. `false`: copies share the contents, or it is wired, and nothing changed.
    pub fn set_invalid(&mut self, may: &mut MaySleep) -> bool {
        if self.is_kept() || self.is_shared(may) {
            return false;
        }
        self.unmap(may);
        self.clear_dirty(may);
        self.vm.queues.dequeue(&self.vm.pages, self.page);
        self.valid = false;
        true
    }

    /// Zero where there are no contents, and valid then (`vm_page_zero_invalid`).
    pub fn zero_invalid(&mut self) {
        if !self.valid {
            self.clear();
            self.valid = true;
        }
    }

    /// Takes every mapping away, if nobody keeps the page by a wiring
    /// (`vm_page_try_remove_all`). `false`: somebody does, and nothing changed. Wirings are
    /// made with the page busy, so none comes in between (Z78).
    pub fn try_remove_all(&mut self, may: &mut MaySleep) -> bool {
        if self.is_kept() {
            return false;
        }
        self.unmap(may);
        true
    }

    /// As [`XBusy::try_remove_all`], taking write access only (`vm_page_try_remove_write`).
    pub fn try_remove_write(&mut self, may: &mut MaySleep) -> bool {
        if self.is_kept() {
            return false;
        }
        self.remove_write(may);
        true
    }

    fn remove_write(&self, may: &mut MaySleep) {
        let mut g = Gather::new();
        self.vm.plat.pmap_page().page_write_protect(&self.vm.pages, &[number(self.page)], &mut g);
        self.vm.finish(g, may);
    }
}

impl<P: Platform> Vm<P> {
    /// Asks something of the whole superpage around `index` (P24 `vm_page_ps_test`); `skip` is
    /// an index that is not asked. `false` too when the pages there are not one superpage: 512
    /// pages in the frames of one run, in order. The answer is of some moment of the call.
    ///
    /// => the caller has a reference to the object.
    pub fn vm_page_ps_test(
        &self,
        object: Handle<Object>,
        index: Pindex,
        ask: PsTest,
        skip: Option<Pindex>,
        may: &mut MaySleep,
    ) -> bool {
        let Some(here) = self.find_from(object, index.0, 1, may) else { return false };
        let frame = self.pages.get(here.1.1).pfn();
        let Some(first) = index.0.checked_sub(frame.0 % RUN) else { return false };
        let inner = self.objects.get(object).lock.read(self.host(), may);
        (first..first + RUN).all(|i| {
            let (a, _) = self.tree_lookup(&inner.tree, i);
            let Some(p) = a.and_then(|a| self.anons.get(a).page()) else { return false };
            let page = self.pages.get(p);
            let in_place = page.pfn().0 == frame.0 - frame.0 % RUN + (i - first);
            let asked = skip != Some(Pindex(i));
            let dirty = || self.page_is_dirty(p);
            let busy = || page.busy.is_busy();
            in_place
                && !(asked && ask.contains(PsTest::ALL_DIRTY) && !dirty())
                && !(asked && ask.contains(PsTest::NONE_BUSY) && busy())
        })
    }
}
