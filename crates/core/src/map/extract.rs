//! Taking a range out of a map as a chain of pieces: a snapshot or the same memory
//! (M68 `vm_map_remap_extract`; U07, U09).

use core::ops::ControlFlow;
use machvm_arena::{Handle, NoMemory};
use machvm_hal::{Gather, MaySleep, Pindex, Prot, Va, VaRange};

use super::clip::CLIPS;
use super::copy::MapCopy;
use super::edit::Edit;
use super::entry::{Attributes, Entry, EntryFlags, Kind};
use super::{CopyError, CopyWhy, Map, MapInner, Side};
use crate::object::{Much, Object};
use crate::platform::Platform;
use crate::vm::Vm;

/// How the pieces hang together with where they came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Take {
    /// Copy-on-write: as they are now.
    Copy,
    /// The same memory.
    Share,
}

/// Rights that every entry of a source must have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Need {
    /// In its current protection.
    pub prot: Prot,
    /// In its maximum.
    pub max: Prot,
}

/// What [`Map::extract`] gives.
pub struct Extract<'vm, P: Platform> {
    /// The pieces; each keeps the attributes it had.
    pub pieces: MapCopy<'vm, P>,
    /// The rights that all of them have.
    pub prot: Prot,
    /// As `prot`, of the maxima.
    pub max: Prot,
}

impl<'vm, P: Platform> Map<'vm, P> {
    /// Takes `range` out as pieces; nothing of it is unmapped. All of it must be memory
    /// with the rights needed.
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// [`CopyError`] on [`Side::Source`]; nothing changed.
    pub fn extract(
        &self,
        range: VaRange,
        take: Take,
        need: Need,
        may: &mut MaySleep,
    ) -> Result<Extract<'vm, P>, CopyError> {
        let failed = |(at, why)| CopyError { side: Side::Source, at, why };
        if range.intersect(self.bounds) != Some(range) {
            let at = if range.start() < self.min() { range.start() } else { self.max().max(range.start()) };
            return Err(failed((at, CopyWhy::Hole)));
        }
        let cuts = if take == Take::Share { CLIPS } else { 0 };
        let count = |m: &Self, inner: &MapInner| m.count_parts(inner, range).saturating_add(cuts);
        let short = |NoMemory| failed((range.start(), CopyWhy::NoMemory));
        let mut edit = self.edit_counted(range, count, may).map_err(short)?;
        let mut pieces = MapCopy::empty(self.vm, range.pages());
        let done = edit.check_need(range, need, may).and_then(|rights| {
            match take {
                Take::Copy => edit.snapshot(range, &mut pieces, may)?,
                Take::Share => {
                    let done = edit.share(range, &mut pieces, may);
                    edit.settle(range, &done);
                    done?;
                }
            }
            Ok(rights)
        });
        edit.done(may);
        // On failure the pieces go here, with nothing locked.
        done.map(|(prot, max)| Extract { pieces, prot, max }).map_err(failed)
    }
}

impl<'vm, P: Platform> Edit<'_, 'vm, P> {
    /// The rights common to all of `range`.
    fn check_need(
        &self,
        range: VaRange,
        need: Need,
        may: &mut MaySleep,
    ) -> Result<(Prot, Prot), (Va, CopyWhy)> {
        self.check_copy(range, need.prot, may).or_else(|e| match e.1 {
            // A wired source is read like any other, and sharing a submap's memory leaves the
            // submap as it is.
            CopyWhy::Wired | CopyWhy::Shared => Ok(()),
            _ => Err(e),
        })?;
        let mut common = (Prot::ALL, Prot::ALL);
        let found = self.map.each_part(&self.inner, range, may, &mut |part, _| {
            let e = part.entry;
            if !e.prot().contains(need.prot) || !e.max().contains(need.max) {
                return ControlFlow::Break((part.range.start(), CopyWhy::Protection));
            }
            common = (common.0 & e.prot(), common.1 & e.max());
            ControlFlow::Continue(())
        });
        match found {
            ControlFlow::Break(e) => Err(e),
            ControlFlow::Continue(()) => Ok(common),
        }
    }

    /// What others see from now on is marked, and cut off from what they do not see. Of a
    /// submap whole entries are marked: they are not this map's to cut.
    ///
    /// => [`Edit::settle`] follows.
    fn share(
        &mut self,
        range: VaRange,
        pieces: &mut MapCopy<'vm, P>,
        may: &mut MaySleep,
    ) -> Result<(), (Va, CopyWhy)> {
        for at in [range.start(), range.end()] {
            let across = self.map.lookup_entry(&self.inner, at).map(|h| self.entry(h));
            if across.is_some_and(|e| e.kind() == Kind::Object && !e.is_shared()) {
                self.clip(at).map_err(|NoMemory| (range.start(), CopyWhy::NoMemory))?;
            }
        }
        self.share_pieces(range, pieces, may)?;
        // Nothing fails any more. From now on several entries cover these indices (Z54, Z57).
        let vm = self.map.vm;
        let own = || self.map.overlapping(&self.inner, range).map(|h| self.entry(h));
        own().filter_map(|e| e.object.get()).for_each(|o| vm.object_mark_shared(o));
        for piece in pieces.iter().map(|h| self.entry(h)) {
            let at = range.start().add(piece.start().page());
            let e = self.map.lookup_entry(&self.inner, at).map(|h| self.entry(h));
            if let Some((e, o)) = e.and_then(|e| Some((e, e.object.get()?))) {
                Undo::note(piece, e, vm.object_sharings(o));
                vm.entry_charge_to_object(e);
                e.mark_shared();
            }
        }
        Ok(())
    }

    fn share_pieces(
        &mut self,
        range: VaRange,
        pieces: &mut MapCopy<'vm, P>,
        may: &mut MaySleep,
    ) -> Result<(), (Va, CopyWhy)> {
        let (vm, spare) = (self.map.vm, &mut self.spare);
        let done = self.map.each_part(&self.inner, range, may, &mut |part, _| {
            let (e, at) = (part.entry, part.range.start());
            let Some(o) = e.object.get() else { return ControlFlow::Continue(()) };
            // A submap may have got more entries since they were counted.
            let Some(new) = spare.take().or_else(|| vm.entries.alloc().ok()) else {
                return ControlFlow::Break((at, CopyWhy::NoMemory));
            };
            if part.through {
                // Now, while the submap is locked.
                vm.object_mark_shared(o);
                e.mark_shared();
            }
            vm.object_reference(o);
            let from = at.page() - range.start().page();
            piece(vm, new, from, part.range.pages(), e.attributes(), (o, part.first));
            vm.entries.get(new).mark_shared();
            pieces.push(new);
            ControlFlow::Continue(())
        });
        match done {
            ControlFlow::Break(e) => Err(e),
            ControlFlow::Continue(()) => Ok(()),
        }
    }
}

/// What sharing changed of the entry that a piece came from. It is kept in the piece, in
/// fields that only entries of maps use.
struct Undo {
    /// [`Vm::object_sharings`] when that was done.
    sharings: u32,
    /// Its charge went to the object.
    charged: bool,
}

impl Undo {
    const MARKED: u64 = 1 << 32;

    /// => `e` is as it was before.
    fn note(piece: &Entry, e: &Entry, sharings: u32) {
        if !e.is_shared() {
            piece.next_fault.set(Undo::MARKED | u64::from(sharings));
            piece.cluster.set(u32::from(e.charged.get() != 0));
        }
    }
    fn of(piece: &Entry) -> Option<Undo> {
        let noted = piece.next_fault.get();
        (noted & Undo::MARKED != 0)
            .then_some(Undo { sharings: noted as u32, charged: piece.cluster.get() != 0 })
    }
}

impl<'vm, P: Platform> Map<'vm, P> {
    /// Takes back what [`Map::extract`] of `range` marked and cut off, as the pieces, all of
    /// them, were of no use. What somebody shared since stays marked, and so does all when
    /// there is no memory to cut it off.
    ///
    /// => no lock is held.
    pub fn unextract(&self, range: VaRange, pieces: MapCopy<'vm, P>, may: &mut MaySleep) {
        let marked = |h: &Handle<Entry>| Undo::of(self.entry(*h)).is_some();
        let cuts = (pieces.iter().filter(marked).count() as u32).saturating_mul(2);
        if cuts != 0
            && let Ok(mut edit) = self.edit_range(range, cuts, may)
        {
            for piece in pieces.iter().filter(marked).map(|h| self.entry(h)) {
                if let Some(part) = VaRange::of_pages(range.start().add(piece.start().page()), piece.pages())
                {
                    edit.unshare(part, piece);
                }
            }
            edit.settle(range, &Ok::<(), ()>(()));
            edit.done(may);
        }
        // With nothing locked.
        drop(pieces);
    }
}

impl<P: Platform> Edit<'_, '_, P> {
    /// => two entries are reserved; what is at `part` may be anything by now.
    fn unshare(&mut self, part: VaRange, piece: &Entry) {
        let (map, vm) = (self.map, self.map.vm);
        let at = |edit: &Self| map.lookup_entry(&edit.inner, part.start()).map(|h| map.entry(h));
        let Some((undo, e)) = Undo::of(piece).zip(at(self)) else { return };
        let Some(o) = e.object.get().filter(|o| vm.object_sharings(*o) == undo.sharings) else { return };
        let same = piece.object.get() == Some(o) && piece.offset.get() == e.pindex(part.start()).0;
        // It may have become one with what others see for longer.
        if !same || !e.is_shared() || e.end() < part.end() || self.clip_range(part).is_err() {
            return;
        }
        if let Some(e) = at(self) {
            e.remove_flags(EntryFlags::SHARED);
            if undo.charged {
                vm.entry_charge_from_object(e);
            }
        }
    }
}

/// Makes `h` a piece at page `from` of a chain; the reference on the object becomes its.
pub(super) fn piece<P: Platform>(
    vm: &Vm<P>,
    h: Handle<Entry>,
    from: u64,
    pages: u64,
    a: Attributes,
    (o, at): (Handle<Object>, Pindex),
) {
    let e = vm.entries.get(h);
    if let Some(r) = VaRange::of_pages(Va::from_page(from), pages) {
        e.reset(r, Kind::Object, &a);
    }
    e.object.set(Some(o));
    e.offset.set(at.0);
}

impl<'vm, P: Platform> MapCopy<'vm, P> {
    /// A chain of one piece: `pages` of an object from an index on. The reference on the
    /// object becomes the chain's; on failure it stays the caller's. Only of an object that
    /// others know is the piece marked as seen by others.
    ///
    /// # Errors
    /// [`NoMemory`].
    pub fn of_object(
        vm: &'vm Vm<P>,
        (o, at): (Handle<Object>, Pindex),
        pages: u64,
        a: Attributes,
    ) -> Result<Self, NoMemory> {
        let h = vm.entries.alloc()?;
        let mut chain = MapCopy::empty(vm, pages);
        piece(vm, h, 0, pages, a, (o, at));
        if vm.object_is_shared(o) {
            vm.entries.get(h).mark_shared();
        }
        chain.push(h);
        Ok(chain)
    }

    /// Another chain over `pages` of this one from page `first` on: of the same memory,
    /// or a copy of it as it is now (Z110). What lies beyond the end is cut off.
    ///
    /// => nothing is locked.
    ///
    /// # Errors
    /// [`NoMemory`]; nothing changed.
    pub fn window(
        &self,
        first: u64,
        pages: u64,
        take: Take,
        may: &mut MaySleep,
    ) -> Result<MapCopy<'vm, P>, NoMemory> {
        let vm = self.vm;
        let end = first.saturating_add(pages).min(self.pages);
        let mut out = MapCopy::empty(vm, end.saturating_sub(first));
        let mut last: Option<(Handle<Object>, Handle<Object>)> = None;
        for h in self.iter() {
            let e = vm.entries.get(h);
            let (lo, hi) = (e.start().page().max(first), e.end().page().min(end));
            let Some(o) = e.object.get().filter(|_| lo < hi) else { continue };
            let new = vm.entries.alloc()?;
            let object = match (take, last) {
                (Take::Share, _) => {
                    vm.object_mark_shared(o);
                    e.mark_shared();
                    vm.object_reference(o);
                    Ok(o)
                }
                // Pieces of a snapshot that name one object are disjoint.
                (Take::Copy, Some((from, to))) if from == o && !vm.object_is_shared(o) => {
                    vm.object_reference(to);
                    Ok(to)
                }
                (Take::Copy, _) => {
                    let at = e.pindex(Va::from_page(lo)).0;
                    vm.object_copy(o, (Much::Kept, at..at + (hi - lo)), &mut Gather::new(), may).map(|c| {
                        last = Some((o, c.object)).filter(|_| c.whole);
                        c.object
                    })
                }
            };
            let Ok(object) = object else {
                vm.entries.free(new);
                return Err(NoMemory);
            };
            piece(vm, new, lo - first, hi - lo, e.attributes(), (object, e.pindex(Va::from_page(lo))));
            if take == Take::Share {
                vm.entries.get(new).mark_shared();
            }
            out.push(new);
        }
        vm.tell_copies();
        Ok(out)
    }

    /// Calls `f` with each piece: its first page, its pages, and its attributes.
    pub fn for_each_piece(&self, mut f: impl FnMut(u64, u64, Attributes)) {
        for h in self.iter() {
            let e = self.vm.entries.get(h);
            f(e.start().page(), e.pages(), e.attributes());
        }
    }

    /// The system that the pieces belong to.
    pub fn vm(&self) -> &'vm Vm<P> {
        self.vm
    }

    /// Do both consist of the same pages of the same objects?
    pub(crate) fn is_same_memory(&self, other: &Self) -> bool {
        let of = |chain: &Self| {
            let vm = chain.vm;
            chain.iter().map(move |h| {
                let e = vm.entries.get(h);
                (e.start.get(), e.end.get(), e.object.get(), e.offset.get())
            })
        };
        of(self).eq(of(other))
    }

    /// The object of the first piece, for what concerns whole objects.
    pub(crate) fn first_object(&self) -> Option<Handle<Object>> {
        self.head.and_then(|h| self.vm.entries.get(h).object.get())
    }
}
