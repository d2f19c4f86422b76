//! From one thread to another.

use core::arch::naked_asm;

/// Where a thread that does not run goes on.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Context {
    sp: u64,
}

impl Context {
    /// Of a thread that begins with `entry(argument)` on a stack that ends at `top`.
    ///
    /// # Safety
    /// 1. `top` is the end of a stack of at least a page that nobody uses.
    pub(crate) unsafe fn new(top: u64, entry: extern "C" fn(usize) -> !, argument: usize) -> Self {
        let sp = (top & !15) - 12 * 8;
        let words = sp as *mut u64;
        // SAFETY: inside the stack by 1. In the order of `switch`'s loads: x19 to x30.
        unsafe {
            words.write_bytes(0, 12);
            words.write(argument as u64);
            words.add(1).write(entry as usize as u64);
            words.add(11).write(begin as *const () as u64);
        }
        Context { sp }
    }
}

/// A new thread's first instructions: `x19` is the argument, `x20` the function.
#[unsafe(naked)]
extern "C" fn begin() -> ! {
    naked_asm!("mov x0, x19", "blr x20", "udf #0")
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
        "sub sp, sp, #12 * 8",
        "stp x19, x20, [sp]",
        "stp x21, x22, [sp, #16]",
        "stp x23, x24, [sp, #32]",
        "stp x25, x26, [sp, #48]",
        "stp x27, x28, [sp, #64]",
        "stp x29, x30, [sp, #80]",
        "mov x2, sp",
        "str x2, [x0]",
        "ldr x2, [x1]",
        "mov sp, x2",
        "ldp x19, x20, [sp]",
        "ldp x21, x22, [sp, #16]",
        "ldp x23, x24, [sp, #32]",
        "ldp x25, x26, [sp, #48]",
        "ldp x27, x28, [sp, #64]",
        "ldp x29, x30, [sp, #80]",
        "add sp, sp, #12 * 8",
        "ret",
    )
}
