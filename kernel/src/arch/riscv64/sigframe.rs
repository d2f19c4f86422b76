//! The stack frame of a signal handler, as Linux lays it out, and the way back.
//!
//! From the lowest address: `siginfo_t`, `struct ucontext`, whose end are the registers: pc, x1 to x31, and the
//! floating-point registers in a union that has room for larger ones.

use alloc::vec;
use alloc::vec::Vec;

use super::super::stack::{Place, rearm};
use super::fpu;
use super::trap::{A0, Frame, RA, SP};
use crate::elf;
use crate::errno::Result;
use crate::process::signal::{Action, INFO_BYTES, Info};
use crate::{sched, user};

/// Words of `struct ucontext`: flags, link, the alternate stack, mask (and room for more), registers.
const STACK: usize = 2;
const MASK: usize = 5;
const REGISTERS: usize = 22;
const FLOATS: usize = REGISTERS + 32;
/// Bytes of `struct ucontext`, with room for registers of 128 bits.
const UCONTEXT: usize = 960;
const FRAME: u64 = INFO_BYTES as u64 + UCONTEXT as u64;

/// The most that a signal takes of a stack (AT_MINSIGSTKSZ).
pub(crate) fn signal_frame_bytes() -> u64 {
    FRAME + 16
}

/// The handler of `action` runs when the program goes on; `mask` comes back after it.
///
/// # Errors
/// EFAULT: its stack cannot be written.
pub(crate) fn push_signal(f: &mut Frame, info: &Info, action: Action, mask: u64) -> Result<()> {
    let t = sched::current();
    let place = Place::of(action, f.stack_pointer());
    let top = place.top(0);
    let sp = top.wrapping_sub(FRAME) & !15;
    place.check(sp, top)?;
    let mut words = [0u64; UCONTEXT / 8];
    words[STACK..STACK + 3].copy_from_slice(&place.words());
    words[MASK] = mask;
    words[REGISTERS] = f.pc;
    words[REGISTERS + 1..FLOATS].copy_from_slice(&f.x);
    let mut bytes: Vec<u8> = info.bytes().to_vec();
    bytes.extend(words.iter().flat_map(|w| w.to_le_bytes()));
    let floats = INFO_BYTES + 8 * FLOATS;
    t.read_vectors(&mut bytes[floats..floats + fpu::BYTES]);
    user::write(sp, &bytes)?;
    place.disarm();
    f.x[A0..A0 + 3].copy_from_slice(&[info.signal.into(), sp, sp + INFO_BYTES as u64]);
    f.x[RA] = elf::SIGNAL_RETURN;
    f.x[SP] = sp;
    f.pc = action.handler;
    f.return_whole();
    Ok(())
}

/// rt_sigreturn(2): registers, mask and alternate stack as the frame on the stack says.
///
/// # Errors
/// EFAULT: it cannot be read.
pub(crate) fn pop_signal(f: &mut Frame) -> Result<()> {
    let mut bytes = vec![0; UCONTEXT];
    user::read(f.stack_pointer().wrapping_add(INFO_BYTES as u64), &mut bytes)?;
    let w = |i: usize| u64::from_le_bytes(bytes[8 * i..8 * i + 8].try_into().unwrap_or_default());
    let t = sched::current();
    t.write_vectors(&bytes[8 * FLOATS..8 * FLOATS + fpu::BYTES]);
    f.pc = w(REGISTERS);
    f.x = core::array::from_fn(|i| w(REGISTERS + 1 + i));
    f.return_whole();
    t.signals.set_mask(w(MASK));
    rearm([w(STACK), w(STACK + 1), w(STACK + 2)]);
    Ok(())
}
