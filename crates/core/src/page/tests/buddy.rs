use super::std::vec;
use super::std::vec::Vec;
use super::{Rng, pages, with_seeds};
use crate::page::Page;
use crate::page::buddy::{Buddy, ORDERS};
use machvm_arena::{HeapChunks, Slab};

/// A buddy allocator beside one bit for each frame.
struct Both {
    pages: Slab<Page, HeapChunks>,
    buddy: Buddy,
    first: u64,
    free: Vec<bool>,
}

impl Both {
    fn new(first: u64, frames: u64) -> Self {
        let pages = pages(first, frames);
        let mut buddy = Buddy::new(first, frames);
        buddy.free_run(&pages, first, frames);
        Both { pages, buddy, first, free: vec![true; frames as usize] }
    }
    fn set(&mut self, start: u64, n: u64, free: bool) {
        for f in start..start + n {
            let bit = &mut self.free[(f - self.first) as usize];
            assert!(*bit != free, "frame {f:#x} is {free} already");
            *bit = free;
        }
    }
    fn all(&self) -> core::ops::Range<u64> {
        self.first..self.first + self.free.len() as u64
    }
    /// For every frame the order of the largest aligned block of free frames around it.
    fn largest(&self) -> Vec<Option<u32>> {
        let sums = core::iter::once(0).chain(self.free.iter().scan(0, |sum, f| {
            *sum += u64::from(*f);
            Some(*sum)
        }));
        let sums: Vec<u64> = sums.collect();
        let whole = |start: u64, order: u32| {
            let end = start + (1 << order);
            let at = |f: u64| sums[(f - self.first) as usize];
            start >= self.first && end <= self.all().end && at(end) - at(start) == 1 << order
        };
        let best = |f: u64| (0..ORDERS as u32).rev().find(|o| whole((f >> o) << o, *o));
        self.all().map(best).collect()
    }
    fn alloc(&mut self, order: u32) -> Option<u64> {
        let largest = self.largest();
        let fits = largest.iter().flatten().copied().filter(|o| *o >= order).min();
        let got = self.buddy.alloc(&self.pages, order);
        assert_eq!(got.is_some(), fits.is_some(), "order {order}");
        if let Some(start) = got {
            assert_eq!(start % (1 << order), 0, "a block starts at a multiple of its size");
            assert_eq!(
                largest[(start - self.first) as usize],
                fits,
                "the smallest block that is large enough"
            );
            self.set(start, 1 << order, false);
        }
        got
    }
    fn free_run(&mut self, start: u64, n: u64) {
        self.set(start, n, true);
        self.buddy.free_run(&self.pages, start, n);
    }
    fn carve(&mut self, start: u64, n: u64) {
        self.set(start, n, false);
        self.buddy.carve(&self.pages, start, n);
    }
    /// The free blocks are the largest aligned blocks of free frames.
    fn check(&self) {
        assert_eq!(self.buddy.check(&self.pages), Ok(()));
        assert_eq!(self.buddy.free_frames(), self.free.iter().filter(|f| **f).count() as u64);
        for (f, largest) in self.all().zip(self.largest()) {
            let block = self.buddy.block_of(&self.pages, f);
            assert_eq!(block.map(|b| b.order), largest, "frame {f:#x}");
        }
    }
}

#[test]
fn y02_the_smallest_block_is_split() {
    let mut m = Both::new(0, 64);
    assert_eq!(m.alloc(0), Some(0));
    m.check(); // 1, 2..4, 4..8, ..., 32..64
    assert_eq!(m.alloc(3), Some(8), "not out of the larger ones");
    assert_eq!(m.alloc(0), Some(1));
    assert_eq!(m.alloc(5), Some(32));
    assert_eq!(m.alloc(5), None, "16..32 is not enough");
    assert_eq!(m.alloc(4), Some(16));
    m.check();
}

#[test]
fn y02_a_few_frames_and_none() {
    let mut none = Both::new(7, 0);
    assert_eq!(none.alloc(0), None);
    none.check();
    let mut m = Both::new(7, 3);
    m.check();
    assert_eq!((m.alloc(2), m.alloc(1)), (None, Some(8)));
    assert_eq!((m.alloc(0), m.alloc(0)), (Some(7), None));
}

#[test]
fn y03_buddies_join_up_to_the_largest_order() {
    let mut m = Both::new(0x100, 1 << ORDERS);
    let all: Vec<u64> = core::iter::from_fn(|| m.buddy.alloc(&m.pages, 0)).collect();
    assert_eq!(all.len(), 1 << ORDERS);
    m.free.fill(false);
    let (even, odd): (Vec<u64>, Vec<u64>) = all.iter().partition(|f| **f % 2 == 0);
    even.iter().chain(&odd).for_each(|f| m.free_run(*f, 1));
    m.check();
    assert_eq!(m.alloc(ORDERS as u32 - 1), Some(1 << (ORDERS - 1)), "memory starts at 0x100");
}

#[test]
fn y03_an_interior_block_joins_on_both_sides() {
    let mut m = Both::new(0, 16);
    m.carve(0, 16);
    m.free_run(3, 5);
    m.check();
    m.free_run(0, 3);
    m.free_run(8, 8);
    assert_eq!(m.alloc(4), Some(0));
}

#[test]
fn y05_exactly_these_frames_can_be_taken() {
    let mut m = Both::new(3, 100);
    m.carve(10, 30);
    m.check();
    m.carve(9, 1);
    m.carve(40, 63);
    m.check();
    m.free_run(9, 94);
    m.check();
}

/// Random requests. The memory starts and ends anywhere.
fn random(mut rng: Rng) {
    let mut m = Both::new(rng.below(600), 1 + rng.below(1500));
    let mut held: Vec<(u64, u64)> = Vec::new();
    for _ in 0..150 {
        match rng.below(4) {
            0 | 1 => {
                let order = rng.below(11) as u32;
                held.extend(m.alloc(order).map(|start| (start, 1 << order)));
            }
            2 if !held.is_empty() => {
                let (start, n) = held.swap_remove(rng.below(held.len() as u64) as usize);
                // All of it, or a piece out of the middle.
                let a = if rng.one_in(2) { 0 } else { rng.below(n) };
                let b = if rng.one_in(2) { n } else { a + 1 + rng.below(n - a) };
                m.free_run(start + a, b - a);
                held.extend([(start, a), (start + b, n - b)].into_iter().filter(|(_, n)| *n != 0));
            }
            _ => {
                let start = m.first + rng.below(m.free.len() as u64);
                let most = 1 + rng.below(200) as usize;
                let from = (start - m.first) as usize;
                let n = m.free[from..].iter().take(most).take_while(|f| **f).count() as u64;
                if n != 0 {
                    m.carve(start, n);
                    held.push((start, n));
                }
            }
        }
        m.check();
    }
    held.into_iter().for_each(|(start, n)| m.free_run(start, n));
    m.check();
}

#[test]
fn y02_y03_y05_random_against_a_flat_memory() {
    with_seeds(20, random);
}
