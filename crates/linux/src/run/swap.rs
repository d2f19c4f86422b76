//! The places that `--swap` names.

use std::fmt::Write;
use std::sync::Arc;

use machvm_hal::PAGE_SIZE;
use machvm_pagers::{Block, Codec, Disk, FileBlock, Heap, Memory, Opened, Pool, Source, Speed, Tier, Tiers};

use super::error::RunError;
use super::options::{SwapPlace, SwapTier};
use crate::uring::UringBlock;

/// Says why a place cannot be used, in a sentence.
fn refused(e: &dyn std::fmt::Display) -> RunError {
    RunError::Host(format!("--swap: {e}"))
}

/// All the places; `None` without any.
///
/// => in the VM's descriptor table
///
/// # Errors
/// The first that cannot be used, and why.
pub(super) fn tiers(wanted: &[SwapTier]) -> Result<Option<Arc<Tiers>>, RunError> {
    if wanted.is_empty() {
        return Ok(None);
    }
    let tiers = Tiers::new();
    for (i, one) in wanted.iter().enumerate() {
        let prio = one.prio.map_or(-1 - i as i32, i32::from);
        let tier = open(one).map_err(|e| refused(&e))?;
        tiers.on(tier, prio).map_err(|e| refused(&e))?;
    }
    Ok(Some(Arc::new(tiers)))
}

/// Opens one place.
///
/// # Errors
/// Why it cannot be used.
pub(super) fn open(wanted: &SwapTier) -> Result<Box<dyn Tier>, String> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let pool = |codec, max, name: &str| -> Box<dyn Tier> {
        Box::new(Memory::new(Pool::with_codec(codec, Heap, max, threads), name))
    };
    let source = match &wanted.place {
        SwapPlace::Lz4 { max } => return Ok(pool(Codec::Lz4, *max, "lz4")),
        SwapPlace::Zstd { max, level } => return Ok(pool(Codec::Zstd(*level), *max, "zstd")),
        SwapPlace::File { path, bytes } => Source::File(path.clone(), *bytes),
        SwapPlace::Device { path, force } => Source::Device(path.clone(), *force),
    };
    let opened = source.open().map_err(|e| e.to_string())?;
    let block = block(&opened);
    Ok(Box::new(Disk::new(opened, block, wanted.encrypt)))
}

/// io_uring, or what every kernel and container has.
fn block(opened: &Opened) -> Box<dyn Block> {
    match UringBlock::new(Arc::clone(&opened.file)) {
        Ok(ring) => Box::new(ring),
        Err(_) => Box::new(FileBlock::new(Arc::clone(&opened.file))),
    }
}

/// Whether a page may be where somebody else must answer for it.
pub(super) fn any_slow(tiers: &Tiers) -> bool {
    tiers.tiers().iter().any(|t| t.speed == Speed::Slow)
}

/// The lines of `--stats`.
pub(super) fn stats(tiers: &Tiers) -> String {
    let mut t = String::new();
    let mut line = |n: u64, what: &str| {
        let _ = writeln!(t, "{n:>14} {what}");
    };
    let s = tiers.stats();
    line(s.same_filled + s.slots, "pages in swap now");
    line(s.put_same_filled, "pages written that repeat one word");
    line(s.moved, "pages moved from one place of swap to another");
    line(s.lost, "pages that could not be read back");
    line(s.full, "page-outs refused because swap was full");
    for one in tiers.tiers() {
        let (n, s) = (&one.name, one.stats);
        let mut line = |count: u64, what: &str| {
            let _ = writeln!(t, "{count:>14} {n}: {what}");
        };
        line(s.puts, "pages written");
        line(s.gets, "pages read");
        line(s.pages, "pages now");
        line(s.bytes / 1024, "KiB now");
        line(s.capacity * PAGE_SIZE / 1024, "KiB at most");
        if one.speed == Speed::Slow {
            line(s.writes, "requests to write");
            line(s.reads, "requests to read");
            line(s.errors[0], "writes that failed");
            line(s.errors[1], "reads that failed");
            line(s.damaged, "pages found damaged");
        }
    }
    t
}
