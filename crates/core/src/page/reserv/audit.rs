//! The free frames against themselves: lists, counts, bits, and every frame exactly once.

use machvm_arena::ChunkSource;

use super::super::SYSTEM;
use super::{Dense, RUN};

impl<C: ChunkSource> Dense<'_, C> {
    /// Every run against its bits, the queue, the hash table and the object's list.
    /// Gives the frames that are set aside.
    fn check_runs(&self) -> Result<u64, &'static str> {
        let (mut aside, mut active, mut bad) = (0, 0, None);
        self.runs.for_each(|h, r| {
            let bits: u32 = r.map.iter().map(|w| w.get().count_ones()).sum();
            let listed = |o| {
                let first = self.objects.get(o).reservs.get();
                core::iter::successors(first, |m| self.run(*m).mate_next.get()).any(|m| m == h)
            };
            let owner = r.object.get();
            active += u64::from(r.is_active());
            aside += if r.is_active() { RUN - u64::from(bits) } else { 0 };
            for (ok, what) in [
                (bits == r.populated.get(), "the bits of a reservation and its count"),
                (r.is_active() || owner.is_none(), "an idle run has an object"),
                (!r.is_partial() || owner.is_some(), "a partial reservation is nobody's"),
                (owner.is_none_or(|o| self.find(o, r.window.get()) == Some(h)), "a reservation is not found"),
                (owner.is_none_or(listed), "a reservation is not on the list of its object"),
            ] {
                bad = bad.or((!ok).then_some(what));
            }
        });
        if active != self.pool.active {
            return Err("the number of reservations");
        }
        bad.map_or(Ok(aside), Err)
    }

    fn check_queue(&self) -> Result<(), &'static str> {
        let (mut at, mut before, mut n) = (self.pool.oldest, None, 0);
        while let Some(h) = at {
            let r = self.run(h);
            if !r.is_partial() || r.prev.get() != before || n > self.count {
                return Err("the queue of reservations");
            }
            n += 1;
            (before, at) = (at, r.next.get());
        }
        let mut partial = 0;
        self.runs.for_each(|_, r| partial += u32::from(r.is_partial()));
        if before == self.pool.youngest && n == partial { Ok(()) } else { Err("partial reservations") }
    }

    /// Every frame is exactly one of: in a free block, set aside, a page's, the
    /// embedder's. Gives how many are pages'.
    pub(in crate::page) fn check(&self) -> Result<u64, &'static str> {
        self.pool.buddy.check(self.pages)?;
        self.check_queue()?;
        if self.check_runs()? != self.pool.aside {
            return Err("the number of frames set aside");
        }
        let (mut at, mut free, mut aside, mut system, mut used) = (self.pool.buddy.first(), 0, 0, 0, 0);
        while at < self.pool.buddy.end() {
            let page = self.pool.buddy.page(at).map(|h| self.pages.get(h)).ok_or("a frame without a page")?;
            let block = self.pool.buddy.block_of(self.pages, at);
            let reserv = self.active_of(at).map(|h| self.run(h).has(at));
            match (block, reserv) {
                (Some(b), None) if b.start == at => {
                    free += b.end() - at;
                    at = b.end();
                    continue;
                }
                (Some(_), _) => return Err("a free block lies in another or in a reservation"),
                (None, Some(false)) if page.queue.get() == 0 && page.owner.get().is_none() => aside += 1,
                (None, Some(false)) => return Err("a frame that is set aside is in use"),
                (None, _) if page.queue.get() == SYSTEM => system += 1,
                (None, _) => used += 1,
            }
            at += 1;
        }
        if (free, aside, system) != (self.pool.buddy.free_frames(), self.pool.aside, self.pool.system) {
            return Err("free frames, frames set aside or the embedder's, counted and said");
        }
        Ok(used)
    }
}
