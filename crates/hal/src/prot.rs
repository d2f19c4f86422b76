//! Access rights.

bitflags::bitflags! {
    /// Rights to a page: `VM_PROT_READ`, `VM_PROT_WRITE`, `VM_PROT_EXECUTE` with
    /// their Mach values.
    #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
    pub struct Prot: u8 {
        /// `VM_PROT_READ`.
        const R = 1;
        /// `VM_PROT_WRITE`.
        const W = 2;
        /// `VM_PROT_EXECUTE`.
        const X = 4;
    }
}

impl Prot {
    /// `VM_PROT_DEFAULT`: read and write.
    pub const RW: Prot = Prot::R.union(Prot::W);
    /// `VM_PROT_ALL`.
    pub const ALL: Prot = Prot::RW.union(Prot::X);
    /// `VM_PROT_NONE`.
    pub const NONE: Prot = Prot::empty();

    /// The rights the hardware gives for these: no machine has write-only or
    /// execute-only pages that every walker honours, so any right brings read
    /// (Z94).
    pub const fn hardware(self) -> Prot {
        if self.is_empty() { self } else { self.union(Prot::R) }
    }
}
