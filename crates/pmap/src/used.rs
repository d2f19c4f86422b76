//! Use of pages, by page in portions (PM26), by address (PM27), and noted by faults
//! where the hardware does not (PM53).

use core::cell::Cell;
use core::sync::atomic::Ordering::Relaxed;

use machvm_arch::Tlb;
use machvm_hal::pmap9::{Advice, PMAP_TS_REFERENCED_MAX};
use machvm_hal::{Gather, PageArray, PageNo, Prot, RawAddr, RefMod, Va, VaRange};

use crate::port::{HwBits, Port};
use crate::pte::{Format, Leaf};
use crate::system::{PmapId, System};
use crate::walk::{LeafGuard, NoLeaf, as_leaf};

impl<P: Port> System<P> {
    /// Of `clear`, what may go from this mapping: a wired one may not fault to have it
    /// noted again (contract rule 6).
    #[inline]
    pub(crate) fn clearable(&self, l: &Leaf, clear: RefMod) -> RefMod {
        let hw = self.port.hw_bits();
        let mut may = clear;
        if l.wired && !hw.contains(HwBits::ACCESSED) {
            may.remove(RefMod::REFERENCED);
        }
        if l.wired && l.prot.contains(Prot::W) && !hw.contains(HwBits::DIRTY) {
            may.remove(RefMod::MODIFIED);
        }
        may
    }

    /// `pmap_ts_referenced`: marks of use, at most [`PMAP_TS_REFERENCED_MAX`], which are
    /// cleared, except in wired mappings. 0 only if there was none.
    ///
    /// => the page is busy.
    pub(crate) fn ts_referenced<A: PageArray>(&self, pages: &A, page: PageNo, g: &mut Gather) -> u32 {
        let md = pages.md(page);
        let count = Cell::new(self.wired_uses(pages, page));
        let full = || count.get() >= PMAP_TS_REFERENCED_MAX;
        let used = |l: &Leaf| l.accessed && !l.wired && !full();
        // Each once: the hardware may note the next use at once.
        let mut n = 0;
        while let Some(id) = self.nth_superpage_of(pages, page, n, |l| !l.wired) {
            // The mark is of 512 pages: it is each one's now, and this page's is below.
            let _pm = self.pmap(id.pmap).lock.lock();
            self.spread_notes(id, pages, page, RefMod::REFERENCED, g);
            n += 1;
        }
        self.visit(pages, page, false, used, |v| {
            self.epoch(g);
            self.update(v.leaf.table, v.index, 1, |l| Some(Leaf { accessed: false, ..l }));
            g.invalidate(v.id.raw(), VaRange::page(v.va));
            count.set(count.get() + 1);
        });
        let referenced = RefMod::REFERENCED.bits();
        if !full() && md.bits.fetch_and(!referenced, Relaxed) & referenced != 0 {
            count.set(count.get() + 1);
        }
        count.get().min(PMAP_TS_REFERENCED_MAX)
    }

    /// Used mappings that are wired, superpages included: counted and left.
    fn wired_uses<A: PageArray>(&self, pages: &A, page: PageNo) -> u32 {
        let mut n = 0;
        self.each_mapping(pages, page, |l, _| {
            n += u32::from(l.wired && l.accessed);
            n >= PMAP_TS_REFERENCED_MAX
        });
        n
    }

    /// `pmap_advise`: use is forgotten in the range's managed mappings, and for
    /// [`Advice::Free`] modification; else that moves to the page.
    ///
    /// => the map is locked.
    pub(crate) fn advise_range<A: PageArray>(
        &self,
        id: PmapId,
        pages: &A,
        range: VaRange,
        advice: Advice,
        g: &mut Gather,
    ) {
        let pm = self.pmap(id);
        self.for_windows(range, |part| {
            let _pm = pm.lock.lock();
            loop {
                match self.lock_leaf(id, part.start().get()) {
                    Ok((leaf, _)) => {
                        self.advise_part(id, pages, part, advice, &leaf, g);
                        return None;
                    }
                    Err(NoLeaf(w)) => {
                        let Some(l) = as_leaf::<P::Format>(w.raw, w.stop) else { return Some(w.stop) };
                        if l.managed && self.demote(id, pages, part.start().get(), g) {
                            continue;
                        }
                        if l.managed && !l.wired {
                            self.remove_superpage(id, pages, part.start().get(), g);
                        }
                        return Some(w.stop);
                    }
                }
            }
        });
        self.flush_others(id, range, g);
    }

    fn advise_part<A: PageArray>(
        &self,
        id: PmapId,
        pages: &A,
        part: VaRange,
        advice: Advice,
        leaf: &LeafGuard<'_>,
        g: &mut Gather,
    ) {
        let first = P::Format::index(part.start().get(), 1);
        for i in 0..part.pages() as usize {
            let Some(l) = self.leaf_at(leaf.table, first + i).1.filter(|l| l.managed) else { continue };
            let may = self.clearable(&l, RefMod::all());
            let without = |l: Leaf| Leaf {
                accessed: l.accessed && !may.contains(RefMod::REFERENCED),
                dirty: l.dirty && !may.contains(RefMod::MODIFIED),
                ..l
            };
            if without(l) == l {
                continue;
            }
            self.epoch(g);
            let old = self.update(leaf.table, first + i, 1, |l| Some(without(l)));
            g.invalidate(id.raw(), VaRange::page(part.start().add(i as u64)));
            if advice == Advice::DontNeed
                && let Some(old) = old
                && let Some(page) = pages.page_at(old.pfn)
            {
                self.harvest(pages.md(page), &Leaf { accessed: false, ..old });
            }
        }
    }

    /// `pmap_fault`: notes the use that a fault tells of, if the tables allow the access.
    /// `false`: they do not.
    ///
    /// => on the CPU that faulted, with the pmap loaded.
    pub fn fault(&self, id: PmapId, at: RawAddr, access: Prot) -> bool {
        let va = Va::containing(at);
        if !self.owns(id, va.get()) || access.is_empty() {
            return false;
        }
        let pm = self.pmap(id);
        let noted = match self.lock_leaf(id, va.get()) {
            Ok((leaf, w)) => {
                let index = P::Format::index(va.get(), 1);
                self.note(leaf.table, index, 1, w.attached, w.write, access)
            }
            Err(_) => {
                let _pm = pm.lock.lock();
                let w = self.walk(pm, va.get());
                let index = P::Format::index(va.get(), w.stop);
                // Small mappings came meanwhile: this CPU's next try finds them or faults.
                w.is_leaf() || self.note(w.table(w.stop), index, w.stop, w.attached, w.write, access)
            }
        };
        if noted {
            self.port.tlb().spurious(pm.space_here(), va);
        }
        noted
    }

    /// => the lock that guards the entry is held.
    fn note(
        &self,
        table: machvm_hal::Pfn,
        index: usize,
        level: u8,
        there: bool,
        write: bool,
        a: Prot,
    ) -> bool {
        let allows = |l: &Leaf| there && l.prot.contains(a) && (write || !a.contains(Prot::W));
        self.update(table, index, level, |l| {
            let dirty = l.dirty || a.contains(Prot::W);
            allows(&l).then_some(Leaf { accessed: true, dirty, ..l })
        })
        .is_some_and(|l| allows(&l))
    }
}
