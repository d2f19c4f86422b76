//! Children, and the program's own execve.

mod common;

use common::{Job, probes, scratch};

#[test]
fn the_programs_own_execve_reloads_it_in_place() {
    Job::new(&["sh", "-c", "exec ls /usr"]).same();
    Job::new(&["sh", "-c", "exec sh -c 'exec sh -c \"exec echo deep\"'"]).same();
    // From and to every kind of executable, and through a script.
    for probe in probes() {
        let probe = probe.to_str().unwrap();
        Job::new(&["sh", "-c", "exec \"$0\" start \"$@\"", probe, "a", "b c"]).same();
        Job::new(&["sh", "-c", "exec \"$0\" auxv", probe]).same();
        Job::new(&["sh", "-c", "exec \"$0\" ids", probe]).same();
        Job::new(&["sh", "-c", "exec \"$0\" exe", probe]).same();
        Job::new(&["sh", "-c", "exec \"$0\" handler", probe]).same();
        Job::new(&["sh", "-c", "exec \"$0\" threads", probe]).same();
        Job::new(&["sh", "-c", "exec \"$0\" die segv", probe]).same();
    }
}

#[test]
fn an_execve_that_fails_changes_nothing() {
    let script = "
import os
for path in ['/no/such', '/etc/passwd', '/etc', '/bin/sh/x']:
    try: os.execv(path, ['x'])
    except OSError as error: print(path, error.errno)
try: os.execv('/bin/true', ['x', 'y' * 200000])
except OSError as error: print(error.errno)
print(sum(range(100000)))
";
    assert!(Job::new(&["/usr/bin/python3", "-c", script]).same().status.success());
}

#[test]
fn signal_state_survives_execve_as_on_linux() {
    let script = "
import os, signal
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
signal.signal(signal.SIGUSR2, lambda *_: None)
signal.signal(signal.SIGSEGV, lambda *_: None)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGRTMIN])
os.kill(os.getpid(), signal.SIGTERM)
os.execvp('grep', ['grep', '-E', '^(Sig[PBIC]|ShdPnd)', '/proc/self/status'])
";
    Job::new(&["/usr/bin/python3", "-c", script]).same();
}

#[test]
fn execve_by_a_thread_that_is_not_the_first() {
    let script = "
import os, threading
def work(): os.execvp('sh', ['sh', '-c', 'echo $$ > /dev/null; grep -c . /proc/self/comm; cat /proc/$$/comm'])
t = threading.Thread(target=work); t.start(); t.join()
";
    for _ in 0..5 {
        Job::new(&["/usr/bin/python3", "-c", script]).same();
    }
}

#[test]
fn execve_honours_close_on_exec_and_given_up_rights() {
    let script = "
import os
keep = os.open('/dev/null', os.O_RDONLY); os.set_inheritable(keep, True); os.dup2(keep, 10)
drop = os.open('/dev/null', os.O_RDONLY); os.dup2(drop, 11, False)
os.execvp('find', ['find', '/proc/self/fd', '-printf', '%f\\n'])
";
    Job::new(&["/usr/bin/python3", "-c", script]).same();
    let dir = scratch("rights");
    let secret = dir.join("secret");
    std::fs::copy("/bin/true", &secret).unwrap();
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let secret = secret.to_str().unwrap();
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    Job::new(&[&nobody[..], &["id"]].concat()).same();
    Job::new(&[&nobody[..], &[secret]].concat()).same();
    Job::new(&[&nobody[..], &[probes()[0].to_str().unwrap(), "auxv"]].concat()).same();
}

#[test]
fn shells_fork_and_pipe() {
    Job::new(&["sh", "-c", "ls /usr/bin | sort -r | head -3; (exit 3); echo $?; x=$(echo sub); echo $x"])
        .same();
    Job::new(&["bash", "-c", "for i in 1 2 3; do (echo $i; exit $i); echo $?; done; wait; echo a | tr a b"])
        .same();
    Job::new(&[
        "/bin/busybox",
        "sh",
        "-c",
        "for i in 1 2 3; do echo $i | cat; done; ls /etc/passwd; (exit 4); echo $?",
    ])
    .same();
    Job::new(&["bash", "-c", "sleep 0.1 & wait $!; echo $?; kill -9 $(sh -c 'echo $PPID') "]).same();
}

#[test]
fn forked_memory_is_a_copy() {
    let script = "
import os, mmap
shared, private, big = mmap.mmap(-1, 4096), bytearray(b'private'), bytearray(os.urandom(1 << 20) * 16)
total = hash(bytes(big))
r, w = os.pipe()
pid = os.fork()
if pid == 0:
    private[0:7] = b'changed'; shared[0:5] = b'child'; big[5] ^= 255; big[5] ^= 255
    os.write(w, private + (b' same' if hash(bytes(big)) == total else b' differs'))
    big[:] = bytes(len(big))
    os._exit(7)
_, status = os.waitpid(pid, 0)
print(os.read(r, 100), bytes(private), shared[0:5], os.WEXITSTATUS(status), hash(bytes(big)) == total)
for i in range(20):
    if os.fork() == 0: os._exit(i)
    print(os.waitstatus_to_exitcode(os.wait()[1]))
";
    let outcome = Job::new(&["/usr/bin/python3", "-c", script]).same();
    assert!(outcome.status.success() && outcome.err.is_empty(), "{outcome:?}");
}

#[test]
fn python_subprocesses_and_pools() {
    let script = "
import subprocess, multiprocessing, sys
print(subprocess.run(['echo', 'hi'], capture_output=True).stdout)
print(subprocess.run('exit 5', shell=True).returncode)
print(subprocess.run(['sh', '-c', 'kill -9 $$']).returncode)
print(subprocess.run(['cat'], input=b'x' * 200000, capture_output=True).stdout == b'x' * 200000)
def square(x): return x * x
if __name__ == '__main__':
    with multiprocessing.get_context('fork').Pool(3) as pool: print(pool.map(square, range(20)))
";
    let outcome = Job::new(&["/usr/bin/python3", "-c", script]).same();
    assert!(outcome.status.success() && outcome.err.is_empty(), "{outcome:?}");
}

#[test]
fn a_compiler_driver_runs() {
    let dir = scratch("compile");
    let source = dir.join("x.c");
    std::fs::write(&source, "int main(void){return 42;}\n").unwrap();
    let made = dir.join("x");
    let argv = ["cc", "-O2", "-o", made.to_str().unwrap(), source.to_str().unwrap()];
    Job::new(&argv).same();
    assert_eq!(Job::new(&[made]).same().status.code(), Some(42));
}

#[test]
fn children_outlive_the_program() {
    let dir = scratch("outlive");
    let file = dir.join("late");
    let script = "(sleep 0.3; ls / > /dev/null && sh -c 'echo late' > \"$0\") & echo early";
    let outcome = Job::new(&["sh", "-c", script, file.to_str().unwrap()]).machvm();
    assert_eq!(outcome.out(), "early\n");
    let late = (0..300).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        std::fs::read(&file).is_ok_and(|text| text == b"late\n")
    });
    assert!(late, "the child did not finish");
}
