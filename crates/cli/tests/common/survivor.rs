//! Runs of `survivor`: a program that says of each of its pages whether it is right, wrong or lost.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::{NEVER, PAGE, build, machvm, number, scratch};

fn survivor() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| build("survivor.c", "survivor", &["-static"]))
}

/// A run, killed when dropped.
pub(crate) struct Run {
    pub(crate) child: Child,
    out: BufReader<ChildStdout>,
    pub(crate) input: Option<ChildStdin>,
    control: PathBuf,
    stats: PathBuf,
}

/// What a run of `survivor` said at its end.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) status: ExitStatus,
    /// Addresses, in hexadecimal digits.
    pub(crate) lost: HashSet<String>,
    last: String,
    pub(crate) stats: String,
}

impl Run {
    fn start(memory: &str, swap: &[&str], argv: &[&str], env: &[(&str, &str)]) -> Run {
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
        command.arg("--").args(argv).envs(env.iter().copied()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("machvm starts");
        let out = BufReader::new(child.stdout.take().expect("a pipe"));
        let input = child.stdin.take();
        Run { child, out, input, control, stats }
    }
    /// `survivor` with pages filled.
    pub(crate) fn survivor(memory: &str, swap: &[&str], mib: u64) -> Run {
        Run::survivor_with(memory, swap, mib, &[])
    }
    /// The same with more in the environment of machvm.
    pub(crate) fn survivor_with(memory: &str, swap: &[&str], mib: u64, env: &[(&str, &str)]) -> Run {
        let argv = [&*survivor().display().to_string(), &*mib.to_string()];
        let mut run = Run::start(memory, swap, &argv, env);
        let mut line = String::new();
        run.out.read_line(&mut line).expect("read");
        assert!(line.starts_with("ready "), "{line}");
        run
    }
    /// It looks at its pages; what came of that.
    pub(crate) fn finish(mut self) -> Told {
        drop(self.input.take());
        let mut text = String::new();
        let status = self.ended();
        self.out.read_to_string(&mut text).expect("read");
        let lost = text.lines().filter_map(|l| l.strip_prefix("lost 0x")).map(str::to_owned).collect();
        let last = text.lines().last().unwrap_or_default().to_owned();
        let stats = std::fs::read_to_string(&self.stats).unwrap_or_default();
        Told { status, lost, last, stats }
    }
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let end = Instant::now() + NEVER;
        loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                return status;
            }
            assert!(Instant::now() < end, "it hangs: {}", self.asked("swap"));
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    /// What `machvm swap` or `machvm objects` says of it.
    pub(crate) fn asked(&self, what: &str) -> String {
        let out = Command::new(machvm()).arg(what).arg(&self.control).output().expect("machvm starts");
        String::from_utf8_lossy(&out.stdout).into_owned()
    }
    /// The file without a name that it swaps to.
    pub(crate) fn swap_file(&self, dir: &Path) -> File {
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
    pub(crate) fn nothing_is_wrong(&self) {
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
