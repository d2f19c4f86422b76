//! Deferred invalidation. A [`Gather`] collects what a batch of page-table edits
//! made stale; frames freed by the batch ride in it and cannot be reused before
//! the flush is complete.

use core::num::NonZeroU64;

use crate::addr::{Pfn, VaRange};
use crate::host::MaySleep;
use crate::pmap::PageNo;

/// Ranges remembered one by one; more than this flush everything. Sixteen keeps
/// the structure under 512 bytes, so it lives on the stack of the fault path.
pub const MAX_RANGES: usize = 16;

/// What a flush must reach.
#[derive(Clone, Copy, Debug)]
pub struct Invalidations<'a> {
    /// Address-space tag and range.
    pub ranges: &'a [(u32, VaRange)],
    /// Everything in every address space; `ranges` are only some of it.
    pub all: bool,
    /// Page tables were taken out of the ranges too, so what CPUs remember of the way
    /// to a translation is stale, not only translations.
    pub walks: bool,
}

/// Carries out a flush: reaches every CPU that may have a translation *now* (after
/// the last page-table write), waits for all of them.
pub trait Flush {
    /// Returns when no CPU can use what is named.
    fn flush(&self, what: &Invalidations<'_>);
    /// No CPU walks these table frames any more; `first` is the one last given to
    /// [`Gather::push_table`].
    fn free_tables(&self, _first: Pfn) {}
    /// The flush for everything taken away under this epoch is complete.
    fn epoch_over(&self, _epoch: NonZeroU64) {}
}

/// Proof that everything a gather held is gone from every CPU.
#[derive(Debug)]
#[must_use = "the dead pages in it must be freed"]
pub struct Flushed {
    /// First of the pages that may now be freed, linked by the core.
    pub dead: Option<PageNo>,
}

/// See the module text.
#[must_use = "dropping a Gather would leave stale translations: call finish()"]
#[derive(Debug)]
pub struct Gather {
    ranges: [(u32, VaRange); MAX_RANGES],
    len: usize,
    all: bool,
    walks: bool,
    dead: Option<PageNo>,
    tables: Option<Pfn>,
    epoch: Option<NonZeroU64>,
}

impl Default for Gather {
    fn default() -> Self {
        Self::new()
    }
}

impl Gather {
    /// Empty.
    pub const fn new() -> Self {
        let none = (0, VaRange::page(crate::addr::Va::ZERO));
        Gather {
            ranges: [none; MAX_RANGES],
            len: 0,
            all: false,
            walks: false,
            dead: None,
            tables: None,
            epoch: None,
        }
    }
    /// Mappings of `range` in the address space `tag` may be cached somewhere.
    #[inline]
    pub fn invalidate(&mut self, tag: u32, range: VaRange) {
        if let Some((t, last)) = self.ranges[..self.len].last_mut()
            && *t == tag
            && last.end() == range.start()
            && let Some(joined) = VaRange::between(last.start(), range.end())
        {
            *last = joined;
        } else if self.len == MAX_RANGES {
            self.all = true;
        } else {
            self.ranges[self.len] = (tag, range);
            self.len += 1;
        }
    }
    /// Anything may be cached anywhere.
    #[inline]
    pub fn invalidate_all(&mut self) {
        self.all = true;
    }
    /// Page tables were taken out of what was gathered.
    #[inline]
    pub fn invalidate_walks(&mut self) {
        self.walks = true;
    }
    /// Puts a table frame in front of the dead tables and returns the one that was
    /// there, for the pmap to link behind it. Implies [`Gather::invalidate_walks`].
    #[inline]
    pub fn push_table(&mut self, table: Pfn) -> Option<Pfn> {
        self.walks = true;
        self.tables.replace(table)
    }
    /// The pmap's own mark on what was taken away under this gather.
    #[inline]
    pub fn epoch(&self) -> Option<NonZeroU64> {
        self.epoch
    }
    /// Sets the mark; see [`Flush::epoch_over`].
    #[inline]
    pub fn set_epoch(&mut self, epoch: NonZeroU64) {
        self.epoch = Some(epoch);
    }
    /// Puts a page in front of the dead list and returns the one that was there,
    /// for the caller to link behind it.
    pub fn push_dead(&mut self, page: PageNo) -> Option<PageNo> {
        self.dead.replace(page)
    }
    /// Nothing to flush and nothing to free.
    #[inline]
    pub fn is_empty(&self) -> bool {
        !self.all && self.len == 0 && self.dead.is_none() && self.tables.is_none() && self.epoch.is_none()
    }
    /// Flushes, waits for every CPU, and gives the dead pages back.
    ///
    /// Takes [`MaySleep`]: waiting for other CPUs under a spin lock is a deadlock.
    pub fn finish(mut self, how: &impl Flush, _may: &mut MaySleep) -> Flushed {
        if self.all || self.len != 0 {
            how.flush(&Invalidations { ranges: &self.ranges[..self.len], all: self.all, walks: self.walks });
        }
        self.len = 0;
        self.all = false;
        if let Some(epoch) = self.epoch.take() {
            how.epoch_over(epoch);
        }
        if let Some(first) = self.tables.take() {
            how.free_tables(first);
        }
        Flushed { dead: self.dead.take() }
    }
}

impl Drop for Gather {
    #[inline]
    fn drop(&mut self) {
        assert!(self.is_empty(), "Gather dropped with work in it: stale translations or lost frames");
    }
}
