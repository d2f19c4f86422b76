//! Frames for the embedder: page tables, DMA buffers, its own structures.
//!
//! They come from the same pool as the pages of programs and are charged like them,
//! but belong to no object and are never paged out. Taking one never sleeps and takes
//! the free-frames lock only, so it is good under a pmap's locks. The core does not
//! look at their contents: [`machvm_hal::PhysMem`] is not told of them.

use machvm_hal::{Pfn, PhysMem, Placement};

use super::SYSTEM;
use super::frames::FrameClass;
use super::reserv::Dense;
use crate::platform::Platform;
use crate::vm::Vm;

/// Free blocks looked at in each list before memory is searched by address: nearly
/// always the first will do.
const TRIES: usize = 8;

/// Frames looked at under one hold of the free-frames lock, beyond those of the run
/// that is found: some ten microseconds.
const BUDGET: u64 = 512;

/// A run of frames that is wanted (Y04). Addresses and sizes in frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Contig {
    /// How many.
    pub frames: u64,
    /// None below this.
    pub low: Pfn,
    /// None at or above this.
    pub high: Pfn,
    /// The first is at a multiple of this, a power of two; 1: any.
    pub align: u64,
    /// No multiple of this lies inside the run, a power of two; 0: any may.
    pub boundary: u64,
}

impl Contig {
    /// Anywhere.
    pub const fn anywhere(frames: u64) -> Self {
        Contig { frames, low: Pfn(0), high: Pfn(u64::MAX), align: 1, boundary: 0 }
    }

    pub(super) fn is_sane(&self) -> bool {
        self.frames != 0
            && self.low < self.high
            && self.align.is_power_of_two()
            && (self.boundary == 0 || (self.boundary.is_power_of_two() && self.frames <= self.boundary))
    }

    /// The first place at or above `at` that alignment and boundary allow.
    pub(super) fn fit(&self, at: u64) -> Option<u64> {
        let start = at.checked_next_multiple_of(self.align)?;
        let last = start.checked_add(self.frames - 1)?;
        if self.boundary == 0 || start / self.boundary == last / self.boundary {
            return Some(start);
        }
        // The boundary itself: no run that fits between two crosses from there, and it
        // is aligned, or every aligned place is on a boundary already.
        (last & !(self.boundary - 1)).checked_next_multiple_of(self.align)
    }
}

/// A frame that is given back is not the embedder's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotTaken(pub Pfn);

/// What a search of a part of memory came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    /// A run from there on, now the embedder's.
    Run(u64),
    /// None that starts below this.
    Not(u64),
    /// None.
    Nowhere,
}

impl<P: Platform> Vm<P> {
    /// One frame for the embedder (`vm_page_alloc_noobj` with `VM_ALLOC_WIRED`), with
    /// undefined contents. `None`: no more than what `class` leaves to others is free,
    /// or the placement is sparse.
    ///
    /// => never sleeps; locks below `Rank::Free` may be held.
    pub fn frame_take_wired(&self, class: FrameClass) -> Option<Pfn> {
        if self.frames.is_sparse() || self.frames.charge(1, 1, class) == 0 {
            return None;
        }
        let frame = self.dense().take_system();
        if frame.is_none() {
            self.uncharge(1);
        }
        self.tell_low();
        frame.map(Pfn)
    }

    /// Gives a frame back that [`Vm::frame_take_wired`] or [`Vm::contig_take`] gave.
    ///
    /// => no CPU uses it any more. Never sleeps; locks below `Rank::Free` may be held.
    ///
    /// # Errors
    /// [`NotTaken`]; nothing changed.
    pub fn frame_give_back(&self, frame: Pfn) -> Result<(), NotTaken> {
        self.contig_give_back(frame, 1)
    }

    /// A run of frames for the embedder (Y04 `vm_phys_alloc_contig`), with undefined
    /// contents. Reservations in its way are broken; pages in use are not moved, so
    /// `None` although enough frames are free is normal. `None` too for a request that
    /// makes no sense (no frames, `low` not below `high`, sizes that are no powers of
    /// two, a run longer than its boundary).
    ///
    /// => never sleeps; locks below `Rank::Free` may be held. May look at all frames
    ///    between `low` and `high`, a part under each hold of the lock.
    pub fn contig_take(&self, want: &Contig, class: FrameClass) -> Option<Pfn> {
        let Placement::Dense { first, frames } = self.plat.mem().placement() else { return None };
        let end = (first.0 + u64::from(frames)).min(want.high.0);
        let want = Contig { low: want.low.max(first), high: Pfn(end), ..*want };
        if !want.is_sane() || self.frames.charge(want.frames, want.frames, class) == 0 {
            return None;
        }
        let mut from = want.low.0;
        let found = loop {
            match self.dense().contig_step(&want, from) {
                Found::Run(start) => break Some(Pfn(start)),
                Found::Not(next) => from = next,
                Found::Nowhere => break None,
            }
        };
        if found.is_none() {
            self.uncharge(want.frames);
        }
        self.tell_low();
        found
    }

    /// Gives a run back, or any part of one.
    ///
    /// => as for [`Vm::frame_give_back`].
    ///
    /// # Errors
    /// [`NotTaken`] with the first frame that is not the embedder's; nothing changed.
    pub fn contig_give_back(&self, first: Pfn, frames: u64) -> Result<(), NotTaken> {
        if self.frames.is_sparse() {
            return Err(NotTaken(first));
        }
        self.dense().free_system(first.0, frames).map_err(|f| NotTaken(Pfn(f)))?;
        self.uncharge(frames);
        Ok(())
    }

    /// Frames that the embedder has.
    pub fn frames_taken(&self) -> u64 {
        if self.frames.is_sparse() { 0 } else { self.dense().pool.system }
    }

    /// Is the whole aligned 2 MiB run around `frame` in use by one object's pages, each
    /// at its place (R06 `vm_reserv_level_iffullpop`)? A hint: takes no lock.
    pub fn reservation_is_full(&self, frame: Pfn) -> bool {
        self.frames.run_populated(frame) == super::RUN as u32
    }
}

impl<C: machvm_arena::ChunkSource> Dense<'_, C> {
    fn take_system(&mut self) -> Option<u64> {
        let frame = self.take_any()?;
        self.mark_system(frame, 1);
        Some(frame)
    }

    /// A part of the search for a run, from `from` on; takes it when it is there.
    ///
    /// => `want` lies in memory.
    pub(super) fn contig_step(&mut self, want: &Contig, from: u64) -> Found {
        let found = self.quick(want).map_or_else(|| self.search(want, from), Found::Run);
        if let Found::Run(start) = found {
            self.take_exactly(start, want.frames);
            self.mark_system(start, want.frames);
        }
        found
    }

    /// => they were just taken.
    pub(super) fn mark_system(&mut self, start: u64, frames: u64) {
        for h in (start..start + frames).filter_map(|f| self.pool.buddy.page(f)) {
            self.pages.get(h).queue.set(SYSTEM);
        }
        self.pool.system += frames;
    }

    /// On failure the first frame that is not the embedder's.
    pub(super) fn free_system(&mut self, start: u64, frames: u64) -> Result<(), u64> {
        let mut at = start;
        while at - start < frames {
            let page = self.pool.buddy.page(at).map(|h| self.pages.get(h));
            page.filter(|p| p.queue.get() == SYSTEM).ok_or(at)?;
            at += 1;
        }
        for h in (start..at).filter_map(|f| self.pool.buddy.page(f)) {
            self.pages.get(h).queue.set(0);
        }
        self.pool.system -= frames;
        self.pool.buddy.free_run(self.pages, start, frames);
        Ok(())
    }

    /// A place in one of the first free blocks that are large enough.
    fn quick(&self, want: &Contig) -> Option<u64> {
        let order = want.frames.next_power_of_two().trailing_zeros();
        self.pool.buddy.some_blocks(self.pages, order, TRIES).find_map(|b| {
            let start = want.fit(b.start.max(want.low.0))?;
            (start + want.frames <= b.end().min(want.high.0)).then_some(start)
        })
    }

    /// By address, from `from` on.
    fn search(&self, want: &Contig, from: u64) -> Found {
        let mut start = from;
        loop {
            let Some(at) = want.fit(start) else { return Found::Nowhere };
            let Some(end) = at.checked_add(want.frames).filter(|e| *e <= want.high.0) else {
                return Found::Nowhere;
            };
            if at - from > BUDGET {
                return Found::Not(at);
            }
            let mut good = at;
            while good < end
                && let Some(next) = self.unused_until(good)
            {
                good = next;
            }
            if good >= end {
                return Found::Run(at);
            }
            // Somebody has that frame: no run with it in it.
            start = good + 1;
        }
    }
}
