//! `vm_purgable_control` (U31).

use machvm_hal::{MaySleep, Prot, RawAddr, Va};

use super::Task;
use crate::map::{Detail, EntryInfo, Map};
use crate::object::{PurgeError, Purgeable};
use crate::platform::Platform;

/// `VM_PURGABLE_*` controls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum PurgableControl {
    /// Set the state, and give the old one.
    SetState = 0,
    /// Give the state.
    GetState = 1,
    /// Empty every volatile object of the system.
    PurgeAll = 2,
}

/// A state: what it is, and the bits of group and order that came with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PurgableState(pub u32);

impl PurgableState {
    /// `VM_PURGABLE_NONVOLATILE`.
    pub const NONVOLATILE: PurgableState = PurgableState(0);
    /// `VM_PURGABLE_VOLATILE`.
    pub const VOLATILE: PurgableState = PurgableState(1);
    /// `VM_PURGABLE_EMPTY`.
    pub const EMPTY: PurgableState = PurgableState(2);
    /// State, order, behaviour (FIFO or LIFO), group, debugging, no aging.
    const KNOWN: u32 = 3 | 1 << 4 | 1 << 5 | 1 << 6 | 7 << 8 | 3 << 12 | 1 << 16;

    /// Without the bits.
    pub fn state(self) -> Option<Purgeable> {
        match self.0 & 3 {
            0 => Some(Purgeable::NonVolatile),
            1 => Some(Purgeable::Volatile),
            2 => Some(Purgeable::Empty),
            // DENY.
            _ => None,
        }
    }
    /// The state, if nothing but what users may set comes with it.
    pub(super) fn known(self) -> Option<Purgeable> {
        self.state().filter(|_| self.0 & !PurgableState::KNOWN == 0)
    }
}

/// Why there is no state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PurgableError {
    /// There is no such control, or users may not use it (`KERN_INVALID_ARGUMENT`).
    BadControl(u32),
    /// Unknown bits, or DENY (`KERN_INVALID_ARGUMENT`).
    BadState(u32),
    /// Nothing is mapped here (`KERN_INVALID_ADDRESS`).
    Hole(Va),
    /// The memory cannot be written (`KERN_PROTECTION_FAILURE`). Not for GET.
    Protection(Va),
    /// It was not made purgeable (`KERN_INVALID_ARGUMENT`).
    NotPurgeable(Va),
}

impl<P: Platform> Task<'_, '_, P> {
    /// Sets or tells the state of the whole object at `addr`; gives the old state (U31,
    /// Z111). NONVOLATILE says by an old EMPTY that contents were lost.
    ///
    /// => no lock is held.
    ///
    /// # Errors
    /// [`PurgableError`]; nothing changed.
    pub fn vm_purgable_control(
        &self,
        addr: RawAddr,
        control: u32,
        state: PurgableState,
        may: &mut MaySleep,
    ) -> Result<PurgableState, PurgableError> {
        let vm = self.map.vm();
        match control {
            0 | 1 => {}
            2 => {
                vm.purge_volatile(u64::MAX, may);
                return Ok(PurgableState(0));
            }
            _ => return Err(PurgableError::BadControl(control)),
        }
        let set = control == PurgableControl::SetState as u32;
        let to = match (set, state.known()) {
            (true, None) => return Err(PurgableError::BadState(state.0)),
            (_, to) => to.unwrap_or(Purgeable::NonVolatile),
        };
        let va = Va::containing(addr);
        self.control(self.map, va, set.then_some((to, state.0)), may)
    }

    fn control(
        &self,
        map: &Map<'_, P>,
        va: Va,
        set: Option<(Purgeable, u32)>,
        may: &mut MaySleep,
    ) -> Result<PurgableState, PurgableError> {
        let (e, o) = map.object_at(va, may).ok_or(PurgableError::Hole(va))?;
        let vm = map.vm();
        let none = |PurgeError::NotPurgeable| PurgableError::NotPurgeable(va);
        let Some(o) = o else { return Err(PurgableError::NotPurgeable(va)) };
        let done = match set {
            Some(_) if !writable(&e) => Err(PurgableError::Protection(va)),
            Some((to, bits)) => vm.purge_set(o, to, bits, may).map_err(none),
            None => vm.purge_state(o, may).map_err(none),
        };
        vm.object_deallocate(o, may);
        done.map(PurgableState)
    }

    /// The raw state of what is at `va`, if it is purgeable.
    pub(super) fn purgeable_at(&self, va: Va, may: &mut MaySleep) -> Option<u32> {
        let here = self.map.region_from(va, Detail::Short, may)?.entry.range.contains(va);
        self.control(self.map, va, None, may).ok().filter(|_| here).map(|s| s.0)
    }
}

fn writable(e: &EntryInfo) -> bool {
    e.attributes.prot.contains(Prot::W)
}
