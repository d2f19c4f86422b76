//! The proof that the core allocates nothing.
//!
//! The crates are built for a target without an operating system, where there is no
//! allocator to find: a `no_std` crate without `extern crate alloc` that compiles and
//! whose object code names no allocator symbol cannot allocate.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const CRATES: [&str; 6] =
    ["machvm-hal", "machvm-sync", "machvm-arena", "machvm-arch", "machvm-pmap", "machvm"];
/// What a Rust program calls to allocate, and C's own.
const ALLOCATORS: [&str; 5] = ["__rust_alloc", "__rust_realloc", "__rg_alloc", "malloc", "exchange_malloc"];

/// True when no crate names an allocator.
pub(crate) fn check() -> bool {
    println!("== no allocator in {}", CRATES.join(", "));
    let dir = PathBuf::from("target/no-alloc");
    let mut ok = true;
    // Without the tests' features: `std` is for machines that have one.
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--release", "--lib"])
        .args(CRATES.iter().flat_map(|c| ["-p", c]))
        .env("CARGO_TARGET_DIR", &dir)
        .env("CARGO_PROFILE_RELEASE_LTO", "false")
        .env("RUSTFLAGS", "-C codegen-units=1")
        .status();
    if !built.is_ok_and(|s| s.success()) {
        eprintln!("xtask: the core does not build on its own");
        return false;
    }
    for name in CRATES {
        let file = dir.join("release").join(format!("lib{}.rlib", name.replace('-', "_")));
        ok &= names_no_allocator(name, &file);
    }
    ok &= sources_have_no_alloc();
    ok
}

fn names_no_allocator(name: &str, file: &Path) -> bool {
    let bytes = match std::fs::read(file) {
        Ok(b) => b,
        Err(e) => {
            eprintln!("xtask: cannot read {}: {e}", file.display());
            return false;
        }
    };
    let found: Vec<&str> = ALLOCATORS.into_iter().filter(|a| contains(&bytes, a.as_bytes())).collect();
    if !found.is_empty() {
        eprintln!("xtask: {name} names {}", found.join(", "));
    }
    found.is_empty()
}

fn contains(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|w| w == what)
}

/// Generic code is compiled where it is used, so an rlib shows only part of it: a
/// crate that never names `alloc` cannot use it in the rest.
fn sources_have_no_alloc() -> bool {
    let root = env::current_dir().unwrap_or_default();
    let mut ok = true;
    for dir in ["crates/hal", "crates/sync", "crates/arena", "crates/arch", "crates/pmap", "crates/core"] {
        let lib = root.join(dir).join("src/lib.rs");
        let text = std::fs::read_to_string(&lib).unwrap_or_default();
        if !text.contains("#![no_std]") {
            eprintln!("xtask: {} is not no_std", lib.display());
            ok = false;
        }
        if text.contains("extern crate alloc") {
            eprintln!("xtask: {} brings in alloc", lib.display());
            ok = false;
        }
    }
    ok
}
