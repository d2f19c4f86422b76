//! The pages of a [`Vm`], as a scan sees them.
//!
//! A page that a scan has is busy. No lock is held between the calls, so faults and other
//! scans go on meanwhile.

use machvm_arena::Handle;
use machvm_hal::{Gather, MaySleep, PageNo, PmapPage, RefMod, RemoveWhy};

use super::Note;
use super::policy::{Queue, Shape, Tag};
use super::scan::{BATCH, Frames, Written};
use crate::page::{FreeBatch, Page, number};
use crate::platform::Platform;
use crate::vm::Vm;

/// See the module text.
pub(super) struct Live<'vm, 'm, P: Platform> {
    vm: &'vm Vm<P>,
    may: &'m mut MaySleep,
    /// Of the bits of use that were cleared.
    gather: Gather,
    free: FreeBatch<'vm, P>,
    /// Frames that came free since [`Frames::flush`].
    freed: u64,
}

impl<'vm, 'm, P: Platform> Live<'vm, 'm, P> {
    pub(super) fn new(vm: &'vm Vm<P>, may: &'m mut MaySleep) -> Self {
        Live { vm, may, gather: Gather::new(), free: FreeBatch::new(vm), freed: 0 }
    }
}

impl<P: Platform> Frames for Live<'_, '_, P> {
    type Page = Handle<Page>;

    fn shape(&self) -> Shape {
        let len = |q| self.vm.queues.len(q);
        Shape {
            limit: self.vm.frames.limit(),
            active: len(Queue::Active),
            fresh: len(Queue::Fresh),
            inactive: len(Queue::Inactive),
            laundry: len(Queue::Laundry),
        }
    }

    fn take(&mut self, q: Queue, out: &mut [Option<Handle<Page>>]) -> usize {
        self.vm.queues.take_busy(&self.vm.pages, q, 2 * BATCH, out)
    }

    fn put(&mut self, page: Handle<Page>, q: Queue, tag: Tag) {
        self.vm.pages.get(page).set_tag(tag);
        self.vm.queues.enqueue(&self.vm.pages, page, q);
        self.vm.page_unbusy(page);
    }

    fn tag(&self, page: Handle<Page>) -> Tag {
        self.vm.pages.get(page).tag()
    }

    fn used(&mut self, page: Handle<Page>) -> bool {
        let pmaps = self.vm.plat.pmap_page();
        pmaps
            .page_clear(&self.vm.pages, number(page), RefMod::REFERENCED, &mut self.gather)
            .contains(RefMod::REFERENCED)
    }

    fn is_kept(&self, page: Handle<Page>) -> bool {
        self.vm.pages.get(page).is_kept()
    }

    fn unmap(&mut self, pages: &[Option<Handle<Page>>]) {
        let mut mapped = [PageNo(core::num::NonZeroU32::MIN); BATCH];
        let mut m = 0;
        for h in pages.iter().flatten().filter(|h| self.vm.pages.get(**h).is_mapped()) {
            mapped[m] = number(*h);
            m += 1;
        }
        let mut g = core::mem::take(&mut self.gather);
        if m != 0 {
            let pmaps = self.vm.plat.pmap_page();
            pmaps.page_remove(&self.vm.pages, &mapped[..m], RemoveWhy::Sample, &mut g);
        }
        self.vm.finish(g, self.may);
    }

    fn is_modified(&self, page: Handle<Page>) -> bool {
        self.vm.page_is_dirty(page)
    }

    fn write(&mut self, pages: &[Option<Handle<Page>>; BATCH], done: &mut [Written; BATCH]) {
        self.vm.write_pages(pages, done, self.may);
    }

    fn free(&mut self, page: Handle<Page>, remember: bool) -> u64 {
        let Some(a) = self.vm.pages.get(page).owner.get() else {
            self.vm.page_unbusy(page);
            return 0;
        };
        self.vm.note_eviction(a, remember);
        self.free.push(page);
        self.freed += 1;
        1
    }

    fn flush(&mut self) {
        self.free.flush();
        match core::mem::take(&mut self.freed) {
            0 => {}
            pages => self.vm.watch_work(Note::Freed { pages }),
        }
    }
}
