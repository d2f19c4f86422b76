//! What the tests share.

use std::process::{Command, Output};

use machvm_capi::calls::allocate::{mach_vm_allocate, mach_vm_deallocate};
use machvm_capi::calls::region::mach_vm_region;
use machvm_capi::calls::remap::mach_vm_remap;
use machvm_capi::calls::tasks::task_create;
pub(crate) use machvm_capi::kr::*;
pub(crate) use machvm_capi::ports::{DEAD, HOST, HOST_PRIV, NULL, TASK_SELF};

/// Bytes of a page.
pub(crate) const P: u64 = 4096;
/// A name that nobody was given.
pub(crate) const UNKNOWN: u32 = 0x00dd_dd03;
/// `VM_FLAGS_*`.
pub(crate) const ANYWHERE: i32 = 1;
pub(crate) const FIXED: i32 = 0;
pub(crate) const OVERWRITE: i32 = 0x4000;
pub(crate) const DATA_ADDR: i32 = 0x10_0000;
/// `VM_PROT_*`.
pub(crate) const NONE: i32 = 0;
pub(crate) const R: i32 = 1;
pub(crate) const RW: i32 = 3;
pub(crate) const ALL: i32 = 7;
/// `VM_INHERIT_*`.
pub(crate) const SHARE: u32 = 0;
pub(crate) const COPY: u32 = 1;

/// Zeroes in a task.
pub(crate) fn allocate(task: u32, pages: u64) -> u64 {
    let mut at = 0;
    // SAFETY: an address of ours.
    assert_eq!(unsafe { mach_vm_allocate(task, &raw mut at, pages * P, ANYWHERE) }, KERN_SUCCESS);
    at
}

/// Frees pages, from the one on that `at` is in: no page more, which may be another
/// test's.
pub(crate) fn free(task: u32, at: u64, pages: u64) {
    assert_eq!(mach_vm_deallocate(task, at - at % P, pages * P), KERN_SUCCESS);
}

/// A task with nothing in it.
pub(crate) fn task() -> u32 {
    child_of(TASK_SELF, false)
}

/// A child.
pub(crate) fn child_of(parent: u32, inherit: bool) -> u32 {
    let mut child = 0;
    // SAFETY: a name of ours; no ledgers.
    let r = unsafe { task_create(parent, core::ptr::null_mut(), 0, inherit.into(), &raw mut child) };
    assert_eq!(r, KERN_SUCCESS);
    child
}

/// Memory of another task, mapped here.
pub(crate) fn window_on(task: u32, at: u64, pages: u64) -> u64 {
    let (mut here, mut prot, mut max) = (0, 0, 0);
    // SAFETY: variables of ours.
    let r = unsafe {
        mach_vm_remap(
            TASK_SELF,
            &raw mut here,
            pages * P,
            0,
            ANYWHERE,
            task,
            at,
            0,
            &raw mut prot,
            &raw mut max,
            COPY,
        )
    };
    assert_eq!(r, KERN_SUCCESS, "{at:#x} of {task:#x}");
    here
}

/// Writes a word of this task's memory.
pub(crate) fn put(at: u64, value: u64) {
    // SAFETY: the callers name memory of the library that they have.
    unsafe { core::ptr::with_exposed_provenance_mut::<u64>(at as usize).write_volatile(value) }
}

/// Reads a word of this task's memory.
pub(crate) fn get(at: u64) -> u64 {
    // SAFETY: the callers name memory of the library that they have.
    unsafe { core::ptr::with_exposed_provenance::<u64>(at as usize).read_volatile() }
}

/// A region: address, size, protection, maximum, inheritance, wirings.
pub(crate) type Region = (u64, u64, i32, i32, u32, u16);

/// Everything that a task has. This process's own task also has what Linux mapped.
pub(crate) fn regions(task: u32) -> Vec<Region> {
    const BASIC_64: i32 = 9;
    let (mut all, mut at) = (Vec::new(), 0);
    loop {
        let (mut size, mut info, mut count, mut name) = (0, [0i32; 9], 9, 0);
        // SAFETY: variables of ours, with room for as many words as the count says.
        let r = unsafe {
            let info = info.as_mut_ptr();
            mach_vm_region(task, &raw mut at, &raw mut size, BASIC_64, info, &raw mut count, &raw mut name)
        };
        if r != KERN_SUCCESS {
            return all;
        }
        let [prot, max, inherit, .., last] = info;
        // The last word: half of it is padding.
        all.push((at, size, prot, max, inherit.cast_unsigned(), last as u16));
        at += size;
    }
}

/// Runs an ignored test of this program in a process of its own.
pub(crate) fn elsewhere(test: &str, env: &[(&str, &str)]) -> Output {
    let mut c = Command::new(std::env::current_exe().unwrap());
    c.args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"]);
    c.envs(env.iter().copied());
    c.output().unwrap()
}

/// As [`elsewhere`]; it must pass, and be there.
pub(crate) fn passes(test: &str, env: &[(&str, &str)]) {
    let out = elsewhere(test, env);
    let said = String::from_utf8_lossy(&out.stdout);
    let ok = out.status.success() && said.contains("1 passed");
    assert!(ok, "{env:?}: {said}{}", String::from_utf8_lossy(&out.stderr));
}
