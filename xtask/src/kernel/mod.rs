//! Our kernel under QEMU.

mod bench;
mod initrd;
mod test;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

pub(crate) use bench::bench;
pub(crate) use test::test;

use crate::{cross, run};

const TARGET: &str = "x86_64-unknown-none";
const QEMU: &str = "qemu-system-x86_64";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    memory: String,
    cpus: String,
    icount: bool,
    initrd: String,
    program: Vec<String>,
}

fn options(args: &[String]) -> Result<Options, String> {
    let mut o = Options {
        memory: "512M".into(),
        cpus: "1".into(),
        icount: false,
        initrd: String::new(),
        program: Vec::new(),
    };
    let mut args = args.iter();
    while let Some(a) = args.next() {
        let mut value = || args.next().cloned().ok_or(format!("{a} needs a value"));
        match a.as_str() {
            "--mem" => o.memory = value()?,
            "--smp" => o.cpus = cpus(&value()?)?,
            "--initrd" => o.initrd = value()?,
            "--icount" => o.icount = true,
            "--" => {
                o.program = args.cloned().collect();
                break;
            }
            _ => {
                return Err(format!(
                    "{a:?} is no option of kernel-run (--mem, --smp, --icount, --initrd, --)"
                ));
            }
        }
    }
    if o.initrd.is_empty() {
        return Err(
            "--initrd FILE.cpio is missing: the file system that PROGRAM is in (find . | cpio -o -H newc)"
                .into(),
        );
    }
    if o.icount && o.cpus != "1" {
        return Err("--icount counts the instructions of one CPU: not with --smp".into());
    }
    if o.program.is_empty() {
        return Err("-- PROGRAM is missing: what the kernel shall run, as a path in the initrd".into());
    }
    if let Some(word) = o.program.iter().find(|w| w.contains(char::is_whitespace)) {
        return Err(format!("{word:?}: the kernel's command line has no way to write a space in a word"));
    }
    Ok(o)
}

/// A number of CPUs that the kernel knows how to count.
fn cpus(n: &str) -> Result<String, String> {
    match n.parse() {
        Ok(1..=8u32) => Ok(n.into()),
        _ => Err(format!("{n:?} CPUs: it is 1 to 8")),
    }
}

/// Builds the kernel. `None`: said why not.
fn build() -> Option<PathBuf> {
    let vars = cross::program(TARGET)?;
    let vars: Vec<(&str, &str)> = vars.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let args = ["build", "--release", "--quiet", "--manifest-path", "kernel/Cargo.toml", "--target", TARGET];
    let dir = std::env::current_dir().ok()?.join("target/kernel");
    let dir_text = dir.display().to_string();
    let vars = [&vars[..], &[("CARGO_TARGET_DIR", dir_text.as_str())]].concat();
    run("the kernel", &args, &vars).then(|| dir.join(TARGET).join("release/machvm-kernel"))
}

/// QEMU with the kernel in it and no devices but the serial line, which is standard input and output.
/// Several CPUs are as many threads of QEMU's.
fn qemu(kernel: &Path, memory: &str, cpus: &str, initrd: &Path, program: &[String]) -> Command {
    let mut qemu = Command::new(QEMU);
    qemu.args(["-M", "q35,hpet=off", "-cpu", "max,-erms,-fsrm", "-smp", cpus]);
    qemu.args(["-accel", if cpus == "1" { "tcg,thread=single" } else { "tcg,thread=multi" }]);
    qemu.args(["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio", "-m", memory]);
    qemu.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]);
    qemu.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd);
    qemu.arg("-append").arg(format!("-- {}", program.join(" ")));
    qemu
}

/// What the kernel's last line says of the status of its first program.
fn status_in(line: &str) -> Option<u8> {
    line.trim_end().strip_prefix("exit: ")?.parse().ok()
}

/// Passes what the kernel prints on; gives the status that the last line tells.
fn pass_on(mut from: impl Read, mut out: impl Write) -> Option<u8> {
    let (mut buf, mut line) = ([0; 4096], Vec::new());
    let mut said = None;
    while let Ok(n) = from.read(&mut buf)
        && n != 0
    {
        // Whoever reads us may be gone; the status is wanted all the same.
        let _ = out.write_all(&buf[..n]).and_then(|()| out.flush());
        for &b in &buf[..n] {
            if b == b'\n' {
                said = status_in(&String::from_utf8_lossy(&line)).or(said);
                line.clear();
            } else {
                line.push(b);
            }
        }
    }
    said
}

/// `kernel-run`: ends with the program's status.
pub(crate) fn run_program(args: &[String]) -> ExitCode {
    let o = match options(args) {
        Ok(o) => o,
        Err(why) => {
            eprintln!("xtask: kernel-run: {why}");
            return ExitCode::from(2);
        }
    };
    let Some(kernel) = build() else { return ExitCode::from(2) };
    let mut qemu = qemu(&kernel, &o.memory, &o.cpus, Path::new(&o.initrd), &o.program);
    if o.icount {
        qemu.args(["-icount", "shift=0,sleep=off"]);
    }
    let mut child = match qemu.stdout(Stdio::piped()).spawn() {
        Ok(child) => child,
        Err(e) => {
            eprintln!("xtask: cannot start {QEMU}: {e}; on Debian: apt-get install qemu-system-x86");
            return ExitCode::from(2);
        }
    };
    let said = child.stdout.take().and_then(|from| pass_on(from, std::io::stdout()));
    match (child.wait(), said) {
        (Ok(_), Some(status)) => ExitCode::from(status),
        (Ok(s), None) => {
            eprintln!("xtask: {QEMU} ended ({s}) before the program did");
            ExitCode::FAILURE
        }
        (Err(e), _) => {
            eprintln!("xtask: {QEMU}: {e}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<Options, String> {
        options(&words.split(' ').map(String::from).collect::<Vec<_>>())
    }

    #[test]
    fn what_is_missing_is_named() {
        assert!(parse("-- a").is_err_and(|e| e.contains("--initrd")));
        assert!(parse("--initrd f").is_err_and(|e| e.contains("-- PROGRAM")));
        assert!(parse("--mem").is_err_and(|e| e.contains("needs a value")));
        assert!(parse("--smp 2 --icount --initrd f -- a").is_err_and(|e| e.contains("--icount")));
        assert!(parse("--smp 9").is_err_and(|e| e.contains("1 to 8")));
        assert!(parse("--fast").is_err_and(|e| e.contains("--fast")));
    }

    #[test]
    fn the_last_line_tells_the_status() {
        assert_eq!(status_in("exit: 139\r"), Some(139));
        assert_eq!(status_in("exit: none"), None);
        assert_eq!(pass_on(&b"exit: 1\r\nexit: 0\r\n"[..], Vec::new()), Some(0));
    }

    #[test]
    fn words_behind_the_dashes_are_the_programs() {
        let o = parse("--mem 1G --icount --initrd f -- /bin/ls -l --mem").expect("good");
        assert_eq!((o.memory.as_str(), o.cpus.as_str(), o.icount, o.initrd.as_str()), ("1G", "1", true, "f"));
        assert_eq!(o.program, ["/bin/ls", "-l", "--mem"]);
    }
}
