//! References to port names: `mach_port_deallocate` and its family.
//!
//! A space of names belongs to a task. Other tasks than this process's own have no threads
//! and no names.

use super::{code, destination, give};
use crate::kr;
use crate::ports::{self, Kind, RefsError, Right};
use crate::types::{
    kern_return_t, mach_port_delta_t, mach_port_right_t, mach_port_t, mach_port_type_t, mach_port_urefs_t,
};
use crate::world::world;

/// `MACH_PORT_RIGHT_*`.
const SEND: mach_port_right_t = 0;
const SEND_ONCE: mach_port_right_t = 2;
const DEAD_NAME: mach_port_right_t = 4;
/// One past the last.
const NUMBER: mach_port_right_t = 6;

fn refused(e: RefsError) -> kern_return_t {
    match e {
        RefsError::Name => kr::KERN_INVALID_NAME,
        RefsError::Kind => kr::KERN_INVALID_RIGHT,
        RefsError::Below => kr::KERN_INVALID_VALUE,
        RefsError::Above => kr::KERN_UREFS_OVERFLOW,
    }
}

/// Null and dead are in no space.
fn is_valid(name: mach_port_t) -> bool {
    !matches!(name, ports::NULL | ports::DEAD)
}

/// Is the space this process's own, which has names?
///
/// # Errors
/// As [`destination`]; `KERN_INVALID_TASK`: the port is something else.
fn own(space: mach_port_t) -> Result<bool, kern_return_t> {
    match destination(space)? {
        Right::Task(task) => Ok(task.own),
        _ => Err(kr::KERN_INVALID_TASK),
    }
}

/// What `name` is in a space.
fn look(space: mach_port_t, name: mach_port_t) -> Result<(Kind, u32), kern_return_t> {
    let found = if own(space)? { world().ports().refs(name) } else { None };
    found.ok_or(kr::KERN_INVALID_NAME)
}

/// The kind of right that a number means; `None`: one that no name here is.
fn kind(right: mach_port_right_t) -> Option<Kind> {
    match right {
        SEND => Some(Kind::Send),
        DEAD_NAME => Some(Kind::DeadName),
        _ => None,
    }
}

/// `MACH_PORT_TYPE_*` of a right.
fn bit(kind: Kind) -> mach_port_type_t {
    match kind {
        Kind::Send => 1 << (16 + SEND),
        Kind::DeadName => 1 << (16 + DEAD_NAME),
    }
}

/// One reference less. Null and dead names are fine.
#[unsafe(no_mangle)]
pub extern "C" fn mach_port_deallocate(space: mach_port_t, name: mach_port_t) -> kern_return_t {
    let done = || {
        if !own(space)? && is_valid(name) {
            return Err(kr::KERN_INVALID_NAME);
        }
        if !is_valid(name) {
            return Ok(());
        }
        world().ports().mod_refs(name, None, -1).map_err(refused)
    };
    code(done())
}

/// Changes the number of references that `name` has of a kind of right.
#[unsafe(no_mangle)]
pub extern "C" fn mach_port_mod_refs(
    space: mach_port_t,
    name: mach_port_t,
    right: mach_port_right_t,
    delta: mach_port_delta_t,
) -> kern_return_t {
    let done = || {
        let own = own(space)?;
        if right >= NUMBER {
            return Err(kr::KERN_INVALID_VALUE);
        }
        if !is_valid(name) {
            let nothing = matches!(right, SEND | SEND_ONCE);
            return if nothing { Ok(()) } else { Err(kr::KERN_INVALID_NAME) };
        }
        if !own || world().ports().refs(name).is_none() {
            return Err(kr::KERN_INVALID_NAME);
        }
        let kind = kind(right).ok_or(kr::KERN_INVALID_RIGHT)?;
        world().ports().mod_refs(name, Some(kind), delta).map_err(refused)
    };
    code(done())
}

/// How many references `name` has of a kind of right; none of another kind than it is.
///
/// # Safety
/// 1. `refs` is null or good for writing one number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mach_port_get_refs(
    space: mach_port_t,
    name: mach_port_t,
    right: mach_port_right_t,
    refs: *mut mach_port_urefs_t,
) -> kern_return_t {
    let got = || {
        if refs.is_null() {
            return Err(kr::KERN_INVALID_ARGUMENT);
        }
        own(space)?;
        if right >= NUMBER {
            return Err(kr::KERN_INVALID_VALUE);
        }
        if !is_valid(name) {
            let nothing = matches!(right, SEND | SEND_ONCE);
            return if nothing { Ok(1) } else { Err(kr::KERN_INVALID_NAME) };
        }
        let (is, refs) = look(space, name)?;
        Ok(if kind(right) == Some(is) { refs } else { 0 })
    };
    // SAFETY: looked at there, and 1.
    unsafe { give(refs, got()) }
}

/// What `name` is.
///
/// # Safety
/// 1. `kind` is null or good for writing one number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mach_port_type(
    space: mach_port_t,
    name: mach_port_t,
    kind: *mut mach_port_type_t,
) -> kern_return_t {
    let got = || {
        if kind.is_null() {
            return Err(kr::KERN_INVALID_ARGUMENT);
        }
        if name == ports::DEAD {
            return own(space).map(|_| bit(Kind::DeadName));
        }
        look(space, name).map(|(is, _)| bit(is))
    };
    // SAFETY: looked at there, and 1.
    unsafe { give(kind, got()) }
}

/// Forgets a name with all its references.
#[unsafe(no_mangle)]
pub extern "C" fn mach_port_destroy(space: mach_port_t, name: mach_port_t) -> kern_return_t {
    let done = || {
        if !own(space)? && is_valid(name) {
            return Err(kr::KERN_INVALID_NAME);
        }
        if !is_valid(name) {
            return Ok(());
        }
        world().ports().destroy(name).map_err(refused)
    };
    code(done())
}
