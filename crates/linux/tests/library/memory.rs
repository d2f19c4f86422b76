//! Less memory than data.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use crate::{PAGE, Rng, config, load, small_vm, store};
use machvm_linux::{Config, Swap, Task, Vm};

const LIMIT: u64 = 16 << 20;

/// Watches the frames that Linux counts while `work` runs; gives the most it saw.
fn watched(vm: &Vm, work: impl FnOnce()) -> u64 {
    let (stop, most) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|s| {
        s.spawn(|| {
            while !stop.load(Relaxed) {
                most.fetch_max(vm.statistics().expect("statistics").frames, Relaxed);
                thread::sleep(Duration::from_micros(200));
            }
        });
        work();
        stop.store(true, Relaxed);
    });
    most.into_inner()
}

/// Contents of page `i` in version `v`: a third repeats a word, a third compresses, a
/// third does not.
fn fill(task: &Task, addr: usize, i: usize, v: u64) {
    let mut x = (i as u64) << 32 | v | 1;
    // SAFETY: one page of writable memory of the task.
    let page = unsafe { core::slice::from_raw_parts_mut(task.as_ptr(addr).cast::<u64>(), PAGE / 8) };
    for (k, w) in page.iter_mut().enumerate() {
        match i % 3 {
            0 => {}
            1 => x = ((i as u64) << 32 | v | 1).wrapping_add(k as u64 / 16),
            _ => {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
            }
        }
        *w = x;
    }
}

fn is(task: &Task, addr: usize, i: usize, v: u64) -> bool {
    let mut x = (i as u64) << 32 | v | 1;
    // SAFETY: one page of readable memory of the task.
    let page = unsafe { core::slice::from_raw_parts(task.as_ptr(addr).cast::<u64>(), PAGE / 8) };
    page.iter().enumerate().all(|(k, w)| {
        match i % 3 {
            0 => {}
            1 => x = ((i as u64) << 32 | v | 1).wrapping_add(k as u64 / 16),
            _ => {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
            }
        }
        *w == x
    })
}

/// Rewrites and verifies pages at random; each thread has its own.
fn churn(task: &Task, a: usize, pages: usize, rounds: usize, seed: u64) {
    let mut rng = Rng::new(seed);
    let mut version = vec![0u64; pages];
    for i in 0..pages {
        fill(task, a + i * PAGE, i, 0);
    }
    for _ in 0..rounds {
        let i = rng.below(pages);
        assert!(is(task, a + i * PAGE, i, version[i]), "page {i} of version {}", version[i]);
        if rng.below(3) == 0 {
            version[i] += 2;
            fill(task, a + i * PAGE, i, version[i]);
        }
    }
    for (i, v) in version.iter().enumerate() {
        assert!(is(task, a + i * PAGE, i, *v), "page {i} of version {v} at the end");
    }
}

fn assert_within(vm: &Vm, seen: u64) {
    let s = vm.statistics().expect("statistics");
    let limit = LIMIT / PAGE as u64;
    println!(
        "seen {seen}, peak {} of {limit} frames, {} out, {} in",
        s.core.frames_peak, s.core.swapouts, s.core.swapins
    );
    assert!(seen <= limit && s.core.frames_peak <= limit, "{seen} frames of {limit}");
    assert!(s.core.swapouts >= 2 * limit, "only {} pages went out", s.core.swapouts);
}

#[test]
fn four_times_the_memory_is_verified_in_random_order() {
    let vm = small_vm(LIMIT);
    let task = vm.task().expect("a task");
    let a = task.allocate(64 << 20).expect("addresses");
    let seen = watched(&vm, || churn(&task, a, (64 << 20) / PAGE, 30_000, 1));
    assert_within(&vm, seen);
    drop(task);
    assert_eq!(vm.live(), [0; 6]);
    let s = vm.statistics().expect("statistics");
    assert_eq!((s.frames, s.pool.expect("a pool").pages), (0, 0), "swap is empty again");
}

#[test]
fn two_threads_share_a_memory_that_is_too_small() {
    let vm = small_vm(LIMIT);
    let task = vm.task().expect("a task");
    let a = task.allocate(64 << 20).expect("addresses");
    let seen = watched(&vm, || {
        thread::scope(|s| {
            for n in 0..2 {
                let (task, half) = (&task, 32 << 20);
                s.spawn(move || churn(task, a + n * half, half / PAGE, 15_000, 10 + n as u64));
            }
        });
    });
    assert_within(&vm, seen);
}

/// Two threads write to the two halves of the same pages, under memory pressure.
#[test]
fn threads_write_to_the_same_pages() {
    const PAGES: usize = 8192;
    let vm = small_vm(LIMIT);
    let task = vm.task().expect("a task");
    let a = task.allocate(PAGES * PAGE).expect("addresses");
    let work = |half: usize| {
        let mut rng = Rng::new(20 + half as u64);
        let mut count = vec![0u64; PAGES];
        for _ in 0..60_000 {
            let i = rng.below(PAGES);
            let at = a + i * PAGE + half * PAGE / 2 + 8 * (i % 200);
            assert_eq!(load(&task, at), count[i], "page {i}");
            count[i] += 1;
            store(&task, at, count[i]);
        }
    };
    thread::scope(|s| {
        s.spawn(|| work(0));
        s.spawn(|| work(1));
    });
}

/// Threads that live for a few faults each.
#[test]
fn threads_come_and_go() {
    let vm = small_vm(1 << 20);
    let task = vm.task().expect("a task");
    let a = task.allocate(4 << 20).expect("addresses");
    for round in 0..300 {
        thread::scope(|s| {
            for n in 0..8 {
                let task = &task;
                s.spawn(move || {
                    for i in 0..8 {
                        let at = a + (n * 128 + (round * 8 + i) % 128) * PAGE;
                        let was = load(task, at);
                        store(task, at, was + 1);
                    }
                });
            }
        });
    }
    let sum: u64 = (0..1024).map(|i| load(&task, a + i * PAGE)).sum();
    assert_eq!(sum, 300 * 8 * 8);
}

/// A C library's thread, which has no alternate stack at all.
#[test]
fn threads_without_an_alternate_stack_fault() {
    extern "C" fn body(at: *mut libc::c_void) -> *mut libc::c_void {
        // SAFETY: 64 pages of writable memory.
        unsafe { (0..64).for_each(|i| at.cast::<u64>().add(512 * i).write_volatile(3)) };
        core::ptr::null_mut()
    }
    let vm = small_vm(1 << 20);
    let task = vm.task().expect("a task");
    let a = task.allocate(64 * PAGE).expect("addresses");
    let mut thread = 0;
    // SAFETY: the memory outlives the thread, which is joined.
    unsafe {
        assert_eq!(libc::pthread_create(&raw mut thread, core::ptr::null(), body, task.as_ptr(a).cast()), 0);
        libc::pthread_join(thread, core::ptr::null_mut());
    }
    assert!((0..64).all(|i| load(&task, a + i * PAGE) == 3));
}

#[test]
fn without_swap_memory_ends_with_an_error() {
    let vm = Vm::new(Config { memory: Some(1 << 20), swap: Swap::None, ..config() }).expect("a VM");
    let task = vm.task().expect("a task");
    let a = task.allocate(4 << 20).expect("addresses");
    let r = task.write(a, &vec![1; 4 << 20]);
    assert!(matches!(r, Err(machvm_linux::Error::NoMemory(at)) if at > a + (1 << 19)), "{r:?}");
    // What is there can be used, and freeing gives room.
    assert_eq!(load(&task, a), 0x0101_0101_0101_0101);
    task.deallocate(a, 1 << 19).expect("freed");
    task.write(a + (2 << 20), &[2; 1 << 18]).expect("room");
}

#[test]
fn pages_are_paged_out_on_demand() {
    let vm = small_vm(4 << 20);
    let task = vm.task().expect("a task");
    let a = task.allocate(2 << 20).expect("addresses");
    (0..512).for_each(|i| store(&task, a + i * PAGE, i as u64));
    let freed = vm.page_out(256).expect("paged out");
    let s = vm.statistics().expect("statistics");
    assert!(freed >= 256 && s.frames + freed <= 512, "{freed} freed, {} resident", s.frames);
    assert!((0..512).all(|i| load(&task, a + i * PAGE) == i as u64));
}

/// Under pressure, with forks: 8 tasks that share most of their pages.
#[test]
fn children_are_isolated_under_pressure() {
    const PAGES: usize = 1024;
    let vm = small_vm(4 << 20);
    let mut rng = Rng::new(33);
    let parent = vm.task().expect("a task");
    let a = parent.allocate(PAGES * PAGE).expect("addresses");
    (0..PAGES).for_each(|i| store(&parent, a + i * PAGE, i as u64));
    let mut tasks = vec![(parent, (0..PAGES as u64).collect::<Vec<_>>())];
    for _ in 0..8 {
        let who = rng.below(tasks.len());
        let (child, view) = (tasks[who].0.fork().expect("a child"), tasks[who].1.clone());
        tasks.push((child, view));
        for _ in 0..2_000 {
            let who = rng.below(tasks.len());
            let (i, v) = (rng.below(PAGES), rng.draw());
            let (task, view) = &mut tasks[who];
            assert_eq!(load(task, a + i * PAGE), view[i]);
            if v % 2 == 0 {
                store(task, a + i * PAGE, v);
                view[i] = v;
            }
        }
    }
    for (n, (task, view)) in tasks.iter().enumerate() {
        assert!((0..PAGES).all(|i| load(task, a + i * PAGE) == view[i]), "task {n}");
    }
    assert!(vm.statistics().expect("statistics").core.swapouts > 1000);
    drop(tasks);
    assert_eq!(vm.live(), [0; 6]);
}
