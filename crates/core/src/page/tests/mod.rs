//! Tests of the frames of the dense placement, without a machine.

extern crate std;

mod buddy;
mod contig;
mod reserv;

use core::ops::Deref;
use std::vec::Vec;

use machvm_arena::{Handle, HeapChunks, Slab};
use machvm_sync::{Rank, Spin};

use super::Page;
use super::contig::{Contig, Found};
use super::reserv::{Dense, Pool, Reserv, Wish};
use crate::object::Object;

/// A generator for tests: splitmix64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }
    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
    fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len() as u64) as usize]
    }
}

/// Runs `f` for some seeds and says which one failed. `MACHVM_SEED=n` runs one again.
fn with_seeds(n: u64, f: impl Fn(Rng)) {
    let one = std::env::var("MACHVM_SEED").ok().and_then(|s| s.parse().ok());
    for seed in one.map_or(1..=n, |s| s..=s) {
        let run = std::panic::AssertUnwindSafe(|| f(Rng(seed)));
        if let Err(panic) = std::panic::catch_unwind(run) {
            std::eprintln!("MACHVM_SEED={seed} runs it again");
            std::panic::resume_unwind(panic);
        }
    }
}

fn pages(first: u64, frames: u64) -> Slab<Page, HeapChunks> {
    let pages = Slab::new(HeapChunks::new(), u32::MAX);
    for f in first..first + frames {
        let page: &Page = pages.get(pages.alloc().expect("memory for a test"));
        page.pfn.set(f);
    }
    pages
}

/// Dense memory without a machine around it.
struct Memory {
    pages: Slab<Page, HeapChunks>,
    runs: Slab<Reserv, HeapChunks>,
    objects: Slab<Object, HeapChunks>,
    pool: Spin<Pool>,
    count: u32,
    first: u64,
    frames: u64,
}

impl Memory {
    fn new(first: u64, frames: u64) -> Self {
        let (pages, runs) = (pages(first, frames), Slab::new(HeapChunks::new(), u32::MAX));
        let (pool, count) = Pool::new(&pages, &runs, first, frames as u32).expect("memory for a test");
        let objects = Slab::new(HeapChunks::new(), u32::MAX);
        Memory { pages, runs, objects, pool: Spin::new(Rank::Free, pool), count, first, frames }
    }
    fn lock(&self) -> Dense<'_, HeapChunks> {
        Dense {
            pool: self.pool.lock(),
            pages: &self.pages,
            runs: &self.runs,
            objects: &self.objects,
            count: self.count,
        }
    }
    fn object(&self) -> Handle<Object> {
        self.objects.alloc().expect("memory for a test")
    }
    /// A frame for that page; a reservation is made if one can be.
    fn near(&self, object: Handle<Object>, place: u64) -> Option<u64> {
        self.lock().take_near(Wish { object, place }, || true)
    }
    fn contig(&self, want: &Contig) -> Option<u64> {
        assert!(want.is_sane(), "{want:?}");
        let mut from = want.low.0;
        loop {
            let found = self.lock().contig_step(want, from);
            match found {
                Found::Run(start) => return Some(start),
                Found::Not(next) => {
                    assert!(next > from || from == want.low.0, "the search goes on");
                    from = next;
                }
                Found::Nowhere => return None,
            }
        }
    }
    /// Checks everything; `used` frames are in use by pages.
    fn check(&self, used: u64) {
        assert_eq!(self.lock().check(), Ok(used));
        let d = self.lock();
        assert_eq!(d.pool.unused() + used + d.pool.system, self.frames, "frames: all of them");
    }
    /// Every frame that is free, or set aside.
    fn unused(&self) -> Vec<u64> {
        let d = self.lock();
        (self.first..self.first + self.frames).filter(|f| d.unused_until(*f).is_some()).collect()
    }
}

/// All distinct.
fn sorted(frames: impl IntoIterator<Item = impl Deref<Target = u64>>) -> Vec<u64> {
    let mut all: Vec<u64> = frames.into_iter().map(|f| *f).collect();
    all.sort_unstable();
    assert!(all.windows(2).all(|w| w[0] != w[1]), "a frame was given twice");
    all
}
