//! The second-chance clock over active and inactive pages (D03 to D05).
//!
//! The hand goes round the active queue. A page that was used since it last came by stays;
//! the others are unmapped and wait on the inactive queue or in the laundry, where a fault
//! still calls them back. There is no count of activity: a page was used in the last
//! round, or not.

use super::policy::{Policy, Queue, Shape, Tag, Verdict};

/// See the module text.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock;

impl Policy for Clock {
    fn name(&self) -> &'static str {
        "clock"
    }
    fn fresh(&self) -> (Queue, Tag) {
        (Queue::Active, Tag::default())
    }
    fn returned(&self, _age: Option<u32>, _limit: u64) -> (Queue, Tag) {
        (Queue::Active, Tag::default())
    }
    fn hand(&self, shape: &Shape) -> Queue {
        if shape.active != 0 { Queue::Active } else { Queue::Fresh }
    }
    fn look(&self, _from: Queue, tag: Tag, used: bool) -> Verdict {
        if used { Verdict::Keep(Queue::Active, tag) } else { Verdict::Aside(tag) }
    }
    fn called_back(&self, tag: Tag) -> (Queue, Tag) {
        (Queue::Active, tag)
    }
    fn remembers(&self, _tag: Tag) -> bool {
        false
    }
    fn passes(&self) -> u64 {
        2 // once to clear the bit of use, once to unmap
    }
}
