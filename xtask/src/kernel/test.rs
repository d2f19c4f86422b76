//! `kernel-test`: programs print the same under our kernel and under Linux.
//!
//! Every C program of `kernel/tests/programs` is linked statically and run twice: here, and as the first program of our
//! kernel in QEMU. What it prints and how it ends must be equal. So with every script of `kernel/tests/scripts`, by
//! Debian's static busybox.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use super::initrd::Initrd;
use super::{QEMU, build, cpus, qemu, status_in};

const PROGRAMS: &str = "kernel/tests/programs";
const SCRIPTS: &str = "kernel/tests/scripts";
const OUT: &str = "target/kernel-test";
const BUSYBOX: &str = "/bin/busybox";
/// QEMU without hardware support on a busy machine.
const PATIENCE: Duration = Duration::from_secs(240);

/// What a program printed, and its status as a shell tells it.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    text: String,
    status: u8,
}

/// One comparison.
struct Case {
    name: String,
    /// In the initial file system.
    inside: Vec<String>,
    /// On this machine.
    outside: Vec<String>,
}

fn sorted(dir: &str) -> Result<Vec<PathBuf>, String> {
    let list = fs::read_dir(dir).map_err(|e| format!("{dir}: {e}"))?;
    let mut all: Vec<PathBuf> = list.flatten().map(|e| e.path()).collect();
    all.sort();
    Ok(all)
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Links the programs; gives the cases and the initial file system for all of them.
fn prepare(only: &[String]) -> Result<(Vec<Case>, Vec<u8>), String> {
    let wanted = |name: &String| only.is_empty() || only.contains(name);
    let out = Path::new(OUT);
    fs::create_dir_all(out).map_err(|e| format!("{OUT}: {e}"))?;
    let mut initrd = Initrd::default();
    ["bin", "dev", "proc", "tmp", "etc"].iter().for_each(|d| initrd.directory(d));
    let mut cases = Vec::new();
    for source in sorted(PROGRAMS)? {
        let name = stem(&source);
        if !wanted(&name) {
            continue;
        }
        let program = out.join(&name);
        let mut gcc = Command::new("gcc");
        // Bad pointers are what some of them are about: no warnings.
        gcc.args(["-w", "-O1", "-static", "-pthread", "-o"]).arg(&program).arg(&source);
        let status =
            gcc.status().map_err(|e| format!("gcc: {e}; on Debian: apt-get install gcc libc6-dev"))?;
        if !status.success() {
            return Err(format!("{} does not compile", source.display()));
        }
        initrd.file(&format!("bin/{name}"), &program)?;
        let inside = vec![format!("/bin/{name}")];
        cases.push(Case { name, inside, outside: vec![program.display().to_string()] });
    }
    initrd
        .file("bin/busybox", Path::new(BUSYBOX))
        .map_err(|e| format!("{e}; on Debian: apt-get install busybox-static"))?;
    for script in sorted(SCRIPTS)? {
        let name = stem(&script);
        if !wanted(&name) {
            continue;
        }
        initrd.file(&format!("etc/{name}"), &script)?;
        let words = |path: String| vec!["busybox".to_string(), "sh".into(), path];
        let mut inside = words(format!("/etc/{name}"));
        inside[0] = "/bin/busybox".into();
        cases.push(Case { name, inside, outside: words(script.display().to_string()) });
    }
    if let Some(name) = only.iter().find(|n| !cases.iter().any(|c| c.name == **n)) {
        return Err(format!("{name:?} is no program of {PROGRAMS} and no script of {SCRIPTS}"));
    }
    Ok((cases, initrd.finish()))
}

fn natively(case: &Case) -> Result<Outcome, String> {
    use std::os::unix::process::ExitStatusExt;
    let out = Command::new(&case.outside[0])
        .args(&case.outside[1..])
        .env_clear()
        .env("PATH", "/bin:/usr/bin")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| format!("{}: {e}", case.outside[0]))?;
    let s = out.status;
    let status = s.code().unwrap_or_else(|| 128 + s.signal().unwrap_or(0)) as u8;
    Ok(Outcome { text: String::from_utf8_lossy(&out.stdout).into_owned(), status })
}

/// Under our kernel. Lines that the kernel itself says do not count.
fn inside(kernel: &Path, initrd: &Path, cpus: &str, case: &Case) -> Result<Outcome, String> {
    let mut command = qemu(kernel, "512M", cpus, initrd, &case.inside);
    let started = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut child = started
        .map_err(|e| format!("cannot start {QEMU}: {e}; on Debian: apt-get install qemu-system-x86"))?;
    let (send, receive) = channel();
    let mut from = child.stdout.take().ok_or("no output")?;
    std::thread::spawn(move || {
        let mut all = Vec::new();
        let _ = from.read_to_end(&mut all);
        let _ = send.send(all);
    });
    let said = receive.recv_timeout(PATIENCE);
    if said.is_err() {
        let _ = child.kill();
    }
    let _ = child.wait();
    let said = match said {
        Ok(said) => said,
        Err(_) => {
            let so_far = receive.recv().unwrap_or_default();
            return Err(format!(
                "no end after {} s; so far:\n{}",
                PATIENCE.as_secs(),
                String::from_utf8_lossy(&so_far)
            ));
        }
    };
    let said = String::from_utf8_lossy(&said).replace('\r', "");
    let status = said.lines().rev().find_map(status_in);
    let status = status.ok_or_else(|| format!("the kernel did not reach the end:\n{said}"))?;
    let of_program = |l: &&str| !l.starts_with("machvm: ") && status_in(l).is_none();
    let text = said.lines().filter(of_program).map(|l| format!("{l}\n")).collect();
    Ok(Outcome { text, status })
}

/// The first line that differs.
fn difference(want: &Outcome, got: &Outcome) -> Option<String> {
    let (mut w, mut g) = (want.text.lines(), got.text.lines());
    for n in 1.. {
        match (w.next(), g.next()) {
            (None, None) => break,
            (a, b) if a == b => {}
            (a, b) => {
                let show = |l: Option<&str>| l.map_or("(the end)".to_string(), |l| format!("{l:?}"));
                return Some(format!("line {n}: Linux prints {}, we print {}", show(a), show(b)));
            }
        }
    }
    (want.status != got.status)
        .then(|| format!("ends with {} under Linux and with {} here", want.status, got.status))
}

fn compare(args: &[String]) -> Result<bool, String> {
    let (all_cpus, only) = match args {
        [option, n, names @ ..] if option == "--smp" => (vec![cpus(n)?], names),
        names => (vec!["1".to_string(), "2".to_string()], names),
    };
    let (cases, archive) = prepare(only)?;
    let kernel = build().ok_or("the kernel cannot be built")?;
    let initrd = Path::new(OUT).join("initrd.cpio");
    fs::write(&initrd, archive).map_err(|e| format!("{}: {e}", initrd.display()))?;
    let mut failed = 0;
    for case in &cases {
        let want = natively(case);
        for n in &all_cpus {
            let start = Instant::now();
            let got = |want| Ok((want, inside(&kernel, &initrd, n, case)?));
            let bad = match want.as_ref().map_err(String::clone).and_then(got) {
                Ok((want, got)) => difference(want, &got),
                Err(why) => Some(why),
            };
            let how = format!("{} on {n} CPU{}", case.name, if n == "1" { "" } else { "s" });
            let time = start.elapsed().as_secs_f32();
            match &bad {
                None => println!("kernel {how} ... ok ({time:.1} s)"),
                Some(why) => println!("kernel {how} ... FAILED ({time:.1} s)\n  {why}"),
            }
            failed += usize::from(bad.is_some());
        }
    }
    let runs = cases.len() * all_cpus.len();
    println!("kernel: {} of {runs} print the same as under Linux", runs - failed);
    Ok(failed == 0)
}

/// True when all programs, or those named, do the same under our kernel.
pub(crate) fn test(args: &[String]) -> bool {
    println!("== programs under our kernel and under Linux");
    compare(args).unwrap_or_else(|why| {
        eprintln!("xtask: kernel-test: {why}");
        false
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(text: &str, status: u8) -> Outcome {
        Outcome { text: text.into(), status }
    }

    #[test]
    fn the_first_difference_is_told() {
        let a = outcome("one\ntwo\n", 0);
        assert_eq!(difference(&a, &outcome("one\ntwo\n", 0)), None);
        assert!(difference(&a, &outcome("one\n2\n", 0)).is_some_and(|d| d.contains("line 2")));
        assert!(difference(&a, &outcome("one\n", 0)).is_some_and(|d| d.contains("(the end)")));
        assert!(difference(&a, &outcome("one\ntwo\n", 1)).is_some_and(|d| d.contains("ends with 0")));
    }
}
