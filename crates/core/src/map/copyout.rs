//! Placing the pieces of a chain in a map (M65 `vm_map_copyout`, M67 `copy_insert`).

use machvm_arena::NoMemory;
use machvm_hal::{Gather, MaySleep, PAGE_SHIFT, Pindex, Pmap, Prot, Region, Va, VaRange};

use super::copy::MapCopy;
use super::edit::Edit;
use super::entry::{Attributes, EntryFlags};
use super::find::check_search;
use super::insert::{Backing, REPLACE};
use super::{FindError, InsertError, Map, Place};
use crate::platform::Platform;

impl<'vm, P: Platform> Map<'vm, P> {
    /// Places `pieces` together; `as_new` makes the attributes of an entry from those of
    /// its piece. Gives the start; of an empty chain 0. On success the chain is empty; on failure it is as it
    /// was, and still the caller's (Z106).
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// [`FindError`]; nothing changed.
    pub fn copyout(
        &self,
        place: Place,
        pieces: &mut MapCopy<'vm, P>,
        as_new: impl Fn(Attributes) -> Attributes,
        may: &mut MaySleep,
    ) -> Result<Va, FindError> {
        let pages = pieces.pages;
        if pages == 0 {
            return Ok(Va::ZERO); // as of a null copy
        }
        match place {
            Place::Any(s) => check_search(&s, pages)?,
            Place::At(_) | Place::Over(_) => {}
        }
        let exact = |va| {
            let r = VaRange::of_pages(va, pages).ok_or(FindError::BadSize)?;
            if r.intersect(self.bounds) == Some(r) {
                return Ok(r);
            }
            let at = if r.start() < self.min() { r.start() } else { self.max() };
            Err(FindError::Insert(InsertError::Outside(at)))
        };
        let short = |at| move |NoMemory| FindError::Insert(InsertError::NoMemory(at));
        let (mut edit, range) = match place {
            Place::Any(s) => {
                let edit = self.edit(0, may).map_err(short(s.min))?;
                let found = self.find_hole(&edit.inner, &s, pages);
                let Some(range) = found else {
                    edit.done(may);
                    return Err(FindError::NoSpace);
                };
                (edit, range)
            }
            Place::At(va) => {
                let range = exact(va)?;
                let edit = self.edit(0, may).map_err(short(va))?;
                let there = self.overlapping(&edit.inner, range).next();
                if let Some(at) = there.map(|h| self.entry(h).start().max(va)) {
                    edit.done(may);
                    return Err(FindError::Insert(InsertError::Occupied(at)));
                }
                (edit, range)
            }
            Place::Over(va) => {
                let range = exact(va)?;
                let mut edit = self.edit_range(range, REPLACE, may).map_err(short(va))?;
                if let Err(e) = edit.replaceable(range) {
                    edit.done(may);
                    return Err(FindError::Insert(e));
                }
                if let Err(e) = edit.clip_range(range) {
                    let failed = Err(e);
                    edit.settle(range, &failed);
                    edit.done(may);
                    return failed.map_err(short(va));
                }
                (edit, range)
            }
        };
        let done = edit.place_pieces(range, pieces, &as_new, may);
        edit.settle(range, &done);
        edit.done(may);
        done.map(|()| range.start()).map_err(FindError::Insert)
    }
}

impl<'vm, P: Platform> Edit<'_, 'vm, P> {
    /// => what is in `range` is to be replaced, and clipped.
    fn place_pieces(
        &mut self,
        range: VaRange,
        pieces: &mut MapCopy<'vm, P>,
        as_new: &impl Fn(Attributes) -> Attributes,
        may: &mut MaySleep,
    ) -> Result<(), InsertError> {
        let map = self.map;
        let base = range.start().page();
        let freed = map
            .overlapping(&self.inner, range)
            .map(|h| map.entry(h))
            .filter(|e| e.counts())
            .map(|e| e.pages() << PAGE_SHIFT)
            .sum();
        for h in pieces.iter() {
            let e = self.entry(h);
            let (a, at) = (as_new(e.attributes()), Va::from_page(base + e.start().page()));
            if !a.max.contains(a.prot) {
                return Err(InsertError::ExceedsMax(at));
            }
            if let Some(o) = e.object.get() {
                // The size counts once, below.
                self.check_limits(range, Backing::Private(o, Pindex(0)), &a, freed)?;
            }
        }
        let charge = self.charge_pieces(range, pieces, as_new)?;
        self.remove_regions(range, may);
        if let Err(at) = self.regions_of_pieces(range, pieces, as_new) {
            map.vm.commit_release(charge);
            pieces.iter().for_each(|h| map.entry(h).charged.set(0));
            self.undo_regions(range, pieces, at, may);
            return Err(InsertError::Machine(at));
        }
        self.unlink_range(range, may);
        self.drop_contents(may);
        while let Some(h) = pieces.head {
            let e = self.entry(h);
            pieces.head = e.links.next.get();
            let a = as_new(e.attributes());
            let charged = e.charged.get();
            let (o, offset, shared) = (e.object.get(), e.offset.get(), e.is_shared());
            if let Some(r) = VaRange::of_pages(Va::from_page(base + e.start().page()), e.pages()) {
                e.reset(r, super::Kind::Object, &a);
            }
            e.object.set(o);
            e.offset.set(offset);
            e.charged.set(charged);
            if shared {
                e.mark_shared();
            }
            e.remove_flags(EntryFlags::GROWS_DOWN);
            self.link(h);
        }
        (pieces.tail, pieces.pieces, pieces.pages) = (None, 0, 0);
        Ok(())
    }

    /// Reserves what the pieces are charged as entries, and charges them; gives the sum.
    /// What is shared and has a charge of its own needs no other.
    ///
    /// => `range`, which they replace, is clipped.
    fn charge_pieces(
        &self,
        range: VaRange,
        pieces: &MapCopy<'vm, P>,
        as_new: &impl Fn(Attributes) -> Attributes,
    ) -> Result<u64, InsertError> {
        let vm = self.map.vm;
        let mut charge = 0;
        for e in pieces.iter().map(|h| self.entry(h)) {
            let a = as_new(e.attributes());
            let may_be = a.prot.contains(Prot::W) && !a.flags.contains(EntryFlags::NO_CHARGE);
            if e.object.get().is_some_and(|o| may_be && vm.object_needs_charge(o, e.is_shared())) {
                e.charged.set(1);
                charge += e.pages();
            }
        }
        vm.commit_take(charge, self.charged_in(range)).map_err(|e| {
            pieces.iter().for_each(|h| self.entry(h).charged.set(0));
            InsertError::no_memory(range.start())(e)
        })?;
        Ok(charge)
    }

    /// Tells the machine of every piece; on failure, of the first that it refused.
    fn regions_of_pieces(
        &self,
        range: VaRange,
        pieces: &MapCopy<'vm, P>,
        as_new: &impl Fn(Attributes) -> Attributes,
    ) -> Result<(), Va> {
        let base = range.start().page();
        for h in pieces.iter() {
            let e = self.entry(h);
            let at = Va::from_page(base + e.start().page());
            let Some((o, r)) = e.object.get().zip(VaRange::of_pages(at, e.pages())) else { continue };
            let first = self.map.vm.object_natural(o, Pindex(e.offset.get()));
            let region = Region { first, prot: as_new(e.attributes()).prot };
            self.map.pmap.region_insert(r, region).map_err(|_| at)?;
        }
        Ok(())
    }

    /// The machine gets back what it had in `range`; the pieces below `end` are in it.
    fn undo_regions(&self, range: VaRange, pieces: &MapCopy<'vm, P>, end: Va, may: &mut MaySleep) {
        let (map, vm) = (self.map, self.map.vm);
        let mut g = Gather::new();
        for h in pieces.iter() {
            let e = self.entry(h);
            let at = Va::from_page(range.start().page() + e.start().page());
            if let Some(r) = VaRange::of_pages(at, e.pages()).filter(|_| at < end) {
                map.pmap.region_remove(vm.page_array(), r, &mut g);
            }
        }
        vm.finish(g, may);
        for h in map.overlapping(&self.inner, range) {
            let back = map.region_enter(h);
            debug_assert!(back.is_ok(), "the machine does not take a region back");
        }
    }
}
