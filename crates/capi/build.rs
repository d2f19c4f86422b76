//! Gives the shared library the name under which programs look for it, and lists the C
//! programs below `tests/c`, each a test of `tests/c.rs`.

use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=tests/c");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libmachvm.so.0");

    let mut names: Vec<String> = fs::read_dir("tests/c")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| Some(e.file_name().to_str()?.strip_suffix(".c")?.to_owned()))
        .collect();
    names.sort();
    let mut text = String::new();
    for name in &names {
        let _ = writeln!(text, "#[test]\nfn {name}() {{\n    run({name:?});\n}}");
    }
    let _ = writeln!(text, "/// The programs that are tests.\nconst PROGRAMS: &[&str] = &{names:?};");
    let out = env::var_os("OUT_DIR").unwrap_or_default();
    if let Err(e) = fs::write(Path::new(&out).join("programs.rs"), text) {
        panic!("cannot write the list of C tests: {e}");
    }
}
