//! The page queues (row P19); which there are: [`QueueId`].
//!
//! A page is on one queue at most. Taking it off needs the lock of the queue that
//! `page.queue` names, checked again under that lock.

use machvm_arena::Handle;
use machvm_hal::CpuId;
use machvm_sync::{Field64, Rank, Spin};

use super::arrivals::{Arrivals, is_gathered};
use super::{Page, PageTable};
use crate::pageout::Tag;
use crate::platform::Platform;

/// Which queue.
pub(crate) use crate::pageout::Queue as QueueId;

const QUEUES: usize = QueueId::ALL.len();

impl QueueId {
    /// Is this the number of a queue? `Page::queue` has other values for frames that
    /// are no page's.
    pub(crate) fn names(raw: u32) -> bool {
        (1..=QUEUES as u32).contains(&raw)
    }
    /// Is this the number of a queue of pages that are set aside?
    pub(crate) fn names_aside(raw: u32) -> bool {
        (QueueId::Inactive as u32..=QueueId::Unswappable as u32).contains(&raw)
    }
    /// The queue of that number.
    pub(crate) fn of(raw: u32) -> Option<QueueId> {
        QueueId::ALL.get((raw as usize).wrapping_sub(1)).copied()
    }
}

#[derive(Default)]
struct List {
    head: Option<Handle<Page>>,
    tail: Option<Handle<Page>>,
    len: u64,
}

/// All queues of one `Vm`.
pub(crate) struct Queues {
    lists: [Spin<List>; QUEUES],
    /// Their lengths, to be read without the lock. \[Q\] to write
    lens: [Field64; QUEUES],
    /// Pages that are to go there.
    arrivals: Arrivals,
}

impl Queues {
    pub(crate) fn new() -> Self {
        Queues {
            lists: core::array::from_fn(|_| Spin::new(Rank::PageQueue, List::default())),
            lens: core::array::from_fn(|_| Field64::new(0)),
            arrivals: Arrivals::new(),
        }
    }

    fn list(&self, q: QueueId) -> &Spin<List> {
        &self.lists[q as usize - 1]
    }

    /// How many pages are on `q`, at some moment; those that a CPU gathers are not counted
    /// ([`Queues::settle`]).
    pub(crate) fn len(&self, q: QueueId) -> u64 {
        self.lens[q as usize - 1].get()
    }
    /// Is there a page that had no room on swap?
    pub(crate) fn has_unswappable(&self) -> bool {
        self.len(QueueId::Unswappable) != 0
    }
    /// => the list is locked.
    fn note_len(&self, q: QueueId, list: &List) {
        self.lens[q as usize - 1].set(list.len);
    }

    /// Puts the page at the tail of `q`, taking it off where it was.
    ///
    /// => the page is busy.
    pub(crate) fn enqueue<P: Platform>(&self, pages: &PageTable<P>, h: Handle<Page>, q: QueueId) {
        let page = pages.get(h);
        if page.queue.get() != 0 {
            self.dequeue(pages, h);
        }
        let mut list = self.list(q).lock();
        Self::append(pages, &mut list, h, page);
        page.queue.set(q as u32);
        self.note_len(q, &list);
    }

    /// Pages that are on no queue go to the tail of `q`, sooner or later: this CPU gathers
    /// some first.
    ///
    /// => the pages are busy.
    #[inline]
    pub(crate) fn enqueue_new<P: Platform>(
        &self,
        pages: &PageTable<P>,
        cpu: CpuId,
        run: impl Iterator<Item = Handle<Page>>,
        (q, tag): (QueueId, Tag),
    ) {
        self.arrivals.gather(pages, cpu, (q as u32, tag), run, |gathered| self.link(pages, gathered));
    }

    /// Pages that CPUs have gathered go to their queues now.
    ///
    /// => no queue is locked.
    pub(crate) fn settle<P: Platform>(&self, pages: &PageTable<P>) {
        self.arrivals.flush(|gathered| self.link(pages, gathered));
    }

    /// Gathered pages go to the tails of the queues that they name, each lock taken once for
    /// a row of the same.
    #[inline(never)]
    fn link<P: Platform>(&self, pages: &PageTable<P>, gathered: &[Option<Handle<Page>>]) {
        let mut rest = gathered.iter().flatten().map(|h| (*h, pages.get(*h))).peekable();
        while let Some((_, first)) = rest.peek() {
            let name = first.queue.get();
            let Some(q) = QueueId::of(name) else { return };
            let mut list = self.list(q).lock();
            while let Some((h, page)) = rest.next_if(|(_, page)| page.queue.get() == name) {
                Self::append(pages, &mut list, h, page);
            }
            self.note_len(q, &list);
        }
    }

    /// As [`Queues::enqueue`], at the head.
    ///
    /// => the page is busy.
    pub(crate) fn enqueue_first<P: Platform>(&self, pages: &PageTable<P>, h: Handle<Page>, q: QueueId) {
        let page = pages.get(h);
        if page.queue.get() != 0 {
            self.dequeue(pages, h);
        }
        let mut list = self.list(q).lock();
        page.q_prev.set(None);
        page.q_next.set(list.head);
        match list.head {
            Some(n) => pages.get(n).q_prev.set(Some(h)),
            None => list.tail = Some(h),
        }
        list.head = Some(h);
        list.len += 1;
        page.queue.set(q as u32);
        self.note_len(q, &list);
    }

    /// Takes the page off its queue, if it is on one.
    ///
    /// => the page is busy.
    pub(crate) fn dequeue<P: Platform>(&self, pages: &PageTable<P>, h: Handle<Page>) {
        let page = pages.get(h);
        loop {
            let q = page.queue.get();
            let Some(id) = QueueId::of(q) else { return };
            if is_gathered(page, h) && self.arrivals.remove(page, h) {
                return;
            }
            let mut list = self.list(id).lock();
            if page.queue.get() != q || is_gathered(page, h) {
                continue; // moved while the lock was taken
            }
            Self::unlink(pages, &mut list, h);
            page.queue.set(0);
            self.note_len(id, &list);
            return;
        }
    }

    /// Takes the page out of the list; `page.queue` is left to the caller.
    fn unlink<P: Platform>(pages: &PageTable<P>, list: &mut List, h: Handle<Page>) {
        let page = pages.get(h);
        let (next, prev) = (page.q_next.get(), page.q_prev.get());
        match prev {
            Some(p) => pages.get(p).q_next.set(next),
            None => list.head = next,
        }
        match next {
            Some(n) => pages.get(n).q_prev.set(prev),
            None => list.tail = prev,
        }
        list.len -= 1;
    }

    /// => `page` is that of `h`.
    #[inline]
    fn append<P: Platform>(pages: &PageTable<P>, list: &mut List, h: Handle<Page>, page: &Page) {
        page.q_next.set(None);
        page.q_prev.set(list.tail);
        match list.tail {
            Some(t) => pages.get(t).q_next.set(Some(h)),
            None => list.head = Some(h),
        }
        list.tail = Some(h);
        list.len += 1;
    }

    /// Takes up to `out.len()` pages from the head of `q`, each now busy. Pages that
    /// are busy already go to the tail; at most `scan` are looked at.
    pub(crate) fn take_busy<P: Platform>(
        &self,
        pages: &PageTable<P>,
        q: QueueId,
        scan: usize,
        out: &mut [Option<Handle<Page>>],
    ) -> usize {
        let mut list = self.list(q).lock();
        let mut n = 0;
        for _ in 0..scan {
            if n == out.len() {
                break;
            }
            let Some(h) = list.head else { break };
            let page = pages.get(h);
            let got = page.busy.try_lock();
            Self::unlink(pages, &mut list, h);
            if got {
                page.queue.set(0);
                out[n] = Some(h);
                n += 1;
            } else {
                // Its holder may look at `queue` without the lock at any moment: it must
                // never seem to be on no queue.
                Self::append(pages, &mut list, h, page);
            }
        }
        self.note_len(q, &list);
        n
    }

    /// Walks a queue: links both ways, names and count. Gives the count.
    pub(crate) fn check<P: Platform>(&self, pages: &PageTable<P>, q: QueueId) -> Result<u64, &'static str> {
        self.settle(pages);
        let list = self.list(q).lock();
        let (mut at, mut before, mut n) = (list.head, None, 0);
        while let Some(h) = at {
            let page = pages.get(h);
            if page.queue.get() != q as u32 || page.q_prev.get() != before {
                return Err("a queue and the links or names of its pages differ");
            }
            n += 1;
            if n > list.len {
                return Err("a queue is longer than it says");
            }
            (before, at) = (at, page.q_next.get());
        }
        if before == list.tail && n == list.len { Ok(n) } else { Err("a queue's tail or length") }
    }
}
