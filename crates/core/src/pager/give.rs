//! Pages on their way back to their pager, in runs (E11 `memory_object_data_return`, G07).

use machvm_arena::Handle;
use machvm_hal::{Gather, MAX_CLUSTER, MaySleep, PAGE_SHIFT, PageNo, PageOut, PageOutSource};
use machvm_hal::{PagerError, PhysMem, Pindex, PmapPage, Return};

use crate::object::{Object, ObjectFlags, Source};
use crate::page::{PageFlags, handle};
use crate::platform::Platform;
use crate::stats::bump;
use crate::vm::Vm;

/// Busy pages at consecutive indices of one object.
#[derive(Clone, Copy, Debug)]
pub struct ReturnRun {
    pages: [PageNo; MAX_CLUSTER],
    /// How each went.
    results: [Result<(), PagerError>; MAX_CLUSTER],
    /// A bit for each that was behind the end.
    beyond: u32,
    len: usize,
    first: u64,
}

impl ReturnRun {
    pub(crate) fn new(first: u64) -> Self {
        let none = PageNo(core::num::NonZeroU32::MIN);
        ReturnRun { pages: [none; MAX_CLUSTER], results: [Ok(()); MAX_CLUSTER], beyond: 0, len: 0, first }
    }
    /// The index behind the last page. `None`: the run is full.
    pub(crate) fn next(&self) -> Option<u64> {
        (self.len < MAX_CLUSTER).then(|| self.first + self.len as u64)
    }
    /// The index behind the last page.
    pub(crate) fn end(&self) -> u64 {
        self.first + self.len as u64
    }
    /// Keeps the first `n` pages; gives the others.
    pub(crate) fn split(&mut self, n: usize) -> impl Iterator<Item = PageNo> {
        let old = core::mem::replace(&mut self.len, n);
        let pages = self.pages;
        (n..old).map(move |i| pages[i])
    }
    pub(crate) fn push(&mut self, page: PageNo) {
        self.pages[self.len] = page;
        self.len += 1;
    }
    pub(crate) fn pages(&self) -> &[PageNo] {
        &self.pages[..self.len]
    }
    /// The pages, with how they went.
    pub(crate) fn results(&self) -> impl Iterator<Item = (PageNo, Result<(), PagerError>)> {
        let (pages, results) = (self.pages, self.results);
        pages.into_iter().zip(results).take(self.len)
    }
    /// Was page `n` behind the end of its pager's data? Then it went well: see
    /// [`Vm::return_run`].
    fn is_beyond(&self, n: usize) -> bool {
        self.beyond & 1 << n != 0
    }
}

impl<P: Platform> PageOutSource for Vm<P> {
    fn read(&self, page: PageNo, off: usize, buf: &mut [u8]) {
        self.mem().read(self.pages.get(handle(page)).pfn(), off, buf);
    }
}

impl<P: Platform> Vm<P> {
    /// Gives pages of a run back to their pager, and marks those clean that it took: of
    /// [`Return::Dirty`] the modified ones, of [`Return::All`] the precious ones too. Write
    /// access goes first, from all of them (Z75, Z117). A page that a device may write stays
    /// modified (Z77). `keep`: the core goes on with them. A page behind the end of the pager's
    /// data ([`PagerError::Beyond`]) is clean, too, as nobody will ever read it there; but not if
    /// copies may have it.
    ///
    /// => the pages are busy, and stay so; nothing is locked.
    pub(crate) fn return_run(
        &self,
        object: Handle<Object>,
        source: Source,
        run: &mut ReturnRun,
        (what, keep): (Return, bool),
        may: &mut MaySleep,
    ) {
        let mut g = Gather::new();
        self.plat.pmap_page().page_write_protect(&self.pages, run.pages(), &mut g);
        self.finish(g, may);
        if what == Return::None {
            return;
        }
        let goes = |p: PageNo| {
            let precious = self.pages.get(handle(p)).flags().contains(PageFlags::PRECIOUS);
            self.page_is_modified(handle(p)) || (precious && what == Return::All)
        };
        let id = self.control_id_behind(object);
        let copied = self.objects.get(object).flags().contains(ObjectFlags::COPIED);
        let mut n = 0;
        while n < run.len {
            let len = run.pages()[n..].iter().take_while(|p| goes(**p)).count();
            if len == 0 {
                n += 1;
                continue;
            }
            let offset = source.base.wrapping_add((run.first + n as u64) << PAGE_SHIFT);
            let mut out = PageOut::new(self, id, offset, keep);
            for p in &run.pages()[n..n + len] {
                out.push(*p, self.page_is_modified(handle(*p)));
            }
            match self.plat.pager(source.pager) {
                Some(pager) => pager.page_out_run(&mut out),
                None => (0..len).for_each(|i| out.done(i, Err(PagerError::Gone))),
            }
            for (i, (p, result)) in out.results().enumerate() {
                let beyond = result == Err(PagerError::Beyond) && !copied;
                run.results[n + i] = if beyond { Ok(()) } else { result };
                run.beyond |= u32::from(beyond) << (n + i);
                if run.results[n + i].is_ok() {
                    bump(&self.stats.pageouts, 1);
                    if !self.pages.get(handle(p)).is_held_for_io() {
                        self.mark_clean(handle(p), may);
                    }
                }
            }
            n += len;
        }
    }

    /// The next run of resident pages at or above `next`, below `end`, busy. Only the first
    /// page is waited for. Pages that wait for their pager have nothing to give, and are passed
    /// over. `wanted` says whether a page is worth taking.
    ///
    /// => nothing is locked, and the caller has a reference to the object.
    pub(crate) fn next_run(
        &self,
        object: Handle<Object>,
        next: u64,
        end: u64,
        wanted: &dyn Fn(PageNo) -> bool,
        may: &mut MaySleep,
    ) -> Option<ReturnRun> {
        let mut at = next;
        loop {
            let mut run: Option<ReturnRun> = None;
            let (mut busy, mut again) = (None, false);
            let inner = self.objects.get(object).lock.read(self.host(), may);
            self.tree_for_each(&inner.tree, at, end.saturating_sub(at), &mut |i, a| {
                let Some(p) = self.anons.get(a).page() else { return run.is_none() };
                let no = crate::page::number(p);
                if run.as_ref().is_some_and(|r| r.next() != Some(i)) {
                    return false;
                }
                if self.page_is_pending(p) || !wanted(no) {
                    return run.is_none();
                }
                match self.anon_busy_page(a, p) {
                    Ok(()) => run.get_or_insert(ReturnRun::new(i)).push(no),
                    Err(found) if run.is_none() => {
                        (busy, again) = (found, true);
                        at = i;
                        return false;
                    }
                    Err(_) => return false,
                }
                true
            });
            drop(inner);
            match (run, again) {
                (Some(run), _) => return Some(run),
                (None, false) => return None,
                (None, true) => {
                    if let Some(p) = busy {
                        self.wait_page_settled(p, may);
                    }
                }
            }
        }
    }

    /// As [`Vm::object_sync`], and has the pager of a memory object bring what it got to where
    /// it shall be (E23 `memory_object_synchronize`), also when some of it was refused.
    ///
    /// => as [`Vm::object_sync`].
    ///
    /// # Errors
    /// As [`Vm::object_sync`]; then the pager's.
    pub(crate) fn object_sync_through(
        &self,
        h: Handle<Object>,
        first: Pindex,
        pages: u64,
        invalidate: bool,
        may: &mut MaySleep,
    ) -> Result<(), PagerError> {
        let written = self.object_sync(h, first, pages, invalidate, may);
        let source = self.objects.get(h).lock.read(self.host(), may).source;
        let (Some(id), Some(source)) = (self.memory_object_control(h), source) else { return written };
        let offset = source.base.wrapping_add(first.0 << PAGE_SHIFT);
        let bytes = pages.saturating_mul(machvm_hal::PAGE_SIZE).min(u64::MAX - offset);
        let pager = self.plat.pager(source.pager).ok_or(PagerError::Gone);
        let reached = pager.and_then(|p| p.synchronize(id, offset, bytes));
        written.and(reached)
    }

    /// Writes the modified pages of a pager-backed object in the range back, in runs;
    /// `invalidate` also forgets the clean ones (O18, M37).
    ///
    /// => nothing is locked, and the caller has a reference to the object.
    ///
    /// # Errors
    /// The first pager error; the rest is written all the same, and pages that
    /// failed stay modified.
    pub(crate) fn object_sync(
        &self,
        h: Handle<Object>,
        first: Pindex,
        pages: u64,
        invalidate: bool,
        may: &mut MaySleep,
    ) -> Result<(), PagerError> {
        let object = self.objects.get(h);
        if !object.flags().contains(ObjectFlags::WRITE_BACK) {
            return Ok(());
        }
        let Some(source) = object.lock.read(self.host(), may).source else { return Ok(()) };
        let (mut next, end) = (first.0, first.0.saturating_add(pages));
        let mut result = Ok(());
        // Modified is exact, so what is clean now was clean when the call began, or is written
        // while it runs.
        let wanted = |p: PageNo| invalidate || self.page_is_dirty(handle(p));
        while let Some(mut run) = self.next_run(h, next, end, &wanted, may) {
            next = run.end();
            self.return_run(h, source, &mut run, (Return::All, !invalidate), may);
            for (i, (p, done)) in run.results().enumerate() {
                let p = handle(p);
                result = result.and(done);
                // Behind the end there are no contents: the next access is told so.
                let forget = invalidate || run.is_beyond(i);
                if forget && done.is_ok() && !self.pages.get(p).is_kept() {
                    self.page_forget_clean(p);
                } else {
                    self.page_unbusy(p);
                }
            }
        }
        result
    }
}
