//! S3-FIFO (Yang and others, SOSP 2023): a small queue for pages that are new, a main
//! queue for those that proved useful, and a memory of what was evicted lately.
//!
//! Chosen over CLOCK-Pro: it needs no evicted pages among the resident ones (CLOCK-Pro
//! keeps them in one list, which costs a structure for each), decides by constants where
//! CLOCK-Pro adapts a target, and does as well on the traces of its paper.
//!
//! What differs from the paper, because pages are not objects of a cache:
//! * A page is used many times in the moment after its fault. Uses in the small queue say
//!   nothing, as in 2Q: only a use after it was unmapped, or its return, promotes it. A
//!   program that reads a file once uses each page 4,096 times and promotes none.
//! * Use is seen when the hand comes by (bits), or when a page that waits unmapped is
//!   touched; so the count of hits rises by one a round.
//! * Memory of evictions is a number in the slot of the evicted contents, which is there
//!   anyway, so it costs no table; it reaches as far back as there are frames.

use super::policy::{Policy, Queue, Shape, Tag, Verdict};

/// The small queue holds one page in so many.
const SMALL: u64 = 10;

/// See the module text.
#[derive(Clone, Copy, Debug, Default)]
pub struct S3Fifo;

impl Policy for S3Fifo {
    fn name(&self) -> &'static str {
        "s3fifo"
    }
    fn fresh(&self) -> (Queue, Tag) {
        (Queue::Fresh, Tag { fresh: true, hits: 0 })
    }
    fn returned(&self, age: Option<u32>, limit: u64) -> (Queue, Tag) {
        match age {
            Some(age) if u64::from(age) <= limit => (Queue::Active, Tag::default()),
            _ => self.fresh(),
        }
    }
    fn hand(&self, shape: &Shape) -> Queue {
        if shape.fresh > shape.limit / SMALL || shape.active == 0 { Queue::Fresh } else { Queue::Active }
    }
    fn look(&self, from: Queue, tag: Tag, used: bool) -> Verdict {
        match from {
            Queue::Active if used => Verdict::Keep(Queue::Active, tag.hit()),
            Queue::Active if tag.hits != 0 => Verdict::Keep(Queue::Active, Tag { hits: tag.hits - 1, ..tag }),
            _ => Verdict::Aside(tag),
        }
    }
    fn called_back(&self, tag: Tag) -> (Queue, Tag) {
        if tag.fresh { (Queue::Active, Tag::default()) } else { (Queue::Active, tag.hit()) }
    }
    /// What was in the main queue had its chance; remembering it too, a loop that does not
    /// fit would push itself out.
    fn remembers(&self, tag: Tag) -> bool {
        tag.fresh
    }
    fn passes(&self) -> u64 {
        u64::from(Tag::MOST) + 3 // used now, hits taken one by one, and the last
    }
}
