//! The entry points, one family a file.
//!
//! Each has the same form: what can be said without the VM (null ports, null pointers), the
//! task behind the port, the call of `machvm::task`, and the results written last, so that
//! a call that fails leaves the caller's variables as they were.

pub mod allocate;
pub mod error;

use std::sync::Arc;

use machvm::task::Task;
use machvm_hal::MaySleep;
use machvm_linux::library::Hosted;

use crate::kr::{self, Code};
use crate::ports::TaskPort;
use crate::types::{kern_return_t, mach_port_t};
use crate::world::{World, world};

/// The task behind a port that a message would have gone to.
///
/// # Errors
/// `MACH_SEND_INVALID_DEST`: no such name, so the message could not be sent;
/// `KERN_INVALID_ARGUMENT`: the port is something else.
pub(crate) fn task_of(name: mach_port_t) -> Result<Arc<TaskPort>, kern_return_t> {
    let world = world();
    match world.ports().get(name) {
        None => Err(kr::MACH_SEND_INVALID_DEST),
        Some(_) => world.task(name).ok_or(kr::KERN_INVALID_ARGUMENT),
    }
}

/// Makes a call of one task, inside the VM; the error becomes a code.
///
/// => `call` touches no managed memory.
///
/// # Errors
/// As [`task_of`]; the call's own.
pub(crate) fn with_task<T, E: Code>(
    name: mach_port_t,
    call: impl FnOnce(&Task<'_, 'static, Hosted>, &mut MaySleep) -> Result<T, E>,
) -> Result<T, kern_return_t> {
    let port = task_of(name)?;
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
