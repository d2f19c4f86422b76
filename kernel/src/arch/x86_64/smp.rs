//! The other CPUs: finding them in ACPI's tables, and starting them one by one.
//!
//! A CPU starts in real mode on a page below 1 MiB. What is there is kept aside meanwhile: this kernel uses no memory so
//! low, but who loaded it may have left something.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use super::boot::BOOT_PDPT;
use super::{apic, desc, paging, timer};
use crate::arch::direct;
use crate::{MAX_CPUS, sched};

/// Where CPUs start.
const START: u64 = 0x8000;
/// How long one may take, in nanoseconds.
const PATIENCE: u64 = 2_000_000_000;

/// The one that is being started: its number, and the top of its stack.
static NUMBER: AtomicU16 = AtomicU16::new(0);
static STACK: AtomicU64 = AtomicU64::new(0);

global_asm!(
    r#"
    .section .rodata.smp, "a"
    .code16
    .balign 16
    .global smp_start
smp_start:
    cli
    cld
    jmp  1f
    .org smp_start + 8
    .word 23                    // of boot's segments, which are below 4 GiB
    .long boot_gdt
    .org smp_start + 16
1:  xor  eax, eax
    mov  ds, ax
    .byte 0x66, 0x0f, 0x01, 0x16 // lgdt [START + 8]
    .word {start} + 8
    mov  eax, cr4
    or   eax, 0x6a0             // PAE, PGE, OSFXSR, OSXMMEXCPT
    mov  cr4, eax
    mov  eax, offset boot_pml4
    mov  cr3, eax
    mov  ecx, 0xc0000080        // EFER: SCE, LME, NXE
    rdmsr
    or   eax, 0x901
    wrmsr
    mov  eax, cr0
    and  eax, 0x9fffffff        // CD, NW
    and  eax, ~4                // EM
    or   eax, 0x80010003        // PG, WP, MP, PE
    mov  cr0, eax
    .byte 0x66, 0xea            // far jump
    .long {start} + (2f - smp_start)
    .word 0x08
    .code64
2:  mov  eax, 0x10
    mov  ds, eax
    mov  es, eax
    mov  ss, eax
    movabs rax, offset {stack}
    mov  rsp, [rax]
    xor  ebp, ebp
    movabs rax, offset {main}
    call rax
    ud2
    .global smp_start_end
smp_start_end:
    .text
"#,
    start = const START,
    stack = sym STACK,
    main = sym main,
);

unsafe extern "C" {
    static smp_start: u8;
    static smp_start_end: u8;
}

fn read<T: Copy>(at: u64) -> T {
    // SAFETY: ACPI's tables are below 4 GiB, which the direct map maps; any bytes are a number.
    unsafe { direct(at).cast::<T>().read_unaligned() }
}

/// Is there the root pointer of ACPI's tables?
fn is_root(at: u64) -> bool {
    let sum = (0..20).fold(0u8, |sum, i| sum.wrapping_add(read(at + i)));
    read::<[u8; 8]>(at) == *b"RSD PTR " && sum == 0
}

/// The table of interrupt controllers.
fn controllers(root: u64) -> Option<u64> {
    // Where the loader did not say, firmware leaves the pointer here.
    let root = if root != 0 && root < 4 << 30 && is_root(root) {
        root
    } else {
        (0xe_0000..0x10_0000).step_by(16).find(|at| is_root(*at))?
    };
    let wide = read::<u8>(root + 15) >= 2 && read::<u64>(root + 24) != 0;
    let (list, size) = if wide { (read::<u64>(root + 24), 8) } else { (read::<u32>(root + 16).into(), 4) };
    let end = list + u64::from(read::<u32>(list + 4));
    let entry = |at| if wide { read::<u64>(at) } else { read::<u32>(at).into() };
    (list + 36..end).step_by(size).map(entry).find(|t| *t < 4 << 30 && read::<[u8; 4]>(*t) == *b"APIC")
}

/// Calls `f` with the numbers of the local APICs whose CPUs may be used.
fn each_apic(root: u64, mut f: impl FnMut(u8)) {
    let Some(table) = controllers(root) else { return };
    let end = table + u64::from(read::<u32>(table + 4));
    let mut at = table + 44;
    while at + 2 <= end {
        let [kind, len] = read::<[u8; 2]>(at);
        if kind == 0 && len >= 8 && read::<u32>(at + 4) & 1 != 0 {
            f(read(at + 3));
        }
        at += u64::from(len.max(2));
    }
}

/// Starts the other CPUs. They take interrupts, and are idle until the scheduler lets them run threads.
///
/// => once, on the first CPU, with the VM and the clock there. `root`: of ACPI's tables, or 0.
pub(crate) fn start_cpus(root: u64) {
    let own = apic::id();
    apic::set_id(0, own);
    let (mut others, mut n) = ([0u8; MAX_CPUS], 1);
    each_apic(root, |id| {
        if id != own && n < MAX_CPUS {
            others[n] = id;
            n += 1;
        }
    });
    if n == 1 {
        return;
    }
    // SAFETY: the linker's symbols around the code above.
    let code = unsafe {
        let (from, to) = (&raw const smp_start, &raw const smp_start_end);
        core::slice::from_raw_parts(from, to.offset_from_unsigned(from))
    };
    let mut kept = [0u8; 256];
    let kept = &mut kept[..code.len()];
    // SAFETY: the first MiB is memory and mapped; nothing else touches this page now.
    let place = unsafe { core::slice::from_raw_parts_mut(direct(START), code.len()) };
    kept.copy_from_slice(place);
    place.copy_from_slice(code);
    paging::set_low(&raw const BOOT_PDPT as u64);
    for (cpu, id) in others.iter().enumerate().take(n).skip(1) {
        if !start(cpu as u16, *id) {
            crate::say!("machvm: CPU {cpu} does not start");
            break;
        }
    }
    paging::set_low(0);
    place.copy_from_slice(kept);
}

fn start(cpu: u16, id: u8) -> bool {
    let Some(stack) = sched::make_idle(cpu) else { return false };
    apic::set_id(cpu.into(), id);
    NUMBER.store(cpu, Ordering::Relaxed);
    STACK.store(stack, Ordering::Release);
    let there = || sched::online() & 1 << cpu != 0;
    apic::reset(id);
    timer::wait(10_000_000);
    for _ in 0..2 {
        apic::start(id, START);
        let begun = timer::now_ns();
        // The second one is for CPUs that missed the first.
        while !there() && timer::now_ns() - begun < PATIENCE {
            core::hint::spin_loop();
        }
        if there() {
            return true;
        }
    }
    false
}

/// A CPU's first Rust code, on the stack of its idle thread; interrupts are off.
extern "C" fn main() -> ! {
    let cpu = NUMBER.load(Ordering::Relaxed);
    desc::init(cpu);
    apic::init();
    paging::join();
    sched::join(cpu)
}
