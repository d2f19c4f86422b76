//! x86-64: 4-level and 5-level paging.
//!
//! Tables and sections of the Intel SDM, volume 3A, chapter 5 "Paging" (chapter 4 in
//! older editions, with the same second numbers): 5-14 PML5E, 5-15 PML4E, 5-16 and 5-17
//! PDPTE, 5-18 and 5-19 PDE, 5-20 PTE. AMD's APM volume 2, section 5.3 "Long-Mode Page
//! Translation", agrees on every bit used here.
//!
//! Assumed of the CPU: `EFER.NXE`, `CR4.PGE` and `CR0.WP` set, `CR4.PKE`, `CR4.PKS` and
//! `CR4.CET` clear, the PAT as in [`X86::PAT`], 1 GiB pages if the port asks for them.
//! Physical addresses may have 52 bits; a port whose CPU has fewer (`MAXPHYADDR`) has no
//! frames beyond them.

use machvm_hal::{Pfn, Prot};

use super::{Format, Leaf, MemAttr, Next, Pte, assert_expressible, sign_extended, when};

/// P: present (5-14 to 5-20, bit 0).
const PRESENT: u64 = 1 << 0;
/// R/W: writes allowed, ANDed over the path (bit 1; section 5.6).
const WRITE: u64 = 1 << 1;
/// U/S: user accesses allowed, ANDed over the path (bit 2; section 5.6).
const USER: u64 = 1 << 2;
/// Where PWT and PCD begin: bits 0 and 1 of the PAT index (bits 3 and 4; section 5.9.2).
const PWT_SHIFT: u32 = 3;
/// A: accessed (bit 5; section 5.8).
const ACCESSED: u64 = 1 << 5;
/// D: dirty, in leaves (bit 6; section 5.8).
const DIRTY: u64 = 1 << 6;
/// PS: an upper entry that maps (bit 7; 5-16, 5-18). Reserved in 5-14 and 5-15.
const LARGE: u64 = 1 << 7;
/// G: global, in leaves (bit 8; section 5.10.2.4).
const GLOBAL: u64 = 1 << 8;
/// Ours: wired (bits 11:9 are ignored; 11 has a meaning under HLAT paging).
const WIRED: u64 = 1 << 9;
/// Ours: managed.
const MANAGED: u64 = 1 << 10;
/// Bit 2 of the PAT index in a PTE (bit 7; 5-20) and in larger pages (bit 12; 5-16, 5-18).
const PAT_SMALL_SHIFT: u32 = 7;
const PAT_LARGE_SHIFT: u32 = 12;
/// The address field, M-1:12 with M = 52 at most (5-20).
const ADDRESS: u64 = (1 << PA_BITS) - (1 << 12);
/// XD: no execution, ORed over the path (bit 63; section 5.6).
const NO_EXECUTE: u64 = 1 << 63;

const PA_BITS: u32 = 52;

/// Entries of x86-64 page tables. Rights at upper levels; the kernel's upper entries
/// are in every root.
#[derive(Clone, Copy, Debug)]
pub enum X86<const LEVELS: u8> {}

/// 4-level paging: 48-bit addresses.
pub type X86L4 = X86<4>;
/// 5-level paging: 57-bit addresses.
pub type X86L5 = X86<5>;

/// PAT entries in use ([`X86::PAT`]).
const PAT_WRITE_BACK: u64 = 0;
const PAT_UNCACHED: u64 = 3;
const PAT_WRITE_COMBINING: u64 = 6;

impl<const LEVELS: u8> X86<LEVELS> {
    /// `IA32_PAT` (MSR 0x277) as these entries need it: its value after reset but for
    /// entry 6, which is write combining (SDM 3A, "Page Attribute Table (PAT)"). Before
    /// it is loaded entry 6 is UC-, which is slower and never wrong.
    pub const PAT: u64 = 0x0001_0406_0007_0406;
}

/// The address bits of a frame number that are below the size of a page at `level`.
#[inline]
const fn below(level: u8) -> u64 {
    ((1 << (9 * (level as u32 - 1))) - 1) << 12
}

#[inline]
const fn pat_shift(level: u8) -> u32 {
    if level == 1 { PAT_SMALL_SHIFT } else { PAT_LARGE_SHIFT }
}

/// PAT indices that are not ours are taken for the strictest.
#[inline]
const fn attr_of(pat: u64) -> MemAttr {
    match pat {
        PAT_WRITE_BACK => MemAttr::WriteBack,
        PAT_WRITE_COMBINING => MemAttr::WriteCombining,
        _ => MemAttr::Device,
    }
}

#[inline]
const fn pat_of(attr: MemAttr) -> u64 {
    match attr {
        MemAttr::WriteBack => PAT_WRITE_BACK,
        MemAttr::WriteCombining => PAT_WRITE_COMBINING,
        MemAttr::Device => PAT_UNCACHED,
    }
}

#[inline]
fn parse_leaf(raw: u64, level: u8) -> Leaf {
    let pat = raw >> PWT_SHIFT & 3 | (raw >> pat_shift(level) & 1) << 2;
    let mut prot = Prot::R;
    prot.set(Prot::W, raw & WRITE != 0);
    prot.set(Prot::X, raw & NO_EXECUTE == 0);
    Leaf {
        pfn: Pfn((raw & ADDRESS & !below(level)) >> 12),
        prot,
        user: raw & USER != 0,
        global: raw & GLOBAL != 0,
        accessed: raw & ACCESSED != 0,
        dirty: raw & DIRTY != 0,
        wired: raw & WIRED != 0,
        managed: raw & MANAGED != 0,
        contiguous: false,
        attr: attr_of(pat),
    }
}

#[inline]
fn emit_leaf(leaf: &Leaf, level: u8) -> u64 {
    let pat = pat_of(leaf.attr);
    (leaf.pfn.0 << 12) & ADDRESS & !below(level)
        | when(!leaf.prot.is_empty(), PRESENT)
        | when(leaf.prot.contains(Prot::W), WRITE)
        | when(!leaf.prot.contains(Prot::X), NO_EXECUTE)
        | when(leaf.user, USER)
        | when(leaf.global, GLOBAL)
        | when(leaf.accessed, ACCESSED)
        | when(leaf.dirty, DIRTY)
        | when(leaf.wired, WIRED)
        | when(leaf.managed, MANAGED)
        | when(level > 1, LARGE)
        | (pat & 3) << PWT_SHIFT
        | (pat >> 2) << pat_shift(level)
}

impl<const LEVELS: u8> Format for X86<LEVELS> {
    const NAME: &'static str = if LEVELS == 4 { "x86-64 4-level" } else { "x86-64 5-level" };
    const LEVELS: u8 = LEVELS;
    const PHYSICAL_BITS: u32 = PA_BITS;
    const UPPER_RIGHTS: bool = true;
    const SPLIT_ROOT: bool = false;
    const MAX_LEAF_LEVEL: u8 = 3;
    const LEAF_STEP: u64 = 1 << 12;

    /// SDM 1, section 3.3.7.1: canonical addressing.
    #[inline]
    fn canonical(va: u64) -> bool {
        sign_extended(va, 12 + 9 * u32::from(LEVELS))
    }

    #[inline]
    fn parse(raw: u64, level: u8) -> Pte {
        if raw & PRESENT == 0 {
            return Pte::Absent;
        }
        if level > 1 && raw & LARGE == 0 {
            let write = raw & WRITE != 0;
            return Pte::Next(Next { pfn: Pfn((raw & ADDRESS) >> 12), write, detached: false });
        }
        // Reserved: PS in a PML4E or PML5E, and in larger pages what lies between the
        // PAT bit and the address. At level 1 nothing is.
        if level > Self::MAX_LEAF_LEVEL || raw & below(level) & !(1 << PAT_LARGE_SHIFT) != 0 {
            return Pte::Absent;
        }
        Pte::Leaf(parse_leaf(raw, level))
    }

    /// Tables are reachable from user mode and executable: only leaves restrict that.
    /// They are accessed from the start, so that the hardware never writes into an upper
    /// entry and only the pmap does.
    #[inline]
    fn emit(pte: Pte, level: u8) -> u64 {
        assert_expressible::<Self>(&pte, level, PA_BITS);
        match pte {
            Pte::Absent => 0,
            Pte::Next(next) => {
                (next.pfn.0 << 12) & ADDRESS
                    | PRESENT
                    | USER
                    | ACCESSED
                    | when(next.write && !next.detached, WRITE)
            }
            Pte::Leaf(leaf) => emit_leaf(&leaf, level),
        }
    }
}
