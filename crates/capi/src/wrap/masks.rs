//! Where faults are signals, blocking SIGSEGV or SIGBUS would make the kernel end the process
//! at the next one: these two stay open. (Their actions: [`crate::signals`].)

use libc::{c_int, sigset_t};
use machvm_linux::library::is_inside;

use super::by_signal;
use super::real::real;

/// The two names of one function.
macro_rules! masks {
    ($($name:ident)*) => {$(
        #[doc = concat!("`", stringify!($name), "`.")]
        ///
        /// # Safety
        /// 1. As for the C library's function.
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name(how: c_int, set: *const sigset_t, old: *mut sigset_t) -> c_int {
            let linux = |set: *const sigset_t| {
                // SAFETY: 1, with the program's set or ours.
                unsafe { real!($name(how => c_int, set => *const sigset_t, old => *mut sigset_t) -> c_int) }
            };
            if !by_signal() || set.is_null() || how == libc::SIG_UNBLOCK || is_inside() {
                return linux(set);
            }
            // SAFETY: 1; the copy is ours.
            let mut open = unsafe { *set };
            // SAFETY: a good set.
            unsafe {
                libc::sigdelset(&raw mut open, libc::SIGSEGV);
                libc::sigdelset(&raw mut open, libc::SIGBUS);
            }
            linux(&raw const open)
        }
    )*};
}

masks! { pthread_sigmask sigprocmask }
