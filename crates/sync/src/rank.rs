//! The lock order.

/// The lock order: take only higher. The table in `LOCKING.md` is checked against
/// this by a test.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Rank {
    /// A map. Sleeps. Two maps: only by try, or parent before child.
    Map = 10,
    /// An object. Sleeps.
    Object = 20,
    /// Table of pager requests.
    PagerTable = 30,
    /// A pmap or a part of one.
    Pmap = 40,
    /// The mappings of a page.
    Pv = 50,
    /// A page queue.
    PageQueue = 60,
    /// A slab of an arena.
    Slab = 65,
    /// Free frames.
    Free = 70,
    /// Shootdown mailboxes.
    Shootdown = 80,
    /// Leaves of the embedder's own (waiting queues); nothing below.
    Leaf = 90,
}

impl Rank {
    /// Does a thread that waits for this lock sleep?
    pub const fn sleeps(self) -> bool {
        matches!(self, Rank::Map | Rank::Object)
    }
}
