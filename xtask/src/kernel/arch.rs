//! The machines that the kernel runs on.

use std::process::Command;

/// One of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Arch {
    #[default]
    X86_64,
    /// One hart, no disks.
    Riscv64,
    /// One CPU, no disks.
    Aarch64,
}

/// What is to be known of one.
pub(super) struct Facts {
    pub(super) arch: Arch,
    /// As uname(2) calls it.
    name: &'static str,
    /// As Rust does.
    target: &'static str,
    qemu: &'static str,
    gcc: &'static str,
    /// Debian's packages of QEMU, and of the compiler.
    packages: [&'static str; 2],
    /// What Debian calls it, if it has packages for it.
    debian: Option<&'static str>,
    /// The machine, its CPU, and how its programs end it.
    machine: &'static [&'static str],
}

/// Every one.
pub(super) const ALL: [Facts; 3] = [
    Facts {
        arch: Arch::X86_64,
        name: "x86_64",
        target: "x86_64-unknown-none",
        qemu: super::QEMU,
        gcc: "gcc",
        packages: ["qemu-system-x86", "gcc libc6-dev"],
        debian: Some("amd64"),
        machine: &[
            "-M",
            "q35,hpet=off",
            "-cpu",
            "max,-erms,-fsrm",
            "-device",
            "isa-debug-exit,iobase=0xf4,iosize=0x04",
        ],
    },
    Facts {
        arch: Arch::Riscv64,
        name: "riscv64",
        target: "riscv64gc-unknown-none-elf",
        qemu: "qemu-system-riscv64",
        gcc: "riscv64-linux-gnu-gcc",
        packages: ["qemu-system-misc", "gcc-riscv64-linux-gnu libc6-dev-riscv64-cross"],
        debian: None,
        machine: &["-M", "virt", "-cpu", "rv64,svpbmt=on", "-bios", "default"],
    },
    Facts {
        arch: Arch::Aarch64,
        name: "aarch64",
        target: "aarch64-unknown-none-softfloat",
        qemu: "qemu-system-aarch64",
        gcc: "aarch64-linux-gnu-gcc",
        packages: ["qemu-system-arm", "gcc-aarch64-linux-gnu libc6-dev-arm64-cross"],
        debian: Some("arm64"),
        // `max` notes accessed and dirty pages by itself; the self-test also runs on a CPU that does not.
        machine: &[
            "-M",
            "virt,gic-version=2",
            "-cpu",
            "max",
            "-semihosting-config",
            "enable=on,target=native",
        ],
    },
];

impl Arch {
    fn facts(self) -> &'static Facts {
        ALL.iter().find(|f| f.arch == self).unwrap_or(&ALL[0])
    }
    /// Every one.
    pub(super) fn all() -> [Self; ALL.len()] {
        ALL.each_ref().map(|f| f.arch)
    }
    /// By its name.
    pub(super) fn parse(name: &str) -> Result<Self, String> {
        match ALL.iter().find(|f| f.name == name) {
            Some(f) => Ok(f.arch),
            None => Err(format!("{name:?}: the kernel runs on {}", ALL.map(|f| f.name).join(", "))),
        }
    }
    /// As uname(2) calls it.
    pub(super) fn name(self) -> &'static str {
        self.facts().name
    }
    /// Rust's.
    pub(super) fn target(self) -> &'static str {
        self.facts().target
    }
    pub(super) fn qemu(self) -> &'static str {
        self.facts().qemu
    }
    /// What to say where QEMU cannot be started.
    pub(super) fn no_qemu(self, why: &std::io::Error) -> String {
        let Facts { qemu, packages: [package, _], .. } = self.facts();
        format!("cannot start {qemu}: {why}; on Debian: apt-get install {package}")
    }
    /// Compilers of C for it.
    pub(super) fn gcc(self) -> Command {
        Command::new(self.facts().gcc)
    }
    /// What to say where there is none.
    pub(super) fn no_gcc(self, why: &std::io::Error) -> String {
        let Facts { gcc, packages: [_, packages], .. } = self.facts();
        format!("{gcc}: {why}; on Debian: apt-get install {packages}")
    }
    /// As Debian calls it; `None`: the release before trixie has no packages for it.
    pub(super) fn debian(self) -> Option<&'static str> {
        self.facts().debian
    }
    /// The machine, its CPU, and how its programs end it.
    pub(super) fn machine(self) -> &'static [&'static str] {
        self.facts().machine
    }
    /// A CPU of which the MMU does less than that of [`Arch::machine`], for the self-test: the option of QEMU's that
    /// follows the others.
    pub(super) fn simple_cpu(self) -> Option<&'static str> {
        (self == Arch::Aarch64).then_some("cortex-a72")
    }
    /// Several CPUs, disks.
    pub(super) fn has_devices(self) -> bool {
        self == Arch::X86_64
    }
    /// QEMU loads an image there, not ELF, when it shall bring an initial file system along.
    pub(super) fn wants_image(self) -> bool {
        self == Arch::Aarch64
    }
    /// What the machine printed, less what its firmware did.
    pub(super) fn after_firmware(self, said: &str) -> &str {
        match said.find(BEGIN) {
            Some(at) if self == Arch::Riscv64 => &said[at..],
            _ => said,
        }
    }
}

/// The kernel's first word, where firmware prints too.
pub(super) const BEGIN: &str = "machvm: riscv64";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_firmware_says_is_left_out() {
        let said = "OpenSBI v1.1\nmachvm: riscv64, 1 count a second\nhello\n";
        assert!(Arch::Riscv64.after_firmware(said).starts_with(BEGIN));
        assert_eq!(Arch::X86_64.after_firmware(said), said);
    }

    #[test]
    fn every_machine_has_its_name_and_its_facts() {
        for f in &ALL {
            assert_eq!(Arch::parse(f.name), Ok(f.arch));
            assert_eq!((f.arch.name(), f.arch.target()), (f.name, f.target));
        }
        assert!(Arch::parse("vax").is_err_and(|e| e.contains("riscv64, aarch64")));
        let why = || std::io::Error::other("gone");
        assert!(Arch::Aarch64.no_gcc(&why()).contains("libc6-dev-arm64-cross"));
        assert!(Arch::Aarch64.no_qemu(&why()).contains("qemu-system-arm"));
    }
}
