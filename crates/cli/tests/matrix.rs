//! 256 MiB through each place of swap alone and through all of them together, at a quarter, an
//! eighth and a sixteenth of that in memory (rows S06, S07).
//!
//! ```sh
//! cargo test --release -p machvm-cli --test matrix -- --ignored --nocapture
//! MACHVM_PLACES=redis,s3 MACHVM_PARTS=16 MACHVM_MIB=64 cargo test ...      # a part of it
//! ```

mod common;

use common::device::Loop;
use common::pager::Pager;
use common::{Job, Outcome, number, scratch};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A run takes minutes at most, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(3600);

/// A place, or several.
struct Swap {
    name: &'static str,
    spec: String,
    /// All that is in it must have been used.
    places: usize,
}

/// What the places are made of, while they are used.
struct Made {
    dir: PathBuf,
    c: Pager,
    python: Pager,
    device: Option<Loop>,
    #[cfg(feature = "remote")]
    redis: common::servers::Redis,
    #[cfg(feature = "remote")]
    s3: common::servers::S3,
}

impl Made {
    /// For a program of so many MiB.
    fn new(mib: u64) -> Made {
        let dir = scratch("matrix");
        Made {
            c: Pager::in_c(),
            python: Pager::in_python(),
            device: Loop::new(&dir.join("device"), mib << 21),
            #[cfg(feature = "remote")]
            redis: common::servers::Redis::new(),
            #[cfg(feature = "remote")]
            s3: common::servers::S3::new(),
            dir,
        }
    }

    /// Every place with room for all, and all of them, the last with room for what is left.
    fn swaps(&self, mib: u64) -> Vec<Swap> {
        let (room, little) = (mib * 2, (mib / 16).max(1));
        let file = |name: &str, mib| format!("file:{}:{mib}M", self.dir.join(name).display());
        let one = |name, spec| Swap { name, spec, places: 1 };
        let mut swaps = vec![
            one("lz4", "lz4".into()),
            one("zstd", "zstd,level=1".into()),
            one("file", file("file", room)),
            one("plain file", file("file", room) + ",plain"),
        ];
        let mut all = vec![format!("lz4:{little}M"), format!("zstd:{little}M"), file("file", little)];
        #[cfg(feature = "remote")]
        {
            let (redis, s3) = (self.redis.url("swap"), self.s3.url("swap"));
            // With less in memory than the program has.
            let settings = "cache=4M,wait=600";
            swaps.push(one("redis", format!("{redis},{settings}")));
            swaps.push(one("s3", format!("{s3},cluster=64,{settings}")));
            all.push(format!("{redis},max={little}M,{settings}"));
            all.push(format!("{s3},cluster=64,max={little}M,{settings}"));
        }
        swaps.push(one("pager in C", self.c.place(room)));
        swaps.push(one("pager in Python", self.python.place(room)));
        all.extend([self.python.place(little), self.c.place(little)]);
        if let Some(device) = &self.device {
            swaps.push(one("loop device", format!("dev:{}", device.0)));
            all.push(format!("dev:{}", device.0));
        } else {
            println!("this machine allows no loop devices: nothing is said of them");
            all.push(file("last", room));
        }
        swaps.push(Swap { name: "all together", places: all.len(), spec: all.join(",") });
        swaps
    }
}

/// What is said of one run.
struct Line {
    name: &'static str,
    part: u64,
    seconds: f64,
    pages: [u64; 2],
    /// What is wrong with it.
    wrong: Option<String>,
}

impl core::fmt::Display for Line {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let [out, back] = self.pages;
        let right = if self.wrong.is_some() { "WRONG" } else { "right" };
        write!(
            f,
            "| {:<15} | 1/{:<2} | {right} | {:>7.1} s | {out:>9} | {back:>9} |",
            self.name, self.part, self.seconds
        )
    }
}

const HEAD: &str = "| place           | part | is    | time      | pages out | pages in  |\n\
                    |-----------------|------|-------|-----------|-----------|-----------|";

/// Runs it in a part of its memory.
fn through(job: &Job, native: &Outcome, swap: &Swap, mib: u64, part: u64) -> Line {
    let stats = scratch("matrix").join("stats");
    let _ = std::fs::remove_file(&stats);
    let (memory, to) = (format!("{}K", (mib << 10) / part), format!("--stats={}", stats.display()));
    let begun = Instant::now();
    let ours = job.under_within(&["--memory", &memory, &to, "--swap", &swap.spec], PATIENCE);
    let seconds = begun.elapsed().as_secs_f64();
    let stats = std::fs::read_to_string(&stats).unwrap_or_default();
    let wrong = wrong(ours.as_ref(), native, swap, &stats);
    let figure = |what| if stats.is_empty() { 0 } else { number(&stats, what) };
    let pages = [figure("pages written to swap (page-outs)"), figure("pages read from swap (page-ins)")];
    let wrong = wrong.map(|w| format!("{} at 1/{part}: {w}: {ours:?}\n{stats}", swap.name));
    Line { name: swap.name, part, seconds, pages, wrong }
}

fn wrong(ours: Option<&Outcome>, native: &Outcome, swap: &Swap, stats: &str) -> Option<String> {
    let Some(ours) = ours else { return Some("it hangs".into()) };
    if !ours.status.success() || ours.out() != native.out() {
        return Some("not what it says natively".into());
    }
    for what in [": pages written", ": pages read"] {
        let lines = stats.lines().filter(|l| l.ends_with(what));
        let used = lines.filter(|l| l.split_whitespace().next() != Some("0")).count();
        if used != swap.places {
            return Some(format!("{used} places of {} have{what}", swap.places));
        }
    }
    // Whatever was read again without need is a fault as well: nobody harms the places.
    let of_all = ["pages that could not be read back", "memory errors: pages that could not be had"];
    let errors = of_all.iter().map(|what| number(stats, what)).sum::<u64>();
    let damaged = stats.lines().filter(|l| l.ends_with("found damaged")).collect::<Vec<_>>();
    let damaged = damaged.iter().any(|l| l.split_whitespace().next() != Some("0"));
    (errors != 0 || damaged).then(|| "pages that cannot be read".into())
}

fn numbers(variable: &str, otherwise: &[u64]) -> Vec<u64> {
    let Ok(given) = std::env::var(variable) else { return otherwise.to_vec() };
    given.split(',').map(|n| n.trim().parse().unwrap_or_else(|_| panic!("{variable}={given}"))).collect()
}

#[test]
#[ignore = "takes many minutes: 256 MiB thirty times; cargo xtask long runs it"]
fn s06_s07_256_mib_through_every_place() {
    let mib = numbers("MACHVM_MIB", &[256])[0];
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/checksummed.py");
    let argv = ["/usr/bin/python3".into(), program.display().to_string(), mib.to_string(), "20261121".into()];
    let mut job = Job::new(&argv);
    #[cfg(feature = "remote")]
    for (name, value) in common::servers::S3::ENV {
        job = job.env(name, value);
    }
    let begun = Instant::now();
    let native = job.native();
    assert!(native.status.success(), "{native:?}");
    println!("{mib} MiB natively: {:.1} s\n{HEAD}", begun.elapsed().as_secs_f64());
    let made = Made::new(mib);
    let wanted = std::env::var("MACHVM_PLACES").unwrap_or_default();
    let mut lines = Vec::new();
    for swap in made.swaps(mib) {
        if !wanted.is_empty() && !wanted.split(',').any(|w| w.trim() == swap.name) {
            continue;
        }
        for part in numbers("MACHVM_PARTS", &[4, 8, 16]) {
            let line = through(&job, &native, &swap, mib, part);
            println!("{line}");
            if let Some(wrong) = &line.wrong {
                println!("{wrong}");
            }
            lines.push(line);
        }
    }
    println!("\n{mib} MiB in {:.0} s\n{HEAD}", begun.elapsed().as_secs_f64());
    lines.iter().for_each(|line| println!("{line}"));
    assert!(!lines.is_empty(), "there is no place {wanted:?}");
    assert!(lines.iter().all(|line| line.wrong.is_none()), "see above");
    std::fs::remove_dir_all(made.dir).expect("removed");
}
