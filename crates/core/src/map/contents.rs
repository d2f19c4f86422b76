//! What a map does to the contents of its objects, page by page.

use machvm_arena::Handle;
use machvm_hal::{Gather, MaySleep, Pindex, PmapPage, RemoveWhy};

use super::entry::Entry;
use crate::object::Object;
use crate::page::{Page, number};
use crate::platform::Platform;
use crate::vm::Vm;

impl<P: Platform> Vm<P> {
    /// Unwires what a dead entry kept, and drops what it mapped of an object that lives on.
    /// A drop that finds no memory leaves contents that no entry covers: they go with the
    /// object.
    pub(super) fn drop_mapped(&self, e: &Entry, o: Handle<Object>, may: &mut MaySleep) {
        if e.wired.get() != 0 {
            self.unwire_object(o, e.offset.get(), e.pages(), may);
        }
        if !e.is_shared() && !self.object_is_private_sole(o) {
            let _ = self.object_drop_range(o, Pindex(e.offset.get()), e.pages(), may);
        }
    }

    /// Removes every translation of every resident page of the range, in every pmap.
    ///
    /// => maps may be locked: who has a page busy does not wait for a map.
    pub(super) fn object_unmap(&self, o: Handle<Object>, first: Pindex, pages: u64, may: &mut MaySleep) {
        self.each_resident(o, first.0, pages, may, &mut |p, may| {
            let mut g = Gather::new();
            self.plat.pmap_page().page_remove(&self.pages, &[number(p)], RemoveWhy::Sample, &mut g);
            self.finish(g, may);
        });
    }

    /// Takes write access from every translation of every resident page of the range, in
    /// every pmap. After a copy of the object was made, whoever takes a page busy later sees
    /// that it is shared.
    ///
    /// => as [`Vm::object_unmap`].
    pub(super) fn object_write_protect(
        &self,
        o: Handle<Object>,
        first: Pindex,
        pages: u64,
        may: &mut MaySleep,
    ) {
        self.each_resident(o, first.0, pages, may, &mut |p, may| {
            let mut g = Gather::new();
            self.plat.pmap_page().page_write_protect(&self.pages, &[number(p)], &mut g);
            self.finish(g, may);
        });
    }

    /// Would a write to this page of an object copy it first?
    pub(super) fn object_is_copied_at(&self, o: Handle<Object>, at: Pindex, may: &mut MaySleep) -> bool {
        let inner = self.objects.get(o).lock.read(self.host(), may);
        let (anon, path) = self.tree_lookup(&inner.tree, at.0);
        anon.is_some_and(|a| path || self.anons.get(a).is_shared())
    }

    /// Calls `f` with every resident page of the range of an object, busy.
    ///
    /// => a map may be write locked: who has a page busy does not wait for a map.
    pub(super) fn each_resident(
        &self,
        o: Handle<Object>,
        first: u64,
        pages: u64,
        may: &mut MaySleep,
        f: &mut dyn FnMut(Handle<Page>, &mut MaySleep),
    ) {
        let (mut next, end) = (first, first.saturating_add(pages));
        while next < end {
            let mut found = None;
            let inner = self.objects.get(o).lock.read(self.host(), may);
            self.tree_for_each(&inner.tree, next, end - next, &mut |i, a| {
                found = self.anons.get(a).page().map(|p| (i, a, p));
                found.is_none()
            });
            drop(inner);
            let Some((i, a, p)) = found else { return };
            match self.anon_busy_page(a, p) {
                Ok(()) => {
                    f(p, may);
                    self.page_unbusy(p);
                    next = i + 1;
                }
                // Nobody maps a page that its pager has not given.
                Err(Some(busy)) if self.page_is_pending(busy) => next = i + 1,
                Err(Some(busy)) => self.wait_page(busy, may),
                Err(None) => {}
            }
        }
    }
}
