//! `--memory`: programs larger than their memory give the right answers, and never
//! have more resident than they may.

mod common;

use common::{Job, machvm, scratch};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Blocks are counted while a page-out or a page-in is under way on each CPU.
const SLACK: u64 = 2 << 20;
const LIMIT_MIB: u64 = 64;

fn program(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(name).to_string_lossy().into_owned()
}

/// Bytes allocated to the memfd that is the physical memory of `pid`. The program's
/// own descriptors do not have it; a mapping of it does.
fn resident(pid: u32) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    for entry in std::fs::read_dir(format!("/proc/{pid}/map_files")).ok()?.flatten() {
        let target = std::fs::read_link(entry.path()).ok()?;
        if target.to_string_lossy().starts_with("/memfd:machvm") {
            return std::fs::metadata(entry.path()).ok().map(|m| m.blocks() * 512);
        }
    }
    None
}

struct Paged {
    out: Vec<u8>,
    stats: String,
    peak: u64,
    samples: u64,
}

/// Runs a program under the limit while its frames are counted every 10 ms.
fn paged(argv: &[&str]) -> Paged {
    static SERIAL: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let n = SERIAL.fetch_add(1, Ordering::Relaxed);
    let stats: PathBuf = scratch("paged").join(format!("stats-{n}"));
    let mut all: Vec<OsString> =
        vec![machvm(), "run".into(), "--memory".into(), format!("{LIMIT_MIB}M").into()];
    all.extend(["--swap".into(), "lz4".into(), format!("--stats={}", stats.display()).into(), "--".into()]);
    all.extend(argv.iter().map(OsString::from));
    let child = Command::new(&all[0])
        .args(&all[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("machvm starts");
    let pid = child.id();
    let done = AtomicBool::new(false);
    let (output, peak, samples) = std::thread::scope(|s| {
        let sampler = s.spawn(|| {
            let (mut peak, mut samples) = (0, 0);
            while !done.load(Ordering::Relaxed) {
                if let Some(bytes) = resident(pid) {
                    peak = peak.max(bytes);
                    samples += 1;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            (peak, samples)
        });
        let output = child.wait_with_output().expect("it ends");
        done.store(true, Ordering::Relaxed);
        let (peak, samples) = sampler.join().expect("the sampler");
        (output, peak, samples)
    });
    let stats = std::fs::read_to_string(&stats).unwrap_or_default();
    assert!(
        output.status.success(),
        "{argv:?}: {}\n{}\n{stats}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Paged { out: output.stdout, stats, peak, samples }
}

fn number(stats: &str, what: &str) -> u64 {
    let line = stats.lines().find(|l| l.trim_start().split_once(' ').is_some_and(|(_, w)| w == what));
    let line = line.unwrap_or_else(|| panic!("no line {what:?} in\n{stats}"));
    line.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number")
}

fn within_the_limit(p: &Paged) {
    assert!(p.samples > 10, "the frames could be counted only {} times", p.samples);
    let limit = (LIMIT_MIB << 20) + SLACK;
    assert!(p.peak <= limit, "{} bytes resident, {limit} allowed\n{}", p.peak, p.stats);
    assert!(p.peak > limit / 2, "only {} bytes were ever resident: is this the right file?", p.peak);
    assert!(number(&p.stats, "KiB resident at most") * 1024 <= LIMIT_MIB << 20);
}

fn paged_out_twice_the_limit(p: &Paged) {
    let out = number(&p.stats, "pages written to swap (page-outs)") * 4096;
    assert!(out >= 2 * (LIMIT_MIB << 20), "only {out} bytes were paged out\n{}", p.stats);
}

#[test]
fn python_reads_back_256_mib_in_64_mib() {
    let argv = ["/usr/bin/python3", &program("checksummed.py"), "256", "20261121"];
    let native = Job::new(&argv).native();
    let ours = paged(&argv);
    assert_eq!(ours.out, native.out);
    within_the_limit(&ours);
    paged_out_twice_the_limit(&ours);
}

#[test]
fn sort_sorts_300_mb_in_64_mib() {
    let dir = scratch("sort");
    let input = dir.join("input");
    let make = format!(
        "import random\nr=random.Random(7)\nwith open({:?},'w') as f:\n for _ in range(3000):\n  f.write(''.join('%0490x\\n' % r.getrandbits(1960) for _ in range(205)))\n",
        input.to_string_lossy()
    );
    assert!(Job::new(&["/usr/bin/python3", "-c", &make]).native().status.success());
    assert!(std::fs::metadata(&input).expect("made").len() > 295_000_000);
    let sort = format!("LC_ALL=C exec sort --parallel=1 -S 300M -o {0}/OUT {0}/input", dir.display());
    let native = sort.replace("OUT", "native");
    assert!(Job::new(&["/bin/sh", "-c", &native]).native().status.success());
    let ours = paged(&["/bin/sh", "-c", &sort.replace("OUT", "ours")]);
    let sum =
        |name: &str| Job::new(&["sha256sum".to_owned(), dir.join(name).display().to_string()]).native().out();
    let (a, b) = (sum("native"), sum("ours"));
    assert_eq!(a.split_whitespace().next(), b.split_whitespace().next());
    within_the_limit(&ours);
    paged_out_twice_the_limit(&ours);
    std::fs::remove_dir_all(&dir).expect("removed");
}

#[test]
fn sqlite_keeps_200_mb_in_memory_in_64_mib() {
    let script = "PRAGMA journal_mode=MEMORY; CREATE TABLE t(id INTEGER PRIMARY KEY, k INT, v BLOB);\
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<200000)\
        INSERT INTO t SELECT i, (i*7919)%200003, zeroblob(400)||CAST(printf('%0500d', i*i) AS BLOB) FROM n;\
        CREATE INDEX k ON t(k); PRAGMA integrity_check;\
        SELECT count(*), sum(k), sum(length(v)) FROM t WHERE k%3=1; PRAGMA page_count;";
    let argv = ["sqlite3", ":memory:", script];
    let native = Job::new(&argv).native();
    assert!(native.out().contains("\nok\n"), "{native:?}");
    let ours = paged(&argv);
    assert_eq!(String::from_utf8_lossy(&ours.out), native.out());
    within_the_limit(&ours);
    paged_out_twice_the_limit(&ours);
}

/// The limit is on what the program writes to its files, not on where its memory lies.
#[test]
fn a_limit_of_the_size_of_files_is_the_programs_own() {
    let script = "import os, resource, tempfile\n\
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))\n\
        x = [(b'%7d' % i) * 585 for i in range(6000)]\n\
        print(sum(a == (b'%7d' % i) * 585 for i, a in enumerate(x)))\n\
        f = tempfile.TemporaryFile(buffering=0)\n\
        print(f.write(bytes(5000)), f.write(bytes(5000)))\n\
        try: f.write(b'more')\n\
        except OSError as e: print(e)\n";
    let job = Job::new(&["/usr/bin/python3", "-c", script]);
    let (native, ours) = (job.native(), job.under(&["--memory", "12M", "--swap", "lz4"]));
    assert!(native.out().starts_with("6000\n5000 3192\n") && native.out().contains("File too large"));
    assert_eq!(ours.out(), native.out(), "{ours:?}");
    assert!(ours.status.success(), "{ours:?}");
}

#[test]
fn a_program_that_needs_more_than_there_is_is_ended_with_a_message() {
    let job = Job::new(&["/usr/bin/python3", "-c", "x = bytearray(b'1') * (256 << 20); print(len(x))"]);
    let ours = job.under(&["--memory", "32M", "--swap", "none"]);
    assert_eq!(common::signal(&ours), Some(9), "{ours:?}");
    assert!(ours.err().contains("out of memory"), "{ours:?}");
    assert!(ours.err().contains("--memory"), "{ours:?}");
    // Incompressible data, and a pool that cannot hold it.
    let job =
        Job::new(&["/usr/bin/python3", "-c", "import os; x = [os.urandom(1 << 20) for _ in range(128)]"]);
    let ours = job.under(&["--memory", "32M", "--swap", "lz4:16M"]);
    assert_eq!(common::signal(&ours), Some(9), "{ours:?}");
    assert!(ours.err().contains("out of memory"), "{ours:?}");
}
