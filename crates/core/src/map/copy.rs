//! Copying ranges without touching their pages (M63, M66, U16).
//!
//! A [`MapCopy`] is a snapshot of a range: a chain of entries that belong to no map,
//! each with a copy-on-write copy of its part's object. Taking it and using it are
//! two operations, each with one map locked, so source and destination may be the
//! same map and may overlap (Z100).

use core::ops::ControlFlow;
use machvm_arena::{Handle, NoMemory, Reserved};
use machvm_hal::{Gather, MaySleep, PAGE_SHIFT, Pindex, Pmap, Prot, Region, Va, VaRange};

use super::clip::CLIPS;
use super::edit::Edit;
use super::entry::{Entry, EntryFlags, Kind};
use super::extract::piece;
use super::{CopyError, CopyWhy, Map, MapInner, Side};
use crate::object::{Much, Object};
use crate::platform::Platform;
use crate::vm::Vm;

/// A snapshot of a range (`vm_map_copy_t`). Dropping it discards it (M67), which may
/// sleep: drop it with nothing locked.
#[must_use]
pub struct MapCopy<'vm, P: Platform> {
    pub(super) vm: &'vm Vm<P>,
    /// Chained through `links.next`, ascending; bounds count from zero.
    pub(super) head: Option<Handle<Entry>>,
    pub(super) tail: Option<Handle<Entry>>,
    pub(super) pages: u64,
    pub(super) pieces: u32,
}

impl<'vm, P: Platform> MapCopy<'vm, P> {
    /// Its size in pages.
    pub fn pages(&self) -> u64 {
        self.pages
    }
    /// Moves the contents into a new handle and leaves this one empty (M67
    /// `vm_map_copy_copy`).
    pub fn take(&mut self) -> Self {
        core::mem::replace(self, MapCopy::empty(self.vm, 0))
    }
    /// No piece yet.
    pub(super) fn empty(vm: &'vm Vm<P>, pages: u64) -> Self {
        MapCopy { vm, head: None, tail: None, pages, pieces: 0 }
    }
    pub(super) fn push(&mut self, h: Handle<Entry>) {
        let links = &self.vm.entries.get(h).links;
        links.next.set(None);
        match self.tail {
            Some(t) => self.vm.entries.get(t).links.next.set(Some(h)),
            None => self.head = Some(h),
        }
        self.tail = Some(h);
        self.pieces += 1;
    }
    pub(super) fn iter(&self) -> impl Iterator<Item = Handle<Entry>> + use<'vm, P> {
        let slab = &self.vm.entries;
        core::iter::successors(self.head, move |h| slab.get(*h).links.next.get())
    }
    /// No piece reaches across page `at` any more.
    fn cut(&mut self, at: u64, spare: &mut Reserved<'vm, Entry, P::Chunks>) -> Result<(), NoMemory> {
        let at = at << PAGE_SHIFT;
        let slab = &self.vm.entries;
        let across = |h: &Handle<Entry>| slab.get(*h).start.get() < at && at < slab.get(*h).end.get();
        let Some(h) = self.iter().find(across) else { return Ok(()) };
        let e = slab.get(h);
        let upper = spare.take().ok_or(NoMemory)?;
        let u = slab.get(upper);
        u.copy_from(e);
        u.start.set(at);
        u.end.set(e.end.get());
        u.offset.set(e.offset.get() + ((at - e.start.get()) >> PAGE_SHIFT));
        if let Some(o) = u.object.get() {
            self.vm.object_reference(o);
        }
        e.end.set(at);
        u.links.next.set(e.links.next.get());
        e.links.next.set(Some(upper));
        if self.tail == Some(h) {
            self.tail = Some(upper);
        }
        self.pieces += 1;
        Ok(())
    }
}

impl<P: Platform> Drop for MapCopy<'_, P> {
    fn drop(&mut self) {
        let mut may = MaySleep::claim();
        while let Some(h) = self.head {
            let e = self.vm.entries.get(h);
            self.head = e.links.next.get();
            if let Some(o) = e.object.get() {
                e.object.set(None);
                self.vm.object_deallocate(o, &mut may);
            }
            self.vm.entries.free(h);
        }
    }
}

impl<'vm, P: Platform> Map<'vm, P> {
    /// Takes a snapshot of `range` (M63 `vm_map_copyin`, page aligned). All of it must
    /// be readable memory.
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// [`CopyError`] on [`Side::Source`]; nothing changed.
    pub fn copyin(&self, range: VaRange, may: &mut MaySleep) -> Result<MapCopy<'vm, P>, CopyError> {
        let failed = |at, why| CopyError { side: Side::Source, at, why };
        let within = range.intersect(self.bounds).filter(|w| *w == range);
        let range = within.ok_or(failed(range.start(), CopyWhy::Hole))?;
        let need = |m: &Self, inner: &MapInner| m.count_parts(inner, range);
        let mut edit = self
            .edit_counted(range, need, may)
            .map_err(|NoMemory| failed(range.start(), CopyWhy::NoMemory))?;
        let mut copy = MapCopy::empty(self.vm, range.pages());
        let done = edit.check_copy(range, Prot::R, may).and_then(|()| edit.snapshot(range, &mut copy, may));
        edit.done(may);
        // On failure the pieces go here, with nothing locked.
        done.map(|()| copy).map_err(|(at, why)| failed(at, why))
    }

    /// As [`Map::copyin`], and removes the source, under one lock hold (M63 with `destroy`).
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// As [`Map::copyin`]; nothing changed.
    pub fn copyin_destroy(&self, range: VaRange, may: &mut MaySleep) -> Result<MapCopy<'vm, P>, CopyError> {
        let failed = |at, why| CopyError { side: Side::Source, at, why };
        let within = range.intersect(self.bounds).filter(|w| *w == range);
        let range = within.ok_or(failed(range.start(), CopyWhy::Hole))?;
        let need = |m: &Self, inner: &MapInner| m.count_parts(inner, range).saturating_add(CLIPS);
        let short = |NoMemory| failed(range.start(), CopyWhy::NoMemory);
        let mut edit = self.edit_counted(range, need, may).map_err(short)?;
        let mut copy = MapCopy::empty(self.vm, range.pages());
        let done = edit.check_copy(range, Prot::R, may).and_then(|()| {
            let mut done = edit.clip_range(range).map_err(|NoMemory| (range.start(), CopyWhy::NoMemory));
            if done.is_ok() {
                done = edit.snapshot(range, &mut copy, may);
            }
            edit.settle_ends(range, &done);
            done
        });
        if done.is_ok() {
            edit.remove_clipped(range, may);
        }
        edit.done(may);
        // On failure the pieces go here, with nothing locked.
        done.map(|()| copy).map_err(|(at, why)| failed(at, why))
    }

    /// Replaces the contents at `dst` by the snapshot (M66 `vm_map_copy_overwrite`).
    /// Protection, maximum, inheritance and tag of the destination stay (Z104).
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// [`CopyError`] on [`Side::Destination`]; nothing changed. The snapshot is
    /// consumed either way.
    pub fn overwrite(&self, dst: Va, copy: MapCopy<'vm, P>, may: &mut MaySleep) -> Result<(), CopyError> {
        self.overwrite_if(dst, copy, Sharers::KeepTheirs, may)
    }

    /// As [`Map::overwrite`]; `sharers` says what becomes of a destination that others
    /// see too.
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// As [`Map::overwrite`], and [`CopyWhy::Shared`].
    pub fn overwrite_if(
        &self,
        dst: Va,
        mut copy: MapCopy<'vm, P>,
        sharers: Sharers,
        may: &mut MaySleep,
    ) -> Result<(), CopyError> {
        let failed = |at, why| CopyError { side: Side::Destination, at, why };
        let range = VaRange::of_pages(dst, copy.pages)
            .and_then(|r| r.intersect(self.bounds).filter(|w| *w == r))
            .ok_or(failed(dst, CopyWhy::Hole))?;
        // The boundaries of either side cut the other.
        let pieces = copy.pieces;
        let need = |m: &Self, inner: &MapInner| {
            (m.overlapping(inner, range).count() as u32).saturating_add(CLIPS).saturating_add(pieces)
        };
        let mut edit =
            self.edit_counted(range, need, may).map_err(|NoMemory| failed(dst, CopyWhy::NoMemory))?;
        let checked = edit
            .check_copy(range, Prot::W, may)
            .and_then(|()| edit.check_held(range, may))
            .and_then(|()| edit.check_sharers(range, sharers));
        let done = checked.and_then(|()| {
            let done = edit.overwrite(range, &mut copy, may);
            edit.settle(range, &done);
            done
        });
        edit.done(may);
        drop(copy);
        done.map_err(|(at, why)| failed(at, why))
    }

    /// Makes `dst` a copy of `src` by copy-on-write (U16 `vm_copy`): the snapshot
    /// first, so they may overlap. `to` may be this map.
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// [`CopyError`]; nothing changed.
    pub fn copy_range(
        &self,
        src: VaRange,
        to: &Map<'vm, P>,
        dst: Va,
        may: &mut MaySleep,
    ) -> Result<(), CopyError> {
        let copy = self.copyin(src, may)?;
        to.overwrite(dst, copy, may)
    }
}

impl<P: Platform> Map<'_, P> {
    /// Takes write access from what is mapped in `part` of `e`, whose object was just
    /// copied. Wired memory keeps it where the copy shares nothing: it must not fault
    /// (Z48, Z50).
    ///
    /// => the map is write locked.
    pub(super) fn protect_shared(
        &self,
        e: &Entry,
        part: VaRange,
        whole: bool,
        g: &mut Gather,
        may: &mut MaySleep,
    ) {
        e.forget_faults();
        let protect = |r, g: &mut Gather| self.pmap.protect_copy(self.vm.page_array(), r, whole, g);
        let (Some(o), true) = (e.object.get(), e.wired.get() != 0) else {
            return protect(part, g);
        };
        let mut at = part.start();
        self.vm.object_own_pages(o, e.pindex(at).0, part.pages(), may, &mut |index| {
            let own = e.start().add(index - e.offset.get());
            VaRange::between(at, own).into_iter().for_each(|r| protect(r, g));
            at = own.add(1);
        });
        VaRange::between(at, part.end()).into_iter().for_each(|r| protect(r, g));
    }
}

/// What becomes of those who share a destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sharers {
    /// They keep the old contents: the destination no longer shares with them.
    KeepTheirs,
    /// Shared destinations are refused: their object stays (U15, Z104), so bytes must
    /// be written into it.
    Refuse,
}

impl<'vm, P: Platform> Edit<'_, 'vm, P> {
    fn check_sharers(&self, range: VaRange, sharers: Sharers) -> Result<(), (Va, CopyWhy)> {
        let vm = self.map.vm;
        let permanent = |h: &Handle<Entry>| {
            let e = self.entry(*h);
            e.object.get().is_some_and(|o| vm.object_is_permanent(o, e.is_shared()))
        };
        match self.map.overlapping(&self.inner, range).find(permanent) {
            Some(h) if sharers == Sharers::Refuse => {
                Err((self.entry(h).start().max(range.start()), CopyWhy::Shared))
            }
            _ => Ok(()),
        }
    }

    /// What is held must not get other pages: a device may be about to write it.
    fn check_held(&self, range: VaRange, may: &mut MaySleep) -> Result<(), (Va, CopyWhy)> {
        for e in self.map.overlapping(&self.inner, range).map(|h| self.entry(h)) {
            let Some((o, part)) = e.object.get().zip(e.range().and_then(|r| r.intersect(range))) else {
                continue;
            };
            if self.map.vm.object_any_held(o, e.pindex(part.start()).0, part.pages(), may) {
                return Err((part.start(), CopyWhy::Wired));
            }
        }
        Ok(())
    }

    /// Is all of `range` memory with this right? Submaps are looked through.
    pub(super) fn check_copy(
        &self,
        range: VaRange,
        access: Prot,
        may: &mut MaySleep,
    ) -> Result<(), (Va, CopyWhy)> {
        let (mut at, mut bad) = (range.start(), None);
        let found = self.map.each_part(&self.inner, range, may, &mut |part, _| {
            let (e, here) = (part.entry, part.range.start());
            if here != at {
                return ControlFlow::Break(());
            }
            at = part.range.end();
            let why = match e.kind() {
                Kind::Guard | Kind::StackGap => Some(CopyWhy::Protection),
                Kind::Foreign => Some(CopyWhy::Foreign),
                Kind::Object if !e.prot().contains(access) => Some(CopyWhy::Protection),
                Kind::Object if access == Prot::W && e.wired.get() != 0 => Some(CopyWhy::Wired),
                // The submap's entries are not this map's to change.
                _ if access == Prot::W && part.through => Some(CopyWhy::Shared),
                Kind::Object | Kind::Submap => None,
            };
            bad = bad.or(why.map(|why| (here, why)));
            ControlFlow::Continue(())
        });
        // A hole anywhere comes before rights.
        if found.is_break() || at < range.end() {
            return Err((at, CopyWhy::Hole));
        }
        bad.map_or(Ok(()), Err)
    }

    pub(super) fn snapshot(
        &mut self,
        range: VaRange,
        copy: &mut MapCopy<'vm, P>,
        may: &mut MaySleep,
    ) -> Result<(), (Va, CopyWhy)> {
        let (map, vm) = (self.map, self.map.vm);
        let (spare, unused) = (&mut self.spare, &mut self.unused);
        let mut g = Gather::new();
        let mut last: Option<(Handle<Object>, Handle<Object>)> = None;
        let done = map.each_part(&self.inner, range, may, &mut |part, may| {
            let (e, at) = (part.entry, part.range.start());
            let Some(o) = e.object.get() else { return ControlFlow::Continue(()) };
            let short = ControlFlow::Break((at, CopyWhy::NoMemory));
            // Pieces of one object that are disjoint share one copy; what a view shows may
            // be shown again beside it.
            let disjoint = !part.through && !vm.object_is_shared(o);
            let again = last.filter(|(from, _)| *from == o && disjoint).map(|(_, to)| to);
            let made = match again {
                Some(to) => {
                    vm.object_reference(to);
                    Ok(to)
                }
                None => {
                    let first = part.first.0;
                    vm.object_copy(o, (Much::Kept, first..first + part.range.pages()), &mut g, may).map(|c| {
                        last = Some((o, c.object)).filter(|_| c.whole);
                        c.object
                    })
                }
            };
            let Ok(to) = made else { return short };
            // A submap may have got more entries since they were counted.
            let Some(new) = spare.take().or_else(|| vm.entries.alloc().ok()) else {
                *unused = Some(to);
                return short;
            };
            piece(
                vm,
                new,
                at.page() - range.start().page(),
                part.range.pages(),
                e.attributes(),
                (to, part.first),
            );
            copy.push(new);
            if part.through || map.is_shown() {
                vm.finish(core::mem::take(&mut g), may);
                vm.object_write_protect(o, part.first, part.range.pages(), may);
            }
            if !part.through {
                map.protect_shared(e, part.range, false, &mut g, may);
            }
            ControlFlow::Continue(())
        });
        vm.finish(g, may);
        match done {
            ControlFlow::Break(e) => Err(e),
            ControlFlow::Continue(()) => Ok(()),
        }
    }

    /// => the destination is checked, and enough entries are reserved.
    pub(super) fn overwrite(
        &mut self,
        range: VaRange,
        copy: &mut MapCopy<'vm, P>,
        may: &mut MaySleep,
    ) -> Result<(), (Va, CopyWhy)> {
        let short = |NoMemory| (range.start(), CopyWhy::NoMemory);
        let base = range.start().page();
        self.clip_range(range).map_err(short)?;
        for piece in copy.iter() {
            self.clip(Va::from_page(base + self.entry(piece).start().page())).map_err(short)?;
        }
        for h in self.map.overlapping(&self.inner, range) {
            copy.cut(self.entry(h).start().page() - base, &mut self.spare).map_err(short)?;
        }
        self.remove_regions(range, may);
        let mut refused = None;
        for (h, piece) in self.map.overlapping(&self.inner, range).zip(copy.iter()) {
            self.swap_contents(h, piece);
            if self.map.region_enter(h).is_err() {
                refused = Some(h);
                break;
            }
        }
        let Some(at) = refused else {
            // A stack whose lowest part has other contents now cannot grow into them.
            self.detach_gap(range.start(), may);
            self.bury_replaced(copy);
            self.drop_contents(may);
            return Ok(());
        };
        // What was swapped goes back, then the machine gets the old regions again.
        let mut g = Gather::new();
        self.map.regions_remove(&self.inner, range, &mut g);
        self.map.vm.finish(g, may);
        for (h, piece) in self.map.overlapping(&self.inner, range).zip(copy.iter()) {
            self.swap_contents(h, piece);
            if h == at {
                break;
            }
        }
        for h in self.map.overlapping(&self.inner, range) {
            let back = self.map.region_enter(h);
            debug_assert!(back.is_ok(), "the machine does not take a region back");
        }
        Err((self.entry(at).start(), CopyWhy::Machine))
    }

    /// Exchanges object and offset of a map's entry and a piece of a copy, and the mark
    /// that others see this memory.
    fn swap_contents(&self, h: Handle<Entry>, piece: Handle<Entry>) {
        let (e, p) = (self.entry(h), self.entry(piece));
        let (object, offset) = (e.object.get(), e.offset.get());
        e.object.set(p.object.get());
        e.offset.set(p.offset.get());
        p.object.set(object);
        p.offset.set(offset);
        let differ = (e.flags() ^ p.flags()) & EntryFlags::SHARED;
        e.set_flags(e.flags() ^ differ);
        p.set_flags(p.flags() ^ differ);
    }

    /// As [`Edit::bury_copy`], but for what may wait until later.
    fn bury_replaced(&mut self, copy: &mut MapCopy<'vm, P>) {
        let vm = self.map.vm;
        while let Some(h) = copy.head {
            copy.head = self.entry(h).links.next.get();
            vm.entry_uncharge(self.entry(h));
            if !vm.put_off(h) {
                self.bury(h);
            }
        }
        copy.tail = None;
    }

    /// The pieces now hold what was replaced.
    pub(super) fn bury_copy(&mut self, copy: &mut MapCopy<'vm, P>) {
        while let Some(h) = copy.head {
            copy.head = self.entry(h).links.next.get();
            self.bury(h);
        }
        copy.tail = None;
    }

    /// The region a moved or extended entry would have at another place.
    pub(super) fn region_at(&self, h: Handle<Entry>) -> Option<Region> {
        let e = self.entry(h);
        let first = Pindex(e.offset.get());
        match (e.kind(), e.object.get()) {
            (Kind::Object, Some(o)) => {
                Some(Region { first: self.map.vm.object_natural(o, first), prot: e.prot() })
            }
            _ => None,
        }
    }

    /// A stack that was moved, or cut from its gap, is memory like any other.
    pub(super) fn forget_stack(&self, h: Handle<Entry>) {
        self.entry(h).remove_flags(EntryFlags::GROWS_DOWN);
    }
}
