//! Submaps (M20): a range of a map that shows a part of another one.
//!
//! ```text
//!   parent   |....|=====submap=====|....|          each view is one entry of a parent
//!                  \  offset: page of the submap \  and one reference
//!   submap      |..a..|...b...|......c......|      Body, in a slab of the Vm
//! ```
//! The entries of a map that can be shown live in a [`Body`] in a slab of the `Vm`. The
//! [`Map`] that made it and every view hold one reference; the entries go with the last.
//! There is one level: what shows submaps cannot be shown.
//!
//! Whoever looks an address of a view up holds two map locks, the parent's and then the
//! submap's; whoever changes the submap holds the submap's alone, for writing. So a
//! translation is entered in a parent's pmap under the submap's read lock, and what must
//! no longer be translated is taken out under its write lock: from the pages, since the
//! submap does not know who shows it.
//!
//! Where the machine has a structure for each region (Linux), those of a view are a cache
//! too: the view remembers at which version of the submap they were made, and a fault that
//! finds another one has them made again first.

use machvm_arena::{Handle, NoMemory};
use machvm_hal::{Gather, MaySleep, Pindex, Pmap, Region, Va, VaRange};
use machvm_sync::{Rank, Refs, RwSleep};

use super::edit::Edit;
use super::entry::{Attributes, Entry, EntryFlags, Inherit, Kind};
use super::find::check_search;
use super::insert::Backing;
use super::through::{seen_index, seen_range};
use super::tree::Tree;
use super::{FindError, InsertError, Map, MapInner, Search, SubmapError};
use crate::error::FaultError;
use crate::platform::Platform;
use crate::vm::Vm;

/// The entries of a map that other maps may show.
#[derive(Debug)]
pub struct Body {
    /// The map that made it, and every view.
    refs: Refs,
    lock: RwSleep<MapInner>,
}

impl Default for Body {
    fn default() -> Self {
        Body { refs: Refs::new(0), lock: RwSleep::new(Rank::Map, MapInner::new(Va::ZERO, Va::ZERO)) }
    }
}

impl Body {
    pub(crate) fn lock_word(&self) -> &RwSleep<MapInner> {
        &self.lock
    }
}

/// Where the entries of a map are.
#[derive(Debug)]
pub(super) enum Home {
    /// In the map itself.
    Own(RwSleep<MapInner>),
    /// Where others can show them.
    Shown(Handle<Body>),
}

/// The version of a view whose regions are not made. No lock is taken so often.
pub(super) const NEVER: u64 = u64::MAX;

impl<'vm, P: Platform> Map<'vm, P> {
    /// An empty map that other maps may show (M20; K05, the half of `kmem_suballoc` that
    /// makes the map). Otherwise it is a map like any other; `pmap` is where its own
    /// addresses are translated, for those who run on it.
    ///
    /// # Errors
    /// [`NoMemory`].
    pub fn new_submap(vm: &'vm Vm<P>, pmap: P::Pmap, bounds: VaRange) -> Result<Self, NoMemory> {
        let h = vm.bodies.alloc()?;
        let body = vm.bodies.get(h);
        // Nobody knows it yet.
        if let Some(mut inner) = body.lock.try_write(vm.host()) {
            *inner = MapInner::new(bounds.start(), bounds.end());
        }
        body.refs.revive();
        Ok(Map { vm, pmap, bounds, home: Home::Shown(h) })
    }

    /// How many entries show this map.
    pub fn views(&self) -> u32 {
        match self.home {
            Home::Own(_) => 0,
            Home::Shown(h) => self.vm.bodies.get(h).refs.count().saturating_sub(1),
        }
    }

    /// Makes `range`, which must be one whole entry without contents (a guard, or private
    /// anonymous memory that was never touched), show `submap` from its address `first` on
    /// (M20 `vm_map_submap`; where the addresses are the same, `first` is the start of the
    /// range). Undone by deleting the range. Inherited as [`Inherit::Share`]; what was set
    /// before is kept if it is `None`.
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// [`SubmapError`]; nothing changed.
    pub fn submap(
        &self,
        range: VaRange,
        submap: &Map<'vm, P>,
        first: Va,
        may: &mut MaySleep,
    ) -> Result<(), SubmapError> {
        let body = match (&self.home, &submap.home) {
            (Home::Own(_), Home::Shown(h)) if core::ptr::eq(self.vm, submap.vm) => *h,
            _ => return Err(SubmapError::NotShowable(range.start())),
        };
        if VaRange::of_pages(first, range.pages())
            .and_then(|r| r.intersect(submap.bounds))
            .map(VaRange::pages)
            != Some(range.pages())
        {
            return Err(SubmapError::Beyond(first));
        }
        // No entry is taken.
        let mut edit =
            self.edit_range(range, 0, may).map_err(|NoMemory| SubmapError::NotWhole(range.start()))?;
        let done = edit.submap(range, body, first, may);
        edit.done(may);
        done
    }

    /// Finds space for a submap of `pages` and makes it there, with the addresses it has in
    /// this map (K05 `kmem_suballoc`). `pmap` is the submap's own.
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// [`FindError`]; nothing changed.
    pub fn suballoc(
        &self,
        pmap: P::Pmap,
        search: Search,
        pages: u64,
        may: &mut MaySleep,
    ) -> Result<Map<'vm, P>, FindError> {
        check_search(&search, pages)?;
        let short = |NoMemory| FindError::Insert(InsertError::NoMemory(search.min));
        // The addresses are not known yet.
        let mut sub = Map::new_submap(self.vm, pmap, self.bounds).map_err(short)?;
        let mut edit = self.edit(1, may).map_err(short)?;
        let found = self.find_hole(&edit.inner, &search, pages).ok_or(FindError::NoSpace);
        let done = found.and_then(|range| edit.suballoc(range, &sub).map_err(FindError::Insert));
        edit.done(may);
        let range = done?;
        // Nobody else locked it: there is nothing in it to look up.
        *sub.lock(may) = MapInner::new(range.start(), range.end());
        sub.bounds = range;
        Ok(sub)
    }

    /// Tells the machine what the submap shown at `va` has now.
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// [`FaultError::NoMemory`]: the machine has no structure for a region. None of the
    /// view's is left.
    pub(crate) fn make_view_regions(&self, va: Va, may: &mut MaySleep) -> Result<(), FaultError> {
        let inner = self.lock(may);
        let view = self.lookup_entry(&inner, va).map(|h| self.entry(h));
        let Some((view, body, range)) = view.and_then(|e| Some((e, e.submap.get()?, e.range()?))) else {
            return Ok(()); // it is something else by now
        };
        let submap = self.vm.bodies.get(body).lock.read_second(self.vm.host(), may);
        let remove = |may: &mut MaySleep| {
            let mut g = Gather::new();
            self.pmap.region_remove(self.vm.page_array(), range, &mut g);
            self.vm.finish(g, may);
        };
        remove(may);
        let there = VaRange::of_pages(Va::from_page(view.offset.get()), range.pages());
        for e in there.into_iter().flat_map(|r| self.overlapping(&submap, r)).map(|h| self.entry(h)) {
            let (Some(part), Some(o)) = (seen_range(view, e), e.object.get()) else { continue };
            let first = Pindex(seen_index(view, e, part.start()));
            let region = Region { first: self.vm.object_natural(o, first), prot: e.prot() };
            if self.pmap.region_insert(part, region).is_err() {
                remove(may);
                view.set_made_at(NEVER);
                return Err(FaultError::NoMemory(va));
            }
        }
        view.set_made_at(submap.version());
        Ok(())
    }

    /// Do others show this map? Under its write lock a `false` stays true for translations:
    /// who begins to show it reads nothing before the lock is open again.
    pub(super) fn is_shown(&self) -> bool {
        self.views() != 0
    }

    /// Takes the translations of what is in `range` away from those who show this map.
    ///
    /// => the map is write locked.
    pub(super) fn unmap_views(&self, inner: &MapInner, range: VaRange) {
        if !self.is_shown() {
            return;
        }
        for e in self.overlapping(inner, range).map(|h| self.entry(h)) {
            if let (Some(o), Some(part)) = (e.object.get(), e.range().and_then(|r| r.intersect(range))) {
                self.vm.object_unmap(o, e.pindex(part.start()), part.pages(), &mut MaySleep::claim());
            }
        }
    }

    /// The end of a map that others may show: its own regions go, the entries with the last
    /// reference.
    pub(super) fn let_body_go(&self, h: Handle<Body>, may: &mut MaySleep) {
        let inner = self.lock(may);
        let mut g = Gather::new();
        self.regions_remove(&inner, self.bounds, &mut g);
        self.vm.finish(g, may);
        drop(inner);
        self.vm.body_deallocate(h, may);
    }
}

impl<P: Platform> Edit<'_, '_, P> {
    /// The locked part of [`Map::submap`].
    fn submap(
        &mut self,
        range: VaRange,
        body: Handle<Body>,
        first: Va,
        may: &mut MaySleep,
    ) -> Result<(), SubmapError> {
        let (map, vm) = (self.map, self.map.vm);
        let whole = map.lookup_entry(&self.inner, range.start()).map(|h| self.entry(h));
        let e = whole.filter(|e| e.range() == Some(range)).ok_or(SubmapError::NotWhole(range.start()))?;
        let untouched = match (e.kind(), e.object.get()) {
            (Kind::Guard, _) => true,
            (Kind::Object, Some(o)) => {
                let never = EntryFlags::GROWS_DOWN | EntryFlags::IN_TRANSITION;
                e.wired.get() == 0
                    && !e.flags().intersects(never)
                    && vm.object_is_private_sole(o)
                    && !vm.object_has_pager(o, may)
                    && vm.object_census(o, e.offset.get(), e.pages(), may).slots == 0
            }
            _ => false,
        };
        if !untouched {
            return Err(SubmapError::InUse(range.start()));
        }
        let inherit = if e.inherit() == Inherit::None { Inherit::None } else { Inherit::Share };
        let was_guard = e.kind() == Kind::Guard;
        if !was_guard {
            self.remove_regions(range, may);
            self.unused = e.object.get();
        }
        let tag = e.tag.get();
        vm.entry_uncharge(e);
        become_view(e, range, &Attributes { inherit, tag, ..Attributes::guard() }, first);
        vm.body_reference(body);
        e.submap.set(Some(body));
        if was_guard {
            self.inner.size += range.bytes();
        }
        self.inner.updates += 1;
        Ok(())
    }

    /// The locked part of [`Map::suballoc`]: `range` is free, and shows all of `sub`.
    fn suballoc(&mut self, range: VaRange, sub: &Map<'_, P>) -> Result<VaRange, InsertError> {
        let a = Attributes { inherit: Inherit::Share, ..Attributes::guard() };
        self.check_limits(range, Backing::Anonymous, &a, 0)?;
        let (Home::Shown(body), Some(h)) = (&sub.home, self.spare.take()) else {
            return Err(InsertError::NoMemory(range.start()));
        };
        let e = self.entry(h);
        become_view(e, range, &a, range.start());
        self.map.vm.body_reference(*body);
        e.submap.set(Some(*body));
        self.link(h);
        Ok(range)
    }
}

/// An entry as new that shows what is at `first` and above.
fn become_view(e: &Entry, range: VaRange, a: &Attributes, first: Va) {
    e.reset(range, Kind::Submap, a);
    e.offset.set(first.page());
    e.set_made_at(NEVER);
}

impl<P: Platform> Vm<P> {
    /// Maps made with [`Map::new_submap`] whose entries are still there.
    pub fn submaps(&self) -> u32 {
        self.bodies.live()
    }

    /// One more view.
    ///
    /// => the caller has a reference.
    pub(super) fn body_reference(&self, h: Handle<Body>) {
        self.bodies.get(h).refs.get();
    }

    /// One view, or the map itself, less; with the last one the entries go.
    ///
    /// => no lock is held; nothing that the reference stood for is translated any more.
    pub(super) fn body_deallocate(&self, h: Handle<Body>, may: &mut MaySleep) {
        let body = self.bodies.get(h);
        if !body.refs.put() {
            return;
        }
        let empty = MapInner::new(Va::ZERO, Va::ZERO);
        let old = core::mem::replace(&mut *body.lock.write(self.host(), may), empty);
        let mut at = old.tree.first();
        while let Some(eh) = at {
            at = Tree::next(&self.entries, eh);
            let e = self.entries.get(eh);
            if let Some(o) = e.object.get() {
                self.drop_mapped(e, o, may);
                e.object.set(None);
                self.object_deallocate(o, may);
            }
            self.entry_uncharge(e);
            self.entries.free(eh);
        }
        self.bodies.free(h);
    }
}
