//! The whole-system check: the structures of a quiet system against each other.

use machvm_arena::Handle;

use crate::object::Anon;
use crate::page::QueueId;
use crate::platform::Platform;
use crate::vm::Vm;

/// What [`Vm::walk`] comes by. Numbers are handles; `refs` what the structure says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names are those of the structures")]
pub enum Seen {
    Object {
        id: u32,
        refs: u32,
        below: Option<u32>,
    },
    Inner {
        id: u32,
        refs: u32,
    },
    Leaf {
        id: u32,
        refs: u32,
    },
    Anon {
        id: u32,
        refs: u32,
        page: Option<u32>,
        swap: Option<u64>,
    },
    /// An entry of a map or of a chain, and whether it is marked as seen by others.
    Entry {
        object: u32,
        first: u64,
        pages: u64,
        shared: bool,
    },
}

impl<P: Platform> Vm<P> {
    /// Walks every entry that names an object, then every tree from its object. `f` says
    /// whether to go below a node or slot (the first time), and counts how often each is
    /// named.
    ///
    /// => nothing runs in this system.
    #[doc(hidden)]
    pub fn walk(&self, f: &mut dyn FnMut(Seen) -> bool) {
        self.entries.for_each(|_, e| {
            if let Some(o) = e.object.get() {
                let (first, pages) = (e.offset.get(), e.pages());
                f(Seen::Entry { object: o.get(), first, pages, shared: e.is_shared() });
            }
        });
        self.objects.for_each(|h, o| {
            if o.references() != 0
                && f(Seen::Object {
                    id: h.get(),
                    refs: o.references(),
                    below: o.below.get().map(Handle::get),
                })
                && let Some(inner) = o.lock.try_read(self.plat.host())
            {
                self.tree_walk(&inner.tree, f);
            }
        });
    }

    pub(crate) fn seen_anon(&self, h: Handle<Anon>) -> Seen {
        let a = self.anons.get(h);
        Seen::Anon {
            id: h.get(),
            refs: a.refs.get(),
            page: a.page().map(Handle::get),
            swap: a.swap().map(|s| s.0.get()),
        }
    }

    /// Pages against queues and anons: nothing is busy, every page is on the queue it
    /// names, belongs to an anon that names it, and is charged. Gives the number of
    /// pages in use, and of those that only holds keep.
    ///
    /// => nothing runs in this system.
    ///
    /// # Errors
    /// What is broken.
    #[doc(hidden)]
    pub fn check_pages(&self) -> Result<(u64, u64), &'static str> {
        let (mut owned, mut abandoned, mut queued, mut bad) = (0, 0, 0, None);
        self.pages.slab.for_each(|h, page| {
            let mut sure = |ok: bool, what| {
                if !ok {
                    bad = Some(what);
                }
            };
            sure(!page.busy.is_busy(), "a page is busy");
            match page.owner.get() {
                None => {
                    sure(!QueueId::names(page.queue.get()), "a page without an owner is on a queue");
                    sure(page.is_kept() == page.holds.is_abandoned(), "a page without an owner or holds");
                    sure(!page.is_kept() || !page.is_mapped(), "a page without an owner is mapped");
                    abandoned += u64::from(page.is_kept());
                }
                Some(a) => {
                    owned += 1;
                    sure(self.anons.get(a).holds(h), "a page names an anon that has another");
                    sure(self.anons.get(a).refs.get() != 0, "a page belongs to a dead anon");
                    sure(QueueId::names(page.queue.get()), "a page is on no queue");
                    sure(page.holds.count() >= page.wired.get(), "a page is wired, but not held");
                    sure(!page.holds.is_abandoned(), "a page with an owner is abandoned");
                }
            }
        });
        for q in QueueId::ALL {
            queued += self.queues.check(&self.pages, q)?;
        }
        let charged = if self.frames.is_sparse() { self.frames.charged() } else { self.check_frames()? };
        match bad {
            Some(what) => Err(what),
            None if owned != queued => Err("pages on queues and pages in use differ"),
            None if owned + abandoned != charged => Err("pages in use and charges differ"),
            None if !self.limbo_is_empty() => Err("a page is in limbo"),
            None => Ok((owned, abandoned)),
        }
    }
}
