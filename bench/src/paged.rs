//! Table 11: Python, sqlite and sort with a quarter of the memory that they use, beside Linux with
//! a memory cgroup of the same limit and the same kind of swap. Table 12: what is left of their
//! memory when it is compressed, beside zram.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::compressed;
use crate::linux_swap::{Cgroup, On};
use crate::programs::{machvm_command, ms, time};
use crate::row;
use crate::table::{self, Samples};

const LIMIT: u64 = 64 << 20;
const SWAP: u64 = 1 << 30;
const PATIENCE: &str = "300";

/// A program and its arguments.
pub(crate) struct Job {
    pub(crate) name: &'static str,
    argv: Vec<String>,
}

impl Job {
    /// Without a limit. A hang ends.
    pub(crate) fn command(&self) -> Command {
        let mut c = Command::new("timeout");
        c.arg(PATIENCE).args(&self.argv);
        c
    }
    /// Without `timeout` around it.
    pub(crate) fn bare(&self) -> Command {
        let mut c = Command::new(&self.argv[0]);
        c.args(&self.argv[1..]);
        c
    }
    fn ours(&self, machvm: &Path, swap: &str) -> Command {
        let mut c = Command::new("timeout");
        c.arg(PATIENCE).arg(machvm).args(["run", "--memory", &LIMIT.to_string(), "--swap", swap, "--"]);
        c.args(&self.argv);
        c
    }
}

/// The programs of `crates/cli/tests/run_memory.rs`.
///
/// # Errors
/// What `sort` sorts cannot be written.
fn jobs(dir: &Path) -> Result<Vec<Job>, String> {
    let words = |w: &[&str]| w.iter().map(ToString::to_string).collect();
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/cli/tests/programs");
    let lines = dir.join("lines");
    let make = format!(
        "import random\nr=random.Random(7)\nwith open({:?},'w') as f:\n for _ in range(3000):\n  f.write(''.join('%0490x\\n' % r.getrandbits(1960) for _ in range(205)))\n",
        lines.to_string_lossy()
    );
    let made = Command::new("/usr/bin/python3").args(["-c", &make]).status();
    if !made.is_ok_and(|s| s.success()) {
        return Err("python3 cannot write what sort sorts".into());
    }
    let sql = "PRAGMA journal_mode=MEMORY; CREATE TABLE t(id INTEGER PRIMARY KEY, k INT, v BLOB);\
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<200000)\
        INSERT INTO t SELECT i, (i*7919)%200003, zeroblob(400)||CAST(printf('%0500d', i*i) AS BLOB) FROM n;\
        CREATE INDEX k ON t(k); PRAGMA integrity_check;\
        SELECT count(*), sum(k), sum(length(v)) FROM t WHERE k%3=1; PRAGMA page_count;";
    let checksummed = tests.join("checksummed.py");
    Ok(vec![
        Job {
            name: "python3, 256 MiB in random order",
            argv: words(&["/usr/bin/python3", &checksummed.to_string_lossy(), "256", "20261121"]),
        },
        Job { name: "sqlite3, 200 MB in memory", argv: words(&["/usr/bin/sqlite3", ":memory:", sql]) },
        Job {
            name: "sort of 300 MB",
            argv: words(&[
                "/usr/bin/sort",
                "--parallel=1",
                "-S",
                "300M",
                "-o",
                "/dev/null",
                &lines.to_string_lossy(),
            ]),
        },
    ])
}

/// A kind of swap, ours and Linux's.
struct Pair<'a> {
    name: &'static str,
    ours: String,
    linux: &'a dyn Fn() -> Result<On, String>,
}

fn compare(machvm: &Path, job: &Job, pair: &Pair<'_>) -> Vec<String> {
    let mut s = Samples::default();
    for _ in 0..table::rounds(3) {
        match time(job.command()).and_then(|n| Ok((n, time(job.ours(machvm, &pair.ours))?))) {
            Ok((free, ours)) => {
                s.add("free", free);
                s.add("ours", ours);
            }
            Err(why) => return row![job.name, pair.name, "-", "-", "-", format!("FAILED: {why}")],
        }
        let linux = (pair.linux)().and_then(|on| {
            let group = Cgroup::new(LIMIT)?;
            let mut command = job.command();
            group.run(&mut command);
            let seconds = time(command);
            drop((group, on));
            seconds
        });
        match linux {
            Ok(seconds) => s.add("linux", seconds),
            Err(why) => {
                return row![
                    job.name,
                    pair.name,
                    ms(&s, "free"),
                    "-",
                    ms(&s, "ours"),
                    format!("Linux: {why}")
                ];
            }
        }
    }
    let ratio = format!("{:.2}", s.ratio("ours", "linux"));
    row![job.name, pair.name, ms(&s, "free"), ms(&s, "linux"), ms(&s, "ours"), ratio]
}

pub(crate) fn run() {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let title = format!(
        "11. Programs with {} MiB of memory (milliseconds, medians of {} runs, variants in turn; load {})",
        LIMIT >> 20,
        table::rounds(3),
        load.trim()
    );
    let dir: PathBuf = std::env::temp_dir().join(format!("machvm-bench-paged-{}", std::process::id()));
    let ready = machvm_command()
        .and_then(|m| fs::create_dir(&dir).map(|()| m).map_err(|e| e.to_string()))
        .and_then(|m| Ok((m, jobs(&dir)?)));
    match ready {
        Ok((machvm, jobs)) => {
            let zram = || On::zram("lz4", SWAP);
            let file = || On::file(&dir, SWAP);
            let place = format!("file:{}:{SWAP}", dir.display());
            let pairs = [
                Pair { name: "lz4 | zram lz4", ours: "lz4".into(), linux: &zram },
                Pair { name: "file, plain | file", ours: format!("{place},plain"), linux: &file },
                Pair { name: "file, encrypted | file", ours: place, linux: &file },
            ];
            let mut rows = vec![row!["program", "swap", "no limit", "Linux", "machvm", "machvm/Linux"]];
            for job in &jobs {
                for pair in &pairs {
                    rows.push(compare(&machvm, job, pair));
                    // It takes minutes.
                    eprintln!("  {}", rows[rows.len() - 1].join("  "));
                }
            }
            table::print(&title, &rows);
            println!(
                "  Linux: a memory cgroup of the same limit, which also counts what the program reads from files."
            );
        }
        Err(why) => println!("{title}: not possible here: {why}"),
    }
    let _ = fs::remove_dir_all(&dir);
}

/// Table 12.
pub(crate) fn run_compressed() {
    let dir: PathBuf = std::env::temp_dir().join(format!("machvm-bench-paged-{}", std::process::id()));
    match fs::create_dir(&dir).map_err(|e| e.to_string()).and_then(|()| jobs(&dir)) {
        Ok(jobs) => compressed::run(&jobs),
        Err(why) => println!("12. Compressed memory: not possible here: {why}"),
    }
    let _ = fs::remove_dir_all(&dir);
}
