//! Into the kernel and out again: exceptions, interrupts, system calls.
//!
//! All three put a [`Frame`] on the thread's kernel stack. In the kernel tp leads to what the hart has of its own and
//! sscratch is zero; in programs sscratch leads there. Interrupts are on again before anything that takes time.

use core::arch::{asm, global_asm};
use core::mem::offset_of;

use machvm_hal::Prot;

use super::super::single::CpuLocal;
use super::super::stack;
use super::cpu::{FS, SPIE, SPP, SUM};
use crate::arch::{interrupts_off, interrupts_restore};
use crate::trap::{Exception, exception, interrupted, system_call};

/// Registers of what was interrupted.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Frame {
    /// x1 to x31.
    pub(crate) x: [u64; 31],
    /// Where it goes on.
    pub(crate) pc: u64,
    /// sstatus.
    pub(crate) status: u64,
    /// Of a system call: its first argument, whose register has the result after it.
    first: u64,
    /// 1: a system call.
    is_call: u64,
    /// A multiple of 16 bytes.
    _pad: u64,
}

/// Registers in [`Frame::x`].
pub(super) const SP: usize = 1;
pub(super) const TP: usize = 3;
pub(super) const A0: usize = 9;
const A7: usize = 16;
pub(super) const RA: usize = 0;

/// Bytes that a kernel stack has, less what a trap needs to see that it is used up.
const LIMIT: u64 = 12 * 4096 - 512;
/// What is this far below is no stack of a thread's.
const NEAR: u64 = 1 << 16;

global_asm!(
    r#"
    .altmacro
    .macro SAVE n
    sd   x\n, 8 * (\n - 1)(sp)
    .endm
    .macro LOAD n
    ld   x\n, 8 * (\n - 1)(sp)
    .endm

    .section .text
    .balign 4
    .global trap_entry
trap_entry:
    csrrw tp, sscratch, tp
    bnez tp, 1f
    // From the kernel. Is there still stack?
    csrr tp, sscratch
    sd   sp, {scratch}(tp)
    sd   t0, {scratch} + 8(tp)
    ld   sp, {kernel_stack}(tp)
    ld   t0, {scratch}(tp)
    sub  t0, sp, t0
    li   sp, {limit}
    sub  t0, t0, sp
    li   sp, {near}
    bltu t0, sp, 9f
    ld   t0, {scratch} + 8(tp)
    ld   sp, {scratch}(tp)
    j    2f
1:  sd   sp, {scratch}(tp)
    ld   sp, {kernel_stack}(tp)
2:  addi sp, sp, -{size}
    SAVE 1
    SAVE 3
    .set i, 5
    .rept 27
    SAVE %i
    .set i, i + 1
    .endr
    ld   t0, {scratch}(tp)
    sd   t0, {x2}(sp)
    csrrw t0, sscratch, zero
    sd   t0, {x4}(sp)
    csrr t0, sepc
    sd   t0, {pc}(sp)
    csrr t0, sstatus
    sd   t0, {status}(sp)
    sd   zero, {is_call}(sp)
    li   t0, {sum}
    csrc sstatus, t0
    li   s0, 0
    mv   a0, sp
    call {dispatch}
trap_return:
    csrci sstatus, 2
    ld   t0, {status}(sp)
    andi t1, t0, {spp}
    bnez t1, 3f
    csrw sscratch, tp
3:  csrw sstatus, t0
    ld   t0, {pc}(sp)
    csrw sepc, t0
    LOAD 1
    LOAD 3
    LOAD 4
    .set i, 5
    .rept 27
    LOAD %i
    .set i, i + 1
    .endr
    LOAD 2
    sret

9:  la   sp, {emergency} + {emergency_size}
    ld   a0, {scratch}(tp)
    csrr a1, sepc
    li   s0, 0
    csrw sscratch, zero
    call {overflow}

    .global enter_user
enter_user:
    csrci sstatus, 2
    mv   sp, a0
    j    trap_return
    .purgem SAVE
    .purgem LOAD
    .noaltmacro
"#,
    scratch = const offset_of!(CpuLocal, scratch),
    kernel_stack = const offset_of!(CpuLocal, kernel_stack),
    limit = const LIMIT,
    near = const NEAR,
    size = const size_of::<Frame>(),
    x2 = const 8 * SP,
    x4 = const 8 * TP,
    pc = const offset_of!(Frame, pc),
    status = const offset_of!(Frame, status),
    is_call = const offset_of!(Frame, is_call),
    sum = const SUM,
    spp = const SPP,
    emergency = sym EMERGENCY,
    emergency_size = const size_of::<Emergency>(),
    dispatch = sym dispatch,
    overflow = sym overflow,
);

const _: () = assert!(size_of::<Frame>().is_multiple_of(16));

/// The stack of those whose stack is used up.
#[repr(C, align(16))]
struct Emergency(core::cell::UnsafeCell<[u8; 16384]>);
// SAFETY: used once, by one hart, which does not go on after it.
unsafe impl Sync for Emergency {}
static EMERGENCY: Emergency = Emergency(core::cell::UnsafeCell::new([0; 16384]));

unsafe extern "C" {
    #[link_name = "trap_entry"]
    safe static TRAP_ENTRY: u8;
    fn enter_user(frame: *const Frame) -> !;
}

/// The number of restart_syscall(2).
pub(crate) const RESTART_SYSCALL: u64 = 128;

/// Where traps go.
pub(super) fn entry() -> u64 {
    &raw const TRAP_ENTRY as u64
}

impl Frame {
    /// Of a program that begins at `pc` with this stack.
    pub(crate) fn user(pc: u64, sp: u64) -> Self {
        let mut f = Frame { pc, status: SPIE | FS, is_call: 1, ..Frame::default() };
        f.x[SP] = sp;
        f
    }
    /// Was a program interrupted?
    pub(crate) fn is_from_user(&self) -> bool {
        self.status & SPP == 0
    }
    /// Where it goes on.
    pub(crate) fn pc(&self) -> u64 {
        self.pc
    }
    /// It goes on there.
    pub(crate) fn go_to(&mut self, pc: u64) {
        self.pc = pc;
    }
    /// The stack pointer.
    pub(crate) fn stack_pointer(&self) -> u64 {
        self.x[SP]
    }
    /// Sets it.
    pub(crate) fn set_stack_pointer(&mut self, sp: u64) {
        self.x[SP] = sp;
    }
    /// Sets the thread pointer.
    pub(crate) fn set_thread_pointer(&mut self, tp: u64) {
        self.x[TP] = tp;
    }
    /// Number and arguments of the system call.
    pub(crate) fn call(&self) -> (u64, [u64; 6]) {
        (self.x[A7], core::array::from_fn(|i| self.x[A0 + i]))
    }
    /// Notes the call's first argument, for [`Frame::call_again`].
    pub(crate) fn note_call(&mut self) {
        self.first = self.x[A0];
    }
    /// The call ended with an error that stands for "again" (512 and up).
    pub(crate) fn restart_code(&self) -> Option<i32> {
        let code = (self.x[A0] as i64).wrapping_neg();
        (self.is_call != 0 && (512..=516).contains(&code)).then_some(code as i32)
    }
    /// The program makes the same call once more. => `note_call` was called, and nothing changed the arguments.
    /// Or the call `other`.
    pub(crate) fn call_again(&mut self, other: Option<u64>) {
        self.x[A0] = self.first;
        if let Some(n) = other {
            self.x[A7] = n;
        }
        // ECALL has four bytes.
        self.pc = self.pc.wrapping_sub(4);
    }
    /// What the call returns.
    pub(crate) fn set_result(&mut self, v: i64) {
        self.x[A0] = v as u64;
    }
    /// Nothing that was a call goes on.
    pub(crate) fn return_whole(&mut self) {
        self.is_call = 0;
    }
}

fn read_cause() -> (u64, u64) {
    let (cause, value);
    // SAFETY: reads two registers.
    unsafe {
        asm!("csrr {}, scause", "csrr {}, stval", out(reg) cause, out(reg) value, options(nomem, nostack))
    }
    (cause, value)
}

/// Everything that leads into the kernel. => interrupts are off, and are so on return.
extern "C" fn dispatch(f: &mut Frame) {
    const INTERRUPT: u64 = 1 << 63;
    const TIMER: u64 = INTERRUPT | 5;
    const DEVICE: u64 = INTERRUPT | 9;
    let (cause, value) = read_cause();
    let page = |access| Exception::Page { address: value, access };
    let e = match cause {
        TIMER => {
            super::timer::interrupt(f.is_from_user());
            return interrupted(f);
        }
        DEVICE => {
            super::serial::interrupt();
            return interrupted(f);
        }
        8 => {
            f.is_call = 1;
            f.pc = f.pc.wrapping_add(4);
            interrupts_restore(true);
            return system_call(f);
        }
        12 => page(Prot::X),
        13 => page(Prot::R),
        15 => page(Prot::W),
        0 | 4 | 6 => Exception::Alignment(value),
        1 | 5 | 7 => Exception::Protection,
        2 => Exception::Illegal,
        3 => Exception::Breakpoint,
        _ => panic!("trap {cause:#x}, {value:#x}: {f:#x?}"),
    };
    // Where interrupts were on they are on again: the fault may sleep.
    if f.status & SPIE != 0 {
        interrupts_restore(true);
    }
    exception(f, e);
    interrupts_off();
}

/// The stack is used up, at `pc`.
extern "C" fn overflow(sp: u64, pc: u64) -> ! {
    crate::say!("\ndouble fault (kernel stack overflow?) at {pc:#x}, stack {sp:#x}");
    // SAFETY: the stack's last page is the one behind the page that is not there.
    unsafe { stack::trace((sp + 0xfff) & !0xfff, 512) }
    panic!("no kernel stack left")
}

/// Goes on as a program. => `frame` is on this thread's kernel stack or lives for ever.
pub(crate) fn return_to_user(frame: &Frame) -> ! {
    // SAFETY: the stack below the frame is no longer needed; the status is a program's.
    unsafe { enter_user(frame) }
}
