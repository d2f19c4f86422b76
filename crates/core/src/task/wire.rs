//! `vm_wire` (U11, Z124).

use machvm_hal::{MaySleep, PAGE_SIZE, Prot, RawAddr, RawSize, Va, VaRange};

use super::Task;
use super::raw::{RawProt, Span, span};
use crate::FaultError;
use crate::map::{CopyWhy, Holes, WireError};
use crate::platform::Platform;

/// Why nothing was wired, or let go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VmWireError {
    /// Bits that are no rights (`KERN_INVALID_ARGUMENT`).
    BadAccess(u32),
    /// Address and size do not fit together (`KERN_INVALID_ARGUMENT`).
    Wraps(u64),
    /// More than a caller without privilege may wire (Mach 3: `KERN_NO_ACCESS`).
    Unprivileged(u64),
    /// Nothing is mapped here (Mach 3: `KERN_NO_SPACE`; XNU: `KERN_INVALID_ADDRESS`).
    Hole(Va),
    /// The access is not allowed here (Mach 3: `KERN_NO_SPACE`; XNU:
    /// `KERN_PROTECTION_FAILURE`).
    Protection(Va),
    /// Wired as often as can be counted (`KERN_FAILURE`).
    TooOften(Va),
    /// A submap: it is wired as a map of its own (`KERN_INVALID_ARGUMENT`).
    Submap(Va),
    /// No memory for entries (`KERN_RESOURCE_SHORTAGE`).
    NoMemory(Va),
    /// A page could not be had (`KERN_FAILURE`; `KERN_RESOURCE_SHORTAGE` where memory is
    /// short). What this call wired is undone.
    Fault(FaultError),
}

impl From<WireError> for VmWireError {
    fn from(e: WireError) -> Self {
        match e {
            WireError::Hole(va) => VmWireError::Hole(va),
            WireError::NoAccess(va) | WireError::NotWired(va) => VmWireError::Protection(va),
            WireError::Submap(va) => VmWireError::Submap(va),
            WireError::NoMemory(va) => VmWireError::NoMemory(va),
            WireError::Fault(f) => VmWireError::Fault(f),
        }
    }
}

impl<P: Platform> Task<'_, '_, P> {
    /// Brings a range into memory and keeps it there, or with no access lets it go (U11).
    /// Whether wirings are counted is the personality's choice.
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// [`VmWireError`]; what this call did is undone.
    pub fn vm_wire(
        &self,
        addr: RawAddr,
        size: RawSize,
        access: RawProt,
        privileged: bool,
        may: &mut MaySleep,
    ) -> Result<(), VmWireError> {
        let access_ = access.check(0).ok_or(VmWireError::BadAccess(access.0))?;
        let range = match span(addr, size, self.how.overflow) {
            Span::Nothing => return Ok(()),
            Span::Wraps => return Err(VmWireError::Wraps(addr.0)),
            Span::Pages(r) => r,
        };
        let wire = self.how.wire;
        if access_.is_empty() {
            let start = VaRange::page(range.start());
            self.check(start, Prot::NONE, may)
                .or_else(|e| if matches!(e, VmWireError::Protection(_)) { Ok(()) } else { Err(e) })?;
            return Ok(self.map.unwire(range, wire.who, wire.unwire_holes, may)?);
        }
        self.check(range, access_, may)?;
        if let Some(most) = wire.unprivileged.filter(|_| !privileged) {
            let (wired, _) = self.wirings(range, may);
            let total = wired.saturating_add(range.pages()).saturating_mul(PAGE_SIZE);
            if total > most {
                return Err(VmWireError::Unprivileged(total));
            }
        }
        if let (_, Some(at)) = self.wirings(range, may) {
            return Err(VmWireError::TooOften(at));
        }
        Ok(self.map.wire(range, wire.who, Holes::Refuse, may)?)
    }

    fn check(&self, range: VaRange, access: Prot, may: &mut MaySleep) -> Result<(), VmWireError> {
        match self.map.check_access(range, access, may) {
            // The machine's own mappings are passed over.
            Ok(()) | Err((_, CopyWhy::Foreign)) => Ok(()),
            Err((at, CopyWhy::Hole)) => Err(VmWireError::Hole(at)),
            Err((at, _)) => Err(VmWireError::Protection(at)),
        }
    }

    /// Pages of the map outside `range` that are wired, and where in it one more wiring
    /// cannot be counted.
    fn wirings(&self, range: VaRange, may: &mut MaySleep) -> (u64, Option<Va>) {
        let (mut pages, mut full) = (0, None);
        let most = self.how.wire.most;
        self.map.for_each_entry(
            |e| {
                let part = e.range.intersect(range);
                if e.wired != 0 {
                    pages += e.range.pages() - part.map_or(0, VaRange::pages);
                }
                if let Some(p) = part.filter(|_| e.wired >= most) {
                    full = full.or(Some(p.start()));
                }
            },
            may,
        );
        (pages, full)
    }
}
