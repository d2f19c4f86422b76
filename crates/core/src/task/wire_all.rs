//! `vm_wire_all` (U12).

use machvm_hal::{MaySleep, VaRange};

use super::{Task, VmWireError};
use crate::map::{Holes, MapFlags};
use crate::platform::Platform;

bitflags::bitflags! {
    /// `VM_WIRE_*`; none of them: let everything go.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct WireAllFlags: u32 {
        /// What is mapped now.
        const CURRENT = 1;
        /// What will be mapped.
        const FUTURE = 2;
    }
}

/// Why not everything is wired.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WireAllError {
    /// Unknown bits (`KERN_INVALID_ARGUMENT`).
    BadFlags(u32),
    /// What is mapped now could not be wired; nothing changed.
    Wire(VmWireError),
}

impl<P: Platform> Task<'_, '_, P> {
    /// Wires everything there is, everything to come, or nothing any more (U12). Memory
    /// without rights is passed over; while FUTURE is in force it is wired when
    /// [`Task::vm_protect`] gives it some.
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// [`WireAllError`]; FUTURE is as it was then.
    pub fn vm_wire_all(&self, flags: u32, may: &mut MaySleep) -> Result<(), WireAllError> {
        let flags = WireAllFlags::from_bits(flags).ok_or(WireAllError::BadFlags(flags))?;
        let Some(all) = VaRange::between(self.map.min(), self.map.max()) else { return Ok(()) };
        let future = MapFlags::WIREFUTURE;
        let failed = |e: crate::map::WireError| WireAllError::Wire(e.into());
        if flags.is_empty() {
            self.map.modflags(MapFlags::empty(), future, may);
            return self.map.unwire(all, self.how.wire.who, Holes::Skip, may).map_err(failed);
        }
        let before = self.map.flags(may) & future;
        if flags.contains(WireAllFlags::FUTURE) {
            self.map.modflags(future, MapFlags::empty(), may);
        }
        if !flags.contains(WireAllFlags::CURRENT) {
            return Ok(());
        }
        let done = self.map.wire(all, self.how.wire.who, Holes::Skip, may).map_err(failed);
        if done.is_err() {
            self.map.modflags(before, future, may);
        }
        done
    }
}
