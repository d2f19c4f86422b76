//! The pool against plain LZ4 calls: `cargo run --release -p machvm-pagers --example pool_bench`.
//!
//! One row per kind of page: MB/s of bare compression and of `put`, of bare
//! decompression and of `get` in random order, the compression ratio, and the memory
//! held beyond the compressed bytes. The fastest of seven
//! passes counts, so that a busy machine disturbs less.

use std::hint::black_box;
use std::time::{Duration, Instant};

use lz4_flex::block::{compress_into, decompress_into, get_maximum_output_size};
use machvm_hal::{PAGE_SIZE, Swap, SwapSlot};
use machvm_pagers::Pool;

const PAGE: usize = PAGE_SIZE as usize;
const PAGES: usize = 8192;
const PASSES: usize = 7;
type Page = [u8; PAGE];

struct Random(u64);
impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    fn fill(&mut self, bytes: &mut [u8]) {
        bytes.chunks_mut(8).for_each(|w| w.copy_from_slice(&self.next().to_le_bytes()[..w.len()]));
    }
}

const WORDS: [&str; 24] = [
    "the ", "page ", "of ", "a ", "map ", "object ", "fault ", "is ", "busy ", "wired ", "in ", "memory ",
    "and ", "copy ", "pager ", "lock ", "clean ", "dirty ", "to ", "queue ", "entry ", "address ", "shadow ",
    "free\n",
];

fn text(r: &mut Random) -> Page {
    let mut p = [0; PAGE];
    let mut at = 0;
    while at < PAGE {
        let word = WORDS[(r.next() >> 32) as usize % WORDS.len()].as_bytes();
        let n = word.len().min(PAGE - at);
        p[at..at + n].copy_from_slice(&word[..n]);
        at += n;
    }
    p
}

/// Pointers and small integers, as in a heap.
fn heap(r: &mut Random) -> Page {
    let mut p = [0; PAGE];
    for (i, w) in p.chunks_mut(8).enumerate() {
        let v = match i % 4 {
            0 => 0x7f12_3400_0000 | (r.next() & 0xf_fff0),
            1 => r.next() % 100,
            2 => 0,
            _ => 0x7f12_3456_7890,
        };
        w.copy_from_slice(&v.to_le_bytes());
    }
    p
}

fn pages(kind: &str) -> Vec<Page> {
    let mut r = Random(0x5eed);
    let make = |_| match kind {
        "zero" => [0; PAGE],
        "text" => text(&mut r),
        "heap" => heap(&mut r),
        "half random" => {
            let mut p = text(&mut r);
            r.fill(&mut p[..PAGE / 2]);
            p
        }
        _ => {
            let mut p = [0; PAGE];
            r.fill(&mut p);
            p
        }
    };
    (0..PAGES).map(make).collect()
}

fn fastest(pass: impl FnMut() -> Duration) -> Duration {
    let mut pass = pass;
    (0..PASSES).map(|_| pass()).min().unwrap_or_default()
}
fn speed(t: Duration, pages: usize) -> f64 {
    (pages * PAGE) as f64 / 1e6 / t.as_secs_f64()
}

fn bare(pages: &[Page], order: &[usize]) -> (Duration, Duration) {
    let mut out = vec![0; get_maximum_output_size(PAGE)];
    let mut packed = Vec::new();
    for p in pages {
        let n = compress_into(p, &mut out).expect("room");
        packed.push(out[..n].to_vec());
    }
    let mut page = [0; PAGE];
    let put = fastest(|| {
        let start = Instant::now();
        pages.iter().for_each(|p| drop(black_box(compress_into(p, &mut out))));
        start.elapsed()
    });
    let get = fastest(|| {
        let start = Instant::now();
        order.iter().for_each(|i| drop(black_box(decompress_into(&packed[*i], &mut page))));
        start.elapsed()
    });
    (put, get)
}

fn pooled(pages: &[Page], order: &[usize]) -> (Duration, Duration, Duration, machvm_pagers::PoolStats) {
    let pool = Pool::new(None);
    let put_all = || pages.iter().map(|p| pool.put(p).expect("room")).collect::<Vec<SwapSlot>>();
    let (mut puts, mut frees) = (Vec::new(), Vec::new());
    for _ in 0..PASSES {
        let start = Instant::now();
        let slots = put_all();
        puts.push(start.elapsed());
        let start = Instant::now();
        order.iter().for_each(|i| pool.free(slots[*i]));
        frees.push(start.elapsed());
    }
    puts.sort();
    frees.sort();
    let slots = put_all();
    let mut page = [0; PAGE];
    let get = fastest(|| {
        let start = Instant::now();
        order.iter().for_each(|i| pool.get(slots[*i], black_box(&mut page)).expect("stored"));
        start.elapsed()
    });
    for (p, s) in pages.iter().zip(&slots) {
        pool.get(*s, &mut page).expect("stored");
        assert!(page == *p);
    }
    (puts[0], get, frees[0], pool.stats())
}

/// Puts, reads and frees on `threads` threads at once: pages per second of all.
fn together(pages: &[Page], threads: usize) -> f64 {
    let pool = Pool::new(None);
    let t = fastest(|| {
        let start = Instant::now();
        std::thread::scope(|s| {
            for _ in 0..threads {
                s.spawn(|| {
                    let mut page = [0; PAGE];
                    let slots: Vec<_> = pages.iter().map(|p| pool.put(p).expect("room")).collect();
                    slots.iter().for_each(|s| pool.get(*s, &mut page).expect("stored"));
                    slots.iter().for_each(|s| pool.free(*s));
                });
            }
        });
        start.elapsed()
    });
    (pages.len() * threads) as f64 / t.as_secs_f64()
}

fn main() {
    let mut order: Vec<usize> = (0..PAGES).collect();
    let mut r = Random(7);
    for i in (1..PAGES).rev() {
        order.swap(i, (r.next() >> 16) as usize % (i + 1));
    }
    println!("{PAGES} pages of each kind; MB/s; x = time of the pool / time of LZ4 alone");
    println!(
        "{:<12} {:>8} {:>8} {:>6} {:>10} {:>8} {:>6} {:>8} {:>7} {:>9} {:>8}",
        "pages", "compress", "put", "x", "decompress", "get", "x", "free ns", "ratio", "overhead", "2 thr x"
    );
    for kind in ["zero", "text", "heap", "half random", "random"] {
        let pages = pages(kind);
        let (lz_put, lz_get) = bare(&pages, &order);
        let (put, get, free, s) = pooled(&pages, &order);
        let scale = together(&pages, 2) / together(&pages, 1);
        let stored = s.stored_bytes.max(1) as f64;
        let overhead = if s.stored_bytes == 0 { 0.0 } else { (s.pool_bytes as f64 / stored - 1.0) * 100.0 };
        let ratio = if s.stored_bytes == 0 { f64::INFINITY } else { (PAGES * PAGE) as f64 / stored };
        println!(
            "{kind:<12} {:>8.0} {:>8.0} {:>6.2} {:>10.0} {:>8.0} {:>6.2} {:>8.0} {ratio:>7.2} {overhead:>7.1} % {scale:>8.2}",
            speed(lz_put, PAGES),
            speed(put, PAGES),
            put.as_secs_f64() / lz_put.as_secs_f64(),
            speed(lz_get, PAGES),
            speed(get, PAGES),
            get.as_secs_f64() / lz_get.as_secs_f64(),
            free.as_secs_f64() * 1e9 / PAGES as f64,
        );
    }
}
