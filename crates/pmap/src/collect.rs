//! Forgetting all that may be forgotten: at exit (PM18), or of an idle address space
//! (PM43).

use machvm_hal::{Gather, PageArray};

use crate::port::Port;
use crate::pte::{Format, Leaf};
use crate::system::{PmapId, System};
use crate::walk::{LeafGuard, NoLeaf, as_leaf};

impl<P: Port> System<P> {
    /// Removes every mapping that is not wired and that `may` go, and the tables that are
    /// empty then.
    pub(crate) fn strip<A: PageArray>(
        &self,
        id: PmapId,
        pages: &A,
        may: impl Fn(&Leaf) -> bool,
        g: &mut Gather,
    ) {
        let pm = self.pmap(id);
        let goes = |l: &Leaf| !l.wired && may(l);
        self.for_windows(self.whole(id), |part| {
            let va = part.start().get();
            let _pm = pm.lock.lock();
            match self.lock_leaf(id, va) {
                Ok((leaf, _)) => {
                    if self.strip_window(id, pages, va, leaf, &goes, g) {
                        self.unlink_empty(id, va, g);
                    }
                    None
                }
                Err(NoLeaf(w)) => {
                    if as_leaf::<P::Format>(w.raw, w.stop).is_some_and(|l| goes(&l)) {
                        self.remove_superpage(id, pages, va, g);
                    }
                    Some(w.stop)
                }
            }
        });
        self.flush_others(id, self.whole(id), g);
    }

    /// `true`: the table is empty.
    fn strip_window<A: PageArray>(
        &self,
        id: PmapId,
        pages: &A,
        va: u64,
        leaf: LeafGuard<'_>,
        goes: &impl Fn(&Leaf) -> bool,
        g: &mut Gather,
    ) -> bool {
        let first = crate::walk::window::<P::Format>(va);
        let mut pv = self.pv.cursor();
        let mut gone = 0u32;
        for index in 0..P::Format::entries(1) {
            if self.leaf_at(leaf.table, index).1.is_some_and(|l| goes(&l)) {
                let at = machvm_hal::Va::from_page((first >> P::Format::shift(1)) + index as u64);
                gone += u32::from(self.take_out(id, pages, &leaf, index, at, &mut pv, g).is_some());
            }
        }
        drop(pv);
        leaf.md.children.sub(gone);
        let empty = leaf.md.children.get() == 0;
        drop(leaf);
        self.pmap(id).count(-i64::from(gone), 0);
        empty
    }
}
