//! What the C library tells of pages, of the system and of tasks, and the calls that act on
//! memory without moving it: sizes by count, invariants, memory outside the window (U19,
//! U25 to U30, U35).

use std::sync::{Mutex, MutexGuard, PoisonError};

use machvm_capi::calls::allocate::{mach_vm_allocate, mach_vm_deallocate};
use machvm_capi::calls::attribute::mach_vm_machine_attribute;
use machvm_capi::calls::behavior::mach_vm_behavior_set;
use machvm_capi::calls::msync::mach_vm_msync;
use machvm_capi::calls::phys::vm_pages_phys;
use machvm_capi::calls::query::{mach_vm_page_info, mach_vm_page_query, mach_vm_page_range_query};
use machvm_capi::calls::statistics::*;
use machvm_capi::calls::task_info::*;
use machvm_capi::info::{ints, vm_page_info_basic};
use machvm_capi::kr::*;
use machvm_capi::ports::{HOST, TASK_SELF as ME};
use machvm_capi::totals;

const PAGE: u64 = 4096;
const LOW: u64 = 1 << 32;

/// One test at a time: objects, counters and regions of the process are in the answers.
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

fn free(at: u64, size: u64) {
    assert_eq!(mach_vm_deallocate(ME, at, size), KERN_SUCCESS);
}

fn touch(at: u64) {
    // SAFETY: memory of the test.
    unsafe { (at as *mut u8).write_volatile(1) };
}

/// Private memory of Linux's at `at`, where nothing else is put: each test has its own.
fn outside(at: u64, pages: u64) {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    let rw = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping.
    let p = unsafe { libc::mmap(at as *mut _, (pages * PAGE) as usize, rw, flags, -1, 0) };
    assert_eq!(p.addr() as u64, at);
}

fn host64() -> totals::vm_statistics64 {
    let mut s = totals::vm_statistics64::default();
    let mut n = ints::<totals::vm_statistics64>();
    // SAFETY: good addresses.
    assert_eq!(unsafe { host_statistics64(HOST, 4, (&raw mut s).cast(), &raw mut n) }, KERN_SUCCESS);
    assert_eq!(n, 38);
    s
}

/// u26: frames add up to no more than there are, and events only grow.
#[test]
fn u26_invariants() {
    let _alone = alone();
    let mut basic = totals::host_basic_info::default();
    let mut n = ints::<totals::host_basic_info>();
    // SAFETY: good addresses.
    let r = unsafe { host_info(HOST, 1, (&raw mut basic).cast(), &raw mut n) };
    assert_eq!((r, n), (KERN_SUCCESS, 12));
    let all = { basic.max_mem } / PAGE;
    assert!(all > 0 && { basic.avail_cpus } >= 1 && { basic.avail_cpus } <= { basic.max_cpus });
    let before = host64();
    let at = allocate(600 * PAGE);
    for i in 0..600 {
        touch(at + i * PAGE);
    }
    let after = host64();
    for s in [before, after] {
        let sum = [s.free_count, s.active_count, s.inactive_count, s.wire_count, s.throttled_count];
        let sum: u64 = sum.into_iter().map(u64::from).sum();
        assert!(sum <= all + 1024, "{sum} of {all}: {s:?}");
        assert!(u64::from(s.internal_page_count) + u64::from(s.external_page_count) <= all);
        assert!(s.cow_faults <= s.faults && s.hits <= s.lookups);
    }
    assert!(after.zero_fill_count >= before.zero_fill_count + 600, "{before:?} {after:?}");
    assert!(after.faults > before.faults);
    assert!(after.internal_page_count >= 600);
    let mut narrow = totals::vm_statistics::default();
    // SAFETY: a good address.
    assert_eq!(unsafe { vm_statistics(ME, &raw mut narrow) }, KERN_SUCCESS);
    assert!(u64::from(narrow.faults) >= after.faults.min(u32::MAX.into()));
    // SAFETY: as above.
    assert_eq!(unsafe { vm_statistics(0, &raw mut narrow) }, MACH_SEND_INVALID_DEST);
    free(at, 600 * PAGE);
    let mut cache = totals::vm_cache_statistics::default();
    // SAFETY: a good address.
    assert_eq!(unsafe { vm_cache_statistics(ME, &raw mut cache) }, KERN_SUCCESS);
    assert!(cache.slab_count > 0 && cache.cache_object_count == 0);
}

/// A call that fills ints: of a port, by flavour.
type Ask = unsafe extern "C" fn(u32, i32, *mut i32, *mut u32) -> i32;

unsafe extern "C" fn of_task(target: u32, flavor: i32, info: *mut i32, n: *mut u32) -> i32 {
    // SAFETY: the caller's.
    unsafe { task_info(target, flavor as u32, info, n) }
}

/// Calls `ask` with every room for ints below `max`: what `want` says is filled, nothing else.
fn rooms(ask: Ask, (port, flavor): (u32, i32), max: u32, want: impl Fn(u32) -> Result<u32, i32>) {
    for room in 0..max {
        let (mut info, mut n) = (vec![-99i32; max as usize], room);
        // SAFETY: good addresses.
        let r = unsafe { ask(port, flavor, info.as_mut_ptr(), &raw mut n) };
        let filled = info.iter().rposition(|i| *i != -99).map_or(0, |i| i + 1);
        match want(room) {
            Ok(count) => assert_eq!((r, n, filled), (KERN_SUCCESS, count, count as usize), "{flavor} {room}"),
            Err(e) => assert_eq!((r, n, filled), (e, room, 0), "{flavor} {room}"),
        }
    }
}

/// The largest of the revisions that fits.
fn largest(of: &[u32], none: i32) -> impl Fn(u32) -> Result<u32, i32> {
    move |room| of.iter().copied().filter(|n| *n <= room).max().ok_or(none)
}

/// u26, u35: revisions are told by count.
#[test]
fn u26_u35_revisions() {
    let _alone = alone();
    let statistics: &[u32] = &[12, 14, 15];
    rooms(host_statistics, (HOST, 2), 20, largest(statistics, KERN_FAILURE));
    rooms(host_statistics64, (HOST, 4), 48, largest(&[24, 38], KERN_FAILURE));
    rooms(host_statistics64, (HOST, 2), 20, largest(&[12, 14, 15], KERN_FAILURE));
    rooms(host_info, (HOST, 1), 20, largest(&[5, 12], KERN_FAILURE));
    let revisions: &[u32] = &[36, 38, 42, 84, 86, 87, 89];
    let flavors: [(i32, &[u32]); 8] = [
        (4, &[8]),
        (6, &[8]),
        (5, &[10]),
        (18, &[10]),
        (20, &[12]),
        (22, revisions),
        (23, revisions),
        (99, &[]),
    ];
    for (flavor, counts) in flavors {
        rooms(of_task, (ME, flavor), 100, largest(counts, KERN_INVALID_ARGUMENT));
    }
    for flavor in [0, 1, 3, 5, 77] {
        rooms(host_statistics, (HOST, flavor), 30, |_| Err(KERN_INVALID_ARGUMENT));
    }
    rooms(host_statistics, (ME, 2), 30, |_| Err(KERN_INVALID_HOST));
    rooms(of_task, (0, 22), 30, |_| Err(MACH_SEND_INVALID_DEST));
}

fn vm_info() -> task_vm_info {
    let mut s = task_vm_info::default();
    let mut n = ints::<task_vm_info>();
    // SAFETY: good addresses.
    assert_eq!(unsafe { task_info(ME, TASK_VM_INFO, (&raw mut s).cast(), &raw mut n) }, KERN_SUCCESS);
    s
}

/// u35: sizes grow with what is allocated and touched, and shrink again.
#[test]
fn u35_sizes() {
    let _alone = alone();
    let before = vm_info();
    let at = allocate(1 << 30);
    for i in 0..5000 {
        touch(at + i * PAGE);
    }
    let after = vm_info();
    // Other tests allocate and free meanwhile, but less than this.
    assert!({ after.virtual_size } >= { before.virtual_size } + (900 << 20));
    assert!({ after.resident_size } >= { before.resident_size } + 4000 * PAGE);
    assert!({ after.internal } >= { before.internal } + 4000 * PAGE);
    assert!({ after.phys_footprint } >= 4000 * PAGE && { after.resident_size } <= { after.virtual_size });
    assert_eq!(({ after.page_size }, { after.min_address }), (4096, 4096));
    assert!({ after.region_count } > 5);
    free(at, 1 << 30);
    assert!({ vm_info().virtual_size } + (900 << 20) <= { after.virtual_size });
}

fn query(at: u64) -> (i32, i32) {
    let (mut d, mut n) = (-1, -1);
    // SAFETY: good addresses.
    assert_eq!(unsafe { mach_vm_page_query(ME, at, &raw mut d, &raw mut n) }, KERN_SUCCESS);
    (d, n)
}

/// u25: pages inside and outside, one by one and by range, across the edge of the window.
#[test]
fn u25_pages() {
    let _alone = alone();
    let at = allocate(4 * PAGE);
    touch(at + PAGE);
    assert_eq!(query(at).0, 0);
    let (d, n) = query(at + PAGE + 17);
    assert_eq!((d & 1, d & 8, n), (1, 8, 1), "present, dirty");
    let far = LOW + (200 << 30);
    assert_eq!(query(far), (0, 0), "not mapped");
    outside(0x3100_0000, 4);
    touch(0x3100_2000);
    assert_eq!(query(0x3100_1000), (0, 1));
    assert_eq!(query(0x3100_2fff), (9, 1));
    assert_eq!(query(0x3200_0000), (0, 0));

    let mut out = [-1; 8];
    let mut n = 8;
    let to = (&raw mut out).addr() as u64;
    // SAFETY: a good address.
    let ask = |at, size, to, n: &mut u64| unsafe { mach_vm_page_range_query(ME, at, size, to, n) };
    let expose = (&raw mut out).expose_provenance() as u64;
    assert_eq!(ask(0x3100_0800, 4 * PAGE, expose, &mut n), KERN_SUCCESS);
    assert_eq!((n, out), (5, [0, 0, 9, 0, 0, -1, -1, -1]));
    n = 3;
    assert_eq!(ask(at, 4 * PAGE, expose, &mut n), KERN_SUCCESS);
    assert_eq!((n, out[0], out[1] & 9, out[2]), (3, 0, 9, 0));
    assert_eq!(ask(at, 4 * PAGE, 16, &mut n), KERN_INVALID_ADDRESS, "nothing is at 16");
    assert_eq!(ask(u64::MAX - PAGE, 4 * PAGE, to, &mut n), KERN_INVALID_ARGUMENT);
    n = 8;
    assert_eq!(ask(at, 0, 16, &mut n), KERN_SUCCESS);
    assert_eq!(n, 0);
    // The end of the window, from inside to outside.
    n = 8;
    assert_eq!(ask(LOW + (256 << 30) - 2 * PAGE, 4 * PAGE, expose, &mut n), KERN_SUCCESS);
    assert_eq!(n, 4);

    let count = ints::<vm_page_info_basic>();
    for at in [at + PAGE, 0x3100_2000, far] {
        for (flavor, room) in [(1, 0), (1, count - 1), (2, count)] {
            let (mut info, mut n) = ([-1; 8], room);
            // SAFETY: good addresses.
            let r = unsafe { mach_vm_page_info(ME, at, flavor, info.as_mut_ptr(), &raw mut n) };
            assert_eq!((r, n, info), (KERN_INVALID_ARGUMENT, room, [-1; 8]));
        }
    }
    let (mut info, mut n) = (vm_page_info_basic::default(), count);
    // SAFETY: good addresses.
    let r = unsafe { mach_vm_page_info(ME, at + PAGE + 9, 1, (&raw mut info).cast(), &raw mut n) };
    assert_eq!((r, info.disposition & 9, info.offset % PAGE), (KERN_SUCCESS, 9, 0));
    assert_ne!(info.object_id, 0);
    free(at, 4 * PAGE);
    free(0x3100_0000, 4 * PAGE);
}

/// u19: the frames of pages; what has no room is in fresh memory.
#[test]
fn u19_pages_phys() {
    let _alone = alone();
    let at = allocate(3 * PAGE);
    // RANDOM: one page at a time, whatever a neighbour's test has touched in order.
    assert_eq!(mach_vm_behavior_set(ME, at, 3 * PAGE, 1), KERN_SUCCESS);
    touch(at + PAGE);
    let mut room = [5u64; 4];
    let phys = |at: u64, size: u64, pages: &mut *mut u64, n: &mut u32| {
        // SAFETY: good addresses.
        unsafe { vm_pages_phys(HOST, ME, at as usize, size as usize, pages, n) }
    };
    let (mut pages, mut n) = (room.as_mut_ptr(), 4);
    assert_eq!(phys(at, 3 * PAGE, &mut pages, &mut n), KERN_SUCCESS);
    assert_eq!((n, room[0], room[2], room[3]), (3, u64::MAX, u64::MAX, 5));
    assert!(room[1] % PAGE == 0 && room[1] != u64::MAX);
    n = 2;
    assert_eq!(phys(at, 3 * PAGE, &mut pages, &mut n), KERN_SUCCESS);
    assert_ne!(pages, room.as_mut_ptr());
    // SAFETY: what the call gave.
    assert_eq!(unsafe { std::slice::from_raw_parts(pages, n as usize) }, &room[..3]);
    free(pages.addr() as u64, 24);
    (pages, n) = (room.as_mut_ptr(), 4);
    for (at, size) in [(at + 1, PAGE), (at, 5), (0u64.wrapping_sub(PAGE), 2 * PAGE)] {
        assert_eq!(phys(at, size, &mut pages, &mut n), KERN_INVALID_ARGUMENT);
    }
    // SAFETY: good addresses.
    let r = unsafe { vm_pages_phys(ME, ME, at as usize, 4096, &raw mut pages, &raw mut n) };
    assert_eq!(r, KERN_INVALID_HOST);
    // SAFETY: good addresses.
    let r = unsafe { vm_pages_phys(HOST, HOST, at as usize, 4096, &raw mut pages, &raw mut n) };
    assert_eq!(r, KERN_INVALID_TASK);
    free(at, 3 * PAGE);
}

/// u29, z86: flags, holes and contents, inside and outside.
#[test]
fn u29_msync() {
    let _alone = alone();
    let at = allocate(4 * PAGE);
    outside(0x3300_0000, 4);
    for base in [at, 0x3300_0000] {
        touch(base);
        assert_eq!(mach_vm_msync(ME, base, 4 * PAGE, 3), KERN_INVALID_ARGUMENT, "both ways");
        assert_eq!(mach_vm_msync(ME, base, 4 * PAGE, 0x80), KERN_INVALID_ARGUMENT);
        for flags in [0, 1, 2, 4, 6, 0x10, 0x20, 0x22] {
            assert_eq!(mach_vm_msync(ME, base, 4 * PAGE, flags), KERN_SUCCESS, "{flags:#x}");
        }
        // SAFETY: memory of the test.
        assert_eq!(unsafe { (base as *const u8).read() }, 1);
        free(base + 2 * PAGE, PAGE);
        assert_eq!(mach_vm_msync(ME, base, 4 * PAGE, 2), KERN_SUCCESS);
    }
    assert_eq!(mach_vm_msync(ME, 0x3300_0000, 4 * PAGE, 0x22), KERN_INVALID_ADDRESS, "a hole");
    assert_eq!(mach_vm_msync(ME, u64::MAX - 5, 4 * PAGE, 2), KERN_INVALID_ARGUMENT);
    assert_eq!(mach_vm_msync(0, at, 4 * PAGE, 2), MACH_SEND_INVALID_DEST);
    free(at, 4 * PAGE);
    free(0x3300_0000, 4 * PAGE);
}

/// u29: a modified file is written where its mapping is shared.
#[test]
fn u29_a_file_is_written() {
    let _alone = alone();
    use std::os::fd::AsRawFd;
    let path = std::env::temp_dir().join(format!("machvm-msync-{}", std::process::id()));
    let file =
        std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    file.set_len(2 * PAGE).unwrap();
    let rw = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping.
    let p = unsafe {
        libc::mmap(
            0x3400_0000 as *mut _,
            8192,
            rw,
            libc::MAP_SHARED | libc::MAP_FIXED_NOREPLACE,
            file.as_raw_fd(),
            0,
        )
    };
    assert_eq!(p.addr(), 0x3400_0000);
    touch(0x3400_0000);
    for flags in [2, 1, 6, 0x20] {
        assert_eq!(mach_vm_msync(ME, 0x3400_0000, 8192, flags), KERN_SUCCESS);
    }
    let mut byte = [0];
    std::os::unix::fs::FileExt::read_at(&file, &mut byte, 0).unwrap();
    assert_eq!(byte, [1]);
    assert_eq!(mach_vm_behavior_set(ME, 0x3400_0000, 8192, 10), KERN_FAILURE, "shared: not reusable");
    free(0x3400_0000, 8192);
}

/// u30: every behaviour, inside and outside; a zeroed range is zero.
#[test]
fn u30_behaviors() {
    let _alone = alone();
    let at = allocate(4 * PAGE);
    outside(0x3500_0000, 4);
    for base in [at, 0x3500_0000] {
        for behavior in [0, 1, 2, 3, 4, 5, 11] {
            touch(base + PAGE);
            assert_eq!(mach_vm_behavior_set(ME, base, 4 * PAGE, behavior), KERN_SUCCESS, "{behavior}");
            // SAFETY: memory of the test.
            assert_eq!(unsafe { ((base + PAGE) as *const u8).read_volatile() }, 1, "{behavior}");
        }
        for behavior in [-1, 13, 99] {
            assert_eq!(mach_vm_behavior_set(ME, base, 4 * PAGE, behavior), KERN_INVALID_ARGUMENT);
        }
        for behavior in [8, 9, 10, 6, 12] {
            assert_eq!(mach_vm_behavior_set(ME, base, 4 * PAGE, behavior), KERN_SUCCESS, "{behavior}");
        }
        // SAFETY: memory of the test.
        assert_eq!(unsafe { ((base + PAGE) as *const u8).read_volatile() }, 0);
    }
    assert_eq!(mach_vm_behavior_set(ME, 0x3500_0000, 5 * PAGE, 1), KERN_INVALID_ADDRESS, "a hole");
    let beyond = 0x7fff_ffff_0000;
    assert_eq!(mach_vm_behavior_set(ME, beyond, 1 << 40, 1), KERN_NO_SPACE);
    free(at, 4 * PAGE);
    free(0x3500_0000, 4 * PAGE);
}

/// u28: caches are on everywhere; a flush needs memory to flush.
#[test]
fn u28_attributes() {
    let _alone = alone();
    let at = allocate(PAGE);
    let text = u28_attributes as *const () as usize as u64;
    let on_stack = 0u8;
    let stack = (&raw const on_stack).addr() as u64;
    for base in [at, text, stack] {
        for (attribute, value, want) in [
            (1, 2, KERN_SUCCESS),
            (1, 6, KERN_SUCCESS),
            (1, 9, KERN_SUCCESS),
            (1, 0, KERN_INVALID_ARGUMENT),
            (1, 10, KERN_INVALID_ARGUMENT),
            (2, 2, KERN_INVALID_ARGUMENT),
            (1, 77, KERN_INVALID_ARGUMENT),
        ] {
            let mut v = value;
            // SAFETY: a good address.
            let r = unsafe { mach_vm_machine_attribute(ME, base, 1, attribute, &raw mut v) };
            assert_eq!((r, v), (want, if want == KERN_SUCCESS { 1 } else { value }));
        }
    }
    let mut v = 6;
    // SAFETY: a good address.
    let mut flush = |at| unsafe { mach_vm_machine_attribute(ME, at, 1, 1, &raw mut v) };
    assert_eq!(flush(0x3600_0000), KERN_FAILURE, "a hole");
    assert_eq!(flush(1 << 50), KERN_INVALID_ADDRESS, "outside");
    free(at, PAGE);
}
