//! Project chores: `cargo xtask test`, `no-alloc`, `cross`, `kernel-run`, `kernel-bench`, `coverage`, `install`, `long`,
//! `soak`, `bench`.
#![forbid(unsafe_code)]

mod coverage;
mod cross;
mod fuzz;
mod install;
mod kernel;
mod long;
mod no_alloc;

use std::env;
use std::process::{Command, ExitCode};

const USAGE: &str = "usage: cargo xtask COMMAND
  test      everything that must pass: format, lints, all tests, the model checks, no-alloc, cross
  long [WORD...]
            the long forms of the tests (tens of minutes; MACHVM_SEED replays one), 256 MiB through every
            place of swap, and the instructions of the pmap against bench/pmap.baseline; with words
            the parts that have one in their names
  soak [N]  the pressure soaks, on the model and of machvm run, N minutes each (5)
  fuzz [N]  libFuzzer on the C library against a flat model, N minutes (10)
  bench     the benchmark tables (against Linux itself, in the same run)
  no-alloc  proves that hal, sync, arena, arch, pmap and core reach no allocator
  cross     builds the core for bare x86-64, AArch64 and RISC-V machines
  install   installs the C library, its headers and manual pages (--prefix DIR)
  kernel x86_64|riscv64|aarch64 [-- APPEND]
            boots our kernel in QEMU with these words on its command line, as in `kernel riscv64 -- selftest`
  kernel-run [--arch x86_64|riscv64|aarch64] [--mem 512M] [--smp 1] [--icount] [--disk FILE...]
            [--env NAME=VALUE...] [--swap pool:64M,/dev/vda] [--initrd FILE.cpio] -- PROGRAM [ARG...]
            boots our kernel in QEMU with PROGRAM as its first process; ends with its status;
            without --initrd a disk begins with the archive that has the root
  kernel-bench [--ours] [PROGRAM...]
            instructions of memory operations under our kernel and under Debian's Linux
  kernel-test [--arch x86_64|riscv64|aarch64|all] [--smp N] [NAME...]
            runs the programs and scripts of kernel/tests under our kernel and here, and compares;
            without --smp on one CPU and on two
  kernel-lint [x86_64|riscv64|aarch64...]
            Clippy on the kernel as these machines, or all, have it
  coverage  writes docs/coverage.md: which rows of the interface which tests show (--check: compares)";

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let ok = match args.first().map(String::as_str) {
        Some("test") => test(),
        Some("long") => long::run(&args[1..]),
        Some("soak") => soak(&args[1..]),
        Some("bench") => bench(&args[1..]),
        Some("fuzz") => fuzz::fuzz(&args[1..]),
        Some("no-alloc") => no_alloc::check(),
        Some("install") => install::run_with(&args[1..]),
        Some("kernel") => return kernel::boot(&args[1..]),
        Some("kernel-run") => return kernel::run_program(&args[1..]),
        Some("kernel-bench") => return kernel::bench(&args[1..]),
        Some("kernel-lint") => kernel::lint(&args[1..]),
        Some("kernel-test") => kernel::test(&args[1..]),
        Some("cross") => cross::check(),
        Some("coverage") => coverage::run(args.iter().any(|a| a == "--check")),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs a command, says so, and tells whether it succeeded.
fn run(what: &str, args: &[&str], vars: &[(&str, &str)]) -> bool {
    println!("== {what}: cargo {}", args.join(" "));
    let status = Command::new(env!("CARGO")).args(args).envs(vars.iter().copied()).status();
    match status {
        Ok(s) if s.success() => true,
        Ok(s) => {
            eprintln!("xtask: {what} failed ({s})");
            false
        }
        Err(e) => {
            eprintln!("xtask: cannot start cargo for {what}: {e}");
            false
        }
    }
}

/// In this order: what fails fastest comes first, and the closing lines are the test
/// runner's.
fn test() -> bool {
    run("format", &["fmt", "--all", "--check"], &[])
        && run("lints", &["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"], &[])
        && coverage::run(true)
        && no_alloc::check()
        && cross::check()
        && run(
            "model checks of the locks",
            &[
                "test",
                "--quiet",
                "--release",
                "-p",
                "machvm-sync",
                "-p",
                "machvm-arena",
                "-p",
                "machvm-pmap",
                "--test",
                "loom",
                "--test",
                "loom_pv",
            ],
            &[("RUSTFLAGS", "--cfg loom"), ("CARGO_TARGET_DIR", "target/loom")],
        )
        && kernel::test_everywhere()
        && run(
            "the command, optimised",
            &["build", "--release", "-p", "machvm-cli", "--no-default-features"],
            &[],
        )
        && run("tests", &["test", "--workspace", "--no-fail-fast"], &[])
}

fn soak(args: &[String]) -> bool {
    let Ok(minutes) = args.first().map_or(Ok(5), |n| n.parse::<u64>()) else {
        eprintln!("xtask: soak takes a number of minutes");
        return false;
    };
    let seconds = (60 * minutes).to_string();
    let of = |package: &str, target: &str, test: &str| {
        let args = ["test", "--release", "-p", package, "--test", target, test, "--", "--nocapture"];
        run(&format!("{minutes} minutes under pressure"), &args, &[("MACHVM_SOAK", &seconds)])
    };
    of("machvm-model", "pageout", "d02_soak_under_pressure") && of("machvm-cli", "soak", "d01_d02_soak")
}

fn bench(args: &[String]) -> bool {
    let mut all = vec!["run", "--release", "--package", "machvm-bench", "--"];
    all.extend(args.iter().map(String::as_str));
    run("benchmarks", &all, &[])
}
