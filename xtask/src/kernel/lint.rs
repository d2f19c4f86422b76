//! `kernel-lint`: Clippy on the kernel as each machine has it.
//!
//! Where the machine's libraries are made with Debian's compiler (`cross.rs`) its Clippy is needed too: another compiler's
//! cannot read them. It is called as `cargo clippy` would call it.

use std::path::Path;

use super::arch::{ALL, Arch};
use crate::{cross, run};

const DEBIAN_CLIPPY: &str = "/usr/bin/clippy-driver";
/// As `cargo clippy -- -D warnings` hands its arguments on.
const ARGUMENTS: &str = "-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__";

fn is_clean(arch: Arch) -> bool {
    let target = arch.target();
    let Some(vars) = cross::program(&[target]) else { return false };
    let of_debian = vars.iter().any(|(k, _)| k == "RUSTC");
    if of_debian && !Path::new(DEBIAN_CLIPPY).exists() {
        eprintln!(
            "xtask: there is no {DEBIAN_CLIPPY}; on Debian: apt-get install --no-install-recommends rust-web-clippy"
        );
        return false;
    }
    let mut vars: Vec<(&str, &str)> = vars.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    vars.push(("CARGO_TARGET_DIR", "target/kernel-lint"));
    let of = ["--quiet", "--manifest-path", "kernel/Cargo.toml", "--target", target];
    let what = format!("the kernel's lints, {}", arch.name());
    if of_debian {
        vars.extend([("RUSTC_WORKSPACE_WRAPPER", DEBIAN_CLIPPY), ("CLIPPY_ARGS", ARGUMENTS)]);
        run(&what, &[&["check"], &of[..]].concat(), &vars)
    } else {
        run(&what, &[&["clippy"], &of[..], &["--", "-D", "warnings"]].concat(), &vars)
    }
}

/// True when Clippy finds nothing on these machines; without any, on all.
pub(crate) fn lint(names: &[String]) -> bool {
    let named: Result<Vec<Arch>, String> = names.iter().map(|n| Arch::parse(n)).collect();
    match named {
        Err(why) => {
            eprintln!("xtask: kernel-lint: {why}");
            false
        }
        Ok(named) => {
            ALL.iter().filter(|f| named.is_empty() || named.contains(&f.arch)).all(|f| is_clean(f.arch))
        }
    }
}
