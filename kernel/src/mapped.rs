//! What mappings are called: the tag of an entry leads to the file behind it.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;

use crate::fs::Inode;
use crate::mutex::Mutex;

/// A file that is, or was, mapped.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    /// Its path when it was mapped.
    pub(crate) path: String,
    /// Of its file system.
    pub(crate) device: u64,
    /// In there.
    pub(crate) inode: u64,
}

/// Mappings of System V segments: the number of the segment is in the lower half.
pub(crate) const SEGMENT: u64 = 1 << 63;
/// Shared anonymous memory.
pub(crate) const SHARED: u64 = 1 << 62;

static NAMES: Mutex<BTreeMap<u64, Named>> = Mutex::new(BTreeMap::new());

/// The tag for mappings of a file.
pub(crate) fn tag(inode: &Arc<Inode>, path: impl FnOnce() -> String) -> u64 {
    let (device, inode) = (inode.fs.device, inode.number);
    let tag = device << 40 | inode;
    NAMES.lock().entry(tag).or_insert_with(|| Named { path: path(), device, inode });
    tag
}

/// What a tag says.
pub(crate) fn named(tag: u64) -> Option<Named> {
    if tag & SEGMENT != 0 {
        let inode = tag & 0xffff_ffff;
        return Some(Named {
            path: alloc::format!("/SYSV{:08x} (deleted)", tag >> 32 & 0x3fff_ffff),
            device: 1,
            inode,
        });
    }
    if tag & SHARED != 0 {
        return Some(Named { path: "/dev/zero (deleted)".into(), device: 1, inode: tag & 0xffff_ffff });
    }
    NAMES.lock().get(&tag).cloned()
}
