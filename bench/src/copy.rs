//! Table 2: copying a gigabyte.

use std::time::Instant;

use machvm_linux::{Config, Vm};

use crate::faults::PAGE;
use crate::row;
use crate::table::{self, Samples, goal};

const BYTES: usize = 1 << 30;
const PAGES: usize = BYTES / PAGE;
const ROUNDS: usize = 5;

/// What is in memory before a copy.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    /// Every so many pages of the source; 0: none.
    step: usize,
    /// All of the destination, which was copied to before or not.
    to: To,
    /// Milliseconds.
    goal: Option<f64>,
}

#[derive(Clone, Copy, PartialEq)]
enum To {
    Empty,
    Used,
    CopiedAndUsed,
}

const CASES: [Case; 5] = [
    Case { name: "nothing touched", step: 0, to: To::Empty, goal: Some(1.0) },
    Case { name: "every 64th page", step: 64, to: To::Empty, goal: None },
    Case { name: "every page", step: 1, to: To::Empty, goal: Some(10.0) },
    Case { name: "every page, the destination's too", step: 1, to: To::Used, goal: None },
    Case { name: "the same once more", step: 1, to: To::CopiedAndUsed, goal: None },
];

/// Linux's own: memory of 4 KiB pages, all of them in use.
struct Linux(*mut u8);

impl Linux {
    fn new() -> Self {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: not MAP_FIXED.
        let p = unsafe { libc::mmap(core::ptr::null_mut(), BYTES, prot, flags, -1, 0) };
        assert_ne!(p, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
        // SAFETY: a mapping of ours.
        unsafe { libc::madvise(p, BYTES, libc::MADV_NOHUGEPAGE) };
        Linux(p.cast())
    }
    /// Milliseconds of CPU time, and of the clock, to take write access from all of it.
    fn protect(&self) -> (f64, f64) {
        fill(self.0, 1);
        // SAFETY: a mapping of ours.
        let mprotect = |prot| unsafe { libc::mprotect(self.0.cast(), BYTES, prot) };
        let (begun, cpu) = (Instant::now(), cpu_ms());
        assert_eq!(mprotect(libc::PROT_READ), 0);
        let ms = (cpu_ms() - cpu, begun.elapsed().as_secs_f64() * 1e3);
        assert_eq!(mprotect(libc::PROT_READ | libc::PROT_WRITE), 0);
        ms
    }
}

impl Drop for Linux {
    fn drop(&mut self) {
        // SAFETY: a mapping of ours.
        unsafe { libc::munmap(self.0.cast(), BYTES) };
    }
}

/// CPU time of this thread, milliseconds: where others keep the CPUs busy, it is what can be
/// compared.
fn cpu_ms() -> f64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: room for the time.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut t) }, 0);
    t.tv_sec as f64 * 1e3 + t.tv_nsec as f64 / 1e6
}

/// A byte of each page.
fn fill(at: *mut u8, value: u8) {
    for i in 0..PAGES {
        // SAFETY: the caller's memory.
        unsafe { at.add(i * PAGE).write_volatile(value) };
    }
}

/// One `vm_copy`.
struct Took {
    /// Milliseconds of the call.
    ms: f64,
    /// CPU time of it.
    cpu: f64,
    /// And until what it replaced was freed.
    freed: f64,
    /// Fraction of the source that was in memory.
    resident: f64,
}

fn once(vm: &Vm, case: Case) -> Took {
    let task = vm.task().expect("a task");
    let from = task.allocate(BYTES).expect("addresses");
    let to = task.allocate(BYTES).expect("addresses");
    let copy = || task.copy(from, BYTES, &task, to).expect("copied");
    if case.step != 0 {
        for i in (0..PAGES).step_by(case.step) {
            // SAFETY: a page of the task.
            unsafe { task.as_ptr(from + i * PAGE).write_volatile(1) };
        }
    }
    let resident = task.mapped_pages() as f64 / PAGES as f64;
    if case.to == To::CopiedAndUsed {
        copy();
        fill(task.as_ptr(from), 1);
    }
    if case.to != To::Empty {
        fill(task.as_ptr(to), 3);
    }
    let _ = vm.live(); // nothing of an earlier copy is being freed
    let (begun, before) = (Instant::now(), cpu_ms());
    copy();
    let (cpu, ms) = (cpu_ms() - before, begun.elapsed().as_secs_f64() * 1e3);
    let _ = vm.live();
    let freed = begun.elapsed().as_secs_f64() * 1e3;
    if case.step != 0 {
        // The copy is one: a page of it is right, and it is isolated.
        // SAFETY: pages of the task.
        unsafe {
            task.as_ptr(from).write_volatile(2);
            assert_eq!(task.as_ptr(to).read_volatile(), 1);
        }
    }
    Took { ms, cpu, freed, resident }
}

pub(crate) fn run() {
    let mut rows = vec![row![
        "vm_copy of 1 GiB, in memory:",
        "source",
        "ms",
        "ns a page of it",
        "goal",
        "CPU ms",
        "of mprotect's",
        "ms until freed",
    ]];
    let linux = Linux::new();
    let mut protect = (f64::NAN, f64::NAN);
    for case in CASES {
        let vm = Vm::new(Config { window: 4 << 30, ..Config::default() }).expect("a VM");
        let (mut s, mut resident) = (Samples::default(), 0.0);
        for _ in 0..ROUNDS {
            let (cpu, ms) = linux.protect();
            s.add("linux", cpu);
            s.add("linux ms", ms);
            let took = once(&vm, case);
            s.add("ms", took.ms);
            s.add("ours", took.cpu);
            s.add("freed", took.freed);
            resident = took.resident;
        }
        let ms = s.median("ms");
        protect = (s.median("linux"), s.median("linux ms"));
        let all = resident > 0.99;
        rows.push(row![
            case.name,
            format!("{:.1} %", resident * 100.0),
            format!("{ms:.3}"),
            if resident > 0.0 { format!("{:.0}", ms * 1e6 / (resident * PAGES as f64)) } else { "-".into() },
            case.goal.map_or("-".into(), |most| goal(ms, most)),
            format!("{:.2}", s.median("ours")),
            if all { format!("{:.2}", s.ratio("ours", "linux")) } else { "-".into() },
            format!("{:.1}", s.median("freed")),
        ]);
    }
    table::print("2. Copy (medians of 5, each in a new task)", &rows);
    println!(
        "  Linux's own write protection of as many pages (mprotect of shared memory, in turn): {:.1} ms, CPU {:.1} ms, {:.0} ns a page",
        protect.1,
        protect.0,
        protect.0 * 1e6 / PAGES as f64
    );
}
