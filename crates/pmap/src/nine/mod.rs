//! `pmap(9)` over page tables: the traits of [`machvm_hal::pmap9`].
//!
//! Nothing is decided here: each method is a call of the system's, with the pmap's
//! deferred gather (lazy methods) or one of its own that is finished before the method
//! returns (immediate ones). The only thing added is what the manual demands and a kernel
//! library must not do: [`Pmap9::pmap_enter`] without `PMAP_CANFAIL` panics.
//!
//! [`Pmap9::pmap_enter`]: machvm_hal::pmap9::Pmap9::pmap_enter

mod contents;
mod machine;
mod space;
#[cfg(test)]
mod tests;

use core::ops::Deref;

use machvm_hal::{PageArray, PhysMem};

use crate::handle::PtPmap;
use crate::port::Port;
use crate::system::{CreateError, System};

/// A machine: its pmaps, its pages, its memory.
///
/// `S` leads to the system (`&'static System<P>` in a kernel, an `Arc` in tests), `A` to
/// the page array, `M` to memory.
pub struct Nine<P: Port, S: Deref<Target = System<P>>, A, M> {
    sys: S,
    pages: A,
    mem: M,
}

/// One address space of a [`Nine`].
pub struct NinePmap<P: Port, S: Deref<Target = System<P>>, A> {
    pm: PtPmap<P, S>,
    pages: A,
}

impl<P, S, A, M> Nine<P, S, A, M>
where
    P: Port,
    S: Deref<Target = System<P>> + Clone + Sync,
    A: Deref<Target: PageArray + Sized> + Clone + Sync,
    M: Deref<Target: PhysMem + Sized> + Sync,
{
    /// Over a system. Makes what [`System::quick_enter`] needs.
    ///
    /// # Errors
    /// [`CreateError`]: no frame for a table.
    pub fn new(sys: S, pages: A, mem: M) -> Result<Self, CreateError> {
        sys.prepare_quick()?;
        Ok(Nine { sys, pages, mem })
    }
    /// All pmaps.
    pub fn system(&self) -> &System<P> {
        &self.sys
    }
    /// A pmap of the system that was made elsewhere.
    pub fn adopt(&self, pm: PtPmap<P, S>) -> NinePmap<P, S, A> {
        NinePmap { pm, pages: self.pages.clone() }
    }
}

impl<P: Port, S: Deref<Target = System<P>>, A> NinePmap<P, S, A> {
    /// The pmap as the core sees it.
    pub fn pmap(&self) -> &PtPmap<P, S> {
        &self.pm
    }
}

impl<P: Port, S: Deref<Target = System<P>>, A, M> core::fmt::Debug for Nine<P, S, A, M> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Nine")
    }
}
impl<P: Port, S: Deref<Target = System<P>>, A> core::fmt::Debug for NinePmap<P, S, A> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.pm.fmt(f)
    }
}
