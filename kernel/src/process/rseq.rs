//! Restartable sequences (rseq(2)): a thread has a structure in its memory that says on which CPU it is, and which
//! sequence of instructions it is in. If another thread ran meanwhile, or a handler is about to, the sequence is left by
//! its way out.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::arch::{self, Frame};
use crate::errno::{EBUSY, EFAULT, EINVAL, EPERM, Result};
use crate::sched::{self, Thread};
use crate::user;

/// In [`Thread::due`]: the structure is to be looked at. (No tick makes that signal due.)
const DUE: u64 = 1 << 63;
const UNREGISTER: u64 = 1;
/// The structure's size, alignment, and places in it.
const BYTES: u64 = 32;
const SEQUENCE: u64 = 8;
const FLAGS: u64 = 16;
/// What `cpu_id` is before and behind the registration.
const NO_CPU: u32 = u32::MAX;

/// What a thread has registered.
pub(crate) struct Registered {
    /// 0: nothing.
    at: AtomicU64,
    bytes: AtomicU32,
    /// Before every way out.
    signature: AtomicU32,
}

impl Registered {
    pub(crate) const fn none() -> Self {
        Registered { at: AtomicU64::new(0), bytes: AtomicU32::new(0), signature: AtomicU32::new(0) }
    }
    /// A new program has none.
    pub(crate) fn forget(&self) {
        self.at.store(0, Ordering::Relaxed);
    }
    /// A child that has memory of its own has what its parent has.
    pub(crate) fn inherit(&self, from: &Registered) {
        self.bytes.store(from.bytes.load(Ordering::Relaxed), Ordering::Relaxed);
        self.signature.store(from.signature.load(Ordering::Relaxed), Ordering::Relaxed);
        self.at.store(from.at.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// rseq(2).
pub(crate) fn rseq(at: u64, bytes: u64, flags: u64, signature: u64) -> Result {
    let t = sched::current();
    let r = &t.rseq;
    let (old, bytes, signature) = (r.at.load(Ordering::Relaxed), bytes as u32, signature as u32);
    let same = old == at && r.bytes.load(Ordering::Relaxed) == bytes;
    let signed = r.signature.load(Ordering::Relaxed) == signature;
    if flags as u32 & UNREGISTER as u32 != 0 {
        if flags as u32 != UNREGISTER as u32 || old == 0 || !same {
            return Err(EINVAL);
        }
        if !signed {
            return Err(EPERM);
        }
        write_cpu(at, 0, NO_CPU)?;
        r.forget();
        return Ok(0);
    }
    if flags as u32 != 0 {
        return Err(EINVAL);
    }
    if old != 0 {
        return Err(if !same {
            EINVAL
        } else if signed {
            EBUSY
        } else {
            EPERM
        });
    }
    if u64::from(bytes) < BYTES || !at.is_multiple_of(BYTES) {
        return Err(EINVAL);
    }
    if at == 0 || at.checked_add(bytes.into()).is_none_or(|end| end > arch::USER_END) {
        return Err(EFAULT);
    }
    r.bytes.store(bytes, Ordering::Relaxed);
    r.signature.store(signature, Ordering::Relaxed);
    r.at.store(at, Ordering::Relaxed);
    t.due.fetch_or(DUE, Ordering::Relaxed);
    Ok(0)
}

/// `cpu_id_start`, `cpu_id`; the node is 0, and every CPU has its own number of those that run the process.
fn write_cpu(at: u64, start: u32, cpu: u32) -> Result<()> {
    let both = u64::from(start) | u64::from(cpu) << 32;
    user::write(at, &both.to_le_bytes())?;
    user::write(at + FLAGS + 4, &u64::from(start).rotate_left(32).to_le_bytes())
}

/// The thread runs again, after others. => it runs on this CPU; interrupts are off.
pub(crate) fn switched(t: &Thread) {
    if t.rseq.at.load(Ordering::Relaxed) != 0 {
        t.due.fetch_or(DUE, Ordering::Relaxed);
    }
}

/// Does what [`switched`] noted, before the program goes on.
pub(crate) fn resume(t: &Thread, f: &mut Frame) {
    if t.due.load(Ordering::Relaxed) & DUE != 0 {
        t.due.fetch_and(!DUE, Ordering::Relaxed);
        interrupt(t, f);
    }
}

/// The program does not go on where it was as if nothing had happened: others ran, or a handler will.
///
/// A structure that cannot be read or written, or a way out that is not signed, ends it by SIGSEGV.
pub(crate) fn interrupt(t: &Thread, f: &mut Frame) {
    let at = t.rseq.at.load(Ordering::Relaxed);
    if at != 0 && look(t, at, f).is_err() {
        t.rseq.forget();
        super::signal::force_segv();
    }
}

fn look(t: &Thread, at: u64, f: &mut Frame) -> Result<()> {
    let cpu = u32::from(arch::here().number);
    write_cpu(at, cpu, cpu)?;
    let sequence = user::read_u64(at + SEQUENCE)?;
    if sequence == 0 {
        return Ok(());
    }
    // Version and flags, the first instruction, bytes, the way out.
    let [head, start, bytes, out] = [
        user::read_u64(sequence)?,
        user::read_u64(sequence + 8)?,
        user::read_u64(sequence + 16)?,
        user::read_u64(sequence + 24)?,
    ];
    let end = start.checked_add(bytes).filter(|end| *end <= arch::USER_END).ok_or(EINVAL)?;
    if head as u32 != 0 || out >= arch::USER_END || (start..end).contains(&out) {
        return Err(EINVAL);
    }
    let signature = user::read_u32(out.checked_sub(4).ok_or(EINVAL)?)?;
    if signature != t.rseq.signature.load(Ordering::Relaxed) {
        return Err(EINVAL);
    }
    user::write(at + SEQUENCE, &0u64.to_le_bytes())?;
    if (start..end).contains(&f.pc()) {
        f.go_to(out);
    }
    Ok(())
}
