//! From OpenSBI's jump to `kmain`.
//!
//! OpenSBI enters in S-mode without paging, with the hart's number in a0 and the device tree's address in a1. The first
//! tables map the lowest 512 GiB in the direct map and the lowest 4 GiB at the kernel's addresses, in leaves of 1 GiB.
//! Where the kernel was loaded is not mapped: the first fetch after satp was written faults and goes on at the kernel's
//! address, which stvec has.

use core::arch::global_asm;

use super::super::clock;
use super::super::single::Table;
use crate::arch::{BootInfo, fdt};

global_asm!(
    r#"
    .section .text.boot, "ax"
    .global _start
_start:
    csrw sie, zero
    mv   s1, a1
    la   t0, __bss_start
    la   t1, __bss_end
1:  sd   zero, (t0)
    addi t0, t0, 8
    bltu t0, t1, 1b
    la   t0, {direct}           // leaves of the direct map
    li   t1, 0xe7               // V, R, W, G, A, D
    li   t2, 512
    li   t3, 1 << 28            // 1 GiB in an entry
2:  sd   t1, (t0)
    add  t1, t1, t3
    addi t0, t0, 8
    addi t2, t2, -1
    bnez t2, 2b
    la   t0, {high} + 508 * 8   // and at the kernel's addresses, to be executed
    li   t1, 0xef
    li   t2, 4
3:  sd   t1, (t0)
    add  t1, t1, t3
    addi t0, t0, 8
    addi t2, t2, -1
    bnez t2, 3b
    la   t0, {root}
    la   t1, {direct}
    srli t1, t1, 2
    ori  t1, t1, 1
    li   t2, 256 * 8
    add  t2, t2, t0
    sd   t1, (t2)
    la   t1, {high}
    srli t1, t1, 2
    ori  t1, t1, 1
    li   t2, 511 * 8
    add  t2, t2, t0
    sd   t1, (t2)
    li   t4, {kva}
    la   t1, 4f
    add  t1, t1, t4
    csrw stvec, t1
    srli t0, t0, 12
    li   t1, 9 << 60            // Sv48
    or   t0, t0, t1
    sfence.vma
    csrw satp, t0
    .balign 4
4:  la   sp, __stack_top
    mv   a0, s1
    li   s0, 0
    call {kmain}
    unimp
"#,
    direct = sym DIRECT_TABLE,
    high = sym HIGH_TABLE,
    root = sym super::paging::ROOT,
    kva = const super::KVA,
    kmain = sym crate::kmain,
);

/// The tables below the root's entries: the direct map, and the kernel's addresses.
pub(super) static DIRECT_TABLE: Table = Table::empty();
static HIGH_TABLE: Table = Table::empty();

/// Reads the device tree.
///
/// # Safety
/// 1. `info` is the physical address that OpenSBI gave.
/// 2. Called once, and what it leads to stays as it is meanwhile.
pub(crate) unsafe fn boot_info(info: u64) -> BootInfo {
    // SAFETY: by 1 and 2; the direct map has 512 GiB, and QEMU puts what it loads above the kernel.
    let mut tree = unsafe { fdt::read(info) };
    clock::set_frequency(tree.timebase);
    // What firmware said on the same line ends here.
    crate::say!("machvm: riscv64, {} counts a second", tree.timebase);
    // No other hart is started.
    tree.info.tables = 0;
    tree.info
}
