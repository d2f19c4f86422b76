//! The stack frame of a signal handler, as Linux lays it out, and the way back.
//!
//! From the lowest address: where the handler returns to, `struct ucontext`, `siginfo_t`; above it, aligned to 64, the
//! vector registers as XSAVE puts them, with Linux's magic words in the legacy part's free bytes and behind the end.

use core::sync::atomic::Ordering;

use alloc::vec;
use alloc::vec::Vec;

use super::super::stack::{Place, rearm};
use super::USER_END;
use super::desc::{USER_CODE, USER_DATA};
use super::fpu;
use super::trap::Frame;
use crate::errno::{EFAULT, Result};
use crate::process::signal::{Action, INFO_BYTES, Info};
use crate::{sched, user};

/// Bytes of `struct ucontext` with one word of signals.
const UCONTEXT: usize = 304;
const FRAME: u64 = 8 + UCONTEXT as u64 + INFO_BYTES as u64;
/// Words of it: flags, link, the alternate stack, registers, mask.
const STACK: usize = 2;
const REGISTERS: usize = 5;
const FPSTATE: usize = REGISTERS + 23;
const MASK: usize = UCONTEXT / 8 - 1;
/// UC_FP_XSTATE, UC_SIGCONTEXT_SS, UC_STRICT_RESTORE_SS.
const UC_FLAGS: u64 = 7;
/// Flags of the CPU that a program may set.
const RESTORABLE: u64 = 0x5_0dd5;
const RED_ZONE: u64 = 128;

const MAGIC1: u32 = 0x4650_5853;
const MAGIC2: u32 = 0x4650_5845;
/// Where the legacy part has Linux's words.
const SW_RESERVED: usize = 464;

/// The most that a signal takes of a stack (AT_MINSIGSTKSZ).
pub(crate) fn signal_frame_bytes() -> u64 {
    (FRAME + 8 + 16 + fpu::size() as u64 + 4 + 64).next_multiple_of(16)
}

/// The handler of `action` runs when the program goes on; `mask` comes back after it.
///
/// # Errors
/// EFAULT: its stack cannot be written.
pub(crate) fn push_signal(f: &mut Frame, info: &Info, action: Action, mask: u64) -> Result<()> {
    let t = sched::current();
    let place = Place::of(action, f.rsp);
    let top = place.top(RED_ZONE);
    let size = fpu::size();
    let vectors = top.wrapping_sub(size as u64 + 4) & !63;
    let sp = (vectors.wrapping_sub(FRAME) & !15).wrapping_sub(8);
    place.check(sp, top)?;
    user::write(vectors, &saved_vectors(size))?;
    let mut words = [0u64; UCONTEXT / 8];
    words[0] = UC_FLAGS;
    words[STACK..STACK + 3].copy_from_slice(&place.words());
    let [vector, error, address] = core::array::from_fn(|i| t.signals.trap[i].load(Ordering::Relaxed));
    words[REGISTERS..FPSTATE].copy_from_slice(&[
        f.r8,
        f.r9,
        f.r10,
        f.r11,
        f.r12,
        f.r13,
        f.r14,
        f.r15,
        f.rdi,
        f.rsi,
        f.rbp,
        f.rbx,
        f.rdx,
        f.rax,
        f.rcx,
        f.rsp,
        f.rip,
        f.rflags,
        USER_CODE | USER_DATA << 48,
        error,
        vector,
        mask,
        address,
    ]);
    words[FPSTATE] = vectors;
    words[MASK] = mask;
    let mut bytes: Vec<u8> = action.restorer.to_le_bytes().to_vec();
    bytes.extend(words.iter().flat_map(|w| w.to_le_bytes()));
    bytes.extend(info.bytes());
    user::write(sp, &bytes)?;
    place.disarm();
    (f.rdi, f.rsi, f.rdx, f.rax) = (info.signal.into(), sp + 8 + UCONTEXT as u64, sp + 8, 0);
    (f.rip, f.rsp) = (action.handler, sp);
    // Forwards, and no single steps into the handler.
    f.rflags &= !(0x400 | 0x1_0000 | 0x100);
    f.return_whole();
    t.reset_fpu();
    Ok(())
}

fn saved_vectors(size: usize) -> Vec<u8> {
    let mut image = vec![0; size + 4];
    sched::current().read_vectors(&mut image[..size]);
    let mut put = |at: usize, b: &[u8]| image[at..at + b.len()].copy_from_slice(b);
    put(SW_RESERVED, &MAGIC1.to_le_bytes());
    put(SW_RESERVED + 4, &(size as u32 + 4).to_le_bytes());
    put(SW_RESERVED + 8, &fpu::features().to_le_bytes());
    put(SW_RESERVED + 16, &(size as u32).to_le_bytes());
    put(size, &MAGIC2.to_le_bytes());
    image
}

/// rt_sigreturn(2): registers, mask and alternate stack as the frame on the stack says.
///
/// # Errors
/// EFAULT: it cannot be read, or what it says cannot be.
pub(crate) fn pop_signal(f: &mut Frame) -> Result<()> {
    let mut bytes = [0; UCONTEXT];
    user::read(f.rsp, &mut bytes)?;
    let w = |i: usize| u64::from_le_bytes(bytes[8 * i..8 * i + 8].try_into().unwrap_or_default());
    if w(REGISTERS + 16) >= USER_END {
        return Err(EFAULT);
    }
    load_vectors(w(FPSTATE))?;
    let r: [u64; 18] = core::array::from_fn(|i| w(REGISTERS + i));
    [f.r8, f.r9, f.r10, f.r11, f.r12, f.r13, f.r14, f.r15] = [r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7]];
    [f.rdi, f.rsi, f.rbp, f.rbx, f.rdx, f.rax, f.rcx, f.rsp, f.rip] =
        [r[8], r[9], r[10], r[11], r[12], r[13], r[14], r[15], r[16]];
    f.rflags = f.rflags & !RESTORABLE | r[17] & RESTORABLE;
    f.return_whole();
    let s = &sched::current().signals;
    s.set_mask(w(MASK));
    rearm([w(STACK), w(STACK + 1), w(STACK + 2)]);
    Ok(())
}

fn load_vectors(at: u64) -> Result<()> {
    let size = fpu::size();
    let mut image = vec![0; size + 4];
    if at == 0 {
        sched::current().reset_fpu();
        return Ok(());
    }
    if !at.is_multiple_of(64) {
        return Err(EFAULT);
    }
    user::read(at, &mut image[..512])?;
    let word = |b: &[u8], i: usize| u32::from_le_bytes([b[i], b[i + 1], b[i + 2], b[i + 3]]);
    let whole = word(&image, SW_RESERVED) == MAGIC1
        && word(&image, SW_RESERVED + 16) as usize == size
        && user::read_u32(at + size as u64) == Ok(MAGIC2);
    if whole {
        user::read(at, &mut image)?;
    } else {
        // x87 and SSE are all that there is.
        image[512] = 3;
    }
    sched::current().write_vectors(&image[..size]);
    Ok(())
}
