//! Questions to a run, while its program runs (`docs/control.md`).

mod common;

use common::{machvm, scratch};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Nothing takes as long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// A program that has modified 24 MiB, 8 of them resident at most, and waits for a line.
struct Waiting(Child);

impl Waiting {
    fn start(set_up: impl FnOnce(&mut Command)) -> Waiting {
        let mut command = Command::new(machvm());
        command.args(["run", "--memory", "8M"]);
        set_up(&mut command);
        let script = "import os,sys\nb=bytearray(os.urandom(24<<20))\nprint('there',flush=True)\nsys.stdin.readline()\nprint(sum(b[::4096]) == sum(b[i] for i in range(0,24<<20,4096)))";
        command.args(["--", "/usr/bin/python3", "-c", script]);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("machvm starts");
        let mut w = Waiting(child);
        let mut line = String::new();
        let mut out = BufReader::with_capacity(1, w.0.stdout.take().expect("a pipe"));
        out.read_line(&mut line).expect("a line");
        assert_eq!(line, "there\n");
        w.0.stdout = Some(out.into_inner());
        w
    }
    /// Lets the program go on; it is as it was.
    fn finish(mut self) {
        self.0.stdin.take().expect("a pipe").write_all(b"\n").expect("it reads");
        let mut rest = String::new();
        self.0.stdout.take().expect("a pipe").read_to_string(&mut rest).expect("text");
        assert_eq!(rest, "True\n");
        assert!(self.0.wait().expect("wait").success());
    }
}
impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Exit status, standard output and standard error of a question.
fn ask(args: &[&str], runtime: Option<&Path>) -> (Option<i32>, String, String) {
    let mut command = Command::new(machvm());
    command.args(args).env_remove("XDG_RUNTIME_DIR");
    if let Some(dir) = runtime {
        command.env("XDG_RUNTIME_DIR", dir);
    }
    let out = command.output().expect("machvm starts");
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    (out.status.code(), text(&out.stdout), text(&out.stderr))
}

fn gone(path: &Path) {
    let end = Instant::now() + PATIENCE;
    while path.exists() {
        assert!(Instant::now() < end, "{} stays", path.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn objects_and_swap_are_listed_and_changed_while_the_program_runs() {
    let socket = scratch("control").join("socket");
    let run = Waiting::start(|c| {
        c.arg("--control").arg(&socket);
    });
    let name = socket.to_str().expect("text");
    let (status, objects, err) = ask(&["objects", name], None);
    assert_eq!(status, Some(0), "{err}");
    let sums: Vec<u64> = objects
        .lines()
        .find_map(|l| l.split_once("in all"))
        .map(|(_, n)| n.split_whitespace().map(|n| n.parse().expect("a number")).collect())
        .expect("a last line");
    let [_, entries, kib, resident, dirty, out] = sums[..] else { panic!("{objects}") };
    assert!(entries > 10 && kib > 24 << 10, "{objects}");
    assert!(resident <= 8 << 10 && dirty <= resident && out > 12 << 10, "{objects}");
    assert!(objects.contains("file") && objects.contains("anonymous"), "{objects}");

    let (status, table, _) = ask(&["swap", name], None);
    assert!(status == Some(0) && table.contains("lz4"), "{table}");
    let place = format!("file:{}:64M", std::env::temp_dir().display());
    let (status, on, err) = ask(&["swap", name, "on", &place], None);
    assert!(status == Some(0) && on.contains("in use"), "{on}{err}");
    let (status, off, err) = ask(&["swap", name, "off", "lz4"], None);
    assert!(status == Some(0) && off.contains("pages moved"), "{off}{err}");
    let (status, out, err) = ask(&["swap", name, "off", "lz4"], None);
    assert!(status == Some(1) && out.is_empty() && err.starts_with("machvm: "), "{out}{err}");
    run.finish();
    gone(&socket);
    let (status, _, err) = ask(&["objects", name], None);
    assert!(status == Some(1) && err.contains("does it run?"), "{err}");
}

/// A socket for each run, in the usual place; what a killed run left goes with the next.
#[test]
fn runs_are_found_by_their_process() {
    let runtime = scratch("control-runtime");
    let sockets = |pid: u32| -> PathBuf { runtime.join(format!("machvm/{pid}.sock")) };
    let mut killed = Waiting::start(|c| {
        c.env("XDG_RUNTIME_DIR", &runtime);
    });
    let left = sockets(killed.0.id());
    killed.0.kill().expect("kill");
    killed.0.wait().expect("wait");
    assert!(left.exists());
    let run = Waiting::start(|c| {
        c.env("XDG_RUNTIME_DIR", &runtime);
    });
    assert!(!left.exists());
    let pid = run.0.id().to_string();
    let (status, table, err) = ask(&["swap", &pid, "list"], Some(&runtime));
    assert!(status == Some(0) && table.contains("lz4"), "{table}{err}");
    let (status, _, err) = ask(&["swap", &pid], None);
    assert!(status == Some(1) && err.contains("XDG_RUNTIME_DIR"), "{err}");
    let mine = sockets(run.0.id());
    run.finish();
    gone(&mine);
}

/// What is no request is answered, and costs the run nothing.
#[test]
fn nonsense_is_answered() {
    let socket = scratch("control-nonsense").join("socket");
    let run = Waiting::start(|c| {
        c.arg("--control").arg(&socket);
    });
    for bytes in [&b"dance\n"[..], b"\n", b"objects now\n", b"\xff\xfe\n", &[b'x'; 5000], b"objects", b""] {
        let mut s = UnixStream::connect(&socket).expect("it listens");
        // It may have hung up before it read all.
        let _ = s.write_all(bytes);
        let _ = s.shutdown(std::net::Shutdown::Write);
        let mut reply = Vec::new();
        let read = s.read_to_end(&mut reply);
        assert!(reply.starts_with(b"error\n") || read.is_err(), "{bytes:?}: {reply:?}");
    }
    // Two that say nothing do not keep a third from being heard in the end.
    let _silent: Vec<_> = (0..2).map(|_| UnixStream::connect(&socket).expect("it listens")).collect();
    let mut s = UnixStream::connect(&socket).expect("it listens");
    s.write_all(b"maps\n").expect("sent");
    let mut reply = String::new();
    s.read_to_string(&mut reply).expect("text");
    assert!(reply.starts_with("ok\n") && reply.contains("ours"), "{reply}");
    run.finish();
}

#[test]
fn a_socket_that_cannot_be_is_said_before_anything_runs() {
    let out = Command::new(machvm())
        .args(["run", "--control", "/nonexistent/socket", "--", "echo", "ran"])
        .output()
        .expect("machvm starts");
    let err = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!((out.status.code(), out.stdout.len()), (Some(125), 0), "{err}");
    assert!(err.contains("/nonexistent/socket") && err.contains("--control"), "{err}");
}
