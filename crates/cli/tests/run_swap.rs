//! `--swap`: programs larger than their memory give the right answers wherever their
//! pages go (swapon(8), swapctl(8), FreeBSD's swap_pager.c).
//!
//! `MACHVM_LONG` makes the programs larger.

mod common;

use common::device::Loop;
use common::{Job, Outcome, machvm, number, scratch};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

fn mib() -> u64 {
    if std::env::var_os("MACHVM_LONG").is_some() { 256 } else { 8 }
}

/// Builds pages, half of them incompressible, reads them back in random order and checks
/// every one.
fn program() -> Job {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/checksummed.py");
    Job::new(&["/usr/bin/python3".to_owned(), file.display().to_string(), mib().to_string(), "6".into()])
}

fn expected() -> &'static Outcome {
    static EXPECTED: OnceLock<Outcome> = OnceLock::new();
    EXPECTED.get_or_init(|| program().native())
}

/// The statistics of a run with a part of the memory that it needs.
fn right_through(part: u64, swap: &[&str]) -> String {
    let memory = format!("{}K", (mib() << 10) / part);
    let dir = scratch("swap-stats");
    let stats = dir.join(format!("{part}-{}", swap.join("").replace(['/', ':', ','], "_")));
    let to = format!("--stats={}", stats.display());
    let mut options = vec!["--memory", &memory, &to];
    for spec in swap {
        options.extend(["--swap", *spec]);
    }
    let ours = program().under(&options);
    let stats = std::fs::read_to_string(&stats).unwrap_or_default();
    assert_eq!(ours.out(), expected().out(), "1/{part} through {swap:?}: {ours:?}\n{stats}");
    assert!(ours.status.success(), "{ours:?}");
    assert_eq!(number(&stats, "pages that could not be read back"), 0, "{stats}");
    stats
}

/// Pages that went there and came back.
fn used(stats: &str, name: &str) {
    let least = mib() * 256 / 4;
    for what in ["written", "read"] {
        let n = number(stats, &format!("{name}: pages {what}"));
        assert!(n >= least, "only {n} pages {what} at {name}\n{stats}");
    }
}

#[test]
fn s06_s07_compressed_pools_give_every_page_back() {
    used(&right_through(4, &["lz4"]), "lz4");
    used(&right_through(4, &["zstd,level=1"]), "zstd");
    used(&right_through(16, &["lz4"]), "lz4");
}

#[test]
fn s06_s07_s08_files_give_every_page_back() {
    let dir = scratch("swap-files");
    let size = mib() * 4;
    let (file, plain) = (dir.join("file"), dir.join("plain"));
    used(&right_through(4, &[&format!("file:{}:{size}M", dir.display())]), &dir.display().to_string());
    // Striped over two, by name.
    let (a, b) = (format!("file:{}:{size}M", file.display()), format!("file:{}:{size}M", plain.display()));
    let stats = right_through(4, &[&format!("{a},prio=7,{b},prio=7,plain")]);
    for name in [&file, &plain] {
        let n = number(&stats, &format!("{}: pages written", name.display()));
        assert!(n >= mib() * 256 / 8, "{n} pages in {}\n{stats}", name.display());
    }
    assert_eq!(std::fs::read_dir(&dir).expect("read").count(), 0, "nothing is left of them");
    std::fs::remove_dir_all(dir).expect("removed");
}

#[test]
fn s07_s09_pages_go_further_down_when_faster_places_are_full() {
    let dir = scratch("swap-all");
    let small = mib() * 128;
    let spec = format!("lz4:{small}K,zstd:{small}K,level=1,file:{}:{}M", dir.display(), mib() * 4);
    for part in [4, 8, 16] {
        let stats = right_through(part, &[&spec]);
        for name in ["lz4", "zstd", &dir.display().to_string()] {
            assert_ne!(number(&stats, &format!("{name}: pages written")), 0, "{stats}");
        }
    }
    std::fs::remove_dir_all(dir).expect("removed");
}

/// Faults of several threads wait for the device at a time, contents move, and children
/// copy what is not in memory.
#[test]
fn s06_threads_and_forks_see_their_pages_while_others_wait_for_theirs() {
    let dir = scratch("swap-threads");
    let program = common::build("swapped_threads.c", "swapped_threads", &[]);
    let argv = [program.display().to_string(), "8".into(), mib().to_string(), "200".into(), "2".into()];
    let memory = format!("{}K", mib() << 8);
    let file = format!("file:{}:{}M", dir.display(), mib() * 4);
    for swap in [file.clone(), format!("lz4:{0}K,{file}", mib() * 64)] {
        let ours = Job::new(&argv).under(&["--memory", &memory, "--swap", &swap]);
        assert!(ours.status.success() && ours.out() == "right\n", "{swap}: {ours:?}");
    }
    std::fs::remove_dir_all(dir).expect("removed");
}

/// Asks a run at its control socket: what it answers, and whether that is an error.
fn ask(socket: &Path, request: &[&str]) -> (bool, String) {
    let asked = Command::new(machvm()).arg("swap").arg(socket).args(request).output().expect("machvm starts");
    let said = if asked.status.success() { asked.stdout } else { asked.stderr };
    (asked.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// `swapoff` of a place that is in use, of the only one, and `swapon` of another, while the
/// program pages: no page is wrong.
#[test]
fn s09_places_come_and_go_while_the_program_runs() {
    let dir = scratch("swap-control");
    let (socket, stats) = (dir.join("control"), dir.join("stats"));
    let places = [format!("file:{}:32M", dir.display()), "lz4:32M".to_owned()];
    let names = [dir.display().to_string(), "lz4".to_owned()];
    let program = common::build("swapped_threads.c", "swapped_threads_on_off", &[]);
    let mut child = Command::new(machvm())
        .args(["run", "--memory", "2M", "--swap", &places[0], &format!("--stats={}", stats.display())])
        .arg("--control")
        .arg(&socket)
        .arg("--")
        .arg(program)
        .args(["3", "8", "0", "0"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("machvm starts");
    let mut out = std::io::BufReader::new(child.stdout.take().expect("a pipe"));
    let mut line = String::new();
    std::io::BufRead::read_line(&mut out, &mut line).expect("read");
    assert_eq!(line, "ready\n");

    let (done, said) = ask(&socket, &["off", &names[0]]);
    assert!(!done && said.contains("cannot hold"), "{said}");
    for turn in 0..4 {
        let (old, new) = (turn % 2, (turn + 1) % 2);
        let (done, said) = ask(&socket, &["on", &places[new]]);
        assert!(done && said.contains("in use"), "{said}");
        let (done, said) = ask(&socket, &["on", &places[new]]);
        assert!(!done && said.contains("in use for swap already"), "{said}");
        let (done, said) = ask(&socket, &["off", &names[old]]);
        assert!(done && said.contains("pages moved"), "{said}");
        let (done, table) = ask(&socket, &[]);
        assert!(
            done && table.contains(&names[new]) && !table.contains(&format!("{} ", names[old])),
            "{table}"
        );
    }
    drop(child.stdin.take());
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut out, &mut rest).expect("read");
    assert!(child.wait().expect("it ended").success(), "{rest}");
    assert_eq!(rest, "right\n");
    let stats = std::fs::read_to_string(&stats).expect("written");
    assert_eq!(number(&stats, "pages that could not be read back"), 0, "{stats}");
    assert_ne!(number(&stats, "pages moved from one place of swap to another"), 0, "{stats}");
    std::fs::remove_dir_all(dir).expect("removed");
}

#[test]
fn s06_s07_a_device_gives_every_page_back() {
    let dir = scratch("swap-device");
    let file = dir.join("device");
    let Some(device) = Loop::new(&file, mib() << 22) else {
        println!("this machine allows no loop devices");
        return;
    };
    used(&right_through(4, &[&format!("dev:{}", device.0)]), &device.0);
    // What a run left there is swap, which the next may overwrite; a file system is not.
    used(&right_through(4, &["lz4:512K", &format!("dev:{}", device.0)]), &device.0);
    let options = ["--swap", &format!("dev:{}", device.0)];
    std::fs::OpenOptions::new()
        .write(true)
        .open(&device.0)
        .and_then(|mut d| std::io::Write::write_all(&mut d, &[0x53; 4096]))
        .expect("written");
    let refused = Job::new(&["true"]).under(&options);
    assert_eq!(refused.status.code(), Some(125), "{refused:?}");
    assert!(refused.err().contains("not swap"), "{refused:?}");
    drop(device);
    std::fs::remove_dir_all(dir).expect("removed");
}

#[test]
fn s09_places_that_cannot_be_used_are_refused_with_the_reason() {
    let dir = scratch("swap-refused");
    let letter = dir.join("letter");
    std::fs::write(&letter, "Dear all").expect("written");
    for (spec, says) in [
        (format!("file:{}:1M", dir.join("none/swap").display()), "No such file"),
        (format!("file:{}:1M", letter.display()), "not a swap file"),
        (format!("file:{}:16K", dir.display()), "at least"),
        (format!("dev:{}", letter.display()), "not a block device"),
        ("lz4,lz4:1M".into(), "in use for swap already"),
    ] {
        let refused = Job::new(&["echo", "started"]).under(&["--swap", &spec]);
        assert_eq!(refused.status.code(), Some(125), "{spec}: {refused:?}");
        assert!(refused.err().contains(says) && refused.out.is_empty(), "{spec}: {refused:?}");
    }
    assert_eq!(std::fs::read(&letter).expect("there"), b"Dear all");
    std::fs::remove_dir_all(dir).expect("removed");
}

#[test]
fn s09_z82_a_program_that_fills_its_swap_is_ended_with_a_message() {
    let dir = scratch("swap-full");
    let job =
        Job::new(&["/usr/bin/python3", "-c", "import os; x = [os.urandom(1 << 20) for _ in range(64)]"]);
    let ours = job.under(&["--memory", "8M", "--swap", &format!("file:{}:16M", dir.display())]);
    assert_eq!(common::signal(&ours), Some(9), "{ours:?}");
    assert!(ours.err().contains("out of memory"), "{ours:?}");
    std::fs::remove_dir_all(dir).expect("removed");
}

/// Blocks of a file without a name are the file system's again when the process is gone.
#[test]
fn s13_nothing_is_left_of_a_run_that_is_killed() {
    let dir = scratch("swap-killed");
    let file: PathBuf = dir.join("swap");
    let spec = format!("file:{}:64M", file.display());
    let script = "import os; x = [os.urandom(1 << 20) for _ in range(24)]; print('full', flush=True)\n\
                  while True: y = [bytes(b) for b in x[:4]]";
    let mut child = Command::new(machvm())
        .args(["run", "--memory", "8M", "--swap", &spec, "--", "/usr/bin/python3", "-c", script])
        .stdout(Stdio::piped())
        .spawn()
        .expect("machvm starts");
    let mut line = String::new();
    let out = child.stdout.take().expect("a pipe");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).expect("read");
    assert_eq!(line, "full\n");
    std::thread::sleep(Duration::from_millis(50));
    child.kill().expect("killed");
    child.wait().expect("it ended");
    assert_eq!(std::fs::read_dir(&dir).expect("read").count(), 0);
    // The same name is free.
    let again = Job::new(&["echo", "again"]).under(&["--memory", "8M", "--swap", &spec]);
    assert_eq!(again.out(), "again\n", "{again:?}");
    std::fs::remove_dir_all(dir).expect("removed");
}
