//! What cannot be run is refused with one sentence and the exit status a shell uses;
//! what can be run through `#!` runs.

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use common::{Job, Outcome, probes, scratch};

fn file(dir: &Path, name: &str, contents: &[u8]) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, contents).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// One line on standard error, nothing else.
fn refused(outcome: &Outcome, status: i32, says: &str) {
    assert_eq!(outcome.status.code(), Some(status), "{outcome:?}");
    assert!(outcome.out.is_empty(), "{outcome:?}");
    let text = outcome.err();
    assert!(text.starts_with("machvm: ") && text.ends_with('\n') && text.lines().count() == 1, "{outcome:?}");
    assert!(text.contains(says), "{says:?} is not in {text:?}");
}

fn run(path: &Path) -> Outcome {
    Job::new(&[path]).machvm()
}

#[test]
fn missing_programs_exit_with_127() {
    refused(&Job::new(&["no-such-program-anywhere"]).machvm(), 127, "PATH");
    refused(&Job::new(&["/no/such/program"]).machvm(), 127, "does not exist");
    refused(&Job::new(&[""]).machvm(), 127, "cannot find");
    refused(&Job::new(&["/etc/passwd/x"]).machvm(), 127, "opened");
}

#[test]
fn what_is_not_executable_exits_with_126() {
    let dir = scratch("not-executable");
    refused(&run(&dir), 126, "regular file");
    refused(&Job::new(&["/dev/null"]).machvm(), 126, "regular file");
    let plain = file(&dir, "plain", b"\x7fELF");
    std::fs::set_permissions(&plain, std::fs::Permissions::from_mode(0o644)).unwrap();
    refused(&run(&plain), 126, "not executable");
    refused(&run(&file(&dir, "text", b"echo hello\n")), 126, "#!");
    refused(&run(&file(&dir, "empty", b"")), 126, "#!");
}

#[test]
fn set_user_id_programs_are_refused() {
    // SAFETY is not at stake: the owner differs from us only when we are root.
    let dir = scratch("set-id");
    let path = file(&dir, "program", &std::fs::read("/bin/true").unwrap());
    if std::os::unix::fs::chown(&path, Some(1), Some(1)).is_err() {
        return;
    }
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o4755)).unwrap();
    refused(&run(&path), 126, "set-user-ID");
}

/// A copy of a real program, changed.
fn mutant(dir: &Path, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
    let mut bytes = std::fs::read(&probes()[0]).unwrap();
    change(&mut bytes);
    file(dir, name, &bytes)
}

fn phdr(bytes: &[u8], kind: u32) -> usize {
    let count = usize::from(u16::from_le_bytes([bytes[56], bytes[57]]));
    (0..count).map(|i| 64 + 56 * i).find(|&at| bytes[at..at + 4] == kind.to_le_bytes()).unwrap()
}

fn put(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

#[test]
fn broken_elf_files_exit_with_126_and_say_what_is_wrong() {
    let dir = scratch("broken-elf");
    refused(&run(&mutant(&dir, "bits32", |b| (b[4], b[18]) = (1, 3))), 126, "32-bit");
    refused(&run(&mutant(&dir, "x32", |b| (b[4], b[54]) = (1, 32))), 126, "32-bit");
    refused(&run(&mutant(&dir, "machine", |b| b[18] = 183)), 126, "machine 183");
    refused(&run(&mutant(&dir, "object", |b| b[16] = 1)), 126, "type 1");
    refused(&run(&mutant(&dir, "no-phdrs", |b| b[56..58].fill(0))), 126, "program headers");
    refused(&run(&mutant(&dir, "many-phdrs", |b| b[56..58].fill(0xff))), 126, "program headers");
    refused(&run(&mutant(&dir, "phdr-size", |b| b[54] = 32)), 126, "program headers");
    refused(&run(&mutant(&dir, "phoff", |b| put(b, 32, u64::MAX - 7))), 126, "truncated");
    for keep in [5, 30, 70, 500, 5000] {
        refused(&run(&mutant(&dir, "truncated", |b| b.truncate(keep))), 126, "truncated");
    }
    let in_load = |name: &str, field: usize, value: u64| {
        mutant(&dir, name, |b| {
            let at = phdr(b, 1);
            put(b, at + field, value);
        })
    };
    refused(&run(&in_load("huge", 40, u64::MAX)), 126, "outside");
    refused(&run(&in_load("kernel", 16, 0xffff_8000_0000_0000)), 126, "outside");
    refused(&run(&in_load("larger", 32, 1 << 40)), 126, "more bytes in the file");
    refused(&run(&in_load("beyond", 8, 1 << 40)), 126, "truncated");
    refused(&run(&in_load("misaligned", 8, 8)), 126, "within a page");
    refused(
        &run(&mutant(&dir, "no-load", |b| {
            while b[64..].chunks_exact(56).take(13).any(|p| p[..4] == [1, 0, 0, 0]) {
                let at = phdr(b, 1);
                b[at] = 0;
            }
        })),
        126,
        "no segment",
    );
}

/// A small generator: what a seed printed by a failure repeats.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

/// Longer than the probe needs, shorter than a loop.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

/// Headers with a few bytes changed either run as they do natively or are refused;
/// machvm itself never fails.
#[test]
fn mutated_elf_headers_are_run_as_natively_or_refused() {
    let seed = std::env::var("MACHVM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64 | 1
    });
    println!("MACHVM_SEED={seed}");
    let mut random = Random(seed);
    let dir = scratch("mutants");
    let headers = 64 + 56 * 13;
    let originals: Vec<Vec<u8>> = probes().iter().map(|probe| std::fs::read(probe).unwrap()).collect();
    let mut same = 0;
    for round in 0..200 {
        let mut bytes = originals[round % originals.len()].clone();
        for _ in 0..=random.below(3) {
            let at = 4 + random.below(headers - 4);
            bytes[at] = [0, 1, 0x7f, 0xff, bytes[at] ^ (1 << random.below(8))][random.below(5)];
        }
        let path = file(&dir, "mutant", &bytes);
        let job = Job::new(&[path.to_str().unwrap(), "ids"]);
        let ran_natively = job.native_status_within(PATIENCE);
        // A changed entry point may as well loop for ever, natively too.
        let ours = job.machvm_within(PATIENCE);
        let ours_failed = ours.as_ref().is_some_and(|ours| ours.status.code() == Some(125));
        assert!(!ours_failed, "round {round}: {ours:?}");
        if ran_natively {
            assert_eq!(ours, Some(job.native()), "round {round}");
            same += 1;
        }
    }
    assert!(same > 20, "only {same} mutants ran");
}

#[test]
fn a_missing_or_useless_elf_interpreter_is_named() {
    let dir = scratch("interp");
    let with = |name: &str, path: &[u8]| {
        mutant(&dir, name, |b| {
            let at = phdr(b, 3);
            let offset = u64::from_le_bytes(b[at + 8..at + 16].try_into().unwrap()) as usize;
            b[offset..offset + path.len()].copy_from_slice(path);
            put(b, at + 32, path.len() as u64);
        })
    };
    refused(&run(&with("missing", b"/no/ld.so\0")), 127, "/no/ld.so");
    refused(&run(&with("text", b"/etc/passwd\0")), 126, "/etc/passwd");
    refused(&run(&with("unterminated", b"/lib64/ld")), 126, "interpreter is malformed");
    refused(&run(&with("empty", b"\0\0")), 126, "interpreter is malformed");
}

#[test]
fn segments_that_collide_with_nothing_but_memory_limits_end_with_a_sentence() {
    let dir = scratch("huge-bss");
    let path = mutant(&dir, "huge-bss", |b| {
        let loads: Vec<usize> =
            (0..13).map(|i| 64 + 56 * i).filter(|&at| b[at..at + 4] == [1, 0, 0, 0]).collect();
        // 120 TiB of zeroes: a legal header that no address space has room for.
        put(b, loads[loads.len() - 1] + 40, 120 << 40);
    });
    refused(&run(&path), 126, "cannot be mapped");
}

#[test]
fn scripts_run_through_their_interpreters() {
    let dir = scratch("scripts");
    let plain = file(&dir, "plain", b"#!/bin/sh\necho \"$0\" \"$@\"\ncat /proc/$$/comm\n");
    let argument = file(&dir, "argument", b"#! /usr/bin/env  -S A=1 sh -c env|grep^A \nx");
    let one = file(&dir, "one", b"#!/usr/bin/printf [%s]\\n\n");
    Job::new(&[plain.to_str().unwrap(), "a", "b c"]).same();
    Job::new(&[one.to_str().unwrap(), "x", "y"]).same();
    Job::new(&[argument.to_str().unwrap()]).same();
    let python = file(&dir, "python", b"#!/usr/bin/python3\nimport sys; print(sys.argv, sys.executable)\n");
    Job::new(&[python.to_str().unwrap(), "1"]).same();
    let nested = file(&dir, "nested", format!("#!{} -q\n", plain.display()).as_bytes());
    Job::new(&[nested.to_str().unwrap(), "z"]).same();
}

#[test]
fn scripts_that_cannot_run_say_why() {
    let dir = scratch("bad-scripts");
    refused(&run(&file(&dir, "none", b"#!\n")), 126, "#! line");
    refused(&run(&file(&dir, "missing", b"#!/no/such/shell\n")), 127, "/no/such/shell");
    refused(&run(&file(&dir, "directory", b"#!/usr\n")), 126, "/usr");
    let mut last = file(&dir, "level0", b"#!/bin/echo end\n");
    for level in 1..=4 {
        last = file(&dir, &format!("level{level}"), format!("#!{}\n", last.display()).as_bytes());
    }
    Job::new(&[&last]).same();
    last = file(&dir, "level5", format!("#!{}\n", last.display()).as_bytes());
    refused(&run(&last), 126, "nested");
    let native = std::process::Command::new(&last).spawn().unwrap_err();
    assert_eq!(native.raw_os_error(), Some(40));
}

#[test]
fn wrong_usage_exits_with_2_and_names_the_value() {
    for (options, says) in [
        (&["--memory", "64Q"][..], "64Q"),
        (&["--memory", "0"], "0"),
        (&["--memory", ""], "size"),
        (&["--swap", "zstd9"], "zstd9"),
        (&["--swap", "file:"], "file"),
        (&["--no-such-option"], "--no-such-option"),
    ] {
        let outcome = Job::new(&["true"]).under(options);
        assert_eq!(outcome.status.code(), Some(2), "{outcome:?}");
        assert!(outcome.err().contains(says), "{outcome:?}");
    }
}

#[test]
fn an_unwritable_statistics_file_is_machvms_own_failure() {
    refused(&Job::new(&["true"]).under(&["--stats=/no/such/dir/file"]), 125, "--stats");
}
