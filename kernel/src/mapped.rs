//! What mappings are called: the tag of an entry leads to the file behind it.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::{Arc, Weak};

use machvm::map::{Advise, EntryInfo, Inherit};
use machvm_hal::{MaySleep, PAGE_SIZE, Prot, VaRange};

use crate::fs::Inode;
use crate::mutex::Mutex;
use crate::process::{self, Space};

/// A file that is, or was, mapped.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    /// Its path when it was mapped, and whether it is still there.
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

/// The file behind a tag, and its path when it was mapped.
static NAMES: Mutex<BTreeMap<u64, (Weak<Inode>, String)>> = Mutex::new(BTreeMap::new());

/// The tag for mappings of a file.
pub(crate) fn tag(inode: &Arc<Inode>, path: impl FnOnce() -> String) -> u64 {
    let tag = tag_of(inode);
    NAMES.lock().entry(tag).or_insert_with(|| (Arc::downgrade(inode), path()));
    tag
}

fn tag_of(inode: &Inode) -> u64 {
    inode.fs.device << 40 | inode.number
}

/// The file of a tag, if anybody has it open or it has a name.
pub(crate) fn file_of(tag: u64) -> Option<Arc<Inode>> {
    NAMES.lock().get(&tag)?.0.upgrade()
}

/// Can anybody write to it through a shared mapping, now or after mprotect?
pub(crate) fn is_written(inode: &Inode) -> bool {
    let tag = tag_of(inode);
    let mut found = false;
    each(|_, e| {
        let a = &e.attributes;
        found |= a.tag == tag && a.inherit == Inherit::Share && a.max.contains(Prot::W);
    });
    found
}

/// A file was cut to `size` bytes: private copies of what was behind them go, too.
pub(crate) fn was_cut(inode: &Inode, size: u64) {
    let tag = tag_of(inode);
    if !NAMES.lock().contains_key(&tag) {
        return;
    }
    let first = size.div_ceil(PAGE_SIZE);
    each(|space, e| {
        let kept = first.saturating_sub(e.offset.0).min(e.range.pages());
        let start = e.range.start().add(kept);
        if e.attributes.tag == tag
            && e.attributes.inherit != Inherit::Share
            && let Some(gone) = VaRange::between(start, e.range.end())
        {
            // Locked pages stay.
            let _ = space.map().madvise(gone, Advise::DontNeed, &mut MaySleep::claim());
        }
    });
}

/// Calls `f` with all mappings of all processes. => nothing of the VM's is locked.
pub(crate) fn each(mut f: impl FnMut(&Space, &EntryInfo)) {
    for p in process::all(|_| true) {
        let Some(space) = p.hold_space() else { continue };
        let mut at = space.map().min();
        while let Some(e) = space.map().entry_from(at, &mut MaySleep::claim()) {
            at = e.range.end();
            f(&space, &e);
        }
        process::release(space);
    }
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
    let (inode, mut path) = NAMES.lock().get(&tag).cloned()?;
    if inode.upgrade().is_none_or(|i| i.attr().links == 0) {
        path.push_str(" (deleted)");
    }
    Some(Named { path, device: tag >> 40, inode: tag & ((1 << 40) - 1) })
}
