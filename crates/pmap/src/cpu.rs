//! What the system keeps for each CPU.

use core::sync::atomic::AtomicU64;

/// CPUs there can be: the bits of [`machvm_hal::CpuSet`].
pub(crate) const MAX_CPUS: usize = 64;

/// One CPU's.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct PerCpu {
    /// A frame of zeroes for the next table; 0: none. Swapped, so that a thread that
    /// moved meanwhile takes another CPU's and no harm is done. \[a\]
    pub(crate) spare: AtomicU64,
}

impl PerCpu {
    pub(crate) const fn new() -> Self {
        PerCpu { spare: AtomicU64::new(0) }
    }
}
