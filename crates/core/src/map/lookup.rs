//! From addresses to entries (N05, M50 to M52).

use machvm_arena::Handle;
use machvm_hal::{MaySleep, Pindex, Prot, Va};

use super::entry::{Entry, EntryInfo};
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

    /// A snapshot of the entry that contains `va`.
    ///
    /// => as [`Map::lookup_entry`].
    pub(crate) fn lookup_inner(&self, inner: &MapInner, va: Va) -> Option<EntryInfo> {
        self.info_of(self.lookup_entry(inner, va)?)
    }

    pub(super) fn info_of(&self, h: Handle<Entry>) -> Option<EntryInfo> {
        let e = self.entry(h);
        Some(EntryInfo {
            range: e.range()?,
            kind: e.kind(),
            attributes: e.attributes(),
            flags: e.flags(),
            wired: e.wired.get(),
            object: e.object.get(),
            offset: Pindex(e.offset.get()),
        })
    }

    /// What an access at `va` finds (M50 `vm_map_lookup`): a snapshot, with nothing
    /// left locked (M52 is implied). The object is not referenced.
    ///
    /// # Errors
    /// [`LookupError`].
    pub fn lookup(&self, va: Va, access: Prot, may: &mut MaySleep) -> Result<EntryInfo, LookupError> {
        let inner = self.lock_read(may);
        let info = self.lookup_inner(&inner, va).ok_or(LookupError::Hole(va))?;
        if info.attributes.prot.hardware().contains(access) && !info.attributes.prot.is_empty() {
            Ok(info)
        } else {
            Err(LookupError::Protection(va))
        }
    }
}
