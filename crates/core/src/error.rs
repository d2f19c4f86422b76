//! Errors of the core that are not tied to one map operation.

use machvm_hal::Va;

/// Why a fault was not resolved (F01).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultError {
    /// Nothing is mapped at the address (`KERN_INVALID_ADDRESS`, SEGV_MAPERR).
    NoMapping(Va),
    /// Mapped, but not for this access (`KERN_PROTECTION_FAILURE`, SEGV_ACCERR).
    Protection(Va),
    /// A mapping of the machine's own: the core has no contents for it.
    Foreign(Va),
    /// The page lies beyond the end of the data (`KERN_OUT_OF_BOUNDS`, SIGBUS).
    Beyond(Va),
    /// The pager could not read it (`KERN_MEMORY_ERROR`, SIGBUS).
    PagerIo(Va),
    /// The pager is gone (`KERN_MEMORY_FAILURE`, SIGBUS).
    PagerGone(Va),
    /// Every frame is in use and nothing could be paged out.
    NoMemory(Va),
}

impl FaultError {
    /// The page concerned.
    pub fn va(self) -> Va {
        match self {
            FaultError::NoMapping(v)
            | FaultError::Protection(v)
            | FaultError::Foreign(v)
            | FaultError::Beyond(v)
            | FaultError::PagerIo(v)
            | FaultError::PagerGone(v)
            | FaultError::NoMemory(v) => v,
        }
    }
}
