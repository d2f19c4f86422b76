//! What must hold of every trace: the optimum is best, LRU is a stack algorithm, and each engine
//! does what a slow and simple one does. Proptest prints what fails, and keeps it.

use std::collections::{HashMap, VecDeque};

use machvm::pageout::{BATCH, Frames, Policy, Queue, Replacement, Shape, Tag, Written, scan};
use machvm_sim::{Outcome, Stack, Stream, Use, optimum, replay};
use machvm_trace::Event;
use proptest::prelude::*;

/// Traces of a few pages with loops, jumps and ends; page-outs are only noise.
fn trace() -> impl Strategy<Value = Vec<Event>> {
    let page = 0..60u32;
    let step = prop_oneof![
        6 => (page.clone(), any::<bool>()).prop_map(|(page, write)| vec![Event::Used { page, write }]),
        2 => (page.clone(), 1..40u32).prop_map(|(first, n)| {
            (first..first + n).map(|page| Event::Used { page: page % 60, write: page % 3 == 0 }).collect()
        }),
        2 => (page.clone(), 1..16u32, any::<bool>()).prop_map(|(first, n, stored)| {
            let pages = move || (first..first + n).map(|page| page % 60);
            let mut all: Vec<Event> = pages().map(|page| Event::In { page, stored }).collect();
            all.extend(pages().map(|page| Event::Along { page, write: !stored }));
            all.push(Event::Used { page: first, write: !stored });
            all
        }),
        2 => page.prop_map(|page| vec![Event::Gone { page }]),
        1 => (1..40u32).prop_map(|pages| vec![Event::Freed { pages }, Event::Time { ms: pages }]),
    ];
    prop::collection::vec(step, 1..120).prop_map(|all| all.concat())
}

/// LRU in so many frames, with a list.
fn simple_lru(uses: &[Use], frames: usize) -> Outcome {
    let (mut list, mut count): (Vec<u32>, _) = (Vec::new(), Outcome::default());
    for one in uses {
        let found = list.iter().position(|p| *p == one.page()).map(|i| list.remove(i));
        if one.is_gone() {
            continue;
        }
        if found.is_none() {
            count.misses += 1;
            count.page_ins += u64::from(one.is_stored());
            list.truncate(frames - 1);
        }
        list.insert(0, one.page());
    }
    count
}

/// The optimum in so many frames, looking ahead each time.
fn simple_optimum(uses: &[Use], frames: usize) -> Outcome {
    let (mut list, mut count): (Vec<u32>, _) = (Vec::new(), Outcome::default());
    for (i, one) in uses.iter().enumerate() {
        if one.is_gone() {
            list.retain(|p| *p != one.page());
            continue;
        }
        if list.contains(&one.page()) {
            continue;
        }
        count.misses += 1;
        count.page_ins += u64::from(one.is_stored());
        if list.len() == frames {
            let next = |page: u32| {
                let next = uses[i..].iter().position(|u| u.page() == page);
                next.filter(|at| !uses[i + at].is_gone()).unwrap_or(usize::MAX)
            };
            let last = (0..list.len()).max_by_key(|k| next(list[*k])).expect("there are frames");
            list.swap_remove(last);
        }
        list.push(one.page());
    }
    count
}

#[derive(Clone, Copy, Default)]
struct State {
    tag: Tag,
    mapped: bool,
    used: bool,
    modified: bool,
    stored: bool,
    evicted: Option<u32>,
}

/// Memory under a policy, with lists that are searched.
struct Simple {
    policy: &'static dyn Policy,
    limit: u64,
    state: HashMap<u32, State>,
    queues: [VecDeque<u32>; 6],
    evictions: u32,
    count: Outcome,
}

impl Simple {
    fn run(policy: &'static dyn Policy, limit: u64, stream: &Stream) -> Outcome {
        let (state, queues) = (HashMap::new(), Default::default());
        let mut m = Simple { policy, limit, state, queues, evictions: 0, count: Outcome::default() };
        for event in &stream.events {
            match *event {
                Event::In { page, stored } => {
                    m.state.entry(page).or_insert(State { stored, ..State::default() });
                    m.fetch(page);
                }
                Event::Used { page, write } => {
                    m.state.entry(page).or_default();
                    m.fetch(page);
                    if m.queue_of(page).is_some_and(Queue::is_aside) {
                        let (q, tag) = m.policy.called_back(m.state[&page].tag);
                        m.put(page, q, tag);
                    }
                    let s = m.state.get_mut(&page).expect("known");
                    (s.mapped, s.used) = (true, true);
                    s.modified |= write;
                }
                Event::Along { page, write } if m.queue_of(page).is_some() => {
                    let s = m.state.get_mut(&page).expect("known");
                    s.mapped = true;
                    s.modified |= write;
                }
                Event::Gone { page } => m.leave(page),
                _ => {}
            }
            assert!(m.resident() <= limit, "more pages than frames");
        }
        m.count
    }
    fn resident(&self) -> u64 {
        self.queues.iter().map(|q| q.len() as u64).sum()
    }
    fn queue_of(&self, page: u32) -> Option<Queue> {
        Queue::ALL.into_iter().find(|q| self.queues[*q as usize].contains(&page))
    }
    fn leave(&mut self, page: u32) {
        self.queues.iter_mut().for_each(|q| q.retain(|p| *p != page));
    }
    fn fetch(&mut self, page: u32) {
        if self.queue_of(page).is_some() {
            return;
        }
        self.count.misses += 1;
        if self.resident() == self.limit {
            scan(self.policy, self, BATCH as u64);
        }
        let s = self.state.get_mut(&page).expect("known");
        self.count.page_ins += u64::from(s.stored);
        let age = s.evicted.take().map(|then| self.evictions - then);
        *s = State { stored: s.stored, ..State::default() };
        let (q, tag) = if s.stored { self.policy.returned(age, self.limit) } else { self.policy.fresh() };
        self.put(page, q, tag);
    }
}

impl Frames for Simple {
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
        let n = out.len().min(self.queues[q as usize].len());
        out[..n].fill_with(|| self.queues[q as usize].pop_front());
        n
    }
    fn put(&mut self, page: u32, q: Queue, tag: Tag) {
        self.leave(page);
        self.queues[q as usize].push_back(page);
        self.state.get_mut(&page).expect("known").tag = tag;
    }
    fn tag(&self, page: u32) -> Tag {
        self.state[&page].tag
    }
    fn used(&mut self, page: u32) -> bool {
        std::mem::take(&mut self.state.get_mut(&page).expect("known").used)
    }
    fn is_kept(&self, _page: u32) -> bool {
        false
    }
    fn unmap(&mut self, pages: &[Option<u32>]) {
        pages.iter().flatten().for_each(|p| self.state.get_mut(p).expect("known").mapped = false);
    }
    fn is_modified(&self, page: u32) -> bool {
        assert!(!self.state[&page].mapped, "it could be written still");
        self.state[&page].modified
    }
    fn write(&mut self, pages: &[Option<u32>; BATCH], done: &mut [Written; BATCH]) {
        for (page, done) in pages.iter().zip(done) {
            if let Some(page) = page {
                let s = self.state.get_mut(page).expect("known");
                (s.modified, s.stored) = (false, true);
                (self.count.page_outs, *done) = (self.count.page_outs + 1, Written::Clean);
            }
        }
    }
    fn free(&mut self, page: u32, remember: bool) -> u64 {
        self.leave(page);
        let s = self.state.get_mut(&page).expect("known");
        assert!(!s.mapped && !s.modified, "page {page} is evicted");
        s.evicted = remember.then_some(self.evictions);
        self.evictions += 1;
        1
    }
    fn flush(&mut self) {}
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn nothing_is_better_than_the_optimum(trace in trace()) {
        let stream = Stream::new(&trace);
        let stack = Stack::new(&stream.uses, stream.pages);
        for frames in [1, 2, 3, 7, 16, 33, 64] {
            let best = optimum(&stream.uses, stream.pages, frames).misses;
            prop_assert!(best <= stack.outcome(frames).misses, "LRU, {frames} frames");
            for r in Replacement::ALL {
                for daemon in [false, true] {
                    let other = replay(&stream, r.policy(), frames, daemon).misses;
                    prop_assert!(best <= other, "{r:?}, {frames} frames: {other}, the optimum {best}");
                }
            }
        }
    }

    #[test]
    fn more_memory_never_hurts_lru_nor_the_optimum(trace in trace()) {
        let stream = Stream::new(&trace);
        let stack = Stack::new(&stream.uses, stream.pages);
        for frames in 1..64 {
            prop_assert!(stack.outcome(frames + 1).misses <= stack.outcome(frames).misses);
            prop_assert!(stack.outcome(frames + 1).page_ins <= stack.outcome(frames).page_ins);
            let best = |frames| optimum(&stream.uses, stream.pages, frames).misses;
            prop_assert!(best(frames + 1) <= best(frames));
        }
    }

    #[test]
    fn lru_and_the_optimum_are_what_simple_ones_are(trace in trace(), frames in 1..64usize) {
        let stream = Stream::new(&trace);
        let stack = Stack::new(&stream.uses, stream.pages);
        prop_assert_eq!(stack.outcome(frames as u64), simple_lru(&stream.uses, frames));
        let simple = simple_optimum(&stream.uses, frames).misses;
        prop_assert_eq!(optimum(&stream.uses, stream.pages, frames as u64).misses, simple);
    }

    #[test]
    fn the_policies_do_what_they_do_over_simple_lists(trace in trace(), frames in 1..64u64) {
        let stream = Stream::new(&trace);
        for r in Replacement::ALL {
            let simple = Simple::run(r.policy(), frames, &stream);
            prop_assert_eq!(replay(&stream, r.policy(), frames, false), simple, "{:?}", r);
        }
    }

    // In memory for everything, there are only first uses.
    #[test]
    fn what_fits_misses_once(trace in trace()) {
        let stream = Stream::new(&trace);
        let first = u64::from(stream.pages);
        let room = u64::from(stream.footprint) + 64;
        prop_assert_eq!(Stack::new(&stream.uses, stream.pages).outcome(room).misses, first);
        prop_assert_eq!(optimum(&stream.uses, stream.pages, room).misses, first);
        for r in Replacement::ALL {
            prop_assert_eq!(replay(&stream, r.policy(), room, true).misses, first);
        }
    }
}

// The slots of the stack are numbered anew many times.
#[test]
fn a_long_trace_has_the_distances_that_lists_have() {
    let mut at = 1u64;
    let mut below = |n: u64| {
        at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (at >> 33) % n
    };
    let events: Vec<Event> = (0..60_000)
        .map(|_| {
            let page = (below(30) * below(30)) as u32;
            if below(40) == 0 { Event::Gone { page } } else { Event::Used { page, write: true } }
        })
        .collect();
    let stream = Stream::new(&events);
    let stack = Stack::new(&stream.uses, stream.pages);
    for frames in [1, 10, 40, 100, 300] {
        assert_eq!(stack.outcome(frames as u64), simple_lru(&stream.uses, frames), "{frames} frames");
    }
}
