//! The pool against a model, damage, limits, fragmentation, threads.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use machvm_hal::{PAGE_SIZE, Swap, SwapError, SwapSlot};
use proptest::prelude::*;

use crate::{Pool, PoolStats, RegionSource};

const PAGE: usize = PAGE_SIZE as usize;
type Page = [u8; PAGE];

/// xorshift64*: small, and the seed is all there is to replay.
struct Random(u64);
impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// A seed of the day, printed: `SEED=n` in the environment replays it.
fn seed() -> u64 {
    let seed = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |d| d.as_nanos() as u64) | 1
    });
    println!("SEED={seed}");
    seed
}

/// A page whose first `noise` bytes do not compress.
fn page(seed: u64, noise: usize) -> Page {
    let mut r = Random(seed.wrapping_mul(2) | 1);
    let mut p = [seed as u8; PAGE];
    for w in p[..noise & !7].chunks_mut(8) {
        w.copy_from_slice(&r.next().to_le_bytes());
    }
    p[PAGE - 8..].copy_from_slice(&seed.to_le_bytes());
    p
}

/// Counts regions, and can be told to have no more.
#[derive(Default)]
struct Counting {
    out: std::sync::Arc<AtomicUsize>,
    limit: Option<usize>,
}
struct Counted(Box<[u8]>, std::sync::Arc<AtomicUsize>);
impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
impl AsMut<[u8]> for Counted {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}
impl Drop for Counted {
    fn drop(&mut self) {
        self.1.fetch_sub(1, Relaxed);
    }
}
impl RegionSource for Counting {
    type Region = Counted;
    fn take(&self, bytes: usize) -> Option<Counted> {
        if self.limit.is_some_and(|l| self.out.load(Relaxed) >= l) {
            return None;
        }
        self.out.fetch_add(1, Relaxed);
        // Not zero: the pool must not count on it.
        Some(Counted(vec![0xcc; bytes].into(), self.out.clone()))
    }
}

fn get<S: RegionSource>(pool: &Pool<S>, slot: SwapSlot) -> Result<Page, SwapError> {
    let mut p = [0x5a; PAGE];
    pool.get(slot, &mut p).map(|()| p)
}

#[derive(Clone, Debug)]
enum Op {
    Put(u64, usize),
    PutWord(u64),
    Get(usize),
    Free(usize),
    Stale(usize),
    Garbage(u64),
}
fn op() -> impl Strategy<Value = Op> {
    let noise = prop_oneof![0usize..64, 0usize..PAGE, 3000usize..=PAGE];
    prop_oneof![
        5 => (any::<u64>(), noise).prop_map(|(s, n)| Op::Put(s, n)),
        1 => prop_oneof![Just(0), Just(u64::MAX), any::<u64>()].prop_map(Op::PutWord),
        2 => any::<usize>().prop_map(Op::Get),
        4 => any::<usize>().prop_map(Op::Free),
        1 => any::<usize>().prop_map(Op::Stale),
        1 => any::<u64>().prop_map(Op::Garbage),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn behaves_like_a_map(ops in prop::collection::vec(op(), 1..400)) {
        let pool = Pool::with_source(Counting::default(), Some(64 << 20), 2);
        let (mut live, mut dead): (Vec<(SwapSlot, Page)>, Vec<SwapSlot>) = Default::default();
        let mut bad = 0;
        for op in ops {
            match op {
                Op::Put(s, n) => {
                    let p = page(s, n);
                    live.push((pool.put(&p).expect("room"), p));
                }
                Op::PutWord(w) => {
                    let mut p = [0; PAGE];
                    p.chunks_mut(8).for_each(|c| c.copy_from_slice(&w.to_ne_bytes()));
                    live.push((pool.put(&p).expect("room"), p));
                }
                Op::Get(i) if !live.is_empty() => {
                    let (slot, p) = &live[i % live.len()];
                    prop_assert!(get(&pool, *slot) == Ok(*p));
                }
                Op::Free(i) if !live.is_empty() => {
                    let (slot, _) = live.swap_remove(i % live.len());
                    pool.free(slot);
                    if slot.0.get() >> 60 == 1 {
                        dead.push(slot);
                    }
                }
                Op::Stale(i) if !dead.is_empty() => {
                    let slot = dead[i % dead.len()];
                    prop_assert!(get(&pool, slot) == Err(SwapError::Lost));
                    pool.free(slot);
                    bad += 2;
                }
                Op::Garbage(raw) => {
                    // Kind 0 and the two top bits are never in a slot.
                    let raw = NonZeroU64::new(raw | 1 << 63).expect("a bit is set");
                    prop_assert!(get(&pool, SwapSlot(raw)) == Err(SwapError::Lost));
                    pool.free(SwapSlot(raw));
                    bad += 2;
                }
                _ => {}
            }
            prop_assert_eq!(pool.stats().pages, live.len() as u64);
        }
        pool.check();
        prop_assert_eq!(pool.stats().bad_slots, bad);
        for (slot, p) in &live {
            prop_assert!(get(&pool, *slot) == Ok(*p));
        }
        let by_slot: HashMap<_, _> = live.iter().map(|(s, p)| (*s, *p)).collect();
        for (slot, p) in &live {
            prop_assert!(by_slot[slot] == *p, "two contents share {:?}", slot);
        }
        live.iter().for_each(|(slot, _)| pool.free(*slot));
        pool.check();
        let s = pool.stats();
        prop_assert_eq!((s.pages, s.stored_bytes, s.raw, s.same_filled, s.damaged), (0, 0, 0, 0, 0));
        prop_assert_eq!(s.puts, s.frees);
    }
}

#[test]
fn memory_is_all_returned() {
    let source = Counting::default();
    let out = source.out.clone();
    let pool = Pool::with_source(source, None, 1);
    let empty = pool.stats().pool_bytes;
    let slots: Vec<_> = (0..3000).map(|i| pool.put(&page(i, 2000)).expect("room")).collect();
    assert!(out.load(Relaxed) > 10);
    slots.into_iter().for_each(|s| pool.free(s));
    assert_eq!(out.load(Relaxed), 0);
    assert_eq!(pool.stats().pool_bytes, empty);
    assert!(pool.stats().pool_bytes_peak > empty + 3000 * 2000);
}

#[test]
fn same_filled_pages_take_no_memory() {
    let pool = Pool::with_source(Counting { limit: Some(0), ..Counting::default() }, None, 1);
    let empty = pool.stats().pool_bytes;
    for byte in 0..=255 {
        let slot = pool.put(&[byte; PAGE]).expect("needs no room");
        assert!(get(&pool, slot) == Ok([byte; PAGE]));
    }
    let s = pool.stats();
    assert_eq!((s.pages, s.same_filled, s.pool_bytes), (256, 256, empty));
    let zero = pool.put(&[0; PAGE]).expect("needs no room");
    (0..257).for_each(|_| pool.free(zero));
    assert_eq!(pool.stats().bad_slots, 0);
    pool.free(zero);
    assert_eq!((pool.stats().bad_slots, pool.stats().frees), (1, 257));
}

#[test]
fn a_long_word_takes_a_small_block() {
    let pool = Pool::with_source(Counting::default(), None, 1);
    let mut p = [0; PAGE];
    p.chunks_mut(8).for_each(|c| c.copy_from_slice(&0x1234_5678_9abc_def0u64.to_le_bytes()));
    let slot = pool.put(&p).expect("room");
    assert!(get(&pool, slot) == Ok(p));
    let s = pool.stats();
    assert_eq!((s.same_filled, s.stored_bytes, s.raw), (1, 8, 0));
}

#[test]
fn any_damage_is_noticed() {
    let pool = Pool::with_source(Counting::default(), None, 1);
    let mut lost = 0;
    for (i, noise) in [100, 1000, 2500, PAGE].into_iter().enumerate() {
        let p = page(i as u64, noise);
        let slot = pool.put(&p).expect("room");
        for byte in (0..100).chain((100..noise).step_by(97)) {
            pool.flip(slot, byte, 1 << (byte % 8));
            assert!(get(&pool, slot) == Err(SwapError::Lost), "byte {byte} of a page with noise {noise}");
            lost += 1;
            pool.flip(slot, byte, 1 << (byte % 8));
            assert!(get(&pool, slot) == Ok(p));
        }
    }
    assert_eq!(pool.stats().damaged, lost);
    pool.check();
}

#[test]
fn a_damaged_page_can_still_be_freed() {
    let pool = Pool::with_source(Counting::default(), None, 1);
    let slots: Vec<_> = (0..10).map(|i| pool.put(&page(i, 1000)).expect("room")).collect();
    pool.flip(slots[9], 5, 0xff);
    slots.iter().take(9).for_each(|s| pool.free(*s));
    assert!(get(&pool, slots[9]) == Err(SwapError::Lost));
    pool.free(slots[9]);
    assert_eq!(pool.stats().pages, 0);
    pool.check();
}

#[test]
fn the_limit_holds_and_room_comes_back() {
    for max in [0, 1 << 20, 5 << 20, 40 << 20] {
        let source = Counting::default();
        let out = source.out.clone();
        let pool = Pool::with_source(source, Some(max), 2);
        let mut slots = Vec::new();
        while let Ok(slot) = pool.put(&page(slots.len() as u64, PAGE)) {
            slots.push(slot);
            assert!(pool.stats().pool_bytes <= max);
        }
        // All but the step and the notes is used.
        assert!(
            (slots.len() * PAGE) as u64 >= (max * 98 / 100).saturating_sub(2 * Pool::<Counting>::STEP as u64)
        );
        assert!((out.load(Relaxed) * Pool::<Counting>::STEP) as u64 <= max);
        assert_eq!(pool.put(&page(9, PAGE)), Err(SwapError::Full));
        assert_eq!(pool.stats().full, 2);
        for (i, slot) in slots.iter().enumerate() {
            assert!(get(&pool, *slot) == Ok(page(i as u64, PAGE)));
        }
        if let Some(slot) = slots.pop() {
            pool.free(slot);
            assert!(pool.put(&page(9, PAGE)).is_ok());
        }
        pool.check();
    }
}

#[test]
fn a_source_without_memory_is_full_not_fatal() {
    let pool = Pool::with_source(Counting { limit: Some(1), ..Counting::default() }, None, 1);
    let mut n = 0;
    while pool.put(&page(n, PAGE)).is_ok() {
        n += 1;
    }
    assert!(n > 50);
    let s = pool.stats();
    assert_eq!((s.full, s.pages), (1, n));
    assert!(s.pool_bytes < 2 * Pool::<Counting>::STEP as u64);
    let short: fn(usize) -> Option<Box<[u8]>> = |n| Some(vec![0; n / 2].into());
    assert_eq!(Pool::with_source(short, None, 1).put(&page(1, PAGE)), Err(SwapError::Full));
}

/// Memory held beyond the compressed bytes, as a part of them.
fn overhead(s: &PoolStats) -> f64 {
    s.pool_bytes as f64 / s.stored_bytes as f64 - 1.0
}

#[test]
fn churn_does_not_fragment() {
    let seed = seed();
    let mut r = Random(seed);
    let pool = Pool::with_source(Counting::default(), None, 2);
    let mut live: Vec<(SwapSlot, u64, usize)> = Vec::new();
    // Half of the data is random: from nearly nothing to the whole page, 2 KiB on average.
    for (round, target) in [16_000, 8_000, 16_000, 4_000, 12_000, 6_000].into_iter().enumerate() {
        for _ in 0..20_000 {
            let grow = live.len() < target;
            if grow || r.below(2) == 0 {
                let (s, noise) = (r.next(), r.below(PAGE));
                live.push((pool.put(&page(s, noise)).expect("room"), s, noise));
            }
            if !live.is_empty() && (!grow || r.below(4) == 0) {
                let (slot, ..) = live.swap_remove(r.below(live.len()));
                pool.free(slot);
            }
            if live.len() > target {
                let (slot, ..) = live.swap_remove(r.below(live.len()));
                pool.free(slot);
            }
        }
        pool.check();
        let s = pool.stats();
        println!(
            "round {round}: {} pages, {} bytes, overhead {:.1} %",
            s.pages,
            s.stored_bytes,
            overhead(&s) * 100.0
        );
        assert!(overhead(&s) < 0.12, "seed {seed}, round {round}: {s:?}");
    }
    for (slot, s, noise) in &live {
        assert!(get(&pool, *slot) == Ok(page(*s, *noise)), "seed {seed}");
    }
    assert_eq!((pool.stats().bad_slots, pool.stats().damaged), (0, 0));
}

#[test]
fn threads_keep_their_pages_apart() {
    let seed = seed();
    let source = Counting::default();
    let out = source.out.clone();
    let pool = Pool::with_source(source, None, 4);
    std::thread::scope(|scope| {
        for t in 0..4u64 {
            let pool = &pool;
            scope.spawn(move || {
                let mut r = Random((seed ^ t.wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1);
                let mut live = Vec::new();
                for _ in 0..6_000 {
                    if live.len() < 200 || r.below(2) == 0 {
                        let (s, noise) = (r.next(), r.below(PAGE));
                        live.push((pool.put(&page(s, noise)).expect("room"), s, noise));
                    } else {
                        let (slot, s, noise) = live.swap_remove(r.below(live.len()));
                        assert!(get(pool, slot) == Ok(page(s, noise)), "seed {seed}");
                        pool.free(slot);
                        assert!(get(pool, slot) == Err(SwapError::Lost), "seed {seed}");
                    }
                }
                live.into_iter().for_each(|(slot, ..)| pool.free(slot));
            });
        }
    });
    pool.check();
    let s = pool.stats();
    assert_eq!((s.pages, s.stored_bytes, s.damaged, s.puts), (0, 0, 0, s.frees));
    assert_eq!(out.load(Relaxed), 0);
}

#[test]
fn a_pool_without_raw_pages_refuses_what_hardly_shrinks() {
    let pool = Pool::with_source(Counting::default(), None, 1).without_raw();
    assert_eq!(pool.put(&page(1, PAGE)), Err(SwapError::Full));
    let p = page(2, PAGE / 2);
    let slot = pool.put(&p).expect("it shrinks");
    assert!(get(&pool, slot) == Ok(p));
    let s = pool.stats();
    assert_eq!((s.pages, s.raw, s.full), (1, 0, 1));
}
