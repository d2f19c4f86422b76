//! Table 2b: the first store into each page after a copy, beside Linux's own.
//!
//! Every variant works on memory that the machine has used before, and the variants take
//! turns: where the kernel itself runs on a hypervisor, a page that it never used costs
//! several faults' worth of time at its first touch, whoever touches it.

use std::time::Instant;

use machvm_linux::{Config, Faults, Vm};

use crate::faults::PAGE;
use crate::row;
use crate::table::{self, Samples};

const PAGES: usize = 16384;
const BYTES: usize = PAGES * PAGE;
const ROUNDS: usize = 7;

/// Ascending, or an order in which no two neighbours follow each other.
fn place(random: bool, i: usize) -> usize {
    // Odd, so that every page of the power of two comes once.
    if random { i.wrapping_mul(0x9e3b) % PAGES } else { i }
}

/// Nanoseconds of wall time for each page.
fn store(at: *mut u8, random: bool) -> f64 {
    let begun = Instant::now();
    for i in 0..PAGES {
        // SAFETY: the caller's memory.
        unsafe { at.add(place(random, i) * PAGE).write_volatile(2) };
    }
    begun.elapsed().as_nanos() as f64 / PAGES as f64
}

/// Linux's own: the parent's stores while a child of `fork` has the memory too.
fn linux(random: bool) -> f64 {
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: not MAP_FIXED; the child calls what may be called there; everything is ended
    // and unmapped here.
    unsafe {
        let p = libc::mmap(core::ptr::null_mut(), BYTES, prot, flags, -1, 0);
        assert_ne!(p, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
        libc::madvise(p, BYTES, libc::MADV_NOHUGEPAGE);
        (0..PAGES).for_each(|i| p.cast::<u8>().add(i * PAGE).write_volatile(1));
        let child = libc::fork();
        assert!(child >= 0, "{}", std::io::Error::last_os_error());
        if child == 0 {
            loop {
                libc::pause();
            }
        }
        let ns = store(p.cast(), random);
        libc::kill(child, libc::SIGKILL);
        libc::waitpid(child, core::ptr::null_mut(), 0);
        libc::munmap(p, BYTES);
        ns
    }
}

/// Into the original, or into the copy.
fn ours(vm: &Vm, original: bool, random: bool) -> f64 {
    let task = vm.task().expect("a task");
    let from = task.allocate(BYTES).expect("addresses");
    let to = task.allocate(BYTES).expect("addresses");
    for i in 0..PAGES {
        // SAFETY: a page of the task.
        unsafe { task.as_ptr(from + i * PAGE).write_volatile(1) };
    }
    task.copy(from, BYTES, &task, to).expect("copied");
    let (written, other) = if original { (from, to) } else { (to, from) };
    let ns = store(task.as_ptr(written), random);
    for i in [0, PAGES / 2, PAGES - 1] {
        // SAFETY: pages of the task.
        let read = |at: usize| unsafe { task.as_ptr(at + i * PAGE).read_volatile() };
        assert_eq!((read(written), read(other)), (2, 1), "page {i}");
    }
    ns
}

pub(crate) fn run() {
    let vm = |faults| Vm::new(Config { window: 1 << 30, faults, ..Config::default() }).ok();
    let (signal, thread) = (vm(Faults::Signal).expect("a VM"), vm(Faults::Thread));
    let mut rows = vec![row![
        "first stores after a copy, ns a page",
        "Linux after fork",
        "original",
        "of Linux",
        "copy",
        "of Linux",
        "original, thread",
        "of signal",
        "copy, thread",
        "of signal",
    ]];
    for random in [false, true] {
        let mut s = Samples::default();
        for round in 0..=ROUNDS {
            let mut all = vec![
                ("linux", linux(random)),
                ("original", ours(&signal, true, random)),
                ("copy", ours(&signal, false, random)),
            ];
            if let Some(vm) = &thread {
                all.push(("original, thread", ours(vm, true, random)));
                all.push(("copy, thread", ours(vm, false, random)));
            }
            // The first round is the one whose memory is new to the machine.
            all.iter().filter(|_| round != 0).for_each(|(name, ns)| s.add(name, *ns));
        }
        let ns = |name| format!("{:.0}", s.median(name));
        let of = |a, b| format!("{:.2}", s.ratio(a, b));
        rows.push(row![
            if random { "random" } else { "sequential" },
            ns("linux"),
            ns("original"),
            of("original", "linux"),
            ns("copy"),
            of("copy", "linux"),
            ns("original, thread"),
            of("original, thread", "original"),
            ns("copy, thread"),
            of("copy, thread", "copy"),
        ]);
    }
    table::print("2b. First stores (64 MiB, medians of 7, variants in turn, wall time)", &rows);
}
