//! Minutes under pressure: a program with four times the memory that it may have resident, threads
//! that use it in every way, and places of swap that fill up one after the other. Free memory is
//! looked at ten times a second.
//!
//! `cargo xtask soak [MINUTES]` runs the long form (`MACHVM_SOAK=seconds`); `MACHVM_SEED=n`
//! replays what the program does, not how its threads meet.

mod common;

use common::{build, machvm, scratch};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// What starts and ends takes no longer unless it hangs.
const PATIENCE: Duration = Duration::from_secs(300);
const TICK: Duration = Duration::from_millis(100);
const THREADS: usize = 4;
/// As in the program.
const MOST: usize = 16;

fn var(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|s| s.parse().ok())
}

/// The program, killed when dropped.
struct Soak {
    child: Child,
    out: BufReader<ChildStdout>,
    control: PathBuf,
    counters: File,
}

/// Pages, of one moment.
#[derive(Clone, Copy)]
struct Frames {
    free: u64,
    /// Below this the daemon is woken; up to this it frees.
    marks: (u64, u64),
    limit: u64,
}

impl Soak {
    fn start(dir: &Path, (memory, size): (u64, u64), seed: u64) -> Soak {
        let program = build("soak.c", "soak", &[]);
        let control = dir.join("control");
        let counters = dir.join("counters");
        std::fs::write(&counters, [0; (MOST + 1) * 64]).expect("written");
        let swap = format!("lz4:{}M,zstd:{}M,file:{}:{}M", memory / 4, memory / 2, dir.display(), 4 * size);
        let mut child = Command::new(machvm())
            .args(["run", "--memory", &format!("{memory}M"), "--swap", &swap, "--control"])
            .arg(&control)
            .arg(format!("--stats={}", dir.join("stats").display()))
            .arg("--")
            .arg(program)
            .args([size.to_string(), THREADS.to_string(), seed.to_string()])
            .arg(&counters)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("machvm starts");
        let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        out.read_line(&mut line).expect("read");
        assert_eq!(line, "ready\n");
        Soak { child, out, control, counters: File::open(counters).expect("there") }
    }
    /// What `--stats` would print now.
    fn stats(&self) -> String {
        let mut s = UnixStream::connect(&self.control).expect("it listens");
        s.write_all(b"stats\n").expect("sent");
        let mut reply = String::new();
        s.read_to_string(&mut reply).expect("text");
        assert!(reply.starts_with("ok\n"), "{reply}");
        reply
    }
    fn frames(&self) -> Frames {
        let stats = self.stats();
        let pages = |what| number(&stats, what) / 4;
        let marks = (pages("KiB free wake the page daemon"), pages("KiB free are its target"));
        Frames { free: pages("KiB free"), marks, limit: pages("KiB limit of resident memory") }
    }
    fn progress(&self) -> [u64; THREADS] {
        std::array::from_fn(|t| self.counter(t))
    }
    fn counter(&self, t: usize) -> u64 {
        word(&self.counters, t * 64)
    }
    /// In the middle of fork(2), which copies all memory before anybody goes on.
    fn is_forking(&self) -> bool {
        word(&self.counters, MOST * 64 + 8) != 0
    }
    /// Lets it look at everything once more; what it said.
    fn finish(mut self) -> String {
        drop(self.child.stdin.take());
        let end = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                break status;
            }
            assert!(Instant::now() < end, "it hangs:\n{}", self.stats());
            std::thread::sleep(Duration::from_millis(5));
        };
        let mut text = String::new();
        self.out.read_to_string(&mut text).expect("read");
        assert!(status.success() && text.ends_with("right\n"), "{status}\n{text}");
        text
    }
}

impl Drop for Soak {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn number(stats: &str, what: &str) -> u64 {
    let line = stats.lines().find(|l| l.trim_start().split_once(' ').is_some_and(|(_, w)| w == what));
    let line = line.unwrap_or_else(|| panic!("no line {what:?} in\n{stats}"));
    line.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number")
}

fn word(file: &File, at: usize) -> u64 {
    let mut n = [0; 8];
    file.read_exact_at(&mut n, at as u64).expect("read");
    u64::from_le_bytes(n)
}

/// The longest time during which something was so.
#[derive(Default)]
struct Longest {
    since: Option<Instant>,
    most: Duration,
}

impl Longest {
    fn note(&mut self, now: Instant, is: bool) {
        match (is, self.since) {
            (true, Some(since)) => self.most = self.most.max(now - since),
            (true, None) => self.since = Some(now),
            (false, _) => self.since = None,
        }
    }
}

/// What came of the samples.
struct Watched {
    /// Free pages, sorted.
    free: Vec<u64>,
    marks: (u64, u64),
    limit: u64,
    /// Nothing free in every sample; a thread that did nothing, though nobody forked; somebody
    /// forked; the watcher itself did not run.
    none: Duration,
    still: Duration,
    fork: Duration,
    asleep: Duration,
    steps: u64,
}

fn watch(soak: &Soak, duration: Duration) -> Watched {
    let begun = Instant::now();
    let first = soak.frames();
    let mut w = Watched {
        free: Vec::new(),
        marks: first.marks,
        limit: first.limit,
        none: Duration::ZERO,
        still: Duration::ZERO,
        fork: Duration::ZERO,
        asleep: Duration::ZERO,
        steps: 0,
    };
    let (mut none, mut fork, mut still) =
        (Longest::default(), Longest::default(), [(); THREADS].map(|()| Longest::default()));
    let (mut before, mut forked) = (soak.progress(), soak.is_forking());
    let at_first = before;
    let mut last = Instant::now();
    while begun.elapsed() < duration {
        std::thread::sleep(TICK);
        let (frames, forks) = (soak.frames(), soak.is_forking());
        let (now, progress) = (Instant::now(), soak.progress());
        w.free.push(frames.free);
        none.note(now, frames.free == 0);
        for t in 0..THREADS {
            still[t].note(now, progress[t] == before[t] && !forks && !forked);
        }
        fork.note(now, forks);
        forked = forks;
        (w.asleep, before) = (w.asleep.max(now - last), progress);
        last = now;
    }
    w.free.sort_unstable();
    (w.none, w.fork) = (none.most, fork.most);
    w.still = still.iter().map(|l| l.most).max().unwrap_or_default();
    w.steps = before.iter().sum::<u64>() - at_first.iter().sum::<u64>();
    w
}

impl Watched {
    fn at(&self, of: usize) -> u64 {
        self.free[(self.free.len() - 1) * of / 100]
    }
    /// Per cent of the samples between `low` and `high`.
    fn within(&self, (low, high): (u64, u64)) -> f64 {
        let n = self.free.iter().filter(|f| (low..=high).contains(f)).count();
        n as f64 * 100.0 / self.free.len() as f64
    }
}

// The page daemon in earnest: free memory stays in the controller's band, everybody gets on, and
// nothing is lost or mixed up.
#[test]
fn d01_d02_soak_of_a_run_under_pressure() {
    let long = var("MACHVM_SOAK");
    let duration = Duration::from_secs(long.unwrap_or(20));
    let (memory, size) = if long.is_some() { (64, 256) } else { (16, 64) };
    let seed = var("MACHVM_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("MACHVM_SEED={seed}");
    let dir = scratch("soak");
    let soak = Soak::start(&dir, (memory, size), seed);
    let w = watch(&soak, duration);
    let counters = soak.counters.try_clone().expect("one more");
    soak.finish();
    let children = word(&counters, MOST * 64);
    let stats = std::fs::read_to_string(dir.join("stats")).expect("there");
    let (low, target) = w.marks;
    let min = low / 4;
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let say = format!(
        "{} samples in {} s: free pages of {} (low {low}, target {target}): least {}, 1 % {}, 10 % {}, half {}, 90 % {}, most {}\n\
         from {min} to {}: {:.1} %; from {low} to {target}: {:.1} %; none free for {:?} at most; a thread stood still for {:?} at most (the watcher for {:?})\n\
         {} steps, {children} children, a fork took {:?} at most; load {}",
        w.free.len(),
        duration.as_secs(),
        w.limit,
        w.at(0),
        w.at(1),
        w.at(10),
        w.at(50),
        w.at(90),
        w.at(100),
        2 * target,
        w.within((min, 2 * target)),
        w.within((low, target)),
        w.none,
        w.still,
        w.asleep,
        w.steps,
        w.fork,
        load.trim(),
    );
    println!("{say}");
    println!("{stats}");
    // All places were used, and the daemon did its work.
    for place in ["lz4", "zstd", dir.to_str().expect("text")] {
        assert!(number(&stats, &format!("{place}: pages written")) > 1000, "{place}\n{stats}");
    }
    assert!(number(&stats, "pages written to swap (page-outs)") > w.limit, "{say}\n{stats}");
    assert_eq!(number(&stats, "memory errors: pages that could not be had"), 0, "{stats}");
    assert!(w.steps > 0 && children > 0, "{say}");
    // A machine with more to do than it has processors takes longer; what shares it with a
    // hundred other tests may be kept waiting.
    let cpus = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    let busy = load.split(' ').next().and_then(|l| l.parse::<f64>().ok()).unwrap_or(0.0) / cpus;
    let patience = |seconds: f64| w.asleep + Duration::from_secs_f64(seconds * busy.max(1.0));
    let (none, still, band) = if long.is_some() { (1.0, 2.0, 90.0) } else { (10.0, 15.0, 50.0) };
    assert!(w.none <= patience(none), "{say}");
    assert!(w.still <= patience(still), "{say}");
    assert!(w.fork <= patience(60.0), "{say}");
    assert!(w.within((min, 2 * target)) >= band, "{say}");
    std::fs::remove_dir_all(dir).expect("removed");
}
