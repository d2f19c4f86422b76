//! A kernel that runs Linux programs on machvm.
//!
//! `embed.rs` is what machvm asks of a kernel; the rest is the kernel: threads and CPUs (`sched/`), processes (`process/`),
//! system calls (`syscall/`), files (`fs/`), the machine (`arch/`).
#![no_std]
#![no_main]

extern crate alloc;

mod arch;
mod command_line;
mod dev;
mod elf;
mod embed;
mod errno;
mod fs;
mod heap;
mod kva;
mod leaks;
mod lock;
mod mapped;
mod memory;
mod mutex;
mod oom;
mod process;
mod random;
mod sched;
mod selftest;
mod swap;
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
    let test = selftest::is_wanted(info.command_line);
    let layout = memory::divide(&info, if test { selftest::MEMORY } else { 0 });
    let end =
        info.memory[..info.ranges].iter().filter(|r| r.start < 4 << 30).map(|r| r.end).max().unwrap_or(0);
    arch::extend_direct_map(layout.all.end, end, &mut || {
        let f = memory::early(4096)?;
        arch::zero_page(machvm_hal::Pfn(f >> 12));
        Some(f)
    });
    let room = test.then(|| memory::early(selftest::MEMORY).expect("memory for the tests"));
    embed::start(&layout);
    sched::make_idle(0).expect("memory for the idle thread");
    sched::adopt(0);
    arch::init_timer();
    dev::start();
    fs::find(info.initrd);
    swap::start(info.command_line);
    leaks::start();
    if let Some(room) = room {
        selftest::run(room, info.command_line)
    }
    provoke(info.command_line);
    fs::start(info.initrd);
    sched::Thread::kernel(embed::daemon).expect("memory for the page daemon");
    process::start(info.command_line);
    leaks::not_counting(|| arch::start_cpus(info.tables));
    sched::open();
    dev::may_sleep();
    sched::idle()
}

/// `panic=stack` on the command line: a thread overflows its stack, to see what is said of it.
fn provoke(command_line: &str) {
    fn dive(n: u64) -> u64 {
        let room = [n; 32];
        core::hint::black_box(&room);
        if n == u64::MAX { 0 } else { dive(n + 1) + core::hint::black_box(room[n as usize % 32]) }
    }
    if command_line.split_ascii_whitespace().take_while(|w| *w != "--").any(|w| w == "panic=stack") {
        let thread = || -> ! { panic!("the stack has no end: {}", dive(0)) };
        sched::Thread::kernel(thread).expect("memory for a thread");
    }
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
