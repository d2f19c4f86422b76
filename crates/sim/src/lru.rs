//! LRU, exactly and for every size of memory at once (Mattson and others, 1970).
//!
//! All pages are on a stack, the last used one on top. A page at depth d is in a memory of d
//! pages or more, whatever their number, so one histogram of depths says all. What ends
//! (its contents are unmapped) leaves a *hole*: in memories that held it a frame is free, and
//! the next page that comes there pushes nothing out. So pages that move down fill the
//! topmost hole, and the hole moves to where the page that was used came from.
//!
//! Depths are counted by a Fenwick tree over the moments of last use.

use std::collections::BTreeSet;

use crate::memory::Outcome;
use crate::stream::Use;

/// Distances of all references; see the module text.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Stack {
    /// References found at depth i + 1, and of these such that a miss is a page-in.
    depths: Vec<(u64, u64)>,
    /// The same of pages that were not on the stack.
    first: (u64, u64),
}

impl Stack {
    /// Goes through all uses of pages below `pages`.
    #[must_use]
    pub fn new(uses: &[Use], pages: u32) -> Stack {
        let mut walk = Walk::new(pages);
        uses.iter().for_each(|one| walk.one(*one));
        walk.out
    }

    /// What LRU does in so many pages.
    #[must_use]
    pub fn outcome(&self, frames: u64) -> Outcome {
        let skip = usize::try_from(frames.max(1)).unwrap_or(usize::MAX).min(self.depths.len());
        let deeper = self.depths[skip..].iter();
        let (misses, page_ins) = deeper.fold(self.first, |all, d| (all.0 + d.0, all.1 + d.1));
        Outcome { misses, page_ins, page_outs: 0 }
    }
}

/// No slot.
const NONE: u32 = 0;

struct Walk {
    out: Stack,
    /// Entries of slots, from 1 on: a page or a hole each, or nothing.
    tree: Vec<u32>,
    next: u32,
    entries: u32,
    /// Where a page is.
    slot: Vec<u32>,
    holes: BTreeSet<u32>,
}

impl Walk {
    fn new(pages: u32) -> Walk {
        Walk {
            out: Stack::default(),
            tree: vec![0; 1 << 12],
            next: 1,
            entries: 0,
            slot: vec![NONE; pages as usize],
            holes: BTreeSet::new(),
        }
    }

    fn add(&mut self, slot: u32, by: i32) {
        let mut i = slot as usize;
        while i < self.tree.len() {
            self.tree[i] = self.tree[i].wrapping_add_signed(by);
            i += i & i.wrapping_neg();
        }
    }

    /// Entries in slots up to this one.
    fn below(&self, slot: u32) -> u32 {
        let (mut i, mut n) = (slot as usize, 0);
        while i != 0 {
            n += self.tree[i];
            i &= i - 1;
        }
        n
    }

    fn one(&mut self, one: Use) {
        let page = one.page() as usize;
        let slot = self.slot[page];
        if one.is_gone() {
            if slot != NONE {
                self.slot[page] = NONE;
                self.holes.insert(slot);
            }
            return;
        }
        let count = if slot == NONE {
            &mut self.out.first
        } else {
            let depth = (self.entries - self.below(slot - 1)) as usize;
            let depths = &mut self.out.depths;
            depths.resize(depths.len().max(depth), (0, 0));
            &mut depths[depth - 1]
        };
        count.0 += 1;
        count.1 += u64::from(one.is_stored());
        // The topmost hole above where the page was is filled by those that move down.
        let hole = self.holes.last().copied().filter(|hole| *hole > slot);
        let empty = hole.unwrap_or(slot);
        if let Some(hole) = hole {
            self.holes.remove(&hole);
            if slot != NONE {
                self.holes.insert(slot);
            }
        }
        if empty != NONE {
            self.add(empty, -1);
            self.entries -= 1;
        }
        self.slot[page] = NONE;
        if self.next as usize == self.tree.len() {
            self.pack();
        }
        self.add(self.next, 1);
        self.slot[page] = self.next;
        self.next += 1;
        self.entries += 1;
    }

    /// Numbers the slots in use anew, with as much room again.
    fn pack(&mut self) {
        let mut used: Vec<(u32, Option<usize>)> = self.holes.iter().map(|h| (*h, None)).collect();
        let pages = self.slot.iter().enumerate().filter(|(_, slot)| **slot != NONE);
        used.extend(pages.map(|(page, slot)| (*slot, Some(page))));
        used.sort_unstable_by_key(|(slot, _)| *slot);
        self.tree = vec![0; (4 * used.len()).max(1 << 12)];
        self.holes.clear();
        self.next = 1;
        for (_, page) in used {
            match page {
                Some(page) => self.slot[page] = self.next,
                None => drop(self.holes.insert(self.next)),
            }
            self.add(self.next, 1);
            self.next += 1;
        }
    }
}
