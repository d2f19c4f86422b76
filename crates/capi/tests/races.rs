//! Copies on one thread while another changes what they work on (Z103; the kernel's rule
//! for copyin and copyout): nothing is written where the right is gone, a page is of one
//! object, and calls in opposite directions end.
//!
//! The programs' own loads look at the results, so what is checked is what a C program sees.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use machvm_capi::calls::allocate::{mach_vm_allocate, mach_vm_deallocate};
use machvm_capi::calls::copy::mach_vm_copy;
use machvm_capi::calls::protect::mach_vm_protect;
use machvm_capi::calls::read::mach_vm_read_overwrite;
use machvm_capi::calls::remap::mach_vm_remap;
use machvm_capi::calls::tasks::{task_create, task_terminate};
use machvm_capi::calls::write::mach_vm_write;
use machvm_capi::kr::*;
use machvm_capi::ports::TASK_SELF as ME;

const PAGE: u64 = 4096;
/// How long each test goes on.
const LONG: Duration = Duration::from_millis(1500);
/// `VM_FLAGS_OVERWRITE`.
const OVERWRITE: i32 = 0x4000;

fn allocate_in(task: u32, size: u64) -> u64 {
    let mut at = 0;
    // SAFETY: a good address.
    assert_eq!(unsafe { mach_vm_allocate(task, &raw mut at, size, 1) }, KERN_SUCCESS);
    at
}

fn allocate(size: u64) -> u64 {
    allocate_in(ME, size)
}

fn free(at: u64, size: u64) {
    assert_eq!(mach_vm_deallocate(ME, at, size), KERN_SUCCESS);
}

/// What is at `at` now, by loads. It may be changing.
fn now(at: u64, len: u64) -> Vec<u8> {
    let mut copy = Vec::with_capacity(len as usize);
    for i in 0..len / 8 {
        // SAFETY: memory of the test, readable.
        let word = unsafe { ((at + i * 8) as *const u64).read_volatile() };
        copy.extend(word.to_ne_bytes());
    }
    copy
}

fn fill(at: u64, len: u64, byte: u8) {
    // SAFETY: memory of the test, which only this thread stores to.
    unsafe { (at as *mut u8).write_bytes(byte, len as usize) };
}

/// A generator whose seed is printed: `MACHVM_SEED` replays it.
struct Random(u64);

impl Random {
    fn new(test: &str) -> Self {
        let given = std::env::var("MACHVM_SEED").ok().and_then(|s| s.parse().ok());
        let seed: u64 = given.unwrap_or_else(|| {
            let now = std::time::UNIX_EPOCH.elapsed().unwrap();
            now.as_nanos() as u64 | 1
        });
        println!("{test}: MACHVM_SEED={seed}");
        Random(seed.max(1))
    }
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// Ends the process, and so the test, if `f` does not end: a deadlock cannot be joined.
fn ends(name: &str, f: impl FnOnce() + Send + 'static) {
    let (done, wait) = channel();
    let worker = thread::spawn(move || {
        f();
        let _ = done.send(());
    });
    if wait.recv_timeout(Duration::from_secs(120)) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
        eprintln!("{name}: no end within 120 seconds");
        std::process::abort();
    }
    worker.join().unwrap();
}

/// z103: while a range is read-only nothing in it changes, whoever copies to it: from the
/// window or from the heap, aligned or not, large or small.
#[test]
fn z103_nothing_is_written_where_the_right_is_gone() {
    ends("z103", || {
        const PAGES: u64 = 8;
        let (target, source) = (allocate(PAGES * PAGE), allocate(PAGES * PAGE));
        let heap = vec![0u8; (PAGES * PAGE) as usize];
        let from_heap = heap.as_ptr().expose_provenance() as u64;
        let over = AtomicBool::new(false);
        thread::scope(|s| {
            let over = &over;
            s.spawn(move || {
                let mut random = Random::new("z103");
                let (mut done, mut refused) = (0u64, 0u64);
                while !over.load(Relaxed) {
                    let byte = random.below(255) as u8 + 1;
                    let from = if random.below(2) == 0 { source } else { from_heap };
                    fill(from, PAGES * PAGE, byte);
                    let aligned = random.below(3) == 0;
                    let (shift, skew) = match aligned {
                        true => (random.below(4) * PAGE, 0),
                        false => (random.below(3 * PAGE), random.below(PAGE)),
                    };
                    let len = match random.below(3) {
                        0 => random.below(2 * PAGE),
                        1 => 4 * PAGE,
                        _ => random.below(4 * PAGE) + 1,
                    };
                    match mach_vm_copy(ME, from + skew, len, target + shift) {
                        KERN_SUCCESS => done += 1,
                        KERN_PROTECTION_FAILURE => refused += 1,
                        // A small one hides the right.
                        KERN_INVALID_ADDRESS if len < 2 * PAGE => refused += 1,
                        e => panic!("{e} for {len} bytes to {shift:#x}"),
                    }
                }
                println!("{done} copies, {refused} refused");
                assert!(done > 0);
            });
            let start = Instant::now();
            let mut held = 0;
            while start.elapsed() < LONG {
                assert_eq!(mach_vm_protect(ME, target, PAGES * PAGE, 0, 1), KERN_SUCCESS);
                let before = now(target, PAGES * PAGE);
                thread::yield_now();
                for _ in 0..3 {
                    assert!(now(target, PAGES * PAGE) == before, "written without the right");
                }
                held += 1;
                assert_eq!(mach_vm_protect(ME, target, PAGES * PAGE, 0, 3), KERN_SUCCESS);
                thread::yield_now();
            }
            over.store(true, Relaxed);
            assert!(held > 10, "{held}");
        });
        free(target, PAGES * PAGE);
        free(source, PAGES * PAGE);
    });
}

fn remap(to: u64, from: u64, size: u64, copy: u32) {
    let (mut at, mut prot, mut max) = (to, 0, 0);
    // SAFETY: good addresses.
    let r = unsafe {
        let (prot, max) = (&raw mut prot, &raw mut max);
        mach_vm_remap(ME, &raw mut at, size, 0, OVERWRITE, ME, from, copy, prot, max, 1)
    };
    assert_eq!((r, at), (KERN_SUCCESS, to));
}

/// z103: while a range is mapped to one object and to another in turn, shared and copied,
/// every page that is read is of one of them; unaligned destinations, in the window and in
/// the heap.
#[test]
fn z103_no_page_is_half_of_another_object() {
    ends("halves", || {
        const PAGES: u64 = 6;
        let size = PAGES * PAGE;
        let (range, one, other) = (allocate(size), allocate(size), allocate(size));
        fill(one, size, 0xaa);
        fill(other, size, 0xbb);
        remap(range, one, size, 0);
        let window = allocate(size + PAGE);
        let heap = vec![0u8; (size + PAGE) as usize];
        let heap_at = heap.as_ptr().expose_provenance() as u64;
        let over = AtomicBool::new(false);
        thread::scope(|s| {
            let over = &over;
            s.spawn(move || {
                let mut random = Random::new("halves");
                let (mut seen, mut mixed) = ([0u64; 2], 0u64);
                while !over.load(Relaxed) {
                    let skew = random.below(PAGE);
                    let to = if random.below(2) == 0 { window } else { heap_at };
                    let count = (random.below(PAGES) + 1) * PAGE;
                    let r = if random.below(2) == 0 {
                        mach_vm_copy(ME, range, count, to + skew)
                    } else {
                        let mut n = 0;
                        // SAFETY: a good address.
                        unsafe { mach_vm_read_overwrite(ME, range, count, to + skew, &raw mut n) }
                    };
                    assert_eq!(r, KERN_SUCCESS, "the range is always mapped");
                    let mut kinds = 0;
                    for page in 0..count / PAGE {
                        let at = to + skew + page * PAGE;
                        // SAFETY: memory of this thread's alone.
                        let got = unsafe { std::slice::from_raw_parts(at as *const u8, PAGE as usize) };
                        assert!(got[0] == 0xaa || got[0] == 0xbb, "{:#x}", got[0]);
                        let odd = got.iter().position(|b| *b != got[0]);
                        assert!(odd.is_none(), "page {page} changes at {odd:?}: {:#x}", got[odd.unwrap()]);
                        kinds |= 1 << u32::from(got[0] == 0xbb);
                        seen[usize::from(got[0] == 0xbb)] += 1;
                    }
                    mixed += u64::from(kinds == 3);
                }
                println!("pages of the one, of the other: {seen:?}; copies with both: {mixed}");
                assert!(seen[0] > 0 && seen[1] > 0);
            });
            let start = Instant::now();
            let mut turn = 0u32;
            while start.elapsed() < LONG {
                turn += 1;
                let from = if turn.is_multiple_of(2) { one } else { other };
                remap(range, from, size, u32::from(turn % 8 >= 4));
            }
            over.store(true, Relaxed);
        });
        free(range, size);
        free(one, size);
        free(other, size);
        free(window, size + PAGE);
    });
}

/// Two tasks, in both directions at once, while regions come and go in both: every call
/// ends, and every byte is one that was written there.
#[test]
fn two_tasks_in_both_directions_end() {
    ends("two tasks", || {
        let mut child = 0;
        // SAFETY: a good address.
        let r = unsafe { task_create(ME, std::ptr::null_mut(), 0, 0, &raw mut child) };
        assert_eq!(r, KERN_SUCCESS);
        const SIZE: u64 = 9 * PAGE;
        let (mine, theirs) = (allocate(SIZE), allocate_in(child, SIZE));
        fill(mine, SIZE, 0x11);
        assert_eq!(mach_vm_write(child, theirs, mine as usize, SIZE as u32), KERN_SUCCESS);
        let over = AtomicBool::new(false);
        thread::scope(|s| {
            for thread in 0..4u64 {
                let over = &over;
                s.spawn(move || {
                    let mut random = Random::new("two tasks");
                    random.0 = random.0.wrapping_add(thread << 32) | 1;
                    let mut calls = 0u64;
                    while !over.load(Relaxed) {
                        let (a, b) = (random.below(3 * PAGE), random.below(3 * PAGE));
                        let len = random.below(5 * PAGE) + 1;
                        let r = match (thread + random.below(2)) % 4 {
                            0 => mach_vm_write(child, theirs + a, (mine + b) as usize, len as u32),
                            1 => {
                                let mut n = 0;
                                // SAFETY: a good address.
                                unsafe {
                                    mach_vm_read_overwrite(child, theirs + a, len, mine + b, &raw mut n)
                                }
                            }
                            2 => mach_vm_copy(child, theirs + a, len, theirs + b),
                            _ => {
                                // Something comes and goes beside it, in either task.
                                let task = if random.below(2) == 0 { ME } else { child };
                                let at = allocate_in(task, len);
                                mach_vm_deallocate(task, at, len)
                            }
                        };
                        assert_eq!(r, KERN_SUCCESS);
                        calls += 1;
                    }
                    println!("{calls} calls");
                    assert!(calls > 0);
                });
            }
            thread::sleep(LONG);
            over.store(true, Relaxed);
        });
        assert!(now(mine, SIZE).iter().all(|b| *b == 0x11));
        free(mine, SIZE);
        assert_eq!(task_terminate(child), KERN_SUCCESS);
    });
}
