//! Pages on their way to a queue: each CPU gathers some before it takes the queue's lock
//! (`struct vm_batchqueue`, vm_page.h), so that CPUs that fault do not meet there.
//!
//! A page that is gathered has its queue's name already and is linked to itself
//! ([`is_gathered`]); it is in one batch, until that is flushed or the page is taken out.
//! Who walks a queue has all batches flushed first ([`Queues::settle`]).
//!
//! [`Queues::settle`]: super::queue::Queues::settle

use machvm_arena::Handle;
use machvm_hal::CpuId;
use machvm_sync::{Field32, Rank, Spin};

use super::{Page, PageTable};
use crate::pageout::Tag;
use crate::platform::Platform;

/// Pages a batch holds.
const PAGES: usize = 15;
/// Batches: CPUs beyond share them.
const BATCHES: usize = 16;

/// Is it in a batch? A hint to who is not its busy owner.
///
/// => `page` is that of `h`, and on a queue by name.
#[inline]
pub(super) fn is_gathered(page: &Page, h: Handle<Page>) -> bool {
    page.q_prev.get() == Some(h)
}

#[derive(Default)]
struct Gathered {
    pages: [Option<Handle<Page>>; PAGES],
    n: usize,
}

/// One for each CPU, in cache lines of its own.
#[repr(align(128))]
struct Batch {
    gathered: Spin<Gathered>,
    /// How many there are, to be read without the lock. \[A\] to write
    n: Field32,
}

/// See the module text.
pub(super) struct Arrivals([Batch; BATCHES]);

impl Arrivals {
    pub(super) fn new() -> Self {
        let batch = || Batch { gathered: Spin::new(Rank::Arrivals, Gathered::default()), n: Field32::new(0) };
        Arrivals(core::array::from_fn(|_| batch()))
    }

    fn of(&self, cpu: CpuId) -> &Batch {
        &self.0[usize::from(cpu.0) % BATCHES]
    }

    /// Gathers pages that are on no queue; `link` gets those that were gathered before, in
    /// order, whenever a batch is full.
    ///
    /// => the pages are busy.
    #[inline]
    pub(super) fn gather<P: Platform>(
        &self,
        pages: &PageTable<P>,
        cpu: CpuId,
        (q, tag): (u32, Tag),
        run: impl Iterator<Item = Handle<Page>>,
        mut link: impl FnMut(&[Option<Handle<Page>>]),
    ) {
        let batch = self.of(cpu);
        let mut g = batch.gathered.lock();
        for h in run {
            let page = pages.get(h);
            page.set_tag(tag);
            page.q_prev.set(Some(h));
            page.queue.set(q);
            let at = g.n;
            g.pages[at] = Some(h);
            g.n += 1;
            if g.n == PAGES {
                link(&g.pages);
                g.n = 0;
            }
        }
        batch.n.set(g.n as u32);
    }

    /// Hands all that is gathered to `link`, batch by batch.
    pub(super) fn flush(&self, mut link: impl FnMut(&[Option<Handle<Page>>])) {
        for batch in self.0.iter().filter(|b| b.n.get() != 0) {
            let mut g = batch.gathered.lock();
            link(&g.pages[..g.n]);
            g.n = 0;
            batch.n.set(0);
        }
    }

    /// Takes a page out of its batch; it is on no queue then. `false`: its batch was flushed
    /// meanwhile.
    ///
    /// => it is busy.
    pub(super) fn remove(&self, page: &Page, h: Handle<Page>) -> bool {
        for batch in self.0.iter().filter(|b| b.n.get() != 0) {
            let mut g = batch.gathered.lock();
            let n = g.n;
            if let Some(at) = g.pages[..n].iter().position(|p| *p == Some(h)) {
                g.pages.copy_within(at + 1..n, at);
                g.n -= 1;
                batch.n.set(g.n as u32);
                page.queue.set(0);
                return true;
            }
        }
        false
    }
}
