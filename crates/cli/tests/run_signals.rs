//! Signals: what they interrupt natively they interrupt under machvm, and nothing
//! else; handlers see what they see natively.

mod common;

use std::sync::OnceLock;

use common::{Job, build};

/// Dynamic and static.
fn programs() -> &'static [String] {
    static PROGRAMS: OnceLock<Vec<String>> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        [("interrupts", [].as_slice()), ("interrupts-static", &["-static"])]
            .map(|(name, flags)| build("interrupts.c", name, flags).to_str().unwrap().to_string())
            .to_vec()
    })
}

fn both_say(arguments: &[&str], text: &str) {
    for program in programs() {
        let mut argv = vec![program.as_str()];
        argv.extend(arguments);
        let outcome = Job::new(&argv).same();
        assert_eq!((outcome.out().as_str(), outcome.status.code()), (text, Some(0)), "{arguments:?}");
    }
}

// signal(7), "Interruption of system calls": memory calls are not among those that a
// handler may make fail with EINTR, with or without SA_RESTART.
#[test]
fn no_memory_call_is_interrupted() {
    both_say(&["memory", "150"], "no memory call was interrupted\n");
    both_say(&["memory-restart", "150"], "no memory call was interrupted\n");
}

// What a child of vfork executes still has the filter.
#[test]
fn no_memory_call_or_fork_of_a_spawned_program_is_interrupted() {
    let says = [("memory", "no memory call was interrupted\n"), ("fork", "forked, children ended\n")];
    for (mode, text) in says {
        let spawn = "import subprocess, sys; sys.exit(subprocess.run(sys.argv[1:]).returncode)";
        let outcome = Job::new(&["/usr/bin/python3", "-c", spawn, &programs()[0], mode, "100"]).machvm();
        assert_eq!((outcome.out().as_str(), outcome.status.code()), (text, Some(0)), "{outcome:?}");
    }
}

// fork(2) knows no EINTR.
#[test]
fn no_fork_is_interrupted() {
    both_say(&["fork", "60"], "forked, children ended\n");
    both_say(&["fork-restart", "60"], "forked, children ended\n");
}

#[test]
fn what_linux_interrupts_is_interrupted_in_the_program_and_in_its_children() {
    let line = "without SA_RESTART -1, with it 1\n";
    both_say(&["slow"], &format!("program: {line}child: {line}"));
}

#[test]
fn handlers_see_what_they_see_natively() {
    both_say(
        &["handlers"],
        "flags 44000004, SIGHUP 1, SIGINT 0\nsignal 10, code -6, rax 0\n\
         in read: rax -4, behind a syscall instruction 1\nran 1, then default 1\n",
    );
    both_say(&["nested"], "outer 101, inner 101, values 55\n");
}

// sigaction(2), "ERRORS", and which flags come back.
#[test]
fn dispositions_are_told_and_refused_as_by_linux() {
    for program in programs() {
        let outcome = Job::new(&[program.as_str(), "errors"]).same();
        assert_eq!(outcome.status.code(), Some(0));
        assert!(outcome.out().contains("set 1, flags 0\n"), "{outcome:?}");
    }
}

// A shell's SIGCHLD handler has no SA_RESTART: it must still be able to fork while
// its children end.
#[test]
fn shells_fork_while_their_children_end() {
    let script = "i=0; while [ $i -lt 25 ]; do (exit 3) & x=$(echo a b | cat | wc -w); (exit 7);
        [ $?$x = 72 ] || echo wrong $x; i=$((i+1)); done; wait; echo done";
    for shell in [&["sh", "-c"][..], &["busybox", "sh", "-c"]] {
        let outcome = Job::new(&[shell, &[script]].concat()).machvm();
        assert_eq!((outcome.out().as_str(), outcome.err().as_str()), ("done\n", ""), "{outcome:?}");
    }
}
