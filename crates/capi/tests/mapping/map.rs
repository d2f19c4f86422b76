//! `vm_allocate`, `vm_deallocate`, `vm_map` (U01 to U06).

use machvm_capi::calls::allocate::{mach_vm_allocate, mach_vm_deallocate, vm_allocate};
use machvm_capi::calls::entries::mach_make_memory_entry_64;
use machvm_capi::calls::map::{mach_vm_map, vm_map, vm_map_64};
use machvm_capi::calls::names::mach_port_deallocate;

use crate::util::*;

/// `mach_vm_map` of a whole set of numbers.
#[derive(Clone, Copy)]
struct Map {
    task: u32,
    at: u64,
    size: u64,
    mask: u64,
    flags: i32,
    object: u32,
    offset: u64,
    copy: u32,
    rights: (i32, i32, u32),
}

const ZERO: Map = Map {
    task: TASK_SELF,
    at: 0,
    size: P,
    mask: 0,
    flags: ANYWHERE,
    object: NULL,
    offset: 0,
    copy: 0,
    rights: (RW, ALL, COPY),
};

impl Map {
    fn call(self) -> Result<u64, i32> {
        let mut at = self.at;
        let (prot, max, inherit) = self.rights;
        let Map { task, size, mask, flags, object, offset, copy, .. } = self;
        // SAFETY: an address of ours.
        match unsafe {
            mach_vm_map(task, &raw mut at, size, mask, flags, object, offset, copy, prot, max, inherit)
        } {
            0 => Ok(at),
            e => {
                assert_eq!(at, self.at, "a call that fails writes nothing");
                Err(e)
            }
        }
    }
}

fn named(size: u64, rights: i32) -> u32 {
    let (mut size, mut name) = (size, 0);
    let create = 0x2_0000 | rights;
    // SAFETY: variables of ours.
    let r = unsafe { mach_make_memory_entry_64(TASK_SELF, &raw mut size, 0, create, &raw mut name, NULL) };
    assert_eq!(r, KERN_SUCCESS);
    name
}

/// mach_vm_allocate of XNU's manual: address and code.
fn allocate_at(task: u32, at: u64, size: u64, flags: i32) -> (u64, i32) {
    let mut at = at;
    // SAFETY: an address of ours.
    let code = unsafe { mach_vm_allocate(task, &raw mut at, size, flags) };
    (at, code)
}

#[test]
fn u02_codes_of_mach_vm_allocate() {
    let t = task();
    let low = allocate(t, 1);
    assert_eq!(allocate_at(t, 7, 0, ANYWHERE), (0, KERN_SUCCESS), "no bytes: address 0");
    assert_eq!(allocate_at(t, 7, 0, 0x8000), (7, KERN_INVALID_ARGUMENT), "flags before a zero size");
    assert_eq!(allocate_at(t, 0, P, FIXED), (0, KERN_INVALID_ADDRESS));
    assert_eq!(allocate_at(t, low, P, FIXED), (low, KERN_NO_SPACE));
    assert_eq!(allocate_at(t, low, u64::MAX, FIXED), (low, KERN_INVALID_ARGUMENT), "it wraps");
    assert_eq!(allocate_at(t, 1 << 46, P, FIXED), (1 << 46, KERN_INVALID_ADDRESS));
    assert_eq!(allocate_at(t, 0, 1 << 45, ANYWHERE), (0, KERN_NO_SPACE));
    assert_eq!(allocate_at(t, low + 5, P, OVERWRITE), (low, KERN_SUCCESS), "truncated, in place");
    for flag in [DATA_ADDR, 0x80_0000, 0x20, 0x40] {
        assert_eq!(allocate_at(t, 7, P, ANYWHERE | flag), (7, KERN_INVALID_ARGUMENT), "not for this call");
    }
    // First fit, whatever the address says.
    assert_eq!(allocate_at(t, low + 100 * P, P, ANYWHERE), (low + P, KERN_SUCCESS));
    // SAFETY: null is looked at.
    let null = unsafe { mach_vm_allocate(t, core::ptr::null_mut(), P, ANYWHERE) };
    assert_eq!(null, KERN_INVALID_ARGUMENT);
}

#[test]
fn u01_vm_allocate_gives_zeroes_that_may_be_written() {
    let mut at = 0usize;
    // SAFETY: an address of ours.
    assert_eq!(unsafe { vm_allocate(TASK_SELF, &raw mut at, 3 * P as usize, ANYWHERE) }, KERN_SUCCESS);
    let at = at as u64;
    assert_eq!((at % P, get(at), get(at + 3 * P - 8)), (0, 0, 0));
    put(at + 2 * P, 77);
    assert_eq!((get(at + 2 * P), get(at + P)), (77, 0));
    free(TASK_SELF, at, 3);
}

#[test]
fn u04_deallocating_unmapped_memory_succeeds_and_wrapping_does_not() {
    let t = task();
    let at = allocate(t, 3);
    for _ in 0..2 {
        assert_eq!(mach_vm_deallocate(t, at + P, P), KERN_SUCCESS);
    }
    assert_eq!(mach_vm_deallocate(t, at, 0), KERN_SUCCESS);
    assert_eq!(mach_vm_deallocate(t, at, u64::MAX), KERN_INVALID_ARGUMENT);
    assert_eq!(allocate_at(t, at + P, P, FIXED), (at + P, KERN_SUCCESS), "it was free");
}

#[test]
fn ports_as_destinations() {
    let entry = named(P, RW);
    let dead = task();
    assert_eq!(machvm_capi::calls::tasks::task_terminate(dead), KERN_SUCCESS);
    for (port, want) in [
        (NULL, MACH_SEND_INVALID_DEST),
        (DEAD, MACH_SEND_INVALID_DEST),
        (UNKNOWN, MACH_SEND_INVALID_DEST),
        (dead, MACH_SEND_INVALID_DEST),
        (HOST, KERN_INVALID_ARGUMENT),
        (entry, KERN_INVALID_ARGUMENT),
    ] {
        assert_eq!(Map { task: port, ..ZERO }.call(), Err(want), "vm_map on {port:#x}");
        assert_eq!(allocate_at(port, 9, P, ANYWHERE), (9, want), "vm_allocate on {port:#x}");
        assert_eq!(mach_vm_deallocate(port, 0, P), want, "vm_deallocate on {port:#x}");
    }
}

/// mach_vm_map of XNU's manual; U05 and U06 of the rows.
#[test]
fn u06_codes_of_mach_vm_map() {
    let t = task();
    let low = allocate(t, 1);
    let m = Map { task: t, ..ZERO };
    let fixed = Map { flags: FIXED, at: low + P, ..m };
    let rights = |prot, max, inherit| Map { rights: (prot, max, inherit), ..m }.call();
    for flag in [0x8000, 0x20, 0x40] {
        assert_eq!(Map { flags: ANYWHERE | flag, ..m }.call(), Err(KERN_INVALID_ARGUMENT));
    }
    assert_eq!(Map { size: 0, ..m }.call(), Err(KERN_INVALID_ARGUMENT));
    assert_eq!(rights(8, ALL, COPY), Err(KERN_INVALID_ARGUMENT));
    assert_eq!(rights(R, 0x100, COPY), Err(KERN_INVALID_ARGUMENT));
    assert_eq!(rights(RW, R, COPY), Err(KERN_INVALID_ARGUMENT), "Z14");
    assert_eq!(rights(R, ALL, 3), Err(KERN_INVALID_ARGUMENT));
    assert_eq!(Map { at: 0, ..fixed }.call(), Err(KERN_INVALID_ADDRESS));
    assert_eq!(Map { at: low, ..fixed }.call(), Err(KERN_NO_SPACE));
    assert_eq!(Map { at: 1 << 46, ..fixed }.call(), Err(KERN_INVALID_ADDRESS));
    assert_eq!(Map { size: u64::MAX, ..fixed }.call(), Err(KERN_INVALID_ARGUMENT));
    assert_eq!(Map { size: 1 << 45, ..m }.call(), Err(KERN_NO_SPACE));
    assert_eq!(Map { mask: 0x2000, ..m }.call(), Err(KERN_NO_SPACE), "Z15");
    assert_eq!(Map { mask: 0xf_ffff, ..fixed }.call(), Err(KERN_NO_SPACE));
    // ANYWHERE: upwards from the hint; low bits of the mask align.
    assert_eq!(Map { at: low + 7 * P, ..m }.call(), Ok(low + 7 * P));
    assert_eq!(Map { mask: 0xf_ffff, ..m }.call().unwrap() % 0x10_0000, 0);
    assert_eq!(m.call(), Ok(low + P));
}

/// mach_vm_map of XNU's manual: what the object may be.
#[test]
fn u06_ports_as_objects() {
    let m = Map { task: task(), ..ZERO };
    assert!(m.call().is_ok(), "null: zeroes");
    assert!(Map { object: DEAD, offset: 5, ..m }.call().is_ok(), "dead: zeroes too");
    assert_eq!(Map { object: UNKNOWN, ..m }.call(), Err(MACH_SEND_INVALID_RIGHT));
    for object in [HOST, HOST_PRIV, TASK_SELF, m.task] {
        assert_eq!(Map { object, ..m }.call(), Err(KERN_INVALID_OBJECT));
        assert_eq!(Map { object, size: 0, ..m }.call(), Err(KERN_INVALID_ARGUMENT), "numbers first");
    }
}

/// mach_vm_map of XNU's manual: entries.
#[test]
fn u06_entries_and_their_rights() {
    let entry = named(3 * P, R);
    let m = Map { object: entry, ..ZERO };
    assert_eq!(m.call(), Err(KERN_INVALID_RIGHT));
    let rights = |prot, max| Map { rights: (prot, max, COPY), ..m };
    assert_eq!(rights(R, RW).call(), Err(KERN_INVALID_RIGHT));
    let readable = rights(R, R);
    assert_eq!(Map { offset: 5, ..readable }.call(), Err(KERN_INVALID_ARGUMENT));
    assert_eq!(Map { offset: 3 * P, ..readable }.call(), Err(KERN_INVALID_ARGUMENT));
    assert_eq!(Map { size: 4 * P, ..readable }.call(), Err(KERN_INVALID_ARGUMENT));
    assert_eq!(Map { offset: u64::MAX - 1, ..readable }.call(), Err(KERN_INVALID_ARGUMENT));
    let at = Map { size: 2 * P, offset: P, ..readable }.call().unwrap();
    assert_eq!(get(at + P), 0);
    free(TASK_SELF, at, 2);
    // VM_PROT_IS_MASK: what there is, is enough.
    let at = rights(RW | 0x40, ALL | 0x40).call().unwrap();
    assert_eq!(machvm_capi::calls::protect::mach_vm_protect(TASK_SELF, at, P, 0, RW), 2, "read only");
    free(TASK_SELF, at, 1);
    let secret = named(P, 2);
    let write_only = Map { object: secret, rights: (2, 2, COPY), ..ZERO };
    assert_eq!(Map { copy: 1, ..write_only }.call(), Err(KERN_PROTECTION_FAILURE), "Z123");
    for name in [entry, secret] {
        assert_eq!(mach_port_deallocate(TASK_SELF, name), KERN_SUCCESS);
        assert_eq!(Map { object: name, ..m }.call(), Err(MACH_SEND_INVALID_RIGHT), "the name is gone");
    }
}

#[test]
fn u05_u06_mappings_of_one_entry_are_the_same_memory_and_copies_are_not() {
    let entry = named(2 * P, RW);
    let m = Map { object: entry, size: 2 * P, rights: (RW, RW, COPY), ..ZERO };
    let a = m.call().unwrap();
    put(a + P, 5);
    let copy = Map { copy: 1, ..m }.call().unwrap();
    let (mut b, mut c) = (0usize, 0usize);
    // SAFETY: variables of ours.
    unsafe {
        let (size, none, e) = (P as usize, 0usize, entry);
        let r = vm_map(TASK_SELF, &raw mut b, size, none, 1, e, P as usize, 0, RW, RW, COPY);
        assert_eq!(r, KERN_SUCCESS);
        let r = vm_map_64(TASK_SELF, &raw mut c, size, none, 1, e, P, 0, RW, RW, COPY);
        assert_eq!(r, KERN_SUCCESS);
        let null = core::ptr::null_mut();
        assert_eq!(vm_map(TASK_SELF, null, size, none, 1, e, 0, 0, RW, RW, COPY), KERN_INVALID_ARGUMENT);
    }
    let (b, c) = (b as u64, c as u64);
    put(b, 6);
    assert_eq!((get(a + P), get(c), get(copy + P)), (6, 6, 5));
    put(copy + P, 7);
    assert_eq!(get(a + P), 6);
    // The memory outlives the name.
    assert_eq!(mach_port_deallocate(TASK_SELF, entry), KERN_SUCCESS);
    assert_eq!((get(a + P), get(copy + P)), (6, 7));
    for (at, pages) in [(a, 2), (copy, 2), (b, 1), (c, 1)] {
        free(TASK_SELF, at, pages);
    }
}
