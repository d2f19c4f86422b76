//! `vm_region` and `vm_region_recurse` of the C library: what is in the window and around
//! it, in one order; sizes of structures by their counts (U22 to U24).

use std::sync::{Mutex, MutexGuard, PoisonError};

use machvm_capi::calls::allocate::{mach_vm_allocate, mach_vm_deallocate};
use machvm_capi::calls::inherit::mach_vm_inherit;
use machvm_capi::calls::region::{mach_vm_region, vm_region, vm_region_64};
use machvm_capi::calls::region_recurse::{mach_vm_region_recurse, vm_region_recurse};
use machvm_capi::calls::tasks::{task_create, task_terminate};
use machvm_capi::info::*;
use machvm_capi::kr::*;
use machvm_capi::ports::TASK_SELF as ME;

const PAGE: u64 = 4096;
const LOW: u64 = 1 << 32;
const HIGH: u64 = LOW + (256 << 30);

/// One test at a time: what one maps, and how much, is in the answers that others get.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn allocate(size: u64) -> u64 {
    let mut at = 0;
    // SAFETY: a good address.
    assert_eq!(unsafe { mach_vm_allocate(ME, &raw mut at, size, 1) }, KERN_SUCCESS);
    at
}

/// A region: start, size, basic information.
fn basic(addr: u64) -> Result<(u64, u64, vm_region_basic_info_64), i32> {
    let (mut at, mut size, mut name) = (addr, 0, 7);
    let mut info = vm_region_basic_info_64::default();
    let mut count = ints::<vm_region_basic_info_64>();
    let to = (&raw mut info).cast();
    // SAFETY: good addresses.
    let r = unsafe { mach_vm_region(ME, &raw mut at, &raw mut size, 9, to, &raw mut count, &raw mut name) };
    match r {
        KERN_SUCCESS => {
            assert_eq!((name, count), (0, 9));
            Ok((at, size, info))
        }
        e => {
            assert_eq!((at, size, name, count, info), (addr, 0, 7, 9, Default::default()));
            Err(e)
        }
    }
}

/// u22: everything of the process is there, ascending; of the window only what is mapped.
#[test]
fn u22_the_whole_process_in_order() {
    let _alone = alone();
    let mine = allocate(5 * PAGE);
    let on_stack = 1u8;
    let on_heap = vec![1u8; 1 << 20];
    let text = u22_the_whole_process_in_order as *const () as usize as u64;
    let want = [(&raw const on_stack).addr() as u64, on_heap.as_ptr().addr() as u64, text, mine];
    let (mut found, mut at, mut last) = ([0; 4], 0, 0);
    loop {
        let (start, size, info) = match basic(at) {
            Ok(r) => r,
            Err(e) => break assert_eq!(e, KERN_INVALID_ADDRESS),
        };
        assert!(start >= last && size != 0 && size % PAGE == 0, "{start:#x} {size:#x}");
        let end = start + size;
        assert!(end <= LOW || start >= HIGH || (start >= LOW && end <= HIGH), "{start:#x}-{end:#x}");
        for (i, w) in want.iter().enumerate() {
            if (start..end).contains(w) {
                found[i] = info.protection;
            }
        }
        if (start..end).contains(&mine) {
            assert!(size < 1 << 30, "the reservation is shown");
            assert_eq!({ info.max_protection }, 7);
        }
        (at, last) = (end, end);
    }
    assert_eq!(found, [3, 3, 5, 3], "stack, heap, text, window");
    assert_eq!(mach_vm_deallocate(ME, mine, 5 * PAGE), KERN_SUCCESS);
}

/// u23: below the count of a flavour nothing is told, above it only what there is.
#[test]
fn u23_counts() {
    let _alone = alone();
    let at = allocate(2 * PAGE);
    let outside = vec![3u8; 100_000];
    // SAFETY: touches the memory of the test.
    unsafe { (at as *mut u8).write(1) };
    for addr in [at, outside.as_ptr().addr() as u64] {
        // flavour, ints of the structure; the extended one has an old size, too.
        for (flavor, need) in [(9, 9), (10, 9), (12, 5), (13, 9), (11, 8)] {
            for room in [0, need - 1, need, need + 1, 40] {
                let (mut a, mut size, mut name, mut count) = (addr, 1, 5, room);
                let mut info = [-77i32; 48];
                // SAFETY: good addresses.
                let r = unsafe {
                    let info = info.as_mut_ptr();
                    mach_vm_region(ME, &raw mut a, &raw mut size, flavor, info, &raw mut count, &raw mut name)
                };
                if room < need {
                    assert_eq!((r, a, size, name, count), (KERN_INVALID_ARGUMENT, addr, 1, 5, room));
                    assert_eq!(info, [-77; 48]);
                } else {
                    assert_eq!((r, name, count), (KERN_SUCCESS, 0, need), "flavour {flavor}");
                    assert!(a <= addr && addr < a + size);
                    assert!(info[need as usize..].iter().all(|i| *i == -77));
                    let first = if flavor == 12 { 1 } else { 0 };
                    assert_eq!(info[first], if flavor == 12 { 1 } else { 3 }, "flavour {flavor}");
                }
            }
        }
        for flavor in [0, 1, 8, 14, -1, i32::MAX] {
            let (mut a, mut size, mut name, mut count) = (addr, 1, 5, 48);
            let mut info = [0i32; 48];
            // SAFETY: good addresses.
            let r = unsafe {
                let info = info.as_mut_ptr();
                mach_vm_region(ME, &raw mut a, &raw mut size, flavor, info, &raw mut count, &raw mut name)
            };
            assert_eq!(r, KERN_INVALID_ARGUMENT);
        }
    }
    assert_eq!(mach_vm_deallocate(ME, at, 2 * PAGE), KERN_SUCCESS);
}

/// u22: `vm_region` has the narrow structure under the same flavour, `vm_region_64` the
/// wide one.
#[test]
fn u22_the_narrow_structure() {
    let _alone = alone();
    let at = allocate(PAGE);
    let (mut a, mut size, mut name, mut count) = (at as usize, 0, 5, 8);
    let mut info = vm_region_basic_info::default();
    let to = (&raw mut info).cast();
    // SAFETY: good addresses.
    let r = unsafe { vm_region(ME, &raw mut a, &raw mut size, 10, to, &raw mut count, &raw mut name) };
    assert_eq!((r, count, { info.protection }, { info.inheritance }), (KERN_SUCCESS, 8, 3, 1));
    // SAFETY: good addresses.
    let r = unsafe { vm_region_64(ME, &raw mut a, &raw mut size, 10, to, &raw mut count, &raw mut name) };
    assert_eq!(r, KERN_INVALID_ARGUMENT, "the wide one needs 9");
    assert_eq!(mach_vm_deallocate(ME, at, PAGE), KERN_SUCCESS);
}

/// u24: which form is told follows from the count.
#[test]
fn u24_versions() {
    let _alone = alone();
    let at = allocate(3 * PAGE);
    // SAFETY: memory of the test.
    unsafe { (at as *mut u8).write(1) };
    let outside = vec![3u8; 100_000];
    for addr in [at, outside.as_ptr().addr() as u64] {
        for (room, want) in
            [(0, 0), (11, 0), (12, 12), (15, 12), (16, 16), (17, 17), (18, 17), (19, 19), (64, 19)]
        {
            let (mut a, mut size, mut depth, mut count) = (addr, 0, 9, room);
            let mut info = [-77i32; 64];
            // SAFETY: good addresses.
            let r = unsafe {
                let info = info.as_mut_ptr();
                mach_vm_region_recurse(ME, &raw mut a, &raw mut size, &raw mut depth, info, &raw mut count)
            };
            if want == 0 {
                assert_eq!((r, depth, count, info), (KERN_INVALID_ARGUMENT, 9, room, [-77; 64]));
                continue;
            }
            assert_eq!((r, depth, count), (KERN_SUCCESS, 0, want));
            assert!(info[want as usize..].iter().all(|i| *i == -77));
            assert_eq!(info[0], 3);
            if want > 12 {
                assert!(info[6] >= 1, "pages are counted: {info:?}");
            }
        }
        let (mut a, mut size, mut depth, mut count) = (addr as usize, 0, 9, 15);
        let mut info = vm_region_submap_info::default();
        let to = (&raw mut info).cast();
        // SAFETY: good addresses.
        let r =
            unsafe { vm_region_recurse(ME, &raw mut a, &raw mut size, &raw mut depth, to, &raw mut count) };
        assert_eq!((r, depth, count, { info.protection }), (KERN_SUCCESS, 0, 15, 3));
        assert!({ info.pages_resident } >= 1);
    }
    assert_eq!(mach_vm_deallocate(ME, at, 3 * PAGE), KERN_SUCCESS);
}

/// u23: share modes and pages of memory outside.
#[test]
fn u23_share_modes_outside() {
    let _alone = alone();
    let top = |addr: u64| {
        let (mut a, mut size, mut name, mut count) = (addr, 0, 5, 5);
        let mut info = vm_region_top_info::default();
        let to = (&raw mut info).cast();
        // SAFETY: good addresses.
        let r =
            unsafe { mach_vm_region(ME, &raw mut a, &raw mut size, 12, to, &raw mut count, &raw mut name) };
        assert_eq!((r, a), (KERN_SUCCESS, addr));
        info
    };
    // Apart from everything else, so that neighbours are not joined to them.
    for (at, flags, empty, used) in
        [(0x2800_0000, libc::MAP_PRIVATE, 3, 2), (0x2900_0000, libc::MAP_SHARED, 4, 4)]
    {
        let flags = flags | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        let rw = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: new mappings.
        let p = unsafe { libc::mmap(at as *mut _, 4 * PAGE as usize, rw, flags, -1, 0) };
        assert_eq!(p.addr(), at);
        let t = top(at as u64);
        assert_eq!((t.share_mode, t.private_pages_resident, t.shared_pages_resident), (empty, 0, 0));
        // SAFETY: the mapping.
        unsafe { p.cast::<u8>().write(1) };
        let t = top(at as u64);
        let shared = u32::from(used == 4);
        assert_eq!(t.share_mode, used);
        assert_eq!((t.private_pages_resident, t.shared_pages_resident), (1 - shared, shared));
        let (start, size, b) = basic(at as u64).unwrap();
        assert_eq!((start, size, b.shared, b.inheritance), (at as u64, 4 * PAGE, shared, 1 - shared));
        // SAFETY: made above.
        unsafe { libc::munmap(p, 4 * PAGE as usize) };
    }
}

/// u22: the windows of other tasks, and what is reserved around them, are not this one's.
#[test]
fn u22_other_tasks_are_not_shown() {
    let _alone = alone();
    let reserved = || {
        let (mut at, mut sum) = (0, 0);
        while let Ok((start, size, info)) = basic(at) {
            at = start + size;
            sum += if info.protection == 0 { size } else { 0 };
        }
        sum
    };
    let before = reserved();
    let mut child = 0;
    // SAFETY: a good address.
    let r = unsafe { task_create(ME, std::ptr::null_mut(), 0, 1, &raw mut child) };
    assert_eq!(r, KERN_SUCCESS);
    // Other tests' threads reserve heaps meanwhile, of 64 MiB each.
    assert!(reserved() < before + (900 << 20), "{:#x} {before:#x}", reserved());
    assert_eq!(task_terminate(child), KERN_SUCCESS);
}

/// u22: a walk of 100,000 regions finds each of them, with its attributes.
#[test]
fn u22_a_walk_of_100_000_regions() {
    let _alone = alone();
    const N: u64 = 100_000;
    let at = allocate(N * PAGE);
    for i in (0..N).step_by(2) {
        assert_eq!(mach_vm_inherit(ME, at + i * PAGE, PAGE, 2), KERN_SUCCESS);
    }
    let start = std::time::Instant::now();
    let mut n = 0;
    while n < N {
        let (a, size, info) = basic(at + n * PAGE).unwrap();
        assert_eq!((a, size, { info.inheritance }), (at + n * PAGE, PAGE, if n % 2 == 0 { 2 } else { 1 }));
        n += 1;
    }
    let walk = start.elapsed();
    let start = std::time::Instant::now();
    let lines = std::fs::read("/proc/self/maps").unwrap().iter().filter(|b| **b == b'\n').count();
    println!("{N} regions in {walk:?}; /proc/self/maps, {lines} lines: {:?}", start.elapsed());
    assert_eq!(mach_vm_deallocate(ME, at, N * PAGE), KERN_SUCCESS);
}

/// u22: what changes outside the window is seen at once.
#[test]
fn u22_changes_are_seen() {
    let _alone = alone();
    let at = 0x2a00_0000u64;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    let (rw, len) = (libc::PROT_READ | libc::PROT_WRITE, 4 * PAGE);
    // SAFETY: a new mapping.
    let p = unsafe { libc::mmap(at as *mut _, len as usize, rw, flags, -1, 0) };
    assert_eq!(p.addr() as u64, at);
    assert_eq!(basic(at + 5).unwrap().1, len);
    // SAFETY: the second page of it.
    assert_eq!(unsafe { libc::mprotect(p.byte_add(PAGE as usize), PAGE as usize, libc::PROT_READ) }, 0);
    let parts: Vec<_> = (0..3).map(|i| basic(at + i * PAGE).unwrap()).collect();
    let parts: Vec<_> = parts.iter().map(|(a, n, i)| ((a - at) / PAGE, n / PAGE, i.protection)).collect();
    assert_eq!(parts, [(0, 1, 3), (1, 1, 1), (2, 2, 3)]);
    assert_eq!(mach_vm_deallocate(ME, at, len), KERN_SUCCESS);
    assert!(basic(at).unwrap().0 > at);
}
