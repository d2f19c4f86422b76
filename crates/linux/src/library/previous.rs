//! The program's own actions for SIGSEGV and SIGBUS, behind ours.
//!
//! They are those that were there before our handler, until a program that knows of us
//! replaces them ([`replace`]). The handler reads them while any thread may replace them,
//! and `sigaction(2)` may be called in a handler: so nothing here locks or allocates. An
//! action is written once, into a table, and what is in force is an index; an action that
//! was in force before is found again, so that a program may go back and forth for ever.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize};

/// Different actions, of both signals, that one process can have had.
const ACTIONS: usize = 512;

/// The kernel knows 64 signals; C's set has room for more.
const MASKED: core::ops::Range<i32> = 1..65;

struct Action {
    /// The rest may be read.
    ready: AtomicBool,
    handler: AtomicUsize,
    flags: AtomicI32,
    mask: AtomicU64,
}

/// As plain numbers.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Plain {
    handler: usize,
    flags: i32,
    mask: u64,
}

struct Slot {
    /// Index in the table plus 1; 0: not ours to say.
    action: AtomicUsize,
    /// Was good for one signal (SA_RESETHAND), and has had it.
    spent: AtomicBool,
}

static TABLE: [Action; ACTIONS] = [const {
    Action {
        ready: AtomicBool::new(false),
        handler: AtomicUsize::new(0),
        flags: AtomicI32::new(0),
        mask: AtomicU64::new(0),
    }
}; ACTIONS];
static USED: AtomicUsize = AtomicUsize::new(0);

static SLOTS: [Slot; 2] = [const { Slot { action: AtomicUsize::new(0), spent: AtomicBool::new(false) } }; 2];

fn slot(sig: i32) -> Option<&'static Slot> {
    match sig {
        libc::SIGSEGV => Some(&SLOTS[0]),
        libc::SIGBUS => Some(&SLOTS[1]),
        _ => None,
    }
}

impl Action {
    fn read(&self) -> Option<Plain> {
        self.ready.load(Acquire).then(|| Plain {
            handler: self.handler.load(Relaxed),
            flags: self.flags.load(Relaxed),
            mask: self.mask.load(Relaxed),
        })
    }
}

impl Plain {
    fn of(action: &libc::sigaction) -> Self {
        // SAFETY: a good set, and numbers of signals.
        let has = |sig| unsafe { libc::sigismember(&raw const action.sa_mask, sig) } == 1;
        let mask = MASKED.filter(|&s| has(s)).fold(0, |m, s| m | 1 << (s - 1));
        Plain { handler: action.sa_sigaction, flags: action.sa_flags, mask }
    }

    fn whole(self) -> libc::sigaction {
        let mut set = core::mem::MaybeUninit::uninit();
        // SAFETY: sigemptyset fills the set; the numbers are signals'.
        let sa_mask = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for sig in MASKED.filter(|s| self.mask >> (s - 1) & 1 != 0) {
                libc::sigaddset(set.as_mut_ptr(), sig);
            }
            set.assume_init()
        };
        libc::sigaction { sa_sigaction: self.handler, sa_mask, sa_flags: self.flags, sa_restorer: None }
    }

    /// Its place in the table plus 1, or `None`: the table is full.
    fn place(self) -> Option<usize> {
        let used = USED.load(Acquire).min(ACTIONS);
        if let Some(at) = TABLE[..used].iter().position(|a| a.read() == Some(self)) {
            return Some(at + 1);
        }
        let at = USED.fetch_update(AcqRel, Acquire, |n| (n < ACTIONS).then_some(n + 1)).ok()?;
        let a = &TABLE[at]; // this thread's alone until it is ready
        a.handler.store(self.handler, Relaxed);
        a.flags.store(self.flags, Relaxed);
        a.mask.store(self.mask, Relaxed);
        a.ready.store(true, Release);
        Some(at + 1)
    }
}

/// The program's action for `sig`, SIGSEGV or SIGBUS; `None` before our handler is there.
pub(super) fn get(sig: i32) -> Option<libc::sigaction> {
    let at = slot(sig)?.action.load(Acquire).checked_sub(1)?;
    TABLE.get(at)?.read().map(Plain::whole)
}

/// Sets it, whether our handler is there or not. False: 512 different ones were set.
pub(super) fn set(sig: i32, action: &libc::sigaction) -> bool {
    let (Some(slot), Some(at)) = (slot(sig), Plain::of(action).place()) else { return false };
    slot.action.store(at, Release);
    slot.spent.store(false, Release);
    true
}

/// Takes the one signal that an action with SA_RESETHAND is good for. False: it was taken.
pub(super) fn spend(sig: i32) -> bool {
    slot(sig).is_some_and(|s| !s.spent.swap(true, AcqRel))
}

/// What `sigaction(2)` does for SIGSEGV and SIGBUS in a process whose handler for them is
/// ours: tells the program's action and, with `new`, replaces it. Faults on managed memory
/// are served as before; what is denied, or is not ours, goes to the new action.
///
/// For a library that takes the place of libc's `sigaction`. Any thread, and handlers, may
/// call it.
///
/// # Errors
/// The code of `sigaction(2)`: `ENOMEM` after 512 different actions.
///
/// `None`: not one of the two signals, or our handler is not there: the kernel's to answer.
#[must_use]
pub fn replace(sig: i32, new: Option<&libc::sigaction>) -> Option<Result<libc::sigaction, i32>> {
    let old = get(sig)?;
    let spent = slot(sig).is_some_and(|s| s.spent.load(Acquire));
    let told = if spent { libc::sigaction { sa_sigaction: libc::SIG_DFL, ..old } } else { old };
    Some(match new {
        Some(new) if !set(sig, new) => Err(libc::ENOMEM),
        _ => Ok(told),
    })
}

#[cfg(test)]
mod tests {
    use super::{ACTIONS, Plain, USED};
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn actions_are_found_again() {
        let one = Plain { handler: 0x1000, flags: libc::SA_SIGINFO, mask: 1 << 10 | 1 << 63 };
        let other = Plain { handler: 0x2000, ..one };
        let at = one.place().unwrap();
        let next = other.place().unwrap();
        let used = USED.load(Relaxed);
        for _ in 0..2 * ACTIONS {
            assert_eq!((one.place(), other.place()), (Some(at), Some(next)));
        }
        assert_eq!(USED.load(Relaxed), used);
        assert!(Plain::of(&one.whole()) == one);
    }
}
