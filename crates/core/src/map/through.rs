//! Looking through submaps: an address, or a range, of a map and the entries that are seen
//! there, its own or a submap's, with the addresses of the map that looks.

use core::ops::ControlFlow;
use machvm_arena::Handle;
use machvm_hal::{MaySleep, Pindex, Va, VaRange};
use machvm_sync::ReadGuard;

use super::entry::{Entry, EntryInfo};
use super::submap::Body;
use super::{Map, MapInner};
use crate::platform::Platform;

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
    /// What is at `va`, through a submap if there is one (N05, M50).
    ///
    /// => the map is at least read locked, and no other is; while the answer lives, so is
    ///    the submap.
    pub(crate) fn see(&self, inner: &MapInner, va: Va, may: &mut MaySleep) -> Option<Seen<'vm, P>> {
        self.see_with(inner, va, |body| Ok::<_, ()>(body.lock_word().read_second(self.vm.host(), may)))
            .ok()?
    }

    /// As [`Map::see`] without waiting.
    ///
    /// # Errors
    /// The submap that is locked by somebody else.
    #[inline]
    pub(crate) fn try_see(&self, inner: &MapInner, va: Va) -> Result<Option<Seen<'vm, P>>, Handle<Body>> {
        self.see_with(inner, va, |body| body.lock_word().try_read(self.vm.host()).ok_or(()))
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
        let submap = self.vm.bodies.get(body).lock_word().read_second(self.vm.host(), may);
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
}

/// The part of a view in which the submap's entry `e` is seen.
pub(super) fn seen_range(view: &Entry, e: &Entry) -> Option<VaRange> {
    let shown = view.offset.get()..view.offset.get() + view.pages();
    let (low, end) = (shown.start.max(e.start().page()), shown.end.min(e.end().page()));
    let pages = end.checked_sub(low).filter(|n| *n != 0)?;
    VaRange::of_pages(view.start().add(low - shown.start), pages)
}

/// The index in the object of `e` of what the view has at `va`.
pub(super) fn seen_index(view: &Entry, e: &Entry, va: Va) -> u64 {
    e.offset.get().wrapping_add(view.pindex(va).0.wrapping_sub(e.start().page()))
}
