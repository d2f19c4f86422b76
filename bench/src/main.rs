//! The benchmark tables (`cargo xtask bench [SECTION...]`).
//!
//! Everything is compared with Linux on the same machine in the same minute: variants
//! are interleaved, figures are medians, and what matters is the ratio. A machine that
//! is busy with something else widens the spread, not the meaning.
#![deny(unsafe_op_in_unsafe_fn)]

mod compressed;
mod copy;
mod faults;
mod instructions;
mod latency;
mod linux_swap;
mod mach;
mod null;
mod paged;
mod pmap_table;
mod policies;
mod programs;
mod reference;
mod remote;
mod servers;
mod stores;
mod swap;
mod table;
mod touch;
mod trace;

use std::process::ExitCode;

const USAGE: &str =
    "usage: machvm-bench [faults] [copy] [stores] [instructions] [programs] [mach] [swap] [latency] [paged] [compressed] [redis] [policies] [pmap] (none: all)
  pmap --check: fails when an operation costs more than bench/pmap.baseline says; --save: writes that";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|a| a == "measure") {
        return instructions::measure(&args[1..]);
    }
    if args.first().is_some_and(|a| a == "trace") {
        return trace::child(&args[1..]);
    }
    if args.first().is_some_and(|a| a == "touch") {
        return touch::child(&args[1..]);
    }
    let (options, args): (Vec<String>, Vec<String>) = args.into_iter().partition(|a| a.starts_with("--"));
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    if let Some(unknown) = options.iter().find(|o| !["--check", "--save"].contains(o)) {
        eprintln!("machvm-bench: unknown option {unknown}\n{USAGE}");
        return ExitCode::from(2);
    }
    let done = |section: fn()| -> Box<dyn Fn() -> Result<(), String>> {
        Box::new(move || {
            section();
            Ok(())
        })
    };
    let sections = [
        ("faults", done(faults::run)),
        ("copy", done(copy::run)),
        ("stores", done(stores::run)),
        ("instructions", done(instructions::run)),
        ("programs", done(programs::run)),
        ("mach", done(mach::run)),
        ("swap", done(swap::run)),
        ("latency", done(latency::run)),
        ("paged", done(paged::run)),
        ("compressed", done(paged::run_compressed)),
        ("redis", done(remote::run)),
        ("policies", Box::new(policies::run)),
        ("pmap", Box::new(move || pmap_table::run(&options))),
    ];
    if let Some(unknown) = args.iter().find(|a| sections.iter().all(|(name, _)| name != a)) {
        eprintln!("machvm-bench: unknown section {unknown}\n{USAGE}");
        return ExitCode::from(2);
    }
    println!("command: cargo xtask bench {}", std::env::args().skip(1).collect::<Vec<_>>().join(" "));
    println!("machine: {}", machine());
    let mut ok = true;
    for (name, section) in sections {
        if args.is_empty() || args.iter().any(|a| a == name) {
            println!();
            if let Err(why) = section() {
                println!("{why}");
                ok = false;
            }
        }
    }
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
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
