//! A change of a map in progress: the write lock, the entries reserved before it
//! was taken, and what must be let go after it is released.

use machvm_arena::{Handle, NoMemory, Reserved};
use machvm_hal::{Event, Gather, Host, MaySleep, Pmap, Region, RegionError, Va, VaRange};

use super::entry::{Entry, EntryFlags, Kind};
use super::lock::Write;
use super::stack::DETACHED;
use super::submap::NEVER;
use super::tree::Tree;
use super::{Map, MapInner};
use crate::object::Object;
use crate::platform::Platform;

/// Entries taken ahead of time.
pub(super) type Spare<'vm, P> = Reserved<'vm, Entry, <P as Platform>::Chunks>;

/// Unlinked entries, chained through `links.next`, with their references.
#[derive(Debug, Default)]
pub(super) struct Dead {
    pub(super) head: Option<Handle<Entry>>,
}

/// See the module text. Ends with [`Edit::done`], on success and on failure.
#[must_use]
pub(super) struct Edit<'m, 'vm, P: Platform> {
    pub(super) map: &'m Map<'vm, P>,
    pub(super) inner: Write<'m, P>,
    pub(super) spare: Spare<'vm, P>,
    pub(super) dead: Dead,
    /// An object that was made and not used.
    pub(super) unused: Option<Handle<Object>>,
}

/// What a thread that waits for the end of a transition of `h` waits for.
pub(super) fn transition_event(e: &Entry) -> Event {
    Event(core::ptr::from_ref(&e.flags).addr() as u64)
}

impl<'vm, P: Platform> Map<'vm, P> {
    /// Reserves `entries`, then locks.
    ///
    /// => no lock is held; on success the map is write locked.
    pub(super) fn edit(&self, entries: u32, may: &mut MaySleep) -> Result<Edit<'_, 'vm, P>, NoMemory> {
        let spare = self.vm.entries.reserve(entries)?;
        let inner = self.lock_word().write(self.vm.host(), may);
        Ok(Edit { map: self, inner, spare, dead: Dead::default(), unused: None })
    }

    /// As [`Map::edit`], and no entry in `range` is being wired (Z23).
    pub(super) fn edit_range(
        &self,
        range: VaRange,
        entries: u32,
        may: &mut MaySleep,
    ) -> Result<Edit<'_, 'vm, P>, NoMemory> {
        let spare = self.vm.entries.reserve(entries)?;
        loop {
            let inner = self.lock_word().write(self.vm.host(), may);
            match self.in_transition(&inner, range) {
                None => return Ok(Edit { map: self, inner, spare, dead: Dead::default(), unused: None }),
                // Into the queue before the unlock (Z24).
                Some(busy) => self.wait_transition(inner, busy),
            }
        }
    }

    /// As [`Map::edit_range`], with as many entries as `need` finds necessary.
    pub(super) fn edit_counted(
        &self,
        range: VaRange,
        need: impl Fn(&Self, &MapInner) -> u32,
        may: &mut MaySleep,
    ) -> Result<Edit<'_, 'vm, P>, NoMemory> {
        let mut entries = need(self, &self.lock_word().read(self.vm.host(), may));
        loop {
            let edit = self.edit_range(range, entries, may)?;
            entries = need(self, &edit.inner);
            if entries <= edit.spare.left() {
                return Ok(edit);
            }
        }
    }

    /// An entry in `range` that is being wired.
    fn in_transition(&self, inner: &MapInner, range: VaRange) -> Option<Handle<Entry>> {
        self.overlapping(inner, range).find(|h| self.entry(*h).flags().contains(EntryFlags::IN_TRANSITION))
    }

    /// Unlocks and sleeps until `h` is no longer in transition.
    fn wait_transition(&self, inner: Write<'_, P>, h: Handle<Entry>) {
        let e = self.vm.entries.get(h);
        e.insert_flags(EntryFlags::NEEDS_WAKEUP);
        let host = self.vm.host();
        let ticket = host.assert_wait(transition_event(e));
        drop(inner);
        host.thread_block(ticket, None);
    }

    pub(super) fn entry(&self, h: Handle<Entry>) -> &'vm Entry {
        self.vm.entries.get(h)
    }

    /// The entries that overlap `range`, ascending. Each is looked at only after the
    /// one before was handed out, so the caller must not unlink behind this.
    pub(super) fn overlapping<'a>(
        &'a self,
        inner: &MapInner,
        range: VaRange,
    ) -> impl Iterator<Item = Handle<Entry>> + use<'a, 'vm, P> {
        let slab = &self.vm.entries;
        let first = inner.tree.at_or_above(slab, range.start());
        let end = range.end().get();
        core::iter::successors(first, move |h| Tree::next(slab, *h))
            .take_while(move |h| slab.get(*h).start.get() < end)
    }

    /// What the machine must know of an entry. `None`: nothing, it has no region of
    /// ours. The gap below a stack has one with the stack's frames and protection, so
    /// that a fault in it arrives here.
    pub(super) fn region_of(&self, h: Handle<Entry>) -> Option<Region> {
        let e = self.entry(h);
        match (e.kind(), e.object.get()) {
            (Kind::Object, Some(o)) => {
                Some(Region { first: self.vm.object_natural(o, e.pindex(e.start())), prot: e.prot() })
            }
            (Kind::StackGap, _) if e.tag.get() != DETACHED => {
                let (stack, pages) = self.stack_above(h)?;
                let s = self.entry(stack);
                let first = machvm_hal::Pindex(s.offset.get().checked_sub(pages)?);
                Some(Region { first: self.vm.object_natural(s.object.get()?, first), prot: s.prot() })
            }
            _ => None,
        }
    }

    /// The stack that may grow into the gap `h`, and the pages from the gap's start
    /// to the stack's.
    pub(super) fn stack_above(&self, h: Handle<Entry>) -> Option<(Handle<Entry>, u64)> {
        let gap = self.entry(h);
        let mut at = h;
        loop {
            let next = Tree::next(&self.vm.entries, at)?;
            let (e, n) = (self.entry(at), self.entry(next));
            if n.start.get() != e.end.get() {
                return None;
            }
            match n.kind() {
                Kind::StackGap => at = next,
                Kind::Object if n.flags().contains(EntryFlags::GROWS_DOWN) => {
                    return Some((next, n.start().page() - gap.start().page()));
                }
                _ => return None,
            }
        }
    }

    /// Tells the machine of the region of `h`.
    pub(super) fn region_enter(&self, h: Handle<Entry>) -> Result<(), RegionError> {
        match (self.entry(h).range(), self.region_of(h)) {
            (Some(range), Some(region)) => self.pmap.region_insert(range, region),
            _ => Ok(()),
        }
    }

    /// Removes the regions of entries in `range`, run by run (between entries there
    /// may be mappings that are none of ours).
    ///
    /// => the map is write locked.
    pub(super) fn regions_remove(&self, inner: &MapInner, range: VaRange, g: &mut Gather) {
        self.unmap_views(inner, range);
        let mut run: Option<VaRange> = None;
        for h in self.overlapping(inner, range) {
            let e = self.entry(h);
            if e.kind() == Kind::Submap {
                e.set_made_at(NEVER);
            }
            let Some(part) = e.range().and_then(|r| r.intersect(range)) else { continue };
            if e.kind() == Kind::Guard {
                continue;
            }
            run = match run {
                Some(r) if r.end() == part.start() => VaRange::between(r.start(), part.end()),
                Some(r) => {
                    self.pmap.region_remove(self.vm.page_array(), r, g);
                    Some(part)
                }
                None => Some(part),
            };
        }
        if let Some(r) = run {
            self.pmap.region_remove(self.vm.page_array(), r, g);
        }
    }
}

impl<'m, 'vm, P: Platform> Edit<'m, 'vm, P> {
    pub(super) fn entry(&self, h: Handle<Entry>) -> &'vm Entry {
        self.map.entry(h)
    }

    /// Links an entry whose fields are set.
    pub(super) fn link(&mut self, h: Handle<Entry>) {
        let e = self.entry(h);
        self.inner.tree.insert(&self.map.vm.entries, h);
        if e.counts() {
            self.inner.size += e.end.get() - e.start.get();
        }
        self.inner.updates += 1;
    }

    /// Unlinks an entry; the caller decides what becomes of it.
    pub(super) fn unlink(&mut self, h: Handle<Entry>) {
        let e = self.entry(h);
        self.inner.tree.remove(&self.map.vm.entries, h);
        if e.counts() {
            self.inner.size -= e.end.get() - e.start.get();
        }
        self.inner.updates += 1;
    }

    /// Moves the bounds of a linked entry; its offset follows a moved start.
    pub(super) fn resize(&mut self, h: Handle<Entry>, start: Va, end: Va) {
        let e = self.entry(h);
        let old = e.end.get() - e.start.get();
        let shift = (start.get().wrapping_sub(e.start.get()) as i64) >> 12;
        if e.counts() {
            e.offset.set(e.offset.get().wrapping_add_signed(shift));
        }
        self.inner.tree.resize(&self.map.vm.entries, h, start, end);
        if e.counts() {
            self.inner.size = self.inner.size - old + (end.get() - start.get());
        }
        self.inner.updates += 1;
    }

    /// Cuts a linked entry at `va`; `upper` is as it is, and has the bounds of the part from there on.
    pub(super) fn split(&mut self, h: Handle<Entry>, va: Va, upper: Handle<Entry>) {
        self.inner.tree.split(&self.map.vm.entries, h, va, upper);
        self.inner.updates += 1;
    }

    /// Makes `keep` of two neighbours what both were; the other is unlinked.
    pub(super) fn join_links(&mut self, (low, high): (Handle<Entry>, Handle<Entry>), keep: Handle<Entry>) {
        let (l, h) = (self.entry(low), self.entry(high));
        if keep == high && h.counts() {
            h.offset.set(h.offset.get().wrapping_sub(l.pages()));
        }
        self.inner.tree.join(&self.map.vm.entries, (low, high), keep);
        self.inner.updates += 1;
    }

    /// Puts an unlinked entry on the chain of those whose reference goes after the
    /// unlock.
    pub(super) fn bury(&mut self, h: Handle<Entry>) {
        self.entry(h).links.next.set(self.dead.head);
        self.dead.head = Some(h);
    }

    /// Unwires what the dead entries kept, and drops what they mapped of objects that
    /// live on.
    ///
    /// => nothing maps the ranges, and the invalidations are finished.
    pub(super) fn drop_contents(&mut self, may: &mut MaySleep) {
        let vm = self.map.vm;
        let mut at = self.dead.head;
        while let Some(h) = at {
            let e = self.entry(h);
            if let Some(o) = e.object.get() {
                vm.drop_mapped(e, o, may);
            }
            at = e.links.next.get();
        }
    }

    /// Unlocks, then lets the dead go (Z26).
    ///
    /// => on return no lock is held.
    pub(super) fn done(self, may: &mut MaySleep) {
        let Edit { map, inner, spare: _, dead, unused } = self;
        let mut inner = inner;
        map.check_sometimes(&mut inner);
        drop(inner);
        let mut at = dead.head;
        while let Some(h) = at {
            let e = map.entry(h);
            at = e.links.next.get();
            map.vm.entry_uncharge(e);
            if let Some(o) = e.object.get() {
                e.object.set(None);
                map.vm.object_deallocate(o, may);
            }
            if let Some(body) = e.submap.get() {
                e.submap.set(None);
                map.vm.body_deallocate(body, may);
            }
            map.vm.entries.free(h);
        }
        if let Some(o) = unused {
            map.vm.object_deallocate(o, may);
        }
        map.vm.tell_copies();
    }
}
