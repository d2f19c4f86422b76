//! What the words of a page table mean to the hardware.
//!
//! Written from the manuals, one file an architecture, and sharing nothing with the
//! formats of the pmap: a wrong bit on either side shows as a disagreement. Level 1
//! maps 4 KiB; the root is [`Arch::levels`].

mod arm;
mod riscv;
mod x86;

bitflags::bitflags! {
    /// Who may do what. User and kernel mode are apart, because the formats differ in
    /// what one says about the other.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Rights: u8 {
        /// User mode reads.
        const UR = 1;
        /// User mode writes.
        const UW = 2;
        /// User mode executes.
        const UX = 4;
        /// Kernel mode reads.
        const KR = 8;
        /// Kernel mode writes.
        const KW = 0x10;
        /// Kernel mode executes.
        const KX = 0x20;
    }
}

impl Rights {
    /// Everything user mode can do.
    pub const USER: Rights = Rights::UR.union(Rights::UW).union(Rights::UX);
    /// Everything kernel mode can do.
    pub const KERNEL: Rights = Rights::KR.union(Rights::KW).union(Rights::KX);
    /// Writing, in either mode.
    pub const WRITE: Rights = Rights::UW.union(Rights::KW);
    /// Executing, in either mode.
    pub const EXEC: Rights = Rights::UX.union(Rights::KX);
}

/// A format as the hardware has it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Arch {
    /// x86-64, four levels.
    X86L4,
    /// x86-64, five levels.
    X86L5,
    /// AArch64, 4 KiB granule, 48 bits, two roots.
    Aarch64,
    /// RISC-V, three levels.
    Sv39,
    /// RISC-V, four levels.
    Sv48,
    /// RISC-V, five levels.
    Sv57,
}

impl Arch {
    /// Every one.
    pub const ALL: [Arch; 6] = [Arch::X86L4, Arch::X86L5, Arch::Aarch64, Arch::Sv39, Arch::Sv48, Arch::Sv57];

    /// Levels; the root's number.
    pub const fn levels(self) -> u8 {
        match self {
            Arch::Sv39 => 3,
            Arch::X86L4 | Arch::Aarch64 | Arch::Sv48 => 4,
            Arch::X86L5 | Arch::Sv57 => 5,
        }
    }
    /// Is it one of the two x86-64 formats?
    pub const fn is_x86(self) -> bool {
        matches!(self, Arch::X86L4 | Arch::X86L5)
    }
    /// Is it AArch64?
    pub const fn is_arm(self) -> bool {
        matches!(self, Arch::Aarch64)
    }
    /// Is it one of the RISC-V formats?
    pub const fn is_riscv(self) -> bool {
        matches!(self, Arch::Sv39 | Arch::Sv48 | Arch::Sv57)
    }
    /// log2 of the bytes an entry at `level` covers.
    pub const fn shift(level: u8) -> u32 {
        12 + 9 * (level as u32 - 1)
    }
    /// The entry of a table at `level` that translates `va`.
    pub const fn index(va: u64, level: u8) -> usize {
        (va >> Self::shift(level)) as usize & 511
    }
    /// Bits of an address below the sign.
    pub const fn va_bits(self) -> u32 {
        12 + 9 * self.levels() as u32
    }
    /// Does the hardware translate the address at all? x86-64 and RISC-V: the bits above
    /// repeat the highest translated one. AArch64 has 48 bits for each of two roots, so
    /// all 16 bits above are equal and choose the root.
    pub const fn canonical(self, va: u64) -> bool {
        let used = match self {
            Arch::Aarch64 => 48,
            _ => self.va_bits() - 1,
        };
        let top = (va as i64) >> used;
        top == 0 || top == -1
    }
    /// The address of an entry, from what the indices on the way add up to.
    pub const fn extend(self, va: u64, kernel_root: bool) -> u64 {
        match self {
            Arch::Aarch64 => {
                if kernel_root {
                    va | 0xffff << 48
                } else {
                    va
                }
            }
            _ => {
                let up = 64 - self.va_bits();
                ((va << up) as i64 >> up) as u64
            }
        }
    }
}

/// What the hardware does by itself. Not looked at on x86-64, which always does both.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Updates {
    /// Notes use (FEAT_HAFDBS with TCR.HA; Svadu).
    pub accessed: bool,
    /// Notes writes (FEAT_HAFDBS with TCR.HD; Svadu).
    pub dirty: bool,
}

/// A pointer to a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NextEntry {
    /// The table's frame.
    pub table: u64,
    /// What the level lets through.
    pub mask: Rights,
    /// Everything below is global (RISC-V).
    pub global: bool,
    /// Has been used (x86-64; true elsewhere).
    pub accessed: bool,
}

/// A mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeafEntry {
    /// Its first frame.
    pub pfn: u64,
    /// What it allows by itself. Writing through a clean entry counts where either the
    /// hardware can note it or the fault that it takes is for the dirty bit alone.
    pub rights: Rights,
    /// Used.
    pub accessed: bool,
    /// Written: a further write need not change the entry.
    pub dirty: bool,
    /// Valid under every number.
    pub global: bool,
    /// log2 of the pages that may be cached as one with this one: its level, or more
    /// (contiguous bit, Svnapot).
    pub run: u8,
    /// Memory type, in the architecture's own numbers.
    pub attr: u8,
}

/// What a word says at its level.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// Nothing; the other bits are software's.
    Invalid,
    /// Valid, with bits that must be zero or in a combination that is reserved: faults,
    /// and no software should have written it.
    Reserved,
    /// A table.
    Next(NextEntry),
    /// Memory.
    Leaf(LeafEntry),
}

/// One machine's walker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mmu {
    /// Format.
    pub arch: Arch,
    /// What the hardware notes.
    pub updates: Updates,
}

impl Mmu {
    /// The meaning of a word.
    #[inline]
    pub fn decode(&self, raw: u64, level: u8) -> Entry {
        match self.arch {
            Arch::X86L4 | Arch::X86L5 => x86::decode(raw, level),
            Arch::Aarch64 => arm::decode(raw, level, self.updates),
            Arch::Sv39 | Arch::Sv48 | Arch::Sv57 => riscv::decode(raw, level),
        }
    }
    /// Does the hardware note use?
    pub fn sets_accessed(&self) -> bool {
        self.arch.is_x86() || self.updates.accessed
    }
    /// Does the hardware note writes?
    pub fn sets_dirty(&self) -> bool {
        self.arch.is_x86() || self.updates.dirty
    }
    /// The word after the hardware noted use.
    #[inline]
    pub fn with_accessed(&self, raw: u64) -> u64 {
        raw | match self.arch {
            Arch::X86L4 | Arch::X86L5 => x86::A,
            Arch::Aarch64 => arm::AF,
            _ => riscv::A,
        }
    }
    /// The word after the hardware noted a write.
    #[inline]
    pub fn with_dirty(&self, raw: u64) -> u64 {
        match self.arch {
            Arch::X86L4 | Arch::X86L5 => raw | x86::A | x86::D,
            Arch::Aarch64 => (raw | arm::AF) & !arm::AP_READ_ONLY,
            _ => raw | riscv::A | riscv::D,
        }
    }
}
