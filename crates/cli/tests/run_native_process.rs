//! A program under `machvm run` is, from outside and to itself, the process it would
//! be natively.

mod common;

use std::io::Read;
use std::process::{Command, Stdio};

use common::{Job, launcher, machvm, probe_same, probes, scratch, signal};

#[test]
fn exit_statuses_are_the_programs() {
    for status in [0, 1, 37, 125, 126, 127, 255] {
        let outcome =
            Job::new(&["/usr/bin/python3", "-c", &format!("import sys; sys.exit({status})")]).same();
        assert_eq!(outcome.status.code(), Some(status));
    }
    Job::new(&["true"]).same();
    Job::new(&["false"]).same();
}

#[test]
fn arguments_environment_and_names_are_the_programs() {
    for probe in probes() {
        let argv = [probe.to_str().unwrap(), "start", "", "two words", "-x", "--", "\u{fc}ml\u{e4}ut"];
        let outcome = Job::new(&argv).env("PROBE_A", "1").env("PROBE_EMPTY", "").same();
        assert!(outcome.out().contains("env PROBE_A=1\n"));
        assert!(outcome.out().contains("mxcsr 0x1f80"));
    }
    Job::new(&["env"]).same();
}

#[test]
fn a_long_command_line_arrives_whole() {
    let long = "x".repeat(100_000);
    let argv: Vec<&str> =
        std::iter::once("/bin/echo").chain(std::iter::repeat_n(long.as_str(), 15)).collect();
    let outcome = Job::new(&argv).same();
    assert_eq!(outcome.out.len(), 15 * 100_001);
}

#[test]
fn the_auxiliary_vector_is_linuxs() {
    probe_same(&["auxv"]);
}

#[test]
fn process_ids_children_and_limits_are_the_programs() {
    probe_same(&["ids"]);
}

#[test]
fn proc_self_exe_names_the_program() {
    probe_same(&["exe"]);
}

#[test]
fn death_by_signal_is_the_programs_own() {
    for (how, number) in [
        ("segv", 11),
        ("readonly", 11),
        ("bus", 7),
        ("abort", 6),
        ("15", 15),
        ("9", 9),
        ("13", 13),
        ("34", 34),
    ] {
        for probe in probes() {
            let outcome = Job::new(&[probe.to_str().unwrap(), "die", how]).same();
            assert_eq!(signal(&outcome), Some(number));
        }
    }
}

#[test]
fn a_filter_of_the_programs_own_may_kill_it() {
    probe_same(&["seccomp-kill"]);
}

#[test]
fn a_handler_sees_the_fault_as_linux_reports_it() {
    probe_same(&["handler"]);
}

#[test]
fn a_fast_timer_does_not_disturb_memory_calls() {
    probe_same(&["alarm"]);
}

#[test]
fn threads_come_and_go() {
    probe_same(&["threads"]);
}

#[test]
fn the_last_thread_ends_the_process_with_its_status() {
    for probe in probes() {
        let outcome = Job::new(&[probe.to_str().unwrap(), "last-thread"]).same();
        assert_eq!(outcome.status.code(), Some(23));
    }
}

#[test]
fn a_process_ends_in_the_middle_of_its_threads_memory_calls() {
    for _ in 0..5 {
        probe_same(&["exit-busy"]);
    }
}

#[test]
fn close_range_does_not_reach_the_vm() {
    probe_same(&["close-range"]);
}

#[test]
fn spawned_and_vforked_children_run_natively() {
    probe_same(&["spawn"]);
}

/// The signal lines of `/proc/self/status`.
const SIGNAL_STATE: &str =
    "grep -E ^(Sig[PBIC]|ShdPnd|Umask|Uid|Gid|Groups|Cap|NoNewPrivs|CoreDumping) /proc/self/status";

#[test]
fn signal_dispositions_and_mask_are_the_callers() {
    let grep: Vec<&str> = SIGNAL_STATE.split(' ').collect();
    let launcher = launcher().to_str().unwrap();
    let callers: [&[&str]; 5] = [
        &[],
        &["-i", "13"],
        &["-d", "13", "-i", "11", "-i", "7"],
        &["-i", "1", "-i", "17", "-i", "40", "-i", "64", "-b", "10", "-b", "12", "-b", "14", "-b", "63"],
        &["-d", "13", "-b", "11", "-b", "7", "-b", "13"],
    ];
    for caller in callers {
        let mut native = vec![launcher];
        native.extend(caller);
        let mut ours = native.clone();
        let machvm = machvm().into_string().unwrap();
        ours.extend([machvm.as_str(), "run", "--"]);
        native.extend(&grep);
        ours.extend(&grep);
        let (native, ours) = (Job::new(&native).native(), Job::new(&ours).native());
        assert!(native.status.success());
        assert_eq!(native.out(), ours.out(), "{caller:?}");
    }
}

#[test]
fn descriptors_are_the_callers_also_closed_ones() {
    let launcher = launcher().to_str().unwrap();
    let machvm = machvm().into_string().unwrap();
    let list = ["find", "/proc/self/fd", "-printf", "%f\n"];
    for caller in [&["-c", "0"][..], &["-c", "2"], &["-c", "0", "-c", "2"], &[]] {
        let native: Vec<&str> = [launcher].iter().chain(caller).chain(&list).copied().collect();
        let ours: Vec<&str> = [launcher]
            .iter()
            .chain(caller)
            .chain(&[machvm.as_str(), "run", "--"])
            .chain(&list)
            .copied()
            .collect();
        let (native, ours) = (Job::new(&native).native(), Job::new(&ours).native());
        assert_eq!(native.out(), ours.out(), "{caller:?}");
        assert_eq!(native.status, ours.status);
    }
}

#[test]
fn an_inherited_descriptor_keeps_its_number() {
    let script = "exec 7</etc/passwd 9>/dev/null; exec \"$@\" /bin/cat /proc/self/fd/7";
    let native = Job::new(&["sh", "-c", script, "sh"]).native();
    let ours = Job::new(&["sh", "-c", script, "sh", machvm().to_str().unwrap(), "run", "--"]).native();
    assert!(!native.out.is_empty());
    assert_eq!(native, ours);
}

#[test]
fn input_flows_through() {
    let input: Vec<u8> = (0..3_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    assert_eq!(Job::new(&["cat"]).input(input.clone()).same().out, input);
    Job::new(&["gzip", "-c"]).input(input.clone()).same();
    Job::new(&["head", "-c", "5"]).input(input).same();
}

#[test]
fn the_vm_keeps_no_descriptor_of_the_program_open() {
    let mut child = Command::new(machvm())
        .args(["run", "--"])
        .arg(&probes()[0])
        .arg("close-stdout")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut text = String::new();
    // Hangs if anybody else holds the pipe: the program sleeps for ever.
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "bye\n");
    assert_eq!(child.try_wait().unwrap(), None);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn well_known_programs_run() {
    let numbers: String = (0..20_000_u64).map(|i| format!("{}\n", i.wrapping_mul(7919) % 20_011)).collect();
    Job::new(&["ls", "-lR", "/usr/lib/python3"]).same();
    Job::new(&["sort", "-n"]).input(numbers.clone()).same();
    Job::new(&["gzip", "-9", "-n", "-c"]).input(numbers).same();
    Job::new(&["sqlite3", ":memory:", "create table t(a); with recursive c(x) as (select 1 union all select x+1 from c where x<50000) insert into t select x*7 from c; select count(*), sum(a) from t; pragma integrity_check;"]).same();
    Job::new(&["node", "-e", "let s=0; for (let i=0;i<3e6;i++) s=(s*31+i)|0; console.log(s, process.argv.length, process.execPath)"]).same();
    Job::new(&["/bin/busybox", "sh", "-c", "i=0; while [ $i -lt 100 ]; do i=$((i+1)); done; echo $i"]).same();
    let piped = "x=; i=0; while [ $i -lt 20 ]; do x=\"$x $(echo $i | cat)\"; i=$((i+1)); done; echo $x; (exit 3); echo $?; exec ls /usr";
    Job::new(&["/bin/busybox", "sh", "-c", piped]).same();
}

#[test]
fn python_runs_with_threads_mmap_and_sqlite() {
    let program = "
import threading, mmap, sqlite3, hashlib, os, sys
total = []
def work(i): total.append(hashlib.sha256(bytes([i]) * 1000000).hexdigest())
threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
for t in threads: t.start()
for t in threads: t.join()
print(sorted(total))
m = mmap.mmap(-1, 1 << 20); m[5000:5003] = b'abc'; print(m[4999:5004]); m.close()
with open(sys.argv[0] if os.path.isfile(sys.argv[0]) else '/etc/passwd', 'rb') as f:
    m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); print(len(m), m[:4])
c = sqlite3.connect(':memory:'); c.execute('create table t(x)'); c.executemany('insert into t values(?)', [(i,) for i in range(9999)])
print(c.execute('select sum(x) from t').fetchone(), sys.executable)
";
    let outcome = Job::new(&["/usr/bin/python3", "-c", program]).same();
    assert!(outcome.status.success(), "{outcome:?}");
}

#[test]
fn machvms_statistics_go_to_their_file_also_after_death_by_signal() {
    let dir = scratch("stats");
    for (mode, number) in [(["exit"], None), (["segv"], Some(11))] {
        let file = dir.join(mode[0]);
        let option = format!("--stats={}", file.display());
        let outcome = Job::new(&[probes()[0].to_str().unwrap(), "die", mode[0]]).under(&[&option]);
        assert_eq!(signal(&outcome), number);
        assert!(outcome.err.is_empty(), "{outcome:?}");
        // After death by a signal the keeper writes it, which nobody waits for.
        let written = (0..200).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            std::fs::read(&file).is_ok_and(|text| !text.is_empty())
        });
        assert!(written, "{}", file.display());
    }
}

#[test]
fn what_cannot_work_is_refused() {
    for probe in probes() {
        let outcome = Job::new(&[probe.to_str().unwrap(), "refusals", "/etc/passwd"]).machvm();
        let expected = "io_uring ENOSYS\nclone3 ENOSYS\nopen direct EINVAL\nfcntl direct EINVAL\nopenat2 direct EINVAL\n\
                        gift EINVAL\nint80 ENOSYS\nx32 ENOSYS\n";
        assert_eq!(outcome.out(), expected);
    }
}
