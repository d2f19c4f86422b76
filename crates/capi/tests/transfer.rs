//! `vm_read`, `vm_write`, `vm_copy` of the C library: overlaps, memory outside the window,
//! ranges across its edge, absent memory, hidden rights (U14 to U18).

use machvm_capi::calls::allocate::{mach_vm_allocate, mach_vm_deallocate};
use machvm_capi::calls::copy::{mach_vm_copy, vm_copy};
use machvm_capi::calls::read::{mach_vm_read, mach_vm_read_entry, mach_vm_read_list, mach_vm_read_overwrite};
use machvm_capi::calls::write::mach_vm_write;
use machvm_capi::kr::*;
use machvm_capi::ports::TASK_SELF as ME;

const PAGE: u64 = 4096;
/// Where the window begins and ends, with the default size.
const LOW: u64 = 1 << 32;

/// The first megabyte of the window is for the tests of its edge.
fn keep_the_edge() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let mut first = LOW;
        // SAFETY: a good address.
        assert_eq!(unsafe { mach_vm_allocate(ME, &raw mut first, 1 << 20, 0) }, KERN_SUCCESS);
    });
}

fn allocate(size: u64) -> u64 {
    keep_the_edge();
    let mut at = 0;
    // SAFETY: a good address.
    assert_eq!(unsafe { mach_vm_allocate(ME, &raw mut at, size, 1) }, KERN_SUCCESS);
    at
}

/// Memory of Linux's.
struct Outside(u64, usize);

impl Outside {
    fn at(at: u64, len: usize, prot: i32) -> Self {
        let fixed = if at == 0 { 0 } else { libc::MAP_FIXED_NOREPLACE };
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | fixed;
        // SAFETY: a new mapping.
        let p = unsafe { libc::mmap(at as *mut _, len, prot, flags, -1, 0) };
        assert_ne!(p, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
        Outside(p.expose_provenance() as u64, len)
    }
    fn new(len: usize) -> Self {
        Self::at(0, len, libc::PROT_READ | libc::PROT_WRITE)
    }
    fn protect(&self, at: u64, len: usize, prot: i32) {
        // SAFETY: part of the mapping.
        assert_eq!(unsafe { libc::mprotect((self.0 + at) as *mut _, len, prot) }, 0);
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        // SAFETY: made here, and not used any more.
        unsafe { libc::munmap(self.0 as *mut _, self.1) };
    }
}

/// The bytes at `at`: memory that the test mapped.
fn bytes(at: u64, len: usize) -> &'static mut [u8] {
    // SAFETY: mapped, and used by this test alone, one slice at a time.
    unsafe { std::slice::from_raw_parts_mut(at as *mut u8, len) }
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add((i >> 8) as u8).wrapping_add(seed)).collect()
}

fn read(from: u64, len: u64) -> Result<Vec<u8>, i32> {
    keep_the_edge();
    let (mut data, mut n) = (0, 0);
    // SAFETY: good addresses.
    match unsafe { mach_vm_read(ME, from, len, &raw mut data, &raw mut n) } {
        KERN_SUCCESS => {
            assert_eq!(u64::from(n), len);
            if len == 0 {
                assert_eq!(data, 0);
                return Ok(Vec::new());
            }
            let got = bytes(data as u64, len as usize).to_vec();
            assert_eq!(mach_vm_deallocate(ME, data as u64, len), KERN_SUCCESS);
            Ok(got)
        }
        e => Err(e),
    }
}

/// u16: overlaps in both directions at offsets in a page, against `memmove`; inside,
/// outside, and across the edge of the window.
#[test]
fn u16_overlaps_are_those_of_memmove() {
    let room = 12 * PAGE as usize;
    let outside = Outside::new(room);
    let inside = allocate(room as u64);
    let edge = edge();
    let mut shift = 0u64;
    for base in [inside, outside.0, edge.0] {
        for src in [0, 1, 4095, 4096, 5000, 9001] {
            for dst in [0, 1, 7, 4095, 4096, 4097, 8192, 9000, 9001] {
                for len in [1, 511, 4096, 8191, 8192, 12289, 5 * PAGE as usize + 3] {
                    shift += 1;
                    let mut want = pattern(room, shift as u8);
                    bytes(base, room).copy_from_slice(&want);
                    let (from, to) = (base + src, base + dst);
                    assert_eq!(mach_vm_copy(ME, from, len as u64, to), KERN_SUCCESS);
                    want.copy_within(src as usize..src as usize + len, dst as usize);
                    assert!(bytes(base, room) == want, "{base:#x}: {src} -> {dst}, {len} bytes");
                }
            }
        }
    }
    assert_eq!(mach_vm_deallocate(ME, inside, room as u64), KERN_SUCCESS);
}

/// u16: as above, longer than the buffer; and the same with `vm_write`.
#[test]
fn u16_long_overlaps_are_those_of_memmove() {
    let room = 420_000;
    let outside = Outside::at(0x2200_0000, room, libc::PROT_READ | libc::PROT_WRITE);
    let far = allocate(room as u64);
    for base in [outside.0, far] {
        for (src, dst) in [(0, 1), (1, 0), (5, 70_000), (70_001, 3), (4096, 69_632), (0, 65_536), (9, 65_535)]
        {
            for len in [65_536, 65_537, 140_000, 333_333] {
                for write in [false, true] {
                    let mut want = pattern(room, (src + len) as u8);
                    bytes(base, room).copy_from_slice(&want);
                    let (from, to) = (base + src as u64, base + dst as u64);
                    let r = match write {
                        false => mach_vm_copy(ME, from, len as u64, to),
                        true => mach_vm_write(ME, to, from as usize, len as u32),
                    };
                    assert_eq!(r, KERN_SUCCESS);
                    want.copy_within(src..src + len, dst);
                    assert!(bytes(base, room) == want, "{base:#x}: {src} -> {dst}, {len} bytes, {write}");
                }
            }
        }
    }
    assert_eq!(mach_vm_deallocate(ME, far, room as u64), KERN_SUCCESS);
}

/// Six pages below the window and six in it, one range; only one test at a time has it.
struct Edge(u64, #[expect(dead_code)] Outside, #[expect(dead_code)] std::sync::MutexGuard<'static, ()>);

fn edge() -> Edge {
    static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let guard = ONE.lock().unwrap_or_else(|e| e.into_inner());
    let at = LOW - 6 * PAGE;
    let below = Outside::at(at, 6 * PAGE as usize, libc::PROT_READ | libc::PROT_WRITE);
    keep_the_edge();
    Edge(at, below, guard)
}

/// u14: memory of the heap, the stack and the text is read like any other; what is
/// returned is the window's.
#[test]
fn u14_sources_outside() {
    let heap = pattern(300_000, 3);
    assert_eq!(read(heap.as_ptr().addr() as u64, 300_000).unwrap(), heap);
    let stack = [7u8; 100];
    assert_eq!(read((&raw const stack).addr() as u64, 100).unwrap(), stack);
    let text = u14_sources_outside as *const () as usize as u64;
    // SAFETY: code is longer than that.
    assert_eq!(read(text, 16).unwrap(), unsafe { std::slice::from_raw_parts(text as *const u8, 16) });

    let edge = edge();
    let want = pattern(12 * PAGE as usize, 9);
    bytes(edge.0, want.len()).copy_from_slice(&want);
    let part = read(edge.0 + 77, 11 * PAGE).unwrap();
    assert_eq!(part, want[77..77 + 11 * PAGE as usize]);
}

/// u14, u17: holes and missing rights of memory outside have the codes that memory inside
/// has; below two pages rights are hidden.
#[test]
fn u17_codes_outside() {
    // Where Linux puts nothing by itself, so that a hole stays one.
    let o = Outside::at(0x2000_0000, 8 * PAGE as usize, libc::PROT_READ | libc::PROT_WRITE);
    o.protect(2 * PAGE, PAGE as usize, libc::PROT_NONE);
    o.protect(4 * PAGE, PAGE as usize, libc::PROT_READ);
    // SAFETY: the last page of it.
    unsafe { libc::munmap((o.0 + 7 * PAGE) as *mut _, PAGE as usize) };
    let inside = allocate(8 * PAGE);
    let overwrite = |from: u64, len: u64, to: u64| {
        let mut n = 99;
        // SAFETY: a good address.
        let got = unsafe { mach_vm_read_overwrite(ME, from, len, to, &raw mut n) };
        assert_eq!(n, if got == KERN_SUCCESS { len } else { 99 });
        got
    };
    // The source.
    assert_eq!(overwrite(o.0, 2 * PAGE, inside), KERN_SUCCESS);
    assert_eq!(overwrite(o.0 + 1, 2 * PAGE, inside), KERN_PROTECTION_FAILURE);
    assert_eq!(overwrite(o.0 + PAGE + 1, PAGE, inside), KERN_INVALID_ADDRESS, "hidden");
    assert_eq!(read(o.0, 3 * PAGE), Err(KERN_PROTECTION_FAILURE));
    assert_eq!(read(o.0 + 2 * PAGE, 1), Err(KERN_INVALID_ADDRESS), "hidden");
    assert_eq!(read(o.0 + 5 * PAGE, 2 * PAGE + 1), Err(KERN_INVALID_ADDRESS), "a hole");
    assert_eq!(read(o.0, 0), Ok(vec![]));
    assert_eq!(read(u64::MAX - PAGE, 2 * PAGE), Err(KERN_INVALID_ADDRESS), "it wraps");
    assert_eq!(read(o.0, 1 << 33), Err(KERN_INVALID_ARGUMENT), "more than a message says");
    // The destination; nothing is written.
    bytes(o.0 + 3 * PAGE, PAGE as usize).fill(1);
    bytes(inside, 8 * PAGE as usize).fill(2);
    assert_eq!(overwrite(inside, 2 * PAGE, o.0 + 3 * PAGE), KERN_PROTECTION_FAILURE);
    assert_eq!(overwrite(inside, 5, o.0 + 4 * PAGE), KERN_INVALID_ADDRESS, "hidden");
    assert_eq!(overwrite(inside, 4 * PAGE, o.0 + 5 * PAGE), KERN_INVALID_ADDRESS);
    assert!(bytes(o.0 + 3 * PAGE, PAGE as usize).iter().all(|b| *b == 1));
    assert!(bytes(o.0 + 5 * PAGE, 2 * PAGE as usize).iter().all(|b| *b == 0));
    assert_eq!(mach_vm_copy(ME, inside, 2 * PAGE, o.0 + 5 * PAGE), KERN_SUCCESS);
    assert!(bytes(o.0 + 5 * PAGE, 2 * PAGE as usize).iter().all(|b| *b == 2));
    assert_eq!(mach_vm_deallocate(ME, inside, 8 * PAGE), KERN_SUCCESS);
}

/// u15: data and destination may be anything; data that cannot be read could not be sent.
#[test]
fn u15_data_from_anywhere() {
    let inside = allocate(4 * PAGE);
    let data = pattern(3 * PAGE as usize, 5);
    let at = data.as_ptr().expose_provenance();
    assert_eq!(mach_vm_write(ME, inside + 5, at, data.len() as u32), KERN_SUCCESS);
    assert_eq!(bytes(inside + 5, data.len()), data);
    let mut on_stack = [0u8; 64];
    let to = (&raw mut on_stack).expose_provenance() as u64;
    assert_eq!(mach_vm_write(ME, to, inside as usize + 5, 64), KERN_SUCCESS);
    assert_eq!(on_stack, data[..64]);
    // Absent memory of ours is zero, and is read without a fault on the caller.
    let absent = allocate(PAGE);
    assert_eq!(mach_vm_write(ME, to, absent as usize, 64), KERN_SUCCESS);
    assert_eq!(on_stack, [0; 64]);

    for bad in [0, 1, 0x3000_0000, LOW as usize + (200 << 30), usize::MAX - 3] {
        let got = mach_vm_write(ME, inside, bad, 8);
        assert_eq!(got, MACH_SEND_INVALID_MEMORY, "{bad:#x}");
        assert_eq!(mach_vm_write(ME, inside, bad, 0), KERN_SUCCESS);
    }
    assert_eq!(mach_vm_write(0, inside, at, 8), MACH_SEND_INVALID_DEST);
    assert_eq!(mach_vm_write(ME, 8, at, 8), KERN_INVALID_ADDRESS);
    assert_eq!(mach_vm_write(ME, u64::MAX - 3, at, 8), KERN_INVALID_ADDRESS);
    let text = u15_data_from_anywhere as *const () as usize as u64;
    assert_eq!(mach_vm_write(ME, text, at, 8192), KERN_PROTECTION_FAILURE);
    assert_eq!(bytes(inside + 5, data.len()), data);
    for a in [(inside, 4 * PAGE), (absent, PAGE)] {
        assert_eq!(mach_vm_deallocate(ME, a.0, a.1), KERN_SUCCESS);
    }
}

/// u16: an absent destination and an absent source, and a copy onto itself.
#[test]
fn u16_absent_memory() {
    let (a, b) = (allocate(8 * PAGE), allocate(8 * PAGE));
    bytes(b, 8 * PAGE as usize).fill(9);
    assert_eq!(vm_copy(ME, a as usize, 8 * PAGE as usize, b as usize), KERN_SUCCESS);
    assert!(bytes(b, 8 * PAGE as usize).iter().all(|x| *x == 0));
    assert_eq!(mach_vm_copy(ME, a + 3, 4 * PAGE, a + 3), KERN_SUCCESS);
    assert_eq!(mach_vm_copy(ME, a, u64::MAX, b), KERN_INVALID_ADDRESS);
    assert_eq!(mach_vm_copy(ME, 8, u64::MAX, b), KERN_INVALID_ADDRESS);
    assert_eq!(mach_vm_copy(ME, a, 0, 8), KERN_SUCCESS);
    let heap = vec![4u8; 3 * PAGE as usize];
    let from = heap.as_ptr().expose_provenance() as u64;
    assert_eq!(mach_vm_copy(ME, from, heap.len() as u64, a + 1), KERN_SUCCESS);
    assert_eq!(bytes(a + 1, heap.len()), heap);
    assert_eq!(mach_vm_copy(ME, from, heap.len() as u64, from), KERN_SUCCESS);
    assert_eq!(mach_vm_copy(ME, from, heap.len() as u64, 16), KERN_INVALID_ADDRESS);
    for a in [a, b] {
        assert_eq!(mach_vm_deallocate(ME, a, 8 * PAGE), KERN_SUCCESS);
    }
}

/// u18: the first that fails ends it; it and what follows are 0.
#[test]
fn u18_lists() {
    let data = pattern(9000, 1);
    let at = data.as_ptr().expose_provenance() as u64;
    let entry = |address, size| mach_vm_read_entry { address, size };
    keep_the_edge();
    let mut list = [entry(at, 9000), entry(at + 1, 10), entry(9, 10), entry(at, 4)];
    // SAFETY: good entries.
    let read =
        |list: &mut [mach_vm_read_entry], n: u32| unsafe { mach_vm_read_list(ME, list.as_mut_ptr(), n) };
    assert_eq!(read(&mut list, 257), KERN_INVALID_ARGUMENT);
    assert_eq!(read(&mut list, 4), KERN_INVALID_ADDRESS);
    for (i, want) in [&data[..], &data[1..11]].into_iter().enumerate() {
        let (address, size) = (list[i].address, list[i].size);
        assert_eq!(bytes(address, size as usize), want);
        assert_eq!(mach_vm_deallocate(ME, address, size), KERN_SUCCESS);
    }
    for e in &list[2..] {
        assert_eq!(({ e.address }, { e.size }), (0, 0));
    }
    assert_eq!(read(&mut [], 0), KERN_SUCCESS);
}

/// Memory beyond the end of a file is mapped, but there is nothing to read.
#[test]
fn u14_beyond_a_file() {
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    let len = file.metadata().unwrap().len().next_multiple_of(PAGE);
    use std::os::fd::AsRawFd;
    // SAFETY: a new mapping.
    let p = unsafe {
        let whole = (len + 2 * PAGE) as usize;
        libc::mmap(std::ptr::null_mut(), whole, libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd(), 0)
    };
    let at = p.expose_provenance() as u64;
    assert_eq!(read(at + len, 2 * PAGE), Err(KERN_MEMORY_ERROR));
    assert_eq!(&read(at, 2 * PAGE).unwrap()[..4], b"\x7fELF");
    // SAFETY: made above.
    unsafe { libc::munmap(p, (len + 2 * PAGE) as usize) };
}
