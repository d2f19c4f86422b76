//! Table 6: the Mach calls through the C library, beside what Linux has for the same.
//!
//! Every variant has its pages resident before the clock starts, and is run in turn with
//! the others. A copy that shares pages is paid for by the first stores; that row is here.

use std::time::Instant;

use machvm_capi as _;

use crate::faults::PAGE;
use crate::row;
use crate::table::{self, Samples, goal};

const SELF: u32 = 0x203;
const ANYWHERE: i32 = 1;
/// Regions of the walk.
const REGIONS: usize = 100_000;

unsafe extern "C" {
    fn mach_vm_allocate(task: u32, at: *mut u64, size: u64, flags: i32) -> i32;
    fn mach_vm_deallocate(task: u32, at: u64, size: u64) -> i32;
    fn mach_vm_copy(task: u32, from: u64, size: u64, to: u64) -> i32;
    fn mach_vm_read(task: u32, from: u64, size: u64, data: *mut usize, count: *mut u32) -> i32;
    fn mach_vm_write(task: u32, to: u64, data: usize, count: u32) -> i32;
    fn mach_vm_protect(task: u32, at: u64, size: u64, max: u32, prot: i32) -> i32;
    fn mach_vm_region(
        task: u32,
        at: *mut u64,
        size: *mut u64,
        flavor: i32,
        info: *mut i32,
        count: *mut u32,
        name: *mut u32,
    ) -> i32;
}

fn done(code: i32) {
    assert_eq!(code, 0, "a call of the C library failed");
}

fn allocate(size: usize) -> u64 {
    let mut at = 0;
    // SAFETY: a good address.
    done(unsafe { mach_vm_allocate(SELF, &raw mut at, size as u64, ANYWHERE) });
    at
}
fn deallocate(at: u64, size: usize) {
    // SAFETY: nobody uses the memory any more.
    done(unsafe { mach_vm_deallocate(SELF, at, size as u64) });
}
fn at(address: u64) -> *mut u8 {
    core::ptr::with_exposed_provenance_mut(address as usize)
}
/// Stores a byte in each page.
fn touch(address: u64, size: usize, value: u8) {
    for i in (0..size).step_by(PAGE) {
        // SAFETY: memory that was allocated.
        unsafe { at(address + i as u64).write_volatile(value) };
    }
}

fn anonymous(size: usize) -> u64 {
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: not MAP_FIXED.
    let p = unsafe { libc::mmap(core::ptr::null_mut(), size, prot, flags, -1, 0) };
    assert_ne!(p, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
    p.expose_provenance() as u64
}
fn unmap(address: u64, size: usize) {
    // SAFETY: a mapping of ours.
    assert_eq!(unsafe { libc::munmap(at(address).cast(), size) }, 0);
}

/// Microseconds.
fn clock(what: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    what();
    begun.elapsed().as_secs_f64() * 1e6
}

/// One size, every variant once.
fn copies(size: usize, s: &mut Samples) {
    let (a, b) = (anonymous(size), anonymous(size));
    touch(a, size, 1);
    touch(b, size, 2);
    // SAFETY: two mappings of this size.
    s.add("memcpy", clock(|| unsafe { at(b).copy_from_nonoverlapping(at(a), size) }));
    let iov = |p: u64| libc::iovec { iov_base: at(p).cast(), iov_len: size };
    // SAFETY: as above; the vectors are good.
    let moved = || unsafe { libc::process_vm_readv(libc::getpid(), &iov(b), 1, &iov(a), 1, 0) };
    // Linux moves at most 2 GiB less a page in one call.
    s.add("readv", clock(|| assert_eq!(moved(), size.cast_signed())));
    // SAFETY: a mapping of ours, moved over another of ours.
    let moved = |from: u64, to: u64| unsafe {
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        libc::mremap(at(from).cast(), size, size, flags, at(to))
    };
    s.add("mremap", clock(|| assert_ne!(moved(a, b), libc::MAP_FAILED)));
    touch(b, size, 3);
    // What sharing resident pages costs Linux itself: their write access.
    // SAFETY: a mapping of ours.
    let protect = |prot| unsafe { libc::mprotect(at(b).cast(), size, prot) };
    s.add("mprotect", clock(|| assert_eq!(protect(libc::PROT_READ), 0)));
    protect(libc::PROT_READ | libc::PROT_WRITE);

    let (from, to) = (allocate(size + PAGE), allocate(size + PAGE));
    touch(from, size + PAGE, 1);
    touch(to, size + PAGE, 2);
    // SAFETY: memory of the task's.
    let copy = |from, to| done(unsafe { mach_vm_copy(SELF, from, size as u64, to) });
    s.add("unaligned", clock(|| copy(from + 1, to + 100)));
    s.add(
        "vm_write",
        clock(|| {
            // SAFETY: as above.
            done(unsafe { mach_vm_write(SELF, to, b as usize, size as u32) });
        }),
    );
    touch(from, size, 4);
    s.add("vm_copy", clock(|| copy(from, to)));
    s.add("stores", clock(|| touch(from, size, 5)));
    assert_eq!(unsafe_read(to), 4, "the copy is not what was copied");
    let (mut data, mut count) = (0usize, 0u32);
    s.add(
        "vm_read",
        clock(|| {
            // SAFETY: good variables.
            done(unsafe { mach_vm_read(SELF, from, size as u64, &raw mut data, &raw mut count) });
        }),
    );
    assert_eq!((unsafe_read(data as u64), count as usize), (5, size));
    deallocate(data as u64, size);
    deallocate(from, size + PAGE);
    deallocate(to, size + PAGE);
    unmap(b, size);
}

fn unsafe_read(address: u64) -> u8 {
    // SAFETY: memory of the task's, readable.
    unsafe { at(address).read_volatile() }
}

fn transfer_table() {
    let mut rows = vec![row![
        "microseconds",
        "memcpy",
        "process_vm_readv",
        "mremap",
        "vm_copy",
        "of memcpy",
        "first stores",
        "vm_read",
        "vm_write",
        "unaligned vm_copy",
        "of memcpy",
    ]];
    let mut largest = String::new();
    for (name, size, rounds) in [
        ("4 KiB", 4 << 10, 401),
        ("64 KiB", 64 << 10, 101),
        ("1 MiB", 1 << 20, 51),
        ("16 MiB", 16 << 20, 15),
        ("256 MiB", 256 << 20, 3),
        ("1 GiB", 1 << 30, 3),
    ] {
        let mut s = Samples::default();
        (0..rounds).for_each(|_| copies(size, &mut s));
        let us = |n: &str| format!("{:.1}", s.median(n));
        let ratio = |n: &str| format!("{:.3}", s.ratio(n, "memcpy"));
        rows.push(row![
            name,
            us("memcpy"),
            us("readv"),
            us("mremap"),
            us("vm_copy"),
            ratio("vm_copy"),
            us("stores"),
            us("vm_read"),
            us("vm_write"),
            us("unaligned"),
            ratio("unaligned"),
        ]);
        largest = format!(
            "1 GiB resident: vm_copy, ms: {}; Linux's own write-protection of as much (mprotect) {:.1} ms, ratio {:.2}",
            goal(s.median("vm_copy") / 1e3, 10.0),
            s.median("mprotect") / 1e3,
            s.ratio("vm_copy", "mprotect"),
        );
    }
    table::print(
        "6a. Moving contents, all of it resident (C library; first stores: one a page of the source)",
        &rows,
    );
    println!("  {largest}");
    let (from, to) = (allocate(1 << 30), allocate(1 << 30));
    // SAFETY: memory of the task's.
    let us = clock(|| done(unsafe { mach_vm_copy(SELF, from, 1 << 30, to) }));
    println!("  1 GiB with nothing resident: vm_copy, ms: {}", goal(us / 1e3, 1.0));
    deallocate(from, 1 << 30);
    deallocate(to, 1 << 30);
}

fn allocate_table() {
    let mut rows =
        vec![row!["microseconds", "mmap + touch + munmap", "vm_allocate + touch + vm_deallocate", "ratio"]];
    for (name, size, rounds) in
        [("4 KiB", 4 << 10, 401), ("64 KiB", 64 << 10, 201), ("1 MiB", 1 << 20, 101), ("64 MiB", 64 << 20, 9)]
    {
        let mut s = Samples::default();
        for _ in 0..rounds {
            s.add(
                "linux",
                clock(|| {
                    let a = anonymous(size);
                    touch(a, size, 1);
                    unmap(a, size);
                }),
            );
            s.add(
                "ours",
                clock(|| {
                    let a = allocate(size);
                    touch(a, size, 1);
                    deallocate(a, size);
                }),
            );
        }
        rows.push(row![
            name,
            format!("{:.1}", s.median("linux")),
            format!("{:.1}", s.median("ours")),
            format!("{:.2}", s.ratio("ours", "linux")),
        ]);
    }
    table::print("6b. Memory that comes and goes", &rows);
}

/// Lets Linux have as many mappings as the walk needs; what was the limit, if it could.
fn raise_map_count() -> Option<String> {
    const LIMIT: &str = "/proc/sys/vm/max_map_count";
    let old = std::fs::read_to_string(LIMIT).ok()?;
    std::fs::write(LIMIT, "1000000").ok()?;
    Some(old)
}

fn walk_table(regions: usize) {
    let base = allocate(regions * PAGE);
    for i in (0..regions).step_by(2) {
        // SAFETY: memory of the task's that nobody uses.
        done(unsafe { mach_vm_protect(SELF, base + (i * PAGE) as u64, PAGE as u64, 0, 1) });
    }
    let mut s = Samples::default();
    let mut seen = 0;
    for _ in 0..5 {
        s.add(
            "ours",
            clock(|| {
                let (mut a, mut size, mut info, mut name) = (base, 0u64, [0i32; 16], 0u32);
                seen = 0;
                while a < base + (regions * PAGE) as u64 {
                    let mut count = 9;
                    // SAFETY: good variables; VM_REGION_BASIC_INFO_64 has nine words.
                    done(unsafe {
                        mach_vm_region(
                            SELF,
                            &raw mut a,
                            &raw mut size,
                            9,
                            info.as_mut_ptr(),
                            &raw mut count,
                            &raw mut name,
                        )
                    });
                    (a, seen) = (a + size, seen + 1);
                }
            }),
        );
        s.add(
            "linux",
            clock(|| {
                let maps = std::fs::read("/proc/self/maps").expect("/proc/self/maps");
                let lines = maps.iter().filter(|b| **b == b'\n').count();
                assert!(lines >= regions / 2, "{lines} mappings");
            }),
        );
    }
    assert_eq!(seen, regions);
    let rows = vec![
        row!["microseconds", "read of /proc/self/maps", "vm_region, each", "ratio"],
        row![
            format!("{regions} regions"),
            format!("{:.0}", s.median("linux")),
            format!("{:.0}", s.median("ours")),
            format!("{:.2}", s.ratio("ours", "linux")),
        ],
    ];
    table::print("6c. Walking the regions of a task", &rows);
    deallocate(base, regions * PAGE);
}

pub(crate) fn run() {
    // Both before the library looks, at its first call.
    let old = raise_map_count();
    if std::env::var_os("MACHVM_FAULTS").is_none() {
        // SAFETY: no other thread of this program looks at the environment.
        unsafe { std::env::set_var("MACHVM_FAULTS", "signal") };
    }
    let how = std::env::var("MACHVM_FAULTS").unwrap_or_default();
    println!("(MACHVM_FAULTS={how}; with thread, faults cost several times as much)");
    transfer_table();
    allocate_table();
    match old {
        Some(old) => {
            walk_table(REGIONS);
            let _ = std::fs::write("/proc/sys/vm/max_map_count", old);
        }
        None => {
            println!(
                "  (vm.max_map_count cannot be raised here: a walk of 20,000 regions instead of {REGIONS})"
            );
            walk_table(20_000);
        }
    }
}
