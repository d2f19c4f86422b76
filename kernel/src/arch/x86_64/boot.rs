//! From QEMU's PVH entry to `kmain`.
//!
//! PVH enters at the physical address in the note, in 32-bit protected mode without paging, with `ebx` at the start
//! information. The first tables map the first gigabyte three times: where it is, in the direct map, and at the
//! kernel's addresses.

use core::arch::global_asm;

use crate::arch::{BootInfo, Span};

global_asm!(
    r#"
    .section .note.pvh, "a", @note
    .align 4
    .long 4, 4, 18              // name, descriptor, XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long pvh_entry

    .section .boot.text, "ax"
    .code32
    .global pvh_entry
pvh_entry:
    cld
    cli
    mov  esi, ebx
    mov  edi, offset boot_pd
    mov  eax, 0x83              // present, writable, 2 MiB
    mov  ecx, 512
1:  mov  [edi], eax
    mov  dword ptr [edi + 4], 0
    add  eax, 0x200000
    add  edi, 8
    loop 1b
    mov  eax, offset boot_pd
    or   eax, 3
    mov  [boot_pdpt], eax
    mov  [boot_pdpt + 510 * 8], eax
    mov  eax, offset boot_pdpt
    or   eax, 3
    mov  [boot_pml4], eax
    mov  [boot_pml4 + 256 * 8], eax
    mov  [boot_pml4 + 511 * 8], eax
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
    and  eax, ~4                // EM
    or   eax, 0x80010003        // PG, WP, MP, PE
    mov  cr0, eax
    lgdt [boot_gdtr]
    .byte 0xea                  // far jump
    .long long_entry
    .word 0x08

    .code64
long_entry:
    mov  eax, 0x10
    mov  ds, eax
    mov  es, eax
    mov  ss, eax
    mov  edi, esi
    movabs rax, offset high_entry
    jmp  rax

    .section .boot.data, "aw"
    .align 16
    .global boot_gdt
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
boot_gdtr:
    .word 23
    .quad boot_gdt
    .section .boot.bss, "aw", @nobits
    .align 4096
    .global boot_pml4
boot_pml4: .skip 4096
    .global boot_pdpt
boot_pdpt: .skip 4096
boot_pd:   .skip 4096

    .section .text.boot, "ax"
high_entry:
    movabs rsp, offset __stack_top
    mov  ebx, edi
    movabs rdi, offset __bss_start
    movabs rcx, offset __bss_end
    sub  rcx, rdi
    xor  eax, eax
    rep  stosb
    mov  edi, ebx
    xor  ebp, ebp
    call {kmain}
    ud2
"#,
    kmain = sym crate::kmain
);

unsafe extern "C" {
    /// The table that maps the first gigabyte, by its physical address.
    #[link_name = "boot_pdpt"]
    pub(super) safe static BOOT_PDPT: u8;
}

/// The start information's magic number.
const MAGIC: u32 = 0x336e_c578;

/// What the loader says (hvm_start_info, version 1).
#[repr(C)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    modules: u32,
    module_list: u64,
    command_line: u64,
    rsdp: u64,
    memory_map: u64,
    memory_entries: u32,
    reserved: u32,
}

/// Reads the start information.
///
/// # Safety
/// 1. `info` is the physical address that PVH gave, and the first gigabyte is mapped directly.
/// 2. What it leads to stays as it is.
pub(crate) unsafe fn boot_info(info: u64) -> BootInfo {
    // SAFETY: by 1 there is a structure of that layout, and by 2 nobody changes it.
    let s = unsafe { &*crate::arch::direct(info).cast::<StartInfo>() };
    assert!(s.magic == MAGIC, "not entered by PVH: magic {:#x}", s.magic);
    let mut b =
        BootInfo { memory: [Span::default(); 16], ranges: 0, initrd: None, command_line: "", tables: s.rsdp };
    for i in 0..u64::from(s.memory_entries) {
        // SAFETY: as above; entries are 24 bytes: address, size, type.
        let (start, size, kind) = unsafe {
            let e = crate::arch::direct(s.memory_map + 24 * i).cast::<u64>();
            (e.read(), e.add(1).read(), e.add(2).cast::<u32>().read())
        };
        if kind == 1 && b.ranges < b.memory.len() {
            b.memory[b.ranges] = Span { start, end: start + size };
            b.ranges += 1;
        }
    }
    if s.modules > 0 {
        // SAFETY: as above; a module is address and size.
        let (start, size) = unsafe {
            let m = crate::arch::direct(s.module_list).cast::<u64>();
            (m.read(), m.add(1).read())
        };
        b.initrd = Some(Span { start, end: start + size });
    }
    if s.command_line != 0 {
        // SAFETY: as above; a string that ends in a zero byte.
        let text = unsafe { core::ffi::CStr::from_ptr(crate::arch::direct(s.command_line).cast()) };
        b.command_line = text.to_str().unwrap_or("");
    }
    b
}
