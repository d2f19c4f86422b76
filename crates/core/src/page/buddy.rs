//! The buddy allocator of the dense placement (Y02, Y03, Y05).
//!
//! A free block is `2^order` frames at a multiple of its size. The page structure of
//! its first frame is its node: `queue` says that it is one and its order, `q_next`
//! and `q_prev` link the blocks of one order. So there is nothing to allocate, and
//! whether a block's buddy is free is one look at one page structure. Two buddies are
//! never both free: they are one block of the next order.
//!
//! One pool only: the classic second one keeps pages of a direct map together, and
//! there is no such map here.

use core::num::NonZeroU32;
use machvm_arena::{ChunkSource, Handle, Slab};

use super::Page;

/// Orders of free blocks: up to 16 MiB. Two more than a 4 MiB block needs, so that the
/// largest runs a driver asks for are found without looking at single frames.
pub(super) const ORDERS: usize = 13;
const LAST: u32 = ORDERS as u32 - 1;

/// `Page::queue` of the first frame of a free block: this and the order.
const FREE: u32 = 16;

/// The free blocks. Every method needs the free-frames lock, which this lies in.
#[derive(Debug, Default)]
pub(super) struct Buddy {
    /// Frames `[first, end)` exist.
    first: u64,
    end: u64,
    heads: [Option<Handle<Page>>; ORDERS],
    /// Bit n: there is a free block of order n.
    some: u32,
    /// Free frames in all blocks.
    free: u64,
}

/// A free block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Block {
    pub(super) start: u64,
    pub(super) order: u32,
}

impl Block {
    pub(super) fn end(self) -> u64 {
        self.start + (1 << self.order)
    }
}

impl Buddy {
    /// Over frames `[first, first + frames)`, none of them free yet.
    pub(super) fn new(first: u64, frames: u64) -> Self {
        Buddy { first, end: first + frames, ..Buddy::default() }
    }
    pub(super) fn first(&self) -> u64 {
        self.first
    }
    pub(super) fn end(&self) -> u64 {
        self.end
    }
    /// Free frames.
    pub(super) fn free_frames(&self) -> u64 {
        self.free
    }
    /// Is there a free block of this order or a larger one?
    pub(super) fn has(&self, order: u32) -> bool {
        self.some >> order != 0
    }

    /// The page structure of a frame: they are numbered from 1 in the order of frames.
    pub(super) fn page(&self, frame: u64) -> Option<Handle<Page>> {
        if frame >= self.end {
            return None;
        }
        let n = frame.checked_sub(self.first)? as u32 + 1;
        NonZeroU32::new(n).map(Handle::from_raw)
    }

    /// The block of that order that starts at `frame`, if it is free.
    fn starts<C: ChunkSource>(&self, pages: &Slab<Page, C>, frame: u64, order: u32) -> Option<Handle<Page>> {
        self.page(frame).filter(|h| pages.get(*h).queue.get() == FREE + order)
    }

    /// The free block that `frame` lies in.
    pub(super) fn block_of<C: ChunkSource>(&self, pages: &Slab<Page, C>, frame: u64) -> Option<Block> {
        (0..ORDERS as u32).find_map(|order| {
            let start = (frame >> order) << order;
            self.starts(pages, start, order).map(|_| Block { start, order })
        })
    }

    fn link<C: ChunkSource>(&mut self, pages: &Slab<Page, C>, h: Handle<Page>, order: u32) {
        let next = self.heads[order as usize].replace(h);
        let page = pages.get(h);
        page.q_prev.set(None);
        page.q_next.set(next);
        page.queue.set(FREE + order);
        if let Some(n) = next {
            pages.get(n).q_prev.set(Some(h));
        }
        self.some |= 1 << order;
        self.free += 1 << order;
    }

    fn unlink<C: ChunkSource>(&mut self, pages: &Slab<Page, C>, h: Handle<Page>, order: u32) {
        let page = pages.get(h);
        let (next, prev) = (page.q_next.get(), page.q_prev.get());
        match prev {
            Some(p) => pages.get(p).q_next.set(next),
            None => self.heads[order as usize] = next,
        }
        if let Some(n) = next {
            pages.get(n).q_prev.set(prev);
        }
        if self.heads[order as usize].is_none() {
            self.some &= !(1 << order);
        }
        page.queue.set(0);
        self.free -= 1 << order;
    }

    /// Takes a block of that order: from the smallest that is large enough, whose
    /// upper halves stay free (Y02). At most [`ORDERS`] steps.
    pub(super) fn alloc<C: ChunkSource>(&mut self, pages: &Slab<Page, C>, order: u32) -> Option<u64> {
        let above = self.some.checked_shr(order)?;
        if above == 0 {
            return None;
        }
        let mut from = order + above.trailing_zeros();
        let h = self.heads[from as usize]?;
        let start = self.first + u64::from(h.get() - 1);
        self.unlink(pages, h, from);
        while from > order {
            from -= 1;
            if let Some(upper) = self.page(start + (1 << from)) {
                self.link(pages, upper, from);
            }
        }
        Some(start)
    }

    /// Frees a block, joining it with its buddy as long as that is free (Y03). At most
    /// [`ORDERS`] steps.
    ///
    /// => every frame of it is inside and none is free.
    pub(super) fn free<C: ChunkSource>(&mut self, pages: &Slab<Page, C>, start: u64, order: u32) {
        debug_assert!(self.block_of(pages, start).is_none(), "frame {start:#x} is freed twice");
        let (mut start, mut order) = (start, order);
        while order < LAST
            && let Some(buddy) = self.starts(pages, start ^ (1 << order), order)
        {
            self.unlink(pages, buddy, order);
            start &= !(1 << order);
            order += 1;
        }
        if let Some(h) = self.page(start) {
            self.link(pages, h, order);
        }
    }

    /// Frees a run of any length at any place (Y03 `free_contig`): as few blocks as its
    /// alignment allows.
    pub(super) fn free_run<C: ChunkSource>(&mut self, pages: &Slab<Page, C>, start: u64, frames: u64) {
        let (mut at, end) = (start, start + frames);
        while at < end {
            let order = at.trailing_zeros().min((end - at).ilog2()).min(LAST);
            self.free(pages, at, order);
            at += 1 << order;
        }
    }

    /// Takes exactly `[start, start + frames)` (Y05 `unfree`): blocks that reach beyond
    /// it keep the rest.
    ///
    /// => all of it is free.
    pub(super) fn carve<C: ChunkSource>(&mut self, pages: &Slab<Page, C>, start: u64, frames: u64) {
        let (mut at, end) = (start, start + frames);
        while at < end {
            let Some(b) = self.block_of(pages, at) else {
                debug_assert!(false, "frame {at:#x} is not free");
                return;
            };
            if let Some(h) = self.page(b.start) {
                self.unlink(pages, h, b.order);
            }
            if b.start < at {
                self.free_run(pages, b.start, at - b.start);
            }
            if b.end() > end {
                self.free_run(pages, end, b.end() - end);
            }
            at = b.end();
        }
    }

    /// The first blocks of the orders from `order` on, smallest order first, at most
    /// `each` of every order.
    pub(super) fn some_blocks<C: ChunkSource>(
        &self,
        pages: &Slab<Page, C>,
        order: u32,
        each: usize,
    ) -> impl Iterator<Item = Block> {
        (order..ORDERS as u32).flat_map(move |order| {
            core::iter::successors(self.heads[order as usize], |h| pages.get(*h).q_next.get())
                .take(each)
                .map(move |h| Block { start: self.first + u64::from(h.get() - 1), order })
        })
    }

    /// Lists against page structures: links both ways, names, places and the count, and
    /// no buddy left alone beside a free one.
    pub(super) fn check<C: ChunkSource>(&self, pages: &Slab<Page, C>) -> Result<(), &'static str> {
        let mut free = 0;
        for order in 0..ORDERS as u32 {
            let (mut at, mut before) = (self.heads[order as usize], None);
            if at.is_some() != (self.some & (1 << order) != 0) {
                return Err("which orders have free blocks");
            }
            while let Some(h) = at {
                let (page, start) = (pages.get(h), self.first + u64::from(h.get() - 1));
                if page.queue.get() != FREE + order || page.q_prev.get() != before {
                    return Err("a list of free blocks and the links or names of its pages differ");
                }
                if start & ((1 << order) - 1) != 0 || start + (1 << order) > self.end {
                    return Err("a free block is not at its place");
                }
                if order < LAST && self.starts(pages, start ^ (1 << order), order).is_some() {
                    return Err("two free buddies are not one block");
                }
                free += 1u64 << order;
                if free > self.end - self.first {
                    return Err("more free frames than there are");
                }
                (before, at) = (at, page.q_next.get());
            }
        }
        if free == self.free { Ok(()) } else { Err("the number of free frames") }
    }
}
