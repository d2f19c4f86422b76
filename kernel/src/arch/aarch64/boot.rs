//! From QEMU's jump to `kmain`.
//!
//! The kernel begins with the head of a Linux image ("Booting AArch64 Linux", in the kernel's documentation), so that
//! QEMU brings an initial file system along. It enters at EL1, or EL2 (`virtualization=on`), with the MMU off and the
//! device tree's address in x0. The first tables map the lowest 512 GiB in the direct map, the first GiB of it as
//! devices, and the GiB that the kernel is loaded in at the kernel's addresses, in blocks of 1 GiB; for the moment in
//! which the MMU goes on also where it is loaded. Nothing is cached by then under QEMU, so nothing is cleaned.

use core::arch::global_asm;
use core::sync::atomic::Ordering;

use machvm_pmap::pte::Aarch64;

use super::super::single::Table;
use super::paging::{EXECUTABLE, MEMORY, REGISTERS};
use crate::arch::{BootInfo, fdt};

/// TCR_EL1: 48 bits on either side; walks that are cached, inner shareable; granules of 4 KiB; ASIDs in TTBR0; the
/// highest byte of a program's address is the program's (TBI0).
const TCR: u64 = 1 << 37 | 16 | 1 << 8 | 1 << 10 | 3 << 12 | 16 << 16 | 1 << 24 | 1 << 26 | 3 << 28 | 2 << 30;
/// SCTLR_EL1: M, C, SA, SA0, I, nTWI, nTWE; DZE, UCT and UCI, so that programs may zero and clean what is theirs, and
/// what must be one.
const SCTLR: u64 = 1
    | 1 << 2
    | 3 << 3
    | 1 << 12
    | 1 << 14
    | 1 << 15
    | 1 << 16
    | 1 << 18
    | 1 << 26
    | 1 << 11
    | 1 << 20
    | 1 << 22
    | 3 << 28;

global_asm!(
    r#"
    .section .text.boot, "ax"
    .global _start
_start:
    b    1f
    .long 0
    .quad 0x200000              // how far from memory's beginning it is loaded
    .quad __image_size
    .quad 0xa                   // little-endian, 4 KiB, anywhere
    .quad 0, 0, 0
    .ascii "ARM\x64"
    .long 0
1:  mov  x20, x0
    mrs  x1, CurrentEL
    cmp  x1, #8
    b.ne 2f
    mov  x1, #1 << 31           // from EL2 to EL1, which is of 64 bits
    msr  hcr_el2, x1
    mov  x1, #3                 // clocks and traps are EL1's
    msr  cnthctl_el2, x1
    msr  cntvoff_el2, xzr
    mov  x1, #0x33ff
    msr  cptr_el2, x1
    msr  hstr_el2, xzr
    mrs  x1, midr_el1
    msr  vpidr_el2, x1
    mrs  x1, mpidr_el1
    msr  vmpidr_el2, x1
    ldr  x1, ={off}
    msr  sctlr_el1, x1
    mov  x1, #0x3c5
    msr  spsr_el2, x1
    adr  x1, 2f
    msr  elr_el2, x1
    eret
2:  msr  daifset, #0xf
    adrp x1, __bss_start
    add  x1, x1, :lo12:__bss_start
    adrp x2, __bss_end
    add  x2, x2, :lo12:__bss_end
3:  stp  xzr, xzr, [x1], #16
    cmp  x1, x2
    b.lo 3b

    adrp x1, {direct}           // blocks of the direct map
    add  x1, x1, :lo12:{direct}
    mov  x5, x1
    ldr  x2, ={registers}
    str  x2, [x1], #8
    ldr  x2, ={memory}
    mov  x3, #1 << 30
    mov  x4, #511
4:  add  x2, x2, x3
    str  x2, [x1], #8
    subs x4, x4, #1
    b.ne 4b
    ldr  x2, ={executable}
    add  x2, x2, x3
    adrp x6, {high}             // the kernel's addresses
    add  x6, x6, :lo12:{high}
    str  x2, [x6, #509 * 8]
    adrp x7, {low}              // where it is loaded
    add  x7, x7, :lo12:{low}
    str  x2, [x7, #8]
    adrp x8, {root}
    add  x8, x8, :lo12:{root}
    adrp x9, {low_root}
    add  x9, x9, :lo12:{low_root}
    orr  x5, x5, #3
    str  x5, [x8, #256 * 8]
    orr  x6, x6, #3
    str  x6, [x8, #511 * 8]
    orr  x7, x7, #3
    str  x7, [x9]

    ldr  x1, ={mair}
    msr  mair_el1, x1
    ldr  x1, ={tcr}
    mrs  x2, id_aa64mmfr0_el1
    and  x3, x2, #0xf           // how wide physical addresses are: at most 48 bits
    mov  x4, #5
    cmp  x3, x4
    csel x3, x4, x3, hi
    orr  x1, x1, x3, lsl #32
    ubfx x3, x2, #4, #4         // ASIDs of 16 bits
    cmp  x3, #2
    cset x3, eq
    orr  x1, x1, x3, lsl #36
    mrs  x2, id_aa64mmfr1_el1
    and  x2, x2, #0xf           // the MMU notes accesses, and writes
    cmp  x2, #1
    cset x3, hs
    orr  x1, x1, x3, lsl #39
    cmp  x2, #2
    cset x3, hs
    orr  x1, x1, x3, lsl #40
    msr  tcr_el1, x1
    msr  ttbr0_el1, x9
    msr  ttbr1_el1, x8
    dsb  sy
    tlbi vmalle1
    dsb  sy
    isb
    ldr  x1, ={sctlr}
    msr  sctlr_el1, x1
    isb
    ldr  x1, =5f
    br   x1
5:  ldr  x1, =__stack_top
    mov  sp, x1
    mov  x0, x20
    mov  x29, xzr
    mov  x30, xzr
    bl   {kmain}
    udf  #0
    .ltorg
"#,
    off = const 0x30d0_0800u64,
    direct = sym DIRECT_TABLE,
    high = sym HIGH_TABLE,
    low = sym LOW_TABLE,
    root = sym super::paging::ROOT,
    low_root = sym LOW_ROOT,
    registers = const REGISTERS,
    memory = const MEMORY,
    executable = const EXECUTABLE,
    mair = const Aarch64::MAIR_EL1,
    tcr = const TCR,
    sctlr = const SCTLR,
    kmain = sym crate::kmain,
);

/// The tables below the roots' entries: the direct map, the kernel's addresses, where the kernel is loaded.
pub(super) static DIRECT_TABLE: Table = Table::empty();
static HIGH_TABLE: Table = Table::empty();
static LOW_TABLE: Table = Table::empty();
/// What programs' addresses are translated by at first: soon nothing is in it.
static LOW_ROOT: Table = Table::empty();

/// Reads the device tree.
///
/// # Safety
/// 1. `info` is the physical address that QEMU gave.
/// 2. Called once, and what it leads to stays as it is meanwhile.
pub(crate) unsafe fn boot_info(info: u64) -> BootInfo {
    LOW_ROOT.0[0].store(0, Ordering::Release);
    super::paging::forget();
    // SAFETY: by 1 and 2; the direct map has 512 GiB, and QEMU puts what it loads above the kernel.
    let mut tree = unsafe { fdt::read(info) };
    // No other CPU is started.
    tree.info.tables = 0;
    tree.info
}
