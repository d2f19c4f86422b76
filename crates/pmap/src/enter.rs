//! Entering mappings (PM11-PM13).
//!
//! The record is made before the entry and the entry is one store, so a failure in
//! the middle leaves whole mappings before it and nothing after. Another frame at the
//! address is taken out and [`EnterError::Displaced`] returned: clear, flush, set.

use machvm_arch::Tlb;
use machvm_hal::{EnterError, EnterFlags, Gather, PageArray, PageNo, Pfn, Prot, Va, VaRange};

use crate::kernel::counted;
use crate::path::NoTable;
use crate::port::{Cpus, HwBits, Port, TableMem};
use crate::pte::{Format, Leaf, MemAttr, Pte};
use crate::pv::{PvCursor, Record, page_attr};
use crate::seed::Bug;
use crate::system::{PmapData, PmapId, System};
use crate::walk::LeafGuard;

/// What all pages of one call share.
pub(crate) struct Entering<'a, A> {
    pub(crate) id: PmapId,
    pub(crate) pm: &'a PmapData,
    pub(crate) pages: &'a A,
    pub(crate) prot: Prot,
    pub(crate) access: Prot,
    pub(crate) flags: EnterFlags,
}

/// A word that was made for the same call.
struct Like {
    attr: MemAttr,
    pfn: Pfn,
    word: u64,
}

/// How one page went.
enum One {
    /// A mapping that was not there.
    New { wired: bool },
    /// More rights, or the same mapping.
    Same { wired: bool },
    /// Another frame was there.
    Displaced(Leaf),
    /// No record.
    NoMemory,
}

impl<A: PageArray> Entering<'_, A> {
    fn wired(&self) -> bool {
        self.flags.contains(EnterFlags::WIRED)
    }
    fn touched(&self) -> bool {
        !self.flags.contains(EnterFlags::PREFAULT)
    }
    /// The mapping to make of a page.
    #[inline]
    pub(crate) fn leaf<P: Port>(&self, port: &P, page: PageNo) -> Leaf {
        let hw = port.hw_bits();
        let write = self.prot.contains(Prot::W);
        Leaf {
            pfn: self.pages.pfn(page),
            prot: self.prot.hardware(),
            user: !self.pm.is_kernel(),
            global: self.pm.is_kernel(),
            // A prefault that faults again to be noted would be for nothing; and a wired
            // mapping may not fault (contract rule 6).
            accessed: self.touched() || !hw.contains(HwBits::ACCESSED),
            dirty: write
                && (self.touched() && self.access.contains(Prot::W)
                    || self.wired() && !hw.contains(HwBits::DIRTY)),
            wired: self.wired(),
            managed: true,
            contiguous: false,
            attr: page_attr(self.pages.md(page)),
        }
    }
}

impl<P: Port> System<P> {
    /// `pmap_enter` for a run of pages; see [`machvm_hal::Pmap::enter`].
    pub(crate) fn enter_run<A: PageArray>(
        &self,
        e: &Entering<'_, A>,
        va: Va,
        run: &[PageNo],
        gather: &mut Gather,
    ) -> Result<(), EnterError> {
        let per_window = 1u64 << (P::Format::shift(2) - P::Format::shift(1));
        let mut done = 0;
        while done < run.len() {
            let at = va.add(done as u64);
            let room = per_window - at.page() % per_window;
            let n = (run.len() - done).min(room as usize);
            self.enter_window(e, at, &run[done..done + n], gather)?;
            done += n;
        }
        Ok(())
    }

    /// => `run` lies in one window.
    fn enter_window<A: PageArray>(
        &self,
        e: &Entering<'_, A>,
        va: Va,
        run: &[PageNo],
        gather: &mut Gather,
    ) -> Result<(), EnterError> {
        let write = e.prot.contains(Prot::W);
        let mut linked = false;
        loop {
            if !e.wired()
                && let Ok((leaf, w)) = self.lock_leaf(e.id, va.get())
                && w.allows(write)
            {
                let (done, _, full) = self.enter_locked(e, va, run, leaf, linked, gather);
                if full {
                    self.try_promote(e.id, e.pages, (va.get(), run.len() as u64), gather);
                }
                return done;
            }
            // Tables are missing, write access was taken above, or wirings are counted on
            // the way down: all that is the pmap lock's.
            let lock = e.pm.lock.lock();
            match self.make_path(e.id, va.get()) {
                Err(NoTable::NoMemory) => return Err(EnterError::NoMemory),
                Err(NoTable::Superpage(_)) => {
                    if self.enter_over_superpage(e, va, run, gather)? {
                        return Ok(());
                    }
                    continue;
                }
                Ok(_) => {}
            }
            self.push_down(e.id, va.get(), write);
            linked = true;
            if !e.wired() {
                drop(lock);
                continue;
            }
            let Ok((leaf, w)) = self.lock_leaf(e.id, va.get()) else { continue };
            let (done, wired, full) = self.enter_locked(e, va, run, leaf, linked, gather);
            self.count_eager(&w, wired);
            drop(lock);
            if full {
                self.try_promote(e.id, e.pages, (va.get(), run.len() as u64), gather);
            }
            return done;
        }
    }

    /// Enters, and says by how much the wired mappings changed and whether promotion is
    /// worth a look.
    fn enter_locked<A: PageArray>(
        &self,
        e: &Entering<'_, A>,
        va: Va,
        run: &[PageNo],
        leaf: LeafGuard<'_>,
        linked: bool,
        gather: &mut Gather,
    ) -> (Result<(), EnterError>, i32, bool) {
        let first = P::Format::index(va.get(), 1);
        let mut pv = self.pv.cursor();
        let (mut new, mut wired, mut same) = (0i64, 0i32, false);
        let (mut done, mut like) = (Ok(()), None);
        for (i, page) in run.iter().enumerate() {
            let at = va.add(i as u64);
            match self.enter_one(e, at, *page, &leaf, first + i, &mut like, &mut pv, gather) {
                One::New { wired: w } => {
                    new += 1;
                    wired += i32::from(w);
                }
                One::Same { wired: w } => {
                    same = true;
                    wired += i32::from(w);
                }
                One::Displaced(old) => {
                    if counted(e.pm, &old) {
                        new -= 1;
                        wired -= i32::from(old.wired);
                    } else {
                        e.pm.count(-1, -i64::from(old.wired));
                    }
                    done = Err(EnterError::Displaced(at));
                    break;
                }
                One::NoMemory => {
                    done = Err(EnterError::NoMemory);
                    break;
                }
            }
        }
        drop(pv);
        let md = leaf.md;
        md.children.set(md.children.get().wrapping_add_signed(new as i32));
        md.eager.set(md.eager.get().wrapping_add_signed(wired));
        let full = u64::from(md.children.get()) == 1 << (P::Format::shift(2) - P::Format::shift(1));
        drop(leaf);
        e.pm.count(new, i64::from(wired));
        let tlb = self.port.tlb();
        if new > 0
            && let Some(range) = VaRange::of_pages(va, run.len() as u64)
        {
            tlb.publish(e.pm.space_here(), range, linked);
        }
        if same && e.touched() {
            // The fault came although the tables allow: this CPU remembers less.
            tlb.spurious(e.pm.space_here(), va);
        }
        (done, wired, full && done.is_ok())
    }

    #[expect(clippy::too_many_arguments)]
    #[inline]
    fn enter_one<A: PageArray>(
        &self,
        e: &Entering<'_, A>,
        va: Va,
        page: PageNo,
        leaf: &LeafGuard<'_>,
        index: usize,
        like: &mut Option<Like>,
        pv: &mut PvCursor<'_>,
        gather: &mut Gather,
    ) -> One {
        let mem = self.port.mem();
        if mem.load(leaf.table, index) != 0
            && let Some(met) = self.enter_over(e, va, page, leaf, index, pv, gather)
        {
            return met;
        }
        let (pfn, md) = (e.pages.pfn(page), e.pages.md(page));
        pv.at(pfn);
        let record = Record::Mapping { table: leaf.table, index };
        if self.pv_insert(md, record).is_err() {
            return One::NoMemory;
        }
        if e.prot.contains(Prot::X) {
            // Before anybody can fetch from it (contract rule 13).
            self.port.cpus().sync_icache(pfn);
        }
        mem.store(leaf.table, index, self.word_like(e, page, pfn, like));
        One::New { wired: e.wired() }
    }

    /// The word of a new mapping. In one call they differ in the frame, and seldom in
    /// how the page is cached.
    #[inline]
    fn word_like<A: PageArray>(
        &self,
        e: &Entering<'_, A>,
        page: PageNo,
        pfn: Pfn,
        like: &mut Option<Like>,
    ) -> u64 {
        let attr = page_attr(e.pages.md(page));
        if P::Format::GRANULE_SHIFT == 12
            && let Some(like) = like
            && like.attr == attr
        {
            let step = P::Format::LEAF_STEP.wrapping_mul(pfn.0.wrapping_sub(like.pfn.0));
            return like.word.wrapping_add(step);
        }
        let word = P::Format::emit(Pte::Leaf(e.leaf(&self.port, page)), 1);
        *like = Some(Like { attr, pfn, word });
        word
    }

    /// Something is mapped at `va`. `None`: no longer.
    #[expect(clippy::too_many_arguments)]
    #[inline(never)]
    fn enter_over<A: PageArray>(
        &self,
        e: &Entering<'_, A>,
        va: Va,
        page: PageNo,
        leaf: &LeafGuard<'_>,
        index: usize,
        pv: &mut PvCursor<'_>,
        gather: &mut Gather,
    ) -> Option<One> {
        let new = e.leaf(&self.port, page);
        let (raw, old) = self.leaf_at(leaf.table, index);
        match old {
            Some(old) if old.pfn == new.pfn && old.managed => {
                let was = self.update(leaf.table, index, 1, |old| {
                    Some(Leaf {
                        prot: old.prot | new.prot,
                        accessed: old.accessed | new.accessed,
                        dirty: old.dirty | new.dirty,
                        wired: old.wired | new.wired,
                        ..old
                    })
                });
                return Some(One::Same { wired: new.wired && was.is_some_and(|l| !l.wired) });
            }
            Some(old) if !self.port.seeded(Bug::EnterInPlace) => {
                self.take_out(e.id, e.pages, leaf, index, va, pv, gather);
                return Some(One::Displaced(old));
            }
            Some(old) => {
                let mut lost = Gather::new();
                self.take_out(e.id, e.pages, leaf, index, va, pv, &mut lost);
                self.lose(lost);
                leaf.md.children.sub(1);
                leaf.md.eager.sub(u32::from(old.wired));
                e.pm.count(-1, -i64::from(old.wired));
            }
            None => debug_assert!(raw == 0, "{va:?}: entry {raw:#x} means nothing"),
        }
        None
    }

    /// Takes one mapping out: notes what the hardware noted, leaves a tombstone, gathers.
    /// Gives what was there. Counts nothing.
    ///
    /// => the table is locked.
    #[expect(clippy::too_many_arguments)]
    pub(crate) fn take_out<A: PageArray>(
        &self,
        id: PmapId,
        pages: &A,
        leaf: &LeafGuard<'_>,
        index: usize,
        va: Va,
        pv: &mut PvCursor<'_>,
        gather: &mut Gather,
    ) -> Option<Leaf> {
        // Open before the entry goes: who finds it gone finds the epoch open.
        let epoch = self.epoch(gather);
        let raw = self.port.mem().swap(leaf.table, index, 0);
        let old = crate::walk::as_leaf::<P::Format>(raw, 1)?;
        if !self.port.seeded(Bug::RemoveWithoutFlush) {
            gather.invalidate(id.raw(), VaRange::page(va));
        }
        if old.managed
            && let Some(page) = pages.page_at(old.pfn)
        {
            let md = pages.md(page);
            pv.at(old.pfn);
            self.harvest(md, &old);
            if self.port.seeded(Bug::PvLeftBehind) {
                return Some(old);
            }
            let record = Record::Mapping { table: leaf.table, index };
            let there = self.pv_replace(pages, old.pfn, md, record, Some(Record::Dead(epoch)));
            debug_assert!(there, "{va:?} of {id:?}: page {page:?} has no record of its mapping");
        }
        Some(old)
    }

    /// An entry maps the window whole. `Ok(true)`: with what is to be entered, and it
    /// has the rights now. `Ok(false)`: it is demoted, or gone.
    ///
    /// => the pmap is locked.
    fn enter_over_superpage<A: PageArray>(
        &self,
        e: &Entering<'_, A>,
        va: Va,
        run: &[PageNo],
        gather: &mut Gather,
    ) -> Result<bool, EnterError> {
        // Write access that did not come may wait: a pmap may grant less than it is asked, and
        // to break a superpage on a read would be to make it again with the next page. A wired
        // mapping may not fault later.
        let may_wait = if e.wired() { Prot::NONE } else { Prot::W - e.access };
        let need = (e.prot - may_wait).hardware();
        self.push_down(e.id, va.get(), need.contains(Prot::W));
        let w = self.walk(e.pm, va.get());
        let Some(old) = crate::walk::as_leaf::<P::Format>(w.raw, w.stop) else { return Ok(false) };
        let offset = (va.get() - (va.get() & !((1 << P::Format::shift(w.stop)) - 1))) >> 12;
        let same = run.iter().enumerate().all(|(i, p)| e.pages.pfn(*p) == old.pfn.add(offset + i as u64));
        // A writable superpage is dirty (Q03), so write access comes page by page.
        let enough = old.prot.contains(need) && w.allows(need.contains(Prot::W));
        if same && enough && (old.accessed || !e.touched()) && (old.wired || !e.wired()) {
            if e.touched() {
                self.port.tlb().spurious(e.pm.space_here(), va);
            }
            return Ok(true);
        }
        if same && enough && !e.wired() {
            let index = P::Format::index(va.get(), w.stop);
            self.update(w.table(w.stop), index, w.stop, |l| Some(Leaf { accessed: true, ..l }));
            self.port.tlb().spurious(e.pm.space_here(), va);
            return Ok(true);
        }
        if !self.demote(e.id, e.pages, va.get(), gather) {
            if old.wired {
                return Err(EnterError::NoMemory);
            }
            // A pmap may forget what is not wired.
            self.remove_superpage(e.id, e.pages, va.get(), gather);
            return Err(EnterError::Displaced(va));
        }
        Ok(false)
    }
}
