//! `kernel-bench`: instructions of a memory operation under our kernel, beside Linux.
//!
//! The programs of `bench/kernel` run unmodified under both, in the same QEMU. With `-icount` the time-stamp counter
//! counts the guest's instructions, the same in every run: path length, not time. Misses of caches and of the TLB, and
//! what atomic operations cost more than others, are not in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use super::arch::Arch;
use super::initrd::Initrd;
use super::{Machine, QEMU, build, qemu};

const SOURCES: &str = "bench/kernel";
const PROGRAMS: [&str; 2] = ["vmbench", "vmbench-deep"];
const OUT: &str = "target/kernel-bench";
/// Seconds. Linux with huge pages takes longest.
const PATIENCE: &str = "900";
/// How Linux is told to leave out what the comparison is not about.
const LINUX: &str = "console=ttyS0 quiet panic=-1 nokaslr norandmaps mitigations=off randomize_kstack_offset=off \
                     tsc=reliable init_on_alloc=0 cgroup_disable=memory";

/// What a row is, and the instructions that it should take at most.
const GOALS: [(&str, u64); 18] = [
    ("anon_fault", 620),
    ("random_all", 1_500),
    ("sparse_1in16", 1_500),
    ("munmap_64M_resident_per_page", 150),
    ("dontneed_per_page", 150),
    ("mmap_munmap_4K", 1_500),
    ("mmap_munmap_4K_10000vmas", 2_500),
    ("mmap_touch_munmap_4K", 3_000),
    ("mprotect_4K", 900),
    ("fork_exit_wait_small", 20_000),
    ("fork_exit_wait_16M", 22_000),
    ("fork_exit_wait_16M_again", 22_000),
    ("fork_childreads_exit_16M", 300_000),
    ("fork_exit_parentrewrites_16M", 100_000),
    ("cow_fault_copy", 1_400),
    ("prefork_parent_cow_write", 1_400),
    ("daemon_chain_256_write", 1_400),
    ("cow_fault_reuse", 90),
];

/// Names and instructions of one.
type Figures = Vec<(String, u64)>;

/// A row: its name, the figures of Linux, Linux with huge pages and ours, the goal.
type Row = (String, [Option<u64>; 3], Option<u64>);

/// The figures of the last whole round.
fn figures(text: &str) -> Figures {
    let mut rounds: Vec<Figures> = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, _, each] = words[..] else { continue };
        match (name, each.parse()) {
            ("round", _) => rounds.push(Vec::new()),
            ("end", _) => return rounds.pop().unwrap_or_default(),
            (_, Ok(n)) => {
                if let Some(round) = rounds.last_mut() {
                    round.push((name.to_string(), n));
                }
            }
            _ => {}
        }
    }
    // It ended early: the last round may lack rows.
    rounds.pop();
    rounds.pop().unwrap_or_default()
}

/// Links a program; gives an initial file system with it as `/init`.
fn initrd(name: &str) -> Result<PathBuf, String> {
    let (source, program) = (Path::new(SOURCES).join(format!("{name}.c")), Path::new(OUT).join(name));
    let mut gcc = Command::new("gcc");
    gcc.args([
        "-w",
        "-O2",
        "-static",
        "-nostdlib",
        "-ffreestanding",
        "-fno-stack-protector",
        "-fno-pie",
        "-no-pie",
    ]);
    gcc.args([
        "-fno-asynchronous-unwind-tables",
        "-fcf-protection=none",
        "-mno-avx",
        "-Wl,--build-id=none",
        "-o",
    ]);
    let status = gcc.arg(&program).arg(&source).status();
    if !status.map_err(|e| format!("gcc: {e}; on Debian: apt-get install gcc"))?.success() {
        return Err(format!("{} does not compile", source.display()));
    }
    let mut files = Initrd::default();
    ["bin", "dev", "proc", "tmp", "etc"].iter().for_each(|d| files.directory(d));
    files.file("init", &program)?;
    let path = Path::new(OUT).join(format!("{name}.cpio"));
    fs::write(&path, files.finish()).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(path)
}

/// Debian's kernel, from its package, which is not installed.
fn linux() -> Result<PathBuf, String> {
    let kernel = Path::new(OUT).join("vmlinuz");
    if kernel.exists() {
        return Ok(kernel);
    }
    let script = "set -e; cd target/kernel-bench; \
        pkg=$(apt-cache depends linux-image-amd64 | sed -n 's/.*Depends: \\(linux-image-[^ ]*\\).*/\\1/p' | head -1); \
        apt-get download \"$pkg\" >/dev/null; rm -rf x; dpkg-deb -x \"$pkg\"_*.deb x; cp x/boot/vmlinuz-* vmlinuz; \
        rm -rf x ./*.deb";
    eprintln!("xtask: downloading Debian's Linux");
    match Command::new("sh").args(["-c", script]).status() {
        Ok(s) if s.success() => Ok(kernel),
        Ok(s) => Err(format!("no kernel of Debian's to compare with ({s}); apt-get update may help")),
        Err(e) => Err(format!("sh: {e}")),
    }
}

/// Runs QEMU to its end; gives what the serial line said.
fn boot(what: &str, mut command: Command) -> Result<Figures, String> {
    eprintln!("xtask: {what}");
    let program = command.get_program().to_owned();
    let mut timed = Command::new("timeout");
    timed.args(["-k", "2", PATIENCE]).arg(program).args(command.get_args());
    timed.args(["-icount", "shift=0,sleep=off", "-rtc", "base=2026-01-01,clock=vm", "-seed", "1"]);
    command = timed;
    let out = command.stdin(Stdio::null()).output();
    let out =
        out.map_err(|e| format!("cannot start {QEMU}: {e}; on Debian: apt-get install qemu-system-x86"))?;
    let rows = figures(&String::from_utf8_lossy(&out.stdout));
    if rows.is_empty() {
        let text = String::from_utf8_lossy(&out.stdout);
        let tail: Vec<&str> = text.lines().rev().take(5).collect();
        return Err(format!("{what}: no figures ({}); its last lines, last first: {tail:?}", out.status));
    }
    Ok(rows)
}

/// Linux's figures; kept, as they are the same every time.
fn linux_figures(name: &str, huge: bool, initrd: &Path) -> Result<Figures, String> {
    let kind = if huge { "huge" } else { "base" };
    let kept = Path::new(OUT).join(format!("linux-{name}-{kind}"));
    if let Ok(text) = fs::read_to_string(&kept) {
        let rows = figures(&text);
        if !rows.is_empty() {
            return Ok(rows);
        }
    }
    let (memory, thp) = if huge { ("1G", "always") } else { ("512M", "never") };
    let mut command = Command::new(QEMU);
    command.args([
        "-M",
        "q35,hpet=off",
        "-cpu",
        "max,-erms,-fsrm",
        "-smp",
        "1",
        "-accel",
        "tcg,thread=single",
    ]);
    command.args(["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio", "-m", memory]);
    command.arg("-kernel").arg(linux()?).arg("-initrd").arg(initrd);
    command.arg("-append").arg(format!("{LINUX} transparent_hugepage={thp}"));
    let rows = boot(&format!("{name} under Linux, {kind} pages"), command)?;
    let lines: Vec<String> = rows.iter().map(|(n, v)| format!("{n} 0 {v}\n")).collect();
    let _ = fs::write(&kept, format!("round 0 0\n{}end 0 0\n", lines.concat()));
    Ok(rows)
}

fn find(rows: &Figures, name: &str) -> Option<u64> {
    rows.iter().find(|(n, _)| n == name).map(|(_, v)| *v)
}

fn compare(program: &str, kernel: &Path, ours_only: bool) -> Result<Vec<Row>, String> {
    let initrd = initrd(program)?;
    let command = qemu(kernel, &Machine::default(), Some(&initrd), &["/init".into()]);
    let ours = boot(&format!("{program} under our kernel"), command)?;
    let linux = |huge| if ours_only { Ok(Vec::new()) } else { linux_figures(program, huge, &initrd) };
    let (base, huge) = (linux(false)?, linux(true)?);
    let row = |(name, n): &(String, u64)| {
        let goal = GOALS.iter().find(|(g, _)| g == name).map(|(_, n)| *n);
        (name.clone(), [find(&base, name), find(&huge, name), Some(*n)], goal)
    };
    Ok(ours.iter().map(row).collect())
}

/// The table: figures, ratio to Linux, goal.
fn table(rows: &[Row]) -> String {
    let or_dash = |n: Option<u64>| n.map_or("-".to_string(), |n| n.to_string());
    let mut text = format!(
        "{:<30} {:>11} {:>11} {:>11} {:>11} {:>10}\n",
        "instructions of one", "Linux", "huge pages", "ours", "ours/Linux", "goal"
    );
    for (name, [base, huge, ours], goal) in rows {
        let ratio = base.zip(*ours).filter(|(b, _)| *b != 0).map(|(b, o)| o as f64 / b as f64);
        let ratio = ratio.map_or("-".to_string(), |r| format!("{r:.2}"));
        let verdict = match (goal, ours) {
            (Some(g), Some(o)) if o <= g => " met",
            (Some(_), Some(_)) => " MISSED",
            _ => "",
        };
        let (base, huge, ours) = (or_dash(*base), or_dash(*huge), or_dash(*ours));
        let goal = or_dash(*goal);
        text += &format!("{name:<30} {base:>11} {huge:>11} {ours:>11} {ratio:>11} {goal:>10}{verdict}\n");
    }
    text
}

/// `kernel-bench [--ours] [PROGRAM...]`.
pub(crate) fn bench(args: &[String]) -> ExitCode {
    let ours_only = args.iter().any(|a| a == "--ours");
    let named: Vec<&String> = args.iter().filter(|a| *a != "--ours").collect();
    if let Some(unknown) = named.iter().find(|n| !PROGRAMS.contains(&n.as_str())) {
        eprintln!("xtask: kernel-bench: {unknown:?} is neither --ours nor one of {PROGRAMS:?}");
        return ExitCode::from(2);
    }
    if let Err(e) = fs::create_dir_all(OUT) {
        eprintln!("xtask: {OUT}: {e}");
        return ExitCode::from(2);
    }
    let Some(kernel) = build(Arch::default()) else { return ExitCode::from(2) };
    let mut rows = Vec::new();
    for program in PROGRAMS.into_iter().filter(|p| named.is_empty() || named.iter().any(|n| n == p)) {
        match compare(program, &kernel, ours_only) {
            Ok(more) => rows.extend(more),
            Err(why) => {
                eprintln!("xtask: kernel-bench: {why}");
                return ExitCode::FAILURE;
            }
        }
    }
    println!("command: cargo xtask kernel-bench\n{}", table(&rows));
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_whole_round_counts() {
        let round =
            |n| format!("round {n} 0\r\nanon_fault 1000 {n}00\r\nmunmap_64M_resident_per_page 5 7\r\n");
        let text = format!("boot\n{}{}", round(0), round(1));
        assert_eq!(find(&figures(&text), "anon_fault"), Some(0), "the second is not whole");
        assert_eq!(find(&figures(&format!("{text}end 0 0\n")), "anon_fault"), Some(100));
        assert!(figures("panic\n").is_empty());
    }

    #[test]
    fn a_row_says_whether_its_goal_is_met() {
        let row = |ours| ("x".to_string(), [Some(100), None, Some(ours)], Some(50));
        let text = table(&[row(50), row(51)]);
        let lines: Vec<&str> = text.lines().skip(1).collect();
        assert!(lines[0].ends_with("met") && lines[0].contains("0.50"), "{text}");
        assert!(lines[1].ends_with("MISSED") && lines[1].contains(" - "), "{text}");
    }
}
