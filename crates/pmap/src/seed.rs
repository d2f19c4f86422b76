//! Mistakes a test can switch on, to show that the checks would find them.

/// A mistake in the pmap. No port but a test's ever makes one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Bug {
    /// `protect` gathers nothing.
    ProtectWithoutFlush,
    /// `remove` gathers nothing.
    RemoveWithoutFlush,
    /// Taking write access for a fork gathers nothing.
    ForkWithoutFlush,
    /// The upper entry gets write access back before the entries below lose it.
    PushDownUpperFirst,
    /// Pushing down leaves the entries below as they are.
    PushDownNothing,
    /// A page table is freed at once instead of after the flush.
    TableFreedEarly,
    /// Another frame is entered over an old one in one step.
    EnterInPlace,
    /// Rights are taken from the last entry alone.
    RightsOfLeafOnly,
    /// What the hardware noted is not read when a mapping goes.
    LostModified,
    /// The record of a removed mapping stays.
    PvLeftBehind,
    /// Promotion flushes nothing, and a superpage is flushed like one page when it goes.
    PromoteWithoutFlush,
    /// What is removed from a superpage just demoted is not flushed; nor is the entry that
    /// turns into a table where the machine needs that.
    DemoteWithoutFlush,
    /// Promotion does not look at the rights of all 512.
    PromoteUnequal,
    /// Only the CPU that asks is flushed.
    LocalFlushOnly,
    /// Address-space numbers are used again without a flush.
    AsidReusedWithoutFlush,
    /// The set of CPUs is read before the tables are written.
    CpusReadEarly,
}

impl Bug {
    /// Every one.
    pub const ALL: [Bug; 16] = [
        Bug::ProtectWithoutFlush,
        Bug::RemoveWithoutFlush,
        Bug::ForkWithoutFlush,
        Bug::PushDownUpperFirst,
        Bug::PushDownNothing,
        Bug::TableFreedEarly,
        Bug::EnterInPlace,
        Bug::RightsOfLeafOnly,
        Bug::LostModified,
        Bug::PvLeftBehind,
        Bug::PromoteWithoutFlush,
        Bug::DemoteWithoutFlush,
        Bug::PromoteUnequal,
        Bug::LocalFlushOnly,
        Bug::AsidReusedWithoutFlush,
        Bug::CpusReadEarly,
    ];
}
