//! A kernel that runs Linux programs on machvm.
//!
//! `embed.rs` is what machvm asks of a kernel; the rest is the kernel: threads and CPUs (`sched/`), processes (`process/`),
//! system calls (`syscall/`), files (`fs/`), the machine (`arch/`).
#![no_std]
#![no_main]

extern crate alloc;

mod arch;
mod elf;
mod embed;
mod errno;
mod fs;
mod heap;
mod kva;
mod lock;
mod mapped;
mod memory;
mod mutex;
mod process;
mod random;
mod sched;
mod syscall;
mod trap;
mod user;

use core::fmt::Write;
use core::sync::atomic::{AtomicBool, Ordering};

use lock::IrqSpin;
use machvm_sync::Rank;

/// CPUs that this kernel knows how to count.
pub(crate) const MAX_CPUS: usize = 8;

/// The serial line, for messages of the kernel's.
pub(crate) struct Console;

impl Write for Console {
    fn write_str(&mut self, s: &str) -> core::fmt::Result {
        for b in s.bytes() {
            if b == b'\n' {
                arch::put(b'\r');
            }
            arch::put(b);
        }
        Ok(())
    }
}

/// Lines come out one after the other.
static LINES: IrqSpin<Console> = IrqSpin::new(Rank::Leaf, Console);

/// Prints a line. A panic does not wait for who prints already.
pub(crate) fn print(line: core::fmt::Arguments<'_>) {
    let _ = match PANICKED.load(Ordering::Relaxed) {
        true => writeln!(Console, "{line}"),
        false => writeln!(LINES.lock(), "{line}"),
    };
}

/// Prints a line.
#[macro_export]
macro_rules! say {
    ($($t:tt)*) => { $crate::print(format_args!($($t)*)) };
}

/// The first Rust code: on the boot stack, interrupts off.
extern "C" fn kmain(info: u64) -> ! {
    arch::init_cpu(0);
    // SAFETY: the loader's, and the first gigabyte is mapped.
    let info = unsafe { arch::boot_info(info) };
    let layout = memory::divide(&info);
    let end =
        info.memory[..info.ranges].iter().filter(|r| r.start < 4 << 30).map(|r| r.end).max().unwrap_or(0);
    arch::extend_direct_map(layout.end, end, &mut || {
        let f = memory::early(4096)?;
        memory::zero(machvm_hal::Pfn(f >> 12));
        Some(f)
    });
    embed::start(&layout);
    sched::make_idle(0).expect("memory for the idle thread");
    sched::adopt(0);
    arch::init_timer();
    fs::start(info.initrd);
    sched::Thread::kernel(embed::daemon).expect("memory for the page daemon");
    process::start(info.command_line);
    arch::start_cpus(info.rsdp);
    sched::open();
    sched::idle()
}

static PANICKED: AtomicBool = AtomicBool::new(false);

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    arch::interrupts_off();
    if !PANICKED.swap(true, Ordering::SeqCst) {
        say!("\nkernel panic: {info}");
        arch::back_trace();
        arch::exit(0x7f)
    }
    // Another CPU was first, and ends the machine when it has said why.
    arch::halt()
}
