//! Moving and growing ranges (mremap).

use machvm_arena::{Handle, NoMemory};
use machvm_hal::{Gather, MaySleep, PAGE_SHIFT, Pindex, Pmap, Va, VaRange};

use super::clip::CLIPS;
use super::edit::Edit;
use super::entry::{Entry, Kind};
use super::insert::Backing;
use super::{InsertError, Map, MapInner, MoveError};
use crate::platform::Platform;

/// What stays where a range was moved from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leave {
    /// Nothing.
    Hole,
    /// Fresh zeroes with the same attributes (MREMAP_DONTUNMAP).
    Zeroes,
}

impl<P: Platform> Map<'_, P> {
    /// Moves what is in `src` to `dst`, where nothing is. Contents keep their object
    /// and index, so no page is copied. All of `src` must be mapped, guards excluded.
    /// The machine's own mappings are moved by the caller; here their entries move.
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// [`MoveError`]; nothing changed.
    pub fn move_range(
        &self,
        src: VaRange,
        dst: Va,
        leave: Leave,
        may: &mut MaySleep,
    ) -> Result<(), MoveError> {
        let inside = src.intersect(self.bounds) == Some(src);
        if !inside {
            return Err(MoveError::Hole(src.start()));
        }
        let refused = MoveError::Insert;
        let to = VaRange::of_pages(dst, src.pages()).ok_or(refused(InsertError::Outside(dst)))?;
        if to.intersect(self.bounds) != Some(to) {
            return Err(refused(InsertError::Outside(dst)));
        }
        if let Some(both) = src.intersect(to) {
            return Err(MoveError::Overlap(both.start()));
        }
        let need = |m: &Self, inner: &MapInner| {
            let left = if leave == Leave::Zeroes { m.overlapping(inner, src).count() as u32 } else { 0 };
            left.saturating_add(CLIPS)
        };
        let short = |NoMemory| refused(InsertError::NoMemory(src.start()));
        let mut edit = self.edit_counted(src, need, may).map_err(short)?;
        let mut done = edit.check_move(src, to, leave);
        if done.is_ok() {
            done = edit.clip_range(src).map_err(short).and_then(|()| edit.move_clipped(src, to, leave, may));
            edit.settle(src, &done);
            edit.settle(to, &done);
        }
        edit.done(may);
        done
    }

    /// Adds `pages` behind the entry that ends at `end`, with its attributes: the next
    /// indices of an object that is shared as a whole ([`Backing::Shared`]) or of a file,
    /// private zeroes otherwise. Nothing may be there.
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// [`MoveError`]; nothing changed.
    pub fn extend(&self, end: Va, pages: u64, may: &mut MaySleep) -> Result<(), MoveError> {
        let refused = MoveError::Insert;
        let range = VaRange::of_pages(end, pages).ok_or(refused(InsertError::Outside(end)))?;
        if range.intersect(self.bounds) != Some(range) {
            return Err(refused(InsertError::Outside(range.end().min(self.max()))));
        }
        let mut edit = self.edit(1, may).map_err(|NoMemory| refused(InsertError::NoMemory(end)))?;
        let done = edit.extend(range, may);
        edit.done(may);
        done
    }
}

/// Where an entry goes that moves up by `delta` bytes, modulo 2^64.
fn moved_range(e: &Entry, delta: u64) -> Option<VaRange> {
    VaRange::of_pages(Va::from_page(e.start.get().wrapping_add(delta) >> PAGE_SHIFT), e.pages())
}

impl<P: Platform> Edit<'_, '_, P> {
    fn check_move(&self, src: VaRange, to: VaRange, leave: Leave) -> Result<(), MoveError> {
        if let Some(hole) = self.first_hole(src) {
            return Err(MoveError::Hole(hole));
        }
        let map = self.map;
        let guard = |h: &Handle<Entry>| !matches!(map.entry(*h).kind(), Kind::Object | Kind::Foreign);
        if let Some(h) = map.overlapping(&self.inner, src).find(guard) {
            return Err(MoveError::Hole(self.entry(h).start().max(src.start())));
        }
        if let Some(h) = map.overlapping(&self.inner, to).next() {
            let at = self.entry(h).start().max(to.start());
            return Err(MoveError::Insert(InsertError::Occupied(at)));
        }
        let more = if leave == Leave::Zeroes { src.bytes() } else { 0 };
        if self.inner.size.saturating_add(more) > self.inner.limits.size {
            return Err(MoveError::Insert(InsertError::Limit(to.start())));
        }
        Ok(())
    }

    /// => `src` is clipped and all checks are done.
    fn move_clipped(
        &mut self,
        src: VaRange,
        to: VaRange,
        leave: Leave,
        may: &mut MaySleep,
    ) -> Result<(), MoveError> {
        // First what can be refused, while the entries are still where they were.
        let delta = to.start().get().wrapping_sub(src.start().get());
        for h in self.map.overlapping(&self.inner, src) {
            if let (Some(range), Some(region)) = (moved_range(self.entry(h), delta), self.region_at(h))
                && self.map.pmap.region_insert(range, region).is_err()
            {
                self.unregion(src, delta, range.start(), may);
                return Err(MoveError::Insert(InsertError::Machine(range.start())));
            }
        }
        let zeroes = match self.replace_source(src, leave, may) {
            Ok(zeroes) => zeroes,
            Err(e) => {
                self.unregion(src, delta, to.end(), may);
                return Err(MoveError::Insert(e));
            }
        };
        self.detach_gap(src.start(), may);
        self.relink(src, delta, zeroes);
        Ok(())
    }

    /// The machine gets the regions that stay at the source, instead of those that
    /// were there. Gives their unlinked entries. On failure nothing changed.
    fn replace_source(
        &mut self,
        src: VaRange,
        leave: Leave,
        may: &mut MaySleep,
    ) -> Result<Option<Handle<Entry>>, InsertError> {
        let zeroes = match leave {
            Leave::Hole => None,
            Leave::Zeroes => self.make_zeroes(src)?,
        };
        self.unregion_moved(src, may);
        let slab = &self.map.vm.entries;
        let chain = || core::iter::successors(zeroes, |h| slab.get(*h).links.next.get());
        let Some(refused) = chain().find(|h| self.map.region_enter(*h).is_err()) else { return Ok(zeroes) };
        let at = self.entry(refused).start();
        self.unregion_moved(src, may);
        for h in self.map.overlapping(&self.inner, src).filter(|h| self.entry(*h).kind() == Kind::Object) {
            let back = self.map.region_enter(h);
            debug_assert!(back.is_ok(), "the machine does not take a region back");
        }
        self.bury_chain(zeroes);
        Err(InsertError::Machine(at))
    }

    fn bury_chain(&mut self, mut head: Option<Handle<Entry>>) {
        while let Some(h) = head {
            head = self.entry(h).links.next.get();
            self.bury(h);
        }
    }

    /// Unlinks everything in `src`, then links it at its new place, and `zeroes`.
    fn relink(&mut self, src: VaRange, delta: u64, zeroes: Option<Handle<Entry>>) {
        let slab = &self.map.vm.entries;
        let mut moved = None;
        while let Some(h) = self.inner.tree.at_or_above(slab, src.start())
            && self.entry(h).start() < src.end()
        {
            self.unlink(h);
            self.entry(h).links.next.set(moved);
            moved = Some(h);
        }
        while let Some(h) = moved {
            let e = self.entry(h);
            moved = e.links.next.get();
            if let Some(range) = moved_range(e, delta) {
                e.start.set(range.start().get());
                e.end.set(range.end().get());
            }
            self.forget_stack(h);
            self.link(h);
        }
        let mut left = zeroes;
        while let Some(h) = left {
            left = self.entry(h).links.next.get();
            self.link(h);
        }
    }

    /// Takes back the new regions that lie below `end`.
    fn unregion(&mut self, src: VaRange, delta: u64, end: Va, may: &mut MaySleep) {
        let mut g = Gather::new();
        for h in self.map.overlapping(&self.inner, src) {
            let e = self.entry(h);
            if let (Kind::Object, Some(range)) = (e.kind(), moved_range(e, delta))
                && range.start() < end
            {
                self.map.pmap.region_remove(self.map.vm.page_array(), range, &mut g);
            }
        }
        self.map.vm.finish(g, may);
    }

    /// The machine forgets the old places; of its own mappings the caller takes care.
    fn unregion_moved(&mut self, src: VaRange, may: &mut MaySleep) {
        self.map.unmap_views(&self.inner, src);
        let mut g = Gather::new();
        for h in self.map.overlapping(&self.inner, src) {
            let e = self.entry(h);
            if let (Kind::Object, Some(range)) = (e.kind(), e.range()) {
                self.map.pmap.region_remove(self.map.vm.page_array(), range, &mut g);
            }
        }
        self.map.vm.finish(g, may);
    }

    /// Unlinked entries of zeroes like those in `src`, chained.
    fn make_zeroes(&mut self, src: VaRange) -> Result<Option<Handle<Entry>>, InsertError> {
        let vm = self.map.vm;
        let mut head = None;
        let mut failed = None;
        for h in self.map.overlapping(&self.inner, src) {
            let e = self.entry(h);
            let Some(range) = e.range() else { continue };
            if e.kind() != Kind::Object {
                continue;
            }
            let Some(new) = self.spare.take() else {
                failed = Some(e.start());
                break;
            };
            let n = self.entry(new);
            n.reset(range, Kind::Object, &e.attributes());
            n.links.next.set(head);
            head = Some(new);
            match vm.object_for(range) {
                Ok((o, Pindex(at))) => {
                    n.object.set(Some(o));
                    n.offset.set(at);
                    if self.needs_charge(Backing::Anonymous, &n.attributes()) {
                        if vm.commit_take(n.pages(), 0).is_err() {
                            failed = Some(e.start());
                            break;
                        }
                        n.charged.set(1);
                    }
                }
                Err(NoMemory) => {
                    failed = Some(e.start());
                    break;
                }
            }
        }
        let Some(at) = failed else { return Ok(head) };
        self.bury_chain(head);
        Err(InsertError::NoMemory(at))
    }

    fn extend(&mut self, range: VaRange, may: &mut MaySleep) -> Result<(), MoveError> {
        let (map, vm) = (self.map, self.map.vm);
        let hole = MoveError::Hole(range.start());
        let below = range.start().page().checked_sub(1).map(Va::from_page).ok_or(hole)?;
        let h = map.lookup_entry(&self.inner, below).ok_or(hole)?;
        let e = self.entry(h);
        if e.end() != range.start() {
            return Err(MoveError::Insert(InsertError::Occupied(range.start())));
        }
        let a = e.attributes();
        let next = Pindex(e.offset.get() + e.pages());
        let short = |NoMemory| MoveError::Insert(InsertError::NoMemory(range.start()));
        // With a reference, which the new entry gets.
        let continued = match e.object.get() {
            // Of other shared memory a part was shared: what lies behind may be private.
            Some(o) if e.is_shared() && vm.object_is_open(o) => {
                let end = next.0.checked_add(range.pages());
                if end.is_none_or(|end| end > vm.object_capacity(o)) {
                    return Err(short(NoMemory));
                }
                vm.object_reference(o);
                Some((o, next))
            }
            Some(o) => vm.object_behind(o, next, range.pages(), may).map_err(short)?,
            None => None,
        };
        let backing = match (e.kind(), continued) {
            (Kind::Object, Some((o, at))) => Backing::Private(o, at),
            (Kind::Object, None) => Backing::Anonymous,
            (Kind::Foreign, _) => Backing::Foreign(next),
            (Kind::Guard | Kind::StackGap | Kind::Submap, _) => return Err(hole),
        };
        let done = self.insert(range, backing, &a, may);
        if let (Err(_), Some((o, _))) = (done, continued) {
            // Let go after the unlock.
            self.unused = Some(o);
        }
        done.map_err(MoveError::Insert)
    }
}
