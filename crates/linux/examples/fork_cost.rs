//! What `fork(2)` costs a process with a VM that follows, beside the same memory of Linux's
//! own: until fork returns in the parent, until the child has ended, and until a child that
//! writes every page has.
//!
//! `cargo run --release -p machvm-linux --example fork_cost [MiB]`

use std::time::{Duration, Instant};

use machvm_linux::library::Fork;
use machvm_linux::{Config, Vm};

const ROUNDS: usize = 9;
const PAGE: usize = 4096;

/// The median of several runs of `f`.
fn median(mut f: impl FnMut() -> Duration) -> Duration {
    let mut all: Vec<_> = (0..ROUNDS).map(|_| f()).collect();
    all.sort_unstable();
    all[ROUNDS / 2]
}

/// Forks; the child does `work`. Time until fork returned, and until the child was gone.
fn fork(work: impl FnOnce()) -> (Duration, Duration) {
    let start = Instant::now();
    // SAFETY: the child makes stores and ends.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        work();
        // SAFETY: ends the process.
        unsafe { libc::_exit(0) };
    }
    let returned = start.elapsed();
    // SAFETY: our own child; no status is asked for.
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
    (returned, start.elapsed())
}

fn store_all(at: *mut u8, bytes: usize, value: u8) {
    (0..bytes / PAGE).for_each(|i| {
        // SAFETY: the caller's memory.
        unsafe { at.add(i * PAGE).write_volatile(value) }
    });
}

fn row(name: &str, at: *mut u8, bytes: usize) {
    store_all(at, bytes, 1);
    let ms = |d: Duration| d.as_secs_f64() * 1000.0;
    let returned = median(|| fork(|| ()).0);
    let gone = median(|| fork(|| ()).1);
    let written = median(|| fork(|| store_all(at, bytes, 2)).1);
    let parent = median(|| {
        store_all(at, bytes, 3);
        fork(|| ());
        let start = Instant::now();
        store_all(at, bytes, 4);
        start.elapsed()
    });
    println!("{name:<22} {:>9.2} {:>9.2} {:>9.2} {:>9.2}", ms(returned), ms(gone), ms(written), ms(parent));
}

fn main() {
    let mib: usize = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(64);
    let bytes = mib << 20;
    println!("{mib} MiB resident, ms    returned      gone   written    parent");
    let mut own = vec![0u8; bytes];
    row("Linux's memory", own.as_mut_ptr(), bytes);
    drop(own);
    let config = Config { origin: Some(1 << 32), window: 4 << 30, fork: Fork::Follow, ..Config::default() };
    let vm = Vm::new(config).expect("a VM");
    let task = vm.task().expect("a task");
    let empty = median(|| fork(|| ()).0);
    let at = task.allocate(bytes).expect("memory");
    row("the VM's, copied", task.as_ptr(at), bytes);
    task.inherit(at, bytes, machvm_linux::Inherit::Share).expect("set");
    let (first, _) = fork(|| ());
    row("the VM's, shared", task.as_ptr(at), bytes);
    println!(
        "a VM without memory: {:.2} ms; the first fork that shares: {:.2} ms",
        empty.as_secs_f64() * 1000.0,
        first.as_secs_f64() * 1000.0
    );
}
