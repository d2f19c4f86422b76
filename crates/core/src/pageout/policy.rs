//! Which page goes next: the decisions of page replacement, apart from what carries them
//! out.
//!
//! A [`Policy`] is asked at five moments of a page's stay in memory and has no state of its
//! own: what it needs to know of a page is in the page's [`Tag`] and [`Queue`], and, when
//! the page comes back, how many others were evicted since it was. So the same policy
//! serves the pages of a [`Vm`](crate::Vm), and the arrays of a simulator, under
//! [`scan`](super::scan()), which is the same code for both ([`Frames`](super::Frames)).
//!
//! ```text
//!  fresh, returned ---> Fresh, Active --hand, look---> unmapped: Inactive, Laundry --> evicted
//!                            ^                               |                      (remembers)
//!                            +--------- called_back ---------+
//! ```

/// The page queues (row P19). A page is on one at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Queue {
    /// In use as far as known.
    Active = 1,
    /// In memory for the first time, and mapped; for policies that tell these apart.
    Fresh = 2,
    /// Unmapped and clean: can be freed at once.
    Inactive = 3,
    /// Unmapped and modified: must be written first.
    Laundry = 4,
    /// Modified, and there was no room to write it (D09).
    Unswappable = 5,
}

impl Queue {
    /// Every queue.
    pub const ALL: [Queue; 5] =
        [Queue::Active, Queue::Fresh, Queue::Inactive, Queue::Laundry, Queue::Unswappable];

    /// Are its pages set aside, so that a use of one is news?
    pub const fn is_aside(self) -> bool {
        matches!(self, Queue::Inactive | Queue::Laundry | Queue::Unswappable)
    }
}

/// What a policy keeps with each page: three bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tag {
    /// It was not used again since it came in.
    pub fresh: bool,
    /// How often it was found used, at most [`Tag::MOST`].
    pub hits: u8,
}

impl Tag {
    /// The highest count.
    pub const MOST: u8 = 3;

    /// As a number below eight.
    pub const fn bits(self) -> u32 {
        self.fresh as u32 | (self.hits as u32 & 3) << 1
    }
    /// The tag of that number; higher bits say nothing.
    pub const fn from_bits(bits: u32) -> Tag {
        Tag { fresh: bits & 1 != 0, hits: (bits >> 1 & 3) as u8 }
    }
    /// One use more.
    #[must_use]
    pub const fn hit(self) -> Tag {
        let hits = if self.hits < Tag::MOST { self.hits + 1 } else { Tag::MOST };
        Tag { hits, ..self }
    }
}

/// How pages are spread over the queues, at some moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Shape {
    /// Frames that may be resident.
    pub limit: u64,
    /// Pages on [`Queue::Active`].
    pub active: u64,
    /// Pages on [`Queue::Fresh`].
    pub fresh: u64,
    /// Pages on [`Queue::Inactive`].
    pub inactive: u64,
    /// Pages on [`Queue::Laundry`].
    pub laundry: u64,
}

impl Shape {
    /// Pages that wait unmapped.
    pub const fn aside(&self) -> u64 {
        self.inactive + self.laundry
    }
    /// How many should: enough to notice use, few enough to keep refaults cheap. One
    /// eighth; of a small memory a batch, but at most a quarter.
    pub fn aside_target(&self) -> u64 {
        (self.limit / 8).max(super::BATCH as u64).min(self.limit / 4)
    }
    /// Pages on a queue of those in use.
    pub const fn mapped(&self, q: Queue) -> u64 {
        match q {
            Queue::Active => self.active,
            Queue::Fresh => self.fresh,
            _ => 0,
        }
    }
}

/// What is done with a page that was looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It stays mapped, at the end of that queue.
    Keep(Queue, Tag),
    /// It is unmapped and set aside; if nobody uses it until its turn comes, it goes.
    Aside(Tag),
}

/// Page replacement. See the module text.
pub trait Policy: Sync {
    /// What users call it.
    fn name(&self) -> &'static str;
    /// A page with contents that never were in memory before.
    fn fresh(&self) -> (Queue, Tag);
    /// A page whose contents were in memory. `age`: how many pages were evicted since it
    /// was, if that was remembered; `limit`: frames that may be resident.
    fn returned(&self, age: Option<u32>, limit: u64) -> (Queue, Tag);
    /// From which of [`Queue::Active`] and [`Queue::Fresh`] pages are set aside next.
    fn hand(&self, shape: &Shape) -> Queue;
    /// What to do with a page at the head of `from`, which somebody used since this was
    /// asked last, or not.
    fn look(&self, from: Queue, tag: Tag, used: bool) -> Verdict;
    /// A page that was set aside is used again.
    fn called_back(&self, tag: Tag) -> (Queue, Tag);
    /// Is the eviction of such a page remembered, for [`Policy::returned`]?
    fn remembers(&self, tag: Tag) -> bool;
    /// How often a page is looked at, at most, until it is set aside.
    fn passes(&self) -> u64;
}

/// The policies that come with the system.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Replacement {
    /// [`Clock`](super::Clock).
    #[default]
    Clock,
    /// [`S3Fifo`](super::S3Fifo).
    S3Fifo,
}

impl Replacement {
    /// Every one.
    pub const ALL: [Replacement; 2] = [Replacement::Clock, Replacement::S3Fifo];

    /// The policy itself.
    pub const fn policy(self) -> &'static dyn Policy {
        match self {
            Replacement::Clock => &super::Clock,
            Replacement::S3Fifo => &super::S3Fifo,
        }
    }
    /// The one that users call so.
    pub fn named(name: &str) -> Option<Replacement> {
        Replacement::ALL.into_iter().find(|r| r.policy().name() == name)
    }
}
