//! From page to mappings.
//!
//! A mapping's record is eight bytes: the level-1 table's frame and the index in it.
//! Address and pmap come from the table's own structure. The first record of a page
//! is in its [`PageMd`]; further ones are in chunks of six, one cache line each.
//!
//! | record | means |
//! |---|---|
//! | mapping | (table, index); the table is of level 1, or of a higher one for a mapping that is never demoted |
//! | superpage | the table kept aside under it; in the list of the region's first page |
//! | tombstone | a mapping that went under an epoch (module `epoch`) |
//! | member | in the first place only: no record of its own, but a superpage of the region may map it |
//!
//! Locks are by 2 MiB region of physical memory, so promotion takes one and a run of
//! neighbours is entered under one.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use machvm_arena::{Handle, HandleField, NoMemory, Slab};
use machvm_hal::{PageArray, PageMd, PageNo, Pfn, RefMod};
use machvm_sync::{Field64, Rank, Spin, SpinGuard};

use crate::epoch::Epoch;
use crate::port::Port;
use crate::pte::{Leaf, MemAttr};
use crate::seed::Bug;
use crate::system::System;

/// Frames in a region that can be one superpage.
pub(crate) const REGION: u64 = 512;
/// Locks; a power of two.
const LOCKS: usize = 64;
/// Records of a chunk: with the links, one cache line.
const RECORDS: usize = 6;

/// In [`PageMd::bits`] of a region's first page: superpage records are in its list,
/// living or tombstones.
const HAS_SUPER: u32 = 1 << 8;

/// Where [`PageMd::bits`] keeps how mappings of the page are cached.
const ATTR_SHIFT: u32 = 9;
const ATTR: u32 = 3 << ATTR_SHIFT;

const MAPPING: u64 = 1;
const SUPER: u64 = 2;
const DEAD: u64 = 3;
const MEMBER: u64 = 4;

/// How mappings of the page are cached.
#[inline]
pub(crate) fn page_attr(md: &PageMd) -> MemAttr {
    match (md.bits.load(Relaxed) & ATTR) >> ATTR_SHIFT {
        1 => MemAttr::WriteCombining,
        2 => MemAttr::Device,
        _ => MemAttr::WriteBack,
    }
}

/// => the page is busy and has no mapping.
pub(crate) fn set_page_attr(md: &PageMd, attr: MemAttr) {
    let word = match attr {
        MemAttr::WriteBack => 0,
        MemAttr::WriteCombining => 1,
        MemAttr::Device => 2,
    };
    md.bits.fetch_and(!ATTR, Relaxed);
    md.bits.fetch_or(word << ATTR_SHIFT, Relaxed);
}

/// See the module text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Record {
    Mapping { table: Pfn, index: usize },
    Super { deposit: Pfn },
    Dead(Epoch),
}

impl Record {
    #[inline]
    pub(crate) fn raw(self) -> u64 {
        match self {
            Record::Mapping { table, index } => table.0 << 16 | (index as u64) << 2 | MAPPING,
            Record::Super { deposit } => deposit.0 << 16 | SUPER,
            Record::Dead(e) => e.raw() << 2 | DEAD,
        }
    }
    #[inline]
    pub(crate) fn parse(raw: u64) -> Option<Self> {
        match raw & 3 {
            MAPPING => Some(Record::Mapping { table: Pfn(raw >> 16), index: (raw >> 2) as usize & 0x3fff }),
            SUPER => Some(Record::Super { deposit: Pfn(raw >> 16) }),
            DEAD => Epoch::from_raw(raw >> 2).map(Record::Dead),
            _ => None,
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct PvChunk {
    records: [Field64; RECORDS],
    next: HandleField<PvChunk>,
}

#[derive(Debug)]
#[repr(align(64))]
struct PvLock(Spin<()>);

/// The chunks and the locks.
pub(crate) struct PvPool<P: Port> {
    chunks: Slab<PvChunk, P::Chunks>,
    locks: [PvLock; LOCKS],
}

/// The lists of a region's pages, locked; moves on to other regions.
pub(crate) struct PvCursor<'a> {
    locks: &'a [PvLock; LOCKS],
    held: Option<(usize, SpinGuard<'a, ()>)>,
}

impl<'a> PvCursor<'a> {
    /// Locks the region of a frame, letting the last one go.
    ///
    /// => no other region's lock is held by this thread.
    #[track_caller]
    #[inline]
    pub(crate) fn at(&mut self, frame: Pfn) {
        let n = (frame.0 / REGION) as usize % LOCKS;
        if !matches!(&self.held, Some((have, _)) if *have == n) {
            self.held = None;
            self.held = Some((n, self.locks[n].0.lock()));
        }
    }
}

impl<P: Port> PvPool<P> {
    pub(crate) fn new(c: P::Chunks) -> Self {
        PvPool {
            chunks: Slab::new(c, u32::MAX >> 1),
            locks: core::array::from_fn(|_| PvLock(Spin::new(Rank::Pv, ()))),
        }
    }
    /// Not locked yet.
    #[inline]
    pub(crate) fn cursor(&self) -> PvCursor<'_> {
        PvCursor { locks: &self.locks, held: None }
    }
    /// Chunks in use.
    pub(crate) fn live(&self) -> u32 {
        self.chunks.live()
    }
    #[inline]
    fn chunk(&self, raw: u32) -> Option<&PvChunk> {
        self.chunks.lookup(raw)
    }
}

/// The number of the page at the start of a page's region.
#[inline]
fn head<A: PageArray>(pages: &A, frame: Pfn) -> Option<PageNo> {
    pages.page_at(Pfn(frame.0 & !(REGION - 1)))
}

// All of these: the lock of the page's region is held.
impl<P: Port> System<P> {
    /// What an empty first place holds: nothing, or the mark of a member.
    #[inline]
    fn empty<A: PageArray>(&self, pages: &A, frame: Pfn) -> u64 {
        if self.region_has_super(pages, frame) { MEMBER } else { 0 }
    }
    /// Are there superpage records for the region, living or tombstones?
    #[inline]
    pub(crate) fn region_has_super<A: PageArray>(&self, pages: &A, frame: Pfn) -> bool {
        head(pages, frame).is_some_and(|h| pages.md(h).bits.load(Relaxed) & HAS_SUPER != 0)
    }
    /// The first page of the region, if superpage records are in its list.
    #[inline]
    pub(crate) fn super_head<A: PageArray>(&self, pages: &A, frame: Pfn) -> Option<PageNo> {
        head(pages, frame).filter(|h| pages.md(*h).bits.load(Relaxed) & HAS_SUPER != 0)
    }

    /// Is the place free to be written over?
    #[inline]
    fn is_free(&self, raw: u64) -> bool {
        match Record::parse(raw) {
            None => true,
            Some(Record::Dead(e)) => self.epochs.is_over(e),
            Some(Record::Mapping { .. } | Record::Super { .. }) => false,
        }
    }

    /// Adds a record.
    ///
    /// # Errors
    /// No chunk; nothing changed.
    #[inline]
    pub(crate) fn pv_insert(&self, md: &PageMd, rec: Record) -> Result<(), NoMemory> {
        if self.is_free(md.pv.load(Relaxed)) {
            md.pv.store(rec.raw(), Release);
            return Ok(());
        }
        self.pv_insert_more(md, rec)
    }

    /// As [`System::pv_insert`], where the first place is taken.
    #[inline(never)]
    fn pv_insert_more(&self, md: &PageMd, rec: Record) -> Result<(), NoMemory> {
        let mut at = md.more.load(Relaxed);
        while let Some(c) = self.pv.chunk(at) {
            if let Some(place) = c.records.iter().find(|r| self.is_free(r.get())) {
                place.set(rec.raw());
                return Ok(());
            }
            at = c.next.get().map_or(0, Handle::get);
        }
        let h = self.pv.chunks.alloc()?;
        let c = self.pv.chunks.get(h);
        c.records.iter().for_each(|r| r.set(0));
        c.records[0].set(rec.raw());
        c.next.set(core::num::NonZeroU32::new(md.more.load(Relaxed)).map(Handle::from_raw));
        md.more.store(h.get(), Relaxed);
        Ok(())
    }

    /// Writes over a record; `false`: it is not there. `with` 0 takes it out.
    #[inline]
    pub(crate) fn pv_replace<A: PageArray>(
        &self,
        pages: &A,
        frame: Pfn,
        md: &PageMd,
        rec: Record,
        with: Option<Record>,
    ) -> bool {
        let new = with.map_or(0, Record::raw);
        if md.pv.load(Relaxed) == rec.raw() {
            let new = if new == 0 { self.empty(pages, frame) } else { new };
            md.pv.store(new, Release);
        } else {
            let mut at = md.more.load(Relaxed);
            let place = loop {
                let Some(c) = self.pv.chunk(at) else { return false };
                if let Some(place) = c.records.iter().find(|r| r.get() == rec.raw()) {
                    break place;
                }
                at = c.next.get().map_or(0, Handle::get);
            };
            place.set(new);
        }
        if new == 0 && md.more.load(Relaxed) != 0 {
            self.pv_tidy(pages, frame, md);
        }
        true
    }

    /// Shows every record and its place to `f` until it says stop; `true`: it did.
    #[inline]
    pub(crate) fn pv_each(&self, md: &PageMd, mut f: impl FnMut(Record, &AtomicU64) -> bool) -> bool {
        if let Some(rec) = Record::parse(md.pv.load(Acquire))
            && f(rec, &md.pv)
        {
            return true;
        }
        let mut at = md.more.load(Relaxed);
        while let Some(c) = self.pv.chunk(at) {
            for place in &c.records {
                if let Some(rec) = Record::parse(place.get())
                    && f(rec, place.atomic())
                {
                    return true;
                }
            }
            at = c.next.get().map_or(0, Handle::get);
        }
        false
    }

    /// The first record for which `f` says yes.
    #[inline]
    pub(crate) fn pv_find(&self, md: &PageMd, mut f: impl FnMut(Record) -> bool) -> Option<Record> {
        let mut found = None;
        self.pv_each(md, |rec, _| {
            found = f(rec).then_some(rec);
            found.is_some()
        });
        found
    }

    /// Sweeps tombstones that are over, frees empty chunks, and keeps the first place
    /// filled. `true`: tombstones are left that are not over.
    pub(crate) fn pv_tidy<A: PageArray>(&self, pages: &A, frame: Pfn, md: &PageMd) -> bool {
        let mut pending = false;
        let mut look = |raw: u64| {
            let free = self.is_free(raw);
            pending |= !free && raw & 3 == DEAD;
            free
        };
        let mut first_free = look(md.pv.load(Relaxed));
        let mut link: Option<&PvChunk> = None;
        let mut at = md.more.load(Relaxed);
        while let Some(c) = self.pv.chunk(at) {
            let next = c.next.get();
            let mut used = 0;
            for place in &c.records {
                if place.get() == 0 || look(place.get()) {
                    place.set(0);
                } else if first_free {
                    md.pv.store(place.get(), Release);
                    place.set(0);
                    first_free = false;
                } else {
                    used += 1;
                }
            }
            if used == 0 {
                match link {
                    Some(before) => before.next.set(next),
                    None => md.more.store(next.map_or(0, Handle::get), Relaxed),
                }
                if let Some(n) = core::num::NonZeroU32::new(at) {
                    self.pv.chunks.free(Handle::from_raw(n));
                }
            } else {
                link = Some(c);
            }
            at = next.map_or(0, Handle::get);
        }
        if first_free {
            md.pv.store(self.empty(pages, frame), Release);
        }
        pending
    }

    /// If all that the page has is one tombstone that is over, or the mark of a member of no superpage, it has nothing.
    /// `false`: it may have more.
    #[inline]
    pub(crate) fn pv_forget<A: PageArray>(&self, pages: &A, frame: Pfn, md: &PageMd) -> bool {
        let raw = md.pv.load(Relaxed);
        if md.more.load(Relaxed) != 0 || !self.is_free(raw) || self.region_has_super(pages, frame) {
            return false;
        }
        if raw != 0 {
            md.pv.store(0, Release);
        }
        true
    }

    /// Tombstones that are not over become this epoch's.
    pub(crate) fn pv_adopt(&self, md: &PageMd, epoch: Epoch) {
        let adopt = |raw: u64| match Record::parse(raw) {
            Some(Record::Dead(e)) if !self.epochs.is_over(e) => Some(Record::Dead(epoch).raw()),
            _ => None,
        };
        if let Some(new) = adopt(md.pv.load(Relaxed)) {
            md.pv.store(new, Release);
        }
        let mut at = md.more.load(Relaxed);
        while let Some(c) = self.pv.chunk(at) {
            for place in &c.records {
                if let Some(new) = adopt(place.get()) {
                    place.set(new);
                }
            }
            at = c.next.get().map_or(0, Handle::get);
        }
    }

    /// Sets or clears the mark that the region's first page has superpage records.
    pub(crate) fn set_region_super<A: PageArray>(&self, pages: &A, head: PageNo, on: bool) {
        let bits = &pages.md(head).bits;
        if on {
            bits.fetch_or(HAS_SUPER, Relaxed);
        } else {
            bits.fetch_and(!HAS_SUPER, Relaxed);
        }
    }

    /// The page at `frame` was a member of a superpage made of single mappings: its
    /// record goes without a tombstone, for the superpage maps it still.
    pub(crate) fn pv_to_member<A: PageArray>(&self, pages: &A, frame: Pfn, md: &PageMd, rec: Record) {
        if md.pv.load(Relaxed) == rec.raw() {
            md.pv.store(MEMBER, Release);
            if md.more.load(Relaxed) != 0 {
                self.pv_tidy(pages, frame, md);
            }
        } else {
            self.pv_replace(pages, frame, md, rec, None);
        }
    }

    /// Moves what the hardware noted to the page.
    #[inline]
    pub(crate) fn harvest(&self, md: &PageMd, leaf: &Leaf) {
        let mut bits = RefMod::empty();
        bits.set(RefMod::REFERENCED, leaf.accessed);
        bits.set(RefMod::MODIFIED, leaf.dirty && !self.port.seeded(Bug::LostModified));
        // Mostly there already: a load is cheaper than a locked or.
        if md.bits.load(Relaxed) & bits.bits() != bits.bits() {
            md.bits.fetch_or(bits.bits(), Release);
        }
    }
}
