//! Emptying ranges of an object, which keeps its number space.

use machvm_arena::{Handle, NoMemory};
use machvm_hal::{MaySleep, PhysMem, Pindex};

use super::{Anon, Object, ObjectFlags};
use crate::page::{FreeBatch, Page, QueueId};
use crate::platform::Platform;
use crate::vm::Vm;

/// Rounds of making room for one drop of a range.
const STRAY_TRIES: u32 = 1000;

impl<P: Platform> Vm<P> {
    /// The contents of the range are gone: the next access finds zero, or the
    /// pager's data (decision 17).
    ///
    /// => the map is write locked.
    ///
    /// # Errors
    /// [`NoMemory`] when a shared path cannot be copied; nothing changed.
    pub(crate) fn object_drop_range(
        &self,
        h: Handle<Object>,
        first: Pindex,
        pages: u64,
        may: &mut MaySleep,
    ) -> Result<(), NoMemory> {
        let object = self.objects.get(h);
        self.push_squatters(h, first, pages, may)?;
        let mut inner = object.lock.write(self.plat.host(), may);
        // Dropped before the lock: the frames are discarded before a fault finds the
        // slots empty.
        let mut batch = FreeBatch::new(self);
        self.tree_clear(&mut inner.tree, first.0, pages, &mut batch)
    }

    /// Sparse placement: pages in the range that other trees share and that sit at
    /// this object's natural frames move to stray frames, so that the slots' frames
    /// are free again.
    fn push_squatters(
        &self,
        h: Handle<Object>,
        first: Pindex,
        pages: u64,
        may: &mut MaySleep,
    ) -> Result<(), NoMemory> {
        let object = self.objects.get(h);
        if !self.frames.is_sparse() || !object.flags().contains(ObjectFlags::COPIED) {
            return Ok(());
        }
        let end = first.0.saturating_add(pages);
        let (mut next, mut tries) = (first.0, 0);
        while next < end {
            let mut found = None;
            {
                let inner = object.lock.read(self.plat.host(), may);
                self.tree_for_each(&inner.tree, next, end - next, &mut |i, a| {
                    let anon = self.anons.get(a);
                    let (_, path) = self.tree_lookup(&inner.tree, i);
                    found = anon.page().filter(|_| path || anon.is_shared()).map(|p| (i, a, p));
                    found.is_none()
                });
            }
            let Some((i, a, p)) = found else { return Ok(()) };
            match self.anon_busy_page(a, p) {
                Ok(()) => {
                    let r = if self.pages.get(p).pfn() == object.natural(i) {
                        self.page_to_stray(a, p)
                    } else {
                        self.page_unbusy(p);
                        Ok(())
                    };
                    if r.is_ok() {
                        next = i + 1;
                        continue;
                    }
                    // Other threads may take the room that was made; or there are
                    // frames, but no structures or numbers for them.
                    tries += 1;
                    if tries > STRAY_TRIES || !self.make_room(may) {
                        return Err(NoMemory);
                    }
                }
                // Who shares it asks again.
                Err(Some(busy)) if self.page_is_pending(busy) => self.pending_cancel(busy),
                Err(Some(busy)) => self.wait_page_settled(busy, may),
                Err(None) => {}
            }
        }
        Ok(())
    }

    /// Moves the anon's contents from `p` to a stray frame; `p` is freed.
    ///
    /// => `p` is busy; on return it is not.
    pub(super) fn page_to_stray(&self, a: Handle<Anon>, p: Handle<Page>) -> Result<(), NoMemory> {
        let Some(q) = self.stray_take() else {
            self.page_unbusy(p);
            return Err(NoMemory);
        };
        let (from, to) = (self.pages.get(p), self.pages.get(q));
        if self.plat.mem().prepare(to.pfn(), 1).is_err() {
            self.page_untake(q);
            self.page_unbusy(p);
            return Err(NoMemory);
        }
        self.plat.mem().copy(from.pfn(), to.pfn());
        self.page_inherit(p, q);
        to.owner.set(Some(a));
        // Until its old frame is discarded nobody may move the contents back there.
        self.limbo_enter();
        if !self.anons.get(a).change_page(Some(p), Some(q)) {
            // The last reference went meanwhile: the contents are not wanted.
            self.limbo_leave();
            to.owner.set(None);
            FreeBatch::new(self).push(q);
            self.page_unbusy(p);
            return Ok(());
        }
        self.wirings_move(p, q, from.wired.get());
        self.queues.dequeue(&self.pages, p);
        from.owner.set(None);
        FreeBatch::new(self).push(p);
        self.limbo_leave();
        self.queues.enqueue(&self.pages, q, QueueId::Active);
        self.page_unbusy(q);
        Ok(())
    }
}
