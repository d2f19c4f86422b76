//! Writing modified pages where their contents belong (D07, D08).
//!
//! The pages of a batch are written in the order of their objects and indices, so that
//! neighbours come to lie side by side on backing store.

use machvm_arena::Handle;
use machvm_hal::{
    Gather, MAX_CLUSTER, MAX_RUN, MaySleep, PAGE_SIZE, PageRun, PhysMem, PmapPage, RefMod, Return,
};

use super::scan::{BATCH, Written};
use crate::object::{Object, Source};
use crate::page::{FreeBatch, Page, PageFlags, number};
use crate::pager::ReturnRun;
use crate::platform::Platform;
use crate::stats::bump;
use crate::vm::Vm;

/// Where contents belong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Home {
    /// They are there already, or nobody wants them.
    Done,
    /// Swap; the object through which the page was allocated.
    Swap(u32),
    /// A pager, from there on.
    Pager(Handle<Object>, Source, u64),
}

impl Home {
    /// Does `next` go out together with this, the last of a run?
    fn continues(self, next: Home) -> bool {
        match (self, next) {
            (Home::Swap(a), Home::Swap(b)) => a == b,
            (Home::Pager(a, _, i), Home::Pager(b, _, j)) => a == b && i + 1 == j,
            _ => false,
        }
    }
}

/// Contents of busy pages, for swap.
struct Contents<'a, P: Platform> {
    vm: &'a Vm<P>,
    pages: &'a [Handle<Page>],
}

impl<P: Platform> PageRun for Contents<'_, P> {
    fn pages(&self) -> usize {
        self.pages.len()
    }
    fn read(&self, i: usize, to: &mut [u8; PAGE_SIZE as usize]) {
        if let Some(h) = self.pages.get(i) {
            self.vm.plat.mem().read(self.vm.pages.get(*h).pfn(), 0, to);
        }
    }
}

impl<P: Platform> Vm<P> {
    /// Writes busy pages; what became of each is in `done`.
    ///
    /// => they are mapped nowhere; no lock is held.
    pub(super) fn write_pages(
        &self,
        pages: &[Option<Handle<Page>>; BATCH],
        done: &mut [Written; BATCH],
        may: &mut MaySleep,
    ) {
        let (order, n) = self.in_order(pages);
        let mut run = [Handle::from_raw(core::num::NonZeroU32::MIN); BATCH];
        let (mut len, mut first, mut last) = (0, Home::Done, Home::Done);
        let mut results = [Written::Clean; BATCH];
        let mut ended = 0;
        for (k, slot) in order[..n].iter().map(|i| usize::from(*i)).enumerate() {
            let Some(page) = pages[slot] else { continue };
            let home = self.home_of(page, may);
            let fits = len < MAX_RUN && (len < MAX_CLUSTER || matches!(last, Home::Swap(_)));
            if len != 0 && !(fits && last.continues(home)) {
                self.write_run(&run[..len], first, &mut results[ended..k], may);
                (ended, len) = (k, 0);
            }
            if len == 0 {
                first = home;
            }
            (run[len], last) = (page, home);
            len += 1;
        }
        self.write_run(&run[..len], first, &mut results[ended..n], may);
        for (slot, result) in order[..n].iter().zip(results) {
            done[usize::from(*slot)] = result;
        }
    }

    /// Numbers of the pages there are, sorted by object and index.
    fn in_order(&self, pages: &[Option<Handle<Page>>; BATCH]) -> ([u8; BATCH], usize) {
        let place = |h: Handle<Page>| {
            let page = self.pages.get(h);
            (page.home.get().map_or(0, Handle::get), page.pindex.get())
        };
        let mut keys = [(0, 0); BATCH];
        let (mut order, mut n) = ([0; BATCH], 0);
        for (i, h) in pages.iter().enumerate() {
            if let Some(h) = h {
                (keys[i], order[n]) = (place(*h), i as u8);
                n += 1;
            }
        }
        order[..n].sort_unstable_by_key(|i| keys[usize::from(*i)]);
        (order, n)
    }

    /// => the page is busy.
    fn home_of(&self, h: Handle<Page>, may: &mut MaySleep) -> Home {
        let page = self.pages.get(h);
        if page.owner.get().is_none() || !self.page_is_dirty(h) {
            return Home::Done;
        }
        match self.write_back_place(h, may) {
            Some((object, source, index)) => Home::Pager(object, source, index),
            None => Home::Swap(page.home.get().map_or(0, Handle::get)),
        }
    }

    /// Writes pages that go out together; `first` is where the first belongs.
    fn write_run(&self, run: &[Handle<Page>], first: Home, done: &mut [Written], may: &mut MaySleep) {
        match first {
            Home::Done => done.fill(Written::Clean),
            Home::Swap(_) => self.run_to_swap(run, done, may),
            Home::Pager(object, source, index) => self.run_to_pager(run, (object, source, index), done, may),
        }
        if first != Home::Done {
            bump(&self.stats.runs_written, 1);
        }
    }

    fn run_to_swap(&self, run: &[Handle<Page>], done: &mut [Written], may: &mut MaySleep) {
        let mut slots = [None; MAX_RUN];
        match self.plat.swap() {
            Some(swap) if run.len() == 1 => {
                let mut page = [0; PAGE_SIZE as usize];
                self.plat.mem().read(self.pages.get(run[0]).pfn(), 0, &mut page);
                slots[0] = swap.put(&page).ok();
            }
            Some(swap) => {
                swap.put_run(&Contents { vm: self, pages: run }, &mut slots[..run.len()]);
            }
            None => {}
        }
        for ((h, slot), done) in run.iter().zip(slots).zip(done) {
            // Busy and modified, it has an owner.
            let Some((slot, a)) = slot.zip(self.pages.get(*h).owner.get()) else {
                *done = Written::NoRoom;
                continue;
            };
            let anon = self.anons.get(a);
            let old = anon.swap();
            anon.set_swap(Some(slot));
            if let Some(old) = old {
                self.swap_free(old);
            }
            self.mark_clean(*h, may);
            bump(&self.stats.swapouts, 1);
            *done = Written::Clean;
        }
    }

    fn run_to_pager(
        &self,
        run: &[Handle<Page>],
        (object, source, index): (Handle<Object>, Source, u64),
        done: &mut [Written],
        may: &mut MaySleep,
    ) {
        let mut out = ReturnRun::new(index);
        for h in run {
            out.push(number(*h)); // a run is no longer than it takes
        }
        self.return_run(object, source, &mut out, (Return::All, false), may);
        for ((_, result), done) in out.results().zip(done) {
            *done = if result.is_ok() { Written::Clean } else { Written::Failed };
        }
    }

    /// Where a page of a shared pager-backed object is written.
    fn write_back_place(&self, h: Handle<Page>, may: &mut MaySleep) -> Option<(Handle<Object>, Source, u64)> {
        let page = self.pages.get(h);
        let home = page.home.get()?;
        let object = self.objects.get(home);
        if !object.flags().contains(crate::object::ObjectFlags::WRITE_BACK) {
            return None;
        }
        let inner = object.lock.read(self.plat.host(), may);
        // The page knows its object by a hint only: believe it if the object does.
        let index = page.pindex.get();
        let (a, _) = self.tree_lookup(&inner.tree, index);
        (a.is_some() && a == page.owner.get()).then_some((home, inner.source?, index))
    }

    /// => nothing can write the page: it is mapped nowhere, or everywhere without write
    /// access and flushed.
    pub(crate) fn mark_clean(&self, h: Handle<Page>, may: &mut MaySleep) {
        self.pages.get(h).remove_flags(PageFlags::DIRTY | PageFlags::PRECIOUS);
        let mut g = Gather::new();
        self.plat.pmap_page().page_clear(&self.pages, number(h), RefMod::MODIFIED, &mut g);
        self.finish(g, may);
    }

    /// Forgets a clean page.
    ///
    /// => the page is busy and has an owner; on return it is not busy.
    pub(crate) fn page_forget_clean(&self, h: Handle<Page>) {
        if let Some(a) = self.pages.get(h).owner.get() {
            self.note_eviction(a, false);
        }
        self.queues.dequeue(&self.pages, h);
        FreeBatch::new(self).push(h);
    }
}
