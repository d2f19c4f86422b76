//! `cargo xtask fuzz`: libFuzzer drives the C library.
//!
//! The sanitizer's coverage comes from passes of LLVM that the stable compiler has; build
//! scripts are left alone by naming the target.

use std::process::Command;

use crate::run;

const TARGET: &str = "x86_64-unknown-linux-gnu";
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
                     -Cllvm-args=-sanitizer-coverage-pc-table -Clink-dead-code --cfg fuzzing";

/// Builds the fuzzer and runs it for so many minutes (10 without a number).
pub(crate) fn fuzz(args: &[String]) -> bool {
    let minutes = match args.first().map(|a| a.parse::<u64>()) {
        None => 10,
        Some(Ok(n)) if args.len() == 1 && n > 0 => n,
        _ => {
            eprintln!("xtask: fuzz takes a number of minutes, not {}", args.join(" "));
            return false;
        }
    };
    let built = run(
        "the fuzzer",
        &["build", "--release", "--manifest-path", "fuzz/Cargo.toml", "--target", TARGET],
        &[("RUSTFLAGS", FLAGS), ("CARGO_TARGET_DIR", "target/fuzz")],
    );
    let corpus = "target/fuzz/corpus";
    if let Err(e) = std::fs::create_dir_all(corpus) {
        eprintln!("xtask: cannot make {corpus}: {e}");
        return false;
    }
    let program = format!("target/fuzz/{TARGET}/release/mach");
    println!(
        "== {program}, {minutes} minutes; what it finds: MACHVM_FUZZ_INPUT of crates/capi/tests/fuzz.rs"
    );
    let time = format!("-max_total_time={}", minutes * 60);
    // Memory is reserved by the hundred gigabytes: that is no leak.
    let options = [&time, "-max_len=4096", "-rss_limit_mb=0", "-artifact_prefix=target/fuzz/", corpus];
    built
        && Command::new(&program)
            .args(options)
            .status()
            .map_err(|e| eprintln!("xtask: {program}: {e}"))
            .is_ok_and(|s| s.success())
}
