//! What `execve` gave this process: its environment and auxiliary vector, as the
//! kernel laid them out.

use std::ffi::{CStr, c_char};

unsafe extern "C" {
    static environ: *const *const c_char;
}

/// Environment strings as they are, also those that are no assignments.
#[must_use]
pub fn environment() -> Vec<Vec<u8>> {
    let mut strings = Vec::new();
    // SAFETY: `environ` is the kernel's array, ended by a null pointer; nothing in this
    // process calls setenv or putenv.
    unsafe {
        let mut at = environ;
        while !at.is_null() && !(*at).is_null() {
            strings.push(CStr::from_ptr(*at).to_bytes().to_vec());
            at = at.add(1);
        }
    }
    strings
}

/// The value the kernel gave for the key `key` of the auxiliary vector. `getauxval`
/// is not asked: C libraries replace some values by what they make of them.
#[must_use]
pub fn auxiliary_value(key: u64) -> Option<u64> {
    // SAFETY: as above; the vector follows the environment's null pointer and ends with
    // the key AT_NULL.
    unsafe {
        let mut at = environ;
        if at.is_null() {
            return None;
        }
        while !(*at).is_null() {
            at = at.add(1);
        }
        let mut pair = at.add(1).cast::<[u64; 2]>();
        while (*pair)[0] != libc::AT_NULL {
            if (*pair)[0] == key {
                return Some((*pair)[1]);
            }
            pair = pair.add(1);
        }
    }
    None
}
