//! What the machine found wrong.

use machvm_hal::Pfn;

bitflags::bitflags! {
    /// What is looked at. A test switches one off to show that nothing else finds a
    /// mistake.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Checks: u32 {
        /// After a complete flush no CPU has more rights than the tables give.
        const FLUSHED = 1;
        /// Nobody reaches a frame that was freed or is put to another use.
        const FREED = 2;
        /// No CPU caches another frame where a frame is entered.
        const ENTERED = 4;
        /// AArch64: valid entries change their address or size only over invalid and a
        /// flush.
        const BREAK_BEFORE_MAKE = 8;
        /// AArch64: nor does a table take the place of another that maps something and whose
        /// pointer is cached.
        const TABLE_REPLACED = 0x10;
        /// No number leads to translations of an earlier user of it, or to some that were
        /// flushed elsewhere.
        const LOADED = 0x20;
        /// Freed tables are zero; what is written is a table; entries are not malformed.
        const TABLES = 0x40;
        /// Operands of instructions.
        const OPERANDS = 0x80;
        /// Accesses reach frames that are memory in use.
        const ACCESSES = 0x100;
        /// Walker, pmap and oracle agree.
        const AGREE = 0x200;
        /// Interrupts are answered.
        const WAITS = 0x400;
    }
}

/// Which check found it, and what.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// `FLUSHED`: a CPU still has rights to a page that the flush named.
    StaleAfterFlush,
    /// `FLUSHED`: as above, by way of a cached pointer to a table.
    StaleTableAfterFlush,
    /// `FREED`: a CPU reaches the frame as memory.
    FreedWhileMapped,
    /// `FREED`: a CPU reaches the frame as a table.
    FreedWhileWalked,
    /// `FREED`: a CPU has it loaded as its root.
    FreedWhileLoaded,
    /// `ENTERED`: a CPU caches another frame there.
    EnteredOverCached,
    /// `BREAK_BEFORE_MAKE`: from valid to valid in one step.
    NotBroken,
    /// `BREAK_BEFORE_MAKE`: the flush between is missing.
    BrokenNotFlushed,
    /// `TABLE_REPLACED`.
    TableReplaced,
    /// `LOADED`: the number was another space's and was not flushed.
    NumberReused,
    /// `LOADED`: this CPU came back to a space without the flush that it missed.
    StaleAfterLoad,
    /// `TABLES`: a freed table has entries.
    TableNotZero,
    /// `TABLES`: a write to a frame that is no table.
    NotATable,
    /// `TABLES`: an entry that faults on bits that must be zero.
    Malformed,
    /// `OPERANDS`: an instruction with bits that must be zero or that name nothing.
    Operand,
    /// `ACCESSES`: a CPU reached a frame that is free, a table, or not there.
    WrongFrame,
    /// `AGREE`: not what the caller expected.
    Disagree,
    /// `WAITS`: a CPU waits for one that cannot answer.
    Deadlock,
    /// `WAITS`: a CPU interrupts itself or one that is not there.
    BadInterrupt,
}

impl Kind {
    /// The check that it belongs to.
    pub const fn check(self) -> Checks {
        match self {
            Kind::StaleAfterFlush | Kind::StaleTableAfterFlush => Checks::FLUSHED,
            Kind::FreedWhileMapped | Kind::FreedWhileWalked | Kind::FreedWhileLoaded => Checks::FREED,
            Kind::EnteredOverCached => Checks::ENTERED,
            Kind::NotBroken | Kind::BrokenNotFlushed => Checks::BREAK_BEFORE_MAKE,
            Kind::TableReplaced => Checks::TABLE_REPLACED,
            Kind::NumberReused | Kind::StaleAfterLoad => Checks::LOADED,
            Kind::TableNotZero | Kind::NotATable | Kind::Malformed => Checks::TABLES,
            Kind::Operand => Checks::OPERANDS,
            Kind::WrongFrame => Checks::ACCESSES,
            Kind::Disagree => Checks::AGREE,
            Kind::Deadlock | Kind::BadInterrupt => Checks::WAITS,
        }
    }
}

/// One mistake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Report {
    /// What.
    pub kind: Kind,
    /// On which CPU it shows.
    pub cpu: u16,
    /// The root of the address space; `None`: the kernel's, or not known.
    pub space: Option<Pfn>,
    /// The address, or an instruction's operand.
    pub va: u64,
    /// The frame that is reached, or the table.
    pub frame: u64,
    /// When, in the machine's steps.
    pub step: u64,
}
