//! The library: real loads and stores on memory of the VM.

mod library {
    mod basic;
    mod calls;
    mod cow;
    mod external;
    mod files;
    mod memory;
    mod posix;
    mod signals;
    mod waits;
}

use machvm_linux::{Config, Faults, Task, Vm};

/// Bytes of a page.
pub const PAGE: usize = 4096;

/// Set by [`the_same_where_a_thread_serves_faults`].
const THREAD: &str = "MACHVM_TEST_THREAD";

/// A system without a limit, whose tasks have 1 GiB of addresses. Faults are served in the
/// way that is tested.
pub fn config() -> Config {
    let faults = if std::env::var_os(THREAD).is_some() { Faults::Thread } else { Faults::Signal };
    Config { window: 1 << 30, faults, ..Config::default() }
}

/// See [`config`].
pub fn vm() -> Vm {
    Vm::new(config()).expect("a VM")
}

/// A system with `memory` bytes.
pub fn small_vm(memory: u64) -> Vm {
    Vm::new(Config { memory: Some(memory), ..config() }).expect("a VM")
}

/// Every test of this program again, with [`Faults::Thread`].
#[test]
fn the_same_where_a_thread_serves_faults() {
    if std::env::var_os(THREAD).is_some() || std::env::var_os("MACHVM_APART").is_some() {
        return; // it is the same
    }
    let me = std::env::current_exe().expect("the test program");
    let out = std::process::Command::new(me).env(THREAD, "1").output().expect("started");
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{}: {text}{}", out.status, String::from_utf8_lossy(&out.stderr));
    // Itself is among those that passed, so it did run more than nothing.
    assert!(text.contains("the_same_where_a_thread_serves_faults ... ok"), "{text}");
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

/// A random sequence; the tests print its seed.
pub struct Rng(u64);

impl Rng {
    /// From `MACHVM_SEED`, or `seed`.
    pub fn new(seed: u64) -> Self {
        let seed = std::env::var("MACHVM_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(seed);
        println!("MACHVM_SEED={seed}");
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }
    /// One below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.draw() % n as u64) as usize
    }
}
