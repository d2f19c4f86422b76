//! `cargo xtask long`: what takes too long for every change, one part after the other, also after
//! one that failed; with the time of each.

use std::time::Instant;

/// A part: what it is, the arguments of cargo, and the environment.
type Part = (&'static str, &'static [&'static str], &'static [(&'static str, &'static str)]);

const PARTS: &[Part] = &[
    ("long tests", &["test", "--release", "--workspace", "--no-fail-fast"], &[("MACHVM_LONG", "1")]),
    (
        "256 MiB through every place of swap",
        &["test", "--release", "-p", "machvm-cli", "--test", "matrix", "--", "--ignored", "--nocapture"],
        &[],
    ),
    (
        "instructions of the pmap",
        &["run", "--release", "--package", "machvm-bench", "--", "pmap", "--check"],
        &[],
    ),
];

/// All of them, or those with one of these words in their names.
pub(crate) fn run(words: &[String]) -> bool {
    let wanted = |part: &&Part| words.is_empty() || words.iter().any(|w| part.0.contains(w.as_str()));
    let parts: Vec<&Part> = PARTS.iter().filter(wanted).collect();
    if parts.is_empty() {
        eprintln!("xtask: no part of these has {words:?} in its name:");
        PARTS.iter().for_each(|(what, ..)| eprintln!("  {what}"));
        return false;
    }
    let mut lines = Vec::new();
    let mut ok = true;
    for (i, (what, args, vars)) in parts.iter().enumerate() {
        let begun = Instant::now();
        let right = crate::run(&format!("{} of {}, {what}", i + 1, parts.len()), args, vars);
        let line = format!(
            "{:>8.0} s  {}  {what}",
            begun.elapsed().as_secs_f64(),
            if right { "ok    " } else { "FAILED" }
        );
        println!("== {line}");
        lines.push(line);
        ok &= right;
    }
    println!("\n== all parts");
    lines.iter().for_each(|line| println!("{line}"));
    ok
}
