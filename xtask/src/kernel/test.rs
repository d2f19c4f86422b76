//! `kernel-test`: programs print the same under our kernel and under Linux.
//!
//! Every C program of `kernel/tests/programs` is linked statically and run twice: here, and as the first program of our
//! kernel in QEMU. What it prints and how it ends must be equal. So with every script of `kernel/tests/scripts`, by
//! Debian's static busybox. A line in a source may ask for another machine, as `cases.rs` has it. After every run the
//! kernel must have found that nothing leaked. On other machines than x86-64 (`--arch`) programs that need no disk
//! are run on one CPU, with what only x86-64 has left out (`PORTABLE`), and scripts where Debian has a Busybox. On a
//! machine with several CPUs two kernels run at a time.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use super::arch::Arch;
use super::cases::{Case, cases};
use super::initrd::Initrd;
use super::{Machine, build, busybox, cpus, qemu, status_in};

const PROGRAMS: &str = "kernel/tests/programs";
const SCRIPTS: &str = "kernel/tests/scripts";
const OUT: &str = "target/kernel-test";
/// QEMU without hardware support on a busy machine. No case takes a tenth of it on one with nothing else to do.
const PATIENCE: Duration = Duration::from_secs(300);
/// Kernels at a time, at most.
const AT_A_TIME: usize = 2;

/// What a program printed, and its status as a shell tells it.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    text: String,
    status: u8,
}

/// One comparison.
struct Run {
    case: Case,
    /// In the initial file system.
    inside: Vec<String>,
    /// The initial file system.
    initrd: PathBuf,
    /// On this machine.
    outside: Vec<String>,
    /// What that was like, once it was run.
    want: OnceLock<Result<Outcome, String>>,
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

/// Writes an initial file system with Busybox, if there is one, and one file more; gives where.
fn archive(
    arch: Arch,
    called: &str,
    busybox: Option<&Path>,
    more: Option<(&str, &Path)>,
) -> Result<PathBuf, String> {
    let mut initrd = Initrd::default();
    ["bin", "dev", "proc", "tmp", "etc"].iter().for_each(|d| initrd.directory(d));
    if let Some(busybox) = busybox {
        initrd
            .file("bin/busybox", busybox)
            .map_err(|e| format!("{e}; on Debian: apt-get install busybox-static"))?;
    }
    if let Some((name, path)) = more {
        initrd.file(name, path)?;
    }
    let to = Path::new(OUT).join(format!("{called}.{}.cpio", arch.name()));
    fs::write(&to, initrd.finish()).map_err(|e| format!("{}: {e}", to.display()))?;
    Ok(to)
}

/// Links a program for machine `by`. What only x86-64 has is left out where it shall do the same as on another.
fn link(by: Arch, like: Arch, source: &Path, program: &Path) -> Result<(), String> {
    let mut gcc = by.gcc();
    // Bad pointers are what some of them are about: no warnings.
    gcc.args(["-w", "-O1", "-static", "-pthread", "-o"]).arg(program).arg(source);
    if like != Arch::default() {
        gcc.arg("-DPORTABLE");
    }
    let status = gcc.status().map_err(|e| by.no_gcc(&e))?;
    if status.success() { Ok(()) } else { Err(format!("{} does not compile", source.display())) }
}

/// Links the programs, and makes an initial file system for each; gives the cases.
fn prepare(arch: Arch, only: &[String]) -> Result<Vec<Run>, String> {
    let wanted = |name: &String| only.is_empty() || only.contains(name);
    let text = |path: &Path| fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()));
    let out = Path::new(OUT);
    fs::create_dir_all(out).map_err(|e| format!("{OUT}: {e}"))?;
    let mut runs = Vec::new();
    for source in sorted(PROGRAMS)? {
        let name = stem(&source);
        let mut asked = cases(&name, &text(&source)?)?;
        asked.retain(|c| wanted(&name) || wanted(&c.name));
        asked.retain(|c| c.arch.is_none_or(|only| only == arch));
        asked.iter_mut().for_each(|c| c.machine.arch = arch);
        if !arch.has_devices() {
            asked.retain(|c| c.disk.is_none() && c.root.is_none() && !c.busybox);
            asked.iter_mut().for_each(|c| c.cpus = None);
        }
        if asked.is_empty() {
            continue;
        }
        let suffix = if arch == Arch::default() { "" } else { ".portable" };
        let program = out.join(format!("{name}{suffix}"));
        // It need not be one for this machine.
        if arch == Arch::default() || asked.iter().any(|c| c.says.is_none()) {
            link(Arch::default(), arch, &source, &program)?;
        }
        let theirs = if arch == Arch::default() {
            program.clone()
        } else {
            let theirs = out.join(format!("{name}.{}", arch.name()));
            link(arch, arch, &source, &theirs)?;
            theirs
        };
        let busybox = (arch == Arch::default()).then(|| Path::new(busybox::HERE));
        let initrd = archive(arch, &name, busybox, Some((&format!("bin/{name}"), &theirs)))?;
        for case in asked {
            let with_args = |path: String| [&[path], &case.args[..]].concat();
            let (inside, outside) =
                (with_args(format!("/bin/{name}")), with_args(program.display().to_string()));
            runs.push(Run { case, inside, initrd: initrd.clone(), outside, want: OnceLock::new() });
        }
    }
    for script in sorted(SCRIPTS)? {
        let name = stem(&script);
        if !wanted(&name) {
            continue;
        }
        let Some(busybox) = busybox::path(arch, out) else { continue };
        let initrd = archive(arch, &name, Some(&busybox), Some((&format!("etc/{name}"), &script)))?;
        let words = |path: String| vec!["busybox".to_string(), "sh".into(), path];
        let mut inside = words(format!("/etc/{name}"));
        inside[0] = "/bin/busybox".into();
        let outside = words(script.display().to_string());
        let mut case = cases(&name, "")?.remove(0);
        case.machine.arch = arch;
        runs.push(Run { case, inside, initrd, outside, want: OnceLock::new() });
    }
    if let Some(name) =
        only.iter().find(|n| ![PANIC, SELFTEST].contains(&n.as_str()) && !runs.iter().any(|r| r.is_called(n)))
    {
        return Err(format!("{name:?} is no program of {PROGRAMS} and no script of {SCRIPTS}"));
    }
    Ok(runs)
}

impl Run {
    /// By its own name, or its program's.
    fn is_called(&self, name: &str) -> bool {
        self.case.name == name || Path::new(&self.inside[0]).file_name().is_some_and(|f| f == name)
    }
}

/// What it does under Linux, or what it shall do.
fn natively(run: &Run) -> Result<Outcome, String> {
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    if let Some(text) = &run.case.says {
        return Ok(Outcome { text: text.clone(), status: 0 });
    }
    let out = Command::new(&run.outside[0])
        .args(&run.outside[1..])
        .env_clear()
        .env("PATH", "/bin:/usr/bin")
        // A group that we look after: in one that nobody does SIGTSTP stops nobody.
        .process_group(0)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| format!("{}: {e}", run.outside[0]))?;
    let s = out.status;
    let status = s.code().unwrap_or_else(|| 128 + s.signal().unwrap_or(0)) as u8;
    // The machine's name is what a program may print of it.
    let text = String::from_utf8_lossy(&out.stdout).replace("x86_64", run.case.machine.arch.name());
    Ok(Outcome { text, status })
}

/// All that the kernel and the program print.
fn all_that_is_said(
    kernel: &Path,
    machine: &Machine,
    initrd: Option<&Path>,
    program: &[String],
) -> Result<String, String> {
    let mut command = qemu(kernel, machine, initrd, program);
    let started = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut child = started.map_err(|e| machine.arch.no_qemu(&e))?;
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
    Ok(machine.arch.after_firmware(&said).into())
}

/// What the kernel found left over in the end; `None`: nothing.
fn leak(said: &str) -> Option<String> {
    let Some(line) = said.lines().rev().find_map(|l| l.strip_prefix("machvm: leak check: ")) else {
        return Some("the kernel has not looked for leaks".into());
    };
    let zero = |part: &str| part.starts_with("0 ") || part.ends_with(" bytes of heap");
    (!line.split(", ").all(zero)).then(|| format!("leaked: {line}"))
}

/// Under our kernel. Lines that the kernel itself says do not count.
fn inside(kernel: &Path, cpus: &str, run: &Run) -> Result<Outcome, String> {
    let mut machine = Machine { cpus: cpus.into(), ..run.case.machine.clone() };
    let mut disk = |name: &str, bytes: u64, from: Option<&Path>| {
        let path = Path::new(OUT).join(format!("{}.{cpus}.{name}", run.case.name));
        machine.disks.push(path.display().to_string());
        let made = || {
            // Of a run that was ended.
            let _ = fs::remove_file(&path);
            if let Some(from) = from {
                fs::copy(from, &path)?;
            }
            fs::OpenOptions::new().create(true).append(true).open(&path)?.set_len(bytes)
        };
        made().map_err(|e| format!("{}: {e}", path.display()))
    };
    if let Some(bytes) = run.case.root {
        disk("root", bytes, Some(&run.initrd))?;
    }
    if let Some(bytes) = run.case.disk {
        disk("disk", bytes, None)?;
    }
    let initrd = run.case.root.is_none().then_some(run.initrd.as_path());
    let said = all_that_is_said(kernel, &machine, initrd, &run.inside);
    for path in &machine.disks {
        let _ = fs::remove_file(path);
    }
    let said = said?;
    let status = said.lines().rev().find_map(status_in);
    let status = status.ok_or_else(|| format!("the kernel did not reach the end:\n{said}"))?;
    if let Some(leak) = leak(&said) {
        return Err(leak);
    }
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

/// The kernel's own stack overflows: it says so, and from where.
const PANIC: &str = "panic";

fn panic(arch: Arch, kernel: &Path) -> Option<String> {
    let program = Path::new(OUT).join(format!("panic.{}", arch.name()));
    let linked = link(arch, arch, &Path::new(PROGRAMS).join("fine.c"), &program);
    let initrd = match linked.and_then(|()| archive(arch, PANIC, None, Some(("bin/init", &program)))) {
        Ok(path) => path,
        Err(why) => return Some(why),
    };
    let machine = Machine { arch, words: vec!["panic=stack".into()], ..Machine::default() };
    match all_that_is_said(kernel, &machine, Some(&initrd), &["/bin/init".into()]) {
        Err(why) => Some(why),
        Ok(said) => {
            let named = said.contains("double fault (kernel stack overflow?)");
            let trace = said.lines().filter(|l| l.starts_with("  at 0xffffffff")).count();
            let fine = named && trace >= 4 && status_in(said.lines().last().unwrap_or_default()).is_none();
            (!fine).then(|| format!("no readable panic:\n{said}"))
        }
    }
}

/// The kernel tests its pmap and the core, on the MMU that QEMU has.
const SELFTEST: &str = "selftest";

fn selftest(arch: Arch, cpu: Option<&'static str>, kernel: &Path) -> Option<String> {
    let words = vec![SELFTEST.into(), "swap=pool:8M".into()];
    match all_that_is_said(kernel, &Machine { arch, words, cpu, ..Machine::default() }, None, &[]) {
        Err(why) => Some(why),
        Ok(said) => {
            let fine = said.lines().last().and_then(status_in) == Some(0)
                && said.lines().any(|l| l.starts_with("machvm: selftest: ") && l.ends_with(" passed"));
            (!fine).then(|| format!("a test failed:\n{said}"))
        }
    }
}

/// What is to be seen of one kernel.
enum Job<'a> {
    /// This case, on so many CPUs.
    Case(&'a Run, &'a str),
    Panic(Arch),
    /// On this CPU, if not the usual one.
    SelfTest(Arch, Option<&'static str>),
}

impl Job<'_> {
    fn name(&self) -> String {
        match self {
            Job::Case(run, n) => format!("{} on {n} CPU{}", run.case.name, if *n == "1" { "" } else { "s" }),
            Job::Panic(_) => PANIC.into(),
            Job::SelfTest(_, None) => SELFTEST.into(),
            Job::SelfTest(_, Some(cpu)) => format!("{SELFTEST} on {cpu}"),
        }
    }
    /// `None`: all is well.
    fn problem(&self, kernel: &Path) -> Option<String> {
        let (run, cpus) = match self {
            Job::Case(run, cpus) => (run, cpus),
            Job::Panic(arch) => return panic(*arch, kernel),
            Job::SelfTest(arch, cpu) => return selftest(*arch, *cpu, kernel),
        };
        let want = run.want.get_or_init(|| natively(run)).as_ref();
        let both = want.map_err(String::clone).and_then(|want| Ok((want, inside(kernel, cpus, run)?)));
        match both {
            Ok((want, got)) => difference(want, &got),
            Err(why) => Some(why),
        }
    }
    /// Does it, and tells how it went; gives whether badly.
    fn is_bad(&self, kernel: &Path) -> bool {
        let start = Instant::now();
        let bad = self.problem(kernel);
        let time = start.elapsed().as_secs_f32();
        match &bad {
            None => println!("kernel {} ... ok ({time:.1} s)", self.name()),
            Some(why) => println!("kernel {} ... FAILED ({time:.1} s)\n  {why}", self.name()),
        }
        bad.is_some()
    }
}

fn compare(args: &[String]) -> Result<bool, String> {
    let (arch, args) = match args {
        [option, name, rest @ ..] if option == "--arch" => (Arch::parse(name)?, rest),
        rest => (Arch::default(), rest),
    };
    let (all_cpus, only) = match args {
        [option, n, names @ ..] if option == "--smp" && arch.has_devices() => (vec![cpus(n)?], names),
        names if !arch.has_devices() => (vec!["1".to_string()], names),
        names => (vec!["1".to_string(), "2".to_string()], names),
    };
    let runs = prepare(arch, only)?;
    let kernel = build(arch).ok_or("the kernel cannot be built")?;
    let mut jobs = Vec::new();
    for run in &runs {
        let on = all_cpus.iter().filter(|n| run.case.cpus.as_ref().is_none_or(|only| only == *n));
        jobs.extend(on.map(|n| Job::Case(run, n)));
    }
    if only.is_empty() || only.iter().any(|n| n == PANIC) {
        jobs.push(Job::Panic(arch));
    }
    if only.is_empty() || only.iter().any(|n| n == SELFTEST) {
        jobs.push(Job::SelfTest(arch, None));
        jobs.extend(arch.simple_cpu().map(|cpu| Job::SelfTest(arch, Some(cpu))));
    }
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || {
        while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            failed.fetch_add(job.is_bad(&kernel).into(), Ordering::Relaxed);
        }
    };
    let here = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|s| {
        (1..here.min(AT_A_TIME)).for_each(|_| {
            s.spawn(work);
        });
        work();
    });
    let (count, failed) = (jobs.len(), failed.into_inner());
    println!("kernel: {} of {count} do what they do under Linux, or shall do", count - failed);
    Ok(failed == 0)
}

/// True when all programs, or those named, do the same under our kernel.
pub(crate) fn test(args: &[String]) -> bool {
    if args == ["--arch", "all"] {
        return super::test_everywhere();
    }
    let on = match args {
        [option, name, ..] if option == "--arch" => name,
        _ => Arch::default().name(),
    };
    println!("== programs under our kernel and under Linux ({on})");
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
    fn what_is_left_over_is_told() {
        assert_eq!(leak("machvm: leak check: 0 frames lost, 0 objects, +12 bytes of heap\nexit: 0\n"), None);
        assert!(leak("machvm: leak check: 0 frames lost, 2 objects, +0 bytes of heap").is_some());
        assert!(leak("exit: 0\n").is_some_and(|l| l.contains("not looked")));
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
