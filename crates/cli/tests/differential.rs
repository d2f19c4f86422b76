//! Our virtual memory against Linux's: the same random calls, accesses and transfers
//! by the kernel, and the same results, error numbers, contents and faults.
//!
//! `MACHVM_SEED=n` starts at another seed; the number of seeds and of operations is
//! `MACHVM_SEEDS` and `MACHVM_OPERATIONS`.

mod common;

use std::path::Path;

use common::{Job, Outcome, build, scratch};

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

struct Plan {
    first: u64,
    seeds: u64,
    operations: u64,
    /// Stores through pinned pages are lost when a page is evicted at that moment: a
    /// known limit (as of direct I/O), so paging runs go without.
    unpinned: bool,
}

impl Plan {
    fn new(first: u64, seeds: u64) -> Plan {
        Plan {
            first: setting("MACHVM_SEED", first),
            seeds: setting("MACHVM_SEEDS", seeds),
            operations: setting("MACHVM_OPERATIONS", 1000),
            unpinned: false,
        }
    }

    fn job(&self, program: &Path, dir: &str) -> Job {
        let dir = scratch(dir);
        let numbers = [self.first, self.seeds, self.operations].map(|n| n.to_string());
        let unpinned = self.unpinned.then_some("unpinned");
        let words = [program.to_str().expect("a path in UTF-8"), dir.to_str().expect("a path in UTF-8")];
        Job::new(
            &words.into_iter().chain(numbers.iter().map(String::as_str)).chain(unpinned).collect::<Vec<_>>(),
        )
    }

    /// Runs both ways and compares line by line; a line is one operation.
    fn compare(&self, program: &Path, options: &[&str]) {
        println!(
            "seeds {} to {}, {} operations each",
            self.first,
            self.first + self.seeds - 1,
            self.operations
        );
        let name = format!("differential-{}-{}", self.first, options.len());
        let native = self.job(program, &format!("{name}-native")).native();
        let ours = self.job(program, &format!("{name}-ours")).under(options);
        for (who, outcome) in [("natively", &native), ("under machvm", &ours)] {
            assert!(outcome.status.success(), "the program fails {who}: {outcome:?}");
        }
        let lines = self.seeds * (self.operations + 1);
        assert_eq!(native.out().lines().count() as u64, lines, "the native run did not do everything");
        first_difference(&native, &ours);
    }
}

fn first_difference(native: &Outcome, ours: &Outcome) {
    let (native, ours) = (native.out(), ours.out());
    let mut before: Vec<&str> = Vec::new();
    let mut theirs = native.lines();
    let mut mine = ours.lines();
    loop {
        match (theirs.next(), mine.next()) {
            (None, None) => return,
            (a, b) if a == b => before.extend(a),
            (a, b) => {
                let shown = before.len().saturating_sub(20);
                let seed = a.or(b).and_then(|l| l.split('.').next()).unwrap_or("?");
                panic!(
                    "MACHVM_SEED={seed}: the first operation that differs (seed.operation)\n\
                     native: {}\nmachvm: {}\nbefore it:\n{}",
                    a.unwrap_or("(ended)"),
                    b.unwrap_or("(ended)"),
                    before[shown..].join("\n")
                );
            }
        }
    }
}

#[test]
fn a_hundred_thousand_operations_are_linuxs() {
    let program = build("differential.c", "differential-static", &["-static"]);
    Plan::new(1, 100).compare(&program, &[]);
}

#[test]
fn paging_changes_nothing() {
    let program = build("differential.c", "differential-paged", &["-static"]);
    let plan = Plan { unpinned: true, ..Plan::new(1001, 100) };
    plan.compare(&program, &["--memory", "300K", "--swap", "lz4"]);
}

#[test]
fn a_dynamic_program_sees_the_same() {
    let program = build("differential.c", "differential-dynamic", &[]);
    Plan::new(2001, 20).compare(&program, &[]);
}

#[test]
fn segments_devices_conversions_and_locks_are_linuxs() {
    let program = build("memory_calls.c", "memory-calls", &["-static"]);
    let dir = scratch("memory-calls");
    Job::new(&[program.as_os_str(), dir.as_os_str()]).same();
}
