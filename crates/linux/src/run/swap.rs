//! The places that `--swap` names.

use std::fmt::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use machvm_hal::PAGE_SIZE;
use machvm_pagers::external::{self, ExternalSwap};
#[cfg(feature = "remote")]
use machvm_pagers::remote::{Engine, Hooks, RemoteTier, TierOptions};
use machvm_pagers::{Block, Codec, Disk, FileBlock, Heap, Memory, Opened, Pool, Source, Speed, Tier, Tiers};

use super::error::RunError;
use super::options::{SwapPlace, SwapTier};
use super::spec::parse_swap;
use super::vmthread::spawn_vm_thread;
#[cfg(feature = "remote")]
use super::vmthread::{enter_vm_thread, leave_vm_thread};
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
fn open(wanted: &SwapTier) -> Result<Box<dyn Tier>, String> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let pool = |codec, max, name: &str| -> Box<dyn Tier> {
        Box::new(Memory::new(Pool::with_codec(codec, Heap, max, threads), name))
    };
    let source = match &wanted.place {
        SwapPlace::Lz4 { max } => return Ok(pool(Codec::Lz4, *max, "lz4")),
        SwapPlace::Zstd { max, level } => return Ok(pool(Codec::Zstd(*level), *max, "zstd")),
        SwapPlace::File { path, bytes } => Source::File(path.clone(), *bytes),
        SwapPlace::Device { path, force } => Source::Device(path.clone(), *force),
        SwapPlace::Pager { path, max } => return pager(path, *max),
        #[cfg(feature = "remote")]
        SwapPlace::Remote { place, options, patience } => {
            let hooks = Hooks { started: enter_vm_thread, ended: leave_vm_thread };
            let options = TierOptions { encrypt: wanted.encrypt, ..options.clone() };
            let engine = Engine::open(place, *patience, hooks)?;
            return Ok(Box::new(Arc::new(RemoteTier::open(place, engine, options)?)));
        }
    };
    let opened = source.open().map_err(|e| e.to_string())?;
    let block = block(&opened);
    Ok(Box::new(Disk::new(opened, block, wanted.encrypt)))
}

/// The external pagers that are, or were, in use.
static PAGERS: Mutex<Vec<Weak<ExternalSwap>>> = Mutex::new(Vec::new());

/// The external pagers in use.
pub(super) fn pagers() -> Vec<Arc<ExternalSwap>> {
    let mut all = PAGERS.lock().unwrap_or_else(PoisonError::into_inner);
    all.retain(|p| p.strong_count() != 0);
    all.iter().filter_map(Weak::upgrade).collect()
}

/// Connects to an external pager.
fn pager(path: &Path, max: Option<u64>) -> Result<Box<dyn Tier>, String> {
    let spawn: external::Spawn = |name, body| spawn_vm_thread(name.trim_start_matches("machvm-"), body);
    let options = external::Options { spawn, ..external::Options::default() };
    // The program may change its working directory, which is ours too.
    let at = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    match ExternalSwap::connect(&at, max.unwrap_or(ExternalSwap::DEFAULT), options) {
        Ok(swap) => {
            let swap = Arc::new(swap);
            PAGERS.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&swap));
            Ok(Box::new(swap))
        }
        Err(e) => Err(format!("cannot page to the pager at {} (is it running?): {e}", path.display())),
    }
}

/// io_uring, or what every kernel and container has.
fn block(opened: &Opened) -> Box<dyn Block> {
    match UringBlock::new(Arc::clone(&opened.file)) {
        Ok(ring) => Box::new(ring),
        Err(_) => Box::new(FileBlock::new(Arc::clone(&opened.file))),
    }
}

/// Answers `list`, `on SPEC` and `off NAME`.
///
/// # Errors
/// One sentence.
pub(super) fn request(tiers: &Tiers, request: &str) -> Result<String, String> {
    let (what, rest) = request.trim().split_once(' ').unwrap_or((request.trim(), ""));
    match (what, rest.trim()) {
        ("" | "list", "") => Ok(table(tiers)),
        ("on", spec) if !spec.is_empty() => on(tiers, spec),
        ("off", name) if !name.is_empty() => match tiers.off(name) {
            Ok(moved) => Ok(format!("{name}: {moved} pages moved to other places\n")),
            Err(e) => Err(e.to_string()),
        },
        _ => Err(format!("{request:?} is no request: use list, on PLACE[,SETTING...], off NAME")),
    }
}

/// Takes further places into use, behind the others if they have no priority.
fn on(tiers: &Tiers, spec: &str) -> Result<String, String> {
    let places = parse_swap(spec)?.0;
    if places.is_empty() {
        return Err("none is no place for pages: use off NAME".into());
    }
    for one in &places {
        match &one.place {
            // The working directory is the program's.
            SwapPlace::File { path, .. } | SwapPlace::Device { path, .. } | SwapPlace::Pager { path, .. }
                if !path.is_absolute() =>
            {
                return Err(format!("{} is not an absolute path", path.display()));
            }
            _ => {}
        }
    }
    let mut answer = String::new();
    for one in &places {
        let last = tiers.tiers().iter().map(|t| t.prio).min().unwrap_or(0).min(0);
        let tier = open(one)?;
        let name = tier.name().to_owned();
        tiers.on(tier, one.prio.map_or(last - 1, i32::from)).map_err(|e| e.to_string())?;
        let _ = writeln!(answer, "{name}: in use");
    }
    Ok(answer)
}

/// A table in the manner of swapctl(8), one line for each place.
fn table(tiers: &Tiers) -> String {
    let mut t = String::from(
        "swap                      kind     prio    pages  capacity       KiB     puts     gets errors damaged\n",
    );
    for one in tiers.tiers() {
        let s = one.stats;
        let _ = writeln!(
            t,
            "{:<25} {:<8} {:>4} {:>8} {:>9} {:>9} {:>8} {:>8} {:>6} {:>7}{}",
            one.name,
            one.kind,
            one.prio,
            s.pages,
            s.capacity,
            s.bytes / 1024,
            s.puts,
            s.gets,
            s.errors[0] + s.errors[1],
            s.damaged,
            if one.leaving { " leaving" } else { "" },
        );
    }
    t
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

#[cfg(test)]
mod tests {
    use super::*;
    use machvm_hal::{Swap, SwapError};

    fn page(n: u64) -> Box<[u8; PAGE_SIZE as usize]> {
        let mut page = Box::new([0; PAGE_SIZE as usize]);
        for (i, word) in page.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            *word = (n << 20 | i as u64).to_le_bytes();
        }
        page
    }
    fn says(tiers: &Tiers, what: &str, answer: &str) {
        let error = request(tiers, what).expect_err(what);
        assert!(error.contains(answer), "{what}: {error}");
    }

    #[test]
    fn s09_places_come_and_go_while_pages_are_there() {
        let dir = std::env::temp_dir();
        let places = parse_swap("lz4:8M").expect("a place").0;
        let tiers = tiers(&places).expect("opened").expect("one");
        let slots: Vec<_> = (0..500).map(|n| tiers.put(&page(n)).expect("room")).collect();
        says(&tiers, "off lz4", "cannot hold");
        let answer = request(&tiers, &format!("on file:{}:8M", dir.display())).expect("more");
        assert_eq!(answer, format!("{}: in use\n", dir.display()));
        assert!(request(&tiers, "off lz4").expect("room").contains("500 pages moved"));
        let table = request(&tiers, "list").expect("a table");
        assert!(!table.contains("lz4") && table.contains(&dir.display().to_string()), "{table}");
        let mut back = [0; PAGE_SIZE as usize];
        for (n, slot) in slots.iter().enumerate() {
            assert_eq!(tiers.get(*slot, &mut back), Ok(()));
            assert!(back == *page(n as u64), "page {n}");
            tiers.free(*slot);
            assert_eq!(tiers.get(*slot, &mut back), Err(SwapError::Lost));
        }
        assert!(request(&tiers, &format!("off {}", dir.display())).expect("empty").contains(": 0 pages"));
    }

    #[test]
    fn s09_wrong_requests_are_answered_with_a_reason() {
        let places = parse_swap("zstd:1M").expect("a place").0;
        let tiers = tiers(&places).expect("opened").expect("one");
        for (what, answer) in [
            ("of lz4", "no request"),
            ("on", "no request"),
            ("list all", "no request"),
            ("on lz5", "no place"),
            ("on none", "no place"),
            ("on file:tmp:1M", "not an absolute path"),
            ("on pager:socket", "not an absolute path"),
            ("on pager:/nonexistent", "is it running?"),
            ("on dev:/dev/null", "not a block device"),
            ("on zstd:2M", "in use"),
            ("off lz4", "not in use"),
        ] {
            says(&tiers, what, answer);
        }
        assert_eq!(tiers.tiers().len(), 1);
    }
}
