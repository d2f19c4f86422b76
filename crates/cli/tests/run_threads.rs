//! Threads that change the map all the time, under a limit of a quarter of their data,
//! with threads coming and going and a timer at 1 kHz: the contents are right, and it
//! ends. `MACHVM_SEED` replays a run, `MACHVM_LONG=n` makes it n times as long.

mod common;

use common::{Job, build};

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

fn torture(threads: u64, operations: u64) {
    let program = build("torture.c", &format!("torture-{threads}"), &[]);
    let seed = setting("MACHVM_SEED", 20261121 + threads);
    let operations = operations * setting("MACHVM_LONG", 1);
    println!("MACHVM_SEED={seed}");
    let numbers = [seed, threads, operations, 32].map(|n| n.to_string());
    let mut argv = vec![program.to_string_lossy().into_owned()];
    argv.extend(numbers);
    let job = Job::new(&argv);
    let native = job.native();
    assert!(native.status.success(), "natively, seed {seed}: {native:?}");
    let ours = job.under(&["--memory", "8M", "--swap", "lz4"]);
    assert!(ours.status.success(), "seed {seed}: {ours:?}");
    // A failed mremap is done by hand, so the operations counted may differ; what the
    // threads did, and so the digest, does not.
    assert_eq!(native.out(), ours.out(), "seed {seed}");
}

#[test]
fn two_threads() {
    torture(2, 40_000);
}

#[test]
fn four_threads() {
    torture(4, 40_000);
}

#[test]
fn eight_threads() {
    torture(8, 40_000);
}
