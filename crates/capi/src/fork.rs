//! `fork(2)`: the child keeps the names of itself and of the host, and nothing else.
//!
//! What memory the child has is the library's business
//! ([`Fork::Follow`](machvm_linux::library::Fork)). Here is what the C library has of its
//! own: port names, which no other process may inherit, and their lock, which nobody may
//! hold while the process forks.
//!
//! The handlers are registered before the VM's. So at a fork the VM's gate closes first,
//! and nobody who takes the lock is inside the VM then; and in the child the lock is open
//! again before the VM asks to forget the names.

use std::cell::RefCell;
use std::io;

use crate::ports::{Held, Ports};
use crate::world::{self, made};

thread_local! {
    /// While this thread forks.
    static HELD: RefCell<Option<Held<'static>>> = const { RefCell::new(None) };
}

/// Watches forks from now on.
///
/// => before the VM is made, once.
///
/// # Errors
/// `pthread_atfork`'s.
pub(crate) fn watch() -> io::Result<()> {
    // SAFETY: the functions are there as long as the program.
    match unsafe { libc::pthread_atfork(Some(prepare), Some(release), Some(child)) } {
        0 => Ok(()),
        e => Err(io::Error::from_raw_os_error(e)),
    }
}

/// Asks the VM to be told of children that follow.
///
/// => after the VM was made, once.
pub(crate) fn forget_names_in_children() {
    machvm_linux::library::fork::in_child(|| {
        if let Some(world) = made() {
            world.ports().forget_others();
        }
    });
}

extern "C" fn prepare() {
    if let Some(world) = made() {
        HELD.set(Some(Ports::hold(world.ports())));
    }
}

extern "C" fn release() {
    HELD.set(None);
}

extern "C" fn child() {
    release();
    world::no_longer_being_made();
}
