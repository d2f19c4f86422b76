//! Stacks: return addresses on the kernel's, and which of a program's a signal handler runs on.

use crate::errno::{EFAULT, Result};
use crate::process::signal::{Action, SA_ONSTACK, SS_DISABLE};
use crate::sched;

unsafe extern "C" {
    #[link_name = "__text_start"]
    safe static TEXT_START: u8;
    #[link_name = "__text_end"]
    safe static TEXT_END: u8;
}

/// Prints what looks like return addresses among `words` words of a stack: some may be left from calls that are over.
///
/// # Safety
/// 1. They are mapped.
pub(super) unsafe fn trace(from: u64, words: usize) {
    let text = &raw const TEXT_START as u64..&raw const TEXT_END as u64;
    let mut said = 0;
    for i in 0..words {
        // SAFETY: by 1.
        let word = unsafe { (from as *const u64).add(i).read_volatile() };
        if text.contains(&word) && said < 32 {
            crate::say!("  at {word:#x}");
            said += 1;
        }
    }
}

/// SS_AUTODISARM: the alternate stack is off while a handler runs on it.
const AUTODISARM: u64 = 1 << 31;

/// Is `sp` on the thread's alternate stack?
pub(crate) fn is_on(stack: [u64; 3], sp: u64) -> bool {
    stack[2] & AUTODISARM == 0 && sp > stack[0] && sp - stack[0] <= stack[1]
}

/// Where a signal's frame goes.
pub(super) struct Place {
    /// The alternate stack: address, bytes, flags.
    alternate: [u64; 3],
    /// The program's stack pointer.
    old: u64,
    /// It goes to the alternate stack.
    switch: bool,
}

impl Place {
    /// For a handler of the running thread, whose stack pointer is `old`.
    pub(super) fn of(action: Action, old: u64) -> Self {
        let alternate = sched::current().signals.alternate();
        let switch =
            action.flags & SA_ONSTACK != 0 && alternate[2] & SS_DISABLE == 0 && !is_on(alternate, old);
        Place { alternate, old, switch }
    }
    /// What the frame is below; `red`: bytes below the stack pointer that the program uses.
    pub(super) fn top(&self, red: u64) -> u64 {
        match self.switch {
            true => self.alternate[0].wrapping_add(self.alternate[1]),
            false => self.old.wrapping_sub(red),
        }
    }
    /// May the frame be from `sp` to `top`? One that outgrows the alternate stack is refused, as by Linux.
    ///
    /// # Errors
    /// EFAULT.
    pub(super) fn check(&self, sp: u64, top: u64) -> Result<()> {
        let a = self.alternate;
        let outgrown = (is_on(a, self.old) || self.switch) && !is_on(a, sp) && a[2] & SS_DISABLE == 0;
        if sp > top || outgrown { Err(EFAULT) } else { Ok(()) }
    }
    /// The frame is there: the alternate stack is off, if its owner wants that.
    pub(super) fn disarm(&self) {
        if self.alternate[2] & AUTODISARM != 0 {
            sched::current().signals.set_alternate([0, 0, SS_DISABLE]);
        }
    }
    /// The words of `stack_t`.
    pub(super) fn words(&self) -> [u64; 3] {
        [self.alternate[0], self.alternate[2], self.alternate[1]]
    }
}

/// The alternate stack is again what a frame's `stack_t` says.
pub(super) fn rearm(words: [u64; 3]) {
    sched::current().signals.set_alternate([words[0], words[2], words[1] & 0xffff_ffff]);
}
