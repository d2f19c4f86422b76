//! Memory under a policy of the core: its [`Frames`] are arrays, and [`scan`], the daemon's
//! controller and the policy are the core's own.

use machvm::pageout::{BATCH, Daemon, Frames, Policy, Queue, Shape, Tag, Written, launder_ahead, scan};
use machvm_trace::Event;

use crate::stream::Stream;

/// What a replay counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Outcome {
    /// References to pages that were not in memory.
    pub misses: u64,
    /// Of these, read from backing store.
    pub page_ins: u64,
    /// Pages written to backing store.
    pub page_outs: u64,
}

/// How a replay compares with the run that was recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Agreement {
    /// What the replay counted.
    pub replayed: Outcome,
    /// Times that contents came into memory in the run.
    pub came: u64,
    /// Of these, times that they were absent in the replay too.
    pub same: u64,
}

/// Who says when pages are freed.
#[derive(Debug)]
enum When {
    /// The trace: as many as then, at the moments it says. The limit is not looked at.
    Recorded,
    /// The daemon, as it does live, at once when it is woken.
    Daemon(Box<Daemon>),
    /// Nobody, until there is no frame for a page that is to come.
    Full,
}

const NONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Page {
    prev: u32,
    next: u32,
    queue: Option<Queue>,
    tag: Tag,
    /// There are contents: it was in memory once.
    known: bool,
    mapped: bool,
    used: bool,
    modified: bool,
    stored: bool,
    evicted: Option<u32>,
}

#[derive(Clone, Copy)]
struct List {
    head: u32,
    tail: u32,
    len: u64,
}

/// See the module text.
pub struct Memory {
    policy: &'static dyn Policy,
    limit: u64,
    when: When,
    pages: Vec<Page>,
    lists: [List; 6],
    resident: u64,
    evictions: u32,
    now: u64,
    count: Outcome,
}

/// Replays a stream with so many frames.
#[must_use]
pub fn replay(stream: &Stream, policy: &'static dyn Policy, frames: u64, daemon: bool) -> Outcome {
    let when = if daemon { When::Daemon(Box::default()) } else { When::Full };
    Memory::new(policy, frames, stream.pages, when).run(stream)
}

/// Replays a stream with the frames and the policy with which it was recorded, freeing as many
/// pages as were freed when they were: when page-out ran is the one thing that depends on
/// what else the machine did.
///
/// So the number of page-ins cannot stray far; that they are the same ([`Agreement::same`]) is
/// the policy's doing alone.
#[must_use]
pub fn as_recorded(stream: &Stream, policy: &'static dyn Policy, frames: u64) -> Agreement {
    let mut memory = Memory::new(policy, frames, stream.pages, When::Recorded);
    let mut all = Agreement::default();
    for event in &stream.events {
        if let Event::In { page, .. } = event {
            all.came += 1;
            all.same += u64::from(memory.pages[*page as usize].queue.is_none());
        }
        memory.event(*event);
    }
    Agreement { replayed: memory.count, ..all }
}

impl Memory {
    fn new(policy: &'static dyn Policy, limit: u64, pages: u32, when: When) -> Memory {
        let page = Page {
            prev: NONE,
            next: NONE,
            queue: None,
            tag: Tag::default(),
            known: false,
            mapped: false,
            used: false,
            modified: false,
            stored: false,
            evicted: None,
        };
        Memory {
            policy,
            limit: limit.max(1),
            when,
            pages: vec![page; pages as usize],
            lists: [List { head: NONE, tail: NONE, len: 0 }; 6],
            resident: 0,
            evictions: 0,
            now: 0,
            count: Outcome::default(),
        }
    }

    fn run(mut self, stream: &Stream) -> Outcome {
        for event in &stream.events {
            self.event(*event);
        }
        self.count
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::In { page, stored } => {
                let p = &mut self.pages[page as usize];
                if !p.known {
                    p.stored = stored;
                }
                if p.queue.is_none() {
                    self.load(page);
                }
            }
            Event::Used { page, write } => {
                match self.pages[page as usize].queue {
                    None => self.load(page),
                    Some(q) if q.is_aside() => {
                        let (q, tag) = self.policy.called_back(self.pages[page as usize].tag);
                        self.put(page, q, tag);
                    }
                    Some(_) => {}
                }
                let p = &mut self.pages[page as usize];
                (p.mapped, p.used) = (true, true);
                p.modified |= write;
            }
            Event::Along { page, write } => {
                let p = &mut self.pages[page as usize];
                if p.queue.is_some() {
                    p.mapped = true;
                    p.modified |= write;
                }
            }
            Event::Gone { page } => {
                if self.pages[page as usize].queue.is_some() {
                    self.unlink(page);
                    self.resident -= 1;
                }
            }
            Event::Freed { pages } => {
                if matches!(self.when, When::Recorded) {
                    scan(self.policy, self, u64::from(pages));
                }
            }
            Event::Ahead { pages } => {
                if matches!(self.when, When::Recorded) {
                    launder_ahead(self.policy, self, (pages as usize).min(BATCH));
                }
            }
            Event::Time { ms } => self.now = u64::from(ms) * 1_000_000,
        }
    }

    /// A page's contents come into memory.
    fn load(&mut self, page: u32) {
        self.count.misses += 1;
        if self.resident >= self.limit && !matches!(self.when, When::Recorded) {
            // As a fault does that finds no frame. Nothing is wired here: some page goes.
            scan(self.policy, self, BATCH as u64);
        }
        let p = &mut self.pages[page as usize];
        self.count.page_ins += u64::from(p.stored);
        let age = p.evicted.take().map(|then| self.evictions.wrapping_sub(then));
        let (q, tag) = if p.stored { self.policy.returned(age, self.limit) } else { self.policy.fresh() };
        (p.known, p.mapped, p.used, p.modified) = (true, false, false, false);
        self.resident += 1;
        self.put(page, q, tag);
        self.wake_daemon();
    }

    fn wake_daemon(&mut self) {
        let marks = Daemon::marks(self.limit);
        if self.unused() >= marks.0 {
            return;
        }
        // It stays awake until it is done, and is not woken again meanwhile.
        let mut daemon = match std::mem::replace(&mut self.when, When::Full) {
            When::Daemon(daemon) => daemon,
            other => {
                self.when = other;
                return;
            }
        };
        loop {
            let want = daemon.want(self.now, self.unused(), marks);
            if want == 0 {
                break;
            }
            let freed = scan(self.policy, self, want).freed;
            daemon.note_freed(freed);
            if freed == 0 {
                break;
            }
        }
        let (modified, clean) = (self.len(Queue::Laundry), self.len(Queue::Inactive) + self.unused());
        if daemon.is_time_to_write(self.now, (modified, clean), marks) {
            launder_ahead(self.policy, self, BATCH);
        }
        self.when = When::Daemon(daemon);
    }

    fn unused(&self) -> u64 {
        self.limit.saturating_sub(self.resident)
    }
    fn len(&self, q: Queue) -> u64 {
        self.lists[q as usize].len
    }

    fn unlink(&mut self, page: u32) {
        let Page { prev, next, queue, .. } = self.pages[page as usize];
        let Some(q) = queue else { return };
        let list = &mut self.lists[q as usize];
        list.len -= 1;
        match prev {
            NONE => list.head = next,
            p => self.pages[p as usize].next = next,
        }
        match next {
            NONE => list.tail = prev,
            n => self.pages[n as usize].prev = prev,
        }
        self.pages[page as usize].queue = None;
    }
}

impl Frames for Memory {
    type Page = u32;

    fn shape(&self) -> Shape {
        Shape {
            limit: self.limit,
            active: self.len(Queue::Active),
            fresh: self.len(Queue::Fresh),
            inactive: self.len(Queue::Inactive),
            laundry: self.len(Queue::Laundry),
        }
    }
    fn take(&mut self, q: Queue, out: &mut [Option<u32>]) -> usize {
        for (n, slot) in out.iter_mut().enumerate() {
            let head = self.lists[q as usize].head;
            if head == NONE {
                return n;
            }
            self.unlink(head);
            *slot = Some(head);
        }
        out.len()
    }
    fn put(&mut self, page: u32, q: Queue, tag: Tag) {
        self.unlink(page);
        let list = &mut self.lists[q as usize];
        let last = std::mem::replace(&mut list.tail, page);
        list.len += 1;
        match last {
            NONE => list.head = page,
            last => self.pages[last as usize].next = page,
        }
        let p = &mut self.pages[page as usize];
        (p.prev, p.next, p.queue, p.tag) = (last, NONE, Some(q), tag);
    }
    fn tag(&self, page: u32) -> Tag {
        self.pages[page as usize].tag
    }
    fn used(&mut self, page: u32) -> bool {
        std::mem::take(&mut self.pages[page as usize].used)
    }
    fn is_kept(&self, _page: u32) -> bool {
        false
    }
    fn unmap(&mut self, pages: &[Option<u32>]) {
        pages.iter().flatten().for_each(|p| self.pages[*p as usize].mapped = false);
    }
    fn is_modified(&self, page: u32) -> bool {
        self.pages[page as usize].modified
    }
    fn write(&mut self, pages: &[Option<u32>; BATCH], done: &mut [Written; BATCH]) {
        for (page, done) in pages.iter().zip(done) {
            let Some(page) = *page else { continue };
            let p = &mut self.pages[page as usize];
            (p.modified, p.stored) = (false, true);
            *done = Written::Clean;
            self.count.page_outs += 1;
        }
    }
    fn free(&mut self, page: u32, remember: bool) -> u64 {
        self.unlink(page);
        self.pages[page as usize].evicted = remember.then_some(self.evictions);
        self.evictions = self.evictions.wrapping_add(1);
        self.resident -= 1;
        1
    }
    fn flush(&mut self) {}
}
