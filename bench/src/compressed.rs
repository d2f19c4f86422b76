//! Table 12: the memory of real programs, compressed by our pool and by zram: the same pages.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use machvm_hal::{PAGE_SIZE, Swap};
use machvm_pagers::{Codec, Heap, Pool};

use crate::linux_swap::Zram;
use crate::paged::Job;
use crate::row;
use crate::swap::Page;
use crate::table;

const PAGE: usize = PAGE_SIZE as usize;
/// Pages that are taken of a program.
const MOST: usize = 40_000;
/// It is looked at when it has so many resident, or after so long.
const GROWN: u64 = 38_000;
const PATIENCE: Duration = Duration::from_secs(30);

/// Killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Pages of a program's private memory, as they are when it has grown.
fn pages_of(job: &Job) -> Result<Vec<Page>, String> {
    let mut command = job.bare();
    command.env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut program = Running(command.spawn().map_err(|e| e.to_string())?);
    let proc = format!("/proc/{}", program.0.id());
    let end = Instant::now() + PATIENCE;
    let resident = || -> Option<u64> {
        std::fs::read_to_string(format!("{proc}/statm")).ok()?.split_whitespace().nth(1)?.parse().ok()
    };
    while resident().is_some_and(|n| n < GROWN) && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
    if !matches!(program.0.try_wait(), Ok(None)) {
        return Err("it ended before it had grown".into());
    }
    // SAFETY: a process of ours, that was not waited for.
    unsafe { libc::kill(program.0.id() as i32, libc::SIGSTOP) };
    dump(&proc).map_err(|e| format!("{proc}: {e}"))
}

fn dump(proc: &str) -> io::Result<Vec<Page>> {
    let memory = File::open(format!("{proc}/mem"))?;
    let mut pages = Vec::new();
    for line in std::fs::read_to_string(format!("{proc}/maps"))?.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ours = words.get(1).is_some_and(|w| w.starts_with("rw") && w.ends_with('p'));
        if !ours || words.get(4) != Some(&"0") {
            continue;
        }
        let range =
            words[0].split_once('-').map(|(a, b)| (u64::from_str_radix(a, 16), u64::from_str_radix(b, 16)));
        let Some((Ok(from), Ok(to))) = range else { continue };
        for at in (from..to).step_by(PAGE) {
            let mut page = [0; PAGE];
            // What was never touched reads as zeroes, and is not there.
            if memory.read_exact_at(&mut page, at).is_ok() && page.iter().any(|b| *b != 0) {
                pages.push(page);
            }
            if pages.len() == MOST {
                return Ok(pages);
            }
        }
    }
    Ok(pages)
}

/// Bytes of compressed pages, and of memory for them, in units of the pages' size.
struct Size {
    packed: f64,
    memory: f64,
}

impl Size {
    fn new(packed: u64, memory: u64, pages: &[Page]) -> Size {
        let all = (pages.len() * PAGE) as f64;
        Size { packed: packed as f64 / all, memory: memory as f64 / all }
    }
}

fn in_pool(codec: Codec, pages: &[Page]) -> Result<Size, String> {
    let pool = Pool::with_codec(codec, Heap, None, 1);
    for page in pages {
        pool.put(page).map_err(|e| format!("{e:?}"))?;
    }
    let s = pool.stats();
    Ok(Size::new(s.stored_bytes, s.pool_bytes, pages))
}

fn in_zram(algorithm: &str, pages: &[Page]) -> Result<Size, String> {
    let zram = Zram::new(algorithm, (pages.len() * PAGE) as u64)?;
    let write = || -> io::Result<()> {
        let mut device = File::options().write(true).open(&zram.device)?;
        pages.iter().try_for_each(|p| device.write_all(p))?;
        device.sync_all()
    };
    write().map_err(|e| format!("{}: {e}", zram.device.display()))?;
    let [_, packed, memory] = zram.sizes()?;
    Ok(Size::new(packed, memory, pages))
}

pub(crate) fn run(jobs: &[Job]) {
    let mut rows = vec![row![
        "memory of",
        "pages",
        "lz4 block",
        "our lz4",
        "memory",
        "zram lz4",
        "memory",
        "ours/zram",
        "zram lzo-rle",
        "memory",
        "our zstd-1",
        "memory",
        "our zstd-3",
        "memory"
    ]];
    for job in jobs {
        let pages = match pages_of(job) {
            Ok(pages) if !pages.is_empty() => pages,
            Ok(_) => continue,
            Err(why) => {
                rows.push(row![job.name, format!("not possible here: {why}")]);
                continue;
            }
        };
        let mut buffer = vec![0; 2 * PAGE];
        let block = |p: &Page, to: &mut [u8]| lz4_flex::block::compress_into(p, to).unwrap_or(PAGE) as u64;
        let bare: u64 = pages.iter().map(|p| block(p, &mut buffer)).sum();
        let ours = in_pool(Codec::Lz4, &pages);
        let lz4 = in_zram("lz4", &pages);
        let ratio = match (&ours, &lz4) {
            (Ok(a), Ok(b)) => format!("{:.3}", a.memory / b.memory),
            _ => "-".into(),
        };
        let mut row = row![job.name, pages.len(), format!("{:.3}", Size::new(bare, 0, &pages).packed)];
        let lzo = in_zram("lzo-rle", &pages);
        for (i, size) in [ours, lz4, lzo, in_pool(Codec::Zstd(1), &pages), in_pool(Codec::Zstd(3), &pages)]
            .into_iter()
            .enumerate()
        {
            match size {
                Ok(s) => row.extend([format!("{:.3}", s.packed), format!("{:.3}", s.memory)]),
                Err(why) => row.extend([format!("not possible here: {why}"), "-".into()]),
            }
            if i == 1 {
                row.push(ratio.clone());
            }
        }
        rows.push(row);
    }
    table::print(
        "12. Compressed memory of the same programs, stopped in the middle (parts of its size: compressed bytes, and\n    \
         the memory that they take with everything around them; ours/zram: memory, lz4 on both sides)",
        &rows,
    );
}
