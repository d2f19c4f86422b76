//! `MACHVM_PERSONALITY`: what differs between systems, each in a process of its own.

use machvm_capi::calls::allocate::{mach_vm_allocate, mach_vm_deallocate};
use machvm_capi::calls::error::mach_error_string;
use machvm_capi::calls::inherit::mach_vm_inherit;
use machvm_capi::calls::map::mach_vm_map;
use machvm_capi::calls::protect::mach_vm_protect;
use machvm_capi::calls::wire::{mach_vm_wire, vm_wire_all};
use std::ffi::CStr;

use crate::util::*;

/// What one system does, where they differ.
struct Want {
    /// vm_allocate and vm_deallocate of no bytes.
    nothing: (i32, i32),
    /// vm_allocate with OVERWRITE; with PURGABLE.
    flags: (i32, i32),
    /// vm_protect over a hole; of a range that wraps.
    protect: (i32, i32),
    /// VM_PROT_COPY.
    copy: i32,
    /// vm_inherit with 3.
    zero: i32,
    /// vm_map with a protection beyond the maximum.
    beyond: i32,
    /// vm_wire of a hole; without the right.
    wire: (i32, i32),
    /// `mach_error_string(26)`.
    terminated: &'static CStr,
}

const ARG: i32 = KERN_INVALID_ARGUMENT;
const ADDR: i32 = KERN_INVALID_ADDRESS;
const PROT: i32 = KERN_PROTECTION_FAILURE;

const XNU: Want = Want {
    nothing: (0, 0),
    flags: (0, 0),
    protect: (ADDR, ARG),
    copy: 0,
    zero: ARG,
    beyond: ARG,
    wire: (ADDR, PROT),
    terminated: c"(os/kern) invalid processor set",
};
const MACH3: Want = Want {
    flags: (ARG, ARG),
    protect: (0, 0),
    copy: ARG,
    beyond: 0,
    wire: (KERN_NO_SPACE, KERN_NO_SPACE),
    terminated: c"(os/kern) object terminated",
    ..XNU
};
const FREEBSD: Want = Want { flags: (0, ARG), protect: (0, ARG), copy: ARG, zero: 0, ..XNU };
const POSIX: Want = Want { nothing: (ARG, ARG), protect: (ADDR, ARG), zero: ARG, ..FREEBSD };

fn allocate_at(task: u32, at: u64, size: u64, flags: i32) -> i32 {
    let mut at = at;
    // SAFETY: a variable of ours.
    unsafe { mach_vm_allocate(task, &raw mut at, size, flags) }
}

#[test]
#[ignore = "needs an environment: run by every_personality_has_its_codes"]
fn has_its_codes() {
    let t = task();
    let name = std::env::var("MACHVM_PERSONALITY").ok();
    let want = match name.as_deref() {
        None | Some("xnu") => XNU,
        Some("mach3") => MACH3,
        Some("freebsd" | "uvm") => FREEBSD,
        Some("posix") => POSIX,
        Some(other) => panic!("{other}"),
    };
    let at = allocate(t, 3);
    assert_eq!((allocate_at(t, 0, 0, ANYWHERE), mach_vm_deallocate(t, at, 0)), want.nothing);
    assert_eq!((allocate_at(t, at, P, OVERWRITE), allocate_at(t, 0, P, ANYWHERE | 2)), want.flags);
    let protect = |size, prot| mach_vm_protect(t, at, size, 0, prot);
    assert_eq!((protect(64 * P, RW), protect(u64::MAX, RW)), want.protect);
    assert_eq!(protect(P, RW | 0x10), want.copy);
    assert_eq!(mach_vm_inherit(t, at, P, 3), want.zero);
    let mut a = 0;
    // SAFETY: a variable of ours.
    let beyond = unsafe { mach_vm_map(t, &raw mut a, P, 0, ANYWHERE, NULL, 0, 0, RW, R, COPY) };
    assert_eq!(beyond, want.beyond);
    assert_eq!(protect(P, R), KERN_SUCCESS);
    let wire = |at, access| mach_vm_wire(HOST_PRIV, t, at, P, access);
    assert_eq!((wire(at + 64 * P, R), wire(at, RW)), want.wire);
    assert_eq!((wire(at, R), wire(at, NONE)), (KERN_SUCCESS, KERN_SUCCESS));
    // SAFETY: a string for ever.
    assert_eq!(unsafe { CStr::from_ptr(mach_error_string(26)) }, want.terminated);
    limits(name.as_deref() == Some("mach3"));
}

/// Mach 3 lets those without privilege wire 8 MiB; the others ask for the privileged port.
fn limits(mach3: bool) {
    let t = task();
    let at = allocate(t, 2049);
    let wire = |pages: u64| mach_vm_wire(HOST, t, at, pages * P, R);
    // SAFETY: it only asks.
    let root = unsafe { libc::geteuid() } == 0;
    let want = match (mach3, root) {
        (true, _) => (KERN_NO_ACCESS, KERN_SUCCESS, KERN_INVALID_HOST),
        (false, true) => (KERN_SUCCESS, KERN_SUCCESS, KERN_SUCCESS),
        (false, false) => (KERN_INVALID_HOST, KERN_INVALID_HOST, KERN_INVALID_HOST),
    };
    assert_eq!((wire(2049), wire(2048), vm_wire_all(HOST, t, 0)), want);
}

#[test]
fn every_personality_has_its_codes() {
    passes("personality::has_its_codes", &[]);
    for name in ["mach3", "xnu", "freebsd", "uvm", "posix"] {
        passes("personality::has_its_codes", &[("MACHVM_PERSONALITY", name)]);
    }
}

#[test]
fn settings_that_mean_nothing_end_the_process_with_a_sentence() {
    for (name, value) in [
        ("MACHVM_PERSONALITY", "vms"),
        ("MACHVM_MEMORY", "much"),
        ("MACHVM_WINDOW", "1Q"),
        ("MACHVM_MEMORY", "1"),
    ] {
        let out = elsewhere("personality::has_its_codes", &[(name, value)]);
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(71), "{name}={value}: {said}");
        assert!(said.contains("libmachvm: "), "{name}={value}: {said}");
    }
}
