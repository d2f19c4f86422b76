//! The stack frame of a signal handler, as Linux lays it out, and the way back.
//!
//! From the lowest address: `siginfo_t`, `struct ucontext`, whose end are the registers and then 4 KiB of records, each
//! with a number and its size: floating point and vectors, what an exception was, the end. Above all of it a record of
//! the interrupted function, for who follows frame pointers.

use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use super::super::stack::{Place, rearm};
use super::fpu;
use super::trap::{FRAME_POINTER, Frame, LINK};
use crate::errno::{EFAULT, Result};
use crate::process::signal::{Action, INFO_BYTES, Info, SA_RESTORER, SA_SIGINFO};
use crate::{elf, sched, user};

/// Words of `struct ucontext`: flags, link, the alternate stack, mask (and room for more), the fault's address,
/// registers, stack pointer, where it goes on, state.
const STACK: usize = 2;
const MASK: usize = 5;
const FAULT: usize = 22;
const REGISTERS: usize = FAULT + 1;
const SP: usize = REGISTERS + 31;
/// Bytes before the records, which are aligned, and of them.
const RECORDS: usize = 464;
const ROOM: usize = 4096;
const UCONTEXT: usize = RECORDS + ROOM;
const FRAME: u64 = INFO_BYTES as u64 + UCONTEXT as u64;
/// The record of the interrupted function.
const LINKAGE: u64 = 16;

/// Numbers of records; the one without a number is the last.
const VECTORS: u32 = 0x4650_8001;
const SYNDROME: u32 = 0x4553_5201;
/// Bytes of a record's number and size.
const HEAD: usize = 8;

/// What a program may set in its state: N, Z, C, V.
const CONDITIONS: u64 = 0xf << 28;
/// The level, and what is masked: zero in a program's.
const PRIVILEGED: u64 = 0x3df;

/// The most that a signal takes of a stack (AT_MINSIGSTKSZ).
pub(crate) fn signal_frame_bytes() -> u64 {
    FRAME + LINKAGE + 16
}

/// Puts a record; gives the room behind it.
fn record<'a>(to: &'a mut [u8], number: u32, body: &[u8]) -> &'a mut [u8] {
    let (record, rest) = to.split_at_mut(HEAD + body.len());
    record[..4].copy_from_slice(&number.to_le_bytes());
    record[4..8].copy_from_slice(&((HEAD + body.len()) as u32).to_le_bytes());
    record[HEAD..].copy_from_slice(body);
    rest
}

/// The address and the syndrome of the thread's last exception that a signal was for.
fn last_exception(f: &Frame, info: &Info) -> [u64; 2] {
    let [_, syndrome, address] = &sched::current().signals.trap;
    // This signal is for one.
    if info.code > 0 && f.fault[0] != 0 {
        syndrome.store(f.fault[0], Ordering::Relaxed);
        address.store(f.fault[1], Ordering::Relaxed);
    }
    [address.load(Ordering::Relaxed), syndrome.load(Ordering::Relaxed)]
}

/// The handler of `action` runs when the program goes on; `mask` comes back after it.
///
/// # Errors
/// EFAULT: its stack cannot be written.
pub(crate) fn push_signal(f: &mut Frame, info: &Info, action: Action, mask: u64) -> Result<()> {
    let t = sched::current();
    let place = Place::of(action, f.sp);
    let top = place.top(0);
    let linkage = top.wrapping_sub(LINKAGE) & !15;
    let sp = linkage.wrapping_sub(FRAME) & !15;
    place.check(sp, top)?;
    let [address, syndrome] = last_exception(f, info);
    let mut words = [0u64; RECORDS / 8];
    words[STACK..STACK + 3].copy_from_slice(&place.words());
    words[MASK] = mask;
    words[FAULT] = address;
    words[REGISTERS..SP].copy_from_slice(&f.x);
    words[SP..SP + 3].copy_from_slice(&[f.sp, f.pc, f.state]);
    let mut bytes: Vec<u8> = info.bytes().to_vec();
    bytes.extend(words.iter().flat_map(|w| w.to_le_bytes()));
    let records = bytes.len();
    bytes.resize(FRAME as usize, 0);
    let mut vectors = [0; fpu::BYTES];
    t.read_vectors(&mut vectors);
    let rest = record(&mut bytes[records..], VECTORS, &vectors);
    if syndrome != 0 {
        record(rest, SYNDROME, &syndrome.to_le_bytes());
    }
    user::write(sp, &bytes)?;
    user::write_u64s(linkage, &[f.x[FRAME_POINTER], f.x[LINK]])?;
    place.disarm();
    f.x[0] = info.signal.into();
    if action.flags & SA_SIGINFO != 0 {
        f.x[1..3].copy_from_slice(&[sp, sp + INFO_BYTES as u64]);
    }
    f.x[FRAME_POINTER] = linkage;
    f.x[LINK] = if action.flags & SA_RESTORER != 0 { action.restorer } else { elf::SIGNAL_RETURN };
    f.sp = sp;
    f.pc = action.handler;
    f.return_whole();
    Ok(())
}

/// Bytes of the record of vectors, in the records of a frame. `None`: there is none, or something else is wrong.
fn vectors(mut records: &[u8]) -> Option<&[u8]> {
    let mut found = None;
    loop {
        let word = |at: usize| Some(u32::from_le_bytes(records.get(at..at + 4)?.try_into().ok()?));
        let (number, size) = (word(0)?, word(4)? as usize);
        match number {
            0 if size == 0 => return found,
            VECTORS if size == HEAD + fpu::BYTES && found.is_none() => found = records.get(HEAD..size),
            SYNDROME => {}
            _ => return None,
        }
        if size < HEAD || !size.is_multiple_of(16) {
            return None;
        }
        records = records.get(size..)?;
    }
}

/// rt_sigreturn(2): registers, mask and alternate stack as the frame on the stack says.
///
/// # Errors
/// EFAULT: it cannot be read, or what it says cannot be.
pub(crate) fn pop_signal(f: &mut Frame) -> Result<()> {
    if !f.sp.is_multiple_of(16) {
        return Err(EFAULT);
    }
    let mut bytes = vec![0; UCONTEXT];
    user::read(f.sp.wrapping_add(INFO_BYTES as u64), &mut bytes)?;
    let w = |i: usize| u64::from_le_bytes(bytes[8 * i..8 * i + 8].try_into().unwrap_or_default());
    if w(SP + 2) & PRIVILEGED != 0 {
        return Err(EFAULT);
    }
    let t = sched::current();
    t.write_vectors(vectors(&bytes[RECORDS..]).ok_or(EFAULT)?);
    f.x = core::array::from_fn(|i| w(REGISTERS + i));
    (f.sp, f.pc, f.state) = (w(SP), w(SP + 1), w(SP + 2) & CONDITIONS);
    f.return_whole();
    t.signals.set_mask(w(MASK));
    rearm([w(STACK), w(STACK + 1), w(STACK + 2)]);
    Ok(())
}
