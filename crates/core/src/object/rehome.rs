//! Giving the contents of an object another home: frames that somebody beside this
//! system uses too, as when a process forks and the child is to see the same memory.
//!
//! Such an object is one of a pager whose data *are* the frames: what is absent here is
//! there already, and what is paged out stays where it is. Copies of it are made of
//! bytes, as of any memory that others may change.

use core::sync::atomic::Ordering::Relaxed;

use machvm_arena::{Handle, NoMemory};
use machvm_hal::{MaySleep, PAGE_SHIFT, PAGE_SIZE, Pfn, PhysMem, Pindex};

use super::{Object, ObjectFlags, Source};
use crate::page::FreeBatch;
use crate::platform::{PagerId, Platform};
use crate::vm::Vm;

/// Why the contents stay where they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RehomeError {
    /// Pages are held: who holds them knows their frames.
    Held,
    /// Swap lost the page with this index.
    Lost(u64),
}

/// Whose an object's absent contents are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Home {
    /// The pager.
    pub pager: PagerId,
    /// Where in its data the page with index 0 begins.
    pub base: u64,
    /// Modified pages go back there.
    pub written_back: bool,
}

impl<P: Platform> Vm<P> {
    /// Calls `f` with the frame of every page that holds contents of an object.
    ///
    /// => nobody else uses the system.
    pub fn for_each_frame(&self, mut f: impl FnMut(Pfn)) {
        self.pages.slab.for_each(|_, page| {
            if page.owner.get().is_some() {
                f(page.pfn());
            }
        });
    }

    /// Pages that the object has room for.
    pub fn object_capacity(&self, h: Handle<Object>) -> u64 {
        self.objects.get(h).capacity.get()
    }

    /// Where the absent contents of an object come from.
    ///
    /// => nothing is locked.
    pub fn object_home(&self, h: Handle<Object>, may: &mut MaySleep) -> Option<Home> {
        let object = self.objects.get(h);
        let Source { pager, base } = object.lock.read(self.host(), may).source?;
        let written_back = object.flags().contains(ObjectFlags::WRITE_BACK);
        Some(Home { pager, base, written_back })
    }

    /// From now on page `i` of the object is frame `to + i`, and its pager is `pager`, for
    /// whom the frame's address is the place in its data. The contents are copied there.
    /// The object counts as shared and is not purgeable any more.
    ///
    /// => sparse placement; as many frames from `to` on as the object has room for are
    ///    nobody's, and hold what its old pager would give, zeroes if it has none; no map has a region of the object ([`crate::map::Map::object_leave`]),
    ///    and nobody else uses the system.
    ///
    /// # Errors
    /// [`RehomeError`]; the object is as it was.
    pub fn object_rehome(
        &self,
        h: Handle<Object>,
        to: Pfn,
        pager: PagerId,
        may: &mut MaySleep,
    ) -> Result<(), RehomeError> {
        let object = self.objects.get(h);
        if self.object_any_held(h, 0, object.capacity.get(), may) {
            return Err(RehomeError::Held);
        }
        self.copy_contents(h, to, may)?;
        self.memory_object_leave(h);
        self.volatile_end(object);
        let inner = core::mem::take(&mut *object.lock.write(self.host(), may));
        let orphaned = {
            let mut batch = FreeBatch::new(self);
            self.tree_release(inner.tree, &mut batch);
            batch.orphaned
        };
        // As when an object ends.
        let elsewhere = object.flags().intersects(ObjectFlags::COPIED | ObjectFlags::HELD);
        if orphaned || !self.limbo_is_empty() || elsewhere {
            self.stats.extents_lost.atomic().fetch_add(1, Relaxed);
        } else {
            self.plat.mem().extent_release(Pfn(object.extent.get()), object.capacity.get());
        }
        object.extent.set(to.0);
        let source = Some(Source { pager, base: to.byte() });
        object.set_source(&mut object.lock.write(self.host(), may), source);
        let gone = ObjectFlags::COPIED | ObjectFlags::PURGEABLE | ObjectFlags::HELD;
        let new = ObjectFlags::SHARED | ObjectFlags::OPEN | ObjectFlags::WRITE_BACK | ObjectFlags::PAGER;
        object.flags.set(((object.flags() - gone) | new).bits());
        self.plat.pager_used(pager);
        if let Some(old) = inner.source {
            self.plat.pager_unused(old.pager);
        }
        Ok(())
    }

    /// The copy of an object whose contents others may change: all of it comes from a pager
    /// that has the bytes as they are now. `None`: nobody does.
    pub(super) fn object_copy_of_bytes(
        &self,
        h: Handle<Object>,
        may: &mut MaySleep,
    ) -> Option<Result<Handle<Object>, NoMemory>> {
        let object = self.objects.get(h);
        if !object.flags().contains(ObjectFlags::WRITE_BACK) {
            return None;
        }
        let Source { pager, base } = object.lock.read(self.host(), may).source?;
        let snapshot = self.plat.pager_snapshot(pager, base, object.capacity.get() << PAGE_SHIFT)?;
        Some(snapshot.and_then(|pager| {
            let copy =
                self.object_make(object.capacity.get()).inspect_err(|_| self.plat.pager_unused(pager))?;
            let to = self.objects.get(copy);
            to.flags.atomic().fetch_or(ObjectFlags::PAGER.bits(), Relaxed);
            to.set_source(&mut to.lock.write(self.host(), may), Some(Source { pager, base }));
            self.stats.copies.atomic().fetch_add(1, Relaxed);
            Ok(copy)
        }))
    }

    /// Writes everything the object holds, in memory or on swap, to the frames from `to` on.
    fn copy_contents(&self, h: Handle<Object>, to: Pfn, may: &mut MaySleep) -> Result<(), RehomeError> {
        let object = self.objects.get(h);
        let mut next = Pindex(0);
        loop {
            let mut found = None;
            {
                let inner = object.lock.read(self.host(), may);
                let rest = object.capacity.get().saturating_sub(next.0);
                self.tree_for_each(&inner.tree, next.0, rest, &mut |i, a| {
                    let anon = self.anons.get(a);
                    let filled = anon.page().is_some() || anon.swap().is_some();
                    found = filled.then_some((i, a));
                    found.is_none()
                });
            }
            let Some((i, a)) = found else { return Ok(()) };
            let anon = self.anons.get(a);
            match (anon.page(), anon.swap()) {
                (Some(p), _) => match self.anon_busy_page(a, p) {
                    Ok(()) => {
                        self.mem().copy(self.pages.get(p).pfn(), to.add(i));
                        self.page_unbusy(p);
                    }
                    Err(Some(busy)) => {
                        self.wait_page(busy, may);
                        continue;
                    }
                    Err(None) => continue,
                },
                (None, Some(slot)) => {
                    let mut buf = [0; PAGE_SIZE as usize];
                    let swap = self.plat.swap().ok_or(RehomeError::Lost(i))?;
                    swap.get(slot, &mut buf).map_err(|_| RehomeError::Lost(i))?;
                    self.mem().write(to.add(i), 0, &buf);
                }
                (None, None) => {}
            }
            next = Pindex(i + 1);
        }
    }
}
