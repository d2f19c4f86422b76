//! Deferred invalidation. A [`Gather`] collects what a batch of page-table edits
//! made stale; frames freed by the batch ride in it and cannot be reused before
//! the flush is complete.

use crate::addr::VaRange;
use crate::host::MaySleep;
use crate::pmap::PageNo;

/// Ranges remembered one by one; more than this flush everything. Sixteen keeps
/// the structure under 512 bytes, so it lives on the stack of the fault path.
pub const MAX_RANGES: usize = 16;

/// Carries out a flush: sends to every CPU that has the pmap active *now* (after
/// the last page-table write), waits for all of them.
pub trait Flush {
    /// `ranges` are pairs of address-space tag and range; `all`: everything.
    fn flush(&self, ranges: &[(u32, VaRange)], all: bool);
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
    dead: Option<PageNo>,
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
        Gather { ranges: [none; MAX_RANGES], len: 0, all: false, dead: None }
    }
    /// Mappings of `range` in the address space `tag` may be cached somewhere.
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
    /// Puts a page in front of the dead list and returns the one that was there,
    /// for the caller to link behind it.
    pub fn push_dead(&mut self, page: PageNo) -> Option<PageNo> {
        self.dead.replace(page)
    }
    /// Nothing to flush and nothing to free.
    pub fn is_empty(&self) -> bool {
        !self.all && self.len == 0 && self.dead.is_none()
    }
    /// Flushes, waits for every CPU, and gives the dead pages back.
    ///
    /// Takes [`MaySleep`]: waiting for other CPUs under a spin lock is a deadlock.
    pub fn finish(mut self, how: &impl Flush, _may: &mut MaySleep) -> Flushed {
        if self.all || self.len != 0 {
            how.flush(&self.ranges[..self.len], self.all);
        }
        self.len = 0;
        self.all = false;
        Flushed { dead: self.dead.take() }
    }
}

impl Drop for Gather {
    fn drop(&mut self) {
        assert!(self.is_empty(), "Gather dropped with work in it: stale translations or lost frames");
    }
}
