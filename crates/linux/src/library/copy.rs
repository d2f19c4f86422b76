//! Copying to and from managed memory with an error instead of a signal.
//!
//! As a kernel's copyin and copyout: one instruction moves the bytes, and when a fault
//! at it is denied the handler continues the thread behind it, with the reason in a
//! register. Faults that are not denied are served like any other. No lock is held, so
//! either side, or both, may be managed memory.

use machvm::FaultError;
use machvm_hal::{RawAddr, Va};

core::arch::global_asm!(
    ".pushsection .text.machvm_copy,\"ax\",@progbits",
    ".balign 16",
    ".hidden machvm_copy",
    ".hidden machvm_copy_at",
    ".hidden machvm_copy_end",
    ".globl machvm_copy",
    ".globl machvm_copy_at",
    ".globl machvm_copy_end",
    ".type machvm_copy,@function",
    // rdi: to, rsi: from, rdx: bytes; gives rax: bytes left, rdx: why.
    "machvm_copy:",
    "mov rcx, rdx",
    "xor edx, edx",
    "machvm_copy_at:",
    "rep movsb",
    "machvm_copy_end:",
    "mov rax, rcx",
    "ret",
    ".size machvm_copy, . - machvm_copy",
    ".popsection",
);

/// What `machvm_copy` gives back, in `rax` and `rdx`.
#[repr(C)]
struct Outcome {
    left: u64,
    /// 0, or what [`refuse`] said.
    why: u64,
}

unsafe extern "C" {
    fn machvm_copy(to: *mut u8, from: *const u8, bytes: usize) -> Outcome;
    static machvm_copy_at: u8;
    static machvm_copy_end: u8;
}

const NO_MAPPING: u64 = 1;
const PROTECTION: u64 = 2;
const UNREADABLE: u64 = 3;
const NO_MEMORY: u64 = 4;

/// Copies. On failure, why, with the address in the process; some bytes are copied.
///
/// # Safety
/// 1. All of `to` and of `from` is good for `bytes` bytes, or lies in a window of a
///    task that exists until this returns.
pub(super) unsafe fn copy(to: *mut u8, from: *const u8, bytes: usize) -> Result<(), FaultError> {
    // SAFETY: 1; where nothing is mapped in a window the handler ends the copy.
    let Outcome { left, why } = unsafe { machvm_copy(to, from, bytes) };
    if left == 0 {
        return Ok(());
    }
    let va = Va::containing(RawAddr(why >> 8));
    Err(match why & 0xff {
        PROTECTION => FaultError::Protection(va),
        UNREADABLE => FaultError::PagerIo(va),
        NO_MEMORY => FaultError::NoMemory(va),
        _ => FaultError::NoMapping(va),
    })
}

/// Copies as far as it can be done; gives how many bytes were copied. Bad addresses end the
/// copy, inside windows and outside them, as in a kernel's `copy_from_user`. Neither SIGBUS
/// nor SIGSEGV may be blocked.
///
/// # Safety
/// 1. What is good of `to`, for `bytes` bytes, is the caller's to change, and what is good
///    of `from` to read.
#[must_use]
pub unsafe fn copy_some(to: *mut u8, from: *const u8, bytes: usize) -> usize {
    // Without a VM there are no handlers.
    if !super::signal::installed() {
        // SAFETY: 1, and nothing here is absent.
        unsafe { core::ptr::copy(from, to, bytes) };
        return bytes;
    }
    // SAFETY: 1; what is not good ends it.
    bytes - unsafe { machvm_copy(to, from, bytes) }.left as usize
}

/// The fault at byte `addr` was denied. If it was the copy's, the copy ends there.
pub(super) fn refuse(context: &mut libc::ucontext_t, addr: u64, why: FaultError) -> bool {
    let registers = &mut context.uc_mcontext.gregs;
    if registers[libc::REG_RIP as usize] != (&raw const machvm_copy_at).addr() as i64 {
        return false;
    }
    let why = match why {
        FaultError::NoMapping(_) => NO_MAPPING,
        FaultError::Protection(_) | FaultError::Foreign(_) => PROTECTION,
        FaultError::Beyond(_) | FaultError::PagerIo(_) | FaultError::PagerGone(_) => UNREADABLE,
        FaultError::NoMemory(_) => NO_MEMORY,
    };
    // User addresses have 47 bits.
    registers[libc::REG_RDX as usize] = (addr << 8 | why).cast_signed();
    registers[libc::REG_RIP as usize] = (&raw const machvm_copy_end).addr() as i64;
    true
}
