//! The state of a thread inside the VM.
//!
//! A thread that holds a lock of the VM must not be interrupted by a handler that
//! touches managed memory: the fault would want the same lock on the same thread. So
//! every call of the library begins with a [`Quiet`], which blocks the signals that
//! come from outside. Those that instructions raise stay open: blocking one of them
//! makes the kernel end the process without a word, where the handler can say which
//! two addresses met.

use std::cell::Cell;
use std::io;
use std::marker::PhantomData;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicPtr, AtomicU32};
use std::sync::{Mutex, PoisonError};

use super::gate::{self, Pass};
use crate::sys;

/// Signals that instructions raise.
const RAISED: [i32; 7] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGSYS, libc::SIGABRT];

/// The number of this process among those that forked one from another, from 1 on. It
/// is in a page that the kernel empties in every child that gets a copy of the memory,
/// however the child was made.
static GENERATION: AtomicPtr<AtomicU32> = AtomicPtr::new(core::ptr::null_mut());
/// `MADV_WIPEONFORK` (Linux 4.14).
const WIPEONFORK: i32 = 18;

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

fn generation_word() -> Option<&'static AtomicU32> {
    // SAFETY: null, or a page that stays mapped.
    unsafe { GENERATION.load(Acquire).as_ref() }
}

/// A value in force until the process forks: the child has another one. 0: this process
/// is a child that did not come through `fork(3)`, or nobody asked to watch.
pub(super) fn generation() -> u32 {
    generation_word().map_or(0, |g| g.load(Relaxed))
}

/// This process is the `number`th generation.
pub(super) fn set_generation(number: u32) {
    if let Some(g) = generation_word() {
        g.store(number, Relaxed);
    }
}

/// Starts counting generations.
///
/// # Errors
/// There is no page for the number.
pub(super) fn watch_forks() -> io::Result<()> {
    static STARTING: Mutex<()> = Mutex::new(());
    let _one = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    if generation_word().is_some() {
        return Ok(());
    }
    let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    let failed = |e| io::Error::from_raw_os_error(e);
    // SAFETY: not MAP_FIXED.
    let at = unsafe { sys::mmap(0, 4096, prot, flags, -1, 0) }.map_err(failed)?;
    // SAFETY: the page just mapped.
    unsafe { sys::madvise(at, 4096, WIPEONFORK) }.map_err(failed)?;
    GENERATION.store(core::ptr::with_exposed_provenance_mut(at as usize), Release);
    set_generation(1);
    super::fork::install()
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

/// Blocks the signals from outside in this thread. Gives what was blocked, for [`restore`].
pub(super) fn block() -> libc::sigset_t {
    sys::sigmask(libc::SIG_BLOCK, &from_outside())
}

/// Undoes [`block`].
pub(super) fn restore(old: &libc::sigset_t) {
    sys::sigmask(libc::SIG_SETMASK, old);
}

/// The calling thread is in the VM, and no signal from outside is delivered to it.
#[derive(Debug)]
pub(super) struct Quiet {
    old: libc::sigset_t,
    was: u64,
    /// Not of a call inside a call.
    pass: Option<Pass>,
    _same_thread: PhantomData<*const ()>,
}

impl Quiet {
    pub(super) fn new() -> Self {
        let old = block();
        let was = INSIDE.replace(1);
        // A call inside a call has passed; waiting would be for itself.
        let pass = if was == 0 { gate::enter() } else { None };
        Quiet { old, was, pass, _same_thread: PhantomData }
    }

    /// As [`Quiet::new`], for a thread that those inside may be waiting for.
    pub(super) fn helper() -> Self {
        let old = block();
        let was = INSIDE.replace(1);
        let pass = if was == 0 { gate::enter_helper() } else { None };
        Quiet { old, was, pass, _same_thread: PhantomData }
    }

    /// Is this the process that the gate is of, not a copy that was never told so?
    pub(super) fn has_passed(&self) -> bool {
        self.was != 0 || self.pass.is_some()
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        INSIDE.set(self.was);
        drop(self.pass.take());
        restore(&self.old);
    }
}
