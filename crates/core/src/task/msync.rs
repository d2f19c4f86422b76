//! `vm_msync` (U29).

use machvm_hal::{MaySleep, PagerError, RawAddr, RawSize, Va, VaRange};

use super::Task;
use super::personality::Msync;
use super::raw::{Span, span};
use crate::map::{Advise, AdviseError, Kind, SyncError, SyncHow};
use crate::platform::Platform;

bitflags::bitflags! {
    /// `VM_SYNC_*`.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct SyncFlags: u32 {
        /// Write modified pages to their pagers; what those do with them is not waited for.
        const ASYNCHRONOUS = 1;
        /// Write modified pages and wait.
        const SYNCHRONOUS = 2;
        /// Forget pages; with one of the above, after writing them.
        const INVALIDATE = 4;
        /// Drop private contents without writing.
        const KILLPAGES = 8;
        /// Set pages aside.
        const DEACTIVATE = 0x10;
        /// A hole is reported, after everything else was done.
        const CONTIGUOUS = 0x20;
        /// As KILLPAGES, for contents that may come back as zeroes.
        const REUSABLEPAGES = 0x40;
    }
}

/// Why not all was synchronised.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MsyncError {
    /// Unknown flags, or both ways of writing (`KERN_INVALID_ARGUMENT`, Z86). Nothing
    /// was done.
    BadFlags(u32),
    /// Address and size do not fit together (`KERN_INVALID_ARGUMENT`).
    Wraps(u64),
    /// The call is there, but does nothing (Mach 3: `KERN_INVALID_ARGUMENT`).
    NotSupported,
    /// Nothing is mapped here, and a hole was to be reported (`KERN_INVALID_ADDRESS`).
    /// The rest was done.
    Hole(Va),
    /// Wired contents cannot be forgotten (`KERN_INVALID_ARGUMENT`, Z85).
    Wired(Va),
    /// No memory to separate shared contents (`KERN_RESOURCE_SHORTAGE`).
    NoMemory(Va),
    /// The pager failed here; the rest was done (`KERN_FAILURE`).
    Pager(Va, PagerError),
}

impl<P: Platform> Task<'_, '_, P> {
    /// Writes, forgets, drops or sets aside the pages of a range (U29). Holes are passed
    /// over; anonymous memory has nothing to write.
    ///
    /// => no lock is held; none while a pager works.
    ///
    /// # Errors
    /// [`MsyncError`].
    pub fn vm_msync(
        &self,
        addr: RawAddr,
        size: RawSize,
        flags: u32,
        may: &mut MaySleep,
    ) -> Result<(), MsyncError> {
        let both = SyncFlags::ASYNCHRONOUS | SyncFlags::SYNCHRONOUS;
        let known = SyncFlags::from_bits(flags).filter(|f| !f.contains(both));
        let flags = known.ok_or(MsyncError::BadFlags(flags))?;
        if size.0 != 0 && self.how.msync == Msync::Stub {
            return Err(MsyncError::NotSupported);
        }
        self.sync_range(addr, size, flags, may)
    }

    pub(super) fn sync_range(
        &self,
        addr: RawAddr,
        size: RawSize,
        flags: SyncFlags,
        may: &mut MaySleep,
    ) -> Result<(), MsyncError> {
        let range = match span(addr, size, self.how.overflow) {
            Span::Nothing => return Ok(()),
            Span::Wraps => return Err(MsyncError::Wraps(addr.0)),
            Span::Pages(r) => r,
        };
        let kill = flags.intersects(SyncFlags::KILLPAGES | SyncFlags::REUSABLEPAGES);
        let (mut at, mut hole, mut result) = (range.start(), None, Ok(()));
        while at < range.end() {
            // Submaps are looked through.
            let next = self.map.entry_through(at, may).map(|(e, _)| e);
            let next = next.filter(|e| e.range.start() < range.end());
            let start = next.map_or(range.end(), |e| e.range.start());
            if start > at {
                hole = hole.or(Some(at));
                // Contents are not dropped behind a hole.
                if kill && flags.contains(SyncFlags::CONTIGUOUS) {
                    break;
                }
            }
            let Some(e) = next else { break };
            if let (Kind::Object, Some(part)) = (e.kind, e.range.intersect(range)) {
                result = result.and(self.sync_part(part, flags, may));
            }
            at = e.range.end();
        }
        match hole {
            Some(va) if flags.contains(SyncFlags::CONTIGUOUS) => result.and(Err(MsyncError::Hole(va))),
            _ => result,
        }
    }

    /// => `part` was one entry's a moment ago.
    fn sync_part(&self, part: VaRange, flags: SyncFlags, may: &mut MaySleep) -> Result<(), MsyncError> {
        if flags.intersects(SyncFlags::KILLPAGES | SyncFlags::REUSABLEPAGES) {
            return self.map.madvise(part, Advise::Free, may).map(drop).map_err(|e| match e {
                AdviseError::Wired(va) => MsyncError::Wired(va),
                AdviseError::NoMemory(va) => MsyncError::NoMemory(va),
            });
        }
        let writes = SyncFlags::ASYNCHRONOUS | SyncFlags::SYNCHRONOUS;
        if flags.intersects(writes | SyncFlags::INVALIDATE) {
            let mut how = SyncHow::empty();
            how.set(SyncHow::INVALIDATE, flags.contains(SyncFlags::INVALIDATE));
            how.set(SyncHow::START, flags.contains(SyncFlags::ASYNCHRONOUS));
            match self.map.sync_as(part, how, may) {
                // Unmapped meanwhile.
                Ok(()) | Err(SyncError::Hole(_)) => {}
                Err(SyncError::Wired(va)) => return Err(MsyncError::Wired(va)),
                Err(SyncError::Pager(va, e)) => return Err(MsyncError::Pager(va, e)),
            }
        }
        if flags.contains(SyncFlags::DEACTIVATE) {
            self.map.deactivate(part, may);
        }
        Ok(())
    }
}
