//! What a fault costs, by who serves it.
//!
//! `cargo run --release -p machvm-linux --example faults`
//!
//! Each round touches pages so far apart that no fault brings in another's page, first of
//! fresh memory and then of pages that are there and not mapped; and does the same by
//! `pread`, which has to wait. The ways take turns; the medians are printed.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::time::Instant;

use machvm_linux::{Config, Error, Faults, Prot, Task, Vm};

const PAGE: usize = 4096;
/// A fault brings in at most 16 pages.
const STRIDE: usize = 64 * PAGE;
const PAGES: usize = 2000;
const ROUNDS: usize = 15;

fn per_page(f: impl Fn(usize)) -> u64 {
    let begun = Instant::now();
    (0..PAGES).for_each(f);
    begun.elapsed().as_nanos() as u64 / PAGES as u64
}

/// Nanoseconds for a fault on fresh memory, one on memory of the parent's that a child has
/// not touched, and a system call that needs one.
fn round(task: &Task, file: &File) -> Result<[u64; 3], Error> {
    let a = task.allocate(PAGES * STRIDE)?;
    // SAFETY: pages of the task; the child's are the same.
    let touch = |t: &Task, i: usize| unsafe { t.as_ptr(a + i * STRIDE).write_volatile(1) };
    let fresh = per_page(|i| touch(task, i));
    let child = task.fork()?;
    // SAFETY: as above.
    let shared = per_page(|i| {
        // SAFETY: as above.
        let _ = unsafe { child.as_ptr(a + i * STRIDE).read_volatile() };
    });
    drop(child);
    task.discard(a, PAGES * STRIDE)?;
    let call = per_page(|i| {
        let at = task.as_ptr(a + i * STRIDE);
        // What a program has to do where system calls do not wait.
        // SAFETY: a page of the task.
        let read = || unsafe { libc::pread(file.as_raw_fd(), at.cast(), PAGE, 0) };
        if read() < 0 {
            // SAFETY: as above.
            unsafe { at.write_volatile(0) };
            read();
        }
    });
    task.protect(a, PAGE, Prot::RW)?;
    task.deallocate(a, PAGES * STRIDE)?;
    Ok([fresh, shared, call])
}

fn main() -> Result<(), Error> {
    let file = File::open("/proc/self/exe").map_err(Error::Io)?;
    let ways = [Faults::Signal, Faults::Thread];
    let mut tasks = Vec::new();
    for faults in ways {
        let vm = Vm::new(Config { faults, ..Config::default() })?;
        tasks.push((vm.task()?, Vec::new()));
    }
    for _ in 0..ROUNDS {
        for (task, all) in &mut tasks {
            let r = round(task, &file)?;
            all.push(r);
        }
    }
    println!("ns for each page        fresh   shared   pread");
    for (faults, (_, all)) in ways.iter().zip(&mut tasks) {
        let median = |k: usize| {
            let mut v: Vec<_> = all.iter().map(|r| r[k]).collect();
            v.sort_unstable();
            v[v.len() / 2]
        };
        println!("{:20} {:8} {:8} {:7}", format!("{faults:?}"), median(0), median(1), median(2));
    }
    Ok(())
}
