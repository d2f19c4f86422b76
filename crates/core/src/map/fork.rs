//! A child's map by inheritance (M61, M62).

use machvm_arena::{Handle, NoMemory};
use machvm_hal::{Gather, MaySleep, Pindex};

use super::edit::{Dead, Edit};
use super::entry::{Entry, EntryFlags, Inherit, Kind};
use super::insert::Backing;
use super::stack::DETACHED;
use super::submap::NEVER;
use super::tree::Tree;
use super::{ForkError, Map};
use crate::object::{Much, Object};
use crate::platform::Platform;

/// How many entries below a copied one are looked at for further pieces of the same
/// object, which then share the copy. A piece further away gets a copy of its own:
/// right, but its pages count as shared for longer.
const PIECES: usize = 64;

impl<'vm, P: Platform> Map<'vm, P> {
    /// A new map on `child` that has what each entry's inheritance says (M61
    /// `vm_map_fork`, M62): the same object, a copy-on-write copy, zeroes, or nothing.
    /// Guards come along unless they are inherited by nobody; wirings do not. The
    /// machine's own mappings become entries only: the caller maps them.
    ///
    /// => no lock is held. Waits for wirings in progress (Z25).
    ///
    /// # Errors
    /// [`ForkError`]; nothing is left over, and `child` is gone.
    pub fn fork(&self, child: P::Pmap, may: &mut MaySleep) -> Result<Map<'vm, P>, ForkError> {
        let no_memory = |_| ForkError::NoMemory(self.min());
        let mut parent =
            self.edit_counted(self.bounds, |_, inner| inner.tree.count(), may).map_err(no_memory)?;
        let map = Map::new(self.vm, child, self.bounds);
        let mut done = Ok(());
        let none = self.vm.entries.reserve(0).map_err(no_memory);
        match none {
            Err(e) => done = Err(e),
            Ok(spare) => {
                // The child is second, and nobody else knows it (parent before child).
                let inner = map.lock_word().write_second(self.vm.host(), may);
                let mut edit = Edit { map: &map, inner, spare, dead: Dead::default(), unused: None };
                edit.inner.limits = parent.inner.limits;
                edit.inner.flags = parent.inner.flags;
                let mut g = Gather::new();
                // Downwards: a stack comes before its gap, whose region depends on it.
                let mut at = parent.inner.tree.last();
                while let (Some(h), Ok(())) = (at, done) {
                    done = parent.fork_entry(&mut edit, h, &mut g, may);
                    at = Tree::prev(&self.vm.entries, h);
                }
                self.vm.finish(g, may);
                let (unlocked, dead, unused) = (edit.inner, edit.dead, edit.unused);
                drop(unlocked);
                parent.adopt(dead, unused);
            }
        }
        for e in self.overlapping(&parent.inner, self.bounds).map(|h| self.entry(h)) {
            match done {
                Ok(()) if e.kind() == Kind::Object && e.inherit() == Inherit::Share => {
                    self.vm.entry_charge_to_object(e);
                    e.mark_shared();
                }
                Ok(()) => {}
                Err(_) => e.twin.set(None),
            }
        }
        parent.done(may);
        done.map(|()| map)
    }
}

impl<P: Platform> Edit<'_, '_, P> {
    /// Takes over what another edit would let go.
    fn adopt(&mut self, dead: Dead, unused: Option<Handle<Object>>) {
        let mut at = dead.head;
        while let Some(h) = at {
            at = self.entry(h).links.next.get();
            self.bury(h);
        }
        debug_assert!(unused.is_none(), "a fork makes no object it does not use");
    }

    fn fork_entry(
        &mut self,
        child: &mut Edit<'_, '_, P>,
        h: Handle<Entry>,
        g: &mut Gather,
        may: &mut MaySleep,
    ) -> Result<(), ForkError> {
        let e = self.entry(h);
        if e.inherit() == Inherit::None {
            return Ok(());
        }
        let va = e.start();
        let new = self.spare.take().ok_or(ForkError::NoMemory(va))?;
        let object = match self.child_object(h, g, may) {
            Ok(object) => object,
            Err(e) => {
                self.map.vm.entries.free(new);
                return Err(ForkError::no_memory(va)(e));
            }
        };
        let n = self.entry(new);
        n.copy_from(e);
        n.start.set(e.start.get());
        n.end.set(e.end.get());
        n.wired.set(0);
        n.wirer.set(0);
        n.twin.set(None);
        n.remove_flags(EntryFlags::USER_WIRED | EntryFlags::NEEDS_WAKEUP);
        match (n.kind(), e.inherit()) {
            (Kind::Object, Inherit::Share) => n.mark_shared(),
            _ => n.remove_flags(EntryFlags::SHARED),
        }
        n.object.set(object.map(|(o, _)| o));
        n.charged.set(0);
        if let Some(body) = n.submap.get() {
            self.map.vm.body_reference(body);
            n.set_made_at(NEVER);
        }
        if let Some((_, Pindex(at))) = object {
            n.offset.set(at);
        }
        child.link(new);
        if n.kind() == Kind::StackGap && child.map.region_of(new).is_none() {
            n.tag.set(DETACHED);
        }
        // The child has memory of its own (M60): what is reserved for it goes with it.
        let charge = match e.inherit() {
            Inherit::Copy => e.charged.get() != 0,
            Inherit::Zero => child.needs_charge(Backing::Anonymous, &n.attributes()),
            Inherit::Share | Inherit::None => false,
        };
        if charge && n.kind() == Kind::Object {
            if self.map.vm.commit_take(n.pages(), 0).is_err() {
                child.unlink(new);
                child.bury(new);
                return Err(ForkError::NoMemory(va));
            }
            n.charged.set(1);
        }
        if child.map.region_enter(new).is_err() {
            child.unlink(new);
            child.bury(new);
            return Err(ForkError::Machine(va));
        }
        Ok(())
    }

    /// The object behind the child's entry, with a reference, and the index in it.
    fn child_object(
        &mut self,
        h: Handle<Entry>,
        g: &mut Gather,
        may: &mut MaySleep,
    ) -> Result<Option<(Handle<Object>, Pindex)>, NoMemory> {
        let e = self.entry(h);
        let vm = self.map.vm;
        let (Kind::Object, Some(o)) = (e.kind(), e.object.get()) else { return Ok(None) };
        let at = Pindex(e.offset.get());
        match e.inherit() {
            Inherit::None => Ok(None),
            Inherit::Zero => vm.object_allocate(e.pages()).map(Some),
            Inherit::Share => {
                vm.object_mark_shared(o);
                vm.object_reference(o);
                Ok(Some((o, at)))
            }
            Inherit::Copy => {
                let copy = match e.twin.get() {
                    Some(twin) => {
                        vm.object_reference(twin);
                        e.twin.set(None);
                        twin
                    }
                    None => {
                        let copy = vm.object_copy(o, (Much::All, at.0..at.0 + e.pages()), g, may)?;
                        if copy.whole {
                            self.mark_pieces(h, o, copy.object);
                        }
                        copy.object
                    }
                };
                if let Some(range) = e.range() {
                    self.map.protect_shared(e, range, true, g, may);
                }
                if self.map.is_shown() {
                    vm.finish(core::mem::take(g), may);
                    vm.object_write_protect(o, at, e.pages(), may);
                }
                Ok(Some((copy, at)))
            }
        }
    }

    /// Further pieces of `o` below `h` get the same copy. Only where the pieces are
    /// known to be disjoint.
    fn mark_pieces(&self, h: Handle<Entry>, o: Handle<Object>, copy: Handle<Object>) {
        let vm = self.map.vm;
        if vm.object_is_shared(o) || vm.object_is_private_sole(o) {
            return;
        }
        core::iter::successors(Some(h), |h| Tree::prev(&vm.entries, *h))
            .skip(1)
            .take(PIECES)
            .map(|h| self.entry(h))
            .filter(|e| e.object.get() == Some(o) && e.inherit() == Inherit::Copy)
            .for_each(|e| e.twin.set(Some(copy)));
    }
}
