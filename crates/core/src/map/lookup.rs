//! From addresses to entries (N05, M50 to M52).

use machvm_arena::Handle;
use machvm_hal::{MaySleep, Prot, Va};

use super::entry::{Entry, EntryInfo};
use super::submap::info;
use super::{LookupError, Map, MapInner};
use crate::platform::Platform;

impl<P: Platform> Map<'_, P> {
    /// The entry that contains `va` (N05). Any address may be asked for.
    ///
    /// => the map is at least read locked; the entry is good as long as it is.
    #[inline]
    pub(crate) fn lookup_entry(&self, inner: &MapInner, va: Va) -> Option<Handle<Entry>> {
        inner.tree.containing(&self.vm.entries, va)
    }

    pub(super) fn info_of(&self, h: Handle<Entry>) -> Option<EntryInfo> {
        info(self.entry(h))
    }

    /// What an access at `va` finds (M50 `vm_map_lookup`), through a submap if there is one:
    /// a snapshot, with nothing left locked (M52 is implied) and the addresses of this map.
    /// The object is not referenced.
    ///
    /// # Errors
    /// [`LookupError`].
    pub fn lookup(&self, va: Va, access: Prot, may: &mut MaySleep) -> Result<EntryInfo, LookupError> {
        let inner = self.lock_read(may);
        let seen = self.see(&inner, va, may);
        let info = seen.and_then(|s| s.info()).ok_or(LookupError::Hole(va))?;
        if info.attributes.prot.hardware().contains(access) && !info.attributes.prot.is_empty() {
            Ok(info)
        } else {
            Err(LookupError::Protection(va))
        }
    }
}
