//! Pages: one structure for each resident frame.
//!
//! A page is owned by an anon (the slot of a copy-on-write tree that holds its
//! contents). Whoever holds it *busy* owns its identity and its contents; busy is
//! taken by try only and may be held across I/O with every lock released. Page
//! structures are type-stable: a stale number finds a recycled page, so identity
//! is checked again after busy is had (Z70).
//!
//! A page may also be *held*, by wirings and for I/O: then it stays where it is. If its
//! owner ends meanwhile it belongs to nobody, mapped nowhere, until the last hold goes.
//!
//! For embedders (vm_page(9)): a page that somebody holds is a value, [`XBusy`], [`SBusy`],
//! [`Wired`] or, without an object, [`Loose`]; the calls that make them are methods of
//! [`Vm`](crate::Vm). `docs/vm_page.md` leads from the manual's names to these.

mod alloc;
mod arrivals;
mod batch;
mod bits;
mod buddy;
mod contig;
mod find;
mod frames;
mod grab;
mod handle;
mod hold;
mod moves;
mod place;
mod queue;
mod reclaim;
mod request;
mod reserv;
#[cfg(test)]
mod tests;
mod wire;

use machvm_arena::{Handle, HandleField, Slab};
use machvm_hal::{Event, PageArray, PageMd, PageNo, Pfn};
use machvm_sync::{Busy, Field32, Field64, Holds};

use crate::object::{Anon, Object};
use crate::pageout::Tag;
use crate::platform::Platform;

pub use alloc::{NoPage, PlaceError};
pub(crate) use batch::FreeBatch;
pub use bits::PsTest;
pub use contig::{Contig, NotTaken};
pub use find::{Resident, TryError};
pub use frames::FrameClass;
pub(crate) use frames::{At, FREE_EVENT, Frames, LIMBO_EVENT};
pub use grab::{GrabError, GrabFlags};
pub use handle::{ContentError, Loose, SBusy, XBusy};
pub(crate) use hold::Used;
pub use moves::{PageAdvice, PageQueue};
pub use place::{Kept, StayError};
pub(crate) use queue::{QueueId, Queues};
pub use request::{Request, Wait};
pub(crate) use reserv::{RUN, RUN_ORDER, Reserv, Wish};
pub use wire::Wired;

/// Where the policy's bits begin in `Page::flags`.
const TAG_SHIFT: u32 = 16;
/// `Page::queue` of a frame that the embedder has.
pub(crate) const SYSTEM: u32 = 8;
/// `Page::queue` of a page that waits for its pager's answer ([`crate::pager`]).
pub(crate) const PENDING: u32 = 9;

bitflags::bitflags! {
    /// Page flags \[B\].
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub(crate) struct PageFlags: u32 {
        /// The contents differ from every copy on backing store, whatever the
        /// pmap knows.
        const DIRTY = 1;
        /// Its pager must get it back even if it is clean.
        const PRECIOUS = 4;
        /// It was placed in the memory object itself, not in a copy: locks apply.
        const OWN = 8;
        /// Every copy of its memory object has it, or contents of its own there.
        const PUSHED = 0x10;
        // Bits 8 to 10: the lock; 12 to 14: what was asked for (pager/lock.rs).
        /// What the policy notes: a [`Tag`](crate::pageout::Tag).
        const TAG = 7 << TAG_SHIFT;
    }
}

/// One page.
///
/// Letters: \[B\] the page's busy owner, \[Q\] the lock of the queue named by
/// `queue`, \[F\] the free-frames lock, \[M\] the pmap, \[a\] atomic on its own.
#[derive(Debug, Default)]
pub struct Page {
    /// The anon whose contents this is; none while free. \[B\]
    pub(crate) owner: HandleField<Anon>,
    /// The busy word. \[a\]
    pub(crate) busy: Busy,
    /// The frame. \[B\]; constant in the dense placement.
    pub(crate) pfn: Field64,
    /// Index in `home`; a hint for clustering, exact for pager-backed objects. \[B\]
    pub(crate) pindex: Field64,
    /// The object through which the page was allocated. \[B\]
    pub(crate) home: HandleField<Object>,
    /// Next on a queue, or among free blocks. \[Q\] or \[F\]
    pub(crate) q_next: HandleField<Page>,
    /// Previous on a queue, or among free blocks. \[Q\] or \[F\]
    pub(crate) q_prev: HandleField<Page>,
    /// [`QueueId`], [`SYSTEM`], [`PENDING`] or the mark of a free block. \[Q\], \[F\] or the
    /// table of memory objects to write
    pub(crate) queue: Field32,
    /// [`PageFlags`]. \[B\]
    pub(crate) flags: Field32,
    /// Wirings. \[B\] to write
    pub(crate) wired: Field32,
    /// Who keeps the frame: wirings, and holds for I/O. While there are any the page is
    /// neither paged out nor moved; the frame outlives its owner ([`Vm::page_unhold`]).
    /// \[B\] to hold first, \[a\] to let go
    pub(crate) holds: Holds,
    /// The pmap's part. \[M\]
    pub(crate) md: PageMd,
}

impl Page {
    pub(crate) fn flags(&self) -> PageFlags {
        PageFlags::from_bits_truncate(self.flags.get())
    }
    pub(crate) fn insert_flags(&self, f: PageFlags) {
        self.flags.set(self.flags.get() | f.bits());
    }
    pub(crate) fn remove_flags(&self, f: PageFlags) {
        self.flags.set(self.flags.get() & !f.bits());
    }
    /// What the policy noted.
    pub(crate) fn tag(&self) -> Tag {
        Tag::from_bits(self.flags.get() >> TAG_SHIFT)
    }
    /// => the page is busy.
    pub(crate) fn set_tag(&self, tag: Tag) {
        let others = self.flags.get() & !PageFlags::TAG.bits();
        self.flags.set(others | tag.bits() << TAG_SHIFT);
    }
    pub(crate) fn pfn(&self) -> Pfn {
        Pfn(self.pfn.get())
    }
    /// One wiring more or, for -1, one less, if there is one.
    ///
    /// => the page is busy and has an owner.
    pub(crate) fn change_wirings(&self, by: i32) {
        let n = by.unsigned_abs();
        if by >= 0 {
            self.wired.add(n);
            self.holds.get(n);
        } else if self.wired.get() >= n {
            self.wired.set(self.wired.get() - n);
            let last = self.holds.put(n);
            debug_assert!(!last, "a page with an owner is abandoned");
        }
    }
    /// Is it wired, or held for I/O? Who owns the page and sees `false` may take the
    /// contents away.
    pub(crate) fn is_kept(&self) -> bool {
        self.holds.count() != 0
    }
    /// Is it held for I/O? A device may write it.
    ///
    /// => the page is busy.
    pub(crate) fn is_held_for_io(&self) -> bool {
        self.holds.count() > self.wired.get()
    }
    /// Is there any mapping of it? Meaningful for the busy owner.
    pub(crate) fn is_mapped(&self) -> bool {
        self.md.pv.load(core::sync::atomic::Ordering::Acquire) != 0
    }
}

/// Every page structure.
pub(crate) struct PageTable<P: Platform> {
    pub(crate) slab: Slab<Page, P::Chunks>,
    /// The first frame of the dense placement, whose page is number 1.
    pub(crate) first: Option<Pfn>,
}

pub(crate) fn number(h: Handle<Page>) -> PageNo {
    PageNo(h.raw())
}
pub(crate) fn handle(n: PageNo) -> Handle<Page> {
    Handle::from_raw(n.0)
}
/// What a thread that waits for a busy page waits for.
pub(crate) fn event(h: Handle<Page>) -> Event {
    Event((1 << 60) | u64::from(h.get()))
}

impl<P: Platform> PageTable<P> {
    pub(crate) fn get(&self, h: Handle<Page>) -> &Page {
        self.slab.get(h)
    }
}

impl<P: Platform> PageArray for PageTable<P> {
    fn md(&self, page: PageNo) -> &PageMd {
        &self.slab.get(handle(page)).md
    }
    fn pfn(&self, page: PageNo) -> Pfn {
        self.slab.get(handle(page)).pfn()
    }
    fn page_at(&self, frame: Pfn) -> Option<PageNo> {
        let n = frame.0.checked_sub(self.first?.0)?.checked_add(1)?;
        let n = u32::try_from(n).ok()?;
        // The dense placement makes its pages in order, before anything else.
        self.slab.lookup(n).filter(|p| p.pfn() == frame)?;
        core::num::NonZeroU32::new(n).map(PageNo)
    }
}
