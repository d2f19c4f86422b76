//! Calls on ranges of outside memory: Linux's own, with Mach's codes.
//!
//! Every function takes the start and the end of what a call named, in bytes, and acts on
//! the pages that this touches. Nothing here is inside the VM.

use std::io;

use machvm::map::Holes;
use machvm::task::RawProt;
use machvm_hal::{PAGE_MASK, PAGE_SIZE, Prot};
use machvm_linux::library::next_window;

use super::maps::{Mapping, Maps};
use super::{USER_END, check};
use crate::calls::here;
use crate::kr::{self, Code};
use crate::types::kern_return_t;

pub(super) type Done = Result<(), kern_return_t>;

/// The pages of a range, as far as programs have any.
pub(super) fn pages(start: u64, end: u64) -> (u64, u64) {
    let cover = end.checked_next_multiple_of(PAGE_SIZE).unwrap_or(USER_END);
    (start & !PAGE_MASK, cover.min(USER_END))
}

/// The mappings in a range.
pub(super) fn mappings(start: u64, end: u64) -> Result<Vec<Mapping>, kern_return_t> {
    let (start, end) = pages(start, end);
    if start >= end {
        return Ok(Vec::new());
    }
    Maps::within(start, end).map_err(|_| kr::KERN_RESOURCE_SHORTAGE)
}

/// As [`mappings`], of a range that must be mapped whole, with these rights.
pub(super) fn whole(start: u64, end: u64, need: Prot) -> Result<Vec<Mapping>, kern_return_t> {
    let (from, to) = (start & !PAGE_MASK, end.checked_next_multiple_of(PAGE_SIZE).unwrap_or(u64::MAX));
    check(from, to, need).map_err(|e| e.code(here().1))?;
    mappings(start, end)
}

/// What a system call that returned `r` says.
fn done(r: libc::c_int) -> Result<(), i32> {
    if r == 0 { Ok(()) } else { Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL)) }
}

fn pointer(addr: u64) -> *mut libc::c_void {
    core::ptr::with_exposed_provenance_mut(addr as usize)
}

pub(super) fn advise(m: &Mapping, advice: i32) -> Result<(), i32> {
    // SAFETY: memory of the program's that its program asked for; the advices used here
    // that lose contents are for calls that say so.
    done(unsafe { libc::madvise(pointer(m.start), m.bytes() as usize, advice) })
}

/// Does the program die of losing this range: is it what it runs on?
pub(crate) fn is_vital(start: u64, end: u64) -> bool {
    let on_stack = 0u8;
    let (text, stack) = (is_vital as *const () as usize as u64, (&raw const on_stack).addr() as u64);
    let (start, end) = pages(start, end);
    [text, stack].iter().any(|a| (start..end).contains(a))
}

/// Ends the process as the next instruction would on Mach.
pub(crate) fn end() -> ! {
    // SAFETY: good structures; the process is over.
    unsafe {
        let mut action: libc::sigaction = core::mem::zeroed();
        action.sa_sigaction = libc::SIG_DFL;
        libc::sigaction(libc::SIGSEGV, &raw const action, core::ptr::null_mut());
        let mut set = core::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGSEGV);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, core::ptr::null_mut());
        libc::raise(libc::SIGSEGV);
        libc::abort()
    }
}

/// Unmaps (U04).
///
/// # Errors
/// `KERN_RESOURCE_SHORTAGE`; part of it is gone.
pub(crate) fn deallocate(start: u64, end: u64) -> Done {
    let (mut at, end) = pages(start, end);
    while at < end {
        let window = next_window(at, end);
        let stop = window.map_or(end, |w| w.0).max(at);
        if stop > at {
            // SAFETY: the program asked for it, and no task's window is in it.
            let r = unsafe { libc::munmap(pointer(at), (stop - at) as usize) };
            done(r).map_err(|_| kr::KERN_RESOURCE_SHORTAGE)?;
        }
        at = window.map_or(end, |w| w.1);
    }
    Ok(())
}

/// Sets the protection (U20). There is no maximum to set.
///
/// # Errors
/// `KERN_INVALID_ADDRESS`, `KERN_PROTECTION_FAILURE`, `KERN_NOT_SUPPORTED` (a maximum; a
/// copy of shared memory), `KERN_RESOURCE_SHORTAGE`.
pub(crate) fn protect(start: u64, end: u64, set_maximum: bool, prot: RawProt) -> Done {
    let how = here().1;
    let copy = how.protect_copy && prot.0 & RawProt::COPY != 0;
    let rights = u8::try_from(prot.0 & !if copy { RawProt::COPY } else { 0 });
    let rights = rights.ok().and_then(Prot::from_bits).ok_or(kr::KERN_INVALID_ARGUMENT)?;
    let all = match how.protect_holes {
        Holes::Refuse => whole(start, end, Prot::NONE)?,
        Holes::Skip => mappings(start, end)?,
    };
    if set_maximum || (copy && all.iter().any(|m| m.shared)) {
        return Err(kr::KERN_NOT_SUPPORTED);
    }
    for m in all {
        // SAFETY: the program asked for it; the bits of rights are Linux's.
        let r = unsafe { libc::mprotect(pointer(m.start), m.bytes() as usize, i32::from(rights.bits())) };
        done(r).map_err(|e| match e {
            libc::EACCES | libc::EPERM => kr::KERN_PROTECTION_FAILURE,
            libc::ENOMEM => kr::KERN_RESOURCE_SHORTAGE,
            _ => kr::KERN_FAILURE,
        })?;
    }
    Ok(())
}

/// `VM_INHERIT_*`.
const SHARE: u32 = 0;
const COPY: u32 = 1;
const NONE: u32 = 2;

/// Says what a child of fork(2) gets (U21).
///
/// # Errors
/// `KERN_INVALID_ARGUMENT`; `KERN_NOT_SUPPORTED`: private memory cannot be shared, nor shared memory copied.
pub(crate) fn inherit(start: u64, end: u64, inherit: u32) -> Done {
    if inherit > if here().1.inherit_zero { 3 } else { NONE } {
        return Err(kr::KERN_INVALID_ARGUMENT);
    }
    let all = mappings(start, end)?;
    let wrong = |m: &Mapping| (inherit == SHARE && !m.shared) || (inherit == COPY && m.shared);
    if all.iter().any(wrong) {
        return Err(kr::KERN_NOT_SUPPORTED);
    }
    for m in &all {
        let advices: &[i32] = match inherit {
            NONE => &[libc::MADV_DONTFORK],
            SHARE => &[libc::MADV_DOFORK],
            COPY if m.inode == 0 => &[libc::MADV_DOFORK, libc::MADV_KEEPONFORK],
            COPY => &[libc::MADV_DOFORK],
            _ => &[libc::MADV_DOFORK, libc::MADV_WIPEONFORK],
        };
        for advice in advices {
            advise(m, *advice).map_err(|_| kr::KERN_NOT_SUPPORTED)?;
        }
    }
    Ok(())
}

/// Wires with `access`, or unwires where that is nothing (U11). Linux does not count.
///
/// # Errors
/// `KERN_INVALID_ADDRESS`, `KERN_PROTECTION_FAILURE`, `KERN_RESOURCE_SHORTAGE` (its limit).
pub(crate) fn wire(start: u64, end: u64, access: Prot) -> Done {
    let all = match (access.is_empty(), here().1.wire.unwire_holes) {
        (true, Holes::Skip) => mappings(start, end)?,
        _ => whole(start, end, access)?,
    };
    for m in all {
        let (at, len) = (pointer(m.start), m.bytes() as usize);
        // SAFETY: contents do not change.
        let r = unsafe { if access.is_empty() { libc::munlock(at, len) } else { libc::mlock(at, len) } };
        done(r).map_err(|_| kr::KERN_RESOURCE_SHORTAGE)?;
    }
    Ok(())
}
