//! Telling somebody how memory is used, as far as page-out learns of it: what a simulator
//! needs to do the same again ([`Platform::watch`]).
//!
//! Contents are named by a number of their own, which they keep while they come and go,
//! and which may be given to others after [`Note::Gone`].
//!
//! A use makes a fault when the page is not in memory, or not mapped: it was set aside, or
//! [`Vm::sample_uses`] unmapped it for that. Other uses nobody sees.

use core::num::NonZeroU64;

use machvm_arena::Handle;
use machvm_hal::{Gather, MaySleep, PageNo, PmapPage, RemoveWhy};

use super::policy::Queue;
use super::scan::BATCH;
use crate::object::Anon;
use crate::page::{Page, handle, number};
use crate::platform::Platform;
use crate::vm::Vm;

/// Something that was learnt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Note {
    /// Contents came into memory.
    In {
        /// Which.
        page: u32,
        /// They were on backing store (a page-in); else they are new, or zero.
        stored: bool,
    },
    /// A fault on this page mapped it.
    Used {
        /// Which.
        page: u32,
        /// It may be written from now on.
        write: bool,
    },
    /// A fault mapped this page along with another.
    Along {
        /// Which.
        page: u32,
        /// It may be written from now on.
        write: bool,
    },
    /// These contents are no more.
    Gone {
        /// Which.
        page: u32,
    },
    /// Page-out freed pages that were set aside.
    Freed {
        /// How many.
        pages: u64,
    },
    /// Page-out wrote pages before their turn came.
    Ahead {
        /// How many.
        pages: u64,
    },
}

/// Who is told.
pub trait Watch: Sync {
    /// Something was learnt.
    ///
    /// => sleeping locks of the VM may be held, and pages may be busy: it neither waits for
    ///    the VM nor uses managed memory.
    fn note(&self, note: Note);
}

/// Where the next sample begins. The first: [`Rotation::default`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Rotation(u64);

/// Neighbours in the order of page numbers are not unmapped together: one fault would map
/// them all.
const STRIDE: NonZeroU64 = NonZeroU64::new(1_000_003).unwrap();

impl<P: Platform> Vm<P> {
    /// Contents of `a`, as watchers know them.
    fn name(a: Handle<Anon>) -> u32 {
        a.get()
    }

    /// => the page is busy.
    pub(super) fn watch_in(&self, h: Handle<Page>, stored: bool) {
        let Some(watch) = self.plat.watch() else { return };
        if let Some(a) = self.pages.get(h).owner.get() {
            watch.note(Note::In { page: Self::name(a), stored });
        }
    }

    /// A fault on `faulted` mapped a run.
    ///
    /// => the pages are busy.
    pub(crate) fn watch_entered(&self, faulted: Handle<Page>, run: &[PageNo], write: bool) {
        let Some(watch) = self.plat.watch() else { return };
        for h in run.iter().map(|p| handle(*p)) {
            let Some(a) = self.pages.get(h).owner.get() else { continue };
            let page = Self::name(a);
            watch.note(if h == faulted { Note::Used { page, write } } else { Note::Along { page, write } });
        }
    }

    pub(crate) fn watch_gone(&self, a: Handle<Anon>) {
        if let Some(watch) = self.plat.watch() {
            watch.note(Note::Gone { page: Self::name(a) });
        }
    }

    pub(super) fn watch_work(&self, note: Note) {
        if let Some(watch) = self.plat.watch() {
            watch.note(note);
        }
    }

    /// Unmaps up to `most` pages in use, so that their next use is a fault; every page in
    /// turn. Neither queues nor what is known of past uses change. Gives how many it were,
    /// about: a pmap may still show a page as mapped that it unmapped before.
    ///
    /// => no lock is held.
    pub fn sample_uses(&self, at: &mut Rotation, most: u64, may: &mut MaySleep) -> u64 {
        let all = if self.frames.is_sparse() { self.frames.peak() } else { self.frames.limit() };
        let (mut done, mut looked) = (0, 0);
        while all != 0 && done < most && looked < all {
            let (mut batch, mut n) = ([PageNo(core::num::NonZeroU32::MIN); BATCH], 0);
            while n < BATCH && done + (n as u64) < most && looked < all {
                if let Some(h) = self.mapped_page(at.next(all)) {
                    batch[n] = number(h);
                    n += 1;
                }
                looked += 1;
            }
            let mut gather = Gather::new();
            if n != 0 {
                let pmaps = self.plat.pmap_page();
                pmaps.page_remove(&self.pages, &batch[..n], RemoveWhy::Sample, &mut gather);
            }
            self.finish(gather, may);
            batch[..n].iter().for_each(|p| self.page_unbusy(handle(*p)));
            done += n as u64;
        }
        done
    }

    /// The page of that number, busy, if it is mapped and in use by nobody else.
    fn mapped_page(&self, number: u64) -> Option<Handle<Page>> {
        let raw = core::num::NonZeroU32::new(u32::try_from(number).ok()?)?;
        let page = self.pages.slab.lookup(raw.get())?;
        let in_use = |page: &Page| {
            let q = page.queue.get();
            page.is_mapped() && (q == Queue::Active as u32 || q == Queue::Fresh as u32)
        };
        if !in_use(page) || !page.busy.try_lock() {
            return None;
        }
        let h = Handle::from_raw(raw);
        if page.owner.get().is_some() && in_use(page) && !page.is_kept() {
            return Some(h);
        }
        self.page_unbusy(h);
        None
    }
}

impl Rotation {
    /// The next number of `1..=all`; each comes once before one comes twice, as long as
    /// `all` does not change.
    fn next(&mut self, all: u64) -> u64 {
        let stride = if all.is_multiple_of(STRIDE.get()) { 1 } else { STRIDE.get() };
        self.0 = (self.0 + stride) % all;
        self.0 + 1
    }
}
