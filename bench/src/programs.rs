//! Table 4: whole programs under `machvm run`, against the same programs on Linux, and
//! with less memory than they use against Linux's memory cgroup with compressed swap.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::linux_swap::Cgroup;
use crate::row;
use crate::table::{self, Samples, goal};

const ROUNDS: usize = 5;
/// A run that takes this many seconds is given up.
const PATIENCE: &str = "120";
/// A limit below this would be about the start of the program only.
const LEAST_LIMIT: u64 = 4 << 20;

/// A program and its arguments.
struct Job {
    name: &'static str,
    argv: Vec<String>,
}

fn jobs(dir: &Path) -> Vec<Job> {
    let words = |w: &[&str]| w.iter().map(ToString::to_string).collect();
    let lines = dir.join("lines");
    let sql = "PRAGMA cache_size=-200000; CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT, c REAL); \
               WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 300000) \
               INSERT INTO t SELECT i, hex(randomblob(20)) || i, i * 0.5 FROM n; \
               CREATE INDEX tb ON t(b); SELECT count(*), sum(c) FROM t WHERE b > '8'; PRAGMA integrity_check;";
    let js = "let o = {}, a = []; for (let i = 0; i < 300000; i++) { o['k' + i % 1000] = i; a.push(i * 1.5); } \
              let s = 0; for (let r = 0; r < 300; r++) for (let i = 0; i < a.length; i++) s += a[i] ^ r; \
              console.log(s);";
    vec![
        Job {
            name: "python3 start-up",
            argv: words(&["/usr/bin/python3", "-c", "import json, re, subprocess"]),
        },
        Job { name: "sqlite3, 300,000 rows", argv: words(&["/usr/bin/sqlite3", ":memory:", sql]) },
        Job {
            name: "sort of 48 MB",
            argv: words(&["/usr/bin/sort", "-S", "200M", "-o", "/dev/null", &lines.to_string_lossy()]),
        },
        Job { name: "node, JIT loop", argv: words(&["/usr/bin/node", "-e", js]) },
    ]
}

/// What `sort` sorts.
fn write_lines(to: &Path) -> io::Result<()> {
    let (mut text, mut x) = (String::with_capacity(48 << 20), 88_172_645_463_325_252u64);
    while text.len() < 48 << 20 {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        text.push_str(&format!("{x:016x} some words that compress {:08x}\n", x as u32));
    }
    fs::write(to, text)
}

/// Runs a command; seconds, or why not.
pub(crate) fn time(mut command: Command) -> Result<f64, String> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).env("LC_ALL", "C");
    let begun = Instant::now();
    let out = command.output().map_err(|e| e.to_string())?;
    let seconds = begun.elapsed().as_secs_f64();
    if out.status.success() {
        return Ok(seconds);
    }
    let text = String::from_utf8_lossy(&out.stderr);
    Err(format!("{}: {}", out.status, text.lines().last().unwrap_or("no message")))
}

fn native(job: &Job) -> Command {
    let mut c = Command::new("timeout");
    c.arg(PATIENCE).args(&job.argv);
    c
}

fn ours(machvm: &Path, job: &Job, options: &[String]) -> Command {
    let mut c = Command::new("timeout");
    c.arg(PATIENCE).arg(machvm).arg("run").args(options).arg("--").args(&job.argv);
    c
}

fn within(group: &Cgroup, job: &Job) -> Command {
    let mut c = native(job);
    group.run(&mut c);
    c
}

/// Does Linux compress to memory here, under a limit?
fn peer() -> Result<(), String> {
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    if !swaps.lines().any(|l| l.starts_with("/dev/zram")) {
        return Err("no zram swap is active (modprobe zram; echo lz4 > /sys/block/zram0/comp_algorithm; \
                    echo 4G > /sys/block/zram0/disksize; mkswap /dev/zram0; swapon /dev/zram0)"
            .into());
    }
    let algorithm = fs::read_to_string("/sys/block/zram0/comp_algorithm").unwrap_or_default();
    if !algorithm.contains("[lz4]") {
        return Err(format!("zram compresses with {}, not lz4", algorithm.trim()));
    }
    Cgroup::new(64 << 20).map(drop)
}

/// KiB that the program has resident at most under machvm without a limit.
fn peak(machvm: &Path, job: &Job, dir: &Path) -> Option<u64> {
    let stats = dir.join("stats");
    time(ours(machvm, job, &[format!("--stats={}", stats.display())])).ok()?;
    let text = fs::read_to_string(stats).ok()?;
    let line = text.lines().find(|l| l.contains("KiB resident at most"))?;
    line.split_whitespace().find_map(|w| w.parse().ok())
}

fn unlimited(machvm: &Path, job: &Job) -> Vec<String> {
    let mut s = Samples::default();
    for round in 0..=ROUNDS {
        let both = time(native(job)).and_then(|n| Ok((n, time(ours(machvm, job, &[]))?)));
        match both {
            Ok((n, o)) if round != 0 => {
                s.add("native", n);
                s.add("ours", o);
            }
            Ok(_) => {} // the first run fills the page cache
            Err(why) => return row![job.name, "none", "-", "-", format!("FAILED: {why}")],
        }
    }
    let ratio = goal(s.ratio("ours", "native"), 1.10);
    row![job.name, "none", ms(&s, "native"), ms(&s, "ours"), ratio]
}

fn limited(machvm: &Path, job: &Job, limit: u64, what: &str, peer: bool) -> Vec<String> {
    let mut s = Samples::default();
    let name = format!("{what} = {} MiB", limit >> 20);
    let option = [format!("--memory={limit}")];
    let mut killed = 0;
    for _ in 0..ROUNDS {
        let seconds = match time(ours(machvm, job, &option)) {
            Ok(seconds) => seconds,
            Err(why) => return row![job.name, name, "-", "-", format!("FAILED: {why}")],
        };
        s.add("ours", seconds);
        if peer {
            // Linux's own reclaim gives up now and then, with swap to spare.
            match Cgroup::new(limit).and_then(|g| time(within(&g, job))) {
                Ok(native) => {
                    s.add("native", native);
                    s.add("paired", seconds);
                }
                Err(_) => killed += 1,
            }
        }
    }
    let ratio = match killed {
        _ if !peer => "-".into(),
        0 => goal(s.ratio("paired", "native"), 1.0),
        ROUNDS => "Linux kills the program (out of memory in the cgroup)".into(),
        n => format!("{}; Linux killed it {n} of {ROUNDS} times", goal(s.ratio("paired", "native"), 1.0)),
    };
    row![job.name, name, ms(&s, "native"), ms(&s, "ours"), ratio]
}

pub(crate) fn ms(s: &Samples, name: &str) -> String {
    let v = s.median(name);
    if v.is_nan() { "-".into() } else { format!("{:.0}", v * 1e3) }
}

/// `machvm`, built like this program and beside it.
pub(crate) fn machvm_command() -> Result<PathBuf, String> {
    let me = std::env::current_exe().map_err(|e| e.to_string())?;
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let built =
        Command::new(cargo).args(["build", "--release", "--quiet", "--package", "machvm-cli"]).status();
    if !built.is_ok_and(|s| s.success()) {
        return Err("machvm-cli could not be built".into());
    }
    let at = me.with_file_name("machvm");
    if at.exists() { Ok(at) } else { Err(format!("{} is missing", at.display())) }
}

pub(crate) fn run() {
    let title = "4. Programs (milliseconds, medians of 5 paired runs)";
    let machvm = match machvm_command() {
        Ok(m) => m,
        Err(why) => return println!("{title}: not possible here: {why}"),
    };
    let dir = std::env::temp_dir().join(format!("machvm-bench-{}", std::process::id()));
    if let Err(e) = fs::create_dir(&dir).and_then(|()| write_lines(&dir.join("lines"))) {
        return println!("{title}: not possible here: {}: {e}", dir.display());
    }
    let peer = peer();
    let mut rows = vec![row!["program", "limit", "Linux", "machvm", "machvm/Linux"]];
    for job in jobs(&dir) {
        if !Path::new(&job.argv[0]).exists() {
            rows.push(row![job.name, "-", "-", "-", format!("{} is not installed", job.argv[0])]);
            continue;
        }
        rows.push(unlimited(&machvm, &job));
        let Some(peak) = peak(&machvm, &job, &dir).map(|kib| kib << 10) else { continue };
        for (what, limit) in [("1/2", peak / 2), ("1/4", peak / 4)] {
            if limit >= LEAST_LIMIT {
                rows.push(limited(&machvm, &job, limit, what, peer.is_ok()));
            }
        }
    }
    // What is left is a temporary file.
    let _ = fs::remove_dir_all(&dir);
    table::print(title, &rows);
    println!(
        "  Limits are fractions of the program's peak under machvm; Linux: a memory cgroup of the same size."
    );
    if let Err(why) = peer {
        println!("  Linux under a limit is not possible here: {why}");
    }
}
