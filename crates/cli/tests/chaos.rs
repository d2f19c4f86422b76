//! Runs whose swap is damaged, cut, stopped and killed under them: every page is right or a memory
//! error that names it; nothing hangs, and nothing is left over.
//!
//! `MACHVM_SEED=n` replays the choice of what is damaged.

mod common;

use common::{Job, build, machvm, scratch};
use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Nothing takes as long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(180);
const PAGE: u64 = 4096;

/// xorshift64*: the seed is all there is to replay.
struct Random(u64);
impl Random {
    fn new() -> Random {
        let given = std::env::var("MACHVM_SEED").ok().and_then(|s| s.parse().ok());
        let seed = given.unwrap_or_else(|| u64::from(std::process::id()));
        println!("MACHVM_SEED={seed}");
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % n
    }
}

fn survivor() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| build("survivor.c", "survivor", &["-static"]))
}

/// A run, killed when dropped.
struct Run {
    child: Child,
    out: BufReader<ChildStdout>,
    input: Option<ChildStdin>,
    control: PathBuf,
    stats: PathBuf,
}

/// What a run of `survivor` said at its end.
#[derive(Debug)]
struct Told {
    status: ExitStatus,
    lost: HashSet<String>,
    last: String,
    stats: String,
}

impl Run {
    fn start(memory: &str, swap: &[&str], argv: &[&str]) -> Run {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Relaxed);
        let (control, stats) =
            (scratch("chaos").join(format!("c{n}")), scratch("chaos").join(format!("s{n}")));
        let mut command = Command::new(machvm());
        command.args(["run", "--memory", memory, "--control"]).arg(&control);
        command.arg(format!("--stats={}", stats.display()));
        for place in swap {
            command.args(["--swap", place]);
        }
        command.arg("--").args(argv).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("machvm starts");
        let out = BufReader::new(child.stdout.take().expect("a pipe"));
        let input = child.stdin.take();
        Run { child, out, input, control, stats }
    }
    /// `survivor` with pages filled.
    fn survivor(memory: &str, swap: &[&str], mib: u64) -> Run {
        let mut run = Run::start(memory, swap, &[&survivor().display().to_string(), &mib.to_string()]);
        let mut line = String::new();
        run.out.read_line(&mut line).expect("read");
        assert!(line.starts_with("ready "), "{line}");
        run
    }
    /// It looks at its pages; what came of that.
    fn finish(mut self) -> Told {
        drop(self.input.take());
        let mut text = String::new();
        let status = self.ended();
        self.out.read_to_string(&mut text).expect("read");
        let lost = text.lines().filter_map(|l| l.strip_prefix("lost 0x")).map(str::to_owned).collect();
        let last = text.lines().last().unwrap_or_default().to_owned();
        let stats = std::fs::read_to_string(&self.stats).unwrap_or_default();
        Told { status, lost, last, stats }
    }
    fn ended(&mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                return status;
            }
            assert!(Instant::now() < end, "it hangs: {}", self.asked("swap"));
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    /// What `machvm swap` or `machvm objects` says of it.
    fn asked(&self, what: &str) -> String {
        let out = Command::new(machvm()).arg(what).arg(&self.control).output().expect("machvm starts");
        String::from_utf8_lossy(&out.stdout).into_owned()
    }
    /// The file without a name that it swaps to.
    fn swap_file(&self, dir: &Path) -> File {
        let tasks = format!("/proc/{}/task", self.child.id());
        for task in std::fs::read_dir(tasks).expect("it runs").flatten() {
            for fd in std::fs::read_dir(task.path().join("fd")).into_iter().flatten().flatten() {
                let goes_to = std::fs::read_link(fd.path()).unwrap_or_default();
                if goes_to.starts_with(dir) && goes_to.to_string_lossy().ends_with("(deleted)") {
                    let file = File::options().read(true).write(true).open(fd.path());
                    return file.expect("opened once more");
                }
            }
        }
        panic!("process {} has no file in {}", self.child.id(), dir.display());
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Told {
    /// Nothing is wrong; what is lost is told by object and offset as well.
    fn nothing_is_wrong(&self) {
        assert!(self.status.success(), "{self:?}");
        assert_eq!(self.last, format!("{} lost, 0 wrong", self.lost.len()), "{self:?}");
        let errors = number(&self.stats, "memory errors: pages that could not be had");
        assert_eq!(errors == 0, self.lost.is_empty(), "{self:?}");
        // The last ones are listed: object, offset, address, what.
        for line in self.stats.lines().skip_while(|l| !l.contains("object       offset")).skip(1) {
            let part: Vec<_> = line.split_whitespace().collect();
            let hex = |s: &str| u64::from_str_radix(s.strip_prefix("0x").unwrap_or("no"), 16);
            assert!(part[0].parse::<u32>().is_ok() && hex(part[1]).is_ok_and(|o| o % PAGE == 0), "{line}");
            assert!(self.lost.contains(part[2].trim_start_matches("0x")), "{line}: {self:?}");
            assert!(line.ends_with("cannot be read"), "{line}");
        }
    }
}

fn number(stats: &str, what: &str) -> u64 {
    let line = stats.lines().find(|l| l.trim_start().split_once(' ').is_some_and(|(_, w)| w == what));
    let line = line.unwrap_or_else(|| panic!("no line {what:?} in\n{stats}"));
    line.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number")
}

/// Bits of the swap file turn while the program waits: with encryption and without.
#[test]
fn z81_bits_that_turn_in_a_swap_file_cost_their_pages() {
    let mut r = Random::new();
    for how in ["", ",plain"] {
        let dir = scratch(&format!("chaos-bits-{}", how.trim_start_matches(',')));
        let run = Run::survivor("4M", &[&format!("file:{}:32M{how}", dir.display())], 12);
        let file = run.swap_file(&dir);
        let size = file.metadata().expect("metadata").len();
        assert_eq!(size, 32 << 20);
        let hit: HashSet<u64> = (0..200).map(|_| 1 + r.below(2500)).collect();
        for page in &hit {
            let (at, mut byte) = (page * PAGE + r.below(PAGE), [0]);
            file.read_exact_at(&mut byte, at).expect("read");
            byte[0] ^= 1 << r.below(8);
            file.write_all_at(&byte, at).expect("written");
        }
        file.sync_all().expect("written");
        let told = run.finish();
        told.nothing_is_wrong();
        let n = told.lost.len();
        assert!(n != 0 && n <= hit.len(), "{n} pages lost, {} hit: {told:?}", hit.len());
        assert!(number(&told.stats, "pages that could not be read back") >= n as u64, "{told:?}");
        std::fs::remove_dir_all(dir).expect("removed");
    }
}

/// The end of the swap file is cut off, and pages are written there again.
#[test]
fn z81_a_swap_file_that_is_cut_costs_what_was_there() {
    let dir = scratch("chaos-cut");
    let run = Run::survivor("4M", &[&format!("file:{}:32M", dir.display())], 12);
    let file = run.swap_file(&dir);
    file.set_len(5 << 20).expect("cut");
    let told = run.finish();
    told.nothing_is_wrong();
    let n = told.lost.len();
    assert!(n != 0 && n < 3072 - 512, "{n} pages lost: {told:?}");
    std::fs::remove_dir_all(dir).expect("removed");
}

/// A pager's process, killed when dropped.
struct Pager {
    child: Child,
    socket: PathBuf,
}

impl Pager {
    fn start(socket: &Path) -> Pager {
        static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
        let program = PROGRAM.get_or_init(|| {
            let at = scratch("programs").join("chaos-pager");
            let here = |path: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
            let mut cc = Command::new("cc");
            cc.args(["-O1", "-pthread", "-I"]).arg(here("../pagers/include")).arg("-o").arg(&at);
            assert!(cc.arg(here("../pagers/examples/pager.c")).status().expect("cc").success());
            at
        });
        let _ = std::fs::remove_file(socket);
        let child = Command::new(program).arg(socket).stdin(Stdio::null()).spawn().expect("it starts");
        let end = Instant::now() + PATIENCE;
        // Of the wrong kind for a packet socket: refused with EPROTOTYPE once somebody listens.
        let listens = || {
            let e = UnixDatagram::unbound().and_then(|d| d.connect(socket)).expect_err("another kind");
            e.raw_os_error() == Some(91)
        };
        while !listens() {
            assert!(Instant::now() < end, "the pager does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        Pager { child, socket: socket.to_owned() }
    }
    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().expect("kill").success());
    }
    fn place(&self) -> String {
        format!("pager:{}:256M", self.socket.display())
    }
}

impl Drop for Pager {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A pager that does not answer for a while costs time.
#[test]
fn z116_a_pager_that_pauses_costs_time_only() {
    let pager = Pager::start(&scratch("chaos").join("pauses"));
    let run = Run::survivor("4M", &[&pager.place()], 12);
    pager.signal("-STOP");
    std::thread::scope(|s| {
        s.spawn(|| {
            std::thread::sleep(Duration::from_millis(1500));
            pager.signal("-CONT");
        });
        let told = run.finish();
        told.nothing_is_wrong();
        assert_eq!(told.lost.len(), 0, "{told:?}");
    });
}

/// A pager that is killed, and one that is started in its place and knows nothing: what it had is
/// lost, nothing else, and it is used again.
#[test]
fn z116_a_pager_that_comes_back_without_its_data_costs_what_it_had() {
    let socket = scratch("chaos").join("comes-back");
    let pager = Pager::start(&socket);
    let run = Run::survivor("4M", &["lz4:1M,prio=9", &pager.place()], 8);
    drop(pager);
    let _pager = Pager::start(&socket);
    let told = run.finish();
    told.nothing_is_wrong();
    let n = told.lost.len();
    assert!(n != 0 && n <= 2048 - 512, "{n} pages lost: {told:?}");
    let name = socket.display();
    assert!(number(&told.stats, &format!("{name}: pages written")) > n as u64, "{told:?}");
}

/// Runs that are killed leave a pager no worse: it is there for the next, with all its room.
#[test]
fn z116_runs_that_are_killed_leave_their_pager_alone() {
    let pager = Pager::start(&scratch("chaos").join("killed"));
    let resident = || {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", pager.child.id())).expect("it runs");
        statm.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).expect("pages")
    };
    let mut after = Vec::new();
    for _ in 0..4 {
        let mut run = Run::survivor("3M", &[&pager.place()], 16);
        run.child.kill().expect("killed");
        run.ended();
        // What it was asked to keep goes with the connection.
        let end = Instant::now() + PATIENCE;
        while after.first().is_some_and(|first| resident() > first + 1000) {
            assert!(Instant::now() < end, "{} pages at first, {} now", after[0], resident());
            std::thread::sleep(Duration::from_millis(10));
        }
        after.push(resident());
    }
    let told = Run::survivor("3M", &[&pager.place()], 16).finish();
    told.nothing_is_wrong();
    assert_eq!(told.lost.len(), 0, "{told:?}");
}

/// A run that is killed while it pages: no process of it is left, and neither is its socket once
/// the next one has begun.
#[test]
fn s13_a_run_that_is_killed_leaves_no_process() {
    let dir = scratch("chaos-killed");
    let spec = format!("lz4:1M,file:{}:64M", dir.join("swap").display());
    let mut run = Run::survivor("4M", &[&spec], 16);
    let pid = run.child.id();
    let group: Vec<_> = children(pid);
    run.input.take().expect("open").write_all(b"x").expect("it goes on");
    run.child.kill().expect("killed");
    run.ended();
    for child in group {
        let end = Instant::now() + PATIENCE;
        while Path::new(&format!("/proc/{child}")).exists() {
            assert!(Instant::now() < end, "process {child} of the run {pid} goes on");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    assert_eq!(std::fs::read_dir(&dir).expect("read").count(), 0);
    let told = Run::survivor("4M", &[&spec], 8).finish();
    told.nothing_is_wrong();
    std::fs::remove_dir_all(dir).expect("removed");
}

fn children(pid: u32) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").expect("proc").flatten();
    let numbers = all.filter_map(|e| e.file_name().to_string_lossy().parse::<u32>().ok());
    let parent = |n: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{n}/stat")).unwrap_or_default();
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        rest.split_whitespace().nth(1).and_then(|p| p.parse::<u32>().ok())
    };
    numbers.filter(|n| parent(n) == Some(pid)).collect()
}

/// The program of the first slice through each place alone and all together, at a quarter, an
/// eighth and a sixteenth of its size.
#[test]
#[ignore = "takes many minutes: 256 MiB, 21 times; cargo xtask long runs it"]
fn s06_s07_256_mib_through_every_place() {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/checksummed.py");
    let mib = std::env::var("MIB").unwrap_or_else(|_| "256".into());
    let size: u64 = mib.parse().expect("a number");
    let job = Job::new(&["/usr/bin/python3".into(), program.display().to_string(), mib, "20261121".into()]);
    let native = job.native();
    let dir = scratch("chaos-matrix");
    let pager = Pager::start(&dir.join("pager"));
    let file = format!("file:{}:{}M", dir.display(), size * 4);
    let at_pager = format!("pager:{}:{}M", pager.socket.display(), size * 4);
    let all = format!("lz4:{0}M,zstd:{0}M,file:{1}:{2}M,{at_pager}", size / 8, dir.display(), size / 2);
    for swap in ["lz4", "zstd,level=1", &file, &format!("{file},plain"), &at_pager, &all] {
        for part in [4, 8, 16] {
            let begun = Instant::now();
            let memory = format!("{}K", (size << 10) / part);
            let stats = dir.join("stats");
            let to = format!("--stats={}", stats.display());
            let ours = job.under(&["--memory", &memory, &to, "--swap", swap]);
            let stats = std::fs::read_to_string(&stats).unwrap_or_default();
            assert!(
                ours.status.success() && ours.out() == native.out(),
                "{swap} 1/{part}: {ours:?}\n{stats}"
            );
            println!(
                "1/{part:<2} {:>6.1} s {:>8} page-outs {:>8} page-ins  {swap}",
                begun.elapsed().as_secs_f64(),
                number(&stats, "pages written to swap (page-outs)"),
                number(&stats, "pages read from swap (page-ins)"),
            );
        }
    }
    drop(pager);
    std::fs::remove_dir_all(dir).expect("removed");
}
