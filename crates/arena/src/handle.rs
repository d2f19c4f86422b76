//! Typed indices.

use core::marker::PhantomData;
use core::num::NonZeroU32;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// The index of a `T` in its slab, from one.
pub struct Handle<T>(NonZeroU32, PhantomData<fn() -> T>);

impl<T> Handle<T> {
    /// From the raw index.
    pub const fn from_raw(raw: NonZeroU32) -> Self {
        Handle(raw, PhantomData)
    }
    /// The raw index.
    pub const fn raw(self) -> NonZeroU32 {
        self.0
    }
    /// The raw index as a number.
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}
impl<T> Clone for Handle<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Handle<T> {}
impl<T> PartialEq for Handle<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl<T> Eq for Handle<T> {}
impl<T> PartialOrd for Handle<T> {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Handle<T> {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}
impl<T> core::hash::Hash for Handle<T> {
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}
impl<T> core::fmt::Debug for Handle<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// A field that holds `Option<Handle<T>>`; relaxed, as the fields of `machvm-sync`.
pub struct HandleField<T>(AtomicU32, PhantomData<fn() -> T>);

impl<T> HandleField<T> {
    /// Holding `h`.
    pub const fn new(h: Option<Handle<T>>) -> Self {
        let raw = match h {
            Some(h) => h.0.get(),
            None => 0,
        };
        HandleField(AtomicU32::new(raw), PhantomData)
    }
    /// The handle.
    #[inline]
    pub fn get(&self) -> Option<Handle<T>> {
        NonZeroU32::new(self.0.load(Relaxed)).map(Handle::from_raw)
    }
    /// Replaces the handle.
    #[inline]
    pub fn set(&self, h: Option<Handle<T>>) {
        self.0.store(h.map_or(0, Handle::get), Relaxed);
    }
    /// The atomic itself, for the few fields that are protocols; 0 is none.
    pub fn atomic(&self) -> &AtomicU32 {
        &self.0
    }
}
impl<T> Default for HandleField<T> {
    fn default() -> Self {
        Self::new(None)
    }
}
impl<T> core::fmt::Debug for HandleField<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.get().fmt(f)
    }
}
