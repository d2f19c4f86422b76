//! Faults arrive as signals in the thread that faulted, and are served there.
//!
//! An absent or write-protected page raises SIGBUS (if the userfaultfd was opened so; else
//! a thread serves it, and only what that denies comes here: see [`super::thread`]), what
//! the protection of Linux's mapping forbids raises SIGSEGV. One handler serves both. What is not ours, and what the map denies, goes to whoever had the
//! signal before, with the `si_code` that the same access would have on Linux's own
//! memory:
//!
//! | the map says | signal | `si_code` |
//! |---|---|---|
//! | nothing is mapped | SIGSEGV | `SEGV_MAPERR` |
//! | not with this protection | SIGSEGV, or as [`Denied`] says | `SEGV_ACCERR` |
//! | beyond the data, or it cannot be read | SIGBUS | `BUS_ADRERR` |
//! | no memory | SIGBUS | `BUS_OBJERR` |
//!
//! Rules for what runs here: no allocator, no standard library's locks, no managed
//! memory; `errno` is restored; signals from outside are blocked.

use std::io;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, PoisonError};

use machvm::FaultError;
use machvm_hal::Prot;

use super::{Denied, copy, gate, previous, quiet, stack, table};
use crate::{sys, uffd::page_of};

const SEGV_MAPERR: i32 = 1;
const SEGV_ACCERR: i32 = 2;
const BUS_ADRERR: i32 = 2;
const BUS_OBJERR: i32 = 3;
/// Raised by the kernel, with no address (a non-canonical one).
const SI_KERNEL: i32 = 0x80;

/// Bits of the processor's page-fault error code.
const ERROR_WRITE: i64 = 2;
const ERROR_FETCH: i64 = 16;

/// `sigaction(2)` of libc, once it was looked for: a program, or a library we are part of,
/// may have a function of this name in front of it.
static REAL: AtomicUsize = AtomicUsize::new(0);

/// Installs the handler, the first time.
pub(super) fn install() -> io::Result<()> {
    static INSTALLING: Mutex<()> = Mutex::new(());
    let _one = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    if previous::get(libc::SIGBUS).is_some() {
        return Ok(());
    }
    // First this, so that the handler finds it.
    for sig in [libc::SIGSEGV, libc::SIGBUS] {
        previous::set(sig, &action(sig, None)?);
    }
    let ours = libc::sigaction {
        sa_sigaction: on_fault as *const () as usize,
        // Synchronous signals stay open in it: see `quiet`.
        sa_mask: quiet::from_outside(),
        sa_flags: libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER,
        sa_restorer: None,
    };
    action(libc::SIGSEGV, Some(&ours))?;
    action(libc::SIGBUS, Some(&ours))?;
    Ok(())
}

/// Is the handler there?
pub(super) fn installed() -> bool {
    previous::get(libc::SIGBUS).is_some()
}

/// `sigaction(2)`: the action that was in force.
fn action(sig: i32, new: Option<&libc::sigaction>) -> io::Result<libc::sigaction> {
    let mut old = core::mem::MaybeUninit::uninit();
    let new = new.map_or(core::ptr::null(), core::ptr::from_ref);
    // SAFETY: good structures; a handler that is set is there for ever.
    if unsafe { real()(sig, new, old.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: filled on success.
    Ok(unsafe { old.assume_init() })
}

type Sigaction = unsafe extern "C" fn(i32, *const libc::sigaction, *mut libc::sigaction) -> libc::c_int;

/// See [`REAL`]. The first call looks for it, and is not in a handler.
fn real() -> Sigaction {
    let mut found = REAL.load(Relaxed);
    if found == 0 {
        // SAFETY: a C string.
        let next = unsafe { libc::dlsym(libc::RTLD_NEXT, c"sigaction".as_ptr()) };
        found = if next.is_null() { libc::sigaction as *const () as usize } else { next.expose_provenance() };
        REAL.store(found, Relaxed);
    }
    // SAFETY: libc's function of that name has that type.
    unsafe { core::mem::transmute::<*const (), Sigaction>(core::ptr::with_exposed_provenance(found)) }
}

/// What becomes of a signal.
enum Verdict {
    /// Back to the access.
    Return,
    /// Not ours: as it came.
    Pass,
    /// Ours, and denied: as this signal with this code.
    Deny(i32, i32),
}

/// # Safety
/// 1. Called by the kernel, as the action of a signal with SA_SIGINFO.
unsafe extern "C" fn on_fault(sig: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: every thread has one.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: 1: both are this handler's alone; this is x86-64 Linux's context.
    let (saved, info, context) = unsafe { (*errno, &mut *info, &mut *context.cast::<libc::ucontext_t>()) };
    let verdict = serve(info, context);
    // SAFETY: as above.
    unsafe { *errno = saved };
    match verdict {
        Verdict::Return => {}
        Verdict::Pass => pass(sig, info, context),
        Verdict::Deny(sig, code) => {
            info.si_signo = sig;
            info.si_code = code;
            pass(sig, info, context);
        }
    }
}

fn serve(info: &libc::siginfo_t, context: &mut libc::ucontext_t) -> Verdict {
    if info.si_code <= 0 || info.si_code == SI_KERNEL {
        // Sent by somebody; or an address that no memory can have.
        let bad = info.si_code == SI_KERNEL && copy::refuse(context, 0, FaultError::NoMapping(page_of(0)));
        return if bad { Verdict::Return } else { Verdict::Pass };
    }
    // SAFETY: SIGSEGV and SIGBUS of the kernel have an address.
    let addr = unsafe { info.si_addr() }.addr() as u64;
    // First, so that nobody is counted in the table while the process forks. A call inside
    // which managed memory was touched has passed.
    let _pass = if quiet::inside() == 0 { gate::enter() } else { None };
    let Some(found) = table::find(addr) else {
        let ours = copy::refuse(context, addr, FaultError::NoMapping(page_of(addr)));
        return if ours { Verdict::Return } else { Verdict::Pass };
    };
    let core = found.core();
    if core.is_forked() {
        return Verdict::Pass;
    }
    match quiet::inside() {
        0 => {}
        1 => die("machvm: managed memory was touched inside a call of the VM, at ", addr, None),
        first => die("machvm: managed memory was touched while serving a fault, at ", addr, Some(first)),
    }
    quiet::set_inside(addr);
    if info.si_signo == libc::SIGBUS && core.waits() {
        // Poisoned by the thread that serves faults: what is denied is denied here again,
        // for the right reason, and what has become good since must not stay poisoned.
        core.unpoison(addr);
    }
    let error = context.uc_mcontext.gregs[libc::REG_ERR as usize];
    let access = match (error & ERROR_WRITE != 0, error & ERROR_FETCH != 0) {
        (true, _) => Prot::W,
        (false, true) => Prot::X,
        (false, false) => Prot::R,
    };
    let served = stack::run(|| core.fault(addr, access));
    quiet::set_inside(0);
    match served {
        Ok(()) => Verdict::Return,
        Err(e) if copy::refuse(context, addr, e) => Verdict::Return,
        Err(FaultError::NoMapping(_)) => Verdict::Deny(libc::SIGSEGV, SEGV_MAPERR),
        Err(FaultError::Protection(_) | FaultError::Foreign(_)) => match core.denied() {
            Denied::Segv => Verdict::Deny(libc::SIGSEGV, SEGV_ACCERR),
            Denied::Bus => Verdict::Deny(libc::SIGBUS, BUS_ADRERR),
        },
        Err(FaultError::Beyond(_) | FaultError::PagerIo(_) | FaultError::PagerGone(_)) => {
            Verdict::Deny(libc::SIGBUS, BUS_ADRERR)
        }
        Err(FaultError::NoMemory(_)) => Verdict::Deny(libc::SIGBUS, BUS_OBJERR),
    }
}

/// Does with a signal what would have been done without us.
fn pass(sig: i32, info: &mut libc::siginfo_t, context: &mut libc::ucontext_t) {
    let Some(previous) = previous::get(sig) else { return by_default(sig, info) };
    let spent = previous.sa_flags & libc::SA_RESETHAND != 0 && !previous::spend(sig);
    match previous.sa_sigaction {
        // What an instruction raises cannot be ignored.
        libc::SIG_IGN if info.si_code <= 0 => {}
        libc::SIG_DFL | libc::SIG_IGN => by_default(sig, info),
        _ if spent => by_default(sig, info),
        handler => {
            open_as_for(sig, &previous, &context.uc_sigmask);
            // SAFETY: the program's own handler for this signal, with the signals open
            // that it expects. One of the older kind ignores the further arguments.
            unsafe {
                let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) =
                    core::mem::transmute(handler);
                handler(sig, core::ptr::from_mut(info), core::ptr::from_mut(context).cast());
            }
        }
    }
}

/// The mask that the kernel would have set for `previous`.
fn open_as_for(sig: i32, previous: &libc::sigaction, interrupted: &libc::sigset_t) {
    sys::sigmask(libc::SIG_SETMASK, interrupted);
    sys::sigmask(libc::SIG_BLOCK, &previous.sa_mask);
    if previous.sa_flags & libc::SA_NODEFER == 0 {
        block(sig);
    }
}

fn block(sig: i32) {
    let mut set = core::mem::MaybeUninit::uninit();
    // SAFETY: sigemptyset fills the set.
    let set = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), sig);
        set.assume_init()
    };
    sys::sigmask(libc::SIG_BLOCK, &set);
}

/// The signal is delivered again when the handler returns, to nobody: the process ends
/// of it, and a core file shows the access with its code and address.
fn by_default(sig: i32, info: &mut libc::siginfo_t) {
    let default = libc::sigaction {
        sa_sigaction: libc::SIG_DFL,
        sa_mask: quiet::from_outside(),
        sa_flags: 0,
        sa_restorer: None,
    };
    // SAFETY: a good structure.
    unsafe { real()(sig, &raw const default, core::ptr::null_mut()) };
    block(sig);
    // SAFETY: the calls take numbers and a good siginfo. To oneself any code may be sent.
    unsafe {
        let (pid, tid) = (libc::getpid(), libc::gettid());
        libc::syscall(libc::SYS_rt_tgsigqueueinfo, pid, tid, sig, core::ptr::from_mut(info));
    }
}

/// Says what happened and ends the process: going on would wait for a lock that this
/// very thread holds.
fn die(what: &str, addr: u64, first: Option<u64>) -> ! {
    let hex = |addr: u64| -> [u8; 18] {
        core::array::from_fn(|i| match i {
            0 => b'0',
            1 => b'x',
            _ => b"0123456789abcdef"[(addr >> (4 * (17 - i)) & 15) as usize],
        })
    };
    let say = |text: &[u8]| {
        // SAFETY: the buffer is valid for its length.
        unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
    };
    say(what.as_bytes());
    say(&hex(addr));
    if let Some(first) = first {
        say(b", the fault being served is at ");
        say(&hex(first));
    }
    say(b"\n");
    std::process::abort()
}
