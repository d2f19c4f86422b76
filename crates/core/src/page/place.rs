//! Pages in and out of objects (P05 to P09).
//!
//! A page leaves its object with its contents. Copies of the object that share it keep it: then
//! who takes it out gets a copy. In the sparse placement a frame is tied to (object, index),
//! so a page that leaves moves to a frame of no object first: its contents are copied.

use machvm_arena::Handle;
use machvm_hal::{Gather, MaySleep, PhysMem, Pindex, PmapPage, RemoveWhy};

use super::{FrameClass, FreeBatch, Loose, Page, PageFlags, PlaceError, Wait, XBusy, number};
use crate::object::{Anon, LEAF, Leaf, Object};
use crate::platform::Platform;
use crate::vm::Vm;

/// Why a page stays in its object. Nothing changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StayError {
    /// It is wired, or held for I/O.
    Wired,
    /// Its new place has contents already, or does not exist.
    Place(PlaceError),
    /// The object dropped its contents while the page was busy.
    Gone,
    /// No memory for structures, or for a copy of the page.
    NoMemory,
}

/// What a failed call gives back: why, and the page.
pub type Kept<E, T> = (E, T);

impl<'vm, P: Platform> XBusy<'vm, P> {
    fn anon(&self) -> Option<Handle<Anon>> {
        self.structure().owner.get()
    }
    /// Does a wiring or a hold keep it where it is?
    pub(super) fn is_kept(&self) -> bool {
        self.structure().is_kept()
    }

    /// Takes every mapping away.
    pub(super) fn unmap(&self, may: &mut MaySleep) {
        if self.structure().is_mapped() {
            let mut g = Gather::new();
            let pmaps = self.vm.plat.pmap_page();
            pmaps.page_remove(&self.vm.pages, &[number(self.page)], RemoveWhy::Sample, &mut g);
            self.vm.finish(g, may);
        }
    }

    /// Takes the page out of its object (P07 `vm_page_remove`); mappings go too. Where copies
    /// share it, they keep it, and the caller gets a copy. Its copy on swap is not kept.
    ///
    /// => nothing is locked.
    ///
    /// # Errors
    /// [`StayError::Wired`], [`StayError::NoMemory`], with the page.
    pub fn remove(mut self, may: &mut MaySleep) -> Result<Loose<'vm, P>, Kept<StayError, Self>> {
        if self.is_kept() {
            return Err((StayError::Wired, self));
        }
        self.unmap(may);
        if self.leave_extent().is_err() {
            return Err((StayError::NoMemory, self));
        }
        let (vm, valid) = (self.vm, self.valid);
        let mut copy = None;
        loop {
            let shared = self.is_shared(may);
            if shared && copy.is_none() {
                let Some(mut to) = vm.loose_take(FrameClass::Normal, false) else {
                    return Err((StayError::NoMemory, self));
                };
                vm.mem().copy(self.pfn(), to.pfn());
                to.valid = valid;
                copy = Some(to);
            }
            match (vm.slot_clear(&self, copy.is_none(), may), copy) {
                (Ok(Cleared::Page), _) => return Ok(Loose { vm, page: self.into_page(), valid }),
                (Ok(Cleared::Slot), Some(c)) => return Ok(c),
                // It became shared, or the object dropped it: a copy is needed.
                (Ok(_), c) => copy = c,
                (Err(()), _) => return Err((StayError::NoMemory, self)),
            }
        }
    }

    /// Frees the page (P05 `vm_page_free`): the object has nothing at its index any more.
    /// Copies that share it keep it. The manual wants it unmapped; here mappings go too.
    ///
    /// => nothing is locked.
    ///
    /// # Errors
    /// [`StayError::Wired`], [`StayError::NoMemory`], with the page.
    pub fn free(mut self, may: &mut MaySleep) -> Result<(), Kept<StayError, Self>> {
        if self.is_kept() {
            return Err((StayError::Wired, self));
        }
        if !self.valid {
            return Ok(()); // dropped
        }
        self.unmap(may);
        loop {
            let shared = self.is_shared(may);
            if shared && self.leave_extent().is_err() {
                return Err((StayError::NoMemory, self));
            }
            // The slot is empty before the frame is discarded: nobody fills it meanwhile.
            let vm = self.vm;
            vm.limbo_enter();
            let cleared = vm.slot_clear(&self, !shared, may);
            if matches!(cleared, Ok(Cleared::Page)) {
                drop(Loose { vm, page: self.into_page(), valid: false });
                vm.limbo_leave();
                return Ok(());
            }
            vm.limbo_leave();
            match cleared {
                Ok(Cleared::Again) => {}
                // Copies have it, or it ends with the busy state.
                Ok(_) => return Ok(()),
                Err(()) => return Err((StayError::NoMemory, self)),
            }
        }
    }

    /// Moves the page, with its contents, to another place (P08 `vm_page_rename`). Mappings
    /// go, the copy on swap too, and it is dirty. Copies that share it share it still.
    ///
    /// => nothing is locked, and the caller has references to both objects.
    ///
    /// # Errors
    /// [`StayError`], with the page where it was.
    pub fn rename(
        mut self,
        to: Handle<Object>,
        index: Pindex,
        may: &mut MaySleep,
    ) -> Result<Self, Kept<StayError, Self>> {
        if self.is_kept() {
            return Err((StayError::Wired, self));
        }
        self.unmap(may);
        if self.leave_extent().is_err() {
            return Err((StayError::NoMemory, self));
        }
        let vm = self.vm;
        // All paths: what is taken now cannot be short below.
        let (Ok(mut first), Ok(mut there), Ok(mut last), Some(a)) =
            (vm.tree_reserve(), vm.tree_reserve(), vm.tree_reserve(), self.anon())
        else {
            return Err((StayError::NoMemory, self));
        };
        let (from, was) = (self.object, self.index);
        // A reference for the new place, while the old one keeps the anon alive.
        let held = vm.slot_swap(from, was, &mut first, may, |leaf, _| {
            if leaf.slots[was as usize % LEAF].get() != Some(a) {
                return Err(StayError::Gone);
            }
            vm.anons.get(a).reference();
            Ok(())
        });
        let put = held.and_then(|()| {
            let put = vm.slot_swap(to, index.0, &mut there, may, |leaf, batch| {
                let slot = &leaf.slots[index.0 as usize % LEAF];
                let old = slot.get();
                if old.map(|o| vm.anons.get(o)).is_some_and(|o| o.page().is_some() || o.swap().is_some()) {
                    return Err(StayError::Place(PlaceError::Present));
                }
                slot.set(Some(a));
                if let Some(old) = old {
                    vm.anon_release(old, batch);
                }
                Ok(())
            });
            if put.is_err() {
                vm.anon_release(a, &mut FreeBatch::new(vm));
            }
            put
        });
        if let Err(e) = put {
            return Err((e, self));
        }
        (self.object, self.index) = (to, index.0);
        self.structure().home.set(Some(to));
        self.structure().pindex.set(index.0);
        // Nothing fails any more: the nodes are there.
        let _ = vm.slot_swap(from, was, &mut last, may, |leaf, batch| {
            let slot = &leaf.slots[was as usize % LEAF];
            if slot.get() == Some(a) {
                slot.set(None);
                vm.anon_release(a, batch);
            }
            Ok(())
        });
        if self.valid {
            self.structure().insert_flags(PageFlags::DIRTY);
            vm.anon_drop_swap(a);
        }
        Ok(self)
    }

    /// Puts another page where this one is, and frees this one (P09 `vm_page_replace`).
    ///
    /// => nothing is locked.
    ///
    /// # Errors
    /// [`StayError::Wired`], [`StayError::Gone`], [`StayError::NoMemory`], with both pages.
    pub fn replace(
        mut self,
        new: Loose<'vm, P>,
        may: &mut MaySleep,
    ) -> Result<Self, Kept<StayError, (Self, Loose<'vm, P>)>> {
        if self.is_kept() {
            return Err((StayError::Wired, (self, new)));
        }
        self.unmap(may);
        let vm = self.vm;
        let (Ok(mut spare), Ok(mut anons)) = (vm.tree_reserve(), vm.anons.reserve(1)) else {
            return Err((StayError::NoMemory, (self, new)));
        };
        // In the sparse placement nobody may keep the frame of this place.
        if self.leave_extent().is_err() {
            return Err((StayError::NoMemory, (self, new)));
        }
        let (object, index, valid) = (self.object, self.index, new.valid);
        let (page, a) = (new.page, self.anon());
        let put = vm.slot_swap(object, index, &mut spare, may, |leaf, batch| {
            let slot = &leaf.slots[index as usize % LEAF];
            if a.is_none() || slot.get() != a {
                return Err(StayError::Gone);
            }
            let b = anons.take().ok_or(StayError::NoMemory)?;
            vm.anons.get(b).reset(Some(page));
            let structure = vm.pages.get(page);
            structure.owner.set(Some(b));
            structure.home.set(Some(object));
            structure.pindex.set(index);
            structure.insert_flags(PageFlags::DIRTY);
            slot.set(Some(b));
            if let Some(old) = a {
                vm.anon_release(old, batch); // its page ends with the busy state, or copies have it
            }
            Ok(())
        });
        match put {
            Ok(()) => Ok(XBusy { vm, page: new.into_page(), object, index, valid }),
            Err(e) => Err((e, (self, new))),
        }
    }

    /// Sparse: the page moves from the frame of its place to one of nobody, since another page
    /// may soon be there.
    pub(super) fn leave_extent(&mut self) -> Result<(), ()> {
        let vm = self.vm;
        let natural = vm.objects.get(self.object).natural(self.index);
        if !vm.frames.is_sparse() || self.pfn() != natural {
            return Ok(());
        }
        let to = vm.loose_take(FrameClass::Normal, false).ok_or(())?;
        let a = self.anon().ok_or(())?;
        vm.mem().copy(self.pfn(), to.pfn());
        vm.page_inherit(self.page, to.page);
        vm.pages.get(to.page).owner.set(Some(a));
        // As `page_to_stray`: until the old frame is discarded nobody takes it.
        vm.limbo_enter();
        if vm.anons.get(a).change_page(Some(self.page), Some(to.page)) {
            let old = core::mem::replace(&mut self.page, to.into_page());
            vm.queues.dequeue(&vm.pages, old);
            vm.pages.get(old).owner.set(None);
            FreeBatch::new(vm).push(old);
        } else {
            vm.pages.get(to.page).owner.set(None);
        }
        vm.limbo_leave();
        // Not moved: the object dropped it meanwhile, and it ends with the busy state.
        Ok(())
    }
}

/// What [`Vm::slot_clear`] did.
enum Cleared {
    /// The page is nobody's: the caller's.
    Page,
    /// The slot is empty; the page is others', or an orphan.
    Slot,
    /// Copies share the page, which the caller did not know: nothing was done.
    Again,
}

impl<P: Platform> Vm<P> {
    /// Empties the slot of a busy page; `alone`: only if no copy shares it.
    fn slot_clear(&self, x: &XBusy<'_, P>, alone: bool, may: &mut MaySleep) -> Result<Cleared, ()> {
        let (object, index, page) = (x.object, x.index, x.page);
        let mut spare = self.tree_reserve().map_err(|_| ())?;
        let a = x.anon().ok_or(())?;
        let mut did = Cleared::Slot;
        self.slot_swap(object, index, &mut spare, may, |leaf, batch| {
            let slot = &leaf.slots[index as usize % LEAF];
            if slot.get() != Some(a) {
                return Ok(()); // dropped meanwhile
            }
            if self.anons.get(a).is_shared() {
                if alone {
                    did = Cleared::Again;
                    return Ok(());
                }
            } else if alone && self.anons.get(a).change_page(Some(page), None) {
                self.queues.dequeue(&self.pages, page);
                self.pages.get(page).owner.set(None);
                did = Cleared::Page;
            }
            slot.set(None);
            self.anon_release(a, batch);
            Ok(())
        })
        .map_err(|_| ())?;
        Ok(did)
    }

    /// Calls `f` with the leaf of an index, which is this object's alone; `spare` is enough for
    /// that.
    ///
    /// => nothing is locked; `f` is called with the object write locked.
    pub(super) fn slot_swap(
        &self,
        object: Handle<Object>,
        index: u64,
        spare: &mut crate::object::Spare<'_, P>,
        may: &mut MaySleep,
        f: impl FnOnce(&Leaf, &mut FreeBatch<'_, P>) -> Result<(), StayError>,
    ) -> Result<(), StayError> {
        let o = self.objects.get(object);
        let mut batch = FreeBatch::new(self);
        let mut inner = o.lock.write(self.host(), may);
        if index >= o.capacity() {
            return Err(StayError::Place(PlaceError::Beyond));
        }
        let leaf = self
            .tree_leaf_reserved(&mut inner.tree, index, spare, &mut batch)
            .map_err(|_| StayError::NoMemory)?;
        f(self.nodes.leaves.get(leaf), &mut batch)
    }

    /// The contents are in memory and differ from the copy on swap: that one goes.
    ///
    /// => the anon's page is busy.
    pub(super) fn anon_drop_swap(&self, a: Handle<Anon>) {
        let anon = self.anons.get(a);
        if let Some(slot) = anon.swap() {
            anon.set_swap(None);
            self.swap_free(slot);
        }
    }

    /// Do copies share the page of this place?
    pub(super) fn page_is_shared(
        &self,
        object: Handle<Object>,
        index: u64,
        page: Handle<Page>,
        may: &mut MaySleep,
    ) -> bool {
        let inner = self.objects.get(object).lock.read(self.host(), may);
        let (a, path) = self.tree_lookup(&inner.tree, index);
        a.is_none_or(|a| path || self.anons.get(a).is_shared() || !self.anons.get(a).holds(page))
    }

    /// Puts a page of no object into one (P06 `vm_page_insert`). It is dirty if it is valid:
    /// its contents are nowhere else.
    ///
    /// => nothing is locked, and the caller has a reference to the object.
    ///
    /// # Errors
    /// [`PlaceError`], with the page as it was.
    pub fn vm_page_insert<'vm>(
        &'vm self,
        page: Loose<'vm, P>,
        object: Handle<Object>,
        index: Pindex,
        may: &mut MaySleep,
    ) -> Result<XBusy<'vm, P>, Kept<PlaceError, Loose<'vm, P>>> {
        let h = page.page;
        if let Err(e) = self.slot_put(object, index.0, Wait::Ok, may, &mut || Some(h)) {
            return Err((e, page));
        }
        let valid = page.valid;
        if valid {
            self.pages.get(h).insert_flags(PageFlags::DIRTY);
        }
        Ok(XBusy { vm: self, page: page.into_page(), object, index: index.0, valid })
    }
}
