//! Tasks: `task_create`, `task_terminate`, and the way from and to process numbers.

use std::sync::Arc;

use super::{code, give, here, task_of};
use crate::kr::{self, Code};
use crate::ports::{self, Right, TaskPort};
use crate::types::{boolean_t, kern_return_t, mach_msg_type_number_t, mach_port_t};
use crate::world::world;

/// A task that has an address space and no threads: with `inherit_memory` a child of
/// `target`, which has at the same addresses what the inheritance of each region says,
/// else an empty one. What lies outside the window of this process's task is not
/// inherited. Ledgers are not kept.
///
/// The pages are written and read by `vm_write`, `vm_read` and `vm_map`; there are no
/// pointers to them.
///
/// # Safety
/// 1. `child` is null or good for writing one name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn task_create(
    target: mach_port_t,
    _ledgers: *mut mach_port_t,
    _ledgers_count: mach_msg_type_number_t,
    inherit_memory: boolean_t,
    child: *mut mach_port_t,
) -> kern_return_t {
    let made = || {
        if child.is_null() {
            return Err(kr::KERN_INVALID_ARGUMENT);
        }
        let parent = task_of(target)?;
        let (world, how) = here();
        let task = if inherit_memory != 0 { parent.task.fork() } else { world.vm().task() };
        let task = task.map_err(|e| e.code(how))?;
        Ok(world.ports().add(Right::Task(Arc::new(TaskPort { task, own: false }))))
    };
    // SAFETY: looked at there, and 1.
    unsafe { give(child, made()) }
}

/// Ends a task: its memory goes when the calls that use it are done, and its name is dead.
/// This process's own task is the process, which is killed.
#[unsafe(no_mangle)]
pub extern "C" fn task_terminate(target: mach_port_t) -> kern_return_t {
    let ended = || {
        if task_of(target)?.own {
            // SAFETY: it does not return to a program that has no task any more.
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
            return Err(kr::KERN_FAILURE);
        }
        world().ports().kill(target);
        Ok(())
    };
    code(ended())
}

/// The process's own task, with one reference more.
#[unsafe(no_mangle)]
pub extern "C" fn task_self_trap() -> mach_port_t {
    world().ports().retain(ports::TASK_SELF);
    ports::TASK_SELF
}

/// The task of a process: of this one. Another process's cannot be had.
///
/// # Safety
/// 1. `task` is null or good for writing one name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn task_for_pid(
    target: mach_port_t,
    pid: i32,
    task: *mut mach_port_t,
) -> kern_return_t {
    if task.is_null() {
        return kr::KERN_INVALID_ARGUMENT;
    }
    // SAFETY: it only asks.
    let own = pid == unsafe { libc::getpid() };
    // A trap, not a message: there is one answer to every doubt.
    let got = task_of(target).ok().filter(|_| own).map(|_| task_self_trap());
    // SAFETY: 1.
    unsafe { give(task, got.ok_or(kr::KERN_FAILURE)) }
}

/// The process of a task: only this process's own is one.
///
/// # Safety
/// 1. `pid` is null or good for writing one number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pid_for_task(task: mach_port_t, pid: *mut i32) -> kern_return_t {
    if pid.is_null() {
        return kr::KERN_INVALID_ARGUMENT;
    }
    let own = task_of(task).is_ok_and(|t| t.own);
    // SAFETY: it only asks.
    let got = own.then(|| unsafe { libc::getpid() });
    // SAFETY: 1.
    unsafe { give(pid, got.ok_or(kr::KERN_FAILURE)) }
}
