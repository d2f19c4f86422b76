//! Atomics, the cell and the body of a spin loop: the real ones, or loom's.
//!
//! Everything in this crate and in `machvm-arena` that two threads can meet on comes
//! from here, so a build with `--cfg loom` model-checks the code that ships.

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering, fence};

#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering, fence};

pub(crate) use imp::{Reading, UnsafeCell, Writing};

#[cfg(not(loom))]
mod imp {
    use core::marker::PhantomData;

    /// `core`'s cell. Access goes through [`Reading`] and [`Writing`], which cost
    /// nothing here and are what loom checks for overlap there.
    #[derive(Debug)]
    pub(crate) struct UnsafeCell<T>(core::cell::UnsafeCell<T>);

    /// A period of shared access.
    #[derive(Debug)]
    pub(crate) struct Reading<T>(PhantomData<*const T>);

    /// A period of exclusive access.
    #[derive(Debug)]
    pub(crate) struct Writing<T>(PhantomData<*const T>);

    impl<T> UnsafeCell<T> {
        pub(crate) const fn new(t: T) -> Self {
            UnsafeCell(core::cell::UnsafeCell::new(t))
        }
        #[inline]
        pub(crate) fn get_mut(&mut self) -> &mut T {
            self.0.get_mut()
        }
        #[inline]
        pub(crate) fn reading(&self) -> Reading<T> {
            Reading(PhantomData)
        }
        #[inline]
        pub(crate) fn writing(&self) -> Writing<T> {
            Writing(PhantomData)
        }
    }

    impl<T> Reading<T> {
        /// # Safety
        /// 1. `self` came from `cell`.
        /// 2. Nobody writes the contents while the result lives.
        #[inline]
        pub(crate) unsafe fn get<'a>(&self, cell: &'a UnsafeCell<T>) -> &'a T {
            // SAFETY: nobody writes (condition 2); the cell outlives the result.
            unsafe { &*cell.0.get() }
        }
        #[inline]
        pub(crate) fn end(&mut self) {}
    }

    impl<T> Writing<T> {
        /// # Safety
        /// 1. `self` came from `cell`.
        /// 2. Nobody writes the contents while the result lives.
        #[inline]
        pub(crate) unsafe fn get<'a>(&self, cell: &'a UnsafeCell<T>) -> &'a T {
            // SAFETY: nobody writes (condition 2); the cell outlives the result.
            unsafe { &*cell.0.get() }
        }
        /// # Safety
        /// 1. `self` came from `cell`.
        /// 2. No other reference to the contents exists while the result lives.
        #[expect(clippy::mut_from_ref, reason = "that is what a lock is for; condition 2")]
        #[inline]
        pub(crate) unsafe fn get_mut<'a>(&mut self, cell: &'a UnsafeCell<T>) -> &'a mut T {
            // SAFETY: the only reference (condition 2); the cell outlives the result.
            unsafe { &mut *cell.0.get() }
        }
        #[inline]
        pub(crate) fn end(&mut self) {}
    }
}

#[cfg(loom)]
mod imp {
    use loom::cell::{ConstPtr, MutPtr};

    /// Loom's cell behind the same interface.
    #[derive(Debug)]
    pub(crate) struct UnsafeCell<T>(loom::cell::UnsafeCell<T>);

    /// A period of shared access; loom panics when a write overlaps it.
    #[derive(Debug)]
    pub(crate) struct Reading<T>(Option<ConstPtr<T>>);

    /// A period of exclusive access; loom panics when any access overlaps it.
    #[derive(Debug)]
    pub(crate) struct Writing<T>(Option<MutPtr<T>>);

    impl<T> UnsafeCell<T> {
        pub(crate) fn new(t: T) -> Self {
            UnsafeCell(loom::cell::UnsafeCell::new(t))
        }
        pub(crate) fn get_mut(&mut self) -> &mut T {
            // SAFETY: `&mut self` makes this the only reference for as long as it lives.
            unsafe { &mut *self.0.with_mut(|p| p) }
        }
        pub(crate) fn reading(&self) -> Reading<T> {
            Reading(Some(self.0.get()))
        }
        pub(crate) fn writing(&self) -> Writing<T> {
            Writing(Some(self.0.get_mut()))
        }
    }

    impl<T> Reading<T> {
        /// # Safety
        /// As in the real build.
        pub(crate) unsafe fn get<'a>(&self, _cell: &'a UnsafeCell<T>) -> &'a T {
            match &self.0 {
                // SAFETY: the caller's conditions.
                Some(p) => p.with(|p| unsafe { &*p }),
                None => unreachable!("access after its end"),
            }
        }
        pub(crate) fn end(&mut self) {
            self.0 = None;
        }
    }

    impl<T> Writing<T> {
        /// # Safety
        /// As in the real build.
        pub(crate) unsafe fn get<'a>(&self, _cell: &'a UnsafeCell<T>) -> &'a T {
            match &self.0 {
                // SAFETY: the caller's conditions.
                Some(p) => p.with(|p| unsafe { &*p }),
                None => unreachable!("access after its end"),
            }
        }
        /// # Safety
        /// As in the real build.
        #[expect(clippy::mut_from_ref, reason = "as in the real build")]
        pub(crate) unsafe fn get_mut<'a>(&mut self, _cell: &'a UnsafeCell<T>) -> &'a mut T {
            match &self.0 {
                // SAFETY: the caller's conditions.
                Some(p) => p.with(|p| unsafe { &mut *p }),
                None => unreachable!("access after its end"),
            }
        }
        pub(crate) fn end(&mut self) {
            self.0 = None;
        }
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
