//! Copy-on-write in large steps (decision 10).
//!
//! A fork takes write access from the *upper* entries that lead to what is copied,
//! where the format has rights there, or detaches them. So its cost does not depend
//! on what is mapped. The next fault below pushes the loss down the path to its own
//! window: every entry of the table below loses write access, then this one gets it
//! back. Nothing is flushed for that: the fork's flush was complete, so no CPU has
//! write access to anything below, and the AND over the path grows for nobody.
//!
//! Tables are never shared between pmaps. More may lose write access than the caller
//! asked: a pmap is a cache, and the fault brings it back. Windows with wired mappings
//! or held pages are not touched at upper levels (decision 16): their entries are
//! weakened one by one, and only those in the range.

use machvm_hal::{Gather, PageArray, Prot, Va, VaRange};

use crate::port::{Port, TableMem};
use crate::pte::{Format, Leaf, Next, Pte};
use crate::seed::Bug;
use crate::system::{PmapId, System};

impl<P: Port> System<P> {
    /// See [`machvm_hal::Pmap::protect_copy`].
    pub(crate) fn protect_copy_range<A: PageArray>(
        &self,
        id: PmapId,
        pages: &A,
        range: VaRange,
        whole: bool,
        g: &mut Gather,
    ) {
        let mut at = range.start().get();
        while let Some(part) = VaRange::between(Va::from_page(at >> 12), range.end()) {
            match self.weaken_upper(id, part, whole, g) {
                Ok(Some(next)) => at = next,
                Ok(None) => break,
                // A window that must be weakened entry by entry.
                Err(window) => {
                    self.protect_range(id, pages, window, Prot::ALL - Prot::W, g);
                    at = window.end().get();
                }
            }
        }
        self.flush_others(id, range, g);
    }

    /// Weakens the highest entry on the way to the start of `part` that may be, and
    /// gives the address after it; `None` at the end. `Err`: no upper entry may be; the
    /// part of the window that is copied.
    fn weaken_upper(
        &self,
        id: PmapId,
        part: VaRange,
        whole: bool,
        g: &mut Gather,
    ) -> Result<Option<u64>, VaRange> {
        let (pm, mem) = (self.pmap(id), self.port.mem());
        let _lock = pm.lock.lock();
        let va = part.start().get();
        let mut table = pm.root();
        let mut level = P::Format::LEVELS;
        loop {
            let span = 1u64 << P::Format::shift(level);
            let first = va & !(span - 1);
            let next = first.checked_add(span).filter(|n| *n < part.end().get());
            let covered = va == first && first.checked_add(span).is_some_and(|n| n <= part.end().get());
            let index = P::Format::index(va, level);
            let raw = mem.load(table, index);
            let step = match P::Format::parse(raw, level) {
                Pte::Absent => return Ok(next),
                Pte::Leaf(l) if !l.prot.contains(Prot::W) => return Ok(next),
                Pte::Leaf(l) => {
                    if l.wired && !covered {
                        let end = Va::from_page(next.unwrap_or(part.end().get()) >> 12);
                        return Err(VaRange::between(part.start(), end).unwrap_or(part));
                    }
                    self.epoch(g);
                    self.update(table, index, level, |l| Some(Leaf { prot: l.prot - Prot::W, ..l }));
                    self.weakened(id, first, span, g);
                    return Ok(next);
                }
                Pte::Next(n) => n,
            };
            if !step.write {
                return Ok(next);
            }
            let eager = self.md(step.pfn).is_none_or(|md| md.eager.get() != 0);
            let may = !eager && (whole || covered);
            if may {
                self.epoch(g);
                mem.store(table, index, P::Format::emit(Pte::Next(without_write::<P>(step)), level));
                self.weakened(id, first, span, g);
                return Ok(next);
            }
            if level == 2 {
                let end = Va::from_page(next.unwrap_or(part.end().get()) >> 12);
                return Err(VaRange::between(part.start(), end).unwrap_or(part));
            }
            table = step.pfn;
            level -= 1;
        }
    }

    /// All of `[first, first + span)` lost write access, so all of it is flushed: what
    /// is pushed down later is not.
    fn weakened(&self, id: PmapId, first: u64, span: u64, g: &mut Gather) {
        if self.port.seeded(Bug::ForkWithoutFlush) {
            return;
        }
        if let Some(r) = VaRange::of_pages(Va::from_page(first >> 12), span >> 12) {
            g.invalidate(id.raw(), r);
        } else {
            g.invalidate_all();
        }
    }

    /// Makes the path to the window of `va` allow what is below, writing too if `write`.
    ///
    /// => the pmap is locked, no table is.
    pub(crate) fn push_down(&self, id: PmapId, va: u64, write: bool) {
        let (pm, mem) = (self.pmap(id), self.port.mem());
        let mut table = pm.root();
        for level in (2..=P::Format::LEVELS).rev() {
            let index = P::Format::index(va, level);
            let Pte::Next(next) = P::Format::parse(mem.load(table, index), level) else { return };
            if next.detached || (write && !next.write) {
                let whole = Pte::Next(Next { write: true, detached: false, ..next });
                if self.port.seeded(Bug::PushDownUpperFirst) {
                    mem.store(table, index, P::Format::emit(whole, level));
                }
                if !self.port.seeded(Bug::PushDownNothing) {
                    self.weaken_table(next.pfn, level - 1);
                }
                // After every entry below: a walker that sees this one sees those.
                mem.store(table, index, P::Format::emit(whole, level));
            }
            table = next.pfn;
        }
    }

    /// Every entry of a table loses write access.
    fn weaken_table(&self, table: machvm_hal::Pfn, level: u8) {
        let mem = self.port.mem();
        let Some(md) = self.md(table) else { return };
        let _leaf = (level == 1).then(|| md.lock());
        let mut left = md.children.get();
        for index in 0..P::Format::entries(level) {
            if left == 0 {
                return;
            }
            let raw = mem.load(table, index);
            if raw == 0 {
                continue;
            }
            left -= 1;
            match P::Format::parse(raw, level) {
                Pte::Next(n) if n.write => {
                    mem.store(table, index, P::Format::emit(Pte::Next(without_write::<P>(n)), level));
                }
                Pte::Leaf(l) if l.prot.contains(Prot::W) => {
                    self.update(table, index, level, |l| Some(Leaf { prot: l.prot - Prot::W, ..l }));
                }
                Pte::Absent | Pte::Next(_) | Pte::Leaf(_) => {}
            }
        }
    }
}

fn without_write<P: Port>(n: Next) -> Next {
    Next { write: false, detached: !P::Format::UPPER_RIGHTS, ..n }
}
