//! Counting what an object has in a range: for `vm_region`, `vm_statistics` and the
//! page queries.

use machvm_arena::Handle;
use machvm_hal::{Gather, MaySleep, Pfn, PmapPage, RefMod, RemoveWhy};

use super::{Object, ObjectFlags};
use crate::page::{PageFlags, QueueId, number};
use crate::platform::Platform;
use crate::vm::Vm;

/// Pages of a range, by what is true of them at some moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Census {
    /// In memory.
    pub resident: u64,
    /// Of these, modified.
    pub dirty: u64,
    /// Of these, used since the daemon last looked.
    pub referenced: u64,
    /// Of these, wired.
    pub wired: u64,
    /// Of these, shared with a copy: a write would copy them.
    pub copied: u64,
    /// Not in memory, but on swap.
    pub swapped: u64,
    /// Slots with contents of their own, wherever these are.
    pub slots: u64,
}

/// What is known of an object as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct About {
    /// Entries and handles that name it.
    pub references: u32,
    /// Contents come from a pager.
    pub external: bool,
}

/// See [`Vm::residents`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Residents {
    /// Their contents may go.
    pub(crate) volatile: u64,
    /// A pager is behind them.
    pub(crate) external: u64,
}

impl<P: Platform> Vm<P> {
    /// Counts `[first, first + pages)` of an object.
    ///
    /// => a map is at least read locked, or the caller has a reference.
    pub(crate) fn object_census(
        &self,
        h: Handle<Object>,
        first: u64,
        pages: u64,
        may: &mut MaySleep,
    ) -> Census {
        let mut c = Census::default();
        let inner = self.objects.get(h).lock.read(self.host(), may);
        let mut window = (u64::MAX, false);
        self.tree_for_each(&inner.tree, first, pages, &mut |i, a| {
            let anon = self.anons.get(a);
            if window.0 != i / super::LEAF as u64 {
                window = (i / super::LEAF as u64, self.tree_window(&inner.tree, i).shared);
            }
            c.slots += 1;
            let Some(p) = anon.page() else {
                c.swapped += u64::from(anon.swap().is_some());
                return true;
            };
            let page = self.pages.get(p);
            let bits = self.plat.pmap_page().page_refmod(&self.pages, number(p));
            c.resident += 1;
            let dirty = page.flags().contains(PageFlags::DIRTY) || bits.contains(RefMod::MODIFIED);
            c.dirty += u64::from(dirty);
            c.referenced += u64::from(bits.contains(RefMod::REFERENCED));
            c.wired += u64::from(page.wired.get() != 0);
            c.copied += u64::from(window.1 || anon.is_shared());
            true
        });
        c
    }

    /// => as [`Vm::object_census`].
    pub(crate) fn object_about(&self, h: Handle<Object>, may: &mut MaySleep) -> About {
        let object = self.objects.get(h);
        let external = object.lock.read(self.host(), may).source.is_some();
        About { references: object.references(), external }
    }

    /// The frame of one page, if it is in memory.
    ///
    /// => as [`Vm::object_census`].
    pub(crate) fn object_frame(&self, h: Handle<Object>, index: u64, may: &mut MaySleep) -> Option<Pfn> {
        let inner = self.objects.get(h).lock.read(self.host(), may);
        let (anon, _) = self.tree_lookup(&inner.tree, index);
        Some(self.pages.get(self.anons.get(anon?).page()?).pfn())
    }

    /// Sets the pages of a range aside: unmapped, and the first that memory is taken
    /// from (`VM_SYNC_DEACTIVATE`). Wired pages and those busy elsewhere stay.
    ///
    /// => a map is at least read locked, or the caller has a reference.
    pub(crate) fn object_deactivate(&self, h: Handle<Object>, first: u64, pages: u64, may: &mut MaySleep) {
        let (mut next, end) = (first, first.saturating_add(pages));
        while next < end {
            let mut found = None;
            {
                let inner = self.objects.get(h).lock.read(self.host(), may);
                self.tree_for_each(&inner.tree, next, end - next, &mut |i, a| {
                    found = self.anons.get(a).page().map(|p| (i, a, p));
                    found.is_none()
                });
            }
            let Some((i, a, p)) = found else { return };
            next = i + 1;
            if self.anon_busy_page(a, p).is_err() {
                continue;
            }
            if !self.pages.get(p).is_kept() {
                let mut g = Gather::new();
                let (pmaps, list) = (self.plat.pmap_page(), [number(p)]);
                pmaps.page_remove(&self.pages, &list, RemoveWhy::Sample, &mut g);
                pmaps.page_clear(&self.pages, list[0], RefMod::REFERENCED, &mut g);
                self.finish(g, may);
                let q = if self.page_is_dirty(p) { QueueId::Laundry } else { QueueId::Inactive };
                self.queues.dequeue(&self.pages, p);
                self.queues.enqueue(&self.pages, p, q);
            }
            self.page_unbusy(p);
        }
    }

    /// Must the object stay behind its entry when contents are replaced (the "permanent"
    /// object of a destination, U15)? Others see it through their own entries (`shared`), or
    /// it is more than its contents.
    pub(crate) fn object_is_permanent(&self, h: Handle<Object>, shared: bool) -> bool {
        let flags = self.objects.get(h).flags();
        flags.intersects(ObjectFlags::WRITE_BACK | ObjectFlags::PURGEABLE)
            || (shared && !self.object_is_private_sole(h))
    }
    /// Do modified pages go back to its pager?
    pub(crate) fn object_is_write_back(&self, h: Handle<Object>) -> bool {
        self.objects.get(h).flags().contains(ObjectFlags::WRITE_BACK)
    }

    /// Resident pages of kinds of objects.
    ///
    /// => no lock is held.
    pub(crate) fn residents(&self) -> Residents {
        let mut r = Residents::default();
        let home = |page: &crate::page::Page| page.home.get().map(|h| self.objects.get(h));
        self.pages.slab.for_each(|_, page| {
            // The home is a hint: it was true when the page came in.
            if let Some(object) = page.owner.get().and_then(|_| home(page)) {
                r.volatile += u64::from(object.purge_order.get() != 0);
                r.external += u64::from(object.flags().contains(ObjectFlags::PAGER));
            }
        });
        r
    }

    /// Wired pages in memory, by the queue that they are on.
    pub(crate) fn count_wired(&self) -> Wired {
        let mut w = Wired::default();
        self.pages.slab.for_each(|_, page| {
            if page.wired.get() == 0 || page.owner.get().is_none() {
                return;
            }
            w.all += 1;
            match QueueId::of(page.queue.get()) {
                Some(QueueId::Active | QueueId::Fresh) => w.active += 1,
                Some(QueueId::Inactive | QueueId::Laundry) => w.aside += 1,
                Some(QueueId::Unswappable) => w.unswappable += 1,
                None => {}
            }
        });
        w
    }
}

/// See [`Vm::count_wired`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Wired {
    pub(crate) all: u64,
    pub(crate) active: u64,
    /// Inactive, or waiting to be written.
    pub(crate) aside: u64,
    pub(crate) unswappable: u64,
}
