//! `fork(2)` of a process that has a VM which follows.
//!
//! Each test forks for real. They take turns, so that no other thread of this process
//! holds a lock of the standard library when it does.

mod fork {
    mod inherit;
    mod limits;
    mod shared;
    mod threads;
}

use std::io::Read;
use std::os::fd::{FromRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use machvm_linux::library::Fork;
use machvm_linux::{Config, Faults, Task, Vm};

/// Bytes of a page.
pub const PAGE: usize = 4096;
/// Where the tasks' addresses begin; each test has the process's to itself.
const ORIGIN: u64 = 1 << 32;

/// Set by [`the_same_where_a_thread_serves_faults`].
const THREAD: &str = "MACHVM_TEST_THREAD";

/// How faults are served in this run of the tests.
pub fn faults() -> Faults {
    if std::env::var_os(THREAD).is_some() { Faults::Thread } else { Faults::Signal }
}

/// Every test of this program again, with [`Faults::Thread`].
#[test]
fn the_same_where_a_thread_serves_faults() {
    if std::env::var_os(THREAD).is_some() {
        return; // it is the same
    }
    let _turn = turn(); // descriptors are counted elsewhere
    let me = std::env::current_exe().expect("the test program");
    let out = std::process::Command::new(me).env(THREAD, "1").output().expect("started");
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{}: {text}{}", out.status, String::from_utf8_lossy(&out.stderr));
    // Itself is among those that passed, so it did run more than nothing.
    assert!(text.contains("the_same_where_a_thread_serves_faults ... ok"), "{text}");
}

/// Runs the test `name` in a process of its own, where the threads of no other test come
/// and go; `true` in that process.
pub fn alone(name: &str) -> bool {
    const ALONE: &str = "MACHVM_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let me = std::env::current_exe().expect("the test program");
    let mut run = std::process::Command::new(me);
    let out = run.args(["--exact", name, "--test-threads=1"]).env(ALONE, "1").output().expect("started");
    let text = String::from_utf8_lossy(&out.stdout);
    let passed = out.status.success() && text.contains("1 passed");
    assert!(passed, "{}: {text}{}", out.status, String::from_utf8_lossy(&out.stderr));
    false
}

/// A system that follows forks, and its own task.
pub struct World {
    /// First: tasks go before their system.
    pub task: Task,
    /// The system.
    pub vm: Vm,
    _turn: MutexGuard<'static, ()>,
}

/// Nobody else's.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One with `memory` bytes.
pub fn world(memory: Option<u64>) -> World {
    let turn = turn();
    let config = Config {
        memory,
        window: 2 << 30,
        origin: Some(ORIGIN),
        faults: faults(),
        fork: Fork::Follow,
        ..Config::default()
    };
    let vm = Vm::new(config).expect("a VM");
    let task = vm.task().expect("a task");
    World { task, vm, _turn: turn }
}

/// The word at `addr`, through a pointer.
pub fn load(task: &Task, addr: usize) -> u64 {
    // SAFETY: readable memory of the task, as the test arranged.
    unsafe { task.as_ptr(addr).cast::<u64>().read_volatile() }
}

/// Sets the word at `addr`, through a pointer.
pub fn store(task: &Task, addr: usize, value: u64) {
    // SAFETY: writable memory of the task, as the test arranged.
    unsafe { task.as_ptr(addr).cast::<u64>().write_volatile(value) };
}

/// Can the word be loaded?
pub fn readable(task: &Task, addr: usize) -> bool {
    task.read(addr, &mut [0; 8]).is_ok()
}

/// A child of this process.
pub struct Child(i32);

/// Forks; `body` is the child, which ends with it. What it says when it fails goes to
/// standard error.
pub fn fork(body: impl FnOnce()) -> Child {
    // SAFETY: the child uses nothing that another thread may have locked, and exits.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
    if pid == 0 {
        let code = i32::from(catch_unwind(AssertUnwindSafe(body)).is_err());
        // SAFETY: ends the process.
        unsafe { libc::_exit(code) };
    }
    Child(pid)
}

impl Child {
    /// Waits four minutes at most; the status, as `wait(2)` has it.
    pub fn status(self) -> i32 {
        let start = Instant::now();
        loop {
            let mut status = 0;
            // SAFETY: room for the status.
            let got = unsafe { libc::waitpid(self.0, &raw mut status, libc::WNOHANG) };
            if got == self.0 {
                return status;
            }
            assert_eq!(got, 0, "waitpid");
            if start.elapsed() > Duration::from_mins(4) {
                // SAFETY: our own child, not waited for yet.
                unsafe { libc::kill(self.0, libc::SIGKILL) };
                panic!("the child hangs");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    /// It must have gone well.
    pub fn well(self) {
        assert_eq!(self.status(), 0, "the child failed");
    }
}

/// A pipe: who reads waits for who writes.
pub fn pipe() -> (std::fs::File, std::fs::File) {
    let mut ends = [-1; 2];
    // SAFETY: room for two descriptors.
    assert_eq!(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
    // SAFETY: the call made them for us alone.
    let [r, w] = ends.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    (r.into(), w.into())
}

/// Waits for a byte.
pub fn await_byte(from: &mut std::fs::File) {
    from.read_exact(&mut [0]).expect("the other side lives");
}

/// Open descriptors and mappings of this process.
pub fn resources() -> (usize, usize) {
    let fds = std::fs::read_dir("/proc/self/fd").expect("proc").count();
    let maps = std::fs::read_to_string("/proc/self/maps").expect("proc").lines().count();
    (fds, maps)
}
