//! What `cargo xtask install` installs: complete, and good for pkg-config, CMake and man.

mod stage;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs a command; what it printed. Fails the test when the command fails.
fn run(command: &mut Command) -> String {
    let out = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(
        out.status.success(),
        "{command:?}: {}\n{said}{}",
        out.status,
        String::from_utf8_lossy(&out.stderr)
    );
    said
}

/// Is this command there? A test of what others make of the installation is not worth
/// much without them, and says so.
fn have(command: &str) -> bool {
    let there = Command::new(command).arg("--version").output().is_ok();
    if !there {
        eprintln!("{command} is not installed: this part was not tested");
    }
    there
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for path in fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()) {
        if path.is_dir() {
            out.append(&mut files(&path));
        } else {
            out.push(path);
        }
    }
    out.sort();
    out
}

/// The functions and variables that the headers declare.
fn declared() -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    for header in files(&stage::prefix().join("include")) {
        let text = fs::read_to_string(header).unwrap();
        for declaration in text.split("\nextern ").skip(1).filter(|d| !d.starts_with("\"C\"")) {
            let declaration = declaration.split(['(', ';']).next().unwrap_or("");
            let name = declaration.rsplit([' ', '*']).next().unwrap_or("");
            out.insert(name.to_string());
        }
    }
    assert!(out.contains("mach_vm_copy") && out.contains("vm_page_size") && out.len() > 80, "{out:?}");
    out
}

/// The symbols that a shared library defines, without their versions.
fn defined_by(lib: &Path) -> BTreeSet<String> {
    run(Command::new("nm").args(["-D", "--defined-only"]).arg(lib))
        .lines()
        .filter_map(|l| l.split_whitespace().nth(2)?.split('@').next().map(String::from))
        .collect()
}

fn exported() -> BTreeSet<String> {
    defined_by(&stage::prefix().join("lib/libmachvm.so"))
}

#[test]
fn what_the_headers_declare_is_in_the_library() {
    let missing: Vec<String> = declared().difference(&exported()).cloned().collect();
    assert!(missing.is_empty(), "declared, not defined: {missing:?}");
}

/// And nothing is in the library that no header declares, except libc's functions that it
/// stands before.
#[test]
fn what_is_in_the_library_is_declared() {
    let libc = run(Command::new("gcc").arg("-print-file-name=libc.so.6"));
    let libc = defined_by(Path::new(libc.trim()));
    let more: Vec<String> =
        exported().difference(&declared()).filter(|n| !libc.contains(*n)).cloned().collect();
    assert!(more.is_empty(), "defined, not declared: {more:?}");
}

/// Each declared name has a page under its own name.
#[test]
fn every_call_has_a_manual_page() {
    let man = stage::prefix().join("share/man");
    let pages: BTreeSet<String> =
        files(&man).iter().filter_map(|p| p.file_stem().map(|n| n.to_string_lossy().into_owned())).collect();
    let names =
        declared().into_iter().map(|n| if n == "mach_task_self_" { "mach_task_self".into() } else { n });
    let missing: Vec<String> = names.filter(|n| !pages.contains(n)).collect();
    assert!(missing.is_empty(), "without a page: {missing:?}");
    for page in files(&man) {
        let text = fs::read_to_string(&page).unwrap();
        if let Some(other) = text.strip_prefix(".so ") {
            assert!(man.join(other.trim()).is_file(), "{}: {text}", page.display());
        }
    }
}

#[test]
fn manual_pages_are_well_formed() {
    if !have("mandoc") {
        return;
    }
    let pages = files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("man"));
    let out = Command::new("mandoc").args(["-T", "lint", "-W", "warning"]).args(&pages).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        let has = |s: &str| text.contains(&format!("\n.Sh {s}\n"));
        assert!(has("NAME") && has("DESCRIPTION") && has("SEE ALSO"), "{}", page.display());
        if !page.ends_with("machvm.7") {
            assert!(has("SYNOPSIS") && has("LIBRARY") && has("HISTORY"), "{}", page.display());
        }
        assert!(page.extension().is_none_or(|e| e != "2") || has("RETURN VALUES"), "{}", page.display());
    }
}

/// What pkg-config says is enough, for a program elsewhere.
#[test]
fn the_example_for_cc() {
    if !have("pkg-config") || !have("make") {
        return;
    }
    let dir = copy_of("cc");
    let pkg = stage::prefix().join("lib/pkgconfig");
    run(Command::new("make").arg("-C").arg(&dir).env("PKG_CONFIG_PATH", &pkg));
    let said = run(&mut Command::new(dir.join("snapshot")));
    assert!(said.contains("entries are as they were"), "{said}");
    let version =
        run(Command::new("pkg-config").args(["--modversion", "machvm"]).env("PKG_CONFIG_PATH", pkg));
    assert_eq!(version.trim(), env!("CARGO_PKG_VERSION"));
}

#[test]
fn the_example_for_cmake() {
    if !have("cmake") {
        return;
    }
    let dir = copy_of("cmake");
    let build = dir.join("build");
    let prefix = format!("-DCMAKE_PREFIX_PATH={}", stage::prefix().display());
    run(Command::new("cmake").arg("-S").arg(&dir).arg("-B").arg(&build).arg(prefix));
    run(Command::new("cmake").arg("--build").arg(&build));
    for program in ["shared", "shared-static"] {
        let said = run(&mut Command::new(build.join(program)));
        let want =
            "the program reads \"second\"\nthe other task reads \"second\"\nthe child reads \"first\"\n";
        assert_eq!(said, want, "{program}");
    }
}

/// An example, where it may be built.
fn copy_of(name: &str) -> PathBuf {
    let to = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("example-{name}"));
    let _ = fs::remove_dir_all(&to);
    fs::create_dir_all(&to).unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name);
    for file in files(&from) {
        fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
    }
    to
}

/// The headers stand alone, one by one, in strict C and in C++.
#[test]
fn headers_compile_alone_in_c_and_cxx() {
    let include = stage::prefix().join("include");
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("alone");
    fs::create_dir_all(&dir).unwrap();
    let mut text = BTreeMap::new();
    for header in files(&include) {
        let name = header.strip_prefix(&include).unwrap().display().to_string();
        text.insert(name.replace('/', "_"), format!("#include <{name}>\nint unused;\n"));
    }
    let mut compilers = vec![("gcc", "c", "-std=c99")];
    if have("g++") {
        compilers.push(("g++", "cc", "-std=c++11"));
    }
    for (compiler, suffix, standard) in compilers {
        let sources: Vec<PathBuf> = text
            .iter()
            .map(|(name, text)| {
                let path = dir.join(format!("{name}.{suffix}"));
                fs::write(&path, text).unwrap();
                path
            })
            .collect();
        run(Command::new(compiler)
            .args([standard, "-Wall", "-Wextra", "-pedantic", "-Werror", "-fsyntax-only", "-I"])
            .arg(&include)
            .args(sources));
    }
}

/// A prefix that cannot be written is refused before anything is built, with advice.
#[test]
fn a_prefix_that_cannot_be_written_is_refused() {
    let out = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--package", "xtask", "--", "install", "--dev", "--prefix", "/proc/none"])
        .env("CARGO_TARGET_DIR", stage::target())
        .current_dir(stage::root())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && said.contains("/proc/none") && said.contains("--prefix"), "{said}");
}
