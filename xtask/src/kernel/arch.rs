//! The machines that the kernel runs on.

use std::process::Command;

/// One of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Arch {
    #[default]
    X86_64,
    /// One hart, no disks.
    Riscv64,
}

impl Arch {
    /// By its name.
    pub(super) fn parse(name: &str) -> Result<Self, String> {
        match name {
            "x86_64" => Ok(Arch::X86_64),
            "riscv64" => Ok(Arch::Riscv64),
            _ => Err(format!("{name:?}: the kernel runs on x86_64 and riscv64")),
        }
    }
    /// As uname(2) calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Arch::X86_64 => "x86_64",
            Arch::Riscv64 => "riscv64",
        }
    }
    /// Rust's.
    pub(super) fn target(self) -> &'static str {
        match self {
            Arch::X86_64 => "x86_64-unknown-none",
            Arch::Riscv64 => "riscv64gc-unknown-none-elf",
        }
    }
    pub(super) fn qemu(self) -> &'static str {
        match self {
            Arch::X86_64 => super::QEMU,
            Arch::Riscv64 => "qemu-system-riscv64",
        }
    }
    /// What to say where QEMU cannot be started.
    pub(super) fn no_qemu(self, why: &std::io::Error) -> String {
        let package = match self {
            Arch::X86_64 => "qemu-system-x86",
            Arch::Riscv64 => "qemu-system-misc",
        };
        format!("cannot start {}: {why}; on Debian: apt-get install {package}", self.qemu())
    }
    /// Compilers of C for it.
    pub(super) fn gcc(self) -> Command {
        Command::new(match self {
            Arch::X86_64 => "gcc",
            Arch::Riscv64 => "riscv64-linux-gnu-gcc",
        })
    }
    /// What to say where there is none.
    pub(super) fn no_gcc(self, why: &std::io::Error) -> String {
        match self {
            Arch::X86_64 => format!("gcc: {why}; on Debian: apt-get install gcc libc6-dev"),
            Arch::Riscv64 => format!(
                "riscv64-linux-gnu-gcc: {why}; on Debian: apt-get install gcc-riscv64-linux-gnu \
                 libc6-dev-riscv64-cross"
            ),
        }
    }
    /// The machine, its CPU, and how its programs end it.
    pub(super) fn machine(self) -> &'static [&'static str] {
        match self {
            Arch::X86_64 => &[
                "-M",
                "q35,hpet=off",
                "-cpu",
                "max,-erms,-fsrm",
                "-device",
                "isa-debug-exit,iobase=0xf4,iosize=0x04",
            ],
            Arch::Riscv64 => &["-M", "virt", "-cpu", "rv64,svpbmt=on", "-bios", "default"],
        }
    }
    /// Several CPUs, disks.
    pub(super) fn has_devices(self) -> bool {
        self == Arch::X86_64
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
        assert_eq!(Arch::parse("riscv64"), Ok(Arch::Riscv64));
        assert!(Arch::parse("vax").is_err_and(|e| e.contains("riscv64")));
    }
}
