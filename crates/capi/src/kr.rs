//! `kern_return_t`: every code, and the tables that turn errors into codes.
//!
//! Nothing else in the project knows these numbers. One table per error type: `code(error,
//! how)`; where systems differ, the personality decides (`docs/mach.md`, "Codes that
//! differ").

use machvm::task::{AllocateError, DeallocateError, Denied, Personality, PlaceError};

use crate::types::kern_return_t;

/// Done.
pub const KERN_SUCCESS: kern_return_t = 0;
/// Not mapped, or outside the map.
pub const KERN_INVALID_ADDRESS: kern_return_t = 1;
/// Mapped, but not for this.
pub const KERN_PROTECTION_FAILURE: kern_return_t = 2;
/// In use, or no gap is large enough.
pub const KERN_NO_SPACE: kern_return_t = 3;
/// A bad flag, size, alignment or port.
pub const KERN_INVALID_ARGUMENT: kern_return_t = 4;
/// Nothing better is known.
pub const KERN_FAILURE: kern_return_t = 5;
/// Out of memory or of structures.
pub const KERN_RESOURCE_SHORTAGE: kern_return_t = 6;
/// Without the privilege.
pub const KERN_NO_ACCESS: kern_return_t = 8;
/// The memory object is gone.
pub const KERN_MEMORY_FAILURE: kern_return_t = 9;
/// The memory object could not give the data.
pub const KERN_MEMORY_ERROR: kern_return_t = 10;
/// No such name.
pub const KERN_INVALID_NAME: kern_return_t = 15;
/// Not a task.
pub const KERN_INVALID_TASK: kern_return_t = 16;
/// A right that the port does not give.
pub const KERN_INVALID_RIGHT: kern_return_t = 17;
/// A number out of range.
pub const KERN_INVALID_VALUE: kern_return_t = 18;
/// Not a host port.
pub const KERN_INVALID_HOST: kern_return_t = 22;
/// Not a memory object.
pub const KERN_INVALID_OBJECT: kern_return_t = 29;
/// Not here.
pub const KERN_NOT_SUPPORTED: kern_return_t = 46;
/// A message to a port that is not there.
pub const MACH_SEND_INVALID_DEST: kern_return_t = 0x1000_0003;
/// A message whose memory cannot be read.
pub const MACH_SEND_INVALID_MEMORY: kern_return_t = 0x1000_000c;

/// An error that has a code.
pub trait Code {
    /// Its code for a program that asked as `how`.
    fn code(&self, how: &Personality) -> kern_return_t;
}

/// A result as a code.
pub fn of<T>(result: Result<T, impl Code>, how: &Personality) -> kern_return_t {
    match result {
        Ok(_) => KERN_SUCCESS,
        Err(e) => e.code(how),
    }
}

impl Code for PlaceError {
    fn code(&self, _how: &Personality) -> kern_return_t {
        match self {
            PlaceError::Outside(_) => KERN_INVALID_ADDRESS,
            PlaceError::Occupied(_) | PlaceError::NoSpace | PlaceError::BadMask(_) | PlaceError::Limit(_) => {
                KERN_NO_SPACE
            }
            PlaceError::WriteExecute(_) => KERN_PROTECTION_FAILURE,
            PlaceError::ExceedsMax(_) | PlaceError::NotSuperpage(_) => KERN_INVALID_ARGUMENT,
            PlaceError::NoMemory(_) | PlaceError::Machine(_) | PlaceError::Wire(_) => KERN_RESOURCE_SHORTAGE,
        }
    }
}

impl Code for Denied {
    fn code(&self, _how: &Personality) -> kern_return_t {
        match self {
            Denied::Hole(_) => KERN_INVALID_ADDRESS,
            Denied::Protection(_) | Denied::Foreign(_) => KERN_PROTECTION_FAILURE,
            Denied::Fault(_) => KERN_MEMORY_ERROR,
            Denied::NoMemory(_) | Denied::Machine(_) => KERN_RESOURCE_SHORTAGE,
        }
    }
}

impl Code for AllocateError {
    fn code(&self, how: &Personality) -> kern_return_t {
        match self {
            AllocateError::BadFlags(_) | AllocateError::BadSize | AllocateError::Wraps(_) => {
                KERN_INVALID_ARGUMENT
            }
            AllocateError::Place(e) => e.code(how),
        }
    }
}

impl Code for DeallocateError {
    fn code(&self, _how: &Personality) -> kern_return_t {
        match self {
            DeallocateError::BadSize | DeallocateError::Wraps(_) => KERN_INVALID_ARGUMENT,
            DeallocateError::NoMemory(_) => KERN_RESOURCE_SHORTAGE,
        }
    }
}
