//! Our kernel under QEMU.

mod arch;
mod bench;
mod busybox;
mod cases;
mod image;
mod initrd;
mod lint;
mod test;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

pub(crate) use bench::bench;
pub(crate) use lint::lint;
pub(crate) use test::test;

use crate::{cross, run};
use arch::Arch;

const QEMU: &str = "qemu-system-x86_64";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    machine: Machine,
    icount: bool,
    /// Empty: a disk has the root.
    initrd: String,
    program: Vec<String>,
}

/// What QEMU is told of the machine, and the kernel of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Machine {
    arch: Arch,
    /// As QEMU's `-m`.
    memory: String,
    /// As QEMU's `-smp`.
    cpus: String,
    /// Files that are disks.
    disks: Vec<String>,
    /// Words for the kernel: what comes before `--` on its command line.
    words: Vec<String>,
    /// Another CPU than the machine's usual one.
    cpu: Option<&'static str>,
}

impl Default for Machine {
    fn default() -> Self {
        Machine {
            arch: Arch::default(),
            memory: "512M".into(),
            cpus: "1".into(),
            disks: Vec::new(),
            words: Vec::new(),
            cpu: None,
        }
    }
}

fn options(args: &[String]) -> Result<Options, String> {
    let mut o =
        Options { machine: Machine::default(), icount: false, initrd: String::new(), program: Vec::new() };
    let mut args = args.iter();
    while let Some(a) = args.next() {
        let mut value = || args.next().cloned().ok_or(format!("{a} needs a value"));
        match a.as_str() {
            "--arch" => o.machine.arch = Arch::parse(&value()?)?,
            "--mem" => o.machine.memory = value()?,
            "--smp" => o.machine.cpus = cpus(&value()?)?,
            "--disk" => o.machine.disks.push(value()?),
            "--swap" => o.machine.words.push(format!("swap={}", value()?)),
            "--env" => match value()? {
                v if v.find('=').is_some_and(|at| at != 0) => o.machine.words.push(quoted(&v)),
                v => return Err(format!("--env {v:?}: it is NAME=VALUE")),
            },
            "--initrd" => o.initrd = value()?,
            "--icount" => o.icount = true,
            "--" => {
                o.program = args.cloned().collect();
                break;
            }
            _ => {
                let known = "--arch, --mem, --smp, --icount, --initrd, --disk, --swap, --env, --";
                return Err(format!("{a:?} is no option of kernel-run ({known})"));
            }
        }
    }
    if o.initrd.is_empty() && o.machine.disks.is_empty() {
        return Err(
            "--initrd FILE.cpio is missing: the file system that PROGRAM is in (find . | cpio -o -H newc); \
                    or a --disk FILE that begins with such an archive"
                .into(),
        );
    }
    if o.icount && o.machine.cpus != "1" {
        return Err("--icount counts the instructions of one CPU: not with --smp".into());
    }
    let m = &o.machine;
    if !m.arch.has_devices() && (m.cpus != "1" || !m.disks.is_empty() || o.icount) {
        let name = m.arch.name();
        return Err(format!(
            "on {name} the kernel has one CPU and no disk, and instructions are not counted"
        ));
    }
    if o.program.is_empty() {
        return Err("-- PROGRAM is missing: what the kernel shall run, as a path in the initrd".into());
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

/// Where kernels are built.
const OUT: &str = "target/kernel";

/// Builds the kernel. `None`: said why not.
fn build(arch: Arch) -> Option<PathBuf> {
    build_for(&[arch])?;
    let program = Path::new(OUT).join(arch.target()).join("release/machvm-kernel");
    let program = std::env::current_dir().ok()?.join(program);
    if !arch.wants_image() {
        return Some(program);
    }
    image::write(&program).inspect_err(|why| eprintln!("xtask: {why}")).ok()
}

/// Builds the kernel for several machines, side by side. `None`: said why not.
fn build_for(machines: &[Arch]) -> Option<()> {
    let targets: Vec<&str> = machines.iter().map(|m| m.target()).collect();
    let vars = cross::program(&targets)?;
    let vars: Vec<(&str, &str)> = vars.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let mut args = vec!["build", "--release", "--quiet", "--manifest-path", "kernel/Cargo.toml"];
    args.extend(targets.iter().flat_map(|t| ["--target", t]));
    let dir = std::env::current_dir().ok()?.join(OUT).display().to_string();
    let vars = [&vars[..], &[("CARGO_TARGET_DIR", dir.as_str())]].concat();
    run("the kernel", &args, &vars).then_some(())
}

/// The tests of the kernel on every machine that it runs on.
pub(crate) fn test_everywhere() -> bool {
    let all = Arch::all();
    build_for(&all).is_some() && all.iter().all(|arch| test(&["--arch".into(), arch.name().into()]))
}

/// QEMU with the kernel in it, and no devices but disks and the serial line, which is standard input and output.
/// Several CPUs are as many threads of QEMU's.
fn qemu(kernel: &Path, m: &Machine, initrd: Option<&Path>, program: &[String]) -> Command {
    let mut qemu = Command::new(m.arch.qemu());
    qemu.args(m.arch.machine()).args(["-smp", &m.cpus]);
    // The last one counts.
    qemu.args(m.cpu.iter().flat_map(|cpu| ["-cpu", cpu]));
    qemu.args(["-accel", if m.cpus == "1" { "tcg,thread=single" } else { "tcg,thread=multi" }]);
    qemu.args(["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio", "-m", &m.memory]);
    for (i, file) in m.disks.iter().enumerate() {
        // A comma in a name is written twice.
        let file = file.replace(',', ",,");
        qemu.arg("-drive").arg(format!("if=none,id=disk{i},format=raw,file={file}"));
        qemu.arg("-device").arg(format!("virtio-blk-pci,drive=disk{i},disable-legacy=on"));
    }
    qemu.arg("-kernel").arg(kernel);
    if let Some(initrd) = initrd {
        qemu.arg("-initrd").arg(initrd);
    }
    let program: Vec<String> = program.iter().map(|w| quoted(w)).collect();
    let words = [&m.words[..], &["--".to_string()], &program].concat();
    qemu.arg("-append").arg(words.join(" "));
    qemu
}

/// A word as the kernel's command line has it.
fn quoted(word: &str) -> String {
    if !word.is_empty() && !word.contains(|c: char| c.is_whitespace() || c == '"') {
        return word.into();
    }
    let escaped = word.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n").replace('\t', "\\t");
    format!("\"{escaped}\"")
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
    let Some(kernel) = build(o.machine.arch) else { return ExitCode::from(2) };
    let initrd = (!o.initrd.is_empty()).then(|| Path::new(&o.initrd));
    let mut qemu = qemu(&kernel, &o.machine, initrd, &o.program);
    if o.icount {
        qemu.args(["-icount", "shift=0,sleep=off"]);
    }
    to_the_end(o.machine.arch, qemu)
}

/// Which machine `kernel` shall boot, and the words for the kernel.
fn boots(args: &[String]) -> Result<Machine, String> {
    let (arch, words) = match args {
        [arch] => (arch, &[][..]),
        [arch, dashes, words @ ..] if dashes == "--" => (arch, words),
        _ => return Err("it is: kernel ARCH [-- APPEND]".into()),
    };
    Ok(Machine { arch: Arch::parse(arch)?, words: words.to_vec(), ..Machine::default() })
}

/// `kernel`: boots it with these words on its command line; ends with the status that it tells.
pub(crate) fn boot(args: &[String]) -> ExitCode {
    let machine = match boots(args) {
        Ok(machine) => machine,
        Err(why) => {
            eprintln!("xtask: kernel: {why}");
            return ExitCode::from(2);
        }
    };
    let Some(kernel) = build(machine.arch) else { return ExitCode::from(2) };
    to_the_end(machine.arch, qemu(&kernel, &machine, None, &[]))
}

/// Runs QEMU, and passes on what the kernel prints; the status that the kernel tells.
fn to_the_end(arch: Arch, mut qemu: Command) -> ExitCode {
    let mut child = match qemu.stdout(Stdio::piped()).spawn() {
        Ok(child) => child,
        Err(e) => {
            eprintln!("xtask: {}", arch.no_qemu(&e));
            return ExitCode::from(2);
        }
    };
    let said = child.stdout.take().and_then(|from| pass_on(from, std::io::stdout()));
    match (child.wait(), said) {
        (Ok(_), Some(status)) => ExitCode::from(status),
        (Ok(s), None) => {
            eprintln!("xtask: {} ended ({s}) before the program did", arch.qemu());
            ExitCode::FAILURE
        }
        (Err(e), _) => {
            eprintln!("xtask: {}: {e}", arch.qemu());
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
        assert!(parse("--disk d -- a").is_ok());
        assert!(parse("--mem").is_err_and(|e| e.contains("needs a value")));
        assert!(parse("--smp 2 --icount --initrd f -- a").is_err_and(|e| e.contains("--icount")));
        assert!(parse("--arch riscv64 --smp 2 --initrd f -- a").is_err_and(|e| e.contains("one CPU")));
        assert!(parse("--smp 9").is_err_and(|e| e.contains("1 to 8")));
        assert!(parse("--fast").is_err_and(|e| e.contains("--fast")));
    }

    #[test]
    fn words_for_the_kernel_follow_the_machine() {
        let words = |t: &str| t.split(' ').map(String::from).collect::<Vec<_>>();
        let m = boots(&words("riscv64 -- selftest swap=pool:8M")).expect("good");
        assert_eq!((m.arch, &m.words[..]), (Arch::Riscv64, &words("selftest swap=pool:8M")[..]));
        assert!(boots(&words("x86_64")).is_ok_and(|m| m.words.is_empty()));
        assert!(boots(&words("vax")).is_err() && boots(&words("riscv64 selftest")).is_err());
    }

    #[test]
    fn white_space_in_words_is_quoted() {
        assert_eq!(quoted(r"a\b"), r"a\b");
        assert_eq!(quoted(""), "\"\"");
        assert_eq!(quoted("say \"a\\b\n"), r#""say \"a\\b\n""#);
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
        let m = &o.machine;
        assert_eq!((m.memory.as_str(), m.cpus.as_str(), o.icount, o.initrd.as_str()), ("1G", "1", true, "f"));
        assert_eq!(o.program, ["/bin/ls", "-l", "--mem"]);
        let o = parse("--env A=b --initrd f -- /bin/env").expect("good");
        assert_eq!(o.machine.words, ["A=b"]);
        assert!(parse("--env =b --initrd f -- /bin/env").is_err_and(|e| e.contains("NAME=VALUE")));
        let o = parse("--initrd f --disk d --swap pool:8M,/dev/vda -- /bin/ls").expect("good");
        assert_eq!(o.machine.disks, ["d"]);
        assert_eq!(o.machine.words, ["swap=pool:8M,/dev/vda"]);
    }
}
