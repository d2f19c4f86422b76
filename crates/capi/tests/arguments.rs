//! Every entry point, one argument wrong at a time, and the codes on record.
//!
//! `golden.rs` has addresses times sizes of the calls on ranges; here is every function, with
//! each of its arguments replaced in turn by numbers of every kind. Each call is made in
//! a fresh task of one layout, so that its result depends on nothing else. A call that
//! fails changes nothing: neither the task nor the caller's variables.
//!
//! The files are in `tests/golden/arguments/`: `xnu.txt` whole, of other personalities the
//! lines that differ. `MACHVM_BLESS=1 cargo test -p machvm-capi --test arguments` writes
//! them again; what changed is then read as a diff.

#[path = "arguments/calls.rs"]
mod calls;
#[path = "arguments/scene.rs"]
mod scene;

use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

use calls::{CALLS, Call, EXEMPT, Kind};
use scene::Scene;

/// The good call's arguments with some of them replaced: index and value.
type Replaced = Vec<(usize, (String, u64))>;

fn variants(call: &Call) -> Vec<Replaced> {
    let kinds: Vec<Kind> = call.args.iter().map(|(_, k, _)| *k).collect();
    let values = |i: usize| scene::values(kinds[i]).into_iter().map(move |v| (i, v));
    let mut all = vec![vec![]];
    for i in 0..kinds.len() {
        all.extend(values(i).map(|v| vec![v]));
    }
    all
}

fn line(call: &Call, replaced: &Replaced) -> String {
    let mut scene = Scene::new();
    let mut args = [0u64; 11];
    for (slot, (i, (_, kind, good))) in args.iter_mut().zip(call.args.iter().enumerate()) {
        let value = replaced.iter().find(|r| r.0 == i).map_or(*good, |r| r.1.1);
        *slot = scene.argument(*kind, value, i);
    }
    let before = scene.digest();
    let code = scene::call(call.function, &args);
    let after = scene.digest();
    let what: Vec<String> =
        replaced.iter().map(|(i, (name, _))| format!("{}={name}", call.args[*i].0)).collect();
    let mut text = format!("{}({}) = {code:#x}", call.name, what.join(", "));
    if code == 0 {
        if let Some(i) = call.args.iter().position(|a| a.1 == Kind::Place) {
            write!(text, " at {:#x}", scene.variable(i)).unwrap();
        }
    } else if before.0 != after.0 {
        write!(text, ", and the task changed").unwrap();
    } else if before.1 != after.1 && !call.name.ends_with("read_list") {
        // (A list says for each of its parts what became of it: U18.)
        write!(text, ", and something was written").unwrap();
    }
    text
}

const MARK: &str = "argument: ";

#[test]
#[ignore = "needs an environment: run by codes_are_as_recorded"]
fn say_everything() {
    for call in CALLS {
        variants(call).iter().for_each(|v| println!("{MARK}{}", line(call, v)));
    }
}

/// What a process of that personality says.
fn of(personality: &str) -> Vec<String> {
    let mut c = Command::new(std::env::current_exe().unwrap());
    c.args(["--exact", "say_everything", "--ignored", "--nocapture", "--test-threads=1"]);
    let out = c.env("MACHVM_PERSONALITY", personality).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    let lines: Vec<String> = text.lines().filter_map(|l| Some(l.split_once(MARK)?.1.into())).collect();
    assert!(out.status.success(), "{personality}: {text}{}", String::from_utf8_lossy(&out.stderr));
    lines
}

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/arguments")
}

/// The first lines that differ, as a difference shows them.
fn difference(old: &[&str], new: &[&str]) -> String {
    let (was, is): (Vec<&str>, Vec<&str>) = (
        old.iter().filter(|l| !new.contains(l)).copied().collect(),
        new.iter().filter(|l| !old.contains(l)).copied().collect(),
    );
    let mut text = String::new();
    was.iter().take(30).for_each(|l| writeln!(text, "-{l}").unwrap());
    is.iter().take(30).for_each(|l| writeln!(text, "+{l}").unwrap());
    writeln!(text, "({} lines gone, {} new)", was.len(), is.len()).unwrap();
    text
}

#[test]
fn codes_are_as_recorded() {
    let xnu = of("xnu");
    let changed: Vec<&String> = xnu.iter().filter(|l| l.contains(", and ")).collect();
    assert!(changed.is_empty(), "calls that failed changed something: {changed:#?}");
    let mut files = vec![("xnu.txt".to_string(), xnu.clone())];
    let known: HashSet<&str> = xnu.iter().map(String::as_str).collect();
    for how in ["mach3", "freebsd", "uvm", "posix"] {
        let differ = of(how).into_iter().filter(|l| !known.contains(l.as_str()));
        files.push((format!("{how}.txt"), differ.collect()));
    }
    let write = std::env::var_os("MACHVM_BLESS").is_some();
    let mut changed = String::new();
    for (name, lines) in &files {
        let path = directory().join(name);
        let recorded = std::fs::read_to_string(&path).unwrap_or_default();
        let (old, new): (Vec<&str>, Vec<&str>) =
            (recorded.lines().collect(), lines.iter().map(String::as_str).collect());
        if old == new {
            continue;
        }
        if write {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, lines.join("\n") + "\n").unwrap();
        } else {
            write!(changed, "{name}:\n{}", difference(&old, &new)).unwrap();
        }
    }
    assert!(changed.is_empty(), "codes changed; MACHVM_BLESS=1 records them\n{changed}");
}

#[test]
fn every_entry_point_is_listed() {
    let mut missing = Vec::new();
    let mut directories = vec![PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(d) = directories.pop() {
        for path in std::fs::read_dir(d).unwrap().map(|e| e.unwrap().path()) {
            if path.is_dir() {
                // Linux's own calls, taken over: tests/c/syscalls_*.c.
                if !path.ends_with("src/wrap") {
                    directories.push(path);
                }
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            for part in text.split("unsafe(no_mangle)]").skip(1) {
                let head = part.split('{').next().unwrap_or_default();
                let Some((_, name)) = head.split_once(" fn ") else { continue };
                let name = name.split('(').next().unwrap_or_default().to_string();
                let listed = CALLS.iter().any(|c| c.name == name) || EXEMPT.iter().any(|(e, _)| *e == name);
                if !listed && !name.starts_with('$') {
                    missing.push(name);
                }
            }
        }
    }
    assert!(missing.is_empty(), "not in CALLS or EXEMPT: {missing:?}");
}
