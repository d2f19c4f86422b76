//! Into the kernel and out again: exceptions, interrupts, system calls.
//!
//! All three put a [`Frame`] on the thread's kernel stack. What comes from a program swaps GS first. Interrupts are on
//! again before anything that takes time.

use core::arch::global_asm;
use core::sync::atomic::Ordering;

use machvm_hal::Prot;

use super::super::stack;
use super::desc::{KERNEL_CODE, USER_CODE, USER_DATA};
use crate::arch::{interrupts_off, interrupts_restore};
use crate::trap::{Exception, exception, interrupted, system_call};

/// Registers of what was interrupted.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Frame {
    pub(crate) r15: u64,
    pub(crate) r14: u64,
    pub(crate) r13: u64,
    pub(crate) r12: u64,
    pub(crate) r11: u64,
    pub(crate) r10: u64,
    pub(crate) r9: u64,
    pub(crate) r8: u64,
    pub(crate) rbp: u64,
    pub(crate) rdi: u64,
    pub(crate) rsi: u64,
    pub(crate) rdx: u64,
    pub(crate) rcx: u64,
    pub(crate) rbx: u64,
    pub(crate) rax: u64,
    /// Exception number; of a system call, its number (which `rax` held).
    pub(crate) vector: u64,
    /// The CPU's error code.
    pub(crate) error: u64,
    pub(crate) rip: u64,
    pub(crate) cs: u64,
    pub(crate) rflags: u64,
    pub(crate) rsp: u64,
    pub(crate) ss: u64,
}

/// In `vector` for a system call.
const SYSTEM_CALL: u64 = 0x100;
/// Interrupts begin here.
const FIRST_INTERRUPT: u64 = 32;

global_asm!(
    r#"
    .macro PUSH_ALL
    push rax
    push rbx
    push rcx
    push rdx
    push rsi
    push rdi
    push rbp
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    .endm
    .macro POP_ALL
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rbp
    pop rdi
    pop rsi
    pop rdx
    pop rcx
    pop rbx
    pop rax
    .endm

    .section .text
    .altmacro
    .macro STUB n
    .balign 16
    .if (\n == 8) || (\n >= 10 && \n <= 14) || (\n == 17) || (\n == 21) || (\n == 29) || (\n == 30)
    .else
    push 0
    .endif
    push \n
    jmp trap_common
    .endm
    .balign 16
    .global trap_stubs
trap_stubs:
    .set i, 0
    .rept 256
    STUB %i
    .set i, i + 1
    .endr
    .noaltmacro

trap_common:
    PUSH_ALL
    cld
    test byte ptr [rsp + {cs}], 3
    jz   1f
    swapgs
1:  mov  rdi, rsp
    mov  rbp, rsp
    and  rsp, -16
    call {dispatch}
    mov  rsp, rbp
trap_return:
    cli
    test byte ptr [rsp + {cs}], 3
    jz   2f
    swapgs
2:  POP_ALL
    add  rsp, 16
    iretq

    .balign 16
    .global syscall_entry
syscall_entry:
    swapgs
    mov  gs:[16], rsp
    mov  rsp, gs:[8]
    push {user_data}
    push qword ptr gs:[16]
    push r11
    push {user_code}
    push rcx
    push 0
    push {system_call}
    PUSH_ALL
    mov  rdi, rsp
    mov  rbp, rsp
    sti
    call {call}
    cli
    mov  rsp, rbp
    // SYSRET, unless what returns is not what called (signals, exec) or the address is not a program's.
    test al, al
    jz   trap_return
    POP_ALL
    add  rsp, 16
    mov  rcx, [rsp]
    mov  r11, [rsp + 16]
    mov  rsp, [rsp + 24]
    swapgs
    sysretq

    .global enter_user
enter_user:
    cli
    mov  rsp, rdi
    jmp  trap_return
"#,
    cs = const core::mem::offset_of!(Frame, cs),
    user_data = const USER_DATA,
    user_code = const USER_CODE,
    system_call = const SYSTEM_CALL,
    dispatch = sym dispatch,
    call = sym call,
);

unsafe extern "C" {
    static trap_stubs: u8;
    #[link_name = "syscall_entry"]
    safe static SYSCALL_ENTRY: u8;
    fn enter_user(frame: *const Frame) -> !;
}

/// The number of restart_syscall(2).
pub(crate) const RESTART_SYSCALL: u64 = 219;

/// Where SYSCALL goes.
pub(super) fn syscall_entry() -> u64 {
    &raw const SYSCALL_ENTRY as u64
}

/// Fills the interrupt table: every vector has a stub; double faults and NMIs come with a stack of their own.
pub(super) fn fill_idt(idt: &mut [[u64; 2]; 256]) {
    let stubs = &raw const trap_stubs as u64;
    for (i, gate) in idt.iter_mut().enumerate() {
        let f = stubs + 16 * i as u64;
        let ist = u64::from(matches!(i, 2 | 8 | 18));
        let dpl = u64::from(i == 3) * 3;
        *gate = [
            f & 0xffff | KERNEL_CODE << 16 | ist << 32 | (0x8e | dpl << 5) << 40 | (f >> 16 & 0xffff) << 48,
            f >> 32,
        ];
    }
}

impl Frame {
    /// Of a program that begins at `rip` with this stack.
    pub(crate) fn user(rip: u64, rsp: u64) -> Self {
        Frame {
            rip,
            rsp,
            cs: USER_CODE,
            ss: USER_DATA,
            rflags: 0x202,
            vector: SYSTEM_CALL,
            ..Frame::default()
        }
    }
    /// Where it goes on.
    pub(crate) fn pc(&self) -> u64 {
        self.rip
    }
    /// The stack pointer.
    pub(crate) fn stack_pointer(&self) -> u64 {
        self.rsp
    }
    /// Sets it.
    pub(crate) fn set_stack_pointer(&mut self, sp: u64) {
        self.rsp = sp;
    }
    /// The thread pointer is no register of the frame here but the base of FS.
    pub(crate) fn set_thread_pointer(&mut self, _tp: u64) {}
    /// Was a program interrupted?
    pub(crate) fn is_from_user(&self) -> bool {
        self.cs & 3 != 0
    }
    /// It goes on there.
    pub(crate) fn go_to(&mut self, pc: u64) {
        self.rip = pc;
    }
    /// Number and arguments of the system call.
    pub(crate) fn call(&self) -> (u64, [u64; 6]) {
        (self.rax, [self.rdi, self.rsi, self.rdx, self.r10, self.r8, self.r9])
    }
    /// Notes which call this is, for [`Frame::call_again`].
    pub(crate) fn note_call(&mut self) {
        self.error = self.rax;
    }
    /// The call ended with an error that stands for "again" (512 and up).
    pub(crate) fn restart_code(&self) -> Option<i32> {
        let code = (self.rax as i64).wrapping_neg();
        (self.vector == SYSTEM_CALL && (512..=516).contains(&code)).then_some(code as i32)
    }
    /// The program makes the same call once more. => `note_call` was called, and nothing changed the arguments.
    /// Or the call `other`.
    pub(crate) fn call_again(&mut self, other: Option<u64>) {
        self.rax = other.unwrap_or(self.error);
        // SYSCALL has two bytes.
        self.rip -= 2;
    }
    /// What the call returns.
    pub(crate) fn set_result(&mut self, v: i64) {
        self.rax = v as u64;
    }
}

/// Exceptions and interrupts. => interrupts are off.
extern "C" fn dispatch(f: &mut Frame) {
    let fault_address: u64;
    // SAFETY: reads a register.
    unsafe {
        core::arch::asm!("mov {}, cr2", out(reg) fault_address, options(nomem, nostack, preserves_flags))
    }
    if f.vector >= FIRST_INTERRUPT {
        super::timer::interrupt(f.vector as u8, f.is_from_user());
        return interrupted(f);
    }
    let e = match f.vector {
        14 => {
            let access = match f.error & 0x12 {
                0x10 => Prot::X,
                0x02 => Prot::W,
                _ => Prot::R,
            };
            Exception::Page { address: fault_address, access }
        }
        0 => Exception::Divide,
        16 | 19 => Exception::Float,
        1 => Exception::Step,
        3 => Exception::Breakpoint,
        6 => Exception::Illegal,
        17 => Exception::Alignment(0),
        11 | 12 => Exception::Stack,
        4 | 5 | 10 | 13 => Exception::Protection,
        8 => {
            crate::say!("\ndouble fault (kernel stack overflow?) at {:#x}, stack {:#x}", f.rip, f.rsp);
            // The stack's last page is the one behind the page that is not there.
            // SAFETY: the page above the guard page of a kernel stack.
            unsafe { stack::trace((f.rsp + 0xfff) & !0xfff, 512) }
            panic!("{f:#x?}");
        }
        _ => panic!("machine check or NMI: {f:#x?}"),
    };
    if f.is_from_user() && f.vector < FIRST_INTERRUPT {
        let trap = &crate::sched::current().signals.trap;
        trap.iter().zip([f.vector, f.error, fault_address]).for_each(|(t, v)| t.store(v, Ordering::Relaxed));
    }
    // Where interrupts were on they are on again: the fault may sleep.
    if f.rflags & 0x200 != 0 {
        interrupts_restore(true);
    }
    exception(f, e);
    interrupts_off();
}

/// System calls. Gives whether SYSRET may be used. => interrupts are on.
extern "C" fn call(f: &mut Frame) -> bool {
    system_call(f);
    // SYSRET with an address that is no program's would fault in the kernel.
    f.vector == SYSTEM_CALL && f.rip < super::USER_END
}

impl Frame {
    /// Every register is loaded on the way out, not only those that a system call keeps.
    pub(crate) fn return_whole(&mut self) {
        self.vector = 0;
    }
}

/// Goes on as a program. => `frame` is on this thread's kernel stack or lives for ever.
pub(crate) fn return_to_user(frame: &Frame) -> ! {
    // The frame's copy at the top of this thread's stack: the pops end at the very top.
    // SAFETY: the stack below the frame is no longer needed; segments and flags are a program's.
    unsafe { enter_user(frame) }
}
