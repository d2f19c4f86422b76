//! Runs of frames where pages are in the way: they are moved (P03, P27).
//!
//! The frames of a run are taken one by one, each as the embedder's: unused ones off the free
//! lists, the others after their page moved to another frame. So nobody takes one of them
//! meanwhile, and in the end the whole run is the embedder's, or all is given back.

use machvm_arena::Handle;
use machvm_hal::{Gather, Host, MaySleep, Pfn, PhysMem, Pindex, Placement, PmapPage, RemoveWhy};

use super::request::Tries;
use super::{
    At, Contig, FrameClass, Loose, NoPage, Page, PlaceError, QueueId, Request, SYSTEM, Wait, XBusy, event,
    number,
};
use crate::object::Object;
use crate::platform::Platform;
use crate::vm::Vm;

/// Longest run that is made by moving pages: the largest free block (16 MiB).
const LONGEST: usize = 4096;
/// Places tried in one call: each may have moved pages for nothing.
const PLACES: u32 = 32;

/// The frames of a run that were taken so far.
struct Taken {
    start: u64,
    frames: u64,
    map: [u64; LONGEST / 64],
}

impl Taken {
    fn note(&mut self, frame: u64) {
        let n = (frame - self.start) as usize;
        self.map[n / 64] |= 1 << (n % 64);
    }
    fn has(&self, frame: u64) -> bool {
        let n = (frame - self.start) as usize;
        self.map[n / 64] & (1 << (n % 64)) != 0
    }
    fn run(&self) -> core::ops::Range<u64> {
        self.start..self.start + self.frames
    }
}

impl<P: Platform> Vm<P> {
    /// A run of frames for the embedder (`vm_page_alloc_noobj_contig`), with undefined contents:
    /// [`Vm::contig_take`], and if that finds none and the request waits, pages in use are
    /// moved. [`Request::zero`] asks nothing here: the core does not touch these frames.
    ///
    /// => nothing is locked.
    ///
    /// # Errors
    /// [`NoPage`].
    pub fn vm_page_alloc_noobj_contig(
        &self,
        want: &Contig,
        req: Request,
        may: &mut MaySleep,
    ) -> Result<Pfn, NoPage> {
        if let Some(first) = self.contig_take(want, req.class) {
            return Ok(first);
        }
        if req.wait == Wait::No {
            return Err(NoPage);
        }
        self.take_by_moving(want, req.class, may).ok_or(NoPage)
    }

    /// Moves pages so that a run may be had (P27 `vm_page_reclaim_contig`). `true`: there was one
    /// a moment ago, so ask again. Wired and busy pages, and frames that the embedder has,
    /// block a run.
    ///
    /// => nothing is locked.
    pub fn vm_page_reclaim_contig(&self, want: &Contig, may: &mut MaySleep) -> bool {
        let Some(first) = self.take_by_moving(want, FrameClass::Normal, may) else { return false };
        self.contig_give_back(first, want.frames).is_ok()
    }

    /// New pages of the object at `[index, index + out.len())` in a run of frames (P03
    /// `vm_page_alloc_contig`), busy and without contents; with [`Request::zero`] zero and valid.
    ///
    /// => as [`Vm::vm_page_alloc`]. `want.frames` is the length of `out`.
    ///
    /// # Errors
    /// [`PlaceError`]; nothing is in `out`. [`PlaceError::NoMemory`] too when there is no run, as
    /// always in the sparse placement, or `want` makes no sense.
    pub fn vm_page_alloc_contig<'vm>(
        &'vm self,
        object: Handle<Object>,
        index: Pindex,
        want: &Contig,
        req: Request,
        out: &mut [Option<XBusy<'vm, P>>],
        may: &mut MaySleep,
    ) -> Result<(), PlaceError> {
        if want.frames != out.len() as u64 {
            return Err(PlaceError::NoMemory);
        }
        let run = self.vm_page_alloc_noobj_contig(want, req, may).map_err(|NoPage| PlaceError::NoMemory)?;
        let mut done = Ok(());
        for (i, slot) in out.iter_mut().enumerate() {
            let Some(page) = self.frame_adopt(run.0 + i as u64) else { continue };
            let page = Loose { vm: self, page, valid: false };
            if done.is_ok() {
                match self.vm_page_insert(page, object, Pindex(index.0.saturating_add(i as u64)), may) {
                    Ok(x) => *slot = Some(x),
                    Err((e, _)) => done = Err(e),
                }
            } // else it is dropped, which frees the frame
        }
        for x in out.iter().flatten() {
            if done.is_err() {
                break;
            }
            let mem = self.mem();
            let ready = if req.zero { mem.zero(x.pfn(), 1) } else { mem.prepare(x.pfn(), 1) };
            done = ready.map_err(|_| PlaceError::NoMemory);
        }
        if done.is_err() {
            out.iter_mut().for_each(|x| *x = None); // not valid: gone from the object again
        } else if req.zero {
            out.iter_mut().flatten().for_each(XBusy::set_valid);
        }
        done
    }

    /// A frame of the embedder is a page of no object from now on.
    ///
    /// => it is the caller's. Dense.
    fn frame_adopt(&self, frame: u64) -> Option<Handle<Page>> {
        let h = {
            let mut dense = self.dense();
            let h = dense.pool.buddy.page(frame)?;
            dense.pool.system -= 1;
            self.pages.get(h).queue.set(0);
            h
        };
        self.busy_taken(h);
        self.page_reset(h);
        Some(h)
    }

    /// A run, whatever movable pages are in it.
    fn take_by_moving(&self, want: &Contig, class: FrameClass, may: &mut MaySleep) -> Option<Pfn> {
        let Placement::Dense { first, frames } = self.mem().placement() else { return None };
        let end = (first.0 + u64::from(frames)).min(want.high.0);
        let want = Contig { low: want.low.max(first), high: Pfn(end), ..*want };
        if !want.is_sane() || want.frames > LONGEST as u64 {
            return None;
        }
        let (mut from, mut places) = (want.low.0, 0);
        loop {
            let start = want.fit(from)?;
            if start.checked_add(want.frames)? > end {
                return None;
            }
            if let Some(blocked) = self.first_unmovable(start, want.frames) {
                from = blocked + 1;
                continue;
            }
            match self.take_run(start, want.frames, class, may) {
                Ok(()) => return Some(Pfn(start)),
                Err(blocked) => from = blocked + 1,
            }
            places += 1;
            if places == PLACES {
                return None;
            }
        }
    }

    /// The first frame of a run that cannot be had even by moving; a hint.
    fn first_unmovable(&self, start: u64, frames: u64) -> Option<u64> {
        let dense = self.dense();
        let mut at = start;
        while at < start + frames {
            if let Some(next) = dense.unused_until(at) {
                at = next;
                continue;
            }
            let page = dense.pool.buddy.page(at).map(|h| self.pages.get(h));
            if page.is_none_or(|p| p.queue.get() == SYSTEM || p.owner.get().is_none() || p.is_kept()) {
                return Some(at);
            }
            at += 1;
        }
        None
    }

    /// Takes the frames of a run; on failure none, and it says which it could not take.
    fn take_run(&self, start: u64, frames: u64, class: FrameClass, may: &mut MaySleep) -> Result<(), u64> {
        let mut taken = Taken { start, frames, map: [0; LONGEST / 64] };
        let mut blocked = self.take_free_frames(&mut taken, class).err();
        for frame in taken.run() {
            if blocked.is_some() {
                break;
            }
            if !taken.has(frame) && !self.move_away(frame, class, &mut taken, may) {
                blocked = Some(frame);
            }
        }
        let Some(frame) = blocked else { return Ok(()) };
        for f in taken.run().filter(|f| taken.has(*f)) {
            // They were taken here: it does not fail.
            let _ = self.contig_give_back(Pfn(f), 1);
        }
        Err(frame)
    }

    /// Takes the frames of the run that nobody has.
    fn take_free_frames(&self, taken: &mut Taken, class: FrameClass) -> Result<(), u64> {
        for frame in taken.run() {
            let mut dense = self.dense();
            if dense.unused_until(frame).is_none() {
                continue;
            }
            if self.frames.charge(1, 1, class) == 0 {
                return Err(frame);
            }
            dense.take_exactly(frame, 1);
            dense.mark_system(frame, 1);
            taken.note(frame);
        }
        Ok(())
    }

    /// Moves the page at `frame` elsewhere, and takes the frame. `false`: it cannot be moved now.
    fn move_away(&self, frame: u64, class: FrameClass, taken: &mut Taken, may: &mut MaySleep) -> bool {
        let Some(p) = self.dense().pool.buddy.page(frame) else { return false };
        let page = self.pages.get(p);
        if !page.busy.try_lock() {
            return false;
        }
        let Some(a) = page.owner.get().filter(|a| self.anons.get(*a).holds(p) && !page.is_kept()) else {
            self.page_unbusy(p);
            return false;
        };
        let mut tries = Tries::default();
        let to = loop {
            if let Some(q) = self.page_take_as(class, At::Any, |_| false) {
                break Some(q);
            }
            if !self.page_retry(Wait::Fail, &mut tries, may) && tries.is_over() {
                break None;
            }
        };
        let Some(q) = to else {
            self.page_unbusy(p);
            return false;
        };
        if self.mem().prepare(self.pages.get(q).pfn(), 1).is_err() {
            self.page_untake(q);
            self.page_unbusy(p);
            return false;
        }
        if page.is_mapped() {
            let mut g = Gather::new();
            let pmaps = self.plat.pmap_page();
            pmaps.page_remove(&self.pages, &[number(p)], RemoveWhy::Sample, &mut g);
            self.finish(g, may);
        }
        self.mem().copy(page.pfn(), self.pages.get(q).pfn());
        self.page_inherit(p, q);
        self.pages.get(q).owner.set(Some(a));
        if !self.anons.get(a).change_page(Some(p), Some(q)) {
            // The contents are not wanted any more: both pages go.
            self.pages.get(q).owner.set(None);
            drop(Loose { vm: self, page: q, valid: false });
            self.page_unbusy(p);
            return false;
        }
        self.queues.dequeue(&self.pages, p);
        page.owner.set(None);
        self.mem().discard(Pfn(frame), 1);
        if page.busy.unlock().wake {
            self.host().thread_wakeup(event(p));
        }
        {
            // Its charge goes over to the embedder.
            let mut dense = self.dense();
            dense.put(frame);
            dense.take_exactly(frame, 1);
            dense.mark_system(frame, 1);
        }
        taken.note(frame);
        self.queues.enqueue(&self.pages, q, QueueId::Active);
        self.page_unbusy(q);
        true
    }
}
