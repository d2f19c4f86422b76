//! Table 5: instructions of the page-table pmap.
//!
//! Counted by callgrind under gungraun (`benches/pmap.rs`); with `--check` against
//! `bench/pmap.baseline`, which `--save` writes. The counts are the binary's: two runs
//! agree to the instruction, whatever the machine's speed and load. They change with the
//! compiler, and where a gather is moved they depend on the `memcpy` that the C library
//! picks for the CPU (`remove_flush` by 1.9 % between AVX and SSE). So the check is part
//! of `cargo xtask long`, not of every test run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use machvm_bench::pmap::{OPS, Op, memory};

use crate::row;
use crate::table::{self, goal};
use crate::trace::trace;

/// In step with `bench/Cargo.toml`.
const GUNGRAUN: &str = "0.20.0";
/// How much worse than the baseline fails.
const WORSE: f64 = 1.02;

type Counts = BTreeMap<&'static str, u64>;

fn bench_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

fn cargo() -> Command {
    let mut c = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
    c.current_dir(bench_dir());
    c
}

/// gungraun's runner, of the version that the benchmarks are built with; installed
/// beside the build when it is not there.
fn runner(target: &Path) -> Result<PathBuf, String> {
    let root = target.join(format!("gungraun-{GUNGRAUN}"));
    let at = root.join("bin/gungraun-runner");
    if !at.exists() {
        let made = cargo()
            .args(["install", "--quiet", "--locked", "gungraun-runner", "--version", GUNGRAUN, "--root"])
            .arg(&root)
            .status()
            .map_err(|e| format!("cargo: {e}"))?;
        if !made.success() {
            return Err(format!("gungraun-runner {GUNGRAUN} cannot be installed ({made})"));
        }
    }
    Ok(at)
}

/// The directory that has this build's profiles in it.
fn target() -> Result<PathBuf, String> {
    let me = std::env::current_exe().map_err(|e| e.to_string())?;
    me.ancestors().nth(2).map(Path::to_path_buf).ok_or_else(|| "no target directory".into())
}

/// Instructions of all repetitions of each operation.
fn count() -> Result<Counts, String> {
    let target = target()?;
    let home = target.join("gungraun");
    // Counts of operations that are no more, or of before.
    let _ = std::fs::remove_dir_all(&home);
    let out = cargo()
        .args(["bench", "--quiet", "--package", "machvm-bench", "--bench", "pmap"])
        .env("GUNGRAUN_RUNNER", runner(&target)?)
        .env("GUNGRAUN_HOME", &home)
        .env("CARGO_TARGET_DIR", &target)
        .output()
        .map_err(|e| format!("cargo: {e}"))?;
    if !out.status.success() {
        let all = [out.stdout, out.stderr].concat();
        return Err(format!("gungraun: {}\n{}", out.status, String::from_utf8_lossy(&all)));
    }
    let mut counts = Counts::new();
    collect(&home, &mut counts);
    match OPS.iter().find(|o| !counts.contains_key(o.id)) {
        Some(o) => Err(format!("gungraun left no count of {} in {}", o.id, home.display())),
        None => Ok(counts),
    }
}

/// Callgrind's files are in one directory for each benchmark, `pmap.ID`, and say
/// `summary: N` or `totals: N`.
fn collect(dir: &Path, counts: &mut Counts) {
    let Ok(all) = std::fs::read_dir(dir) else { return };
    for path in all.flatten().map(|e| e.path()) {
        if path.is_dir() {
            collect(&path, counts);
            continue;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let of = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let op = OPS.iter().find(|o| of.strip_prefix("pmap.") == Some(o.id));
        if let Some(op) = op
            && name.starts_with("callgrind.")
            && name.ends_with(".out")
            && let Ok(text) = std::fs::read_to_string(&path)
            && let Some(n) = text.lines().find_map(|l| {
                let n = l.strip_prefix("summary:").or_else(|| l.strip_prefix("totals:"))?;
                n.split_whitespace().next()?.parse().ok()
            })
        {
            counts.insert(op.id, n);
        }
    }
}

fn baseline() -> PathBuf {
    bench_dir().join("pmap.baseline")
}

/// Lines of `ID INSTRUCTIONS`; what begins with # is for people.
fn read_baseline() -> Result<BTreeMap<String, u64>, String> {
    let text = std::fs::read_to_string(baseline()).map_err(|e| format!("{}: {e}", baseline().display()))?;
    text.lines()
        .filter(|l| !l.starts_with('#') && !l.is_empty())
        .map(|l| {
            let (id, n) = l.split_once(' ').ok_or(l)?;
            Ok((id.to_string(), n.trim().parse().map_err(|_| l)?))
        })
        .collect::<Result<_, &str>>()
        .map_err(|l| format!("{}: what is {l:?}?", baseline().display()))
}

fn write_baseline(counts: &Counts) -> Result<(), String> {
    let mut text = String::from(
        "# Instructions of each operation of `cargo xtask bench pmap`, all repetitions together.\n\
         # Written by `cargo xtask bench pmap --save`; `--check` fails above +2 %.\n",
    );
    OPS.iter().for_each(|o| text.push_str(&format!("{} {}\n", o.id, counts[o.id])));
    std::fs::write(baseline(), text).map_err(|e| format!("{}: {e}", baseline().display()))
}

/// What is worse than it was.
fn check(counts: &Counts) -> Result<(), String> {
    let was = read_baseline()?;
    let mut wrong = String::new();
    for op in &OPS {
        let now = counts[op.id];
        match was.get(op.id) {
            None => wrong.push_str(&format!("\n  {}: not in the baseline", op.id)),
            Some(was) if now as f64 > *was as f64 * WORSE => {
                let percent = 100.0 * (now as f64 / *was as f64 - 1.0);
                wrong.push_str(&format!("\n  {}: {now} instructions, {percent:+.1} % against {was}", op.id));
            }
            Some(_) => {}
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(format!("worse than {}:{wrong}", baseline().display())) }
}

fn each(op: &Op, n: u64) -> f64 {
    n as f64 / (op.times as f64 * f64::from(op.per.1))
}

fn number(n: f64) -> String {
    if n >= 100.0 { format!("{n:.0}") } else { format!("{n:.1}") }
}

/// `args`: `--check`, `--save`.
///
/// # Errors
/// No figures to be had, or worse ones than the baseline's.
pub(crate) fn run(args: &[&str]) -> Result<(), String> {
    let title = "5. Instructions of the page-table pmap (gungraun; x86-64 4-level, plain memory, one CPU)";
    let counts = count().map_err(|why| format!("{title}: not possible here: {why}"))?;
    let mut rows = vec![row!["operation", "for each", "instructions", "locked", "lines written", "goal"]];
    for op in &OPS {
        let (locked, lines) = match trace(op) {
            Ok(t) => (number(each(op, t.locked)), number(each(op, t.lines))),
            Err(why) => {
                eprintln!("{}: {why}", op.id);
                ("-".into(), "-".into())
            }
        };
        let n = each(op, counts[op.id]);
        let verdict = op.goal.map_or("-".into(), |g| goal(n, f64::from(g)));
        rows.push(row![op.text, op.per.0, number(n), locked, lines, verdict]);
    }
    table::print(title, &rows);
    println!("  locked: LOCK and XCHG; lines written: cache lines other than of the stack (both: lackey).");
    let mut rows = vec![row!["bytes", "machvm", "FreeBSD"]];
    rows.extend(memory().into_iter().map(|[what, ours, theirs]| row![what, ours, theirs]));
    println!();
    table::print("   Memory (FreeBSD/amd64: 24-byte pv entries, 168 in a page; vm_page of 104)", &rows);
    if args.contains(&"--save") {
        write_baseline(&counts)?;
    }
    if args.contains(&"--check") {
        check(&counts)?;
        println!("  within 2 % of {}", baseline().display());
    }
    Ok(())
}
