//! Operations that start from pages (PM16, PM20-PM26).
//!
//! A page's list is locked after tables (ranks 50 and 45), but here it is where
//! things begin. So a table is taken by try; if that fails, or the mapping is wired
//! (counted under the pmap's lock), the record is remembered, the list let go,
//! everything taken in order, and the record looked for again.
//!
//! Superpages: whoever changes one mapping of a region demotes them first; whoever
//! only asks or clears what the hardware noted moves the note to all members.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{Relaxed, Release};

use machvm_hal::{Gather, PageArray, PageNo, Pfn, PmapPage, Prot, RefMod, RemoveWhy, Va, VaRange};

use crate::epoch::Epoch;
use crate::port::{Port, TableMem};
use crate::pte::{Format, Leaf};
use crate::pv::{PvCursor, Record};
use crate::seed::Bug;
use crate::system::{PmapId, System};
use crate::table::Ident;
use crate::walk::{LeafGuard, as_leaf};

/// A mapping with its table and its page's list locked.
pub(crate) struct Visit<'a> {
    pub(crate) leaf: LeafGuard<'a>,
    pub(crate) index: usize,
    pub(crate) id: PmapId,
    pub(crate) va: Va,
    /// The record's place in the list.
    place: &'a AtomicU64,
}

/// A mapping that could not be locked against the order.
struct Later {
    record: Record,
    id: PmapId,
    va: Va,
}

fn known(bits: u32) -> RefMod {
    RefMod::from_bits_truncate(bits)
}

fn noted(leaf: &Leaf) -> RefMod {
    let mut bits = RefMod::empty();
    bits.set(RefMod::REFERENCED, leaf.accessed);
    bits.set(RefMod::MODIFIED, leaf.dirty);
    bits
}

impl<P: Port> System<P> {
    /// Who the mapping of a record is. `None`: of a table above level 1, which is not
    /// paged and never demoted.
    ///
    /// => the page's list is locked and the record in it, so the table is in use.
    fn place_of(&self, table: Pfn, index: usize) -> Option<(PmapId, Va)> {
        let id = self.md(table)?.ident().filter(|i| i.level == 1)?;
        Some((id.pmap, Va::from_page((id.va >> 12) + index as u64)))
    }

    /// Calls `f` for every single mapping of the page whose entry `needs` it, until none
    /// does. `f` changes the entry so that it does not, or takes the mapping out. With
    /// `counts` the pmap of a wired one is locked too.
    pub(crate) fn visit<A: PageArray>(
        &self,
        pages: &A,
        page: PageNo,
        counts: bool,
        needs: impl Fn(&Leaf) -> bool,
        mut f: impl FnMut(&Visit<'_>),
    ) {
        let (pfn, md) = (pages.pfn(page), pages.md(page));
        loop {
            let mut later = None;
            let mut pv = self.pv.cursor();
            pv.at(pfn);
            self.pv_each(md, |record, place| {
                let Record::Mapping { table, index } = record else { return false };
                let Some((id, va)) = self.place_of(table, index) else { return false };
                let Some(entry) = self.leaf_at(table, index).1.filter(&needs) else { return false };
                match self.try_leaf(table) {
                    Some(leaf) if !(counts && entry.wired) => f(&Visit { leaf, index, id, va, place }),
                    _ => later = Some(Later { record, id, va }),
                }
                later.is_some()
            });
            drop(pv);
            let Some(later) = later else { return };
            self.visit_in_order(pages, page, &later, &needs, &mut f);
        }
    }

    fn visit_in_order<A: PageArray>(
        &self,
        pages: &A,
        page: PageNo,
        later: &Later,
        needs: &impl Fn(&Leaf) -> bool,
        f: &mut impl FnMut(&Visit<'_>),
    ) {
        let Record::Mapping { table, index } = later.record else { return };
        let _pm = self.pmap(later.id).lock.lock();
        let Ok((leaf, _)) = self.lock_leaf(later.id, later.va.get()) else { return };
        if leaf.table != table {
            return;
        }
        let mut pv = self.pv.cursor();
        pv.at(pages.pfn(page));
        let mut held = Some(leaf);
        self.pv_each(pages.md(page), |record, place| {
            // It may have gone while nothing was locked.
            if record == later.record
                && self.leaf_at(table, index).1.is_some_and(|l| needs(&l))
                && let Some(leaf) = held.take()
            {
                f(&Visit { leaf, index, id: later.id, va: later.va, place });
            }
            held.is_none()
        });
    }

    /// A superpage that maps the page and whose entry `needs` it.
    fn superpage_of<A: PageArray>(
        &self,
        pages: &A,
        page: PageNo,
        needs: impl Fn(&Leaf) -> bool,
    ) -> Option<Ident> {
        self.nth_superpage_of(pages, page, 0, needs)
    }
    /// The superpages that map the page and whose entry `needs` it, counted from 0.
    pub(crate) fn nth_superpage_of<A: PageArray>(
        &self,
        pages: &A,
        page: PageNo,
        mut n: u32,
        needs: impl Fn(&Leaf) -> bool,
    ) -> Option<Ident> {
        let pfn = pages.pfn(page);
        let mut pv = self.pv.cursor();
        pv.at(pfn);
        let head = self.super_head(pages, pfn)?;
        let mut found = None;
        self.pv_each(pages.md(head), |record, _| {
            if let Record::Super { deposit } = record
                && let Some(id) = self.md(deposit).and_then(|md| md.ident())
                && self.super_entry(id, deposit, pfn).is_some_and(|l| needs(&l))
            {
                if n == 0 {
                    found = Some(id);
                }
                n = n.saturating_sub(1);
            }
            found.is_some()
        });
        found
    }

    /// A superpage's entry, with what CPUs noted in the table kept aside for the page
    /// (they may remember the way to it for a while).
    fn super_entry(&self, id: Ident, deposit: Pfn, page: Pfn) -> Option<Leaf> {
        let w = self.walk(self.pmap(id.pmap), id.va);
        let mut leaf = as_leaf::<P::Format>(w.raw, w.stop)?;
        let index = (page.0 - leaf.pfn.0) as usize % P::Format::entries(1);
        leaf.accessed |= self.leaf_at(deposit, index).1.is_some_and(|l| l.accessed);
        Some(leaf)
    }

    /// Every superpage that maps the page and needs it is single mappings after this,
    /// or gone where there is no memory for that.
    fn break_superpages<A: PageArray>(
        &self,
        pages: &A,
        page: PageNo,
        needs: impl Fn(&Leaf) -> bool,
        g: &mut Gather,
    ) -> bool {
        let mut any = false;
        while let Some(id) = self.superpage_of(pages, page, &needs) {
            any = true;
            let _pm = self.pmap(id.pmap).lock.lock();
            if !self.demote(id.pmap, pages, id.va, g) {
                self.remove_superpage(id.pmap, pages, id.va, g);
            }
        }
        any
    }

    /// Pages at the start of the list of which nothing is left but what everybody has forgotten are unmapped after
    /// this; gives how many. When a range is unmapped before its pages are freed, that is all of them.
    fn forget_dead<A: PageArray>(&self, pages: &A, list: &[PageNo]) -> usize {
        let mut pv = self.pv.cursor();
        list.iter().take_while(|page| self.forget_one(pages, **page, &mut pv)).count()
    }

    fn forget_one<'a, A: PageArray>(&'a self, pages: &A, page: PageNo, pv: &mut PvCursor<'a>) -> bool {
        let (pfn, md) = (pages.pfn(page), pages.md(page));
        pv.at(pfn);
        self.pv_forget(pages, pfn, md)
    }

    fn remove_page<A: PageArray>(&self, pages: &A, page: PageNo, g: &mut Gather) {
        let md = pages.md(page);
        let mut emptied = None;
        loop {
            self.break_superpages(pages, page, |_| true, g);
            self.visit(
                pages,
                page,
                true,
                |_| true,
                |v| {
                    // Open before the entry goes: who finds it gone finds the epoch open.
                    let epoch = self.epoch(g);
                    let raw = self.port.mem().swap(v.leaf.table, v.index, 0);
                    let Some(old) = as_leaf::<P::Format>(raw, 1) else { return };
                    if !self.port.seeded(Bug::RemoveWithoutFlush) {
                        g.invalidate(v.id.raw(), VaRange::page(v.va));
                    }
                    self.harvest(md, &old);
                    v.place.store(Record::Dead(epoch).raw(), Release);
                    v.leaf.md.children.sub(1);
                    if old.wired {
                        // Only visited in order: the pmap is locked.
                        v.leaf.md.eager.sub(1);
                        self.count_eager(&self.walk(self.pmap(v.id), v.va.get()), -1);
                    }
                    self.pmap(v.id).count(-1, -i64::from(old.wired));
                    if v.leaf.md.children.get() == 0 {
                        emptied = Some((v.id, v.va));
                    }
                },
            );
            if let Some((id, va)) = emptied.take() {
                let _pm = self.pmap(id).lock.lock();
                self.unlink_empty(id, va.get(), g);
            }
            // Neighbours may have been promoted with it meanwhile.
            if self.superpage_of(pages, page, |_| true).is_none() {
                break;
            }
        }
        self.settle(pages, page, g);
    }

    /// The page has no mapping. What is not flushed yet is flushed with this gather, and
    /// the page looks unmapped when nothing is left.
    fn settle<A: PageArray>(&self, pages: &A, page: PageNo, g: &mut Gather) {
        let (pfn, md) = (pages.pfn(page), pages.md(page));
        let own = g.epoch().and_then(|e| Epoch::from_raw(e.get()));
        let mut pv = self.pv.cursor();
        pv.at(pfn);
        let head = self.super_head(pages, pfn);
        if let Some(h) = head {
            self.pv_tidy(pages, pfn, pages.md(h));
            let any = self.pv_find(pages.md(h), |r| !matches!(r, Record::Mapping { .. })).is_some();
            if !any {
                self.set_region_super(pages, h, false);
                self.pv_tidy(pages, pfn, pages.md(h));
            }
        }
        self.pv_tidy(pages, pfn, md);
        let others = |r: Record| matches!(r, Record::Dead(e) if Some(e) != own || e == Epoch::NEVER);
        let pending = self.pv_find(md, others).is_some()
            || head.is_some_and(|h| self.pv_find(pages.md(h), others).is_some());
        if pending {
            // Others took it out and have not flushed: this gather does, and the
            // tombstones are over when it is finished.
            let own = self.epoch(g);
            g.invalidate_all();
            self.pv_adopt(md, own);
            if let Some(h) = head {
                self.pv_adopt(pages.md(h), own);
            }
        }
    }

    fn write_protect_page<A: PageArray>(&self, pages: &A, page: PageNo, g: &mut Gather) {
        let writable = |l: &Leaf| l.prot.contains(Prot::W);
        loop {
            self.break_superpages(pages, page, writable, g);
            self.visit(pages, page, false, writable, |v| {
                self.epoch(g);
                self.update(v.leaf.table, v.index, 1, |l| Some(Leaf { prot: l.prot - Prot::W, ..l }));
                if !self.port.seeded(Bug::ProtectWithoutFlush) {
                    g.invalidate(v.id.raw(), VaRange::page(v.va));
                }
            });
            if self.superpage_of(pages, page, writable).is_none() {
                break;
            }
        }
        if self.epochs.others_open(g.epoch()) {
            // Rights that are gone from the tables may be in use still.
            g.invalidate_all();
        }
    }

    /// What every mapping and the page itself say.
    pub(crate) fn refmod_of<A: PageArray>(&self, pages: &A, page: PageNo) -> RefMod {
        let (pfn, md) = (pages.pfn(page), pages.md(page));
        let mut pv = self.pv.cursor();
        pv.at(pfn);
        let mut bits = RefMod::empty();
        self.pv_each(md, |record, _| {
            if let Record::Mapping { table, index } = record
                && let Some((level, raw)) = self.entry_of(table, index)
                && let Some(l) = as_leaf::<P::Format>(raw, level)
            {
                bits |= noted(&l);
            }
            bits.is_all()
        });
        if let Some(head) = self.super_head(pages, pfn) {
            self.pv_each(pages.md(head), |record, _| {
                if let Record::Super { deposit } = record
                    && let Some(id) = self.md(deposit).and_then(|md| md.ident())
                    && let Some(l) = self.super_entry(id, deposit, pfn)
                {
                    bits |= noted(&l);
                }
                bits.is_all()
            });
        }
        // After the entries: what moves from them to the page meanwhile is seen here.
        bits | known(md.bits.load(core::sync::atomic::Ordering::Acquire))
    }

    fn entry_of(&self, table: Pfn, index: usize) -> Option<(u8, u64)> {
        let level = self.md(table)?.ident()?.level;
        Some((level, self.port.mem().load(table, index)))
    }

    fn clear_page<A: PageArray>(&self, pages: &A, page: PageNo, clear: RefMod, g: &mut Gather) -> RefMod {
        let md = pages.md(page);
        let was = self.refmod_of(pages, page);
        let hit = |l: &Leaf| noted(l).intersects(self.clearable(l, clear));
        let must_break = |l: &Leaf| hit(l) && clear.contains(RefMod::MODIFIED) && l.prot.contains(Prot::W);
        loop {
            self.break_superpages(pages, page, must_break, g);
            // Each once: the hardware may note the next use at once.
            let mut n = 0;
            while let Some(id) = self.nth_superpage_of(pages, page, n, |_| true) {
                let _pm = self.pmap(id.pmap).lock.lock();
                self.spread_notes(id, pages, page, clear, g);
                n += 1;
            }
            self.visit(pages, page, false, hit, |v| {
                self.epoch(g);
                self.update(v.leaf.table, v.index, 1, |l| {
                    let clear = self.clearable(&l, clear);
                    Some(Leaf {
                        accessed: l.accessed && !clear.contains(RefMod::REFERENCED),
                        dirty: l.dirty && !clear.contains(RefMod::MODIFIED),
                        ..l
                    })
                });
                g.invalidate(v.id.raw(), VaRange::page(v.va));
            });
            if self.superpage_of(pages, page, must_break).is_none() {
                break;
            }
        }
        md.bits.fetch_and(!clear.bits(), Relaxed);
        was
    }
}

impl<P: Port> PmapPage for System<P> {
    fn page_write_protect<A: PageArray>(&self, pages: &A, list: &[PageNo], gather: &mut Gather) {
        list.iter().for_each(|p| self.write_protect_page(pages, *p, gather));
    }
    fn page_remove<A: PageArray>(&self, pages: &A, list: &[PageNo], _why: RemoveWhy, gather: &mut Gather) {
        let mut rest = list;
        while !rest.is_empty() {
            let done = self.forget_dead(pages, rest);
            rest = &rest[done..];
            if let Some((page, others)) = rest.split_first() {
                self.remove_page(pages, *page, gather);
                rest = others;
            }
        }
    }
    fn page_refmod<A: PageArray>(&self, pages: &A, page: PageNo) -> RefMod {
        self.refmod_of(pages, page)
    }
    fn page_clear<A: PageArray>(
        &self,
        pages: &A,
        page: PageNo,
        clear: RefMod,
        gather: &mut Gather,
    ) -> RefMod {
        if clear.is_empty() {
            self.refmod_of(pages, page)
        } else {
            self.clear_page(pages, page, clear, gather)
        }
    }
}
