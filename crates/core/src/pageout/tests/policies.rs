extern crate std;

use std::collections::VecDeque;
use std::vec::Vec;

use crate::pageout::{BATCH, Frames, Policy, Queue, Replacement, Shape, Tag, Written, scan};

/// What an array knows of a page.
#[derive(Clone, Copy, Default)]
struct State {
    resident: bool,
    queue: Option<Queue>,
    tag: Tag,
    mapped: bool,
    used: bool,
    modified: bool,
    wired: bool,
    busy: bool,
    evicted: Option<u32>,
}

/// A memory of `limit` frames for an array of pages.
struct Memory {
    policy: &'static dyn Policy,
    /// The machine notes every use; else only faults tell.
    bits: bool,
    limit: u64,
    pages: Vec<State>,
    queues: [VecDeque<u32>; 6],
    resident: u64,
    evictions: u32,
    /// Pages that swap has room for.
    room: u64,
    /// This page is written to right after it was asked whether it is used.
    racer: Option<u32>,
    misses: u64,
}

impl Memory {
    fn new(r: Replacement, bits: bool, limit: u64, pages: usize) -> Self {
        Memory {
            policy: r.policy(),
            bits,
            limit,
            pages: std::vec![State::default(); pages],
            queues: Default::default(),
            resident: 0,
            evictions: 0,
            room: u64::MAX,
            racer: None,
            misses: 0,
        }
    }

    fn place(&mut self, page: u32, (q, tag): (Queue, Tag)) {
        let s = &mut self.pages[page as usize];
        if let Some(old) = s.queue {
            self.queues[old as usize].retain(|p| *p != page);
        }
        (s.queue, s.tag) = (Some(q), tag);
        self.queues[q as usize].push_back(page);
    }

    /// A reference. `false`: it missed, and nothing could be freed for it.
    fn access(&mut self, page: u32, write: bool) -> bool {
        let s = self.pages[page as usize];
        if !s.resident {
            self.misses += 1;
            if self.resident == self.limit && scan(self.policy, self, 1).freed == 0 {
                return false;
            }
            self.resident += 1;
            let age = s.evicted.map(|then| self.evictions.wrapping_sub(then));
            let to = match age {
                None if s.queue.is_none() => self.policy.fresh(),
                age => self.policy.returned(age, self.limit),
            };
            self.place(page, to);
        } else if !s.mapped && s.queue.is_some_and(Queue::is_aside) {
            let to = self.policy.called_back(s.tag);
            self.place(page, to);
        }
        let bits = self.bits;
        let s = &mut self.pages[page as usize];
        s.used |= bits || !s.mapped;
        (s.resident, s.mapped) = (true, true);
        s.modified |= write;
        true
    }

    fn check(&self) {
        let queued: usize = self.queues.iter().map(VecDeque::len).sum();
        assert_eq!(queued as u64, self.resident);
        assert_eq!(self.pages.iter().filter(|p| p.resident).count() as u64, self.resident);
        assert!(self.resident <= self.limit);
    }
}

impl Frames for Memory {
    type Page = u32;

    fn shape(&self) -> Shape {
        let len = |q| self.queues[q as usize].len() as u64;
        Shape {
            limit: self.limit,
            active: len(Queue::Active),
            fresh: len(Queue::Fresh),
            inactive: len(Queue::Inactive),
            laundry: len(Queue::Laundry),
        }
    }
    fn take(&mut self, q: Queue, out: &mut [Option<u32>]) -> usize {
        let list = &mut self.queues[q as usize];
        let mut n = 0;
        for _ in 0..2 * BATCH {
            if n == out.len() {
                break;
            }
            let Some(page) = list.pop_front() else { break };
            if self.pages[page as usize].busy {
                list.push_back(page);
            } else {
                out[n] = Some(page);
                n += 1;
            }
        }
        n
    }
    fn put(&mut self, page: u32, q: Queue, tag: Tag) {
        self.pages[page as usize].queue = None;
        self.place(page, (q, tag));
    }
    fn tag(&self, page: u32) -> Tag {
        self.pages[page as usize].tag
    }
    fn used(&mut self, page: u32) -> bool {
        let s = &mut self.pages[page as usize];
        let was = std::mem::take(&mut s.used);
        if self.racer == Some(page) && s.mapped {
            (s.modified, s.used) = (true, true);
        }
        was
    }
    fn is_kept(&self, page: u32) -> bool {
        self.pages[page as usize].wired
    }
    fn unmap(&mut self, pages: &[Option<u32>]) {
        pages.iter().flatten().for_each(|p| self.pages[*p as usize].mapped = false);
    }
    fn is_modified(&self, page: u32) -> bool {
        assert!(!self.pages[page as usize].mapped, "who writes later is not seen");
        self.pages[page as usize].modified
    }
    fn write(&mut self, pages: &[Option<u32>; BATCH], done: &mut [Written; BATCH]) {
        for (page, done) in pages.iter().zip(done) {
            let Some(page) = *page else { continue };
            let s = &mut self.pages[page as usize];
            assert!(!s.mapped && !s.wired && !s.busy);
            if self.room == 0 {
                *done = Written::NoRoom;
            } else {
                self.room -= 1;
                s.modified = false;
            }
        }
    }
    fn free(&mut self, page: u32, remember: bool) -> u64 {
        let s = &mut self.pages[page as usize];
        assert!(s.resident && !s.modified && !s.wired && !s.busy && !s.mapped, "page {page} is evicted");
        *s = State { evicted: remember.then_some(self.evictions), queue: s.queue, ..State::default() };
        self.evictions = self.evictions.wrapping_add(1);
        self.resident -= 1;
        1
    }
    fn flush(&mut self) {}
}

struct Rng(u64);
impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }
}

/// Misses of a hot set of pages while others are read once, and between these.
fn hot_set_under_a_scan(r: Replacement, bits: bool) -> (u64, u64) {
    const LIMIT: u64 = 1000;
    const HOT: u64 = 500;
    let mut m = Memory::new(r, bits, LIMIT, 40_000);
    let mut rng = Rng(3);
    // It becomes hot before the scan begins, with some memory pressure.
    for n in 0..20_000u64 {
        m.access(rng.below(HOT) as u32, false);
        if n % 8 == 0 {
            m.access((HOT + n / 8) as u32, false);
        }
    }
    let before = m.misses;
    let (mut hot, mut references) = (0, 0);
    // Ten pages of the scan for each reference to the hot set.
    for page in 5_000..39_000u32 {
        // A program touches what it reads more than once.
        (0..4).for_each(|_| assert!(m.access(page, false)));
        if page % 10 == 0 {
            let misses = m.misses;
            m.access(rng.below(HOT) as u32, false);
            hot += m.misses - misses;
            references += 1;
        }
    }
    assert!(before < 20_000);
    m.check();
    (hot, references)
}

// S3-FIFO is there for this: what is read once does not push out what is in use. The clock
// cannot help it.
#[test]
fn d03_s3fifo_keeps_a_hot_set_through_a_scan() {
    for bits in [true, false] {
        let (clock, of) = hot_set_under_a_scan(Replacement::Clock, bits);
        let (s3, _) = hot_set_under_a_scan(Replacement::S3Fifo, bits);
        assert!(s3 * 10 < of, "bits {bits}: {s3} of {of} references to the hot set missed");
        assert!(clock > 3 * s3.max(1), "bits {bits}: the clock missed {clock}, S3-FIFO {s3}");
    }
}

// A working set that fits stays, whatever the policy.
#[test]
fn d05_what_fits_stays() {
    for r in Replacement::ALL {
        for bits in [true, false] {
            let mut m = Memory::new(r, bits, 400, 400);
            let mut rng = Rng(5);
            (0..20_000).for_each(|_| assert!(m.access(rng.below(400) as u32, true)));
            assert_eq!(m.misses, 400);
        }
    }
}

// A write between the look at the bit of use and the unmapping is not lost (Z74): that a page is
// modified is asked after it was unmapped (asserted where it is asked), and one that is modified
// is not dropped (asserted where pages are freed).
#[test]
fn d04_a_write_before_the_unmapping_is_seen() {
    for r in Replacement::ALL {
        let mut m = Memory::new(r, true, 64, 64);
        (0..64).for_each(|p| assert!(m.access(p, false)));
        (m.racer, m.room) = (Some(7), 0);
        while scan(m.policy, &mut m, 64).freed != 0 {}
        assert_eq!(m.resident, 1, "{r:?}");
        assert!(m.pages[7].modified);
        (m.racer, m.room) = (None, 1);
        super::super::retry_unswappable(&mut m, 1);
        while scan(m.policy, &mut m, 64).freed != 0 {}
        assert_eq!((m.resident, m.room), (0, 0), "{r:?}");
    }
}

// Wired and busy pages are never evicted (asserted where pages are freed), and when any other
// page can go, one goes.
#[test]
fn d03_d05_a_victim_is_found_when_there_is_one() {
    for seed in 1..=60 {
        let mut rng = Rng(seed * 0x9e37_79b9);
        let limit = 1 + rng.below(300);
        let r = Replacement::ALL[seed as usize % 2];
        let mut m = Memory::new(r, rng.below(2) == 0, limit, 1000);
        for step in 0..1500 {
            let page = rng.below(1000) as usize;
            match rng.below(12) {
                0 if m.pages[page].resident => m.pages[page].wired = rng.below(3) != 0,
                1 if m.pages[page].resident => m.pages[page].busy = rng.below(3) != 0,
                2 => m.room = [0, 5, u64::MAX][rng.below(3) as usize],
                _ => {}
            }
            let can_go = |s: &State| s.resident && !s.wired && !s.busy;
            let clean = m.pages.iter().any(|s| can_go(s) && !s.modified);
            let dirty = m.room >= limit && m.pages.iter().any(can_go);
            let free = m.resident < m.limit;
            if dirty && !clean && !free {
                super::super::retry_unswappable(&mut m, u64::MAX);
            }
            let got = m.pages[page].resident || m.access(page as u32, rng.below(2) == 0);
            assert!(got || !(clean || dirty || free), "seed {seed}, step {step}, {r:?}: nothing went");
            m.check();
        }
    }
}

#[test]
fn tags_and_names() {
    for bits in 0..8 {
        assert_eq!(Tag::from_bits(bits).bits(), bits);
    }
    assert_eq!(Tag { fresh: false, hits: 3 }.hit().hits, Tag::MOST);
    for r in Replacement::ALL {
        assert_eq!(Replacement::named(r.policy().name()), Some(r));
    }
    assert_eq!(Replacement::named("lru"), None);
}
