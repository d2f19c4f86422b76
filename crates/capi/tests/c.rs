//! The C programs of `tests/c`, each compiled by gcc against the installed headers and
//! library, and run. A program that ends with status 0 has passed; what it prints is shown
//! when it fails.
//!
//! A program's first lines may hold directives:
//!
//! ```text
//! // run: MACHVM_PERSONALITY=mach3     runs it with this environment (each line one run)
//! // timeout: 120                      seconds (60)
//! // cc: -DX -lm                       further arguments of the compiler
//! // link: static                      with the archive
//! ```

mod stage;

use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

include!(concat!(env!("OUT_DIR"), "/programs.rs"));

/// Every program here is a test: the list is made when the package is built.
#[test]
fn every_program_is_a_test() {
    let mut there: Vec<String> = fs::read_dir(sources())
        .unwrap()
        .filter_map(|e| Some(e.unwrap().file_name().to_str()?.strip_suffix(".c")?.to_owned()))
        .collect();
    there.sort();
    assert_eq!(there, PROGRAMS);
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c")
}

/// What a program's first lines ask for.
struct Wants {
    runs: Vec<Vec<(String, String)>>,
    timeout: Duration,
    cc: Vec<String>,
    archive: bool,
}

fn wants(source: &str) -> Wants {
    let mut out = Wants { runs: vec![], timeout: Duration::from_secs(60), cc: vec![], archive: false };
    for line in source.lines().map_while(|l| l.strip_prefix("// ")) {
        let Some((what, value)) = line.split_once(": ") else { continue };
        let mut words = value.split_whitespace();
        match what {
            "run" => out
                .runs
                .push(words.filter_map(|w| w.split_once('=').map(|(k, v)| (k.into(), v.into()))).collect()),
            "timeout" => out.timeout = Duration::from_secs(value.trim().parse().expect("seconds")),
            "cc" => out.cc.extend(words.map(String::from)),
            "link" => out.archive = words.next() == Some("static"),
            _ => {}
        }
    }
    if out.runs.is_empty() {
        out.runs.push(vec![]);
    }
    out
}

fn run(name: &str) {
    let source = sources().join(format!("{name}.c"));
    let wants = wants(&fs::read_to_string(&source).unwrap());
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("c");
    fs::create_dir_all(&dir).unwrap();
    let program = dir.join(name);
    compile(&source, &program, &wants);
    for env in &wants.runs {
        let log = dir.join(format!("{name}.log"));
        let status = run_for(&program, env, wants.timeout, &log);
        let said = String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned();
        match status {
            Some(s) if s.success() => {}
            Some(s) => panic!("{name} {env:?}: {s} (signal {:?})\n{said}", s.signal()),
            None => panic!("{name} {env:?}: still running after {:?}\n{said}", wants.timeout),
        }
    }
}

fn compile(source: &Path, program: &Path, wants: &Wants) {
    let prefix = stage::prefix();
    let lib = prefix.join("lib");
    let mut gcc = Command::new("gcc");
    gcc.args(["-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-pthread"])
        .arg("-I")
        .arg(prefix.join("include"))
        .arg(source)
        .arg("-o")
        .arg(program);
    if wants.archive {
        gcc.arg(lib.join("libmachvm.a")).args(["-lgcc_s", "-lutil", "-lrt", "-lpthread", "-lm", "-ldl"]);
    } else {
        gcc.arg("-L").arg(&lib).arg("-lmachvm").arg(format!("-Wl,-rpath,{}", lib.display()));
    }
    let done = gcc.args(&wants.cc).output().expect("gcc runs");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{}:\n{said}", source.display());
}

/// The program's end, or `None` when it had to be ended.
fn run_for(program: &Path, env: &[(String, String)], time: Duration, log: &Path) -> Option<ExitStatus> {
    let out = File::create(log).unwrap();
    let mut child = Command::new(program)
        .envs(env.iter().map(|(k, v)| (k, v)))
        .stdin(Stdio::null())
        .stdout(out.try_clone().unwrap())
        .stderr(out)
        .process_group(0) // so that its children end with it
        .spawn()
        .unwrap();
    let end = Instant::now() + time;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if Instant::now() > end {
            let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", child.id())]).status();
            let _ = child.wait();
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
