//! From one thread to another.

use core::arch::naked_asm;

/// Where a thread that does not run goes on.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Context {
    rsp: u64,
}

impl Context {
    /// Of a thread that begins with `entry(argument)` on a stack that ends at `top`.
    ///
    /// # Safety
    /// 1. `top` is the end of a stack of at least a page that nobody uses.
    pub(crate) unsafe fn new(top: u64, entry: extern "C" fn(usize) -> !, argument: usize) -> Self {
        let rsp = (top & !15) - 8 * 8;
        let words = rsp as *mut u64;
        // SAFETY: inside the stack by 1. In the order of `switch`'s pops: r15 r14 r13 r12 rbx rbp, return address.
        unsafe {
            for i in 0..6 {
                words.add(i).write(0);
            }
            words.add(3).write(argument as u64);
            words.add(4).write(entry as usize as u64);
            words.add(6).write(begin as *const () as u64);
            words.add(7).write(0);
        }
        Context { rsp }
    }
}

/// A new thread's first instructions: `r12` is the argument, `rbx` the function.
#[unsafe(naked)]
extern "C" fn begin() -> ! {
    naked_asm!("mov rdi, r12", "xor ebp, ebp", "and rsp, -16", "call rbx", "ud2")
}

/// Leaves this thread in `from` and goes on with `to`.
///
/// # Safety
/// 1. `to` was left by `switch`, or is new; its stack is there and nobody runs on it.
/// 2. Interrupts are off.
/// 3. `from` stays where it is until it is switched to.
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn switch(from: *mut Context, to: *const Context) {
    naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rdi], rsp",
        "mov rsp, [rsi]",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
    )
}
