//! What the tests share.

use std::process::{Command, Output};

use machvm_capi::calls::allocate::{mach_vm_allocate, mach_vm_deallocate};
use machvm_capi::calls::remap::mach_vm_remap;
use machvm_capi::calls::tasks::task_create;
pub use machvm_capi::kr::*;
pub use machvm_capi::ports::{DEAD, HOST, HOST_PRIV, NULL, TASK_SELF};

/// Bytes of a page.
pub const P: u64 = 4096;
/// A name that nobody was given.
pub const UNKNOWN: u32 = 0x00dd_dd03;
/// `VM_FLAGS_*`.
pub const ANYWHERE: i32 = 1;
pub const FIXED: i32 = 0;
pub const OVERWRITE: i32 = 0x4000;
pub const DATA_ADDR: i32 = 0x10_0000;
/// `VM_PROT_*`.
pub const NONE: i32 = 0;
pub const R: i32 = 1;
pub const RW: i32 = 3;
pub const ALL: i32 = 7;
/// `VM_INHERIT_*`.
pub const SHARE: u32 = 0;
pub const COPY: u32 = 1;

/// Zeroes in a task.
pub fn allocate(task: u32, pages: u64) -> u64 {
    let mut at = 0;
    // SAFETY: an address of ours.
    assert_eq!(unsafe { mach_vm_allocate(task, &raw mut at, pages * P, ANYWHERE) }, KERN_SUCCESS);
    at
}

/// Frees what [`allocate`] gave.
pub fn free(task: u32, at: u64, pages: u64) {
    assert_eq!(mach_vm_deallocate(task, at, pages * P), KERN_SUCCESS);
}

/// A task with nothing in it.
pub fn task() -> u32 {
    child_of(TASK_SELF, false)
}

/// A child.
pub fn child_of(parent: u32, inherit: bool) -> u32 {
    let mut child = 0;
    // SAFETY: a name of ours; no ledgers.
    let r = unsafe { task_create(parent, core::ptr::null_mut(), 0, inherit.into(), &raw mut child) };
    assert_eq!(r, KERN_SUCCESS);
    child
}

/// Memory of another task, mapped here.
pub fn window_on(task: u32, at: u64, pages: u64) -> u64 {
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
pub fn put(at: u64, value: u64) {
    // SAFETY: the callers name memory of the library that they have.
    unsafe { core::ptr::with_exposed_provenance_mut::<u64>(at as usize).write_volatile(value) }
}

/// Reads a word of this task's memory.
pub fn get(at: u64) -> u64 {
    // SAFETY: the callers name memory of the library that they have.
    unsafe { core::ptr::with_exposed_provenance::<u64>(at as usize).read_volatile() }
}

/// Runs an ignored test of this program in a process of its own.
pub fn elsewhere(test: &str, env: &[(&str, &str)]) -> Output {
    let mut c = Command::new(std::env::current_exe().unwrap());
    c.args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"]);
    c.envs(env.iter().copied());
    c.output().unwrap()
}

/// As [`elsewhere`]; it must pass, and be there.
pub fn passes(test: &str, env: &[(&str, &str)]) {
    let out = elsewhere(test, env);
    let said = String::from_utf8_lossy(&out.stdout);
    let ok = out.status.success() && said.contains("1 passed");
    assert!(ok, "{env:?}: {said}{}", String::from_utf8_lossy(&out.stderr));
}
