//! Files that shrink and grow under the mappings of a program (G13): what it sees under machvm is
//! what it sees natively. mmap(2), ftruncate(2), msync(2).

mod common;

use common::{Job, Outcome, build, scratch};

/// The same natively and under machvm, in little memory.
fn both(what: &str) -> [Outcome; 2] {
    let program = build("files.c", &format!("files-{what}"), &[]);
    let job = |dir: &str| {
        let dir = scratch(dir);
        Job::new(&[program.to_str().expect("UTF-8"), dir.to_str().expect("UTF-8"), what])
    };
    let native = job(&format!("files-{what}-native")).native();
    let ours = job(&format!("files-{what}-ours")).under(&["--memory", "1M"]);
    for (who, outcome) in [("natively", &native), ("under machvm", &ours)] {
        assert!(outcome.status.success(), "the program fails {who}: {outcome:?}");
    }
    [native, ours]
}

#[test]
fn g13_truncation_under_a_shared_mapping_of_two_tasks() {
    let [native, ours] = both("shared");
    assert!(native.out().contains("cut page 6+0: signal 7") && native.out().contains("child: 0"));
    assert_eq!(native.out(), ours.out());
}

#[test]
fn g13_truncation_under_a_private_mapping() {
    let [native, ours] = both("untouched");
    assert!(native.out().contains("private page 6+0: signal 7"));
    assert_eq!(native.out(), ours.out());
}

/// The one difference: what a program wrote into a private mapping stays its own, as with BSD.
/// Linux takes it away when the file shrinks.
#[test]
fn g13_what_was_written_privately_stays() {
    let [native, ours] = both("resident");
    let (theirs, mine) = (native.out(), ours.out());
    assert!(theirs.ends_with("written page 10+3: signal 7\n"), "{theirs}");
    assert_eq!(mine, theirs.replace("written page 10+3: signal 7", "written page 10+3: 88"));
}
