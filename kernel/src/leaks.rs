//! The leak check: when the first program ended, everything that programs had is free again.
//!
//! The other programs are ended, the trees of files taken apart, and then counted: pages that objects have, frames that
//! the kernel took of the VM less those that it knows it has, structures of the core, page tables, threads, pages on
//! swap. One line says what is left over; `cargo xtask kernel-test` wants zeroes.

use core::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use machvm_hal::{Event, MaySleep};

use crate::embed::{tables, the_vm};
use crate::process::{self, exit, signal};
use crate::{arch, fs, memory, sched, swap};

/// What is counted, in the order of the line.
const NAMES: [&str; 9] =
    ["frames lost", "page tables", "anons", "leaves", "nodes", "objects", "entries", "threads", "swap slots"];
const TABLES: usize = 1;
const THREADS: usize = 7;
type Counts = [i64; NAMES.len()];

/// The counts before the files and the first program, and the bytes of the heap that were in use.
static BEFORE: [AtomicI64; NAMES.len()] = [const { AtomicI64::new(0) }; NAMES.len()];
static HEAP_BEFORE: AtomicU64 = AtomicU64::new(0);
/// Nobody wakes it.
const PAUSE: Event = Event(0x11);

fn count() -> Counts {
    let vm = the_vm();
    let [pages, anons, leaves, inners, objects, entries] = vm.live().map(|n| n as i64);
    let (tables, spare) = tables();
    let tables = tables as i64;
    let lost =
        vm.frames_taken() as i64 - (memory::kept() + swap::frames()) as i64 - tables - i64::from(spare);
    let slots = swap::get().map_or(0, |s| s.used_pages()) as i64;
    [pages + lost, tables, anons, leaves, inners, objects, entries, i64::from(sched::threads()), slots]
}

/// => before there are files.
pub(crate) fn start() {
    // Whatever the pmap keeps for the next one is there.
    drop(process::new_pmap());
    BEFORE.iter().zip(count()).for_each(|(b, n)| b.store(n, Ordering::Relaxed));
}

/// What `f` makes is there for ever.
pub(crate) fn not_counting(f: impl FnOnce()) {
    let before = count();
    f();
    let after = count();
    for (b, (n, old)) in BEFORE.iter().zip(after.into_iter().zip(before)) {
        b.fetch_add(n - old, Ordering::Relaxed);
    }
}

/// The first program is about to start.
pub(crate) fn programs_start() {
    BEFORE[THREADS].store(i64::from(sched::threads()), Ordering::Relaxed);
    HEAP_BEFORE.store(crate::heap::used(), Ordering::Relaxed);
}

/// What there is more than at the start. The thread that asks is not counted.
fn left_over() -> Counts {
    let mut now = count();
    now.iter_mut().zip(&BEFORE).for_each(|(n, b)| *n -= b.load(Ordering::Relaxed));
    now[THREADS] -= 1;
    // The pmap keeps a spare table for each CPU, when there was one to keep.
    if (-1..i64::from(sched::online().count_ones())).contains(&now[TABLES]) {
        now[TABLES] = 0;
    }
    now
}

fn pause() {
    let ticket = sched::assert_wait(PAUSE);
    sched::block(ticket, Some(arch::now_ns() + 10_000_000));
}

/// Ends all programs but the running one; gives how many there still are after some seconds.
fn end_the_others() -> usize {
    let me = sched::process().pid;
    for _ in 0..1000 {
        let others = process::all(|p| p.pid != me && !p.is_zombie());
        if others.is_empty() {
            return 0;
        }
        others.iter().for_each(|p| exit::end_by(p, signal::SIGKILL));
        drop(others);
        pause();
    }
    process::all(|p| p.pid != me && !p.is_zombie()).len()
}

/// Ends what still runs, and says what is left over. => the first program's last thread calls; its memory is given up.
pub(crate) fn check() {
    let alive = end_the_others();
    if alive != 0 {
        crate::say!("machvm: {alive} processes do not end");
    }
    sched::process().files.lock().close_all();
    crate::syscall::memory::forget_segments();
    fs::shut_down();
    let may = &mut MaySleep::claim();
    // Other threads may be about to give the last of it back.
    for _ in 0..200 {
        while the_vm().free_replaced(may) {}
        swap::tidy();
        sched::bury();
        if left_over() == [0; NAMES.len()] {
            break;
        }
        pause();
    }
    let heap = crate::heap::used() as i64 - HEAP_BEFORE.load(Ordering::Relaxed) as i64;
    let mut line = alloc::string::String::new();
    for (n, name) in left_over().iter().zip(NAMES) {
        use core::fmt::Write;
        let _ = write!(line, "{n} {name}, ");
    }
    crate::say!("machvm: leak check: {line}{heap:+} bytes of heap");
}
