//! From addresses to entries (N05, M50 to M54).

use machvm_arena::Handle;
use machvm_hal::{MaySleep, Pindex, Prot, Va};

use super::entry::{Entry, EntryInfo, Kind};
use super::through::{Read, Seen, info};
use super::{LookupError, Map, MapInner};
use crate::object::Object;
use crate::platform::Platform;

/// What an address and an access lead to, with the map read locked (M50 `vm_map_lookup`).
/// Dropping it is `vm_map_lookup_done` (M52).
#[must_use]
pub struct Lookup<'m, 'vm, P: Platform> {
    /// The entry, with the addresses of the map asked.
    pub entry: EntryInfo,
    /// The object; good while this lives. `None`: the machine's own mapping.
    pub object: Option<Handle<Object>>,
    /// Index in the object (of a foreign entry: in its file).
    pub pindex: Pindex,
    /// What the page may be mapped with now: less than the entry's where a write must
    /// first copy.
    pub prot: Prot,
    /// The entry is wired: whoever faults, faults for all of `prot` (Z93).
    pub wired: bool,
    _submap: Option<Read<'vm, P>>,
    map: Read<'m, P>,
}

impl<P: Platform> Lookup<'_, '_, P> {
    /// The map's timestamp, for [`Map::verify`] after this is gone (M54).
    pub fn timestamp(&self) -> u64 {
        self.map.version()
    }
}

impl<'vm, P: Platform> Map<'vm, P> {
    /// The entry that contains `va` (N05). Any address may be asked for.
    ///
    /// => the map is at least read locked; the entry is good as long as it is.
    #[inline]
    pub(crate) fn lookup_entry(&self, inner: &MapInner, va: Va) -> Option<Handle<Entry>> {
        inner.tree.containing(&self.vm.entries, va)
    }

    /// The entry that contains `va`, else the one just below (N05 `vm_map_lookup_entry`):
    /// which of both is told by its range. `None`: nothing is mapped at or below `va`. Any
    /// address may be asked for.
    ///
    /// => no lock is held.
    pub fn entry_at_or_below(&self, va: Va, may: &mut MaySleep) -> Option<EntryInfo> {
        let inner = self.lock_read(may);
        self.info_of(inner.tree.floor(&self.vm.entries, va)?)
    }

    pub(super) fn info_of(&self, h: Handle<Entry>) -> Option<EntryInfo> {
        info(self.entry(h))
    }

    /// What an access at `va` finds, through a submap if there is one: a snapshot, with
    /// nothing left locked and the addresses of this map. The object is not referenced.
    ///
    /// # Errors
    /// [`LookupError`].
    pub fn lookup(&self, va: Va, access: Prot, may: &mut MaySleep) -> Result<EntryInfo, LookupError> {
        let inner = self.lock_read(may);
        let seen = self.see(&inner, va, may).ok_or(LookupError::Hole(va))?;
        check(&seen, va, access)
    }

    /// As [`Map::lookup`], and the map stays read locked, the submap too (M50
    /// `vm_map_lookup`). Copies are made by the fault, so unlike the C function this changes
    /// nothing, whatever the access.
    ///
    /// => no lock is held; on success the map is read locked until the answer is dropped.
    ///
    /// # Errors
    /// [`LookupError`]; nothing is locked.
    pub fn lookup_held(
        &self,
        va: Va,
        access: Prot,
        may: &mut MaySleep,
    ) -> Result<Lookup<'_, 'vm, P>, LookupError> {
        let map = self.lock_read(may);
        let seen = self.see(&map, va, may).ok_or(LookupError::Hole(va))?;
        let entry = check(&seen, va, access)?;
        let object = seen.entry.object.get().filter(|_| entry.kind == Kind::Object);
        let pindex = Pindex(seen.pindex(va));
        let all = entry.attributes.prot.hardware();
        let prot = match object {
            Some(o) if self.vm.object_is_copied_at(o, pindex, may) => all - Prot::W,
            _ => all,
        };
        Ok(Lookup {
            object,
            pindex,
            prot,
            wired: entry.wired != 0,
            entry,
            _submap: seen.view.map(|(_, submap)| submap),
            map,
        })
    }

    /// As [`Map::lookup`] without waiting (M51 `vm_map_lookup_locked`, for who looks again
    /// under a lock). `None`: a map is locked by somebody else.
    ///
    /// # Errors
    /// [`LookupError`].
    pub fn try_lookup(&self, va: Va, access: Prot) -> Option<Result<EntryInfo, LookupError>> {
        let inner = self.trylock_read()?;
        let seen = self.try_see(&inner, va).ok()?;
        Some(seen.ok_or(LookupError::Hole(va)).and_then(|seen| check(&seen, va, access)))
    }
}

/// The entry, if it allows this access.
fn check<P: Platform>(seen: &Seen<'_, P>, va: Va, access: Prot) -> Result<EntryInfo, LookupError> {
    let entry = seen.info().ok_or(LookupError::Hole(va))?;
    let prot = entry.attributes.prot;
    if prot.hardware().contains(access) && !prot.is_empty() {
        Ok(entry)
    } else {
        Err(LookupError::Protection(va))
    }
}
