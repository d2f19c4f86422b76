//! Acting on a range of an object's pages, whoever maps them (O14 to O19, O24).
//!
//! Each function goes from page to page: it takes one busy, waits for it when somebody else
//! has it, acts, and lets it go. So none acts on a whole range at one moment, and what others
//! put into a part that is done already stays.
//!
//! `pages` counts from `first` on; [`TO_THE_END`] means all.

use machvm_arena::{Handle, NoMemory};
use machvm_hal::{Gather, MaySleep, PagerError, Pindex, PmapPage, Prot, RemoveWhy};

use super::{Anon, Object, ObjectFlags};
use crate::page::{FreeBatch, GrabError, GrabFlags, Page, PageAdvice, StayError, XBusy};
use crate::platform::Platform;
use crate::vm::Vm;

/// As many pages as there are (`end` 0 in the manual).
pub const TO_THE_END: u64 = u64::MAX;

bitflags::bitflags! {
    /// Which pages [`Vm::vm_object_page_remove`] leaves (`OBJPR_*`).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct RemoveFlags: u32 {
        /// Modified ones; and contents of the others stay where backing store has them.
        const CLEANONLY = 1;
    }
}

/// What is done with a busy page.
pub(super) type Visit<'f, 'vm, P, E> = &'f mut dyn FnMut(XBusy<'vm, P>, &mut MaySleep) -> Result<(), E>;

/// What is in a slot.
enum Slot {
    Page(Handle<Page>),
    /// On swap, or nothing.
    NoPage,
}

impl<P: Platform> Vm<P> {
    /// The first slot in use at or above `next`, below `end`.
    fn next_slot(
        &self,
        object: Handle<Object>,
        next: u64,
        end: u64,
        may: &mut MaySleep,
    ) -> Option<(u64, Handle<Anon>, Slot)> {
        let inner = self.objects.get(object).lock.read(self.host(), may);
        let mut found = None;
        self.tree_for_each(&inner.tree, next, end.saturating_sub(next), &mut |i, a| {
            let slot = self.anons.get(a).page().map_or(Slot::NoPage, Slot::Page);
            found = Some((i, a, slot));
            false
        });
        found
    }

    /// Calls `f` with every resident page of a range, busy, until it fails. Pages that wait for
    /// their pager are passed over.
    pub(super) fn each_page<'vm, E>(
        &'vm self,
        object: Handle<Object>,
        first: Pindex,
        pages: u64,
        may: &mut MaySleep,
        f: Visit<'_, 'vm, P, E>,
    ) -> Result<(), E> {
        let (mut next, end) = (first.0, first.0.saturating_add(pages));
        while let Some((i, a, slot)) = self.next_slot(object, next, end, may) {
            let Slot::Page(p) = slot else {
                next = i + 1;
                continue;
            };
            match self.anon_busy_page(a, p) {
                Ok(()) => {
                    next = i + 1;
                    f(self.xbusy(object, i, p), may)?;
                }
                // It has no contents yet, and nobody maps it.
                Err(Some(busy)) if self.page_is_pending(busy) => next = i + 1,
                Err(Some(busy)) => self.wait_page_settled(busy, may),
                Err(None) => {}
            }
        }
        Ok(())
    }

    /// Writes the modified pages of a range to the object's pager and waits for that (O14
    /// `vm_object_page_clean`). Write access goes first. Objects whose pages do not go back to
    /// a pager have nothing to clean.
    ///
    /// => nothing is locked, and the caller has a reference to the object.
    ///
    /// # Errors
    /// The first of the pager; the rest is written all the same, and what failed stays
    /// modified.
    pub fn vm_object_page_clean(
        &self,
        object: Handle<Object>,
        first: Pindex,
        pages: u64,
        may: &mut MaySleep,
    ) -> Result<(), PagerError> {
        self.object_sync(object, first, pages, false, may)
    }

    /// As [`Vm::vm_object_page_clean`]; with `invalidate` pages that are clean then are also
    /// forgotten, but not wired ones (O18 `vm_object_sync`).
    ///
    /// => as [`Vm::vm_object_page_clean`].
    ///
    /// # Errors
    /// As [`Vm::vm_object_page_clean`].
    pub fn vm_object_sync(
        &self,
        object: Handle<Object>,
        first: Pindex,
        pages: u64,
        invalidate: bool,
        may: &mut MaySleep,
    ) -> Result<(), PagerError> {
        self.object_sync(object, first, pages, invalidate, may)
    }

    /// Drops the contents of a range: pages, mappings of them, copies on swap (O15
    /// `vm_object_page_remove`). What copies of the object share they keep. Wired pages stay;
    /// gives how many.
    ///
    /// => as [`Vm::vm_object_page_clean`].
    ///
    /// # Errors
    /// [`NoMemory`]: nodes of the tree that copies share had to be copied; a part is done.
    pub fn vm_object_page_remove(
        &self,
        object: Handle<Object>,
        first: Pindex,
        pages: u64,
        flags: RemoveFlags,
        may: &mut MaySleep,
    ) -> Result<u64, NoMemory> {
        let clean_only = flags.contains(RemoveFlags::CLEANONLY);
        let (mut next, end, mut wired) = (first.0, first.0.saturating_add(pages), 0);
        while let Some((i, a, slot)) = self.next_slot(object, next, end, may) {
            match slot {
                Slot::NoPage if clean_only => next = i + 1,
                Slot::NoPage => {
                    let mut inner = self.objects.get(object).lock.write(self.host(), may);
                    let same = self.tree_lookup(&inner.tree, i).0 == Some(a);
                    if same && self.anons.get(a).page().is_none() {
                        let mut batch = FreeBatch::new(self);
                        self.tree_clear(&mut inner.tree, i, 1, &mut batch)?;
                        next = i + 1;
                    }
                }
                Slot::Page(p) => match self.anon_busy_page(a, p) {
                    Ok(()) => {
                        next = i + 1;
                        let x = self.xbusy(object, i, p);
                        wired += u64::from(!self.page_drop(x, clean_only, may)?);
                    }
                    Err(Some(busy)) if self.page_is_pending(busy) => {
                        // Nothing is to be waited for: the pager's answer would be dropped.
                        if !clean_only {
                            self.object_drop_range(object, Pindex(i), 1, may)?;
                        }
                        next = i + 1;
                    }
                    Err(Some(busy)) => self.wait_page_settled(busy, may),
                    Err(None) => {}
                },
            }
        }
        Ok(wired)
    }

    /// `false`: it is wired.
    fn page_drop(&self, mut x: XBusy<'_, P>, clean_only: bool, may: &mut MaySleep) -> Result<bool, NoMemory> {
        if clean_only {
            // Unmapped first: then what is not modified stays so (Z74).
            if !x.try_remove_all(may) {
                return Ok(false);
            }
            if !x.test_dirty() {
                x.forget(); // backing store has the contents
            }
            return Ok(true);
        }
        match x.free(may) {
            Ok(()) => Ok(true),
            Err((StayError::Wired, _)) => Ok(false),
            Err(_) => Err(NoMemory),
        }
    }

    /// The first index at or above `from` that has contents of its own, in memory or on swap:
    /// what is absent there is the pager's, or zero (lseek(2) SEEK_DATA).
    ///
    /// => the caller has a reference to the object.
    pub fn vm_object_next(&self, object: Handle<Object>, from: Pindex, may: &mut MaySleep) -> Option<Pindex> {
        let inner = self.objects.get(object).lock.read(self.host(), may);
        let mut found = None;
        self.tree_for_each(&inner.tree, from.0, u64::MAX - from.0, &mut |i, a| {
            let anon = self.anons.get(a);
            found = (anon.page().is_some() || anon.swap().is_some()).then_some(Pindex(i));
            found.is_none()
        });
        found
    }

    /// The resident pages of a range are the first that memory is taken from (O16
    /// `vm_object_page_noreuse`); wired ones are passed over.
    ///
    /// => as [`Vm::vm_object_page_clean`].
    pub fn vm_object_page_noreuse(
        &self,
        object: Handle<Object>,
        first: Pindex,
        pages: u64,
        may: &mut MaySleep,
    ) {
        let _ = self.each_page::<()>(object, first, pages, may, &mut |mut x, may| {
            if !x.is_wired() {
                x.deactivate_noreuse(may);
            }
            Ok(())
        });
    }

    /// Brings every page of a range into memory (O17 `vm_object_populate`): from swap or the
    /// pager, or zero. Unlike the manual's they are not busy afterwards: who needs that grabs
    /// them.
    ///
    /// => as [`Vm::vm_object_page_clean`].
    ///
    /// # Errors
    /// That of the first page that could not be had; those before it stay.
    pub fn vm_object_populate(
        &self,
        object: Handle<Object>,
        first: Pindex,
        pages: u64,
        may: &mut MaySleep,
    ) -> Result<(), GrabError> {
        for i in first.0..first.0.saturating_add(pages) {
            drop(self.vm_page_grab_shared(object, Pindex(i), GrabFlags::empty(), may)?);
        }
        Ok(())
    }

    /// Acts on advice for every resident page of a range (O19 `vm_object_madvise`), as
    /// [`XBusy::advise`]; `Free` also drops copies on swap that no copy of the object shares.
    ///
    /// => as [`Vm::vm_object_page_clean`].
    pub fn vm_object_madvise(
        &self,
        object: Handle<Object>,
        first: Pindex,
        pages: u64,
        advice: PageAdvice,
        may: &mut MaySleep,
    ) {
        let _ = self.each_page::<()>(object, first, pages, may, &mut |mut x, may| {
            x.advise(advice, may);
            Ok(())
        });
        if advice == PageAdvice::Free {
            self.drop_swapped(object, first, pages, may);
        }
    }

    /// Drops what is on swap only and this object's alone.
    fn drop_swapped(&self, object: Handle<Object>, first: Pindex, pages: u64, may: &mut MaySleep) {
        let (mut next, end) = (first.0, first.0.saturating_add(pages));
        while let Some((i, a, _)) = self.next_slot(object, next, end, may) {
            next = i + 1;
            let mut inner = self.objects.get(object).lock.write(self.host(), may);
            let (now, path) = self.tree_lookup(&inner.tree, i);
            let anon = self.anons.get(a);
            if now == Some(a) && !path && !anon.is_shared() && anon.page().is_none() {
                // The path is this tree's alone: it needs no memory.
                let _ = self.tree_clear(&mut inner.tree, i, 1, &mut FreeBatch::new(self));
            }
        }
    }

    /// Takes from every mapping of the range's pages the rights beyond `prot` (O24
    /// `vm_object_pmap_protect`): without [`Prot::R`] all mappings go. Rights are only taken.
    /// Mappings of the same pages through copies of the object lose them too, until they
    /// fault.
    ///
    /// => as [`Vm::vm_object_page_clean`].
    pub fn vm_object_pmap_protect(
        &self,
        object: Handle<Object>,
        first: Pindex,
        pages: u64,
        prot: Prot,
        may: &mut MaySleep,
    ) {
        let _ = self.each_page::<()>(object, first, pages, may, &mut |x, may| {
            let (pmaps, list, mut g) = (self.plat.pmap_page(), [x.number()], Gather::new());
            if !prot.contains(Prot::R) {
                pmaps.page_remove(&self.pages, &list, RemoveWhy::Sample, &mut g);
            } else if !prot.contains(Prot::W) {
                pmaps.page_write_protect(&self.pages, &list, &mut g);
            }
            self.finish(g, may);
            Ok(())
        });
    }

    /// The range's contents go over to a new object, at the same indices (O12
    /// `vm_object_split`); this one has nothing there any more. What copies share they share
    /// with the new object.
    ///
    /// => as [`Vm::vm_object_page_clean`]; nobody changes the range meanwhile.
    ///
    /// # Errors
    /// [`NoMemory`]; nothing changed.
    pub fn vm_object_split(
        &self,
        object: Handle<Object>,
        first: Pindex,
        pages: u64,
        may: &mut MaySleep,
    ) -> Result<Handle<Object>, NoMemory> {
        let new = self.vm_object_shadow(object, may)?;
        let end = first.0.saturating_add(pages);
        let rest = self.objects.get(object).capacity().saturating_sub(end);
        let done = self
            .object_drop_range(new, Pindex(0), first.0, may)
            .and_then(|()| self.object_drop_range(new, Pindex(end), rest, may))
            .and_then(|()| self.object_drop_range(object, first, pages, may));
        if let Err(e) = done {
            self.object_deallocate(new, may);
            return Err(e);
        }
        // Whoever mapped them as this object's.
        self.vm_object_pmap_protect(new, first, pages, Prot::NONE, may);
        Ok(new)
    }

    /// A copy-on-write copy of the whole object, with the same indices and one reference (O09
    /// `vm_object_shadow`). Each page is as of some moment of the call; write access is taken
    /// from all mappings of the object.
    ///
    /// => as [`Vm::vm_object_page_clean`].
    ///
    /// # Errors
    /// [`NoMemory`]; nothing changed.
    pub fn vm_object_shadow(
        &self,
        object: Handle<Object>,
        may: &mut MaySleep,
    ) -> Result<Handle<Object>, NoMemory> {
        let mut g = Gather::new();
        let all = 0..self.objects.get(object).capacity();
        let copy = self.object_copy(object, (super::copy::Much::All, all), &mut g, may);
        self.finish(g, may);
        let new = copy?.object;
        self.tell_copies();
        self.vm_object_pmap_protect(object, Pindex(0), TO_THE_END, Prot::R | Prot::X, may);
        Ok(new)
    }

    /// May `[first, first + pages)` be mapped as the continuation of what the caller maps of
    /// this object (O13 `vm_object_coalesce`)? Only of anonymous objects that one entry at
    /// most covers, and only where nothing is: old contents never come back (Z56).
    ///
    /// => as [`Vm::vm_object_page_clean`].
    pub fn vm_object_coalesce(
        &self,
        object: Handle<Object>,
        first: Pindex,
        pages: u64,
        may: &mut MaySleep,
    ) -> bool {
        self.object_coalesce(object, first, pages, may)
    }

    /// Gives the object a colour (O21 `vm_object_color`): what is added to a page index to have
    /// the phase of the addresses it is mapped at, modulo the 512 pages of a superpage. Only
    /// the first colour counts, as the first mapping gives one too.
    ///
    /// => as [`Vm::vm_object_page_clean`].
    pub fn vm_object_color(&self, object: Handle<Object>, color: u64, may: &mut MaySleep) {
        let o = self.objects.get(object);
        let _inner = o.lock.write(self.host(), may);
        o.set_color(color);
    }

    /// What there is to know of an object (O21).
    ///
    /// => as [`Vm::vm_object_page_clean`].
    pub fn vm_object_info(&self, object: Handle<Object>, may: &mut MaySleep) -> ObjectInfo {
        let o = self.objects.get(object);
        let resident = self.object_census(object, 0, TO_THE_END, may).resident;
        let flags = o.flags();
        ObjectInfo {
            references: o.references(),
            capacity: o.capacity(),
            resident,
            color: o.color(),
            shared: flags.contains(ObjectFlags::SHARED),
            external: flags.contains(ObjectFlags::PAGER),
            write_back: flags.contains(ObjectFlags::WRITE_BACK),
            purgeable: flags.contains(ObjectFlags::PURGEABLE),
        }
    }
}

/// See [`Vm::vm_object_info`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ObjectInfo {
    /// Entries and handles that name it.
    pub references: u32,
    /// Indices below this may be used.
    pub capacity: u64,
    /// Pages in memory.
    pub resident: u64,
    /// Its colour, if it has one.
    pub color: Option<u64>,
    /// Several entries may cover one index (not `OBJ_ONEMAPPING`).
    pub shared: bool,
    /// It has a pager.
    pub external: bool,
    /// Modified pages go back to the pager.
    pub write_back: bool,
    /// Its contents may be declared volatile.
    pub purgeable: bool,
}
