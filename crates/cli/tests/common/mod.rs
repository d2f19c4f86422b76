//! Running a program natively and under machvm, and comparing what came of it.
#![allow(dead_code, reason = "each test file uses a part")]

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

pub(crate) mod device;
pub(crate) mod pager;
#[cfg(feature = "remote")]
#[path = "../../../pagers/src/remote/tests/servers.rs"]
pub(crate) mod servers;
pub(crate) mod survivor;

/// Bytes of a page.
pub(crate) const PAGE: u64 = 4096;
/// Nothing takes as long unless it hangs.
pub(crate) const NEVER: Duration = Duration::from_secs(180);

/// Nothing here takes longer natively than a few seconds, in the long form half a minute; a hang
/// must fail.
fn patience() -> Duration {
    Duration::from_secs(if std::env::var_os("MACHVM_LONG").is_some() { 1200 } else { 120 })
}

/// What a process left behind.
#[derive(PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Standard output.
    pub(crate) out: Vec<u8>,
    /// Standard error.
    pub(crate) err: Vec<u8>,
    /// The wait status.
    pub(crate) status: ExitStatus,
}

impl Outcome {
    /// Standard output as text.
    pub(crate) fn out(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    /// Standard error as text.
    pub(crate) fn err(&self) -> String {
        String::from_utf8_lossy(&self.err).into_owned()
    }
}

impl std::fmt::Debug for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let cut = |text: String| text.chars().take(4000).collect::<String>();
        write!(f, "{}\n--- out\n{}\n--- err\n{}", self.status, cut(self.out()), cut(self.err()))
    }
}

/// A command line with its input.
#[derive(Clone)]
pub(crate) struct Job {
    argv: Vec<OsString>,
    input: Vec<u8>,
    env: Vec<(String, String)>,
}

impl Job {
    /// A program and its arguments.
    pub(crate) fn new<S: AsRef<OsStr>>(argv: &[S]) -> Job {
        Job {
            argv: argv.iter().map(|arg| arg.as_ref().to_owned()).collect(),
            input: Vec::new(),
            env: Vec::new(),
        }
    }

    /// Feeds it.
    pub(crate) fn input(mut self, input: impl Into<Vec<u8>>) -> Job {
        self.input = input.into();
        self
    }

    /// Adds to its environment.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Job {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Runs it natively.
    pub(crate) fn native(&self) -> Outcome {
        self.run_as(self.argv.clone())
    }

    /// Runs it under machvm.
    pub(crate) fn machvm(&self) -> Outcome {
        self.under(&[])
    }

    /// Runs it under machvm with options.
    pub(crate) fn under(&self, options: &[&str]) -> Outcome {
        self.run_as(self.under_machvm(options))
    }

    /// Runs it under machvm with options; `None` when it does not end in time.
    pub(crate) fn under_within(&self, options: &[&str], patience: Duration) -> Option<Outcome> {
        self.spawn_within(&self.under_machvm(options), patience).unwrap()
    }

    /// Runs it both ways; everything must be equal.
    pub(crate) fn same(&self) -> Outcome {
        let native = self.native();
        let ours = self.machvm();
        assert!(native == ours, "{:?}\nnative: {native:?}\n\nmachvm: {ours:?}", self.argv);
        ours
    }

    /// Runs it natively, where it may not even be executable: whether it succeeds in
    /// time.
    pub(crate) fn native_status_within(&self, patience: Duration) -> bool {
        self.spawn_within(&self.argv, patience).is_ok_and(|ran| ran.is_some_and(|ran| ran.status.success()))
    }

    /// Runs it under machvm; `None` when it does not end in time.
    pub(crate) fn machvm_within(&self, patience: Duration) -> Option<Outcome> {
        self.under_within(&[], patience)
    }

    fn under_machvm(&self, options: &[&str]) -> Vec<OsString> {
        let mut argv: Vec<OsString> = vec![machvm(), "run".into()];
        argv.extend(options.iter().map(OsString::from));
        argv.push("--".into());
        argv.extend(self.argv.iter().cloned());
        argv
    }

    fn run_as(&self, argv: Vec<OsString>) -> Outcome {
        let ran = self.spawn_within(&argv, patience());
        let ran = ran.unwrap_or_else(|error| panic!("{argv:?}: {error} (is it installed?)"));
        ran.unwrap_or_else(|| panic!("{argv:?} hangs"))
    }

    /// `None`: it did not end, and was killed.
    fn spawn_within(&self, argv: &[OsString], patience: Duration) -> std::io::Result<Option<Outcome>> {
        let mut command = Command::new(&argv[0]);
        command.args(&argv[1..]).envs(self.env.iter().cloned());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let (mut stdin, mut stdout, mut stderr) =
            (child.stdin.take().unwrap(), child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let input = self.input.clone();
        let feed = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let out = std::thread::spawn(move || read_all(&mut stdout));
        let err = std::thread::spawn(move || read_all(&mut stderr));
        let began = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if began.elapsed() > patience {
                let _ = child.kill();
                let _ = child.wait();
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        feed.join().unwrap();
        Ok(Some(Outcome { out: out.join().unwrap(), err: err.join().unwrap(), status }))
    }
}

fn read_all(from: &mut impl Read) -> Vec<u8> {
    let mut all = Vec::new();
    from.read_to_end(&mut all).unwrap();
    all
}

/// The command under test.
pub(crate) fn machvm() -> OsString {
    env!("CARGO_BIN_EXE_machvm").into()
}

/// A directory for this test's files.
pub(crate) fn scratch(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// Builds one of `tests/programs`.
pub(crate) fn build(source: &str, name: &str, flags: &[&str]) -> PathBuf {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(source);
    let made = scratch("programs").join(name);
    let cc = Command::new("cc")
        .arg("-O1")
        .arg("-w")
        .arg(file)
        .arg("-o")
        .arg(&made)
        .args(flags)
        .arg("-pthread")
        .output();
    let cc = cc.expect("cc is installed");
    assert!(cc.status.success(), "{}", String::from_utf8_lossy(&cc.stderr));
    made
}

/// The same probe as a dynamic, a static position-dependent, and a static
/// position-independent program.
pub(crate) fn probes() -> &'static [PathBuf] {
    static PROBES: OnceLock<Vec<PathBuf>> = OnceLock::new();
    PROBES.get_or_init(|| {
        vec![
            build("probe.c", "probe", &[]),
            build("probe.c", "probe-static", &["-static", "-no-pie"]),
            build("probe.c", "probe-static-pie", &["-static-pie"]),
            build("probe.c", "probe-no-pie", &["-no-pie"]),
        ]
    })
}

/// The launcher of `tests/programs`.
pub(crate) fn launcher() -> &'static Path {
    static LAUNCHER: OnceLock<PathBuf> = OnceLock::new();
    LAUNCHER.get_or_init(|| build("launch.c", "launch", &[]))
}

/// Runs a probe's mode every way; returns the last outcome.
pub(crate) fn probe_same(arguments: &[&str]) {
    for probe in probes() {
        let mut argv = vec![probe.as_os_str().to_owned()];
        argv.extend(arguments.iter().map(OsString::from));
        Job::new(&argv).same();
    }
}

/// The signal that ended it.
pub(crate) fn signal(outcome: &Outcome) -> Option<i32> {
    outcome.status.signal()
}

/// A figure of `--stats`, by all that follows it on its line.
pub(crate) fn number(stats: &str, what: &str) -> u64 {
    let line = stats.lines().find(|l| l.trim_start().split_once(' ').is_some_and(|(_, w)| w == what));
    let line = line.unwrap_or_else(|| panic!("no line {what:?} in\n{stats}"));
    line.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number")
}
