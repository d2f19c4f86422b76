//! Our kernel under QEMU.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use crate::{cross, run};

const TARGET: &str = "x86_64-unknown-none";
const QEMU: &str = "qemu-system-x86_64";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    memory: String,
    icount: bool,
    initrd: String,
    program: Vec<String>,
}

fn options(args: &[String]) -> Result<Options, String> {
    let mut o = Options { memory: "512M".into(), icount: false, initrd: String::new(), program: Vec::new() };
    let mut args = args.iter();
    while let Some(a) = args.next() {
        let mut value = || args.next().cloned().ok_or(format!("{a} needs a value"));
        match a.as_str() {
            "--mem" => o.memory = value()?,
            "--initrd" => o.initrd = value()?,
            "--icount" => o.icount = true,
            "--" => {
                o.program = args.cloned().collect();
                break;
            }
            _ => return Err(format!("{a:?} is no option of kernel-run (--mem, --icount, --initrd, --)")),
        }
    }
    if o.initrd.is_empty() {
        return Err(
            "--initrd FILE.cpio is missing: the file system that PROGRAM is in (find . | cpio -o -H newc)"
                .into(),
        );
    }
    if o.program.is_empty() {
        return Err("-- PROGRAM is missing: what the kernel shall run, as a path in the initrd".into());
    }
    if let Some(word) = o.program.iter().find(|w| w.contains(char::is_whitespace)) {
        return Err(format!("{word:?}: the kernel's command line has no way to write a space in a word"));
    }
    Ok(o)
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

/// `kernel-run`: gives the program's status, as the kernel hands it to QEMU's `isa-debug-exit`.
pub(crate) fn run_program(args: &[String]) -> ExitCode {
    let o = match options(args) {
        Ok(o) => o,
        Err(why) => {
            eprintln!("xtask: kernel-run: {why}");
            return ExitCode::from(2);
        }
    };
    let Some(kernel) = build() else { return ExitCode::from(2) };
    let mut qemu = Command::new(QEMU);
    qemu.args(["-M", "q35,hpet=off", "-cpu", "max,-erms,-fsrm", "-smp", "1", "-accel", "tcg,thread=single"]);
    qemu.args(["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio", "-m", &o.memory]);
    qemu.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]);
    if o.icount {
        qemu.args(["-icount", "shift=0,sleep=off"]);
    }
    qemu.arg("-kernel").arg(kernel).args(["-initrd", &o.initrd]);
    qemu.arg("-append").arg(format!("-- {}", o.program.join(" ")));
    match qemu.status() {
        // QEMU makes (status << 1) | 1 of it; eight bits are left.
        Ok(s) => match s.code() {
            Some(code) if code & 1 != 0 => ExitCode::from((code >> 1) as u8),
            _ => {
                eprintln!("xtask: {QEMU} ended by itself ({s})");
                ExitCode::FAILURE
            }
        },
        Err(e) => {
            eprintln!("xtask: cannot start {QEMU}: {e}; on Debian: apt-get install qemu-system-x86");
            ExitCode::from(2)
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
        assert!(parse("--fast").is_err_and(|e| e.contains("--fast")));
    }

    #[test]
    fn words_behind_the_dashes_are_the_programs() {
        let o = parse("--mem 1G --icount --initrd f -- /bin/ls -l --mem").expect("good");
        assert_eq!((o.memory.as_str(), o.icount, o.initrd.as_str()), ("1G", true, "f"));
        assert_eq!(o.program, ["/bin/ls", "-l", "--mem"]);
    }
}
