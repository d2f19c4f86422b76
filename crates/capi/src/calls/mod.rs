//! The entry points, one family a file.
//!
//! Each has the same form: what can be said without the VM (null pointers), the ports, the
//! call of `machvm::task`, and the results written last, so that a call that fails leaves
//! the caller's variables as they were.
//!
//! Calls are messages on Mach, so a port is judged by where it stands in one:
//!
//! | port | as the destination | in the body |
//! |---|---|---|
//! | null, `MACH_PORT_DEAD`, a dead name | `MACH_SEND_INVALID_DEST` | none was given |
//! | no name at all | `MACH_SEND_INVALID_DEST` | `MACH_SEND_INVALID_RIGHT` |
//! | something else than is wanted | the call's code | the call's code |

pub mod allocate;
pub mod attribute;
pub mod behavior;
pub mod copy;
pub mod entries;
pub mod error;
pub mod host;
pub mod inherit;
pub mod map;
pub mod msync;
pub mod names;
pub mod phys;
pub mod protect;
pub mod purgable;
pub mod query;
pub mod read;
pub mod region;
pub mod region_recurse;
pub mod remap;
pub mod statistics;
pub mod task_info;
pub mod tasks;
pub mod time;
pub mod wire;
pub mod write;

use std::sync::Arc;

use machvm::task::Task;
use machvm_hal::MaySleep;
use machvm_linux::library::Hosted;

use crate::kr::{self, Code};
use crate::ports::{self, Right, TaskPort};
use crate::types::{kern_return_t, mach_port_t};
use crate::world::{World, world};

/// What the destination of a message stands for.
///
/// # Errors
/// `MACH_SEND_INVALID_DEST`: nothing, so the message could not be sent.
pub(crate) fn destination(name: mach_port_t) -> Result<Right, kern_return_t> {
    let right = world().ports().get(name).filter(|r| !matches!(r, Right::Dead));
    right.ok_or(kr::MACH_SEND_INVALID_DEST)
}

/// What a port in a message's body stands for, if it is not null or dead.
///
/// # Errors
/// `MACH_SEND_INVALID_RIGHT`: the process has no such name.
pub(crate) fn in_body(name: mach_port_t) -> Result<Option<Right>, kern_return_t> {
    if matches!(name, ports::NULL | ports::DEAD) {
        return Ok(None);
    }
    let right = world().ports().get(name).ok_or(kr::MACH_SEND_INVALID_RIGHT)?;
    Ok(Some(right).filter(|r| !matches!(r, Right::Dead)))
}

/// The task behind a port that a message would have gone to.
///
/// # Errors
/// As [`destination`]; `KERN_INVALID_ARGUMENT`: the port is something else.
pub(crate) fn task_of(name: mach_port_t) -> Result<Arc<TaskPort>, kern_return_t> {
    match destination(name)? {
        Right::Task(task) => Ok(task),
        _ => Err(kr::KERN_INVALID_ARGUMENT),
    }
}

/// The task behind a port in a message's body.
///
/// # Errors
/// As [`in_body`]; `none`: the port is null, dead, or something else.
pub(crate) fn task_in_body(name: mach_port_t, none: kern_return_t) -> Result<Arc<TaskPort>, kern_return_t> {
    match in_body(name)? {
        Some(Right::Task(task)) => Ok(task),
        _ => Err(none),
    }
}

/// Makes a call of one task, inside the VM; the error becomes a code.
///
/// => `call` touches no managed memory.
///
/// # Errors
/// The call's own; `KERN_FAILURE`: the VM is another process's.
pub(crate) fn with<T, E: Code>(
    port: &TaskPort,
    call: impl FnOnce(&Task<'_, 'static, Hosted>, &mut MaySleep) -> Result<T, E>,
) -> Result<T, kern_return_t> {
    let (world, how) = here();
    let mut inside = world.inside().ok_or(kr::KERN_FAILURE)?;
    call(&port.mach(how), inside.may()).map_err(|e| e.code(how))
}

/// The world, and how it is asked.
pub(crate) fn here() -> (&'static World, &'static machvm::task::Personality) {
    let world = world();
    (world, world.personality())
}

/// A result of ours as a code.
pub(crate) fn code<T>(result: Result<T, kern_return_t>) -> kern_return_t {
    match result {
        Ok(_) => kr::KERN_SUCCESS,
        Err(code) => code,
    }
}

/// Writes what a call gave to where the caller wants it.
///
/// # Safety
/// 1. `out` is good for writing one value.
pub(crate) unsafe fn give<T>(out: *mut T, result: Result<T, kern_return_t>) -> kern_return_t {
    // SAFETY: 1.
    code(result.map(|value| unsafe { out.write(value) }))
}
