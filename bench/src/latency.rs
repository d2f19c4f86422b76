//! Table 10: how long a program waits for a page that is paged out, place by place, beside Linux
//! with the same limit.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::linux_swap::{Cgroup, On};
use crate::programs::machvm_command;
use crate::row;
use crate::servers::{Pager, Redis};
use crate::table;

const PAGES: usize = 16384;
const MEMORY: u64 = 16 << 20;
const TOUCHES: usize = 16384;
/// Whatever took less was there.
const HIT_NS: u64 = 1000;
/// Upper ends of the histogram, in microseconds; the last has none.
const ENDS: [u64; 12] = [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384];

/// Where the pages are.
enum Where<'a> {
    /// `--swap` of `machvm run`.
    Ours(String),
    /// A cgroup, and what is switched on for it.
    Linux(&'a dyn Fn() -> Result<On, String>),
    /// A file that the page cache forgot.
    File,
}

/// A run; nanoseconds of each touch that had to wait, and page-ins if they are known.
fn once(place: &Where<'_>, machvm: &Path, dir: &Path) -> Result<(Vec<u64>, Option<u64>), String> {
    let me = std::env::current_exe().map_err(|e| e.to_string())?;
    let stats = dir.join("stats");
    let mut command = match place {
        Where::Ours(swap) => {
            let mut c = Command::new(machvm);
            c.args(["run", "--memory", &MEMORY.to_string(), "--swap", swap]);
            c.arg(format!("--stats={}", stats.display())).arg("--").arg(&me);
            c
        }
        _ => Command::new(&me),
    };
    command.args(["touch", &PAGES.to_string(), &TOUCHES.to_string()]).stdin(Stdio::null());
    let mut linux = None;
    match place {
        Where::Ours(_) => {}
        Where::Linux(on) => {
            let (on, group) = (on()?, Cgroup::new(MEMORY)?);
            group.run(&mut command);
            // The group first: its pages come back then for no one.
            linux = Some((group, on));
        }
        Where::File => {
            command.arg(dir.join("touched"));
        }
    }
    let out = command.output().map_err(|e| e.to_string())?;
    drop(linux);
    if !out.status.success() {
        let text = String::from_utf8_lossy(&out.stderr);
        return Err(format!("{}: {}", out.status, text.lines().last().unwrap_or("no message")));
    }
    let took = String::from_utf8_lossy(&out.stdout);
    let took = took.lines().filter_map(|l| l.parse().ok()).filter(|ns| *ns >= HIT_NS).collect();
    let stats = fs::read_to_string(&stats).unwrap_or_default();
    let line = stats.lines().find(|l| l.ends_with("pages read from swap (page-ins)"));
    let ins = line.and_then(|l| l.split_whitespace().next()?.parse().ok());
    Ok((took, if matches!(place, Where::Ours(_)) { ins } else { None }))
}

fn microseconds(took: &[u64], of: f64) -> String {
    let ns = took[((took.len() - 1) as f64 * of) as usize];
    format!("{:.1}", ns as f64 / 1e3)
}

/// Per cent between the ends.
fn histogram(name: &str, took: &[u64]) -> Vec<String> {
    let mut counts = [0; ENDS.len() + 1];
    took.iter().for_each(|ns| counts[ENDS.partition_point(|end| end * 1000 <= *ns)] += 1);
    let mut row = row![name];
    row.extend(counts.map(|n: usize| match n as f64 * 100.0 / took.len() as f64 {
        _ if n == 0 => ".".into(),
        p if p < 0.1 => "<0.1".to_owned(),
        p => format!("{p:.1}"),
    }));
    row
}

pub(crate) fn run() {
    let rounds = table::rounds(3);
    let title = format!(
        "10. Waiting for a page (microseconds; {} MiB touched at random in {} MiB, every fourth time with a store; touches\n    \
         that took 1 us or more, {rounds} runs of {TOUCHES} touches each, places in turn; load {})",
        PAGES / 256,
        MEMORY >> 20,
        fs::read_to_string("/proc/loadavg").unwrap_or_default().trim()
    );
    let dir = std::env::temp_dir().join(format!("machvm-bench-latency-{}", std::process::id()));
    let machvm =
        match machvm_command().and_then(|m| fs::create_dir(&dir).map(|()| m).map_err(|e| e.to_string())) {
            Ok(m) => m,
            Err(why) => return println!("{title}: not possible here: {why}"),
        };
    let (pager, redis) = (Pager::new(&dir), Redis::new(&dir));
    let size = (PAGES as u64) << 14;
    let file = format!("file:{}:{size}", dir.display());
    let at_pager = pager.as_ref().map(|p| Where::Ours(format!("pager:{}", p.socket.display())));
    let at_redis =
        redis.as_ref().map(|r| Where::Ours(format!("redis://127.0.0.1:{}/latency,cache=1M", r.port)));
    let zram = |algorithm: &'static str| move || On::zram(algorithm, size);
    let (lz4, lzo, swap_file) = (zram("lz4"), zram("lzo-rle"), || On::file(&dir, size));
    let ours = |swap: &str| Ok(Where::Ours(swap.into()));
    let places: [(&str, Result<Where<'_>, &String>); 11] = [
        ("machvm, lz4", ours("lz4")),
        ("Linux, zram lz4", Ok(Where::Linux(&lz4))),
        ("Linux, zram lzo-rle", Ok(Where::Linux(&lzo))),
        ("machvm, zstd level 1", ours("zstd,level=1")),
        ("machvm, zstd level 3", ours("zstd")),
        ("machvm, external pager in C", at_pager),
        ("machvm, Redis", at_redis),
        ("machvm, file, encrypted", ours(&file)),
        ("machvm, file, plain", ours(&format!("{file},plain"))),
        ("Linux, swap file", Ok(Where::Linux(&swap_file))),
        ("Linux, file mapping, not cached", Ok(Where::File)),
    ];
    let mut all = places.each_ref().map(|_| (Vec::new(), 0, None));
    for _ in 0..rounds {
        for ((name, place), (took, ins, refused)) in places.iter().zip(&mut all) {
            // It takes minutes.
            eprintln!("  {name}");
            match place.as_ref().map_err(ToString::to_string).and_then(|p| once(p, &machvm, &dir)) {
                Ok((more, n)) => {
                    took.extend(more);
                    *ins += n.unwrap_or(0);
                }
                Err(why) => *refused = Some(why),
            }
        }
    }
    let mut rows = vec![row!["place", "waits", "page-ins", "p50", "p90", "p99", "p99.9", "most"]];
    let mut shape = vec![row!["%, below us"]];
    shape[0].extend(ENDS.map(|end| end.to_string()).into_iter().chain(["more".into()]));
    for ((name, _), (took, ins, refused)) in places.iter().zip(&mut all) {
        if let Some(why) = refused {
            rows.push(row![name, format!("not possible here: {why}")]);
        } else if !took.is_empty() {
            took.sort_unstable();
            let ins = if *ins == 0 { "-".into() } else { ins.to_string() };
            let mut row = row![name, took.len(), ins];
            row.extend([0.5, 0.9, 0.99, 0.999, 1.0].map(|of| microseconds(took, of)));
            rows.push(row);
            shape.push(histogram(name, took));
        }
    }
    table::print(&title, &rows);
    table::print("", &shape);
    drop((pager, redis));
    let _ = fs::remove_dir_all(&dir);
}
