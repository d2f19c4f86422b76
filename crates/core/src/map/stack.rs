//! Stacks that grow down (M18, M19).
//!
//! ```text
//!   |guard|........gap........|stack|
//!   ^ StackGap entry, rights none   ^ GROWS_DOWN entry
//! ```
//! The gap is an entry, so nothing else is placed there (Z34). The stack's object has
//! indices for all of it, so growing moves two bounds and needs no memory. The
//! machine's region covers gap and stack from the start.
//!
//! A gap belongs to the stack it was made with. When the lowest part of the stack, or
//! the upper part of the gap, goes away or gets other contents, what is left of the
//! gap is detached for good (Z35): it stays a guard, and no stack that is later put
//! on top of it grows into it.

use machvm_hal::{Gather, MaySleep, PAGE_SHIFT, Pindex, Pmap, Region, Va, VaRange};

use super::edit::Edit;
use super::entry::{Attributes, EntryFlags, Kind};
use super::find::{Place, check_search};
use super::insert::Backing;
use super::{FindError, GrowError, InsertError, Map, StackError};
use crate::platform::Platform;

/// The parts of a new stack, in pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StackShape {
    /// Gap, guard and stack together.
    pub pages: u64,
    /// Mapped from the start, cut to what the guard leaves; 0: the map's step.
    pub initial: u64,
    /// Lowest part of the gap, where the stack never grows.
    pub guard: u64,
}

/// Guard size of a gap that is detached from its stack: all of it, for ever.
pub(super) const DETACHED: u64 = u64::MAX;

impl<P: Platform> Map<'_, P> {
    /// A stack at `place` (M18 `vm_map_stack`, MAP_STACK_GROWS_DOWN). Gives the lowest
    /// address of the gap. With [`Place::Over`] what is there is removed first, and
    /// stays removed when the stack then fails.
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// [`StackError`]; nothing changed otherwise.
    pub fn stack(
        &self,
        place: Place,
        shape: StackShape,
        a: &Attributes,
        may: &mut MaySleep,
    ) -> Result<Va, StackError> {
        if shape.guard >= shape.pages {
            return Err(StackError::BadGuard);
        }
        let find = |e| StackError::Find(e);
        if let Place::Any(s) = place {
            check_search(&s, shape.pages).map_err(find)?;
        }
        let refused = |e| find(FindError::Insert(e));
        let at = match place {
            Place::At(va) | Place::Over(va) => Some(VaRange::of_pages(va, shape.pages)),
            Place::Any(_) => None,
        };
        if let Some(range) = at {
            let range = range.ok_or(find(FindError::BadSize))?;
            self.check_new(range, Backing::Anonymous, a).map_err(refused)?;
            if matches!(place, Place::Over(_)) {
                let gone = self.delete(range, may);
                gone.map_err(|_| refused(InsertError::NoMemory(range.start())))?;
            }
        } else if !a.max.contains(a.prot) {
            return Err(refused(InsertError::ExceedsMax(self.min())));
        }
        let spare = self.edit(2, may);
        let mut edit = spare.map_err(|_| refused(InsertError::NoMemory(self.min())))?;
        let range = match place {
            Place::Any(s) => self.find_hole(&edit.inner, &s, shape.pages).ok_or(find(FindError::NoSpace)),
            Place::At(va) | Place::Over(va) => {
                VaRange::of_pages(va, shape.pages).ok_or(find(FindError::BadSize))
            }
        };
        let done = range.and_then(|r| edit.stack(r, shape, a).map(|()| r.start()).map_err(refused));
        edit.done(may);
        done
    }

    /// Grows the stack so that `va` is mapped (M19 `vm_map_growstack`): by the map's
    /// step, by more when `va` is further down, within the gap less its guard and the
    /// limits. Nothing to do when `va` is not in a gap any more (Z32).
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// [`GrowError`]; nothing changed.
    pub fn growstack(&self, va: Va, may: &mut MaySleep) -> Result<(), GrowError> {
        // Growing takes no entry, so the reservation of none cannot fail.
        let mut edit = self.edit(0, may).map_err(|_| GrowError::Limit(va))?;
        let done = edit.grow(va);
        edit.done(may);
        // The new part of a wired stack is wired too (Z36). A page that cannot be had
        // now is mapped all the same and comes with its own fault.
        if let Some(wired) = done? {
            let _ = self.wire_range(wired, may);
        }
        Ok(())
    }
}

impl<P: Platform> Edit<'_, '_, P> {
    fn stack(&mut self, range: VaRange, shape: StackShape, a: &Attributes) -> Result<(), InsertError> {
        let step = (self.inner.limits.stack_step >> PAGE_SHIFT).max(1);
        let initial = if shape.initial == 0 { step } else { shape.initial };
        let initial = initial.min(shape.pages - shape.guard);
        let gap = shape.pages - initial;
        if let Some(h) = self.map.overlapping(&self.inner, range).next() {
            return Err(InsertError::Occupied(self.entry(h).start().max(range.start())));
        }
        let top = VaRange::between(range.start().add(gap), range.end())
            .ok_or(InsertError::Outside(range.start()))?;
        self.check_limits(top, Backing::Anonymous, a, 0)?;
        let (map, vm) = (self.map, self.map.vm);
        let (Some(upper), Some(lower)) = (self.spare.take(), self.spare.take()) else {
            return Err(InsertError::NoMemory(range.start()));
        };
        let charge = match self.reserve(top, Backing::Anonymous, a, 0) {
            Ok(charge) => charge,
            Err(e) => {
                vm.entries.free(upper);
                vm.entries.free(lower);
                return Err(e);
            }
        };
        let made = vm.object_for(range).map_err(InsertError::no_memory(range.start()));
        let entered = made.and_then(|(o, at)| {
            let region = Region { first: vm.object_natural(o, at), prot: a.prot };
            match map.pmap.region_insert(range, region) {
                Ok(()) => Ok((o, at)),
                Err(_) => {
                    self.unused = Some(o);
                    Err(InsertError::Machine(range.start()))
                }
            }
        });
        let (o, Pindex(at)) = match entered {
            Ok(pair) => pair,
            Err(e) => {
                vm.commit_release(charge);
                vm.entries.free(upper);
                vm.entries.free(lower);
                return Err(e);
            }
        };
        let stack = self.entry(upper);
        stack.reset(top, Kind::Object, a);
        stack.insert_flags(EntryFlags::GROWS_DOWN);
        stack.object.set(Some(o));
        stack.offset.set(at + gap);
        stack.charged.set(u32::from(charge != 0));
        self.link(upper);
        match VaRange::of_pages(range.start(), gap) {
            Some(below) => {
                let guard =
                    Attributes { inherit: a.inherit, tag: shape.guard << PAGE_SHIFT, ..Attributes::guard() };
                self.entry(lower).reset(below, Kind::StackGap, &guard);
                self.link(lower);
            }
            None => vm.entries.free(lower),
        }
        Ok(())
    }

    /// Detaches the gap that ends at `at`, if one does: the machine forgets it too.
    pub(super) fn detach_gap(&mut self, at: Va, may: &mut MaySleep) {
        let mut g = Gather::new();
        let mut end = at;
        while let Some(below) = end.page().checked_sub(1).map(Va::from_page)
            && let Some(h) = self.inner.tree.at_or_above(&self.map.vm.entries, below)
            && let e = self.entry(h)
            && e.start() <= below
            && e.kind() == Kind::StackGap
            && e.tag.get() != DETACHED
            && let Some(range) = e.range()
        {
            e.tag.set(DETACHED);
            self.map.pmap.region_remove(self.map.vm.page_array(), range, &mut g);
            end = e.start();
        }
        self.map.vm.finish(g, may);
    }

    /// The locked part of [`Map::growstack`]. Gives what must be wired.
    fn grow(&mut self, va: Va) -> Result<Option<VaRange>, GrowError> {
        let h = self.map.lookup_entry(&self.inner, va).ok_or(GrowError::NotMapped(va))?;
        let gap = self.entry(h);
        if gap.kind() != Kind::StackGap {
            return Ok(None);
        }
        let stack_h = self.touching_above(h).ok_or(GrowError::Detached(va))?;
        let stack = self.entry(stack_h);
        if gap.tag.get() == DETACHED {
            return Err(GrowError::Detached(va));
        }
        if stack.kind() != Kind::Object || !stack.flags().contains(EntryFlags::GROWS_DOWN) {
            return Err(GrowError::Detached(va));
        }
        let lowest = gap.start.get().saturating_add(gap.tag.get());
        if va.get() < lowest {
            return Err(GrowError::Guard(va));
        }
        let mut top = stack_h;
        while let Some(next) = self.touching_above(top)
            && self.entry(next).flags().contains(EntryFlags::GROWS_DOWN)
        {
            top = next;
        }
        let start = stack.start.get();
        let used = self.entry(top).end.get() - start;
        let limits = self.inner.limits;
        let room = (start - lowest)
            .min(limits.stack.saturating_sub(used))
            .min(limits.size.saturating_sub(self.inner.size))
            .min(stack.offset.get() << PAGE_SHIFT)
            & !machvm_hal::PAGE_MASK;
        let need = start - va.get();
        if need > room {
            return Err(GrowError::Limit(va));
        }
        let step = limits.stack_step & !machvm_hal::PAGE_MASK;
        let new = stack.start().sub(need.max(step).min(room) >> PAGE_SHIFT);
        let old = stack.start();
        if stack.charged.get() != 0 {
            let more = old.page() - new.page();
            self.map.vm.commit_take(more, 0).map_err(|_| GrowError::Limit(va))?;
        }
        if new == gap.start() {
            self.unlink(h);
            self.bury(h);
        } else {
            self.resize(h, gap.start(), new);
        }
        self.resize(stack_h, new, stack.end());
        Ok(VaRange::between(new, old).filter(|_| stack.wired.get() != 0))
    }
}
