//! `mach_error_string`, `mach_error_type`, `mach_error`.

use core::ffi::{CStr, c_char};
use std::io::Write;

use crate::kr::{self, text};
use crate::types::kern_return_t;
use crate::world;

/// Has the program Mach 3's numbers? Asked without making the VM, so that an error can be
/// told however little works.
fn mach3() -> bool {
    world::wanted_personality().is_ok_and(kr::mach3)
}

/// What the code is called. Not to be written to, and never freed; never null.
#[unsafe(no_mangle)]
pub extern "C" fn mach_error_string(error: kern_return_t) -> *mut c_char {
    text::string(error, mach3()).as_ptr().cast_mut()
}

/// The part of the system that the code comes from. As [`mach_error_string`].
#[unsafe(no_mangle)]
pub extern "C" fn mach_error_type(error: kern_return_t) -> *mut c_char {
    text::kind(error).as_ptr().cast_mut()
}

/// Writes `said` and what the code is called to standard error.
///
/// # Safety
/// 1. `said` is null or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mach_error(said: *const c_char, error: kern_return_t) {
    // SAFETY: not null, and 1.
    let said = if said.is_null() { c"" } else { unsafe { CStr::from_ptr(said) } };
    let text = text::string(error, mach3()).to_string_lossy();
    let mut line = said.to_bytes().to_vec();
    // A number that has no text is told.
    let _ = match text::known(error) {
        true => writeln!(line, " {text}"),
        false => writeln!(line, " {} {text} ({error:x})", text::kind(error).to_string_lossy()),
    };
    let _ = std::io::stderr().write_all(&line);
}
