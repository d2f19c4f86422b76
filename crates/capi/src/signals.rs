//! `sigaction(3)` and `signal(3)` for SIGSEGV and SIGBUS.
//!
//! Faults on the library's memory arrive as these signals, so their handler must stay the
//! library's. A program that installs its own, as Mach programs do, would replace it: these
//! functions stand before libc's, keep the program's handler behind the library's, and tell
//! the program of its own only. Other signals, and a process that has not used the library,
//! go on to libc.
//!
//! => async-signal-safe, as POSIX wants them.

use std::ffi::CStr;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use libc::{SIG_ERR, c_int, sighandler_t};
use machvm_linux::library::replace_action;

type Sigaction = unsafe extern "C" fn(c_int, *const libc::sigaction, *mut libc::sigaction) -> c_int;
type Signal = unsafe extern "C" fn(c_int, sighandler_t) -> sighandler_t;

/// A function of libc that one of ours stands before.
struct Next {
    name: &'static CStr,
    found: AtomicUsize,
}

impl Next {
    const fn new(name: &'static CStr) -> Self {
        Next { name, found: AtomicUsize::new(0) }
    }

    /// Its address, or 0: there is none.
    fn address(&self) -> usize {
        let mut found = self.found.load(Relaxed);
        if found == 0 {
            // SAFETY: a C string.
            found = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) }.expose_provenance();
            self.found.store(found, Relaxed);
        }
        found
    }
}

static SIGACTION: Next = Next::new(c"sigaction");
static SIGNAL: Next = Next::new(c"signal");
static SYSV_SIGNAL: Next = Next::new(c"__sysv_signal");

fn fail(code: c_int) -> c_int {
    // SAFETY: every thread has one.
    unsafe { *libc::__errno_location() = code };
    -1
}

/// `sigaction(3)`.
///
/// # Safety
/// 1. `new` is null or good; `old` is null or good for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sigaction(
    sig: c_int,
    new: *const libc::sigaction,
    old: *mut libc::sigaction,
) -> c_int {
    // SAFETY: 1.
    match replace_action(sig, unsafe { new.as_ref() }) {
        Some(Ok(was)) => {
            if !old.is_null() {
                // SAFETY: 1.
                unsafe { old.write(was) };
            }
            0
        }
        Some(Err(code)) => fail(code),
        None => match SIGACTION.address() {
            0 => fail(libc::ENOSYS),
            // SAFETY: libc's function has this type; 1.
            at => unsafe {
                core::mem::transmute::<*const (), Sigaction>(core::ptr::with_exposed_provenance(at))(
                    sig, new, old,
                )
            },
        },
    }
}

/// With these flags; the signal itself is blocked in the handler where `mask` says so.
fn set(sig: c_int, handler: sighandler_t, flags: c_int, mask: bool) -> Option<sighandler_t> {
    let mut blocked = core::mem::MaybeUninit::uninit();
    // SAFETY: sigemptyset fills the set.
    let sa_mask = unsafe {
        libc::sigemptyset(blocked.as_mut_ptr());
        if mask {
            libc::sigaddset(blocked.as_mut_ptr(), sig);
        }
        blocked.assume_init()
    };
    let new = libc::sigaction { sa_sigaction: handler, sa_mask, sa_flags: flags, sa_restorer: None };
    Some(match replace_action(sig, Some(&new))? {
        Ok(was) => was.sa_sigaction,
        Err(code) => {
            fail(code);
            SIG_ERR
        }
    })
}

fn call(next: &Next, sig: c_int, handler: sighandler_t) -> sighandler_t {
    match next.address() {
        0 => {
            fail(libc::ENOSYS);
            SIG_ERR
        }
        // SAFETY: libc's function has this type.
        at => unsafe {
            core::mem::transmute::<*const (), Signal>(core::ptr::with_exposed_provenance(at))(sig, handler)
        },
    }
}

/// `signal(3)`, as BSD and glibc have it: calls go on, the handler stays.
#[unsafe(no_mangle)]
pub extern "C" fn signal(sig: c_int, handler: sighandler_t) -> sighandler_t {
    set(sig, handler, libc::SA_RESTART, true).unwrap_or_else(|| call(&SIGNAL, sig, handler))
}

/// `signal(3)` of a strictly conforming program: good for one signal.
#[unsafe(no_mangle)]
pub extern "C" fn __sysv_signal(sig: c_int, handler: sighandler_t) -> sighandler_t {
    let flags = libc::SA_RESETHAND | libc::SA_NODEFER;
    set(sig, handler, flags, false).unwrap_or_else(|| call(&SYSV_SIGNAL, sig, handler))
}
