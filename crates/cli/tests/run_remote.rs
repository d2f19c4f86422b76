//! `--swap redis://`, `s3://` and `opendal+fs://`: programs whose memory is kept by a server
//! (rows S09, S14, Z80), and what becomes of them when that is killed. `MACHVM_LONG=1` runs
//! them with 256 MiB.

#![cfg(feature = "remote")]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::servers::{NEVER, Redis, S3, Scratch, until};
use common::{Job, machvm};

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The program's size in MiB, and the memory that it gets.
fn sizes() -> (&'static str, &'static str) {
    if std::env::var_os("MACHVM_LONG").is_some() { ("256", "64M") } else { ("16", "12M") }
}

/// Runs the checksumming program, paged to `swap`; `during` is called while it runs.
fn run(mib: &str, memory: &str, swap: &str, during: impl FnOnce(&mut Child)) -> Output {
    let mut child = Command::new(machvm())
        .args(["run", "--memory", memory, "--swap", swap, "--stats", "--", "/usr/bin/python3"])
        .arg(here("tests/programs/checksummed.py"))
        .args([mib, "20261121"])
        .envs(S3::ENV)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("machvm starts");
    during(&mut child);
    let end = Instant::now() + NEVER * 4;
    while child.try_wait().expect("wait").is_none() {
        if Instant::now() > end {
            let _ = child.kill();
            panic!("it hangs");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().expect("its output")
}

fn number(stats: &str, what: &str) -> u64 {
    let line = stats.lines().find(|l| l.trim_start().split_once(' ').is_some_and(|(_, w)| w.ends_with(what)));
    let line = line.unwrap_or_else(|| panic!("no line {what:?} in\n{stats}"));
    line.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number")
}

/// The right answer, from memory that was elsewhere, and nothing is left there.
fn right(url: &str, settings: &str, keys: &dyn Fn() -> usize, during: impl FnOnce(&mut Child)) {
    let (mib, memory) = sizes();
    let program = here("tests/programs/checksummed.py");
    let argv = [Path::new("/usr/bin/python3"), &program, Path::new(mib), Path::new("20261121")];
    let native = Job::new(&argv).native();
    let ours = run(mib, memory, &format!("{url},{settings},wait=600"), during);
    let stats = String::from_utf8_lossy(&ours.stderr);
    assert!(ours.status.success(), "{}\n{stats}", ours.status);
    assert_eq!(ours.stdout, native.out);
    assert!(number(&stats, ": pages written") > 1000 && number(&stats, ": pages read") > 500, "{stats}");
    assert!(number(&stats, ": requests to read") > 10, "{stats}");
    assert_eq!(
        number(&stats, "pages found damaged") + number(&stats, "could not be read back"),
        0,
        "{stats}"
    );
    assert_eq!(keys(), 0, "keys are left\n{stats}");
}

#[test]
fn s14_paged_to_redis_which_is_killed_and_started_again() {
    let redis = std::cell::RefCell::new(Redis::new());
    let url = redis.borrow().url("swap");
    right(&url, "cache=2M", &|| redis.borrow().keys() as usize, |_| {
        until("it pages", || redis.borrow().keys() > 20);
        redis.borrow_mut().restart();
    });
}

#[test]
fn s14_paged_to_a_directory() {
    let dir = Scratch::new("run");
    right(&dir.url(), "cache=2M,plain", &|| dir.files().len(), |_| {});
}

#[test]
fn s14_paged_to_s3() {
    let s3 = S3::new();
    right(&s3.url("swap"), "cache=4M,cluster=64", &|| s3.keys(), |_| {});
}

/// What a run leaves that is killed goes with the next one.
#[test]
fn s13_the_keys_of_a_run_that_is_killed_go_with_the_next() {
    let redis = Redis::new();
    let url = format!("{},cache=1M", redis.url("swap"));
    run("64", "14M", &url, |child| {
        until("it pages", || redis.keys() > 50);
        child.kill().expect("it runs");
    });
    assert!(redis.keys() > 50);
    // Its socket is closed when the last of its threads has gone.
    until("a later run cleans up", || {
        let done = run("16", "12M", &url, |_| {});
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        redis.keys() == 0
    });
}

/// A server that is not there, or a wrong address, is told before the program starts.
#[test]
fn s09_what_cannot_be_used_is_refused_at_once() {
    let gone = Redis::new().url("x");
    for (swap, says) in [
        (format!("{gone},wait=1"), "cannot use redis://127.0.0.1"),
        ("redis://me:secret@h/".into(), "MACHVM_REDIS_PASSWORD"),
        ("s3://".into(), "names no bucket"),
        ("opendal+fs:///proc/nothing/here".into(), "cannot"),
    ] {
        let done = run("1", "64M", &swap, |_| {});
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(!done.status.success() && said.contains(says), "{swap}: {said}");
        assert!(!said.contains("secret"), "{said}");
    }
}
