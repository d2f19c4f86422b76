//! Into the kernel and out again: exceptions, interrupts, system calls.
//!
//! All three put a [`Frame`] on the thread's kernel stack, which SP_EL1 leads to while a program runs: the frame of a
//! program is at the top, so what leaves the kernel leaves it right. SP_EL0 is the program's stack pointer, which is in
//! the frame while the kernel runs; then traps from the kernel use it to keep a register. Interrupts are on again before
//! anything that takes time.

use core::arch::{asm, global_asm};
use core::mem::offset_of;
use core::sync::atomic::Ordering;

use machvm_hal::Prot;

use super::super::single::CpuLocal;
use super::super::stack;
use super::cpu::IRQ_OFF;
use crate::arch::{fix_up, here, interrupts_off, interrupts_restore};
use crate::sched;
use crate::trap::{Exception, exception, interrupted, system_call};

/// Registers of what was interrupted.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Frame {
    /// x0 to x30.
    pub(crate) x: [u64; 31],
    /// The stack pointer.
    pub(super) sp: u64,
    /// Where it goes on.
    pub(crate) pc: u64,
    /// SPSR_EL1.
    pub(super) state: u64,
    /// The thread pointer: TPIDR_EL0.
    thread: u64,
    /// Of a system call: its first argument, whose register has the result after it.
    first: u64,
    /// 1: a system call.
    is_call: u64,
    /// ESR_EL1 of a program's exception, or 0, and FAR_EL1 if that has an address: see [`note`].
    pub(super) fault: [u64; 2],
    /// A multiple of 16 bytes.
    _pad: u64,
}

/// Registers in [`Frame::x`].
pub(super) const LINK: usize = 30;
pub(super) const FRAME_POINTER: usize = 29;
const CALL: usize = 8;

/// In SPSR_EL1: the exception level; 0: a program.
const LEVEL: u64 = 0xf;

/// Bytes that a kernel stack has, less what a trap needs to see that it is used up.
const LIMIT: u64 = 12 * 4096 - 512;

global_asm!(
    r#"
    // A trap from a program: 0: synchronous; 1: an interrupt; 2: neither.
    .macro FROM_USER kind
    .balign 128
    sub  sp, sp, #{size}
    stp  x0, x1, [sp]
    mov  x1, #\kind
    b    from_user
    .endm
    // From the kernel. Is there still stack?
    .macro FROM_KERNEL kind
    .balign 128
    msr  sp_el0, x0
    mrs  x0, tpidr_el1
    str  x1, [x0, #{scratch}]
    ldr  x1, [x0, #{kernel_stack}]
    mov  x0, sp
    sub  x1, x1, x0
    sub  x1, x1, #{limit_high}, lsl #12
    sub  x1, x1, #{limit_low}
    lsr  x1, x1, #16
    cbz  x1, no_stack
    mrs  x0, tpidr_el1
    ldr  x1, [x0, #{scratch}]
    mrs  x0, sp_el0
    sub  sp, sp, #{size}
    stp  x0, x1, [sp]
    mov  x1, #\kind
    b    from_kernel
    .endm

    .section .text
    .balign 2048
    .global trap_vectors
trap_vectors:
    .rept 4
    FROM_KERNEL 2               // on the stack of SP_EL0, which the kernel never uses
    .endr
    FROM_KERNEL 0
    FROM_KERNEL 1
    FROM_KERNEL 2
    FROM_KERNEL 2
    FROM_USER 0
    FROM_USER 1
    FROM_USER 2
    FROM_USER 2
    .rept 4
    FROM_USER 2                 // 32 bits, which no program can be
    .endr
    .balign 128

    .macro SAVE
    stp  x2, x3, [sp, #16]
    stp  x4, x5, [sp, #32]
    stp  x6, x7, [sp, #48]
    stp  x8, x9, [sp, #64]
    stp  x10, x11, [sp, #80]
    stp  x12, x13, [sp, #96]
    stp  x14, x15, [sp, #112]
    stp  x16, x17, [sp, #128]
    stp  x18, x19, [sp, #144]
    stp  x20, x21, [sp, #160]
    stp  x22, x23, [sp, #176]
    stp  x24, x25, [sp, #192]
    stp  x26, x27, [sp, #208]
    stp  x28, x29, [sp, #224]
    .endm
from_kernel:
    SAVE
    add  x2, sp, #{size}
    b    1f
from_user:
    SAVE
    mrs  x2, tpidr_el0
    str  x2, [sp, #{thread}]
    mrs  x2, sp_el0
1:  stp  x30, x2, [sp, #{link}]
    mrs  x2, elr_el1
    mrs  x3, spsr_el1
    stp  x2, x3, [sp, #{pc}]
    stp  xzr, xzr, [sp, #{is_call}]
    mov  x29, xzr
    mov  x0, sp
    bl   {dispatch}
trap_return:
    msr  daifset, #2
    ldp  x2, x3, [sp, #{pc}]
    msr  elr_el1, x2
    msr  spsr_el1, x3
    tst  x3, #{level}
    b.ne 2f
    ldr  x2, [sp, #{thread}]
    msr  tpidr_el0, x2
    ldr  x2, [sp, #{link} + 8]
    msr  sp_el0, x2
2:  ldp  x0, x1, [sp]
    ldp  x2, x3, [sp, #16]
    ldp  x4, x5, [sp, #32]
    ldp  x6, x7, [sp, #48]
    ldp  x8, x9, [sp, #64]
    ldp  x10, x11, [sp, #80]
    ldp  x12, x13, [sp, #96]
    ldp  x14, x15, [sp, #112]
    ldp  x16, x17, [sp, #128]
    ldp  x18, x19, [sp, #144]
    ldp  x20, x21, [sp, #160]
    ldp  x22, x23, [sp, #176]
    ldp  x24, x25, [sp, #192]
    ldp  x26, x27, [sp, #208]
    ldp  x28, x29, [sp, #224]
    ldr  x30, [sp, #{link}]
    add  sp, sp, #{size}
    eret

no_stack:
    mov  x0, sp
    adrp x1, {emergency}
    add  x1, x1, :lo12:{emergency}
    add  x1, x1, #{emergency_size}
    mov  sp, x1
    mrs  x1, elr_el1
    mov  x29, xzr
    bl   {overflow}
    udf  #0

    // x0: a frame; x1: where it goes. It may lie in the way: from the end.
    .global enter_user
enter_user:
    msr  daifset, #2
    mov  x2, #{size}
3:  sub  x2, x2, #8
    ldr  x3, [x0, x2]
    str  x3, [x1, x2]
    cbnz x2, 3b
    mov  sp, x1
    b    trap_return
    .purgem SAVE
    .purgem FROM_USER
    .purgem FROM_KERNEL
"#,
    scratch = const offset_of!(CpuLocal, scratch),
    kernel_stack = const offset_of!(CpuLocal, kernel_stack),
    limit_high = const LIMIT >> 12,
    limit_low = const LIMIT & 0xfff,
    size = const size_of::<Frame>(),
    link = const 8 * LINK,
    thread = const offset_of!(Frame, thread),
    pc = const offset_of!(Frame, pc),
    is_call = const offset_of!(Frame, is_call),
    level = const LEVEL,
    emergency = sym EMERGENCY,
    emergency_size = const size_of::<Emergency>(),
    dispatch = sym dispatch,
    overflow = sym overflow,
);

const _: () = assert!(size_of::<Frame>().is_multiple_of(16) && offset_of!(Frame, sp) == 8 * LINK + 8);
const _: () = assert!(offset_of!(Frame, fault) == offset_of!(Frame, is_call) + 8);

/// The stack of those whose stack is used up.
#[repr(C, align(16))]
struct Emergency(core::cell::UnsafeCell<[u8; 16384]>);
// SAFETY: used once, by one CPU, which does not go on after it.
unsafe impl Sync for Emergency {}
static EMERGENCY: Emergency = Emergency(core::cell::UnsafeCell::new([0; 16384]));

unsafe extern "C" {
    #[link_name = "trap_vectors"]
    safe static TRAP_VECTORS: u8;
    fn enter_user(frame: *const Frame, to: u64) -> !;
}

/// The number of restart_syscall(2).
pub(crate) const RESTART_SYSCALL: u64 = 128;

/// Where traps go.
pub(super) fn vectors() -> u64 {
    &raw const TRAP_VECTORS as u64
}

impl Frame {
    /// Of a program that begins at `pc` with this stack.
    pub(crate) fn user(pc: u64, sp: u64) -> Self {
        Frame { pc, sp, is_call: 1, ..Frame::default() }
    }
    /// Was a program interrupted?
    pub(crate) fn is_from_user(&self) -> bool {
        self.state & LEVEL == 0
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
        self.sp
    }
    /// Sets it.
    pub(crate) fn set_stack_pointer(&mut self, sp: u64) {
        self.sp = sp;
    }
    /// Sets the thread pointer.
    pub(crate) fn set_thread_pointer(&mut self, tp: u64) {
        self.thread = tp;
    }
    /// Number and arguments of the system call.
    pub(crate) fn call(&self) -> (u64, [u64; 6]) {
        (self.x[CALL], core::array::from_fn(|i| self.x[i]))
    }
    /// Notes the call's first argument, for [`Frame::call_again`].
    pub(crate) fn note_call(&mut self) {
        self.first = self.x[0];
    }
    /// The call ended with an error that stands for "again" (512 and up).
    pub(crate) fn restart_code(&self) -> Option<i32> {
        let code = (self.x[0] as i64).wrapping_neg();
        (self.is_call != 0 && (512..=516).contains(&code)).then_some(code as i32)
    }
    /// The program makes the same call once more. => `note_call` was called, and nothing changed the arguments.
    /// Or the call `other`.
    pub(crate) fn call_again(&mut self, other: Option<u64>) {
        self.x[0] = self.first;
        if let Some(n) = other {
            self.x[CALL] = n;
        }
        // SVC has four bytes.
        self.pc = self.pc.wrapping_sub(4);
    }
    /// What the call returns.
    pub(crate) fn set_result(&mut self, v: i64) {
        self.x[0] = v as u64;
    }
    /// Nothing that was a call goes on.
    pub(crate) fn return_whole(&mut self) {
        self.is_call = 0;
    }
}

/// ESR_EL1 and FAR_EL1.
fn read_syndrome() -> (u64, u64) {
    let (syndrome, address);
    // SAFETY: reads two registers.
    unsafe {
        asm!("mrs {}, esr_el1", "mrs {}, far_el1", out(reg) syndrome, out(reg) address,
            options(nomem, nostack, preserves_flags));
    }
    (syndrome, address)
}

/// What an exception is, by ESR_EL1's class and the rest of it (Arm ARM, D17.2.37 "ESR_EL1").
fn decode(f: &Frame, syndrome: u64, address: u64) -> Option<Exception> {
    const WRITE: u64 = 1 << 6;
    const CACHE: u64 = 1 << 8;
    let class = syndrome >> 26 & 0x3f;
    Some(match (class, syndrome & 0x3f) {
        // Instruction and data: absent, not accessed yet, not allowed. And addresses that are too wide.
        (0x20 | 0x21, 0..0x10) => Exception::Page { address, access: Prot::X },
        // Cleaning a cache reads, whatever the bit says.
        (0x24 | 0x25, 0..0x10) if syndrome & (WRITE | CACHE) == WRITE => {
            Exception::Page { address, access: Prot::W }
        }
        (0x24 | 0x25, 0..0x10) => Exception::Page { address, access: Prot::R },
        (0x24 | 0x25, 0x21) | (0x22, _) => Exception::Alignment(address),
        (0x26, _) => Exception::Alignment(f.sp),
        (0x20 | 0x21 | 0x24 | 0x25, _) => Exception::Protection,
        (0x30 | 0x31 | 0x38 | 0x3c, _) => Exception::Breakpoint,
        (0x32 | 0x33, _) => Exception::Step,
        (0x2c, _) => Exception::Float,
        // Unknown, trapped, and what this kernel does not switch on (SVE, SME, pointer authentication, ...).
        (0..0x15 | 0x18..0x20 | 0x27..0x2c, _) => Exception::Illegal,
        _ => return None,
    })
}

/// Notes what the frame of a signal for a program's exception says of it: as Linux, of accesses with their address, of
/// what is no instruction nothing.
fn note(f: &mut Frame, e: Exception, syndrome: u64, address: u64) {
    match e {
        Exception::Page { .. } => f.fault = [syndrome, address],
        Exception::Alignment(_) => f.fault = [syndrome, if syndrome >> 26 == 0x24 { address } else { 0 }],
        Exception::Illegal => {
            sched::current().signals.trap.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        }
        _ => {}
    }
}

/// Everything that leads into the kernel. => interrupts are off, and are so on return.
extern "C" fn dispatch(f: &mut Frame, kind: u64) {
    if kind == 1 {
        super::gic::interrupt(f.is_from_user());
        return interrupted(f);
    }
    let (syndrome, mut address) = read_syndrome();
    if f.is_from_user() && address & 1 << 55 == 0 {
        // The highest byte of a program's address is the program's.
        address &= (1 << 56) - 1;
    }
    if kind != 0 {
        panic!("an exception that this kernel does not know, {syndrome:#x}, {address:#x}: {f:#x?}");
    }
    if syndrome >> 26 == 0x15 && f.is_from_user() {
        f.is_call = 1;
        interrupts_restore(true);
        return system_call(f);
    }
    let Some(e) = decode(f, syndrome, address) else { panic!("trap {syndrome:#x}, {address:#x}: {f:#x?}") };
    if f.is_from_user() {
        note(f, e, syndrome, address);
    } else if matches!(e, Exception::Illegal) && fix_up(f) {
        // A call that QEMU was not told to take.
        return;
    }
    // Where interrupts were on they are on again: the fault may sleep.
    if f.state & IRQ_OFF == 0 {
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
    interrupts_off();
    // SAFETY: the stack is no longer needed but for the frame, which moves to its top; the state is a program's.
    unsafe { enter_user(frame, here().kernel_stack - size_of::<Frame>() as u64) }
}
