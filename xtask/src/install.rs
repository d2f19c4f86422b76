//! `cargo xtask install`: the C library where compilers, pkg-config, CMake and man look for it.
//!
//! ```text
//!   PREFIX/lib/libmachvm.so.0, libmachvm.so, libmachvm.a
//!   PREFIX/lib/pkgconfig/machvm.pc
//!   PREFIX/lib/cmake/machvm/machvm-config.cmake, machvm-config-version.cmake
//!   PREFIX/include/mach/...
//!   PREFIX/share/man/man2/..., man3/...
//! ```
//! What is installed can be moved: nothing in it names the prefix. A manual page is
//! installed under every name in its NAME section.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::run;

/// Sources, relative to the root of the workspace.
const INCLUDE: &str = "crates/capi/include";
const MAN: &str = "crates/capi/man";
const TEMPLATES: &str = "crates/capi/dist";

/// The version of the interface of the shared library.
const SONAME: &str = "libmachvm.so.0";

/// What a program that links with the archive needs besides (`rustc --print
/// native-static-libs`).
const PRIVATE: &str = "-lgcc_s -lutil -lrt -lpthread -lm -ldl -lc";

const USAGE: &str = "usage: cargo xtask install [--prefix DIR] [--dev]
  --prefix DIR  below which directory (/usr/local)
  --dev         the library with its checks, for tests";

struct Options {
    prefix: PathBuf,
    dev: bool,
}

impl Options {
    fn parse(args: &[String]) -> Result<Self, String> {
        let mut out = Options { prefix: "/usr/local".into(), dev: false };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--dev" => out.dev = true,
                "--prefix" => out.prefix = args.next().ok_or("--prefix: which directory?")?.into(),
                _ => match arg.strip_prefix("--prefix=") {
                    Some(dir) => out.prefix = dir.into(),
                    None => return Err(format!("{arg}: no such option")),
                },
            }
        }
        if out.prefix.as_os_str().is_empty() {
            return Err("--prefix: which directory?".into());
        }
        Ok(out)
    }
}

/// Builds and installs. False when something went wrong, which was said.
pub(crate) fn run_with(args: &[String]) -> bool {
    let options = match Options::parse(args) {
        Ok(o) => o,
        Err(e) => {
            eprintln!("xtask: {e}\n{USAGE}");
            return false;
        }
    };
    // Before the build: a wrong prefix should not cost minutes.
    let done = writable(&options.prefix).and_then(|()| {
        let mut build = vec!["build", "--quiet", "--package", "machvm-capi", "--lib"];
        if !options.dev {
            build.push("--release");
        }
        if run("the C library", &build, &[]) { install(&options) } else { Err(String::new()) }
    });
    match done {
        Ok(()) => {
            println!("installed in {}", options.prefix.display());
            true
        }
        Err(why) => {
            if !why.is_empty() {
                eprintln!("xtask: {why}");
            }
            false
        }
    }
}

/// Can files be made below `prefix`?
fn writable(prefix: &Path) -> Result<(), String> {
    let try_it = || -> io::Result<()> {
        let lib = prefix.join("lib");
        fs::create_dir_all(&lib)?;
        let probe = lib.join(format!(".machvm-{}", std::process::id()));
        fs::write(&probe, "")?;
        fs::remove_file(&probe)
    };
    try_it().map_err(|e| {
        format!(
            "cannot install below {}: {e}\n       choose another directory with --prefix, as --prefix $HOME/.local, \
             or run this as a user who may write there",
            prefix.display()
        )
    })
}

fn install(options: &Options) -> Result<(), String> {
    let prefix = &options.prefix;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    let built = target.join(if options.dev { "debug" } else { "release" });
    let lib = prefix.join("lib");
    replace(&built.join("libmachvm_capi.so"), &lib.join(SONAME))?;
    replace(&built.join("libmachvm_capi.a"), &lib.join("libmachvm.a"))?;
    link(SONAME, &lib.join("libmachvm.so"))?;
    for file in files(Path::new(INCLUDE))? {
        let to = prefix.join("include").join(file.strip_prefix(INCLUDE).unwrap_or(&file));
        replace(&file, &to)?;
    }
    let templates = [
        ("machvm.pc", "lib/pkgconfig"),
        ("machvm-config.cmake", "lib/cmake/machvm"),
        ("machvm-config-version.cmake", "lib/cmake/machvm"),
    ];
    for (name, dir) in templates {
        let from = Path::new(TEMPLATES).join(format!("{name}.in"));
        let text = fs::read_to_string(&from).map_err(|e| told(&from, &e))?;
        let text = text.replace("@VERSION@", env!("CARGO_PKG_VERSION")).replace("@PRIVATE@", PRIVATE);
        write(&prefix.join(dir).join(name), &text)?;
    }
    pages(prefix)
}

/// Installs the manual pages: each under its own name, and for each further name a file
/// that says where the page is.
fn pages(prefix: &Path) -> Result<(), String> {
    for file in files(Path::new(MAN))? {
        let (Some(name), Some(dir)) =
            (file.file_name().and_then(|n| n.to_str()), file.parent().and_then(Path::file_name))
        else {
            continue;
        };
        let dir = dir.to_string_lossy();
        let to = prefix.join("share/man").join(&*dir);
        replace(&file, &to.join(name))?;
        let text = fs::read_to_string(&file).map_err(|e| told(&file, &e))?;
        let section = name.rsplit('.').next().unwrap_or("3");
        for other in names(&text) {
            let alias = format!("{other}.{section}");
            if alias != name {
                write(&to.join(alias), &format!(".so {dir}/{name}\n"))?;
            }
        }
    }
    Ok(())
}

/// The names in a page's NAME section: its `.Nm` lines before `.Nd`.
fn names(page: &str) -> Vec<&str> {
    page.lines()
        .skip_while(|l| *l != ".Sh NAME")
        .take_while(|l| !l.starts_with(".Nd"))
        .filter_map(|l| l.strip_prefix(".Nm ")?.split_whitespace().next())
        .collect()
}

/// All files below `dir`, sorted.
fn files(dir: &Path) -> Result<Vec<PathBuf>, String> {
    let mut list = Vec::new();
    for entry in fs::read_dir(dir).map_err(|e| told(dir, &e))? {
        let path = entry.map_err(|e| told(dir, &e))?.path();
        if path.is_dir() {
            list.append(&mut files(&path)?);
        } else {
            list.push(path);
        }
    }
    list.sort();
    Ok(list)
}

fn told(path: &Path, e: &io::Error) -> String {
    format!("{}: {e}", path.display())
}

/// Copies to a new file that takes the place of the old: a program that runs with the old
/// library keeps it.
fn replace(from: &Path, to: &Path) -> Result<(), String> {
    let text = fs::read(from).map_err(|e| told(from, &e))?;
    put(to, |at| fs::write(at, &text))
}

fn write(to: &Path, text: &str) -> Result<(), String> {
    put(to, |at| fs::write(at, text))
}

fn link(what: &str, to: &Path) -> Result<(), String> {
    put(to, |at| symlink(what, at))
}

fn put(to: &Path, make: impl Fn(&Path) -> io::Result<()>) -> Result<(), String> {
    let dir = to.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir).map_err(|e| told(dir, &e))?;
    let next = dir.join(format!(".machvm-{}", std::process::id()));
    make(&next).and_then(|()| fs::rename(&next, to)).map_err(|e| told(to, &e))
}

#[cfg(test)]
mod tests {
    use super::{Options, names};

    #[test]
    fn names_of_a_page() {
        let page = ".Dt VM_READ 2\n.Sh NAME\n.Nm vm_read ,\n.Nm vm_write\n.Nd move bytes\n.Nm not_this\n";
        assert_eq!(names(page), ["vm_read", "vm_write"]);
    }

    #[test]
    fn options() {
        let parse = |args: &[&str]| Options::parse(&args.iter().map(|a| a.to_string()).collect::<Vec<_>>());
        let o = parse(&["--prefix", "/p", "--dev"]).unwrap();
        assert!(o.dev && o.prefix.as_os_str() == "/p");
        assert_eq!(parse(&["--prefix=/q"]).unwrap().prefix.as_os_str(), "/q");
        assert!(parse(&["--prefix"]).is_err() && parse(&["--prefix="]).is_err() && parse(&["x"]).is_err());
    }
}
