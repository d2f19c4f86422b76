//! Taking rights away by address (PM19), and wiring (PM22).

use machvm_hal::{Gather, PageArray, Prot, VaRange};

use crate::kernel::counted;
use crate::port::Port;
use crate::pte::{Format, Leaf};
use crate::seed::Bug;
use crate::system::{PmapData, PmapId, System};
use crate::walk::{LeafGuard, NoLeaf, as_leaf};

impl<P: Port> System<P> {
    /// `pmap_protect`: rights beyond `prot` go. Adds none; what is not mapped is
    /// skipped. Never fails.
    pub(crate) fn protect_range<A: PageArray>(
        &self,
        id: PmapId,
        pages: &A,
        range: VaRange,
        prot: Prot,
        g: &mut Gather,
    ) {
        if !prot.contains(Prot::R) {
            return self.remove_range(id, pages, range, g);
        }
        let pm = self.pmap(id);
        self.for_windows(range, |part| {
            if let Ok((leaf, _)) = self.lock_leaf(id, part.start().get()) {
                self.protect_part(id, part, prot, &leaf, g);
                return None;
            }
            let _pm = pm.lock.lock();
            loop {
                match self.lock_leaf(id, part.start().get()) {
                    Ok((leaf, _)) => {
                        self.protect_part(id, part, prot, &leaf, g);
                        return None;
                    }
                    Err(NoLeaf(w)) => {
                        let Some(old) = as_leaf::<P::Format>(w.raw, w.stop) else { return Some(w.stop) };
                        if prot.contains(old.prot) {
                            return Some(w.stop);
                        }
                        if self.covers(&w, part, range) {
                            self.protect_superpage(id, part.start().get(), prot, g);
                            return Some(w.stop);
                        }
                        if !self.demote(id, pages, part.start().get(), g) {
                            self.protect_superpage(id, part.start().get(), prot, g);
                            return None;
                        }
                    }
                }
            }
        });
        self.flush_others(id, range, g);
    }

    fn protect_part(&self, id: PmapId, part: VaRange, prot: Prot, leaf: &LeafGuard<'_>, g: &mut Gather) {
        let first = P::Format::index(part.start().get(), 1);
        for i in 0..part.pages() as usize {
            if self.leaf_at(leaf.table, first + i).1.is_none_or(|l| prot.contains(l.prot)) {
                continue;
            }
            // First: somebody who finds the rights gone must know that they may be cached.
            self.epoch(g);
            self.update(leaf.table, first + i, 1, |l| Some(Leaf { prot: l.prot & prot, ..l }));
            if !self.port.seeded(Bug::ProtectWithoutFlush) {
                g.invalidate(id.raw(), VaRange::page(part.start().add(i as u64)));
            }
        }
    }

    /// `pmap_unwire`: mappings in the range may be forgotten from now on. What is not
    /// mapped or not wired is skipped (Z150). Nothing is flushed: no right changes.
    pub(crate) fn unwire_range<A: PageArray>(&self, id: PmapId, pages: &A, range: VaRange, g: &mut Gather) {
        let pm = self.pmap(id);
        self.for_windows(range, |part| {
            let _pm = pm.lock.lock();
            loop {
                match self.lock_leaf(id, part.start().get()) {
                    Ok((leaf, w)) => {
                        let n = self.unwire_part(pm, part, &leaf);
                        leaf.md.eager.sub(n);
                        self.count_eager(&w, -(n as i32));
                        drop(leaf);
                        pm.count(0, -i64::from(n));
                        return None;
                    }
                    Err(NoLeaf(w)) => {
                        let Some(old) = as_leaf::<P::Format>(w.raw, w.stop) else { return Some(w.stop) };
                        if !old.wired {
                            return Some(w.stop);
                        }
                        if self.covers(&w, part, range) {
                            self.unwire_superpage(id, pages, part.start().get());
                            return Some(w.stop);
                        }
                        // A wired superpage has its table: this cannot fail (Q10).
                        if !self.demote(id, pages, part.start().get(), g) {
                            return None;
                        }
                    }
                }
            }
        });
    }

    fn unwire_part(&self, pm: &PmapData, part: VaRange, leaf: &LeafGuard<'_>) -> u32 {
        let first = P::Format::index(part.start().get(), 1);
        (0..part.pages() as usize)
            .filter(|i| {
                let wired = |l: &Leaf| l.wired && counted(pm, l);
                self.update(leaf.table, first + i, 1, |l| wired(&l).then_some(Leaf { wired: false, ..l }))
                    .is_some_and(|l| wired(&l))
            })
            .count() as u32
    }
}
