//! Codes on record: every call with numbers of every kind, in every personality, compared
//! with `tests/golden/*.txt`. A change of a code is a line that differs there.
//!
//! ```text
//!   copy from ro+5        0 0 0 0 2 1 1 1 1 1 1      one code for each of SIZES
//!   wire busy             0 0w 0w ...                w: it slept until the page was free
//! ```
//! After a change that is meant, `MACHVM_BLESS=1 cargo test -p machvm-capi --test golden`
//! writes the files anew; what changed is then read as a diff.

#[path = "golden/calls.rs"]
mod calls;
#[path = "golden/record.rs"]
mod record;
#[path = "golden/scene.rs"]
mod scene;

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

#[test]
#[ignore = "needs an environment: run by codes_are_those_on_record"]
fn write_codes() {
    let out = std::env::var("MACHVM_GOLDEN").expect("run by codes_are_those_on_record");
    std::fs::write(out, calls::everything()).unwrap();
}

#[test]
fn codes_are_those_on_record() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut wrong = String::new();
    // All at once: they wait for Linux more than they work.
    let runs = ["xnu", "mach3", "freebsd", "uvm", "posix"].map(|who| {
        let out = std::env::temp_dir().join(format!("machvm-golden-{who}-{}", std::process::id()));
        let run = Command::new(std::env::current_exe().unwrap())
            .args(["write_codes", "--exact", "--ignored"])
            .env("MACHVM_PERSONALITY", who)
            .env("MACHVM_GOLDEN", &out)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        (who, out, run)
    });
    for (who, out, run) in runs {
        let run = run.wait_with_output().unwrap();
        assert!(run.status.success(), "{who}: {}", String::from_utf8_lossy(&run.stdout));
        let got = std::fs::read_to_string(&out).unwrap();
        std::fs::remove_file(&out).unwrap();
        let path = dir.join(format!("{who}.txt"));
        if std::env::var_os("MACHVM_BLESS").is_some() {
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(&path, got).unwrap();
            continue;
        }
        let want = std::fs::read_to_string(&path).unwrap_or_default();
        for (got, want) in got.lines().zip(want.lines().chain(std::iter::repeat(""))).filter(|(a, b)| a != b)
        {
            writeln!(wrong, "{who}\n  was: {want}\n  is:  {got}").unwrap();
        }
        assert!(got.lines().count() >= want.lines().count(), "{who}: lines are missing");
    }
    assert!(wrong.is_empty(), "{wrong}\nIf that is meant: MACHVM_BLESS=1, and read the diff");
}
