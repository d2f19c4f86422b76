//! The scan: carries out what a policy decides, over any [`Frames`].
//!
//! One round frees a number of pages from those set aside, and sets others aside in their
//! place. What is set aside now is freed by a later round: until then a fault may call it
//! back.

use super::policy::{Policy, Queue, Shape, Tag, Verdict};

/// Pages looked at together: their mappings go in few calls and their frames in one.
pub const BATCH: usize = 32;

/// What became of a page that was to be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Written {
    /// Its contents are where they belong.
    Clean,
    /// There is no room (`VM_PAGER_FAIL`): it is unswappable.
    NoRoom,
    /// It could not be written this time (`VM_PAGER_ERROR`): it stays in use and modified.
    Failed,
}

/// Pages in memory, as a scan sees them: those of a [`Vm`](crate::Vm), or a simulator's.
pub trait Frames {
    /// Names a page.
    type Page: Copy;

    /// How the pages are spread.
    fn shape(&self) -> Shape;
    /// Takes pages from the head of a queue, up to `out.len()`; gives how many. They are
    /// the caller's until they are put back or freed. Twice [`BATCH`] are tried, and those
    /// that are somebody else's go to the tail.
    fn take(&mut self, q: Queue, out: &mut [Option<Self::Page>]) -> usize;
    /// Puts a page at the tail of a queue and lets it go.
    fn put(&mut self, page: Self::Page, q: Queue, tag: Tag);
    /// What the policy noted.
    fn tag(&self, page: Self::Page) -> Tag;
    /// Was it used since this was asked last?
    fn used(&mut self, page: Self::Page) -> bool;
    /// Must it stay in memory: wired, or held for I/O?
    fn is_kept(&self, page: Self::Page) -> bool;
    /// Takes all mappings of these pages away. Called once after each series of
    /// [`Frames::used`].
    fn unmap(&mut self, pages: &[Option<Self::Page>]);
    /// Do its contents differ from those on backing store?
    ///
    /// => it is mapped nowhere.
    fn is_modified(&self, page: Self::Page) -> bool;
    /// Writes modified pages; what became of each is in `done`.
    ///
    /// => they are mapped nowhere.
    fn write(&mut self, pages: &[Option<Self::Page>; BATCH], done: &mut [Written; BATCH]);
    /// Frees a clean page; its eviction is remembered or not. Gives how many frames came
    /// free: none when the page lost its owner meanwhile.
    fn free(&mut self, page: Self::Page, remember: bool) -> u64;
    /// Ends a series of [`Frames::free`].
    fn flush(&mut self);
}

/// What a scan did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Scanned {
    /// Frames that came free.
    pub freed: u64,
    /// Of these, clean when their turn came.
    pub dropped: u64,
    /// Pages looked at.
    pub looked: u64,
    /// Pages unmapped to see whether they are used.
    pub aside: u64,
    /// Pages written because they were needed (D06, shortfall).
    pub written: u64,
    /// Pages that could not be written.
    pub refused: u64,
}

type Batch<F> = [Option<<F as Frames>::Page>; BATCH];

/// Pages of each of the two queues in use that a scan may still look at.
struct Budget {
    active: u64,
    fresh: u64,
}

impl Budget {
    fn of(&mut self, q: Queue) -> &mut u64 {
        if q == Queue::Fresh { &mut self.fresh } else { &mut self.active }
    }
}

/// Frees up to `want` pages. Fewer: what is left is kept, somebody else's, or modified
/// with no room to write it.
pub fn scan<F: Frames>(policy: &dyn Policy, f: &mut F, want: u64) -> Scanned {
    let mut s = Scanned::default();
    let shape = f.shape();
    let most = |pages: u64| policy.passes() * pages + 4 * BATCH as u64;
    let mut budget = Budget { active: most(shape.active), fresh: most(shape.fresh) };
    let mut idle = 0;
    loop {
        let before = s.freed;
        if s.freed < want {
            reap(policy, f, want - s.freed, &mut s);
        }
        let shape = f.shape();
        let short = shape.aside() < shape.aside_target();
        if s.freed >= want && !short {
            return s;
        }
        let stuck = s.freed == before;
        let goes_on = (short || stuck) && advance(policy, f, &shape, &mut budget, &mut s);
        if stuck && !goes_on {
            // Behind those that are somebody else's there may be others.
            idle += 1;
            if s.freed >= want || idle > 2 + shape.aside() {
                return s;
            }
        }
    }
}

/// Frees a batch of what was set aside: clean and modified pages in proportion, so that
/// how long a page waits does not depend on which it is.
fn reap<F: Frames>(policy: &dyn Policy, f: &mut F, want: u64, s: &mut Scanned) {
    let shape = f.shape();
    let (n, all, before) = (want.min(BATCH as u64), shape.aside().max(1), s.freed);
    let modified = (n * shape.laundry + all / 2) / all;
    if modified < n {
        free_inactive(policy, f, (n - modified) as usize, s);
    }
    if modified != 0 {
        launder(policy, f, (modified as usize, Then::Free), s);
    }
    // Those of one queue may all be somebody else's.
    if s.freed == before {
        free_inactive(policy, f, n as usize, s);
    }
    if s.freed == before && modified < n {
        launder(policy, f, (n as usize, Then::Free), s);
    }
    f.flush();
}

/// The hand goes on by a batch. `false`: it has been everywhere.
fn advance<F: Frames>(
    policy: &dyn Policy,
    f: &mut F,
    shape: &Shape,
    budget: &mut Budget,
    s: &mut Scanned,
) -> bool {
    let first = policy.hand(shape);
    let second = if first == Queue::Fresh { Queue::Active } else { Queue::Fresh };
    let open = |budget: &mut Budget, q| *budget.of(q) != 0 && shape.mapped(q) != 0;
    let Some(q) = [first, second].into_iter().find(|q| open(budget, *q)) else { return false };
    let looked = deactivate(policy, f, q, s);
    let left = budget.of(q);
    // Nothing was taken: those at the head are somebody else's, and now at the tail.
    *left = left.saturating_sub(if looked == 0 { 2 * BATCH as u64 } else { looked });
    true
}

/// Looks at a batch of pages in use; gives how many were looked at.
fn deactivate<F: Frames>(policy: &dyn Policy, f: &mut F, q: Queue, s: &mut Scanned) -> u64 {
    let mut batch: Batch<F> = [None; BATCH];
    let n = f.take(q, &mut batch);
    let mut tags = [Tag::default(); BATCH];
    for (slot, tag) in batch[..n].iter_mut().zip(&mut tags) {
        let Some(page) = *slot else { continue };
        let (old, used) = (f.tag(page), f.used(page));
        // Wired or held: no business here. Nobody holds it from now on, since it is the
        // caller's (Z78).
        let verdict = if f.is_kept(page) { Verdict::Keep(q, old) } else { policy.look(q, old, used) };
        match verdict {
            Verdict::Keep(to, new) => {
                f.put(page, to, new);
                *slot = None;
            }
            Verdict::Aside(new) => *tag = new,
        }
    }
    f.unmap(&batch[..n]);
    for (page, tag) in batch[..n].iter().zip(tags) {
        let Some(page) = *page else { continue };
        // After the unmapping: nobody writes any more (D04, Z74).
        let to = if f.is_modified(page) { Queue::Laundry } else { Queue::Inactive };
        f.put(page, to, tag);
        s.aside += 1;
    }
    s.looked += n as u64;
    n as u64
}

/// Takes up to `most` pages that were set aside; those used meanwhile, wired or held go
/// back, the rest is unmapped and the caller's.
fn take_unused<F: Frames>(
    policy: &dyn Policy,
    f: &mut F,
    (q, most): (Queue, usize),
    batch: &mut Batch<F>,
    s: &mut Scanned,
) -> usize {
    let n = f.take(q, &mut batch[..most.min(BATCH)]);
    for slot in &mut batch[..n] {
        let Some(page) = *slot else { continue };
        let (used, tag) = (f.used(page), f.tag(page));
        if used || f.is_kept(page) {
            let (to, tag) = policy.called_back(tag);
            f.put(page, to, tag);
            *slot = None;
        }
    }
    f.unmap(&batch[..n]);
    s.looked += n as u64;
    n
}

/// Frees clean pages that were set aside.
fn free_inactive<F: Frames>(policy: &dyn Policy, f: &mut F, most: usize, s: &mut Scanned) {
    let mut batch: Batch<F> = [None; BATCH];
    let n = take_unused(policy, f, (Queue::Inactive, most), &mut batch, s);
    for page in batch[..n].iter().flatten() {
        let tag = f.tag(*page);
        if f.is_modified(*page) {
            f.put(*page, Queue::Laundry, tag);
        } else {
            let freed = f.free(*page, policy.remembers(tag));
            s.freed += freed;
            s.dropped += freed;
        }
    }
}

/// Writes up to `most` pages of the laundry ahead of their turn; they are inactive then,
/// and still wait (D06, background).
pub fn launder_ahead<F: Frames>(policy: &dyn Policy, f: &mut F, most: usize) -> Scanned {
    let mut s = Scanned::default();
    launder(policy, f, (most, Then::Wait), &mut s);
    s
}

/// What becomes of pages that were written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    /// They are freed.
    Free,
    /// They are inactive.
    Wait,
}

/// Writes up to `most` pages of the laundry.
fn launder<F: Frames>(policy: &dyn Policy, f: &mut F, (most, then): (usize, Then), s: &mut Scanned) {
    let mut batch: Batch<F> = [None; BATCH];
    let n = take_unused(policy, f, (Queue::Laundry, most), &mut batch, s);
    if batch[..n].iter().all(Option::is_none) {
        return;
    }
    let mut done = [Written::Clean; BATCH];
    f.write(&batch, &mut done);
    for (page, done) in batch[..n].iter().zip(done) {
        let Some(page) = *page else { continue };
        let tag = f.tag(page);
        match done {
            Written::Clean => {
                s.written += 1;
                match then {
                    Then::Free => s.freed += f.free(page, policy.remembers(tag)),
                    Then::Wait => f.put(page, Queue::Inactive, tag),
                }
            }
            Written::NoRoom => {
                s.refused += 1;
                f.put(page, Queue::Unswappable, tag);
            }
            Written::Failed => {
                s.refused += 1;
                f.put(page, Queue::Active, tag);
            }
        }
    }
}

/// Room to write came back: up to `most` unswappable pages are to be written again. Gives
/// how many.
pub fn retry_unswappable<F: Frames>(f: &mut F, most: u64) -> u64 {
    let mut moved = 0;
    while moved < most {
        let mut batch: Batch<F> = [None; BATCH];
        let n = (most - moved).min(BATCH as u64) as usize;
        let n = f.take(Queue::Unswappable, &mut batch[..n]);
        if n == 0 {
            break;
        }
        for page in batch[..n].iter().flatten() {
            let tag = f.tag(*page);
            f.put(*page, Queue::Laundry, tag);
        }
        moved += n as u64;
    }
    moved
}
