//! Filling: a slot without a page gets one, and its neighbours with it.

use core::num::NonZeroU32;
use machvm_arena::{Handle, NoMemory};
use machvm_hal::{ControlId, PageIn, PageInSink, PageNo, PagerError, Pfn, PhysMem, Prot, Supply};
use machvm_hal::{SwapError, SwapSlot};
use machvm_sync::WriteGuard;

use super::{CLUSTER, MapGuard, Place, Step, WaitFor};
use crate::error::FaultError;
use crate::map::{Advice, Entry, Map};
use crate::object::{Anon, LEAF, ObjectFlags, ObjectInner, Source, Tree};
use crate::page::{Page, PageFlags, handle, number};
use crate::platform::Platform;
use crate::stats::bump;
use crate::vm::Vm;

pub(crate) type ObjectGuard<'a, P> = WriteGuard<'a, ObjectInner, <P as Platform>::Host>;

/// A run of busy pages that wait for their contents from swap: [`Vm::swap_in`] brings
/// them. Until then they stay busy.
#[must_use]
#[derive(Debug)]
pub struct SwapIn {
    pages: [Option<(Handle<Anon>, Handle<Page>)>; CLUSTER],
    len: usize,
}

/// How many pages to fill or copy, and how many of them lie before the one that faulted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) before: u64,
    pub(super) pages: u64,
}

/// Grows from one page to [`CLUSTER`] while faults follow one another, up or down
/// (decision 10: a fixed cluster loses sparse use).
pub(super) fn cluster(entry: &Entry, page: u64) -> Run {
    let (next, last) = (entry.next_fault.get(), u64::from(entry.cluster.get()));
    let up = page == next;
    let down = last != 0 && page.wrapping_add(1) == next.wrapping_sub(last);
    let pages = match entry.advice() {
        Advice::Random => 1,
        Advice::Sequential => CLUSTER as u64,
        Advice::Normal if up || down => (last * 2).clamp(2, CLUSTER as u64),
        Advice::Normal => 1,
    };
    Run { before: if down { pages - 1 } else { 0 }, pages }
}

/// The part of `run` around `at` that lies in the entry and in one leaf.
pub(super) fn clip(run: Run, at: &Place<'_>) -> Run {
    let in_leaf = at.index % LEAF as u64;
    let in_entry = at.va.page() - at.start.page();
    let before = run.before.min(in_leaf).min(in_entry);
    let room = (LEAF as u64 - in_leaf).min(at.end.page() - at.va.page());
    let after = (run.pages - 1 - run.before).min(room - 1);
    Run { before, pages: before + 1 + after }
}

impl<'vm, P: Platform> Map<'vm, P> {
    /// The slot is empty: zero it or ask the pager.
    pub(super) fn fill(
        &self,
        at: &Place<'_>,
        map: MapGuard<'_, P>,
        mut object: ObjectGuard<'_, P>,
    ) -> Result<Step<'vm>, FaultError> {
        let vm = self.vm();
        if let Some(wait) = vm.control_gate(at)? {
            return Ok(wait);
        }
        if !vm.limbo_is_empty() {
            return Ok(Step::Wait(WaitFor::Limbo));
        }
        if vm.is_exhausted() {
            return Err(FaultError::NoMemory(at.va));
        }
        let mut run = clip(cluster(at.entry, at.va.page()), at);
        if vm.frames.free() < run.pages + vm.frames.low() {
            run = Run { before: 0, pages: 1 };
        }
        let mut pages = [PageNo(NonZeroU32::MIN); CLUSTER];
        let Ok(run) = self.place_run(at, run, &mut object, &mut pages) else {
            return Ok(Step::Wait(WaitFor::Memory));
        };
        at.entry.next_fault.set(at.va.page() - run.before + run.pages);
        at.entry.cluster.set(run.pages as u32);
        let first = at.index - run.before;
        let pages = &pages[..run.pages as usize];
        let unpaged = vm.objects.get(at.object).flags().contains(ObjectFlags::UNPAGED);
        if unpaged {
            (first..).zip(pages).for_each(|(i, p)| vm.keep_page(&object.tree, i, handle(*p)));
        }
        match object.source {
            None => {
                if self.is_window_half_full(at, pages) || (unpaged && self.has_room_for_window()) {
                    return self.fill_window(at, run.before, pages, map, object);
                }
                drop((object, map));
                vm.zero_run(pages).map_err(|()| FaultError::NoMemory(at.va))?;
                Ok(Step::Again)
            }
            Some(source) => {
                drop((object, map));
                vm.start_page_in(at, source, first, pages).map_err(|()| FaultError::NoMemory(at.va))
            }
        }
    }

    /// The anon is there but holds nothing (a clean page was dropped): fill it again.
    pub(super) fn refill(
        &self,
        at: &Place<'_>,
        anon: Handle<Anon>,
        map: MapGuard<'_, P>,
        object: ObjectGuard<'_, P>,
    ) -> Result<Step<'vm>, FaultError> {
        let vm = self.vm();
        if let Some(e) = vm.anons.get(anon).take_error() {
            return Err(match e {
                PagerError::Beyond => FaultError::Beyond(at.va),
                PagerError::Gone => FaultError::PagerGone(at.va),
                PagerError::Io => FaultError::PagerIo(at.va),
            });
        }
        if let Some(wait) = vm.control_gate(at)? {
            return Ok(wait);
        }
        if !vm.limbo_is_empty() {
            return Ok(Step::Wait(WaitFor::Limbo));
        }
        let Some(page) = vm.adopt_page(at, anon, at.index, &object.tree) else {
            return Ok(Step::Wait(WaitFor::Memory));
        };
        let list = [number(page)];
        if vm.objects.get(at.object).flags().contains(ObjectFlags::UNPAGED) {
            vm.keep_page(&object.tree, at.index, page);
        }
        match object.source {
            None => {
                drop((object, map));
                vm.zero_run(&list).map_err(|()| FaultError::NoMemory(at.va))?;
                Ok(Step::Again)
            }
            Some(source) => {
                drop((object, map));
                vm.start_page_in(at, source, at.index, &list).map_err(|()| FaultError::NoMemory(at.va))
            }
        }
    }

    /// The contents are on swap.
    pub(super) fn start_swap_in(
        &self,
        at: &Place<'_>,
        anon: Handle<Anon>,
        map: MapGuard<'_, P>,
        object: ObjectGuard<'_, P>,
    ) -> Step<'vm> {
        let vm = self.vm();
        if !vm.limbo_is_empty() {
            return Step::Wait(WaitFor::Limbo);
        }
        let mut s = SwapIn { pages: [None; CLUSTER], len: 0 };
        let Some(page) = vm.adopt_page(at, anon, at.index, &object.tree) else {
            return Step::Wait(WaitFor::Memory);
        };
        s.push(anon, page);
        let run = clip(cluster(at.entry, at.va.page()), at);
        let first = at.index - run.before;
        if run.pages > 1 && vm.frames.free() > run.pages + vm.frames.low() {
            for index in (first..first + run.pages).filter(|i| *i != at.index) {
                let (Some(a), _) = vm.tree_lookup(&object.tree, index) else { continue };
                let slot = vm.anons.get(a);
                if slot.page().is_none()
                    && slot.swap().is_some()
                    && let Some(p) = vm.adopt_page(at, a, index, &object.tree)
                {
                    s.push(a, p);
                }
            }
        }
        at.entry.next_fault.set(at.va.page() - run.before + run.pages);
        at.entry.cluster.set(run.pages as u32);
        drop((object, map));
        Step::SwapIn(s)
    }

    /// Makes busy pages for the empty slots of `run`; gives the part that was done,
    /// which contains the page that faulted.
    fn place_run(
        &self,
        at: &Place<'_>,
        run: Run,
        object: &mut ObjectGuard<'_, P>,
        pages: &mut [PageNo; CLUSTER],
    ) -> Result<Run, NoMemory> {
        let vm = self.vm();
        let mut anons = vm.anons.reserve(run.pages as u32)?;
        let leaf = {
            let mut batch = crate::page::FreeBatch::new(vm);
            let inner: &mut ObjectInner = object;
            vm.nodes.leaves.get(vm.tree_leaf_mut(&mut inner.tree, at.index, &mut batch)?)
        };
        let slot = |index: u64| &leaf.slots[index as usize % LEAF];
        let free = |index: &u64| slot(*index).get().is_none();
        // The longest stretch of empty slots around the one that faulted.
        let before = (at.index - run.before..at.index).rev().take_while(free).count() as u64;
        let last = at.index - run.before + run.pages;
        let after = (at.index + 1..last).take_while(free).count() as u64;
        let first = at.index - before;
        let stretch = (before + 1 + after) as usize;
        let (tree, to) = (object.tree, vm.frame_for(at, first));
        let fresh = |k| vm.is_fresh(at, &tree, first, stretch, k);
        let got = vm.page_take_run(to, &mut pages[..stretch], fresh);
        let mut done = 0;
        for p in pages[..got].iter().map(|p| handle(*p)) {
            // As many are reserved as there are pages.
            let Some(anon) = anons.take() else {
                vm.page_untake(p);
                continue;
            };
            let index = first + done as u64;
            vm.page_attach(p, anon, at, index);
            vm.anons.get(anon).reset(Some(p));
            slot(index).set(Some(anon));
            done += 1;
        }
        if done as u64 > before {
            return Ok(Run { before, pages: done as u64 });
        }
        // Memory ended before the page that faulted: give the others back.
        let mut batch = crate::page::FreeBatch::new(vm);
        for (i, p) in pages[..done].iter().enumerate() {
            let h = handle(*p);
            let s = slot(first + i as u64);
            if let Some(a) = s.get() {
                vm.anons.get(a).change_page(Some(h), None);
                s.set(None);
                vm.anon_release(a, &mut batch);
            }
            vm.page_untake(h);
        }
        Err(NoMemory)
    }
}

impl SwapIn {
    /// For one page.
    ///
    /// => it is busy and `a`'s, which has a copy on swap.
    pub(crate) fn of_one(a: Handle<Anon>, p: Handle<Page>) -> Self {
        let mut s = SwapIn { pages: [None; CLUSTER], len: 0 };
        s.push(a, p);
        s
    }
    fn push(&mut self, a: Handle<Anon>, p: Handle<Page>) {
        self.pages[self.len] = Some((a, p));
        self.len += 1;
    }
}

impl<P: Platform> Vm<P> {
    #[inline]
    pub(super) fn page_attach(&self, page: Handle<Page>, anon: Handle<Anon>, at: &Place<'_>, index: u64) {
        let pg = self.pages.get(page);
        pg.owner.set(Some(anon));
        pg.home.set(Some(at.object));
        pg.pindex.set(index);
        if self.objects.get(at.object).control.get().is_some() {
            pg.insert_flags(PageFlags::OWN);
        }
    }

    /// A new page stays where it is ([`ObjectFlags::UNPAGED`]).
    ///
    /// => it is busy, and the object, whose tree this is, write locked.
    pub(crate) fn keep_page(&self, tree: &Tree, index: u64, page: Handle<Page>) {
        self.tree_mark_held(tree, index);
        self.pages.get(page).change_wirings(1);
    }

    /// A busy page for an anon that has none. `None`: no frame.
    ///
    /// => the object that names the anon is write locked.
    fn adopt_page(
        &self,
        at: &Place<'_>,
        anon: Handle<Anon>,
        index: u64,
        tree: &Tree,
    ) -> Option<Handle<Page>> {
        let fresh = |_| self.is_fresh(at, tree, index, 1, 0);
        let page = self.page_take(self.frame_for(at, index), fresh)?;
        self.page_attach(page, anon, at, index);
        if self.anons.get(anon).change_page(None, Some(page)) {
            return Some(page);
        }
        self.page_untake(page); // another object's fault was first
        None
    }

    /// Zeroes busy pages and lets them go; contiguous frames in one call.
    pub(crate) fn zero_run(&self, list: &[PageNo]) -> Result<(), ()> {
        let mem = self.plat.mem();
        let mut i = 0;
        while i < list.len() {
            let (first, n) = self.frame_run(&list[i..]);
            if mem.zero(first, n as u32).is_err() {
                for p in &list[i..] {
                    self.page_abandon(handle(*p), None);
                }
                return Err(());
            }
            self.pages_filled(&list[i..i + n]);
            bump(&self.stats.zero_fill, n as u64);
            i += n;
        }
        Ok(())
    }

    /// Pages have contents that never were in memory: they go to a queue together, and are
    /// released.
    fn pages_filled(&self, run: &[PageNo]) {
        self.pages_fresh(run);
        run.iter().for_each(|p| self.page_unbusy(handle(*p)));
    }

    /// A page has contents that backing store had: it goes to a queue and is released.
    fn page_filled(&self, h: Handle<Page>) {
        match self.pages.get(h).owner.get() {
            Some(a) => self.page_returned(h, a),
            None => self.page_fresh(h),
        }
        self.page_unbusy(h);
    }

    /// A busy page did not get its contents: its anon holds nothing again.
    pub(crate) fn page_abandon(&self, h: Handle<Page>, why: Option<PagerError>) {
        let page = self.pages.get(h);
        // Of an object whose pages are wired.
        page.change_wirings(-(page.wired.get() as i32));
        // Before the anon can be filled again by another fault.
        self.plat.mem().discard(page.pfn(), 1);
        if let Some(a) = page.owner.get() {
            let anon = self.anons.get(a);
            anon.set_error(why);
            if !anon.change_page(Some(h), None) {
                // Dying: whoever let go of it last left it to the busy holder.
                self.page_unbusy(h);
                return;
            }
        }
        self.page_untake(h);
    }

    /// Clears busy pages, as a pager fills only what it has (Z88), and makes the
    /// request. `Err`: the machine has no memory; the slots are empty again.
    fn start_page_in<'a>(
        &'a self,
        at: &Place<'_>,
        source: Source,
        first: u64,
        list: &[PageNo],
    ) -> Result<Step<'a>, ()> {
        let mut rest = list;
        while !rest.is_empty() {
            let (frame, n) = self.frame_run(rest);
            if self.plat.mem().zero(frame, n as u32).is_err() {
                list.iter().for_each(|p| self.page_abandon(handle(*p), None));
                return Err(());
            }
            rest = &rest[n..];
        }
        let offset = source.base.wrapping_add(first << machvm_hal::PAGE_SHIFT);
        let object = self.control_id_behind(at.object);
        let req = PageIn::new(self, list, offset).of_object(object, at.access);
        Ok(Step::PageIn(source.pager, req))
    }

    /// The frame of the first page, and how many pages have the frames that follow.
    pub(super) fn frame_run(&self, list: &[PageNo]) -> (Pfn, usize) {
        let frame = |p: &PageNo| self.pages.get(handle(*p)).pfn();
        let first = list.first().map_or(Pfn(0), frame);
        (first, list.iter().enumerate().take_while(|(i, p)| frame(p) == first.add(*i as u64)).count())
    }

    /// Reads a run back from swap and lets it go.
    pub(crate) fn swap_in_run(&self, s: SwapIn) -> Result<(), SwapError> {
        let Some(swap) = self.plat.swap() else {
            s.pages[..s.len].iter().flatten().for_each(|(_, h)| self.page_abandon(*h, None));
            return Err(SwapError::Lost);
        };
        // The contents of a busy page's anon stay on swap.
        let mut slots = [SwapSlot(core::num::NonZeroU64::MIN); CLUSTER];
        let mut pages = [None; CLUSTER];
        let mut n = 0;
        let mut result = Ok(());
        for (i, (a, h)) in s.pages[..s.len].iter().flatten().copied().enumerate() {
            if let Some(slot) = self.anons.get(a).swap() {
                (slots[n], pages[n]) = (slot, Some((i, h)));
                n += 1;
            } else {
                self.page_abandon(h, None);
                if i == 0 {
                    result = Err(SwapError::Lost);
                }
            }
        }
        swap.get_run(&slots[..n], &mut |k, read| {
            let Some((i, h)) = pages.get_mut(k).and_then(Option::take) else { return };
            // The rest was read ahead: nobody asked.
            if let Err(e) = self.swapped_in(h, read)
                && i == 0
            {
                result = Err(e);
            }
        });
        // What a faulty swap forgot.
        for (i, h) in pages.iter().flatten().copied() {
            self.page_abandon(h, None);
            if i == 0 {
                result = Err(SwapError::Lost);
            }
        }
        result
    }

    /// Fills a busy page with what swap gave, and lets it go.
    fn swapped_in(
        &self,
        h: Handle<Page>,
        read: Result<&[u8; machvm_hal::PAGE_SIZE as usize], SwapError>,
    ) -> Result<(), SwapError> {
        let mem = self.plat.mem();
        let pfn = self.pages.get(h).pfn();
        match read.and_then(|data| mem.prepare(pfn, 1).map(|()| data).map_err(|_| SwapError::Full)) {
            Ok(data) => {
                mem.write(pfn, 0, data);
                bump(&self.stats.swapins, 1);
                self.page_filled(h);
                Ok(())
            }
            Err(e) => {
                self.page_abandon(h, None);
                Err(e)
            }
        }
    }

    /// Whether carrying it out may mean waiting for a device ([`Swap::is_slow`]).
    ///
    /// [`Swap::is_slow`]: machvm_hal::Swap::is_slow
    pub fn swap_in_is_slow(&self, s: &SwapIn) -> bool {
        let Some(swap) = self.plat.swap() else { return false };
        let slots = s.pages[..s.len].iter().flatten().filter_map(|(a, _)| self.anons.get(*a).swap());
        slots.into_iter().any(|slot| swap.is_slow(slot))
    }
}

impl<P: Platform> PageInSink for Vm<P> {
    fn fill(&self, page: PageNo, off: usize, data: &[u8]) {
        self.plat.mem().write(self.pages.get(handle(page)).pfn(), off, data);
    }

    fn complete(&self, pages: &[PageNo], got: usize, how: Result<Supply, PagerError>) {
        self.complete_locked(pages, got, how, Prot::NONE);
    }

    fn detach(&self, object: ControlId, offset: u64, pages: &[PageNo]) -> bool {
        self.pending_add(object, offset, pages)
    }

    fn complete_locked(&self, pages: &[PageNo], got: usize, how: Result<Supply, PagerError>, lock: Prot) {
        for (i, p) in pages.iter().enumerate() {
            let h = handle(*p);
            if i < got {
                self.page_supplied(h, how.unwrap_or(Supply::Clean), lock);
            } else {
                let why = if i == got { how.err() } else { None };
                self.page_abandon(h, why);
            }
        }
    }
}
