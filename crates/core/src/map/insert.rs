//! Inserting exactly there (M11), and joining what is inserted to a neighbour.

use machvm_arena::{Handle, NoMemory};
use machvm_hal::{MaySleep, Pindex, Pmap, Prot, Region, VaRange};

use super::clip::CLIPS;
use super::edit::Edit;
use super::entry::{Attributes, Entry, EntryFlags, Kind};
use super::tree::Tree;
use super::{InsertError, Map, MapFlags};
use crate::object::Object;
use crate::page::RUN;
use crate::platform::Platform;
use crate::vm::Vm;

/// What stands behind a new entry.
///
/// A reference on an object that is given becomes the entry's on success; on failure
/// it stays the caller's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Backing {
    /// Fresh zeroes: a neighbour's object is extended, or one is made.
    Anonymous,
    /// An object that nothing else maps; parts of it die as they are unmapped.
    Private(Handle<Object>, Pindex),
    /// An object whose contents outlive this mapping. It is marked shared as a whole: who
    /// else maps it may map any index.
    Shared(Handle<Object>, Pindex),
    /// Reserved, no rights (`MAP_CREATE_GUARD`). The attributes' rights are ignored.
    Guard,
    /// The machine's own mapping, made by the caller after the insertion; from page
    /// `Pindex` of its file on. The pmap is told of its protection and removal only.
    Foreign(Pindex),
}

impl<P: Platform> Vm<P> {
    /// An anonymous object for a new range, and the index of its first page: in the dense
    /// placement with the phase of the address, so that the windows of its tree are those
    /// that superpages map (R07).
    ///
    /// # Errors
    /// [`NoMemory`].
    pub(super) fn object_for(&self, range: VaRange) -> Result<(Handle<Object>, Pindex), NoMemory> {
        let (o, Pindex(at)) = self.object_allocate(range.pages())?;
        // There is room for more than a window on both sides.
        let phase = if self.frames.is_sparse() { 0 } else { range.start().page() % RUN };
        Ok((o, Pindex(at + phase)))
    }
}

/// Where the contents of a new range will be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Joint {
    /// In an entry of its own.
    Own(Option<Handle<Object>>, Pindex),
    /// At the end of the entry below.
    Below(Handle<Entry>),
    /// In front of the entry above.
    Above(Handle<Entry>),
}

impl<P: Platform> Map<'_, P> {
    /// Puts `[start, end)` in, exactly there (M11 `vm_map_insert`). Anonymous memory
    /// that is like a neighbour extends it; anything is merged with a neighbour it
    /// continues.
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// [`InsertError`]; nothing changed.
    pub fn insert(
        &self,
        range: VaRange,
        backing: Backing,
        a: &Attributes,
        may: &mut MaySleep,
    ) -> Result<(), InsertError> {
        self.check_new(range, backing, a)?;
        let mut edit = self.edit(1, may).map_err(InsertError::no_memory(range.start()))?;
        let done = edit.insert(range, backing, a, may);
        edit.done(may);
        done
    }

    /// What can be said of a new range without the lock.
    pub(super) fn check_new(
        &self,
        range: VaRange,
        backing: Backing,
        a: &Attributes,
    ) -> Result<(), InsertError> {
        if range.start() < self.bounds.start() || range.end() > self.bounds.end() {
            let at = if range.start() < self.bounds.start() { range.start() } else { self.bounds.end() };
            return Err(InsertError::Outside(at));
        }
        if backing != Backing::Guard && !a.max.contains(a.prot) {
            return Err(InsertError::ExceedsMax(range.start()));
        }
        Ok(())
    }
}

impl<P: Platform> Edit<'_, '_, P> {
    /// The locked part of [`Map::insert`]; `range` passed `check_new`.
    pub(super) fn insert(
        &mut self,
        range: VaRange,
        backing: Backing,
        a: &Attributes,
        may: &mut MaySleep,
    ) -> Result<(), InsertError> {
        if let Some(h) = self.map.overlapping(&self.inner, range).next() {
            return Err(InsertError::Occupied(self.entry(h).start().max(range.start())));
        }
        self.check_limits(range, backing, a, 0)?;
        let charge = self.reserve(range, backing, a, 0)?;
        let joint = self.joint(range, backing, a, may).inspect_err(|_| self.map.vm.commit_release(charge))?;
        if let Err(e) = self.enter_region(range, joint, backing, a) {
            self.map.vm.commit_release(charge);
            self.discard(backing, joint);
            return Err(e);
        }
        self.commit(range, joint, backing, a, charge);
        Ok(())
    }

    /// Limits and policies of this map; `freed` bytes go away in the same operation.
    pub(super) fn check_limits(
        &self,
        range: VaRange,
        backing: Backing,
        a: &Attributes,
        freed: u64,
    ) -> Result<(), InsertError> {
        if backing == Backing::Guard {
            return Ok(());
        }
        if self.inner.flags.contains(MapFlags::WXORX) && a.prot.contains(Prot::W | Prot::X) {
            return Err(InsertError::WriteExecute(range.start()));
        }
        let size = (self.inner.size - freed).saturating_add(range.bytes());
        if size > self.inner.limits.size { Err(InsertError::Limit(range.start())) } else { Ok(()) }
    }

    /// Must new memory be charged (M11)?
    pub(super) fn needs_charge(&self, backing: Backing, a: &Attributes) -> bool {
        a.prot.contains(Prot::W)
            && !a.flags.contains(EntryFlags::NO_CHARGE)
            && match backing {
                Backing::Anonymous => true,
                Backing::Private(o, _) => !self.map.vm.object_is_write_back(o),
                Backing::Shared(o, _) => self.map.vm.object_needs_charge(o, true),
                Backing::Guard | Backing::Foreign(_) => false,
            }
    }

    /// Reserves what a new range is charged, where `freed` charged pages go away; gives it.
    /// The caller releases it if the range is not linked.
    pub(super) fn reserve(
        &self,
        range: VaRange,
        backing: Backing,
        a: &Attributes,
        freed: u64,
    ) -> Result<u64, InsertError> {
        let pages = if self.needs_charge(backing, a) { range.pages() } else { 0 };
        let taken = self.map.vm.commit_take(pages, freed);
        taken.map_err(InsertError::no_memory(range.start()))?;
        Ok(pages)
    }

    /// Charged pages in `range`, which is clipped.
    pub(super) fn charged_in(&self, range: VaRange) -> u64 {
        let all = self.map.overlapping(&self.inner, range).map(|h| self.entry(h));
        all.filter(|e| e.charged.get() != 0).map(Entry::pages).sum()
    }

    /// Finds or makes the place of the contents.
    pub(super) fn joint(
        &mut self,
        range: VaRange,
        backing: Backing,
        a: &Attributes,
        may: &mut MaySleep,
    ) -> Result<Joint, InsertError> {
        match backing {
            Backing::Anonymous => {}
            Backing::Private(o, at) | Backing::Shared(o, at) => return Ok(Joint::Own(Some(o), at)),
            Backing::Guard => return Ok(Joint::Own(None, Pindex(0))),
            Backing::Foreign(at) => return Ok(Joint::Own(None, at)),
        }
        if let Some(joint) = self.coalesce(range, a, may) {
            return Ok(joint);
        }
        let made = self.map.vm.object_for(range);
        let (o, at) = made.map_err(InsertError::no_memory(range.start()))?;
        Ok(Joint::Own(Some(o), at))
    }

    /// A neighbour of `range` that the range can be added to.
    fn coalesce(&self, range: VaRange, a: &Attributes, may: &mut MaySleep) -> Option<Joint> {
        let slab = &self.map.vm.entries;
        // `range` is free.
        let above = self.inner.tree.at_or_above(slab, range.start());
        let touching = |h: &Handle<Entry>| self.entry(*h).end() == range.start();
        let below = above.map_or(self.inner.tree.last(), |h| Tree::prev(slab, h)).filter(touching);
        if let Some(h) = below
            && let Some(o) = self.extensible(h, a)
        {
            let e = self.entry(h);
            let first = Pindex(e.offset.get() + e.pages());
            if self.map.vm.object_coalesce(o, first, range.pages(), may) {
                return Some(Joint::Below(h));
            }
        }
        if let Some(h) = above.filter(|h| self.entry(*h).start() == range.end())
            && let Some(o) = self.extensible(h, a)
            && let Some(first) = self.entry(h).offset.get().checked_sub(range.pages())
            && self.map.vm.object_coalesce(o, Pindex(first), range.pages(), may)
        {
            return Some(Joint::Above(h));
        }
        None
    }

    /// The object of `h` if anonymous memory with attributes `a` may join it: the
    /// entry is like it and the only one with this object.
    fn extensible(&self, h: Handle<Entry>, a: &Attributes) -> Option<Handle<Object>> {
        let e = self.entry(h);
        let never = EntryFlags::GROWS_DOWN | EntryFlags::NO_MERGE;
        let o = e.object.get()?;
        let like = e.kind() == Kind::Object
            && e.attributes() == Attributes { flags: a.flags & EntryFlags::CALLER, ..*a }
            && !e.flags().intersects(never | EntryFlags::USER_WIRED | EntryFlags::IN_TRANSITION)
            && e.wired.get() == 0
            && (e.charged.get() != 0) == self.needs_charge(Backing::Anonymous, a);
        (like && self.map.vm.object_is_private_sole(o)).then_some(o)
    }

    /// Tells the machine of the new range.
    pub(super) fn enter_region(
        &self,
        range: VaRange,
        joint: Joint,
        backing: Backing,
        a: &Attributes,
    ) -> Result<(), InsertError> {
        if matches!(backing, Backing::Guard | Backing::Foreign(_)) {
            return Ok(());
        }
        let (object, at) = match joint {
            Joint::Own(o, at) => (o, at),
            Joint::Below(h) => {
                let e = self.entry(h);
                (e.object.get(), Pindex(e.offset.get() + e.pages()))
            }
            Joint::Above(h) => {
                let e = self.entry(h);
                (e.object.get(), Pindex(e.offset.get() - range.pages()))
            }
        };
        let Some(o) = object else { return Ok(()) };
        let region = Region { first: self.map.vm.object_natural(o, at), prot: a.prot };
        self.map.pmap.region_insert(range, region).map_err(|_| InsertError::Machine(range.start()))
    }

    /// Takes back what [`Edit::joint`] made.
    pub(super) fn discard(&mut self, backing: Backing, joint: Joint) {
        if let (Backing::Anonymous, Joint::Own(o, _)) = (backing, joint) {
            self.unused = o;
        }
    }

    /// Links the range, with the charge that was reserved for it. One entry was reserved,
    /// so this cannot fail.
    pub(super) fn commit(
        &mut self,
        range: VaRange,
        joint: Joint,
        backing: Backing,
        a: &Attributes,
        charge: u64,
    ) {
        match joint {
            Joint::Below(h) => self.resize(h, self.entry(h).start(), range.end()),
            Joint::Above(h) => self.resize(h, range.start(), self.entry(h).end()),
            Joint::Own(object, at) => {
                let Some(h) = self.spare.take() else {
                    debug_assert!(false, "an entry was not reserved");
                    self.discard(backing, joint);
                    return;
                };
                let e = self.entry(h);
                match backing {
                    Backing::Guard => {
                        e.reset(range, Kind::Guard, &Attributes { tag: a.tag, ..Attributes::guard() })
                    }
                    Backing::Foreign(_) => e.reset(range, Kind::Foreign, a),
                    _ => e.reset(range, Kind::Object, a),
                }
                e.object.set(object);
                e.offset.set(at.0);
                e.charged.set(u32::from(charge != 0));
                if let (Backing::Shared(..), Some(o)) = (backing, object) {
                    self.map.vm.object_open(o);
                }
                if object.is_some_and(|o| self.map.vm.object_is_shared(o)) {
                    e.mark_shared();
                }
                self.link(h);
                self.simplify_entry(h);
            }
        }
    }

    /// Is there a neighbour above that touches `h`?
    pub(super) fn touching_above(&self, h: Handle<Entry>) -> Option<Handle<Entry>> {
        let next = Tree::next(&self.map.vm.entries, h)?;
        (self.entry(next).start() == self.entry(h).end()).then_some(next)
    }
}

/// Entries that a replacement of a range may take.
pub(super) const REPLACE: u32 = CLIPS + 1;
