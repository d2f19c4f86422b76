//! The state of a thread inside the VM.
//!
//! A thread that holds a lock of the VM must not be interrupted by a handler that
//! touches managed memory: the fault would want the same lock on the same thread. So
//! every call of the library begins with a [`Quiet`], which blocks the signals that
//! come from outside. Those that instructions raise stay open: blocking one of them
//! makes the kernel end the process without a word, where the handler can say which
//! two addresses met.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Once;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

/// Signals that instructions raise.
const RAISED: [i32; 7] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGSYS, libc::SIGABRT];

/// Generations of processes: rises in the child of a fork.
static GENERATION: AtomicU32 = AtomicU32::new(0);
static WATCH_FORKS: Once = Once::new();

thread_local! {
    // Const and without a destructor: reading it in a handler initialises nothing.
    static INSIDE: Cell<u64> = const { Cell::new(0) };
}

/// What a thread is doing in the VM: 0 nothing, 1 a call, else the address of the
/// fault it serves.
pub(super) fn inside() -> u64 {
    INSIDE.get()
}
/// Sets what [`inside`] says.
pub(super) fn set_inside(what: u64) {
    INSIDE.set(what);
}

/// A value in force until the process forks: the child has another one.
pub(super) fn generation() -> u32 {
    GENERATION.load(Relaxed)
}

/// Starts counting generations.
pub(super) fn watch_forks() {
    extern "C" fn forked() {
        GENERATION.fetch_add(1, Relaxed);
    }
    // SAFETY: the function is there as long as the program. It only counts.
    WATCH_FORKS.call_once(|| unsafe {
        libc::pthread_atfork(None, None, Some(forked));
    });
}

/// Every signal except those that instructions raise.
pub(super) fn from_outside() -> libc::sigset_t {
    let mut set = core::mem::MaybeUninit::uninit();
    // SAFETY: sigfillset fills the set; the numbers are signals'.
    unsafe {
        libc::sigfillset(set.as_mut_ptr());
        for sig in RAISED {
            libc::sigdelset(set.as_mut_ptr(), sig);
        }
        set.assume_init()
    }
}

/// The calling thread is in the VM, and no signal from outside is delivered to it.
#[derive(Debug)]
pub(super) struct Quiet {
    old: libc::sigset_t,
    was: u64,
    _same_thread: PhantomData<*const ()>,
}

impl Quiet {
    pub(super) fn new() -> Self {
        let mut old = core::mem::MaybeUninit::uninit();
        // SAFETY: both sets are good; on success the old one is filled, and this can
        // only fail for a wrong first argument.
        let old = unsafe {
            libc::pthread_sigmask(libc::SIG_BLOCK, &from_outside(), old.as_mut_ptr());
            old.assume_init()
        };
        Quiet { old, was: INSIDE.replace(1), _same_thread: PhantomData }
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        INSIDE.set(self.was);
        // SAFETY: the set is the one that was in force.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.old, core::ptr::null_mut()) };
    }
}
