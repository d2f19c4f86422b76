//! `kern_return_t`: every code, and the tables that turn errors into codes.
//!
//! Nothing else in the project knows these numbers. One table per error type: `code(error,
//! how)`; where systems differ, the personality decides (`docs/mach.md`, "Codes that
//! differ").

mod codes;
mod tables;
pub(crate) mod text;

pub use codes::*;

use machvm::task::Personality;

use crate::types::kern_return_t;

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

/// Has the program Mach 3's numbers?
pub(crate) fn mach3(how: &Personality) -> bool {
    *how == Personality::MACH3
}
