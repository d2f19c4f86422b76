//! Superpages (Q01-Q14).
//!
//! 512 mappings of one window that lead to one aligned region with equal attributes
//! become one entry. Their table is kept aside (*deposited*), filled, with the record
//! in the list of the region's first page naming it: so demotion needs no table, and
//! promotion no memory at all.
//!
//! A writable superpage is dirty (Q03): what it cannot tell is which of its pages
//! were written. Clean writable entries lose write access when promotion looks at
//! them, so the hardware cannot dirty one behind its back.

use machvm_arch::Tlb;
use machvm_hal::{Gather, PageArray, PageNo, Pfn, Prot, RefMod, Va, VaRange};

use crate::port::{Port, TableMem};
use crate::pte::{Format, Leaf, Next, Pte};
use crate::pv::{PvCursor, REGION, Record};
use crate::seed::Bug;
use crate::system::{PmapData, PmapId, System};
use crate::table::Ident;
use crate::walk::{LeafGuard, Walk, as_leaf, window};

const SUPER: u8 = 2;

/// A superpage that can be demoted.
struct Found {
    walk: Walk,
    leaf: Leaf,
    head: PageNo,
    deposit: Pfn,
}

impl<P: Port> System<P> {
    fn span(va: u64) -> VaRange {
        let first = Va::from_page(window::<P::Format>(va) >> 12);
        VaRange::of_pages(first, REGION).unwrap_or(VaRange::page(first))
    }

    /// Makes one entry of the window's 512, if they are as Q01 and Q02 ask.
    ///
    /// => nothing of the pmap is locked.
    pub(crate) fn try_promote<A: PageArray>(
        &self,
        id: PmapId,
        pages: &A,
        (va, n): (u64, u64),
        g: &mut Gather,
    ) {
        if P::Format::MAX_LEAF_LEVEL < SUPER || P::Format::entries(1) as u64 != REGION {
            return;
        }
        // The ends first, without locks: mostly they say no.
        let pm = self.pmap(id);
        let w = self.walk(pm, va);
        let end = |i: u64| self.leaf_at(w.table(1), i as usize).1.map(|l| l.pfn);
        if !w.is_leaf() || self.keeps_table(pm, va) {
            return;
        }
        let (Some(first), Some(last)) = (end(0), end(REGION - 1)) else { return };
        if !first.0.is_multiple_of(REGION) || last != first.add(REGION - 1) {
            return;
        }
        if !self.seem_equal(w.table(1), (va, n)) && !self.port.seeded(Bug::PromoteUnequal) {
            return;
        }
        let _pm = pm.lock.lock();
        let Ok((leaf, w)) = self.lock_leaf(id, va) else { return };
        if u64::from(leaf.md.children.get()) != REGION || !w.allows(true) {
            return;
        }
        let mut pv = self.pv.cursor();
        pv.at(first);
        if let Some(whole) = self.equal_entries(id, pages, &leaf, va, g)
            // What else is counted is held pages, whose window forks must find.
            && leaf.md.eager.get() == if whole.wired { REGION as u32 } else { 0 }
        {
            self.promote(id, pm, pages, &leaf, &w, whole, va, g);
        }
    }

    /// Do the ends and the neighbours of `n` entries that just changed have the rights of the first
    /// of them? Where rights change page by page, as after a fork, these say no; looking at all 512
    /// each time is too much.
    fn seem_equal(&self, table: Pfn, (va, n): (u64, u64)) -> bool {
        let rights = |i: u64| {
            let l = self.leaf_at(table, i as usize).1?;
            let clean = l.prot.contains(Prot::W) && !l.dirty;
            Some(if clean { l.prot - Prot::W } else { l.prot })
        };
        let here = P::Format::index(va, 1) as u64;
        let wanted = rights(here);
        let others = [REGION - 1, 0, (here + n) % REGION, (here + REGION - 1) % REGION];
        others.into_iter().all(|i| rights(i) == wanted)
    }

    /// The superpage's entry, if all 512 agree. Takes write access from clean ones.
    fn equal_entries<A: PageArray>(
        &self,
        id: PmapId,
        pages: &A,
        leaf: &LeafGuard<'_>,
        va: u64,
        g: &mut Gather,
    ) -> Option<Leaf> {
        let first = Self::span(va).start();
        let mut whole: Option<Leaf> = None;
        // The word that an entry has if it differs from the one before in the frame only.
        let mut expected = None;
        for i in 0..REGION {
            let raw = self.port.mem().load(leaf.table, i as usize);
            if expected == Some(raw) {
                expected = Some(raw.wrapping_add(P::Format::LEAF_STEP));
                pages.page_at(whole?.pfn.add(i))?;
                continue;
            }
            let clean = |l: &Leaf| l.prot.contains(Prot::W) && !l.dirty;
            match self.leaf_at(leaf.table, i as usize).1 {
                // A wired mapping may not fault, so it keeps its write access (rule 6).
                Some(l) if clean(&l) && l.wired => return None,
                Some(l) if clean(&l) => {
                    self.epoch(g);
                }
                _ => {}
            }
            let old = self.update(leaf.table, i as usize, 1, |l| {
                clean(&l).then_some(Leaf { prot: l.prot - Prot::W, ..l })
            })?;
            let mut now = old;
            if clean(&old) {
                now.prot -= Prot::W;
                g.invalidate(id.raw(), VaRange::page(first.add(i)));
            }
            let base = whole.get_or_insert(now);
            let like = Leaf { pfn: base.pfn.add(i), accessed: now.accessed, dirty: now.dirty, ..*base };
            let unequal = now != like && !self.port.seeded(Bug::PromoteUnequal);
            if unequal || now.pfn != like.pfn || !now.managed || now.contiguous {
                return None;
            }
            base.accessed &= now.accessed;
            pages.page_at(now.pfn)?;
            // A clean writable one is looked at each time, and the hardware may have written
            // after the load.
            if !clean(&old) && as_leaf::<P::Format>(raw, 1) == Some(old) {
                expected = Some(raw.wrapping_add(P::Format::LEAF_STEP));
            }
        }
        // Only what all have: a prefaulted page was not used (Q04).
        whole.map(|l| Leaf { dirty: l.prot.contains(Prot::W), ..l })
    }

    #[expect(clippy::too_many_arguments)]
    fn promote<A: PageArray>(
        &self,
        id: PmapId,
        pm: &PmapData,
        pages: &A,
        leaf: &LeafGuard<'_>,
        w: &Walk,
        whole: Leaf,
        va: u64,
        g: &mut Gather,
    ) {
        let (mem, first) = (self.port.mem(), Self::span(va).start());
        for i in 0..REGION {
            let frame = whole.pfn.add(i);
            let Some(page) = pages.page_at(frame) else { continue };
            let md = pages.md(page);
            if !(whole.accessed && whole.dirty)
                && let Some(own) = self.leaf_at(leaf.table, i as usize).1
                && (own.accessed && !whole.accessed || own.dirty && !whole.dirty)
            {
                self.harvest(md, &own);
            }
            let record = Record::Mapping { table: leaf.table, index: i as usize };
            if i == 0 {
                // Moved, not allocated (Q06).
                self.pv_replace(pages, frame, md, record, Some(Record::Super { deposit: leaf.table }));
                self.set_region_super(pages, page, true);
            } else {
                self.pv_to_member(pages, frame, md, record);
            }
        }
        leaf.md.set_ident(Ident { pmap: id, va: first.get(), level: 1, deposited: true });
        let index = P::Format::index(va, SUPER);
        self.break_first(pm, w.table(SUPER), index, va);
        mem.store(w.table(SUPER), index, P::Format::emit(Pte::Leaf(whole), SUPER));
        self.port.tlb().publish(pm.space_here(), VaRange::page(first), true);
        // CPUs may remember the way to the table, and note accesses there.
        if !self.port.seeded(Bug::PromoteWithoutFlush) {
            g.invalidate(id.raw(), VaRange::page(first));
            g.invalidate_walks();
        }
    }

    /// Where the machine must not see one size turn into another: nothing, and a flush
    /// of its own, in between. Only on machines whose flush needs no other CPU.
    pub(crate) fn break_first(&self, pm: &PmapData, table: Pfn, index: usize, va: u64) -> u64 {
        if !P::Format::BREAK_BEFORE_MAKE {
            return self.port.mem().load(table, index);
        }
        let old = self.port.mem().swap(table, index, 0);
        if self.port.seeded(Bug::DemoteWithoutFlush) || self.port.seeded(Bug::PromoteWithoutFlush) {
            return old;
        }
        let (tlb, space) = (self.port.tlb(), pm.space_here());
        tlb.before();
        tlb.flush_range(space, Self::span(va), true);
        tlb.after();
        old
    }

    /// The superpage at `va` that has its table, with its region's lists locked.
    ///
    /// => the pmap is locked.
    fn found<'a, A: PageArray>(
        &'a self,
        id: PmapId,
        pages: &A,
        va: u64,
        pv: &mut PvCursor<'a>,
    ) -> Option<Found> {
        let walk = self.walk(self.pmap(id), va);
        if walk.stop != SUPER {
            return None;
        }
        let leaf = as_leaf::<P::Format>(walk.raw, SUPER)?;
        let head = pages.page_at(leaf.pfn).filter(|_| leaf.managed)?;
        let first = window::<P::Format>(va);
        pv.at(leaf.pfn);
        let mine = |deposit: Pfn| {
            self.md(deposit).and_then(|md| md.ident()).is_some_and(|i| i.pmap == id && i.va == first)
        };
        let record =
            self.pv_find(pages.md(head), |r| matches!(r, Record::Super { deposit } if mine(deposit)))?;
        let Record::Super { deposit } = record else { return None };
        Some(Found { walk, leaf, head, deposit })
    }

    /// Makes single mappings of the superpage at `va`. `true`: none is there now.
    /// `false`: nothing changed; there is no memory for records, or it may not be
    /// demoted (Q12).
    ///
    /// => the pmap is locked, no table and no list is.
    pub(crate) fn demote<A: PageArray>(&self, id: PmapId, pages: &A, va: u64, g: &mut Gather) -> bool {
        let (pm, mem) = (self.pmap(id), self.port.mem());
        let mut pv = self.pv.cursor();
        let Some(f) = self.found(id, pages, va, &mut pv) else {
            let w = self.walk(pm, va);
            return as_leaf::<P::Format>(w.raw, w.stop).is_none();
        };
        // Every record before anything else (Q09, Z145).
        for i in 1..REGION {
            if !self.add_record(pages, &f, i) {
                (1..i).for_each(|j| self.drop_record(pages, &f, j));
                return false;
            }
        }
        for i in 0..REGION {
            let accessed =
                f.leaf.accessed || self.leaf_at(f.deposit, i as usize).1.is_some_and(|l| l.accessed);
            let one = Leaf { pfn: f.leaf.pfn.add(i), accessed, ..f.leaf };
            mem.store(f.deposit, i as usize, P::Format::emit(Pte::Leaf(one), 1));
        }
        let (table, index) = (f.walk.table(SUPER), P::Format::index(va, SUPER));
        let Some(md) = self.md(f.deposit) else { return false };
        // Against the order, and safe: whoever has the lock of a table kept aside is a
        // walk that comes too late and lets go at once.
        let _leaf = loop {
            if let Some(lock) = md.try_lock() {
                break lock;
            }
            core::hint::spin_loop();
        };
        md.set_ident(Ident { pmap: id, va: window::<P::Format>(va), level: 1, deposited: false });
        let next = Next { pfn: f.deposit, write: true, detached: false };
        let broken = self.break_first(pm, table, index, va);
        let now = mem.swap(table, index, P::Format::emit(Pte::Next(next), SUPER));
        self.port.tlb().publish(pm.space_here(), Self::span(va), true);
        // What the hardware noted since the walk: nobody knows for which page.
        for raw in [broken, now] {
            if let Some(l) = as_leaf::<P::Format>(raw, SUPER)
                && (l.accessed && !f.leaf.accessed || l.dirty && !f.leaf.dirty)
            {
                self.harvest_all(pages, &l);
            }
        }
        let head = pages.md(f.head);
        let record = Record::Super { deposit: f.deposit };
        self.pv_replace(
            pages,
            f.leaf.pfn,
            head,
            record,
            Some(Record::Mapping { table: f.deposit, index: 0 }),
        );
        // One address inside finds the large translation. It agrees with the new ones,
        // but who flushes one page later must not have to know.
        if !self.port.seeded(Bug::DemoteWithoutFlush) {
            g.invalidate(id.raw(), VaRange::page(Self::span(va).start()));
            g.invalidate_walks();
        }
        true
    }

    fn add_record<A: PageArray>(&self, pages: &A, f: &Found, i: u64) -> bool {
        let Some(page) = pages.page_at(f.leaf.pfn.add(i)) else { return false };
        self.pv_insert(pages.md(page), Record::Mapping { table: f.deposit, index: i as usize }).is_ok()
    }
    fn drop_record<A: PageArray>(&self, pages: &A, f: &Found, i: u64) {
        let frame = f.leaf.pfn.add(i);
        if let Some(page) = pages.page_at(frame) {
            let record = Record::Mapping { table: f.deposit, index: i as usize };
            self.pv_replace(pages, frame, pages.md(page), record, None);
        }
    }
    fn harvest_all<A: PageArray>(&self, pages: &A, l: &Leaf) {
        for i in 0..REGION {
            if let Some(page) = pages.page_at(l.pfn.add(i)) {
                self.harvest(pages.md(page), l);
            }
        }
    }

    /// Takes a superpage out, whatever its level and kind.
    ///
    /// => the pmap is locked.
    pub(crate) fn remove_superpage<A: PageArray>(&self, id: PmapId, pages: &A, va: u64, g: &mut Gather) {
        let (pm, mem) = (self.pmap(id), self.port.mem());
        let mut pv = self.pv.cursor();
        let found = self.found(id, pages, va, &mut pv);
        let w = self.walk(pm, va);
        if w.is_leaf() {
            return;
        }
        let (level, index) = (w.stop, P::Format::index(va, w.stop));
        let epoch = self.epoch(g);
        let raw = mem.swap(w.table(level), index, 0);
        let Some(old) = as_leaf::<P::Format>(raw, level) else { return };
        let first = va & !((1 << P::Format::shift(level)) - 1);
        let pages_of = 1u64 << (P::Format::shift(level) - P::Format::shift(1));
        let range = VaRange::of_pages(Va::from_page(first >> 12), pages_of);
        match range {
            Some(r) if !self.port.seeded(Bug::PromoteWithoutFlush) => g.invalidate(id.raw(), r),
            Some(r) => g.invalidate(id.raw(), VaRange::page(r.start())),
            None => g.invalidate_all(),
        }
        if let Some(f) = found {
            for i in 0..REGION as usize {
                let aside = mem.swap(f.deposit, i, 0);
                let accessed = as_leaf::<P::Format>(aside, 1).is_some_and(|l| l.accessed);
                if let Some(page) = pages.page_at(old.pfn.add(i as u64)) {
                    self.harvest(pages.md(page), &Leaf { accessed: accessed || old.accessed, ..old });
                }
            }
            let record = Record::Super { deposit: f.deposit };
            let head = pages.md(f.head);
            self.pv_replace(pages, old.pfn, head, record, Some(Record::Dead(epoch)));
            drop(pv);
            if let Some(md) = self.md(f.deposit) {
                let _leaf = md.lock();
                md.clear_ident();
            }
            if self.port.seeded(Bug::PromoteWithoutFlush) {
                // Without the table: its flush would make up for it on some machines.
                let mut lost = Gather::new();
                self.bury_table(id, f.deposit, first, &mut lost);
                self.lose(lost);
            } else {
                self.bury_table(id, f.deposit, first, g);
            }
        } else if old.managed
            && let Some(page) = pages.page_at(old.pfn)
        {
            pv.at(old.pfn);
            self.harvest(pages.md(page), &old);
            let record = Record::Mapping { table: w.table(level), index };
            self.pv_replace(pages, old.pfn, pages.md(page), record, Some(Record::Dead(epoch)));
            drop(pv);
        }
        let wired = if old.wired { pages_of as i64 } else { 0 };
        self.count_eager(&w, -(wired as i32));
        pm.count(-(pages_of as i64), -wired);
        self.climb(pm, id, &w, level, va, g);
    }

    /// Takes rights from a superpage as a whole.
    ///
    /// => the pmap is locked.
    pub(crate) fn protect_superpage(&self, id: PmapId, va: u64, prot: Prot, g: &mut Gather) {
        let w = self.walk(self.pmap(id), va);
        if w.is_leaf() {
            return;
        }
        let index = P::Format::index(va, w.stop);
        self.epoch(g);
        self.update(w.table(w.stop), index, w.stop, |l| Some(Leaf { prot: l.prot & prot, ..l }));
        let first = va & !((1 << P::Format::shift(w.stop)) - 1);
        match VaRange::of_pages(Va::from_page(first >> 12), 1 << (P::Format::shift(w.stop) - 12)) {
            Some(r) if !self.port.seeded(Bug::ProtectWithoutFlush) => g.invalidate(id.raw(), r),
            Some(_) => {}
            None => g.invalidate_all(),
        }
    }

    /// => the pmap is locked.
    pub(crate) fn unwire_superpage<A: PageArray>(&self, id: PmapId, pages: &A, va: u64) {
        let pm = self.pmap(id);
        let mut pv = self.pv.cursor();
        if let Some(f) = self.found(id, pages, va, &mut pv)
            && let Some(md) = self.md(f.deposit)
        {
            md.eager.set(0);
        }
        drop(pv);
        let w = self.walk(pm, va);
        if w.is_leaf() {
            return;
        }
        let index = P::Format::index(va, w.stop);
        let old = self.update(w.table(w.stop), index, w.stop, |l| Some(Leaf { wired: false, ..l }));
        if old.is_some_and(|l| l.wired) {
            let n = 1i64 << (P::Format::shift(w.stop) - P::Format::shift(1));
            self.count_eager(&w, -(n as i32));
            pm.count(0, -n);
        }
    }

    /// What a superpage's entry noted becomes its pages', and the entry starts anew for
    /// `clear`.
    ///
    /// => the pmap is locked.
    /// When the entry has nothing of that, all there can be is in the table kept aside, for
    /// the page asked about: so asking for each of 512 pages does not look at all 512 again.
    pub(crate) fn spread_notes<A: PageArray>(
        &self,
        id: Ident,
        pages: &A,
        page: PageNo,
        clear: RefMod,
        g: &mut Gather,
    ) {
        let mut pv = self.pv.cursor();
        let Some(f) = self.found(id.pmap, pages, id.va, &mut pv) else { return };
        let without = |l: Leaf| {
            let clear = self.clearable(&l, clear);
            Leaf {
                accessed: l.accessed && !clear.contains(RefMod::REFERENCED),
                dirty: l.dirty && !clear.contains(RefMod::MODIFIED),
                ..l
            }
        };
        let index = P::Format::index(id.va, SUPER);
        self.epoch(g);
        let old = self.update(f.walk.table(SUPER), index, SUPER, |l| Some(without(l)));
        let own = (pages.pfn(page).0 - f.leaf.pfn.0) as usize % REGION as usize;
        let some = old.is_some_and(|l| without(l) != l);
        for i in if some { 0..REGION as usize } else { own..own + 1 } {
            let aside = self.update(f.deposit, i, 1, |l| Some(without(l)));
            if let (Some(old), Some(page)) = (old, pages.page_at(f.leaf.pfn.add(i as u64))) {
                let accessed = old.accessed || aside.is_some_and(|l| l.accessed);
                self.harvest(pages.md(page), &Leaf { accessed, ..old });
            }
        }
        g.invalidate(id.pmap.raw(), Self::span(id.va));
    }
}
