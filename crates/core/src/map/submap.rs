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

use core::ops::ControlFlow;
use machvm_arena::{Handle, NoMemory};
use machvm_hal::{Gather, MaySleep, Pindex, Pmap, PmapPage, Region, RemoveWhy, Va, VaRange};
use machvm_sync::{Rank, ReadGuard, Refs, RwSleep};

use super::edit::Edit;
use super::entry::{Attributes, Entry, EntryFlags, EntryInfo, Inherit, Kind};
use super::find::check_search;
use super::insert::Backing;
use super::tree::Tree;
use super::{FindError, InsertError, Map, MapInner, Search, SubmapError};
use crate::error::FaultError;
use crate::object::Object;
use crate::page::{Page, number};
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

pub(crate) type Read<'a, P> = ReadGuard<'a, MapInner, <P as Platform>::Host>;

/// An entry as it is seen from a map: its own, or one of a submap that it shows.
pub(crate) struct Seen<'vm, P: Platform> {
    pub(crate) entry: &'vm Entry,
    /// Its bounds in the map that looks, cut to the view.
    pub(crate) start: Va,
    pub(crate) end: Va,
    /// Index in the object of the page at `start`.
    pub(crate) first: u64,
    /// Through a submap: the view, and the submap's lock.
    pub(crate) view: Option<(&'vm Entry, Read<'vm, P>)>,
}

impl<P: Platform> Seen<'_, P> {
    /// Index in the object of the page at `va`.
    pub(crate) fn pindex(&self, va: Va) -> u64 {
        self.first.wrapping_add(va.page() - self.start.page())
    }
    /// As a snapshot, with the addresses of the map that looks.
    pub(crate) fn info(&self) -> Option<EntryInfo> {
        let e = self.entry;
        Some(EntryInfo {
            range: VaRange::between(self.start, self.end)?,
            offset: Pindex(self.first),
            ..info(e)?
        })
    }
    /// Does the machine know other regions in the view than the submap has?
    pub(crate) fn is_stale(&self) -> bool {
        self.view.as_ref().is_some_and(|(view, submap)| view.made_at() != submap.version())
    }
}

/// A snapshot of an entry, with its own addresses.
pub(super) fn info(e: &Entry) -> Option<EntryInfo> {
    Some(EntryInfo {
        range: e.range()?,
        kind: e.kind(),
        attributes: e.attributes(),
        flags: e.flags(),
        wired: e.wired.get(),
        object: e.object.get(),
        offset: Pindex(e.offset.get()),
    })
}

/// A part of a range that one entry covers; see [`Map::each_part`].
pub(crate) struct Part<'vm> {
    pub(crate) entry: &'vm Entry,
    /// In the map that looks.
    pub(crate) range: VaRange,
    /// Index in the object of its first page.
    pub(crate) first: Pindex,
    /// It is an entry of a submap.
    pub(crate) through: bool,
}

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

    /// What is at `va`, through a submap if there is one (N05, M50).
    ///
    /// => the map is at least read locked, and no other is; while the answer lives, so is
    ///    the submap.
    pub(crate) fn see(&self, inner: &MapInner, va: Va, may: &mut MaySleep) -> Option<Seen<'vm, P>> {
        self.see_with(inner, va, |body| Ok::<_, ()>(body.lock.read_second(self.vm.host(), may))).ok()?
    }

    /// As [`Map::see`] without waiting.
    ///
    /// # Errors
    /// The submap that is locked by somebody else.
    #[inline]
    pub(crate) fn try_see(&self, inner: &MapInner, va: Va) -> Result<Option<Seen<'vm, P>>, Handle<Body>> {
        self.see_with(inner, va, |body| body.lock.try_read(self.vm.host()).ok_or(()))
    }

    #[inline]
    fn see_with<E>(
        &self,
        inner: &MapInner,
        va: Va,
        lock: impl FnOnce(&'vm Body) -> Result<Read<'vm, P>, E>,
    ) -> Result<Option<Seen<'vm, P>>, Handle<Body>> {
        let Some(h) = self.lookup_entry(inner, va) else { return Ok(None) };
        let e = self.entry(h);
        match e.submap.get() {
            None => {
                let (start, end, first) = (e.start(), e.end(), e.offset.get());
                Ok(Some(Seen { entry: e, start, end, first, view: None }))
            }
            Some(body) => self.see_through(e, body, va, lock),
        }
    }

    #[inline(never)] // rare, and the guard would be in the way of the fault's registers
    fn see_through<E>(
        &self,
        view: &'vm Entry,
        body: Handle<Body>,
        va: Va,
        lock: impl FnOnce(&'vm Body) -> Result<Read<'vm, P>, E>,
    ) -> Result<Option<Seen<'vm, P>>, Handle<Body>> {
        let submap = lock(self.vm.bodies.get(body)).map_err(|_| body)?;
        let there = Va::from_page(view.pindex(va).0);
        let found = submap.tree.containing(&self.vm.entries, there);
        let seen = found.map(|h| self.entry(h)).and_then(|e| {
            let range = seen_range(view, e)?;
            let (start, end) = (range.start(), range.end());
            Some(Seen { entry: e, start, end, first: seen_index(view, e, start), view: Some((view, submap)) })
        });
        Ok(seen)
    }

    /// Calls `f` with each part of `range` that is mapped, ascending, submaps looked
    /// through. Where the next part does not begin where the last one ended there is a hole.
    ///
    /// => the map is at least read locked, and no other is; in `f` a submap may be read
    ///    locked too.
    pub(crate) fn each_part<B>(
        &self,
        inner: &MapInner,
        range: VaRange,
        may: &mut MaySleep,
        f: &mut dyn FnMut(&Part<'vm>, &mut MaySleep) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        for e in self.overlapping(inner, range).map(|h| self.entry(h)) {
            let Some(part) = e.range().and_then(|r| r.intersect(range)) else { continue };
            match e.submap.get() {
                None => {
                    f(&Part { entry: e, range: part, first: e.pindex(part.start()), through: false }, may)?
                }
                Some(body) => self.each_part_of(e, body, part, may, f)?,
            }
        }
        ControlFlow::Continue(())
    }

    fn each_part_of<B>(
        &self,
        view: &Entry,
        body: Handle<Body>,
        range: VaRange,
        may: &mut MaySleep,
        f: &mut dyn FnMut(&Part<'vm>, &mut MaySleep) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let submap = self.vm.bodies.get(body).lock.read_second(self.vm.host(), may);
        let Some(there) = VaRange::of_pages(Va::from_page(view.pindex(range.start()).0), range.pages())
        else {
            return ControlFlow::Continue(());
        };
        for e in self.overlapping(&submap, there).map(|h| self.entry(h)) {
            let Some(part) = seen_range(view, e).and_then(|r| r.intersect(range)) else { continue };
            let first = Pindex(seen_index(view, e, part.start()));
            f(&Part { entry: e, range: part, first, through: true }, may)?;
        }
        ControlFlow::Continue(())
    }

    /// How many parts [`Map::each_part`] comes by.
    pub(super) fn count_parts(&self, inner: &MapInner, range: VaRange) -> u32 {
        let mut n = 0u32;
        let _ = self.each_part::<()>(inner, range, &mut MaySleep::claim(), &mut |_, _| {
            n = n.saturating_add(1);
            ControlFlow::Continue(())
        });
        n
    }

    /// The first entry that ends above `va`, submaps looked through, with the addresses of
    /// this map; and how deep it lies: 1 in a submap, else 0.
    ///
    /// => no lock is held.
    pub fn entry_through(&self, va: Va, may: &mut MaySleep) -> Option<(EntryInfo, u32)> {
        let inner = self.lock_read(may);
        loop {
            if let Some(seen) = self.see_from(&inner, va, may)? {
                return Some((seen.info()?, u32::from(seen.view.is_some())));
            }
        }
    }

    /// The first entry that ends above `va`, submaps looked through. `None`: there is none;
    /// `Some(None)`: it went from its submap meanwhile.
    ///
    /// => as [`Map::see`].
    #[expect(clippy::option_option, reason = "they are two answers, and the caller looks again after one")]
    pub(crate) fn see_from(
        &self,
        inner: &MapInner,
        va: Va,
        may: &mut MaySleep,
    ) -> Option<Option<Seen<'vm, P>>> {
        let rest = VaRange::between(va.max(self.min()), self.max())?;
        let found = self.each_part(inner, rest, may, &mut |part, _| ControlFlow::Break(part.range.start()));
        match found {
            ControlFlow::Break(at) => Some(self.see(inner, at, may)),
            ControlFlow::Continue(()) => None,
        }
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

/// The part of a view in which the submap's entry `e` is seen.
fn seen_range(view: &Entry, e: &Entry) -> Option<VaRange> {
    let shown = view.offset.get()..view.offset.get() + view.pages();
    let (low, end) = (shown.start.max(e.start().page()), shown.end.min(e.end().page()));
    let pages = end.checked_sub(low).filter(|n| *n != 0)?;
    VaRange::of_pages(view.start().add(low - shown.start), pages)
}

/// The index in the object of `e` of what the view has at `va`.
fn seen_index(view: &Entry, e: &Entry, va: Va) -> u64 {
    e.offset.get().wrapping_add(view.pindex(va).0.wrapping_sub(e.start().page()))
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
            self.entries.free(eh);
        }
        self.bodies.free(h);
    }

    /// Unwires what a dead entry kept, and drops what it mapped of an object that lives on.
    /// A drop that finds no memory leaves contents that no entry covers: they go with the
    /// object.
    pub(super) fn drop_mapped(&self, e: &Entry, o: Handle<Object>, may: &mut MaySleep) {
        if e.wired.get() != 0 {
            self.unwire_object(o, e.offset.get(), e.pages(), may);
        }
        if !self.object_is_shared(o) && !self.object_is_private_sole(o) {
            let _ = self.object_drop_range(o, Pindex(e.offset.get()), e.pages(), may);
        }
    }

    /// Removes every translation of every resident page of the range, in every pmap.
    ///
    /// => maps may be locked: who has a page busy does not wait for a map.
    pub(super) fn object_unmap(&self, o: Handle<Object>, first: Pindex, pages: u64, may: &mut MaySleep) {
        self.each_resident(o, first.0, pages, may, &mut |p, may| {
            let mut g = Gather::new();
            self.plat.pmap_page().page_remove(&self.pages, &[number(p)], RemoveWhy::Sample, &mut g);
            self.finish(g, may);
        });
    }

    /// Takes write access from every translation of every resident page of the range, in
    /// every pmap. After a copy of the object was made, whoever takes a page busy later sees
    /// that it is shared.
    ///
    /// => as [`Vm::object_unmap`].
    pub(super) fn object_write_protect(
        &self,
        o: Handle<Object>,
        first: Pindex,
        pages: u64,
        may: &mut MaySleep,
    ) {
        self.each_resident(o, first.0, pages, may, &mut |p, may| {
            let mut g = Gather::new();
            self.plat.pmap_page().page_write_protect(&self.pages, &[number(p)], &mut g);
            self.finish(g, may);
        });
    }

    /// Would a write to this page of an object copy it first?
    pub(super) fn object_is_copied_at(&self, o: Handle<Object>, at: Pindex, may: &mut MaySleep) -> bool {
        let inner = self.objects.get(o).lock.read(self.host(), may);
        let (anon, path) = self.tree_lookup(&inner.tree, at.0);
        anon.is_some_and(|a| path || self.anons.get(a).is_shared())
    }

    /// Calls `f` with every resident page of the range of an object, busy.
    ///
    /// => a map may be write locked: who has a page busy does not wait for a map.
    pub(super) fn each_resident(
        &self,
        o: Handle<Object>,
        first: u64,
        pages: u64,
        may: &mut MaySleep,
        f: &mut dyn FnMut(Handle<Page>, &mut MaySleep),
    ) {
        let (mut next, end) = (first, first.saturating_add(pages));
        while next < end {
            let mut found = None;
            let inner = self.objects.get(o).lock.read(self.host(), may);
            self.tree_for_each(&inner.tree, next, end - next, &mut |i, a| {
                found = self.anons.get(a).page().map(|p| (i, a, p));
                found.is_none()
            });
            drop(inner);
            let Some((i, a, p)) = found else { return };
            match self.anon_busy_page(a, p) {
                Ok(()) => {
                    f(p, may);
                    self.page_unbusy(p);
                    next = i + 1;
                }
                Err(Some(busy)) => self.wait_page(busy, may),
                Err(None) => {}
            }
        }
    }
}
