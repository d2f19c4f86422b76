//! Faults on the memory of devices (G09, G14, G16).
//!
//! An object of a device has no pages: its pager names frames, and the fault maps them as they
//! are, unmanaged, as many as follow one another. Nothing is read, written, copied or paged out;
//! the mapping goes with its range of addresses, or when the pmap forgets it.

use machvm_hal::{EnterError, EnterFlags, Gather, MaySleep, PAGE_SHIFT, PagerError, Pmap};

use super::{CLUSTER, Place, Purpose, Step, WaitFor};
use crate::error::FaultError;
use crate::map::{Advice, Map};
use crate::object::Source;
use crate::platform::Platform;

impl<'vm, P: Platform> Map<'vm, P> {
    /// => the map is read locked.
    #[inline(never)]
    pub(super) fn enter_device(
        &self,
        at: &Place<'_>,
        source: Option<Source>,
    ) -> Result<Step<'vm>, FaultError> {
        let vm = self.vm();
        if at.purpose != Purpose::Access {
            return Err(FaultError::Foreign(at.va));
        }
        let pager = source.and_then(|s| Some((vm.plat.pager(s.pager)?, s.base)));
        let (pager, base) = pager.ok_or(FaultError::PagerGone(at.va))?;
        let offset = base.wrapping_add(at.index << PAGE_SHIFT);
        let most = if at.entry.advice() == Advice::Random { 1 } else { CLUSTER as u64 };
        let frames = pager.frames(offset, at.access).map_err(|e| match e {
            PagerError::Beyond => FaultError::Beyond(at.va),
            PagerError::Gone => FaultError::PagerGone(at.va),
            PagerError::Io => FaultError::PagerIo(at.va),
        })?;
        let frames = frames.part(0, most.min(at.end.page() - at.va.page()));
        let frames = frames.ok_or(FaultError::Beyond(at.va))?;
        let flags = if at.entry.keeps_mappings() { EnterFlags::WIRED } else { EnterFlags::empty() };
        let rights = at.entry.prot().hardware();
        for _ in 0..=frames.pages {
            let mut g = Gather::new();
            let done = self.pmap().enter_frames(&vm.pages, at.va, frames, rights, flags, &mut g);
            // Waits for other CPUs at most; no spin lock is held.
            vm.finish(g, &mut MaySleep::claim());
            match done {
                Ok(()) => return Ok(Step::Done),
                Err(EnterError::Displaced(_)) => {}
                Err(EnterError::NoMemory) => return Ok(Step::Wait(WaitFor::Memory)),
                // The machine has no way to map it.
                Err(EnterError::Foreign(va)) => return Err(FaultError::PagerGone(va)),
            }
        }
        Ok(Step::Again)
    }
}
