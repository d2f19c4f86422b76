//! Mutable fields of structures that live in arenas.
//!
//! Such a structure is reached by `&`, from every CPU; its fields are guarded by
//! locks that the type system does not know (the letters in the structure's
//! documentation). Relaxed loads and stores compile to plain moves, and a locking
//! mistake is a wrong value that a test can find, never undefined behaviour.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

macro_rules! field {
    ($name:ident, $atomic:ident, $int:ident) => {
        /// A relaxed cell; see the module text.
        #[derive(Debug, Default)]
        #[repr(transparent)]
        pub struct $name($atomic);

        impl $name {
            /// With a first value.
            pub const fn new(v: $int) -> Self {
                $name($atomic::new(v))
            }
            /// The value.
            #[inline]
            pub fn get(&self) -> $int {
                self.0.load(Relaxed)
            }
            /// Replaces the value.
            #[inline]
            pub fn set(&self, v: $int) {
                self.0.store(v, Relaxed);
            }
            /// Adds, under the field's lock (not one atomic step).
            #[inline]
            pub fn add(&self, v: $int) {
                self.set(self.get().wrapping_add(v));
            }
            /// Subtracts, under the field's lock (not one atomic step).
            #[inline]
            pub fn sub(&self, v: $int) {
                self.set(self.get().wrapping_sub(v));
            }
            /// The atomic itself, for the few fields that are protocols.
            #[inline]
            pub fn atomic(&self) -> &$atomic {
                &self.0
            }
        }
    };
}
field!(Field32, AtomicU32, u32);
field!(Field64, AtomicU64, u64);
