//! Table 1: what a page costs at its first touch.

use std::sync::Barrier;
use std::time::Instant;

use machvm_linux::{Config, Inherit, Task, Vm};

use crate::reference::Reference;
use crate::row;
use crate::table::{self, Samples, goal, goal_least};

pub(crate) const PAGE: usize = 4096;
/// Pages touched in one go, by one thread.
const PAGES: usize = 4096;
const ROUNDS: usize = 11;

#[derive(Clone, Copy)]
struct How {
    threads: usize,
    /// From one thread's pages to the next one's.
    stride: usize,
}

/// Without a gap between the threads' pages.
const DENSE: usize = PAGES * PAGE;
/// With one: entries, and so objects, of their own.
const APART: usize = DENSE + PAGE;

/// The order of the touches: ascending, or one that has no neighbours in sequence.
fn order(random: bool) -> Vec<usize> {
    let mut all: Vec<usize> = (0..PAGES).collect();
    if random {
        let mut x = 0x2545_f491_4f6c_dd1du64;
        for i in (1..PAGES).rev() {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            all.swap(i, (x % (i as u64 + 1)) as usize);
        }
    }
    all
}

/// Nanoseconds for each page, of one thread's processor time or of wall time for all
/// threads together: each thread touches its own `PAGES` pages from `base`.
fn touch(base: *mut u8, how: How, order: &[usize]) -> f64 {
    let base = base.expose_provenance();
    let work = |n: usize| {
        let mine = base + n * how.stride;
        for i in order {
            // SAFETY: a page of the caller's memory.
            unsafe { core::ptr::with_exposed_provenance_mut::<u8>(mine + i * PAGE).write_volatile(1) };
        }
    };
    if how.threads == 1 {
        // The thread's own time: what others do on the machine is not in it.
        let begun = thread_ns();
        work(0);
        return (thread_ns() - begun) / PAGES as f64;
    }
    let start = Barrier::new(how.threads + 1);
    let end = Barrier::new(how.threads + 1);
    std::thread::scope(|s| {
        for n in 0..how.threads {
            let (start, end, work) = (&start, &end, &work);
            s.spawn(move || {
                start.wait();
                work(n);
                end.wait();
            });
        }
        start.wait();
        let begun = Instant::now();
        end.wait();
        begun.elapsed().as_nanos() as f64 / (how.threads * PAGES) as f64
    })
}

/// Nanoseconds of processor time of this thread.
fn thread_ns() -> f64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: room for a time.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut t) };
    t.tv_sec as f64 * 1e9 + t.tv_nsec as f64
}

fn linux(how: How, order: &[usize]) -> f64 {
    let bytes = how.threads * PAGES * PAGE;
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: not MAP_FIXED; unmapped when nobody uses it any more.
    unsafe {
        let p = libc::mmap(core::ptr::null_mut(), bytes, prot, flags, -1, 0);
        assert_ne!(p, libc::MAP_FAILED);
        libc::madvise(p, bytes, libc::MADV_NOHUGEPAGE);
        let ns = touch(p.cast(), how, order);
        libc::munmap(p, bytes);
        ns
    }
}

/// A task with `how.threads` regions that do not touch; the first one's address.
fn regions(vm: &Vm, how: How) -> (Task, usize) {
    let task = vm.task().expect("a task");
    let first = 1 << 20;
    for n in 0..how.threads {
        task.allocate_at(first + n * how.stride, DENSE).expect("addresses");
    }
    (task, first)
}

fn zero_fill(vm: &Vm, how: How, order: &[usize]) -> f64 {
    let how = How { stride: APART, ..how };
    let (task, addr) = regions(vm, how);
    touch(task.as_ptr(addr), how, order)
}

/// Pages that are resident and mapped elsewhere: a child that shares them.
fn resident(vm: &Vm, how: How, order: &[usize]) -> f64 {
    let how = How { stride: APART, ..how };
    let (task, addr) = regions(vm, how);
    task.inherit(addr, how.threads * how.stride, Inherit::Share).expect("shared");
    for n in 0..how.threads {
        touch(task.as_ptr(addr + n * how.stride), How { threads: 1, ..how }, order);
    }
    let child = task.fork().expect("a child");
    touch(child.as_ptr(addr), how, order)
}

pub(crate) fn run() {
    let vm = Vm::new(Config { window: 1 << 30, ..Config::default() }).expect("a VM");
    let reference = Reference::new(2 * PAGES);
    let orders = [order(false), order(true)];
    let mut rows = vec![row![
        "first touch, ns a page",
        "Linux anon",
        "REF+zero",
        "REF",
        "zero-fill",
        "resident",
        "goal"
    ]];
    let mut one = [(0.0, 0.0); 2];
    for threads in [1, 2] {
        for random in [false, true] {
            let (how, order) = (How { threads, stride: DENSE }, &orders[usize::from(random)]);
            let mut s = Samples::default();
            for round in 0..=ROUNDS {
                let figures = [
                    ("linux", linux(how, order)),
                    ("zero", zero_fill(&vm, how, order)),
                    ("ref zero", reference.with(true, |p| touch(p, how, order))),
                    ("resident", resident(&vm, how, order)),
                    ("ref", reference.with(false, |p| touch(p, how, order))),
                ];
                // The first round makes tables and pages of the process.
                figures.iter().filter(|_| round != 0).for_each(|(name, ns)| s.add(name, *ns));
            }
            let zero = s.median("zero");
            let goals = match (threads, random) {
                (1, false) => format!("zero-fill/Linux {}", goal(s.ratio("zero", "linux"), 0.6)),
                (1, true) => format!(
                    "resident/REF {}, zero-fill/REF+zero {}",
                    goal(s.ratio("resident", "ref"), 1.15),
                    goal(s.ratio("zero", "ref zero"), 1.15)
                ),
                _ => format!(
                    "throughput of two/one {}, Linux's {:.2}",
                    goal_least(one[usize::from(random)].0 / zero, 1.5),
                    one[usize::from(random)].1 / s.median("linux")
                ),
            };
            if threads == 1 {
                one[usize::from(random)] = (zero, s.median("linux"));
            }
            let name = format!(
                "{}, {threads} thread{}",
                if random { "random" } else { "sequential" },
                if threads == 1 { "" } else { "s" }
            );
            let ns = |name| format!("{:.0}", s.median(name));
            rows.push(row![name, ns("linux"), ns("ref zero"), ns("ref"), ns("zero"), ns("resident"), goals]);
        }
    }
    table::print(
        "1. Page faults (medians of 11, variants in turn; one thread: processor time, two: wall time over all pages)",
        &rows,
    );
    println!("  REF: SIGBUS, UFFDIO_CONTINUE, return; +zero: memset through a second mapping first.");
}
