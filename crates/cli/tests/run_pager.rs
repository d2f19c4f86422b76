//! `--swap pager:`: programs whose memory is kept by another process, in C and in Python
//! (rows E05, E11, E13, E22), and what becomes of them when that process is killed.

mod common;

use common::pager::Pager;
use common::{Job, NEVER, machvm, number, scratch};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Runs the checksumming program of `mib` MiB in `memory`, paged to `pager`. `during` is
/// called when it runs.
fn run(
    pager: &Path,
    mib: &str,
    memory: &str,
    control: Option<&Path>,
    during: impl FnOnce(&mut Child),
) -> Output {
    let mut command = Command::new(machvm());
    command.args(["run", "--memory", memory, "--swap"]).arg(format!("pager:{}:1G", pager.display()));
    if let Some(control) = control {
        command.arg("--control").arg(control);
    }
    let mut child = command
        .args(["--stats", "--", "/usr/bin/python3"])
        .arg(here("tests/programs/checksummed.py"))
        .args([mib, "20261121"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("machvm starts");
    during(&mut child);
    let size: u32 = mib.parse().expect("a number");
    let end = Instant::now() + NEVER * (size / 32).max(1);
    while child.try_wait().expect("wait").is_none() {
        if Instant::now() > end {
            let _ = child.kill();
            panic!("it hangs");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().expect("its output")
}

/// The right answer, from memory that was mostly elsewhere.
fn right(pager: &Pager, mib: &str, memory: &str) {
    let argv =
        ["/usr/bin/python3".into(), here("tests/programs/checksummed.py"), mib.into(), "20261121".into()];
    let native = Job::new(&argv).native();
    let ours = run(&pager.socket, mib, memory, None, |_| {});
    let stats = String::from_utf8_lossy(&ours.stderr);
    assert!(ours.status.success(), "{}\n{stats}", ours.status);
    assert_eq!(ours.stdout, native.out);
    assert!(number(&stats, "pages written to swap (page-outs)") > 4000, "{stats}");
    let at_pager = |what: &str| number(&stats, &format!("{}: {what}", pager.socket.display()));
    assert!(at_pager("pages written") > 4000 && at_pager("pages read") > 1000, "{stats}");
    assert_eq!(at_pager("writes that failed") + at_pager("reads that failed"), 0, "{stats}");
    assert_eq!(at_pager("pages found damaged"), 0, "{stats}");
}

#[test]
fn e22_a_program_runs_on_memory_kept_by_a_pager_in_c() {
    let pager = Pager::in_c();
    right(&pager, "64", "16M");
    right(&pager, "64", "8M");
}

#[test]
fn e22_a_program_runs_on_memory_kept_by_a_pager_in_python() {
    right(&Pager::in_python(), "64", "16M");
}

/// Kill -9 of the pager, early and late: the program gets the answer that it would have got,
/// or is ended by SIGBUS or for want of memory; it does not hang and does not print anything
/// else.
#[test]
fn z116_a_program_survives_its_pager_no_longer_than_the_deadline() {
    let argv =
        ["/usr/bin/python3".into(), here("tests/programs/checksummed.py"), "64".into(), "20261121".into()];
    let native = Job::new(&argv).native();
    for (what, least) in [("pages written", 20), ("pages written", 4000), ("pages read", 300)] {
        let mut pager = Pager::in_c();
        let control = pager.socket.with_extension("control");
        let (socket, end) = (pager.socket.clone(), Instant::now() + NEVER);
        let kill = |_: &mut Child| {
            while Instant::now() < end && asked(&control, what).is_none_or(|n| n < least) {
                std::thread::sleep(Duration::from_millis(2));
            }
            pager.child.kill().expect("kill");
            pager.child.wait().expect("wait");
        };
        let ours = run(&socket, "64", "8M", Some(&control), kill);
        // With errors it may say nothing, and that in many ways, but nothing wrong.
        assert!(ours.stdout.is_empty() || ours.stdout == native.out, "{ours:?}");
        assert_eq!(ours.status.success(), !ours.stdout.is_empty(), "{ours:?}");
    }
}

/// A figure of the first pager in what `machvm objects` prints.
fn asked(control: &Path, what: &str) -> Option<u64> {
    let out = Command::new(machvm()).arg("objects").arg(control).output().ok()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let line = text.lines().find(|l| l.ends_with(what))?;
    line.split_whitespace().next()?.parse().ok()
}

#[test]
fn without_a_pager_nothing_is_run() {
    let socket = scratch("pager").join("nobody");
    let out = Command::new(machvm())
        .args(["run", "--swap"])
        .arg(format!("pager:{}", socket.display()))
        .args(["--", "echo", "ran"])
        .output()
        .expect("machvm starts");
    let err = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!((out.status.code(), out.stdout.len()), (Some(125), 0), "{err}");
    assert!(err.contains("nobody") && err.contains("is it running?"), "{err}");
}
