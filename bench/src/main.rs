//! The benchmark tables (`cargo xtask bench [SECTION...]`).
//!
//! Everything is compared with Linux on the same machine in the same minute: variants
//! are interleaved, figures are medians, and what matters is the ratio. A machine that
//! is busy with something else widens the spread, not the meaning.
#![deny(unsafe_op_in_unsafe_fn)]

mod copy;
mod faults;
mod instructions;
mod null;
mod programs;
mod reference;
mod table;

use std::process::ExitCode;

const USAGE: &str = "usage: machvm-bench [faults] [copy] [instructions] [programs] (none: all)";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|a| a == "measure") {
        return instructions::measure(&args[1..]);
    }
    let sections: [(&str, fn()); 4] = [
        ("faults", faults::run),
        ("copy", copy::run),
        ("instructions", instructions::run),
        ("programs", programs::run),
    ];
    if let Some(unknown) = args.iter().find(|a| sections.iter().all(|(name, _)| name != a)) {
        eprintln!("machvm-bench: unknown section {unknown}\n{USAGE}");
        return ExitCode::from(2);
    }
    println!("command: cargo xtask bench {}", args.join(" "));
    println!("machine: {}", machine());
    for (name, section) in sections {
        if args.is_empty() || args.iter().any(|a| a == name) {
            println!();
            section();
        }
    }
    ExitCode::SUCCESS
}

/// One line about where the figures come from.
fn machine() -> String {
    let first = |path: &str, key: &str| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find(|l| l.starts_with(key)).unwrap_or_default();
        line.rsplit(':').next().unwrap_or_default().trim().to_string()
    };
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_string();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "{} x {cpus}, Linux {}, load {}",
        first("/proc/cpuinfo", "model name"),
        read("/proc/sys/kernel/osrelease"),
        read("/proc/loadavg")
    )
}
