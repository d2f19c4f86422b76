//! RISC-V: Sv39, Sv48 and Sv57, with Svpbmt and Svnapot.
//!
//! Sections of the privileged specification: "Sv32: Addressing and Memory Protection" for
//! bits 9:0 and the meaning of R, W and X, "Sv39", "Sv48" and "Sv57" for the rest, "Svnapot"
//! and "Svpbmt" for bits 63 and 62:61; the walk is "Virtual Address Translation Process".
//!
//! Assumed of the hart: `menvcfg.PBMTE` set where [`MemAttr`] is not write-back, Svnapot
//! where [`Leaf::contiguous`] is used, no shadow stacks (`menvcfg.SSE` clear). Physical
//! addresses have 56 bits.
//!
//! Upper entries have no rights (a pointer is an entry without R, W and X), so forks detach
//! tables: V is clear and the frame stays where it was, beside [`DETACHED`]. With V clear
//! "all other bits are don't-cares".

use machvm_hal::{Pfn, Prot};

use super::{Format, Leaf, MemAttr, Next, Pte, assert_expressible, sign_extended, when};

/// V: valid (Sv32, bit 0).
const VALID: u64 = 1 << 0;
/// Where R, W and X begin (Sv32, bits 1 to 3): in the order of [`Prot`]'s bits.
const RIGHTS_SHIFT: u32 = 1;
const READ: u64 = 1 << 1;
const WRITE: u64 = 1 << 2;
const RIGHTS: u64 = 0b111 << RIGHTS_SHIFT;
/// U: user pages; S-mode never executes them (Sv32, bit 4).
const USER: u64 = 1 << 4;
/// G: global (Sv32, bit 5).
const GLOBAL: u64 = 1 << 5;
/// A: accessed (Sv32, bit 6).
const ACCESSED: u64 = 1 << 6;
/// D: dirty (Sv32, bit 7).
const DIRTY: u64 = 1 << 7;
/// Ours: wired (RSW, Sv32, bits 9:8).
const WIRED: u64 = 1 << 8;
/// Ours: managed.
const MANAGED: u64 = 1 << 9;
/// PPN (Sv39, bits 53:10).
const PPN_SHIFT: u32 = 10;
const PPN: u64 = ((1 << PPN_BITS) - 1) << PPN_SHIFT;
/// Reserved for standard use (Sv39, bits 60:54): a valid entry with one of them faults.
const RESERVED: u64 = 0x7f << 54;
/// PBMT: 0 the memory's own attributes, 1 NC, 2 IO, 3 reserved (Svpbmt, bits 62:61).
const PBMT_SHIFT: u32 = 61;
const PBMT: u64 = 0b11 << PBMT_SHIFT;
/// N: one of a naturally aligned run of 16 pages (Svnapot, bit 63).
const NAPOT: u64 = 1 << 63;

/// The low bits of the PPN that Svnapot takes, and what they must be for 64 KiB (Svnapot,
/// "Page table entry encodings when pte.N=1").
const NAPOT_BITS: u32 = 4;
const NAPOT_MASK: u64 = (1 << NAPOT_BITS) - 1;
const NAPOT_64K: u64 = 0b1000;

/// Pointers may not have these (Sv32 for D, A and U; Svpbmt; Svnapot).
const NOT_IN_POINTERS: u64 = USER | ACCESSED | DIRTY | RESERVED | PBMT | NAPOT;

/// All but the PPN of a detached table. V is clear; should it ever be set by mistake, the
/// entry faults for two more reasons (W without R, reserved bits).
const DETACHED: u64 = 0x55 << 54 | WRITE;

const PPN_BITS: u32 = 44;

/// Entries of RISC-V page tables. No rights at upper levels; the kernel's upper entries
/// are in every root. A leaf may be at any level.
#[derive(Clone, Copy, Debug)]
pub enum Riscv<const LEVELS: u8> {}

/// Three levels: 39-bit addresses.
pub type Sv39 = Riscv<3>;
/// Four levels: 48-bit addresses.
pub type Sv48 = Riscv<4>;
/// Five levels: 57-bit addresses.
pub type Sv57 = Riscv<5>;

/// The bits of a frame number that are below the size of a page at `level`.
#[inline]
const fn below(level: u8) -> u64 {
    (1 << (9 * (level as u32 - 1))) - 1
}

/// PBMT counts as [`MemAttr`] does; 3 is reserved and does not come here.
#[inline]
const fn attr_of(pbmt: u64) -> MemAttr {
    match pbmt {
        0 => MemAttr::WriteBack,
        1 => MemAttr::WriteCombining,
        _ => MemAttr::Device,
    }
}

#[inline]
const fn pbmt_of(attr: MemAttr) -> u64 {
    match attr {
        MemAttr::WriteBack => 0,
        MemAttr::WriteCombining => 1,
        MemAttr::Device => 2,
    }
}

#[inline]
fn parse_pointer(raw: u64, level: u8) -> Pte {
    if level == 1 || raw & NOT_IN_POINTERS != 0 {
        return Pte::Absent;
    }
    Pte::Next(Next { pfn: Pfn((raw & PPN) >> PPN_SHIFT), write: true, detached: false })
}

#[inline]
fn parse_invalid(raw: u64, level: u8) -> Pte {
    if level == 1 || raw & !PPN != DETACHED {
        return Pte::Absent;
    }
    Pte::Next(Next { pfn: Pfn((raw & PPN) >> PPN_SHIFT), write: false, detached: true })
}

#[inline]
fn parse_leaf(raw: u64, level: u8) -> Pte {
    let ppn = (raw & PPN) >> PPN_SHIFT;
    let contiguous = raw & NAPOT != 0;
    // Reserved encodings, and superpages that are not aligned: they fault.
    let bad_run = contiguous & ((level != 1) | (ppn & NAPOT_MASK != NAPOT_64K));
    let write_only = raw & (READ | WRITE) == WRITE;
    let bad_bits = raw & RESERVED | ppn & below(level) != 0;
    if bad_bits | write_only | (raw & PBMT == PBMT) | bad_run {
        return Pte::Absent;
    }
    Pte::Leaf(Leaf {
        pfn: Pfn(ppn & !when(contiguous, NAPOT_MASK)),
        prot: Prot::from_bits_truncate((raw >> RIGHTS_SHIFT) as u8),
        user: raw & USER != 0,
        global: raw & GLOBAL != 0,
        accessed: raw & ACCESSED != 0,
        dirty: raw & DIRTY != 0,
        wired: raw & WIRED != 0,
        managed: raw & MANAGED != 0,
        contiguous,
        attr: attr_of((raw & PBMT) >> PBMT_SHIFT),
    })
}

#[inline]
fn emit_leaf(leaf: &Leaf, level: u8) -> u64 {
    let frame = leaf.pfn.0 & !below(level);
    let ppn = if leaf.contiguous { frame & !NAPOT_MASK | NAPOT_64K } else { frame };
    (ppn << PPN_SHIFT) & PPN
        // Without rights it would be a pointer.
        | when(!leaf.prot.is_empty(), VALID)
        | u64::from(leaf.prot.bits()) << RIGHTS_SHIFT
        | when(leaf.prot.contains(Prot::W), READ)
        | when(leaf.user, USER)
        | when(leaf.global, GLOBAL)
        | when(leaf.accessed, ACCESSED)
        | when(leaf.dirty, DIRTY)
        | when(leaf.wired, WIRED)
        | when(leaf.managed, MANAGED)
        | when(leaf.contiguous, NAPOT)
        | pbmt_of(leaf.attr) << PBMT_SHIFT
}

impl<const LEVELS: u8> Format for Riscv<LEVELS> {
    const NAME: &'static str = match LEVELS {
        3 => "Sv39",
        4 => "Sv48",
        _ => "Sv57",
    };
    const LEVELS: u8 = LEVELS;
    const PHYSICAL_BITS: u32 = PPN_BITS + 12;
    const UPPER_RIGHTS: bool = false;
    const SPLIT_ROOT: bool = false;
    const MAX_LEAF_LEVEL: u8 = LEVELS;
    const LEAF_STEP: u64 = 1 << PPN_SHIFT;

    /// "Sv39": bits 63:39 equal bit 38, and so on.
    #[inline]
    fn canonical(va: u64) -> bool {
        sign_extended(va, 12 + 9 * u32::from(LEVELS))
    }

    #[inline]
    fn contiguous_bits(level: u8) -> u32 {
        if level == 1 { NAPOT_BITS } else { 0 }
    }

    #[inline]
    fn own_frame(leaf: &Leaf, index: usize) -> Pfn {
        if leaf.contiguous { Pfn(leaf.pfn.0 & !NAPOT_MASK | index as u64 & NAPOT_MASK) } else { leaf.pfn }
    }

    #[inline]
    fn parse(raw: u64, level: u8) -> Pte {
        if raw & VALID == 0 {
            parse_invalid(raw, level)
        } else if raw & RIGHTS == 0 {
            parse_pointer(raw, level)
        } else {
            parse_leaf(raw, level)
        }
    }

    /// G stays clear in pointers: only leaves are global.
    #[inline]
    fn emit(pte: Pte, level: u8) -> u64 {
        assert_expressible::<Self>(&pte, level, PPN_BITS + 12);
        match pte {
            Pte::Absent => 0,
            Pte::Next(next) => {
                let attached = next.write && !next.detached;
                (next.pfn.0 << PPN_SHIFT) & PPN | if attached { VALID } else { DETACHED }
            }
            Pte::Leaf(leaf) => emit_leaf(&leaf, level),
        }
    }
}
