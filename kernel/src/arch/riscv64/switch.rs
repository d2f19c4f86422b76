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
        let sp = (top & !15) - 14 * 8;
        let words = sp as *mut u64;
        // SAFETY: inside the stack by 1. In the order of `switch`'s loads: ra, s0 to s11.
        unsafe {
            words.write_bytes(0, 14);
            words.write(begin as *const () as u64);
            words.add(2).write(argument as u64);
            words.add(3).write(entry as usize as u64);
        }
        Context { sp }
    }
}

/// A new thread's first instructions: `s1` is the argument, `s2` the function.
#[unsafe(naked)]
extern "C" fn begin() -> ! {
    naked_asm!("mv a0, s1", "jalr s2", "unimp")
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
        "addi sp, sp, -14 * 8",
        "sd ra, 0(sp)",
        "sd s0, 8(sp)",
        "sd s1, 16(sp)",
        "sd s2, 24(sp)",
        "sd s3, 32(sp)",
        "sd s4, 40(sp)",
        "sd s5, 48(sp)",
        "sd s6, 56(sp)",
        "sd s7, 64(sp)",
        "sd s8, 72(sp)",
        "sd s9, 80(sp)",
        "sd s10, 88(sp)",
        "sd s11, 96(sp)",
        "sd sp, (a0)",
        "ld sp, (a1)",
        "ld ra, 0(sp)",
        "ld s0, 8(sp)",
        "ld s1, 16(sp)",
        "ld s2, 24(sp)",
        "ld s3, 32(sp)",
        "ld s4, 40(sp)",
        "ld s5, 48(sp)",
        "ld s6, 56(sp)",
        "ld s7, 64(sp)",
        "ld s8, 72(sp)",
        "ld s9, 80(sp)",
        "ld s10, 88(sp)",
        "ld s11, 96(sp)",
        "addi sp, sp, 14 * 8",
        "ret",
    )
}
