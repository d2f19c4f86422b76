//! Segments, the task state, the interrupt table.

use core::arch::asm;
use core::cell::UnsafeCell;

use super::cpu::{self, CpuLocal};
use crate::MAX_CPUS;

/// Kernel code, kernel data, user data, user code: in the order that SYSRET wants.
pub(super) const KERNEL_CODE: u64 = 0x08;
pub(super) const USER_DATA: u64 = 0x1b;
pub(super) const USER_CODE: u64 = 0x23;

/// Stack of faults that may come with a bad stack.
#[repr(C, align(16))]
struct Emergency([u8; 16384]);

#[repr(C, align(16))]
struct PerCpu {
    gdt: [u64; 7],
    tss: [u32; 26],
    emergency: Emergency,
    local: CpuLocal,
}

struct Table<T>(UnsafeCell<T>);
// SAFETY: each CPU touches its own element; the interrupt table is written once, before other CPUs run.
unsafe impl<T> Sync for Table<T> {}

static CPUS: Table<[PerCpu; MAX_CPUS]> = Table(UnsafeCell::new({
    let mut all = [const {
        PerCpu {
            gdt: [
                0,
                0x00af_9b00_0000_ffff,
                0x00cf_9300_0000_ffff,
                0x00cf_f300_0000_ffff,
                0x00af_fb00_0000_ffff,
                0,
                0,
            ],
            tss: [0; 26],
            emergency: Emergency([0; 16384]),
            local: CpuLocal::new(0),
        }
    }; MAX_CPUS];
    let mut i = 0;
    while i < MAX_CPUS {
        all[i].local.number = i as u16;
        i += 1;
    }
    all
}));
static IDT: Table<[[u64; 2]; 256]> = Table(UnsafeCell::new([[0; 2]; 256]));

fn per_cpu(number: u16) -> *mut PerCpu {
    // SAFETY: in bounds: `number` is a CPU's.
    unsafe { CPUS.0.get().cast::<PerCpu>().add(number as usize) }
}

#[repr(C, packed)]
struct Pointer {
    limit: u16,
    base: u64,
}

/// Sets this CPU up: segments, interrupts, system calls, its own structure.
///
/// => once on each CPU, interrupts off, in the order of their numbers.
pub(crate) fn init(number: u16) {
    assert!(usize::from(number) < MAX_CPUS, "CPU {number}: this kernel knows {MAX_CPUS}");
    let p = per_cpu(number);
    // SAFETY: this CPU's element, which nobody else touches and which lives for ever.
    unsafe {
        let tss = &raw mut (*p).tss;
        let emergency = (&raw const (*p).emergency) as u64 + size_of::<Emergency>() as u64;
        // IST1.
        (*tss)[9] = emergency as u32;
        (*tss)[10] = (emergency >> 32) as u32;
        (*tss)[25] = 104 << 16;
        let t = tss as u64;
        (*p).gdt[5] = 103 | (t & 0xff_ffff) << 16 | 0x89 << 40 | (t >> 24 & 0xff) << 56;
        (*p).gdt[6] = t >> 32;
        let gdt = Pointer { limit: 55, base: (&raw const (*p).gdt) as u64 };
        asm!("lgdt [{}]", in(reg) &raw const gdt, options(readonly, nostack, preserves_flags));
        asm!("ltr {0:x}", in(reg) 0x28u16, options(nostack, preserves_flags));
        if number == 0 {
            super::trap::fill_idt(&mut *IDT.0.get());
        }
        let idt = Pointer { limit: 4095, base: IDT.0.get() as u64 };
        asm!("lidt [{}]", in(reg) &raw const idt, options(readonly, nostack, preserves_flags));
        asm!("mov fs, {0:x}", "mov gs, {0:x}", in(reg) 0, options(nostack, preserves_flags));
        cpu::set_local(&raw mut (*p).local);
        // STAR, LSTAR, FMASK: IF, TF, DF, AC and NT are clear in the kernel.
        cpu::wrmsr(0xc000_0081, 0x0010_0008 << 32);
        cpu::wrmsr(0xc000_0082, super::trap::syscall_entry());
        cpu::wrmsr(0xc000_0084, 0x4_4700);
        // PAT: as at reset, but 4 is write-combining, as the pmap's format has it.
        cpu::wrmsr(0x277, machvm_pmap::pte::X86L4::PAT);
    }
    super::fpu::init();
}

/// Where traps from programs begin.
pub(super) fn set_trap_stack(top: u64) {
    let p = per_cpu(super::here().number);
    // SAFETY: this CPU's; interrupts are off.
    unsafe {
        (*p).tss[1] = top as u32;
        (*p).tss[2] = (top >> 32) as u32;
    }
}
