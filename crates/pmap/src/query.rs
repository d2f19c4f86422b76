//! Questions by address (PM28, PM45, PM48).

use machvm_hal::{PageArray, PageNo, Prot, Va};

use crate::port::Port;
use crate::pte::{Format, Leaf};
use crate::system::{PmapId, System};
use crate::walk::as_leaf;

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
}
