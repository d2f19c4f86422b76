//! Processes: what a program under machvm makes of itself by fork, execve and exit is
//! what it would be natively.

mod common;

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use common::{Job, build, machvm, scratch, signal};

const SIGBUS: i32 = 7;
const SIGKILL: i32 = 9;
const SIGSEGV: i32 = 11;
const SIGTERM: i32 = 15;

/// The family, dynamic and static.
fn families() -> &'static [String] {
    static FAMILIES: OnceLock<Vec<String>> = OnceLock::new();
    FAMILIES.get_or_init(|| {
        [("family", [].as_slice()), ("family-static", &["-static"])]
            .map(|(name, flags)| build("family.c", name, flags).to_str().unwrap().to_string())
            .to_vec()
    })
}

/// Runs a mode both ways in both builds; the last outcome.
fn family(arguments: &[&str]) -> common::Outcome {
    let run = |family: &String| {
        let mut argv = vec![family.as_str()];
        argv.extend(arguments);
        Job::new(&argv).same()
    };
    families().iter().map(run).next_back().unwrap()
}

fn family_says(arguments: &[&str], text: &str) {
    let outcome = family(arguments);
    assert_eq!((outcome.out().as_str(), outcome.status.code()), (text, Some(0)));
}

#[test]
fn wait_sees_no_child_but_the_programs() {
    family_says(&["no-child"], "");
}

#[test]
fn fifty_children_in_a_row_and_children_killed_by_signals() {
    let outcome = family(&["statuses"]);
    assert!(outcome.out().starts_with("0 1280 2560 "));
}

#[test]
fn a_fork_shares_no_memory_in_either_direction() {
    family_says(&["isolation"], "isolated\n");
}

#[test]
fn a_fork_shares_no_memory_under_a_limit() {
    let job = Job::new(&[families()[0].as_str(), "isolation"]);
    let outcome = job.under(&["--memory", "8M", "--swap", "lz4"]);
    assert_eq!(outcome.out(), "isolated\n", "{outcome:?}");
}

#[test]
fn a_forked_child_has_the_callers_registers_masks_and_stacks() {
    family_says(&["state"], "same state\n");
}

#[test]
fn protections_and_fork_advice_reach_the_child() {
    family_says(&["inheritance"], "write to read-only: signal 11\n");
}

#[test]
fn heap_and_stack_grow_in_a_child() {
    family_says(&["growth"], "");
}

#[test]
fn threads_fork_while_others_allocate() {
    family_says(&["thread-forks"], "forked\n");
}

#[test]
fn children_fork_too() {
    family_says(&["tree"], "40 processes\n");
}

#[test]
fn forks_under_a_fast_timer() {
    family_says(&["signals"], "SIGCHLD came\n");
}

#[test]
fn clone_stores_what_its_flags_say() {
    family_says(&["clone-flags"], "");
}

#[test]
fn a_child_has_the_callers_name_scheduling_directory_and_rights() {
    let outcome = family(&["attributes"]);
    assert!(outcome.out().starts_with("1 cpus, nice 7, a name, /usr, umask 27"));
}

#[test]
fn spawn_and_vfork() {
    family_says(&["spawn"], "spawned\nvforked\n");
}

#[test]
fn execve_keeps_and_resets_what_linux_does() {
    for caller in ["main", "main-threads", "thread", "thread-main-sleeps", "thread-main-forks"] {
        let outcome = family(&["exec", caller]);
        assert_eq!(outcome.status.code(), Some(23));
        assert!(outcome.out().contains("pid kept"), "{outcome:?}");
    }
}

#[test]
fn a_program_replaces_itself_fifty_times() {
    family_says(&["chain", "50"], "end of the chain\n");
}

#[test]
fn a_program_killed_in_the_middle_of_fork_or_execve_ends() {
    for round in 0..12 {
        let mut command = Command::new(machvm());
        command.args(["run", "--", &families()[0], "rounds"]).stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = command.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(60 + 13 * round));
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        child.kill().unwrap();
        let began = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            assert!(began.elapsed() < Duration::from_secs(20), "it does not end (round {round})");
            std::thread::sleep(Duration::from_millis(5));
        };
        assert_eq!(status.signal(), Some(SIGKILL));
    }
}

#[test]
fn execve_fails_as_linux_does_and_the_program_goes_on() {
    let dir = scratch("exec-errors");
    for family in families() {
        let job = Job::new(&[family.as_str(), "exec-errors", dir.to_str().unwrap()]);
        let native = job.native();
        std::fs::remove_dir_all(&dir).unwrap();
        std::fs::create_dir_all(&dir).unwrap();
        assert_eq!(native, job.machvm());
        std::fs::remove_dir_all(&dir).unwrap();
        std::fs::create_dir_all(&dir).unwrap();
        assert!(native.out().contains("open for writing: ETXTBSY\n"), "{native:?}");
    }
}

#[test]
fn execveat_by_descriptor_directory_and_link() {
    for how in ["fd", "path-fd", "self-link"] {
        family_says(&["execveat", how], "hello from self\n");
    }
    for how in ["dir", "cwd"] {
        family_says(&["execveat", how], "hello\n");
    }
}

#[test]
fn joins_return_and_robust_mutexes_tell_of_dead_owners() {
    family_says(&["joins"], "joined\n");
    family_says(&["robust"], "owner died\n");
}

#[test]
fn the_main_thread_may_leave_first() {
    assert_eq!(family(&["main-leaves", "exit"]).status.code(), Some(31));
    family_says(&["main-leaves", "return"], "late thread\n");
}

#[test]
fn shells_fork_exec_and_pipe() {
    let script = "ls -d / | cat; x=$(echo a b | wc -w); echo $x; for i in 1 2 3; do echo $i; done | sort -r;
        (exit 7); echo $?; sleep 0.01 & wait $!; echo $?; { echo one; echo two >&2; } 2>&1 | cat;
        sh -c 'kill -TERM $$'; echo $?; exec ls -d /tmp";
    for shell in [&["sh", "-c"][..], &["bash", "-c"], &["busybox", "sh", "-c"]] {
        let argv = [shell, &[script]].concat();
        let outcome = Job::new(&argv).same();
        assert!(outcome.out().ends_with("/tmp\n"), "{outcome:?}");
    }
    Job::new(&["sh", "-c", "exec ls -d /"]).same();
    Job::new(&["sh"]).input("echo from input; exit 5").same();
}

#[test]
fn scripts_start_by_their_first_line() {
    let script = scratch("scripts").join("script");
    std::fs::write(&script, "#!/bin/sh -e\necho \"$0\" | grep -c script; echo $2; false; echo not here\n")
        .unwrap();
    let mut mode = std::fs::metadata(&script).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o755);
    std::fs::set_permissions(&script, mode).unwrap();
    let script = script.to_str().unwrap();
    assert_eq!(Job::new(&[script, "a", "b"]).same().out(), "1\nb\n");
    Job::new(&["sh", "-c", &format!("exec {script} x y")]).same();
}

#[test]
fn python_forks_and_spawns() {
    let program = "import os, subprocess, sys\n\
        print(subprocess.run(['ls', '-d', '/'], capture_output=True))\n\
        print(subprocess.run('echo $((6 * 7))', shell=True, capture_output=True))\n\
        print(subprocess.run(['cat'], input=b'x' * 300000, capture_output=True).stdout == b'x' * 300000)\n\
        print(subprocess.run(['true'], preexec_fn=lambda: None).returncode)\n\
        import multiprocessing as m\n\
        with m.get_context('fork').Pool(2) as pool: print(sum(pool.map(abs, range(-500, 500))))\n\
        r, w = os.pipe()\n\
        if os.fork() == 0:\n    os.write(w, b'from the child'); os._exit(0)\n\
        print(os.read(r, 100), os.waitstatus_to_exitcode(os.wait()[1])); sys.stdout.flush()\n\
        os.execlp('sh', 'sh', '-c', 'echo replaced')\n";
    let outcome = Job::new(&["/usr/bin/python3", "-c", program]).same();
    assert!(outcome.out().ends_with("replaced\n"), "{outcome:?}");
}

#[test]
fn a_debugger_that_traces_the_program_makes_fork_fail_and_not_hang() {
    let program = "import ctypes, os\n\
        libc = ctypes.CDLL(None)\n\
        try:\n    os.fork(); print('forked')\n\
        except OSError as e: print(e.errno)\n";
    let argv = ["strace", "-o", "/dev/null", "--"].map(String::from);
    let mut command = Command::new(&argv[0]);
    command.args(&argv[1..]).arg(machvm()).args(["run", "--", "/usr/bin/python3", "-c", program]);
    let Ok(done) = command.stdin(Stdio::null()).output() else {
        eprintln!("strace is not installed: nothing tested");
        return;
    };
    assert_eq!(String::from_utf8_lossy(&done.stdout), "11\n");
    let err = String::from_utf8_lossy(&done.stderr);
    assert!(err.contains("machvm: the program cannot fork while a debugger traces the program"), "{err}");
}

#[test]
fn statistics_come_also_after_death_by_a_signal() {
    for number in [SIGKILL, SIGSEGV, SIGBUS, SIGTERM] {
        let kill = format!(
            "import os, resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); os.kill(os.getpid(), {number})"
        );
        let outcome = Job::new(&["/usr/bin/python3", "-c", &kill]).under(&["--stats"]);
        assert_eq!(signal(&outcome), Some(number));
        // Standard error is read to its end: the keeper has closed it.
        let err = outcome.err();
        assert!(err.contains(&format!("ended by signal {number}\n")), "{err}");
        assert!(err.lines().count() > 1, "{err}");
    }
}

#[test]
fn children_outlive_the_program_and_go_on_working() {
    // A spawned child has inherited the filter; when its parent is dead the keeper
    // answers its calls: memory calls, execve, exit.
    let file = scratch("outlive").join("done");
    let script = format!(
        "import subprocess, os, signal\n\
         subprocess.Popen(['sh', '-c', 'sleep 0.3; x=$(echo hi | cat); exec sh -c \"echo $x > {}\"'],\n\
         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)\n\
         os.kill(os.getpid(), signal.SIGKILL)\n",
        file.display()
    );
    let outcome = Job::new(&["/usr/bin/python3", "-c", &script]).machvm();
    assert_eq!(outcome.status.signal(), Some(SIGKILL));
    wait_for(&file);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "hi\n");
}

fn wait_for(file: &Path) {
    let began = Instant::now();
    while std::fs::metadata(file).map_or(0, |m| m.len()) == 0 {
        assert!(began.elapsed() < Duration::from_secs(20), "the child did not go on");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn no_keeper_is_left_behind() {
    let name = "left-behind-probe";
    let link = scratch("keeper").join(name);
    let _ = std::fs::remove_file(&link);
    std::os::unix::fs::symlink(machvm(), &link).unwrap();
    for script in ["exit 3", "ls / | cat", "kill -9 $$"] {
        let done = Command::new(&link).args(["run", "--", "sh", "-c", script]).output();
        done.unwrap();
    }
    let began = Instant::now();
    while keepers_of(name) > 0 {
        assert!(began.elapsed() < Duration::from_secs(10), "a keeper stays");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Living processes whose command line is that of the link.
fn keepers_of(name: &str) -> usize {
    let processes = std::fs::read_dir("/proc").unwrap();
    processes
        .filter_map(|p| std::fs::read(p.ok()?.path().join("cmdline")).ok())
        .filter(|line| line.split(|b| *b == 0).next().is_some_and(|first| first.ends_with(name.as_bytes())))
        .count()
}
