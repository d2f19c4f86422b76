//! Which programs are run, and how: as lines in their sources say.
//!
//! ```text
//! // kernel-test NAME: cpus=1 mem=96M disk=128M swap=pool:24M,/dev/vda args=160,mixed busybox arch=aarch64
//! //> what it prints, where it is not run under Linux
//! ```
//! A source without such a line is one case with nothing said.

use super::Machine;
use super::arch::Arch;

/// How a program is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) name: String,
    pub(super) machine: Machine,
    /// It is run on so many CPUs only.
    pub(super) cpus: Option<String>,
    /// Bytes of an empty disk.
    pub(super) disk: Option<u64>,
    /// Bytes of a disk before that one that has the root.
    pub(super) root: Option<u64>,
    pub(super) args: Vec<String>,
    /// It is run on this machine only.
    pub(super) arch: Option<Arch>,
    /// It reads /bin/busybox, which is the same file here and there on x86-64 only.
    pub(super) busybox: bool,
    /// What it prints; `None`: what it prints under Linux.
    pub(super) says: Option<String>,
}

fn bytes(text: &str) -> Option<u64> {
    Some(text.strip_suffix('M')?.parse::<u64>().ok()? << 20)
}

fn case(name: &str, words: &str, says: Option<String>) -> Result<Case, String> {
    let mut c = Case {
        name: name.into(),
        machine: Machine::default(),
        cpus: None,
        disk: None,
        root: None,
        args: Vec::new(),
        arch: None,
        busybox: false,
        says,
    };
    for w in words.split_whitespace() {
        match w.split_once('=') {
            Some(("mem", m)) => c.machine.memory = m.into(),
            Some(("cpus", n)) => c.cpus = Some(super::cpus(n)?),
            Some(("disk", n)) => c.disk = Some(bytes(n).ok_or(format!("{w}: as in 64M"))?),
            Some(("root", n)) => c.root = Some(bytes(n).ok_or(format!("{w}: as in 64M"))?),
            Some(("args", a)) => c.args = a.split(',').map(String::from).collect(),
            Some(("swap", _)) => c.machine.words.push(w.into()),
            Some(("arch", a)) => c.arch = Some(Arch::parse(a)?),
            None if w == "busybox" => c.busybox = true,
            _ => {
                return Err(format!(
                    "{w:?} of case {name}: mem=, cpus=, disk=, root=, swap=, args=, busybox, arch="
                ));
            }
        }
    }
    Ok(c)
}

/// The cases that a source asks for; `stem`: its name.
pub(super) fn cases(stem: &str, source: &str) -> Result<Vec<Case>, String> {
    let said: Vec<String> =
        source.lines().filter_map(|l| l.strip_prefix("//> ")).map(|l| format!("{l}\n")).collect();
    let says = (!said.is_empty()).then(|| said.concat());
    let mut all = Vec::new();
    for line in source.lines().filter_map(|l| l.strip_prefix("// kernel-test ")) {
        let (name, words) = line.split_once(':').ok_or(format!("{stem}: no colon in {line:?}"))?;
        all.push(case(name, words, says.clone())?);
    }
    if all.is_empty() {
        all.push(case(stem, "", says)?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_says_how_it_is_run() {
        let plain = cases("p", "// text\nint main(void) {}\n").expect("good");
        assert_eq!((plain.len(), plain[0].name.as_str(), &plain[0].says), (1, "p", &None));
        let two = cases(
            "p",
            "// kernel-test a: mem=64M disk=8M\n// kernel-test b: swap=pool:8M args=1,x busybox arch=aarch64\n//> yes\n",
        );
        let two = two.expect("good");
        assert_eq!(two[0].machine.memory, "64M");
        assert_eq!(two[0].disk, Some(8 << 20));
        assert_eq!(two[1].machine.words, ["swap=pool:8M"]);
        assert_eq!(two[1].args, ["1", "x"]);
        assert!(two[1].busybox && !two[0].busybox);
        assert_eq!((two[0].arch, two[1].arch), (None, Some(Arch::Aarch64)));
        assert!(cases("p", "// kernel-test a: arch=vax").is_err_and(|e| e.contains("vax")));
        assert_eq!(two[1].says.as_deref(), Some("yes\n"));
        assert!(cases("p", "// kernel-test a: what=1").is_err_and(|e| e.contains("what=1")));
    }
}
