//! AArch64: VMSAv8-64 stage 1, the EL1&0 regime, granules of 4, 16 and 64 KiB.
//!
//! The Arm ARM (DDI 0487), chapter D8 "The AArch64 Virtual Memory System Architecture", by
//! subject, since the numbers below D8.3 differ between issues: D8.3 "Translation table
//! descriptor formats" (table descriptors; block and page descriptors), memory access
//! control, the Access flag, the dirty state, memory region attributes, the Contiguous bit.
//! Our level `n` is Arm's lookup level `4 - n`.
//!
//! Addresses have 48 bits on both sides (no FEAT_LPA, FEAT_LPA2 or FEAT_LVA in use), so the
//! root of the 16 KiB granule has two entries and that of the 64 KiB granule 64. Bits the
//! architecture calls RES0 are ignored when read and never set.
//!
//! Assumed of the CPU: `MAIR_EL1` as in [`Vmsa::MAIR_EL1`]; `TCR_EL1` with `HPD0`, `HPD1`,
//! `TBI1`, `DS` and `HAFT` clear, and `TBI0` only set where tags are stripped before the
//! pmap is told an address; `SCTLR_EL1.WXN` clear; no indirect permissions
//! (`PIE`) and no overlays. `HA` and `HD` as the port says.

use machvm_hal::{Pfn, Prot};

use super::{Format, Leaf, MemAttr, Next, Pte, assert_expressible, when};

/// Valid (D8.3, bit 0).
const VALID: u64 = 1 << 0;
/// At Arm levels 0 to 2: a table, not a block; at level 3: must be set (D8.3, bit 1).
const TABLE: u64 = 1 << 1;
/// AttrIndx\[2:0\]: which field of the MAIR (memory region attributes, bits 4:2).
const ATTR_SHIFT: u32 = 2;
/// AP\[1\]: EL0 may read, and write if EL1 may (access permissions, bit 6).
const AP_EL0: u64 = 1 << 6;
/// AP\[2\]: no writes (access permissions, bit 7). With DBM: clean (dirty state).
const AP_READ_ONLY: u64 = 1 << 7;
/// SH: inner shareable (shareability, bits 9:8). Ignored for device and non-cacheable memory.
const INNER_SHAREABLE: u64 = 0b11 << 8;
/// AF: access flag (the Access flag, bit 10).
const ACCESSED: u64 = 1 << 10;
/// nG: belongs to the ASID (D8.3, bit 11).
const NOT_GLOBAL: u64 = 1 << 11;
/// DBM: a write may clear AP\[2\] (dirty state, bit 51).
const DIRTY_MODIFIER: u64 = 1 << 51;
/// Contiguous (the Contiguous bit, bit 52).
const CONTIGUOUS: u64 = 1 << 52;
/// PXN: EL1 does not execute (execution permissions, bit 53).
const EL1_NO_EXECUTE: u64 = 1 << 53;
/// UXN: EL0 does not execute (execution permissions, bit 54).
const EL0_NO_EXECUTE: u64 = 1 << 54;
/// Ours: wired (bits 58:55 are for software, D8.3).
const WIRED: u64 = 1 << 55;
/// Ours: managed.
const MANAGED: u64 = 1 << 56;
/// Ours: dirty, in an entry that lost write access; AP\[2\] cannot tell it then.
const WAS_DIRTY: u64 = 1 << 57;
/// APTable\[1\]: no writes below (D8.3 and hierarchical permissions, bit 62).
/// Overrides DBM too: a write below faults and changes nothing.
const BELOW_READ_ONLY: u64 = 1 << 62;

const PA_BITS: u32 = 48;
const VA_BITS: u32 = 48;

/// AttrIndx values ([`Vmsa::MAIR_EL1`]).
const ATTR_NORMAL: u64 = 0;
const ATTR_NON_CACHEABLE: u64 = 1;
const ATTR_DEVICE: u64 = 2;

/// Descriptors with a granule of `1 << SHIFT` bytes. Rights at upper levels (APTable);
/// the kernel has a root of its own (TTBR1).
#[derive(Clone, Copy, Debug)]
pub enum Vmsa<const SHIFT: u32> {}

/// 4 KiB granule: four levels, blocks of 2 MiB and 1 GiB.
pub type Aarch64 = Vmsa<12>;
/// 16 KiB granule: four levels, blocks of 32 MiB.
pub type Aarch64Granule16 = Vmsa<14>;
/// 64 KiB granule: three levels, blocks of 512 MiB.
pub type Aarch64Granule64 = Vmsa<16>;

impl<const SHIFT: u32> Vmsa<SHIFT> {
    /// `MAIR_EL1` as these descriptors need it: Attr0 normal memory, write-back,
    /// allocating on reads and writes (0xff); Attr1 normal memory, non-cacheable (0x44);
    /// Attr2 device, nGnRnE (0x00). The others are not used.
    pub const MAIR_EL1: u64 = 0x0000_44ff;

    /// log2 of the entries of a table below the root.
    const STRIDE: u32 = SHIFT - 3;

    /// The address field of a leaf at `level`: from the size of what it maps to bit 47.
    #[inline]
    const fn address(level: u8) -> u64 {
        (1 << PA_BITS) - (1 << (SHIFT + (level as u32 - 1) * Self::STRIDE))
    }
}

/// AttrIndx values that are not ours are taken for the strictest.
#[inline]
const fn attr_of(index: u64) -> MemAttr {
    match index {
        ATTR_NORMAL => MemAttr::WriteBack,
        ATTR_NON_CACHEABLE => MemAttr::WriteCombining,
        _ => MemAttr::Device,
    }
}

#[inline]
const fn index_of(attr: MemAttr) -> u64 {
    match attr {
        MemAttr::WriteBack => ATTR_NORMAL,
        MemAttr::WriteCombining => ATTR_NON_CACHEABLE,
        MemAttr::Device => ATTR_DEVICE,
    }
}

/// Whose page it is follows from what EL0 may do: a page that EL0 may not read is the
/// kernel's unless EL0 may execute it. Ours always deny EL1 the execution of user pages
/// (PXN) and EL0 that of kernel pages (UXN).
#[inline]
fn parse_leaf(raw: u64, address: u64) -> Leaf {
    let el0_data = raw & AP_EL0 != 0;
    let el0_execute = raw & EL0_NO_EXECUTE == 0;
    let user = el0_data | el0_execute;
    let read = el0_data | !el0_execute;
    let unwritten = raw & AP_READ_ONLY != 0;
    // AP[2] clear without DBM is writable and says nothing of writes: dirty.
    let write = read & (!unwritten | (raw & DIRTY_MODIFIER != 0));
    let mut prot = Prot::empty();
    prot.set(Prot::R, read);
    prot.set(Prot::W, write);
    let el1_execute = raw & EL1_NO_EXECUTE == 0;
    prot.set(Prot::X, el0_execute | (!user & el1_execute));
    Leaf {
        pfn: Pfn((raw & address) >> 12),
        prot,
        user,
        global: raw & NOT_GLOBAL == 0,
        accessed: raw & ACCESSED != 0,
        dirty: write & !unwritten | (raw & WAS_DIRTY != 0),
        wired: raw & WIRED != 0,
        managed: raw & MANAGED != 0,
        contiguous: raw & CONTIGUOUS != 0,
        attr: attr_of(raw >> ATTR_SHIFT & 7),
    }
}

#[inline]
fn emit_leaf(leaf: &Leaf, address: u64, kind: u64) -> u64 {
    let read = leaf.prot.intersects(Prot::RW);
    let write = leaf.prot.contains(Prot::W);
    let execute = leaf.prot.contains(Prot::X);
    (leaf.pfn.0 << 12) & address
        | kind
        | INNER_SHAREABLE
        | when(!leaf.prot.is_empty(), VALID)
        | when(leaf.user & read, AP_EL0)
        | when(!(write & leaf.dirty), AP_READ_ONLY)
        | when(write, DIRTY_MODIFIER)
        | when(leaf.user | !execute, EL1_NO_EXECUTE)
        | when(!(leaf.user & execute), EL0_NO_EXECUTE)
        | when(!leaf.global, NOT_GLOBAL)
        | when(leaf.accessed, ACCESSED)
        | when(leaf.wired, WIRED)
        | when(leaf.managed, MANAGED)
        | when(leaf.dirty & !write, WAS_DIRTY)
        | when(leaf.contiguous, CONTIGUOUS)
        | index_of(leaf.attr) << ATTR_SHIFT
}

impl<const SHIFT: u32> Format for Vmsa<SHIFT> {
    const NAME: &'static str = match SHIFT {
        12 => "AArch64 4 KiB",
        14 => "AArch64 16 KiB",
        _ => "AArch64 64 KiB",
    };
    const LEVELS: u8 = (VA_BITS - SHIFT).div_ceil(Self::STRIDE) as u8;
    const PHYSICAL_BITS: u32 = PA_BITS;
    const GRANULE_SHIFT: u32 = SHIFT;
    const UPPER_RIGHTS: bool = true;
    const SPLIT_ROOT: bool = true;
    const BREAK_BEFORE_MAKE: bool = true;
    /// D8.3: without 52-bit addresses, blocks at Arm level 2, and with 4 KiB at 1.
    const MAX_LEAF_LEVEL: u8 = if SHIFT == 12 { 3 } else { 2 };
    const LEAF_STEP: u64 = 1 << SHIFT;

    /// The root has what is left of 48 bits: 9, 1 or 6.
    #[inline]
    fn index_bits(level: u8) -> u32 {
        if level == Self::LEVELS { VA_BITS - Self::shift(level) } else { Self::STRIDE }
    }

    /// TTBR0 where bits 63:48 are all clear, TTBR1 where they are all set. Unlike
    /// on the other machines bit 47 is free on both sides.
    #[inline]
    fn canonical(va: u64) -> bool {
        matches!(va >> VA_BITS, 0 | 0xffff)
    }

    /// The Contiguous bit: 64 KiB and 32 MiB runs of 4 KiB pages and 2 MiB blocks (1 GiB blocks: 16
    /// too); 2 MiB and 1 GiB of 16 KiB and 32 MiB; 2 MiB and 16 GiB of 64 KiB and 512 MiB.
    #[inline]
    fn contiguous_bits(level: u8) -> u32 {
        match SHIFT {
            _ if level > Self::MAX_LEAF_LEVEL => 0,
            12 => 4,
            14 if level == 1 => 7,
            _ => 5,
        }
    }

    #[inline]
    fn parse(raw: u64, level: u8) -> Pte {
        if raw & VALID == 0 {
            return Pte::Absent;
        }
        let table = raw & TABLE != 0;
        if level > 1 && table {
            let write = raw & BELOW_READ_ONLY == 0;
            return Pte::Next(Next { pfn: Pfn((raw & Self::address(1)) >> 12), write, detached: false });
        }
        // Reserved: bit 1 clear in a page, or where there are no blocks.
        if (level == 1) != table || level > Self::MAX_LEAF_LEVEL {
            return Pte::Absent;
        }
        Pte::Leaf(parse_leaf(raw, Self::address(level)))
    }

    /// PXNTable and UXNTable stay clear: only leaves restrict execution.
    #[inline]
    fn emit(pte: Pte, level: u8) -> u64 {
        assert_expressible::<Self>(&pte, level, PA_BITS);
        match pte {
            Pte::Absent => 0,
            Pte::Next(next) => {
                let denied = !next.write || next.detached;
                (next.pfn.0 << 12) & Self::address(1) | VALID | TABLE | when(denied, BELOW_READ_ONLY)
            }
            Pte::Leaf(leaf) => emit_leaf(&leaf, Self::address(level), when(level == 1, TABLE)),
        }
    }
}
