//! Table 8: pages out and in by every kind of place, beside what it is made of.

use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Instant;

use machvm_hal::{MAX_RUN, PAGE_SIZE, PageRun, Swap, SwapSlot};
use machvm_linux::uring::UringBlock;
use machvm_pagers::{Block, Buffer, Codec, Disk, FileBlock, Heap, Memory, Opened, Pool, Source, Tier, Tiers};

use crate::row;
use crate::table::{self, median};

const PAGE: usize = PAGE_SIZE as usize;
/// 64 MiB.
const PAGES: usize = 16384;
const ROUNDS: usize = 5;
const RUN: usize = 32;
pub(crate) type Page = [u8; PAGE];

/// xorshift64*.
pub(crate) struct Random(u64);
impl Random {
    pub(crate) fn new() -> Random {
        Random(0x5eed)
    }
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() >> 11) as usize % n
    }
    /// All numbers below n.
    pub(crate) fn order(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        (1..n).for_each(|i| order.swap(i, self.below(i + 1)));
        order
    }
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

/// A quarter noise, the rest as in a heap: pointers, small numbers, zeroes.
pub(crate) fn page(r: &mut Random, noise: bool) -> Page {
    let mut p = [0; PAGE];
    for (i, word) in p.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let n = match i % 4 {
            _ if noise => r.next(),
            0 => 0x7f12_3400_0000 | (r.next() & 0xf_fff0),
            1 => r.next() % 100,
            _ => 0,
        };
        *word = n.to_le_bytes();
    }
    p
}

pub(crate) struct Part<'a>(pub(crate) &'a [Page]);
impl PageRun for Part<'_> {
    fn pages(&self) -> usize {
        self.0.len()
    }
    fn read(&self, i: usize, to: &mut Page) {
        *to = self.0[i];
    }
}

/// What is compared: MB/s out, MB/s in at random, then microseconds of each of these reads.
struct Figures {
    out: f64,
    back: f64,
    each: Vec<f64>,
}

fn rate(begun: Instant) -> f64 {
    (PAGES * PAGE) as f64 / 1e6 / begun.elapsed().as_secs_f64()
}

/// The same order for all.
fn order() -> Vec<usize> {
    Random(7).order(PAGES)
}

/// Reads in random order, one by one.
fn back(mut read: impl FnMut(usize)) -> (f64, Vec<f64>) {
    let order = order();
    let mut each = Vec::with_capacity(PAGES);
    let begun = Instant::now();
    for i in order {
        let one = Instant::now();
        read(i);
        each.push(one.elapsed().as_secs_f64() * 1e6);
    }
    (rate(begun), each)
}

fn through(tier: Box<dyn Tier>, pages: &[Page]) -> (Figures, f64) {
    let tiers = Tiers::new();
    tiers.on(tier, 0).expect("the only one");
    let mut slots: Vec<Option<SwapSlot>> = vec![None; PAGES];
    let begun = Instant::now();
    for (part, slots) in pages.chunks(RUN).zip(slots.chunks_mut(RUN)) {
        assert_eq!(tiers.put_run(&Part(part), slots), part.len());
    }
    tiers.drain().expect("written");
    let out = rate(begun);
    let slots: Vec<SwapSlot> = slots.into_iter().flatten().collect();
    let mut to = [0; PAGE];
    let (back, each) = back(|i| {
        tiers.get(slots[i], &mut to).expect("there");
        assert!(to[..] == pages[i][..], "page {i}");
    });
    // In the order of their going, by runs: what read-ahead does.
    let begun = Instant::now();
    for part in slots.chunks(MAX_RUN.min(16)) {
        tiers.get_run(part, &mut |_, read| {
            black_box(read.expect("there"));
        });
    }
    (Figures { out, back, each }, rate(begun))
}

fn compressor(codec: Codec, pages: &[Page]) -> Figures {
    let mut buffer = vec![0; 2 * PAGE];
    let mut all = Vec::with_capacity(PAGES);
    let begun = Instant::now();
    for page in pages {
        let n = match codec {
            Codec::Lz4 => lz4_flex::block::compress_into(page, &mut buffer).expect("room"),
            Codec::Zstd(level) => zstd::bulk::compress_to_buffer(page, &mut buffer[..], level).expect("room"),
        };
        all.push(buffer[..n].to_vec());
    }
    let out = rate(begun);
    let mut to = [0; PAGE];
    let (back, each) = back(|i| {
        match codec {
            Codec::Lz4 => lz4_flex::block::decompress_into(&all[i], &mut to).expect("whole"),
            Codec::Zstd(_) => zstd::bulk::decompress_to_buffer(&all[i], &mut to[..]).expect("whole"),
        };
        assert!(to[..] == pages[i][..], "page {i}");
    });
    Figures { out, back, each }
}

/// The same file with nothing around it: writes of a run, reads of a page.
fn bare(file: &Opened, pages: &[Page]) -> Figures {
    let mut buffer = Buffer::new(RUN);
    let begun = Instant::now();
    for (n, part) in pages.chunks(RUN).enumerate() {
        for (to, page) in buffer.bytes_mut().chunks_mut(PAGE).zip(part) {
            to.copy_from_slice(page);
        }
        file.file
            .write_all_at(&buffer.bytes()[..part.len() * PAGE], ((n * RUN + 1) * PAGE) as u64)
            .expect("written");
    }
    let out = rate(begun);
    let mut one = Buffer::new(1);
    let (back, each) = back(|i| {
        file.file.read_exact_at(one.bytes_mut(), ((i + 1) * PAGE) as u64).expect("read");
        assert!(*one.bytes() == pages[i][..], "page {i}");
    });
    Figures { out, back, each }
}

fn open() -> Opened {
    let dir = std::env::temp_dir();
    Source::File(dir, ((PAGES + RUN) * PAGE) as u64)
        .open()
        .expect("room for 64 MiB in the directory of temporary files")
}

fn disk(encrypt: bool, ring: bool) -> Option<Box<dyn Tier>> {
    let opened = open();
    let block: Box<dyn Block> = if ring {
        Box::new(UringBlock::new(Arc::clone(&opened.file)).ok()?)
    } else {
        Box::new(FileBlock::new(Arc::clone(&opened.file)))
    };
    Some(Box::new(Disk::new(opened, block, encrypt)))
}

fn pool(codec: Codec) -> Option<Box<dyn Tier>> {
    Some(Box::new(Memory::new(Pool::with_codec(codec, Heap, Some(1 << 30), 1), "pool")))
}

/// A kind of place, and what it is made of.
struct Kind {
    name: &'static str,
    tier: fn() -> Option<Box<dyn Tier>>,
    bare: fn(&[Page]) -> Figures,
}

const KINDS: [Kind; 6] = [
    Kind { name: "lz4", tier: || pool(Codec::Lz4), bare: |p| compressor(Codec::Lz4, p) },
    Kind { name: "zstd, level 1", tier: || pool(Codec::Zstd(1)), bare: |p| compressor(Codec::Zstd(1), p) },
    Kind { name: "zstd, level 3", tier: || pool(Codec::Zstd(3)), bare: |p| compressor(Codec::Zstd(3), p) },
    Kind { name: "file, pwrite, plain", tier: || disk(false, false), bare: |p| bare(&open(), p) },
    Kind { name: "file, io_uring, plain", tier: || disk(false, true), bare: |p| bare(&open(), p) },
    Kind { name: "file, io_uring, encrypted", tier: || disk(true, true), bare: |p| bare(&open(), p) },
];

fn percentile(each: &mut [f64], of: f64) -> f64 {
    each.sort_by(f64::total_cmp);
    each[((each.len() - 1) as f64 * of) as usize]
}

pub(crate) fn run() {
    let mut r = Random::new();
    let pages: Vec<Page> = (0..PAGES).map(|i| page(&mut r, i % 4 == 3)).collect();
    let mut rows = vec![row![
        "place",
        "out MB/s",
        "bare",
        "ratio",
        "in MB/s",
        "bare",
        "ratio",
        "runs in MB/s",
        "in us: p50",
        "p99",
        "p99.9"
    ]];
    for kind in KINDS {
        let (mut samples, mut each) = (vec![Vec::new(); 7], Vec::new());
        for _ in 0..ROUNDS {
            let Some(tier) = (kind.tier)() else { break };
            let (ours, runs) = through(tier, &pages);
            let bare = (kind.bare)(&pages);
            let all =
                [ours.out, bare.out, ours.out / bare.out, ours.back, bare.back, ours.back / bare.back, runs];
            samples.iter_mut().zip(all).for_each(|(s, f)| s.push(f));
            each.extend(ours.each);
        }
        if each.is_empty() {
            rows.push(row![kind.name, "refused by this machine"]);
            continue;
        }
        let m: Vec<f64> = samples.iter_mut().map(|s| median(s)).collect();
        let mut row = vec![kind.name.to_owned()];
        row.extend(
            m.iter()
                .enumerate()
                .map(|(i, f)| if i == 2 || i == 5 { format!("{f:.2}") } else { format!("{f:.0}") }),
        );
        row.extend([0.5, 0.99, 0.999].map(|p| format!("{:.1}", percentile(&mut each, p))));
        rows.push(row);
    }
    let dir = std::env::temp_dir();
    let title = format!(
        "8. Swap: 64 MiB out by runs of 32 pages until written, back in random order one by one, and by runs of 16\n   \
         (medians of {ROUNDS}; a quarter of the pages is noise; files in {}, past the page cache where it can be;\n   \
         bare: the compressor, or the same file with pwrite and pread)",
        dir.display()
    );
    table::print(&title, &rows);
}
