//! Wiring pages without a map (P16 to P18).
//!
//! A wiring of these is a hold, as I/O takes them through a map
//! ([`crate::map::Map::fault_quick_hold_pages`]): the page is its object's alone, is neither
//! paged out nor moved, and when its object drops it, or ends, it stays until the last wiring
//! goes (Z60). Wirings of map entries are counted apart.

use core::mem;

use machvm_arena::Handle;
use machvm_hal::{MaySleep, PageNo, Pfn, PhysMem};

use super::{At, FrameClass, FreeBatch, Page, PageAdvice, PageQueue, StayError, Used, XBusy, number};
use crate::platform::Platform;
use crate::vm::Vm;

/// A wiring of a page that has, or had, an object. Dropping it is
/// `vm_page_unwire_noq`: the page stays on the queue that it is on.
///
/// => dropped with no spin lock held.
#[must_use = "dropping it unwires the page"]
pub struct Wired<'vm, P: Platform> {
    vm: &'vm Vm<P>,
    page: Handle<Page>,
}

impl<P: Platform> core::fmt::Debug for Wired<'_, P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Wired(page {})", self.page.get())
    }
}

impl<'vm, P: Platform> XBusy<'vm, P> {
    /// One wiring more (`vm_page_wire`); the page stays busy.
    ///
    /// => nothing is locked.
    ///
    /// # Errors
    /// [`StayError::Gone`]: copies share it, it has no contents, or the object dropped it.
    /// [`StayError::NoMemory`]: it had to move to the frame of its place (sparse).
    pub fn wire(&mut self, may: &mut MaySleep) -> Result<Wired<'vm, P>, StayError> {
        let vm = self.vm;
        if !self.is_valid() {
            return Err(StayError::Gone);
        }
        self.come_home(may)?;
        let inner = vm.objects.get(self.object).lock.read(vm.host(), may);
        let (a, path) = vm.tree_lookup(&inner.tree, self.index);
        let own = a.map(|a| vm.anons.get(a)).is_some_and(|a| !path && !a.is_shared() && a.holds(self.page));
        if !own {
            return Err(StayError::Gone);
        }
        // As a hold for I/O: marked first, so that no copy misses it.
        vm.tree_mark_held(&inner.tree, self.index);
        vm.object_note_held(self.object);
        self.structure().holds.get(1);
        Ok(Wired { vm, page: self.page })
    }

    /// Sparse: the page moves to the frame of its place, if it is at another one that nobody
    /// keeps.
    fn come_home(&mut self, may: &mut MaySleep) -> Result<(), StayError> {
        let vm = self.vm;
        let natural = vm.objects.get(self.object).natural(self.index);
        if !vm.frames.is_sparse() || self.pfn() == natural || self.is_kept() {
            return Ok(());
        }
        if self.is_shared(may) {
            return Err(StayError::Gone);
        }
        if !vm.limbo_is_empty() {
            return Err(StayError::NoMemory);
        }
        let a = self.structure().owner.get().ok_or(StayError::Gone)?;
        let at = At::Frame(natural);
        let q = vm.page_take_as(FrameClass::Normal, at, |_| false).ok_or(StayError::NoMemory)?;
        if vm.mem().prepare(natural, 1).is_err() {
            vm.page_untake(q);
            return Err(StayError::NoMemory);
        }
        self.unmap(may);
        vm.mem().copy(self.pfn(), natural);
        vm.page_inherit(self.page, q);
        vm.pages.get(q).owner.set(Some(a));
        if !vm.anons.get(a).change_page(Some(self.page), Some(q)) {
            vm.pages.get(q).owner.set(None);
            FreeBatch::new(vm).push(q);
            return Err(StayError::Gone);
        }
        let old = mem::replace(&mut self.page, q);
        vm.queues.dequeue(&vm.pages, old);
        vm.pages.get(old).owner.set(None);
        FreeBatch::new(vm).push(old);
        Ok(())
    }
}

impl<P: Platform> Wired<'_, P> {
    /// The number of the page structure; the page may have no object any more.
    pub fn number(&self) -> PageNo {
        number(self.page)
    }
    /// The frame; constant.
    pub fn pfn(&self) -> Pfn {
        self.vm.pages.get(self.page).pfn()
    }
    /// The page may have been written by who wired it: it is modified (Z77).
    pub fn written(&mut self) {
        self.vm.pages.get(self.page).holds.get(1);
        self.vm.page_unhold(self.page, Used::Written);
    }

    /// One wiring less (`vm_page_unwire`); if it was the last, and the page is not busy, it
    /// goes to the queue named.
    pub fn unwire(self, queue: PageQueue, may: &mut MaySleep) {
        self.last_to(may, |x, may| match queue {
            PageQueue::Active => x.activate(),
            PageQueue::Inactive => x.deactivate(may),
            PageQueue::Laundry => x.launder(may),
            PageQueue::Unswappable => x.unswappable(may),
        });
    }

    /// One wiring less; the page will not be needed soon (P18 `vm_page_release` with
    /// `VPR_NOREUSE`): the last leaves a page that is not busy as the first to be freed, or,
    /// modified, to be written.
    pub fn release(self, may: &mut MaySleep) {
        self.last_to(may, |x, may| {
            if x.test_dirty() {
                x.advise(PageAdvice::DontNeed, may);
            } else {
                x.deactivate_noreuse(may);
            }
        });
    }

    fn last_to(self, may: &mut MaySleep, f: impl FnOnce(&mut XBusy<'_, P>, &mut MaySleep)) {
        let (vm, page) = (self.vm, self.page);
        let structure = vm.pages.get(page);
        if !structure.busy.try_lock() {
            return; // its holder goes on with it
        }
        let (Some(_), Some(object)) = (structure.owner.get(), structure.home.get()) else {
            vm.page_unbusy(page);
            return; // the object let it go: it ends with the last wiring
        };
        // Busy, it has its owner as long as we have it: this does not end it.
        drop(self);
        let mut x = vm.xbusy(object, structure.pindex.get(), page);
        if !structure.is_kept() {
            f(&mut x, may);
        }
    }
}

impl<P: Platform> Drop for Wired<'_, P> {
    fn drop(&mut self) {
        self.vm.page_unhold(self.page, Used::Read);
    }
}
