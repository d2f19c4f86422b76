//! Atomics and the body of a spin loop: the real ones, or loom's.

#[cfg(loom)]
pub(crate) use loom::{
    cell::UnsafeCell,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// `core`'s cell with the closure interface of loom's.
#[cfg(not(loom))]
#[derive(Debug)]
pub(crate) struct UnsafeCell<T>(core::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T> UnsafeCell<T> {
    pub(crate) const fn new(t: T) -> Self {
        UnsafeCell(core::cell::UnsafeCell::new(t))
    }
    pub(crate) fn get_mut_ptr(&self) -> *mut T {
        self.0.get()
    }
    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.0.get_mut()
    }
}

/// One turn of a spin loop. In user space the holder may not be running, so after
/// a while the CPU is given away.
pub(crate) fn relax(turn: &mut u32) {
    *turn = turn.saturating_add(1);
    #[cfg(loom)]
    loom::thread::yield_now();
    #[cfg(all(feature = "std", not(loom)))]
    if *turn > 64 {
        std::thread::yield_now();
    }
    core::hint::spin_loop();
}
