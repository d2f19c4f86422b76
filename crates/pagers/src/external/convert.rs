//! What the core and the wire call by different names.

use machvm_hal::{CopyStrategy, PagerError, Prot};

use super::wire::Status;

/// The copy strategy with Mach's number.
pub(super) fn strategy(number: u32) -> Option<CopyStrategy> {
    Some(match number {
        0 => CopyStrategy::None,
        1 => CopyStrategy::Call,
        2 => CopyStrategy::Delay,
        3 => CopyStrategy::Temporary,
        4 => CopyStrategy::Symmetric,
        _ => return None,
    })
}
/// Mach's number of a copy strategy.
pub(super) fn strategy_number(copy: CopyStrategy) -> u32 {
    match copy {
        CopyStrategy::None => 0,
        CopyStrategy::Call => 1,
        CopyStrategy::Delay => 2,
        CopyStrategy::Temporary => 3,
        CopyStrategy::Symmetric => 4,
    }
}
/// Rights as they are on the wire.
pub(super) fn rights_number(p: Prot) -> u32 {
    [(Prot::R, 1), (Prot::W, 2), (Prot::X, 4)].iter().filter(|(r, _)| p.contains(*r)).map(|(_, n)| n).sum()
}
/// Rights from the wire.
pub(super) fn rights(number: u32) -> Prot {
    [(Prot::R, 1), (Prot::W, 2), (Prot::X, 4)]
        .iter()
        .filter(|(_, n)| number & n != 0)
        .fold(Prot::NONE, |all, (r, _)| all.union(*r))
}

/// A status as the core knows errors.
pub(super) fn pager_error(status: Status) -> PagerError {
    match status {
        Status::Beyond => PagerError::Beyond,
        Status::Gone | Status::Denied | Status::Unsupported | Status::Unknown => PagerError::Gone,
        _ => PagerError::Io,
    }
}
