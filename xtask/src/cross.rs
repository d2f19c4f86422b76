//! The core for machines without an operating system: does it compile there?
//!
//! Built, not only checked, and with an example that uses every instruction of
//! `machvm-arch`, so that the assembler sees them. Where rustup has a target's `core` that is used. Else `core` is made
//! once from Debian's sources, with Debian's compiler (it must be the compiler the
//! sources belong to), into `target/libraries-core`. That has no `alloc`, so a crate that
//! wants one does not compile.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::{env, fs};

use crate::run;

const TARGETS: [&str; 3] = ["x86_64-unknown-none", "aarch64-unknown-none", "riscv64gc-unknown-none-elf"];
const CRATES: [&str; 6] =
    ["machvm-hal", "machvm-sync", "machvm-arena", "machvm-arch", "machvm-pmap", "machvm"];

const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CORE: &str = "/usr/lib/rustlib/src/rust/library/core/src/lib.rs";
/// A set of libraries for machines without an operating system.
struct Libraries {
    /// Where they are kept.
    dir: &'static str,
    crates: &'static [&'static str],
}

/// The libraries are made so that a program can be optimised together with them.
const BITCODE: &str = "-Cembed-bitcode=yes";

/// Of crates that cannot allocate: one that wants to does not compile.
const CORE: Libraries = Libraries { dir: "target/libraries-core", crates: &["core", "compiler_builtins"] };
/// Of the kernel.
const ALLOC: Libraries =
    Libraries { dir: "target/libraries-alloc", crates: &["core", "alloc", "compiler_builtins"] };

/// True when all crates compile for all targets.
pub(crate) fn check() -> bool {
    let has =
        rustup_libraries().map(|dir| TARGETS.map(|t| has_core(&dir.join(t).join("lib")))).unwrap_or_default();
    let with = |want: bool| -> Vec<&str> {
        (0..TARGETS.len()).filter(|&i| has[i] == want).map(|i| TARGETS[i]).collect()
    };
    let (installed, missing) = (with(true), with(false));

    if !installed.is_empty() && !build(&installed, &[]) {
        return false;
    }
    if missing.is_empty() {
        return true;
    }
    let Some(root) = debian_compiler(&missing).and_then(|version| sysroot(&CORE, &version, &missing)) else {
        return false;
    };
    build(
        &missing,
        &[("RUSTC", DEBIAN_RUSTC), ("CARGO_ENCODED_RUSTFLAGS", &format!("--sysroot={}", root.display()))],
    )
}

/// What `cargo build` of a program with an allocator needs for `targets`: variables. `None`: said why.
pub(crate) fn program(targets: &[&str]) -> Option<Vec<(String, String)>> {
    let mut flags = vec!["-Crelocation-model=static".to_string()];
    let mut vars = Vec::new();
    let sysroots = rustup_libraries();
    let has = |target: &&str| sysroots.as_ref().is_some_and(|dir| has_core(&dir.join(target).join("lib")));
    if !targets.iter().all(has) {
        let version = debian_compiler(targets)?;
        let root = sysroot(&ALLOC, &version, targets)?;
        flags.push(format!("--sysroot={}", root.display()));
        vars.push(("RUSTC".into(), DEBIAN_RUSTC.into()));
        // Debian's compiler brings no linker for bare machines; rustup's does.
        let lld = sysroots?.join("x86_64-unknown-linux-gnu/bin/rust-lld");
        for target in targets {
            let name = target.to_uppercase().replace('-', "_");
            vars.push((format!("CARGO_TARGET_{name}_LINKER"), lld.display().to_string()));
        }
    }
    vars.push(("CARGO_ENCODED_RUSTFLAGS".into(), flags.join("\x1f")));
    Some(vars)
}

/// The example apart from the libraries: it brings what tests depend on, and so their
/// features.
fn build(targets: &[&str], vars: &[(&str, &str)]) -> bool {
    let mut vars = vars.to_vec();
    vars.push(("CARGO_TARGET_DIR", "target/cross"));
    let targets: Vec<&str> = targets.iter().flat_map(|t| ["--target", t]).collect();
    let libraries: Vec<&str> = CRATES.iter().flat_map(|c| ["-p", c]).collect();
    run("bare machines", &[&["build", "--quiet", "--lib"], &*libraries, &*targets].concat(), &vars)
        && run(
            "their instructions",
            &[&["build", "--quiet", "-p", "machvm-arch", "--example", "native"], &*targets].concat(),
            &vars,
        )
}

/// Where the toolchain that runs this keeps the libraries of its targets.
fn rustup_libraries() -> Option<PathBuf> {
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]))?;
    Some(Path::new(sysroot.trim()).join("lib/rustlib"))
}

fn has_core(lib: &Path) -> bool {
    built(lib, "core").is_some()
}

/// The library of a crate in a directory of libraries whose names end in hashes.
fn built(dir: &Path, name: &str) -> Option<PathBuf> {
    let start = format!("lib{name}-");
    fs::read_dir(dir).ok()?.flatten().map(|e| e.path()).find(|p| {
        p.extension().is_some_and(|e| e == "rlib")
            && p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&start))
    })
}

/// What Debian's compiler says of itself, if it is there with its sources and is not
/// older than the project asks for.
fn debian_compiler(missing: &[&str]) -> Option<String> {
    let version = output(Command::new(DEBIAN_RUSTC).arg("-vV"));
    let wanted = env!("CARGO_PKG_RUST_VERSION");
    let problem = match &version {
        None => format!("there is no {DEBIAN_RUSTC}"),
        Some(v) if release(v) < Some(numbers(wanted)) => format!("{DEBIAN_RUSTC} is older than {wanted}"),
        Some(_) if !Path::new(DEBIAN_CORE).exists() => format!("there is no {DEBIAN_CORE}"),
        Some(_) => return version,
    };
    eprintln!("xtask: no core library for {}", missing.join(", "));
    eprintln!("xtask: with rustup: rustup target add {}", missing.join(" "));
    eprintln!("xtask: on Debian: apt-get install --no-install-recommends rustc-web rust-web-src ({problem})");
    None
}

/// The line `release: 1.96.0` of `rustc -vV`.
fn release(version: &str) -> Option<Vec<u32>> {
    version.lines().find_map(|l| l.strip_prefix("release: ")).map(numbers)
}

fn numbers(dotted: &str) -> Vec<u32> {
    dotted.split(['.', '-']).map_while(|n| n.parse().ok()).collect()
}

/// Makes `core` for `targets`, unless this compiler has done so. Returns the sysroot.
fn sysroot(libraries: &Libraries, version: &str, targets: &[&str]) -> Option<PathBuf> {
    let root = env::current_dir().ok()?.join(libraries.dir);
    let lib = |target: &str| root.join("lib/rustlib").join(target).join("lib");
    let version = &format!("{version}{BITCODE}\n");
    let stamped = |target: &&&str| fs::read_to_string(lib(target).join("stamp")).is_ok_and(|s| s == *version);
    let stale: Vec<&str> = targets.iter().filter(|t| !stamped(t)).copied().collect();
    if stale.is_empty() {
        return Some(root);
    }
    let work = root.join("build");
    if !make_core(libraries, &work, &stale) {
        return None;
    }
    for target in stale {
        let from = work.join("target").join(target).join("release/deps");
        if let Err(e) = install(libraries, &from, &lib(target), version) {
            eprintln!("xtask: cannot fill {}: {e}", lib(target).display());
            return None;
        }
    }
    // Some hundred megabytes that nobody needs any more.
    let _ = fs::remove_dir_all(work);
    Some(root)
}

/// Lets cargo build `core` as the dependency of a package with nothing in it.
fn make_core(libraries: &Libraries, work: &Path, targets: &[&str]) -> bool {
    let manifest = "[package]\nname = \"nothing\"\nedition = \"2024\"\n[lib]\npath = \"lib.rs\"\n[workspace]\n\
                    [profile.release]\npanic = \"abort\"\n";
    let written = fs::remove_dir_all(work)
        .or_else(|e| if e.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(e) })
        .and_then(|()| fs::create_dir_all(work))
        .and_then(|()| fs::write(work.join("Cargo.toml"), manifest))
        .and_then(|()| fs::write(work.join("lib.rs"), "#![no_std]\n"));
    if let Err(e) = written {
        eprintln!("xtask: cannot write {}: {e}", work.display());
        return false;
    }
    let manifest = work.join("Cargo.toml").display().to_string();
    let target_dir = work.join("target").display().to_string();
    let crates = format!("-Zbuild-std={}", libraries.crates.join(","));
    let mut args = vec!["build", "--quiet", "--release", "--manifest-path", &manifest, &crates];
    args.push("-Zbuild-std-features=compiler-builtins-mem");
    args.extend(targets.iter().flat_map(|t| ["--target", t]));
    // The library may use what is unstable; our crates are built without this.
    run(
        "core for bare machines (once, a minute or two)",
        &args,
        &[
            ("RUSTC", DEBIAN_RUSTC),
            ("RUSTC_BOOTSTRAP", "1"),
            ("CARGO_ENCODED_RUSTFLAGS", BITCODE),
            ("CARGO_TARGET_DIR", &target_dir),
        ],
    )
}

/// Copies the libraries, and last the stamp that says they are complete.
fn install(libraries: &Libraries, from: &Path, to: &Path, version: &str) -> std::io::Result<()> {
    if to.exists() {
        fs::remove_dir_all(to)?;
    }
    fs::create_dir_all(to)?;
    for name in libraries.crates {
        let file = built(from, name)
            .ok_or_else(|| std::io::Error::other(format!("no lib{name} in {}", from.display())))?;
        fs::copy(&file, to.join(file.file_name().unwrap_or_default()))?;
    }
    fs::write(to.join("stamp"), version)
}

/// What a command prints, if it succeeds.
fn output(command: &mut Command) -> Option<String> {
    let Output { status, stdout, .. } = command.output().ok()?;
    status.success().then(|| String::from_utf8_lossy(&stdout).into_owned())
}
