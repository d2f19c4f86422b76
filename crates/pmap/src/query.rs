//! Questions by address and by page (PM28, PM29, PM45, PM46, PM48, PM49).

use machvm_hal::pmap9::{InCore, Mincore, PhysAddr};
use machvm_hal::{Gather, PageArray, PageNo, Prot, RawAddr, Va};

use crate::port::{Port, TableMem};
use crate::pte::{Format, Leaf};
use crate::pv::Record;
use crate::system::{PmapId, System};
use crate::walk::{NoLeaf, as_leaf};

impl<P: Port> System<P> {
    /// The mapping at `va`, with the rights the path leaves; `pfn` is the address's own
    /// frame. Takes no lock: true at some moment of the call.
    pub(crate) fn leaf_of(&self, id: PmapId, va: u64) -> Option<(Leaf, u8)> {
        let pm = self.pmap(id);
        let w = self.walk(pm, va);
        let level = w.stop;
        let mut leaf = if w.is_leaf() {
            self.leaf_at(w.table(1), P::Format::index(va, 1)).1?
        } else {
            as_leaf::<P::Format>(w.raw, level)?
        };
        leaf.prot = w.rights(leaf.prot);
        let inside = va & ((1 << P::Format::shift(level)) - 1);
        leaf.pfn = leaf.pfn.add(inside >> 12);
        Some((leaf, level))
    }

    /// `pmap_extract` for managed mappings: page and rights.
    pub(crate) fn extract_page<A: PageArray>(&self, id: PmapId, pages: &A, va: Va) -> Option<(PageNo, Prot)> {
        let (leaf, _) = self.leaf_of(id, va.get())?;
        if !leaf.managed {
            return None;
        }
        Some((pages.page_at(leaf.pfn)?, leaf.prot))
    }

    /// Is the address in the pmap's half? The other half's tables may be under its root.
    pub(crate) fn owns(&self, id: PmapId, va: u64) -> bool {
        P::Format::canonical(va) && P::Format::is_kernel(va) == self.is_kernel(id)
    }

    /// `pmap_is_prefaultable` (PM48): is there a table, and nothing in it?
    pub(crate) fn is_prefaultable(&self, id: PmapId, va: Va) -> bool {
        let w = self.walk(self.pmap(id), va.get());
        self.owns(id, va.get())
            && w.is_leaf()
            && self.port.mem().load(w.table(1), P::Format::index(va.get(), 1)) == 0
    }

    /// `pmap_mincore` (PM49).
    pub(crate) fn mincore(&self, id: PmapId, va: Va) -> Option<InCore> {
        let (l, level) = self.leaf_of(id, va.get()).filter(|_| self.owns(id, va.get()))?;
        let mut bits = Mincore::INCORE;
        bits.set(Mincore::REFERENCED | Mincore::REFERENCED_OTHER, l.accessed);
        bits.set(Mincore::MODIFIED | Mincore::MODIFIED_OTHER, l.dirty);
        bits.set(Mincore::PSIND1, level == 2);
        bits.set(Mincore::PSIND2, level > 2);
        let ask_page = l.managed && !(l.accessed && l.dirty);
        Some(InCore { bits, pa: PhysAddr::new(l.pfn, RawAddr(va.get())), ask_page })
    }

    /// Shows every managed mapping of a page to `f` with its pmap and the rights the path
    /// leaves, until it says stop.
    pub(crate) fn each_mapping<A: PageArray>(
        &self,
        pages: &A,
        page: PageNo,
        mut f: impl FnMut(&Leaf, PmapId) -> bool,
    ) {
        let (pfn, md) = (pages.pfn(page), pages.md(page));
        let mut pv = self.pv.cursor();
        pv.at(pfn);
        let mut show = |record: Record| {
            let at = match record {
                Record::Mapping { table, index } => self.md(table).and_then(|md| md.ident()).map(|i| {
                    let at = i.va + ((index as u64) << P::Format::shift(i.level));
                    (i.pmap, at)
                }),
                Record::Super { deposit } => {
                    self.md(deposit).and_then(|md| md.ident()).map(|i| (i.pmap, i.va))
                }
                Record::Dead(_) => None,
            };
            at.and_then(|(id, va)| Some((self.leaf_of(id, va)?.0, id))).is_some_and(|(l, id)| f(&l, id))
        };
        if self.pv_each(md, |r, _| !matches!(r, Record::Super { .. }) && show(r)) {
            return;
        }
        if let Some(head) = self.super_head(pages, pfn) {
            self.pv_each(pages.md(head), |r, _| matches!(r, Record::Super { .. }) && show(r));
        }
    }

    /// Is no translation of the page's in any table or TLB?
    ///
    /// => the page is busy.
    pub(crate) fn is_unmapped<A: PageArray>(&self, pages: &A, page: PageNo) -> bool {
        let (pfn, md) = (pages.pfn(page), pages.md(page));
        let pending = {
            let mut pv = self.pv.cursor();
            pv.at(pfn);
            self.pv_tidy(pages, pfn, md)
        };
        let mut any = pending;
        self.each_mapping(pages, page, |_, _| {
            any = true;
            true
        });
        !any
    }

    /// `pmap_page_exists_quick` (PM46): looks at sixteen mappings.
    pub(crate) fn exists_quick<A: PageArray>(&self, id: PmapId, pages: &A, page: PageNo) -> bool {
        let (mut left, mut found) = (16, false);
        self.each_mapping(pages, page, |_, of| {
            left -= 1;
            found = of == id;
            found || left == 0
        });
        found
    }

    /// `pmap_extract_and_hold` (PM29): the page at `va` if it is mapped with `prot`, after
    /// `hold` was called for it with the table locked. Until [`System::unhold`] the window
    /// counts as one whose entries a fork protects one by one (decision 16).
    ///
    /// => no pmap is locked; `hold` takes no lock.
    pub(crate) fn hold<A: PageArray>(
        &self,
        id: PmapId,
        pages: &A,
        va: Va,
        prot: Prot,
        hold: &mut dyn FnMut(PageNo) -> bool,
        g: &mut Gather,
    ) -> Option<PageNo> {
        if !self.owns(id, va.get()) {
            return None;
        }
        let _pm = self.pmap(id).lock.lock();
        loop {
            match self.lock_leaf(id, va.get()) {
                Ok((leaf, w)) => {
                    let (_, l) = self.leaf_at(leaf.table, P::Format::index(va.get(), 1));
                    let l = l.filter(|l| l.managed && w.rights(l.prot).contains(prot))?;
                    let page = pages.page_at(l.pfn)?;
                    if !hold(page) {
                        return None;
                    }
                    leaf.md.eager.add(1);
                    self.count_eager(&w, 1);
                    return Some(page);
                }
                Err(NoLeaf(w)) => {
                    as_leaf::<P::Format>(w.raw, w.stop)?;
                    // Counted in the window's table, so that must be in use.
                    if !self.demote(id, pages, va.get(), g) {
                        return None;
                    }
                }
            }
        }
    }

    /// Ends a hold. The table is still there: one with holds is not taken out.
    pub(crate) fn unhold(&self, id: PmapId, va: Va, g: &mut Gather) {
        let _pm = self.pmap(id).lock.lock();
        let Ok((leaf, w)) = self.lock_leaf(id, va.get()) else {
            debug_assert!(false, "{va:?} of {id:?} is not held");
            return;
        };
        leaf.md.eager.sub(1);
        self.count_eager(&w, -1);
        drop(leaf);
        self.unlink_empty(id, va.get(), g);
    }
}
