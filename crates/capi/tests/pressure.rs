//! Four times as much memory as there is: what is copied, read and queried is on swap, and
//! the statistics say so (U14 to U17, U25, U26, U35; part 1.4 of the inventory).

use machvm_capi::calls::allocate::{mach_vm_allocate, mach_vm_deallocate};
use machvm_capi::calls::copy::mach_vm_copy;
use machvm_capi::calls::query::mach_vm_page_range_query;
use machvm_capi::calls::read::{mach_vm_read, mach_vm_read_overwrite};
use machvm_capi::calls::region::mach_vm_region;
use machvm_capi::calls::statistics::{host_info, host_statistics64};
use machvm_capi::calls::task_info::{task_info, task_vm_info};
use machvm_capi::calls::write::mach_vm_write;
use machvm_capi::info::{ints, vm_region_extended_info};
use machvm_capi::kr::KERN_SUCCESS;
use machvm_capi::ports::{HOST, TASK_SELF as ME};
use machvm_capi::totals::{host_basic_info, vm_statistics64};

const PAGE: u64 = 4096;
const MEMORY: u64 = 4 << 20;
const SIZE: u64 = 4 * MEMORY;

fn allocate(size: u64) -> u64 {
    let mut at = 0;
    // SAFETY: a good address.
    assert_eq!(unsafe { mach_vm_allocate(ME, &raw mut at, size, 1) }, KERN_SUCCESS);
    at
}

/// Byte `i` of the contents: every page is another.
fn byte(i: u64) -> u8 {
    (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8 ^ (i / PAGE) as u8
}

/// Is what lies at `at` what was written to `from` on?
fn check(at: u64, from: u64, len: u64) {
    for i in (0..len).step_by(61) {
        // SAFETY: memory of the test.
        let got = unsafe { ((at + i) as *const u8).read() };
        assert_eq!(got, byte(from + i), "{i} of {len}");
    }
}

fn statistics() -> vm_statistics64 {
    let (mut s, mut n) = (vm_statistics64::default(), 38);
    // SAFETY: good addresses.
    assert_eq!(unsafe { host_statistics64(HOST, 4, (&raw mut s).cast(), &raw mut n) }, KERN_SUCCESS);
    let frames = [s.free_count, s.active_count, s.inactive_count, s.wire_count, s.throttled_count];
    let sum: u64 = frames.into_iter().map(u64::from).sum();
    // Some are between two states on the page daemon's thread.
    assert!(sum <= MEMORY / PAGE && sum + 200 >= MEMORY / PAGE, "{sum}: {s:?}");
    assert!(u64::from(s.internal_page_count + s.external_page_count) <= MEMORY / PAGE);
    assert!(s.cow_faults <= s.faults && s.hits <= s.lookups);
    s
}

#[test]
fn u14_u26_transfers_of_swapped_memory() {
    // SAFETY: the only test of this program, before its first call.
    unsafe { std::env::set_var("MACHVM_MEMORY", "4M") };
    let mut basic = host_basic_info::default();
    let mut n = ints::<host_basic_info>();
    // SAFETY: good addresses.
    assert_eq!(unsafe { host_info(HOST, 1, (&raw mut basic).cast(), &raw mut n) }, KERN_SUCCESS);
    assert_eq!({ basic.max_mem }, MEMORY);
    let before = statistics();

    let at = allocate(SIZE);
    for i in 0..SIZE {
        // SAFETY: memory of the test.
        unsafe { ((at + i) as *mut u8).write(byte(i)) };
    }
    let full = statistics();
    assert!(full.swapouts >= before.swapouts + (SIZE - MEMORY) / PAGE, "{full:?}");
    assert!(full.total_uncompressed_pages_in_compressor >= (SIZE - MEMORY) / PAGE);
    assert_eq!((full.compressions, full.decompressions), (full.swapouts, full.swapins));

    // What the pages are like, in the heap.
    let mut pages = vec![0i32; (SIZE / PAGE) as usize];
    let (to, mut count) = (pages.as_mut_ptr().expose_provenance() as u64, SIZE / PAGE);
    // SAFETY: a good address.
    let r = unsafe { mach_vm_page_range_query(ME, at, SIZE, to, &raw mut count) };
    assert_eq!((r, count), (KERN_SUCCESS, SIZE / PAGE));
    let (present, out) = (pages.iter().filter(|d| **d & 1 != 0), pages.iter().filter(|d| **d & 0x10 != 0));
    let (present, out) = (present.count() as u64, out.count() as u64);
    assert!(present <= MEMORY / PAGE && out >= (SIZE - MEMORY) / PAGE, "{present} {out}");
    let (mut a, mut size, mut name, mut n) = (at, 0, 0, ints::<vm_region_extended_info>());
    let mut e = vm_region_extended_info::default();
    let info = (&raw mut e).cast();
    // SAFETY: good addresses.
    let r = unsafe { mach_vm_region(ME, &raw mut a, &raw mut size, 13, info, &raw mut n, &raw mut name) };
    assert_eq!((r, a, size), (KERN_SUCCESS, at, SIZE));
    assert!(u64::from(e.pages_swapped_out) >= (SIZE - MEMORY) / PAGE);
    let (mut info, mut n) = (task_vm_info::default(), ints::<task_vm_info>());
    // SAFETY: good addresses.
    assert_eq!(unsafe { task_info(ME, 22, (&raw mut info).cast(), &raw mut n) }, KERN_SUCCESS);
    assert!({ info.compressed } >= SIZE - MEMORY && { info.virtual_size } >= SIZE);

    // To the heap and back, in one piece, unaligned.
    let mut heap = vec![0u8; SIZE as usize - 5];
    let (heap_at, mut got) = (heap.as_mut_ptr().expose_provenance() as u64, 0);
    // SAFETY: a good address.
    let r = unsafe { mach_vm_read_overwrite(ME, at + 5, SIZE - 5, heap_at, &raw mut got) };
    assert_eq!((r, got), (KERN_SUCCESS, SIZE - 5));
    check(heap_at, 5, SIZE - 5);
    let second = allocate(SIZE);
    assert_eq!(mach_vm_write(ME, second + 1, heap_at as usize, (SIZE - 5) as u32), KERN_SUCCESS);
    check(second + 1, 5, SIZE - 5);
    // Within the window: pages by copy-on-write, and bytes, overlapping.
    let (mut snapshot, mut n) = (0, 0);
    // SAFETY: good addresses.
    let r = unsafe { mach_vm_read(ME, at, SIZE, &raw mut snapshot, &raw mut n) };
    assert_eq!((r, u64::from(n)), (KERN_SUCCESS, SIZE));
    assert_eq!(mach_vm_copy(ME, at, SIZE - 3 * PAGE, at + 3 * PAGE - 7), KERN_SUCCESS);
    check(at + 3 * PAGE - 7, 0, SIZE - 3 * PAGE);
    check(snapshot as u64, 0, SIZE);
    statistics();
    for a in [at, second, snapshot as u64] {
        assert_eq!(mach_vm_deallocate(ME, a, SIZE), KERN_SUCCESS);
    }
    let after = statistics();
    assert!(u64::from(after.free_count) + 300 >= MEMORY / PAGE, "{after:?}");
}
