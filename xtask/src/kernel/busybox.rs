//! Debian's static Busybox for a machine: the one that is installed, or that of another machine from its package, which
//! is not installed.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::arch::Arch;

/// The installed one.
pub(super) const HERE: &str = "/bin/busybox";

/// Gets it with lists of packages of its own, so nothing is changed on this machine.
const FETCH: &str = "set -e; mkdir -p \"$OUT/apt/lists/partial\"; cd \"$OUT/apt\"; \
    apt() { apt-get -q -o APT::Architecture=$MACHINE -o APT::Architectures::=$MACHINE -o Dir::State::Lists=$PWD/lists \
        -o Dir::Cache=$PWD/cache -o Dir::State::Status=/dev/null -o APT::Sandbox::User=root \"$@\" >/dev/null; }; \
    mkdir -p cache/archives/partial; apt update; apt download busybox-static; \
    dpkg-deb -x busybox-static_*.deb x; mv x/bin/busybox ../busybox.part";

/// Where the Busybox for `arch` is, made in `out` where there was none. `None`: there is no such one, or said why not.
pub(super) fn path(arch: Arch, out: &Path) -> Option<PathBuf> {
    if arch == Arch::default() {
        return Some(HERE.into());
    }
    let machine = arch.debian()?;
    let to = out.join(format!("busybox.{}", arch.name()));
    if to.exists() {
        return Some(to);
    }
    eprintln!("xtask: downloading Debian's busybox-static for {machine}");
    let status = Command::new("sh").args(["-c", FETCH]).env("OUT", out).env("MACHINE", machine).status();
    let done = status.is_ok_and(|s| s.success()) && std::fs::rename(out.join("busybox.part"), &to).is_ok();
    let _ = std::fs::remove_dir_all(out.join("apt"));
    if !done {
        eprintln!("xtask: it cannot be had; on {} scripts are left out", arch.name());
    }
    done.then_some(to)
}
