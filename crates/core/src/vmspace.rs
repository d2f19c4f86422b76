//! An address space that several parties refer to (`struct vmspace`, W01 to W09): the
//! process, and whoever looks at it from outside (a debugger, procfs).
//!
//! The storage is the embedder's (a static, an `Arc`): what is counted here is who wants the
//! *contents*. With the last reference they go, whatever still borrows the structure, and
//! from then on nobody gets a reference any more (Z38).
//!
//! Not here: sizes and addresses of text, data and stack, System V segments (W09): they say
//! what a process is made of, not what its memory is. A kernel thread that works in a space
//! (W06) holds a [`SpaceRef`].

use machvm_hal::{MaySleep, Pmap, VaRange};
use machvm_sync::{Field32, Refs};

use crate::map::{Detail, ForkError, Map, MapFlags};
use crate::platform::Platform;
use crate::vm::Vm;

/// See the module text.
///
/// Letters: \[I\] immutable, \[a\] atomic.
pub struct VmSpace<'vm, P: Platform> {
    /// Locks itself. \[I\]
    map: Map<'vm, P>,
    /// The process's reference and those of [`VmSpace::acquire_ref`]. \[a\]
    refs: Refs,
    /// 1 until the process's own reference went. \[a\]
    owned: Field32,
}

/// A reference from outside. The last one to go empties the space, which may sleep: drop it
/// with nothing locked.
#[must_use]
pub struct SpaceRef<'a, 'vm, P: Platform>(&'a VmSpace<'vm, P>);

impl<'vm, P: Platform> SpaceRef<'_, 'vm, P> {
    /// The map.
    pub fn map(&self) -> &Map<'vm, P> {
        &self.0.map
    }
}

impl<P: Platform> Drop for SpaceRef<'_, '_, P> {
    fn drop(&mut self) {
        self.0.put(&mut MaySleep::claim());
    }
}

/// Why there is no space of one's own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UnshareError<E> {
    /// There is no pmap for it.
    Pmap(E),
    /// The contents could not be copied.
    Fork(ForkError),
}

impl<'vm, P: Platform> VmSpace<'vm, P> {
    /// An empty space with one reference, the process's (W01 `vmspace_alloc`). Nothing is
    /// allocated: what can fail is making the pmap, before.
    pub fn alloc(vm: &'vm Vm<P>, pmap: P::Pmap, bounds: VaRange) -> Self {
        Self::of(Map::new(vm, pmap, bounds))
    }

    fn of(map: Map<'vm, P>) -> Self {
        VmSpace { map, refs: Refs::new(1), owned: Field32::new(1) }
    }

    /// The map (`vm_map`), for who has a reference.
    pub fn map(&self) -> &Map<'vm, P> {
        &self.map
    }

    /// References now; 0: its contents are gone for good.
    pub fn references(&self) -> u32 {
        self.refs.count()
    }

    /// A reference from outside (W05). `None`: the space is dead, or about to be: it never
    /// comes back to life (Z38).
    pub fn acquire_ref(&self) -> Option<SpaceRef<'_, 'vm, P>> {
        // Made only then: what is made is dropped.
        self.refs.try_get().then(|| SpaceRef(self))
    }

    /// The process lets go (W02 `vmspace_free`, W03 `vmspace_exit`; W04: there is no late
    /// stage). `leave` takes the CPU off this pmap and is called before anything is removed
    /// (Z39); nothing is removed while others hold references. Gives whether the contents
    /// went. Again: does nothing.
    ///
    /// => no lock is held.
    pub fn exit(&self, leave: impl FnOnce(), may: &mut MaySleep) -> bool {
        if self.owned.atomic().swap(0, core::sync::atomic::Ordering::AcqRel) == 0 {
            return false;
        }
        leave();
        self.put(may)
    }

    fn put(&self, may: &mut MaySleep) -> bool {
        let last = self.refs.put();
        if last {
            self.map.clear(may);
        }
        last
    }

    /// A space for another program (W07 `vmspace_exec`): `None`: this one, emptied, as nobody
    /// else refers to it and it has these bounds; else a new one, and the process installs it
    /// and then calls [`VmSpace::exit`] on this. Flags are as new; limits are kept.
    ///
    /// => no lock is held; the process runs one thread, and not in memory of this space.
    ///
    /// # Errors
    /// That of `pmap`; nothing changed.
    pub fn exec<E>(
        &self,
        bounds: VaRange,
        pmap: impl FnOnce() -> Result<P::Pmap, E>,
        may: &mut MaySleep,
    ) -> Result<Option<Self>, E> {
        let limits = self.map.limits(may);
        let same = VaRange::between(self.map.min(), self.map.max()) == Some(bounds);
        if same && self.references() == 1 {
            self.map.clear(may);
            self.map.modflags(MapFlags::empty(), MapFlags::all(), may);
            return Ok(None);
        }
        let new = Self::alloc(self.map.vm(), pmap()?, bounds);
        new.map.set_limits(limits, may);
        Ok(Some(new))
    }

    /// A private copy of a space that others use too (W07 `vmspace_unshare`). `None`: nobody
    /// does.
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// [`UnshareError`]; nothing changed.
    pub fn unshare<E>(
        &self,
        pmap: impl FnOnce() -> Result<P::Pmap, E>,
        may: &mut MaySleep,
    ) -> Result<Option<Self>, UnshareError<E>> {
        if self.references() == 1 {
            return Ok(None);
        }
        let pmap = pmap().map_err(UnshareError::Pmap)?;
        self.fork(pmap, may).map(Some).map_err(UnshareError::Fork)
    }

    /// A child's space by inheritance (W08 `vmspace_fork`, M62): see [`Map::fork`].
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// [`ForkError`]; nothing is left over.
    pub fn fork(&self, pmap: P::Pmap, may: &mut MaySleep) -> Result<Self, ForkError> {
        self.map.fork(pmap, may).map(Self::of)
    }

    /// Pages mapped now (W08 `vmspace_resident_count`).
    pub fn resident_count(&self) -> u64 {
        self.map.pmap().resident_count()
    }

    /// Pages of wired entries (W08 `vmspace_wired_count`).
    pub fn wired_count(&self, may: &mut MaySleep) -> u64 {
        let mut n = 0;
        self.map.for_each_entry(|e| n += if e.wired != 0 { e.range.pages() } else { 0 }, may);
        n
    }

    /// Pages on swap that only there have their contents (W08 `vmspace_swap_count`): those in
    /// the ranges mapped, counted one by one, so nothing need be apportioned. Of memory that is
    /// mapped twice each mapping counts.
    ///
    /// => no lock is held.
    pub fn swap_count(&self, may: &mut MaySleep) -> u64 {
        let (mut n, mut at) = (0, self.map.min());
        while let Some((f, _)) = self.map.region_through(at, Detail::Pages, may) {
            n += f.pages.swapped;
            at = f.entry.range.end();
        }
        n
    }
}
