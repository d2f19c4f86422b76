//! `vm_remap`, `vm_remap_new` (U07, U08).

use machvm_capi::calls::protect::mach_vm_protect;
use machvm_capi::calls::remap::{mach_vm_remap, mach_vm_remap_new, vm_remap, vm_remap_new};

use crate::util::*;

/// `mach_vm_remap`, or with rights `mach_vm_remap_new`.
#[derive(Clone, Copy)]
struct Remap {
    task: u32,
    at: u64,
    size: u64,
    mask: u64,
    flags: i32,
    source: u32,
    from: u64,
    copy: u32,
    inherit: u32,
    rights: Option<(i32, i32)>,
}

const HERE: Remap = Remap {
    task: TASK_SELF,
    at: 0,
    size: P,
    mask: 0,
    flags: ANYWHERE,
    source: TASK_SELF,
    from: 0,
    copy: 0,
    inherit: COPY,
    rights: None,
};

impl Remap {
    /// Where, and what may be done with it.
    fn call(self) -> Result<(u64, i32, i32), i32> {
        let was = (self.at, self.rights.map_or(99, |r| r.0), self.rights.map_or(98, |r| r.1));
        let (mut at, mut prot, mut max) = was;
        let call = if self.rights.is_some() { mach_vm_remap_new } else { mach_vm_remap };
        let Remap { task, size, mask, flags, source, from, copy, inherit, .. } = self;
        let (a, p, m) = (&raw mut at, &raw mut prot, &raw mut max);
        // SAFETY: variables of ours.
        match unsafe { call(task, a, size, mask, flags, source, from, copy, p, m, inherit) } {
            0 => Ok((at, prot, max)),
            e => {
                assert_eq!((at, prot, max), was, "a call that fails writes nothing");
                Err(e)
            }
        }
    }
}

/// vm_remap of XNU's manual.
#[test]
fn u07_shares_or_copies_and_tells_the_rights() {
    let at = allocate(TASK_SELF, 2);
    put(at, 1);
    let of = Remap { from: at, size: 2 * P, ..HERE };
    let (shared, prot, max) = of.call().unwrap();
    assert_eq!((prot, max), (RW, ALL));
    let (copied, ..) = Remap { copy: 1, ..of }.call().unwrap();
    put(at, 2);
    assert_eq!((get(shared), get(copied)), (2, 1));
    put(shared + P, 3);
    put(copied + P, 4);
    assert_eq!(get(at + P), 3);
    // What is common to all of it is told.
    assert_eq!(mach_vm_protect(TASK_SELF, at, P, 1, R), KERN_SUCCESS);
    let (third, prot, max) = of.call().unwrap();
    assert_eq!((prot, max), (R, R));
    for a in [at, shared, copied, third] {
        free(TASK_SELF, a, 2);
    }
}

/// vm_remap of XNU's manual, between tasks in both directions.
#[test]
fn u07_between_tasks() {
    let t = task();
    let there = allocate(t, 1);
    let (here, ..) = Remap { source: t, from: there, ..HERE }.call().unwrap();
    put(here, 5);
    let (copy, ..) = Remap { task: t, source: TASK_SELF, from: here, copy: 1, ..HERE }.call().unwrap();
    put(here, 6);
    let back = window_on(t, copy, 1);
    assert_eq!(get(back), 5);
    free(TASK_SELF, here, 1);
    free(TASK_SELF, back, 1);
}

/// vm_remap of XNU's manual.
#[test]
fn u07_codes() {
    let t = task();
    let at = allocate(t, 2);
    let m = Remap { task: t, source: t, from: at, ..HERE };
    // Purgeable, no cache, permanent, a 4K address, a tag: not for this call.
    for flag in [0x8000, 2, 4, 0x10, 0x80, 0x80_0000, 0x100_0000] {
        assert_eq!(Remap { flags: ANYWHERE | flag, ..m }.call(), Err(KERN_INVALID_ARGUMENT), "{flag:#x}");
    }
    assert_eq!(Remap { size: 0, ..m }.call(), Err(KERN_INVALID_ARGUMENT));
    assert_eq!(Remap { inherit: 3, ..m }.call(), Err(KERN_INVALID_ARGUMENT));
    assert_eq!(Remap { size: u64::MAX, ..m }.call(), Err(KERN_INVALID_ARGUMENT), "it wraps");
    assert_eq!(Remap { size: 3 * P, ..m }.call(), Err(KERN_INVALID_ADDRESS), "a hole in the source");
    assert_eq!(Remap { flags: FIXED, at, ..m }.call(), Err(KERN_NO_SPACE));
    assert_eq!(Remap { flags: FIXED, at: 0, ..m }.call(), Err(KERN_INVALID_ADDRESS));
    assert_eq!(Remap { mask: 0x2000, ..m }.call(), Err(KERN_NO_SPACE), "Z15");
    assert_eq!(Remap { flags: FIXED | OVERWRITE, at: at + P, ..m }.call().unwrap().0, at + P);
    // One page, not two, unless the address of the data is wanted (Z02).
    let odd = Remap { from: at + P - 0x10, size: 0x20, ..m };
    let (one, ..) = odd.call().unwrap();
    assert_eq!(one % P, 0);
    let (data, ..) = Remap { flags: ANYWHERE | DATA_ADDR, ..odd }.call().unwrap();
    assert_eq!((one, data), (at + 2 * P, at + 4 * P - 0x10));
}

#[test]
fn u07_u08_ports_and_pointers() {
    let t = task();
    let at = allocate(t, 1);
    for rights in [None, Some((RW, RW))] {
        let m = Remap { task: t, source: t, from: at, rights, ..HERE };
        for task in [NULL, DEAD, UNKNOWN] {
            assert_eq!(Remap { task, ..m }.call(), Err(MACH_SEND_INVALID_DEST));
        }
        assert_eq!(Remap { task: HOST, ..m }.call(), Err(KERN_INVALID_ARGUMENT));
        for source in [NULL, DEAD, HOST] {
            assert_eq!(Remap { source, ..m }.call(), Err(KERN_INVALID_ARGUMENT));
        }
        assert_eq!(Remap { source: UNKNOWN, ..m }.call(), Err(MACH_SEND_INVALID_RIGHT));
    }
    let (mut a, mut n) = (0usize, 0);
    let (size, from) = (P as usize, at as usize);
    let null = core::ptr::null_mut();
    for call in [vm_remap, vm_remap_new] {
        // SAFETY: variables of ours, and null, which is looked at.
        unsafe {
            let (p, q) = (&raw mut a, &raw mut n);
            let none = core::ptr::null_mut();
            assert_eq!(call(t, none, size, 0, 1, t, from, 0, q, q, COPY), KERN_INVALID_ARGUMENT);
            assert_eq!(call(t, p, size, 0, 1, t, from, 0, null, q, COPY), KERN_INVALID_ARGUMENT);
            assert_eq!(call(t, p, size, 0, 1, t, from, 0, q, null, COPY), KERN_INVALID_ARGUMENT);
            let mut max = R;
            n = R;
            assert_eq!(call(t, p, size, 0, 1, t, from, 0, q, &raw mut max, COPY), KERN_SUCCESS);
        }
        assert_eq!(a % size, 0);
    }
}

/// mach_vm_remap_new of XNU.
#[test]
fn u08_the_caller_says_what_it_wants() {
    let at = allocate(TASK_SELF, 2);
    put(at + 8, 1);
    let m = Remap { from: at, ..HERE };
    let new = |prot, max| Remap { rights: Some((prot, max)), ..m }.call();
    let (read, prot, max) = new(R, R).unwrap();
    assert_eq!((prot, max, get(read + 8)), (R, R, 1));
    assert_eq!(mach_vm_protect(TASK_SELF, read, P, 0, RW), KERN_PROTECTION_FAILURE);
    assert_eq!(new(RW, R), Err(KERN_INVALID_ARGUMENT));
    assert_eq!(new(8, ALL), Err(KERN_INVALID_ARGUMENT));
    assert_eq!(new(R, 0x40), Err(KERN_INVALID_ARGUMENT));
    let data = Remap { from: at + 8, size: 8, rights: Some((R, R)), ..m }.call().unwrap().0;
    assert_eq!((data % P, get(data)), (8, 1), "always the address of the data");
    assert_eq!(mach_vm_protect(TASK_SELF, at, P, 1, R), KERN_SUCCESS);
    assert_eq!(new(RW, RW), Err(KERN_PROTECTION_FAILURE));
    for (a, pages) in [(at, 2), (read, 1), (data - 8, 1)] {
        free(TASK_SELF, a, pages);
    }
}
